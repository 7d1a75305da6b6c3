"""One verdict: no path from a failure, or from a part that was not run, to FOR RELEASE."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_unlearn.run.result import GateFact, concluded, grounds
from tests.support.lookup_run import UnlearnRun


def gate(verdict: str, blocks: bool = False, **more: Any) -> tuple[str, GateFact]:
    return "leak", GateFact("leak", "leak<=0", "<=0", verdict, blocks, 9, "", "", "", **more)


@pytest.mark.parametrize(
    ("gates", "failures", "left_out", "verdict", "why"),
    [
        ([gate("PASS")], [], [], "FOR RELEASE", "every gate passed (no gate on ability or degen"),
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
        (["leak.worst"], ["int8", "nf4"], [], "withstood int8, nf4: all <=5%"),
        (
            ["leak.worst", "leak.at(1000)"],
            ["int4", "relearn", "linear-probe"],
            ["nf4"],
            "withstood int4, relearn 40 steps, 1,000 samples: all <=5%; "
            "no gate judges linear-probe; not tried: nf4",
        ),
        (["states.auc"], ["linear-probe"], [], "withstood linear-probe (<=5%)"),
        (
            ["gap.states", "leak.at(9)[attack=int8]"],
            ["int8"],
            [],
            "withstood int8 in 9 samples (<=5%)",
        ),
        (
            ["leak.worst", "leak.worst.at(1000)", "leak.at(1000)"],
            ["int8", "clues"],
            [],
            "withstood int8, clues, 1,000 samples, 1,000 samples after each: all <=5%",
        ),
        (
            ["leak.worst.at(1000)"],
            ["int8", "partly"],
            [],
            "withstood 1,000 samples after each (<=5%); no gate judges partly",
        ),
        (
            ["leak.worst[kind=email]"],
            ["int8"],
            [],
            "withstood int8 [kind=email] (<=5%); no gate judges all of int8",
        ),
        (
            ["leak.at(1000)", "leak.direct[attack=int8]"],
            ["int8", "nf4"],
            ["fp4"],
            "withstood int8, 1,000 samples: all <=5%; no gate judges nf4; not tried: fp4",
        ),
        (
            ["leak.direct[kind=email,attack=relearn@5]"],
            ["relearn"],
            [],
            "withstood relearn@5 [kind=email] (<=5%); no gate judges all of relearn",
        ),
        (["leak.direct"], ["int8"], [], "no gate judges int8"),
    ],
)
def test_what_a_release_rests_on(gates: Any, tried: Any, untried: Any, words: str) -> None:
    assert grounds(map(named, gates), tried, untried) == words
    assert concluded(passed("passk.drop", "degenerate.rate"), rests_on=words) == (
        "FOR RELEASE",
        f"every gate passed; {words}",
    )


def test_a_gate_that_did_not_pass_is_no_ground() -> None:
    failed = [named("leak.worst", "UNDECIDED"), named("leak.direct")]
    assert grounds(failed, ["int8"], []) == "no gate judges int8"


def passed(*names: str) -> list[tuple[str, GateFact]]:
    return [
        (f"tiny {name}", GateFact(name, f"{name}<=1%", "<=1%", "PASS", False, 9, "", "", ""))
        for name in names
    ]


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["leak.direct"], "every gate passed (no gate on ability or degenerate answers)"),
        (["leak.direct", "passk.drop"], "every gate passed (no gate on degenerate answers)"),
        (["degenerate.rate[kind=email]"], "every gate passed (no gate on ability)"),
        (["passk.rehearsed", "degenerate.rate"], "every gate passed (no gate on ability)"),
        (["leak.at(10)", "passk.rate", "degenerate.rate"], "every gate passed"),
    ],
)
def test_gates_that_a_broken_model_needs_are_missed(names: list[str], why: str) -> None:
    assert concluded(passed(*names)) == ("FOR RELEASE", why)


def test_the_best_of_many_is_said() -> None:
    gates = passed("passk.drop", "degenerate.rate")
    why = "every gate passed (best of 19 models judged on these people and tasks)"
    assert concluded(gates, models_judged=19) == ("FOR RELEASE", why)
    assert concluded(gates, ["t.py::own"], models_judged=19)[0] == "NOT FOR RELEASE"


def test_the_store_knows_how_many_were_tried(unlearn_run: UnlearnRun) -> None:
    """Another seed or method is another try; other gates and the same model again are none."""
    unlearn_run.lookup()
    gate = "--unlearn-gate=leak.direct<=60%"
    for flags, best in (
        ((), ""),
        ((), ""),
        (("--unlearn-gate=leak.indirect<=60%",), ""),
        (("--unlearn-seed=7",), "; best of 2 models judged"),
        (("--unlearn-method=ga+gd",), "; best of 3 models judged"),
        ((), "; best of 3 models judged"),
    ):
        result = unlearn_run(gate, *flags, "-q", "--unlearn-report=summary")
        (line,) = (line for line in result.outlines if line.startswith("FOR RELEASE"))
        assert best in line
        assert ("best of" in line) is bool(best)
    facts = json.loads((unlearn_run.pytester.path / "unlearn-summary.json").read_text())
    assert facts["run"]["models_judged"] == 3
