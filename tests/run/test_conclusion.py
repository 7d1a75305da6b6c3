"""One verdict: no path from a failure, or from a part that was not run, to FOR RELEASE."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_unlearn.run.result import GateFact, concluded, grounds


def gate(verdict: str, blocks: bool = False, **more: Any) -> tuple[str, GateFact]:
    return "leak", GateFact("leak", "leak<=0", "<=0", verdict, blocks, 9, "", "", "", **more)


@pytest.mark.parametrize(
    ("gates", "failures", "left_out", "verdict", "why"),
    [
        ([gate("PASS")], [], [], "FOR RELEASE", "every gate passed"),
        ([gate("PASS")], ["t.py::own"], [], "NOT FOR RELEASE", "1 test failed (t.py::own)"),
        ([], ["t.py::own"], [], "NOT FOR RELEASE", "1 test failed"),
        ([gate("PASS")], list("abcde"), [], "NOT FOR RELEASE", "(a, b, c and 2 more)"),
        ([gate("FAIL", True)], [], ["tiny/ga"], "NOT FOR RELEASE", "leak FAIL"),
        ([gate("PASS")], [], ["tiny/ga"], "NO VERDICT", "not run: tiny/ga"),
        ([], [], [], "NO VERDICT", "no case was run"),
        ([gate("PASS"), gate("NOT EVALUATED")], [], [], "NO VERDICT", "1 of 2 gates"),
        ([gate("UNDECIDED")], [], [], "NO VERDICT", "let through"),
        ([gate("PASS", rehearsed=True)], [], [], "FOR RELEASE", "only on what unlearning trained"),
    ],
)
def test_one_verdict(gates: Any, failures: Any, left_out: Any, verdict: str, why: str) -> None:
    found, reason = concluded(gates, failures, left_out)
    assert found == verdict
    assert why in reason


def named(name: str, verdict: str = "PASS") -> GateFact:
    return GateFact(name, name, "<=5%", verdict, False, 60, "", "", "")


@pytest.mark.parametrize(
    ("gates", "tried", "untried", "words"),
    [
        (["leak.direct"], [], ["int8"], "no attack was tried (--unlearn-attacks=cheap tries some)"),
        (["leak.worst"], ["int8", "nf4"], [], "withstood int8, nf4"),
        (
            ["leak.at(1000)", "leak.direct[attack=int8]"],
            ["int8", "nf4"],
            ["fp4"],
            "withstood int8, 1,000 samples; no gate judges nf4; not tried: fp4",
        ),
        (["leak.direct[kind=email,attack=relearn@5]"], ["relearn"], [], "withstood relearn"),
        (["leak.direct"], ["int8"], [], "no gate judges int8"),
    ],
)
def test_what_a_release_rests_on(gates: Any, tried: Any, untried: Any, words: str) -> None:
    assert grounds(map(named, gates), tried, untried) == words
    assert concluded([gate("PASS")], rests_on=words) == (
        "FOR RELEASE",
        f"every gate passed; {words}",
    )


def test_a_gate_that_did_not_pass_is_no_ground() -> None:
    failed = [named("leak.worst", "UNDECIDED"), named("leak.direct")]
    assert grounds(failed, ["int8"], []) == "no gate judges int8"
