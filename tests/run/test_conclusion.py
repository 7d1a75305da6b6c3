"""One verdict: no path from a failure, or from a part that was not run, to FOR RELEASE."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_unlearn.run.result import GateFact, concluded


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
