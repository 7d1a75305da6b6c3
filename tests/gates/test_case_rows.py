"""Rows travel as JSON text; a task of several samples counts as the part that its pass@k is."""

from __future__ import annotations

import pytest

from pytest_unlearn.gates.case_rows import TaskRow, from_json, to_json
from pytest_unlearn.gates.gate import parse_gate
from pytest_unlearn.gates.verdicts import Measured, Verdict, judge

PASS, FAIL = "passed", "wrong_answer"


def row(name: str, base: int, tested: int, n: int = 4, k: int = 1) -> TaskRow:
    """A task of which so many of n samples pass."""

    def statuses(passed: int) -> tuple[str, ...]:
        return (FAIL,) * (n - passed) + (PASS,) * passed

    before, after = statuses(base), statuses(tested)
    return TaskRow(name, name, before[0], after[0], before, after, (k, n))


def test_rows_survive_json() -> None:
    full = TaskRow(
        "a-1", "a", PASS, FAIL, (PASS, FAIL), (FAIL, FAIL), (1, 2), "mine", 1.0, 0.5, 0.0, 0.5
    )
    assert from_json(to_json(full)) == full
    scored = TaskRow("a", "a", PASS, PASS, base_loss=(3.5, 7), unlearned_loss=None)
    assert from_json(to_json(scored)) == scored


def test_pass_at_k_of_a_row() -> None:
    """By hand: 1 of 4 pass; of two drawn at least one passes in half of the pairs."""
    one = row("a", base=1, tested=0)
    assert one.pass_at("base") == pytest.approx(0.25)
    assert one.pass_at("base", 2) == pytest.approx(0.5)
    assert one.pass_at("unlearned", 4) == 0.0
    assert not one.solved
    assert row("a", base=0, tested=1).solved
    assert TaskRow("a", "a", PASS, FAIL).pass_at("base") == 1.0


@pytest.mark.parametrize(("k", "verdict"), [(1, Verdict.FAIL), (4, Verdict.PASS)])
def test_the_gate_judges_the_first_k(k: int, verdict: Verdict) -> None:
    """Half of the samples lost: pass@1 halves, and pass@4 is what it was."""
    rows = [row(f"t{i}", base=4, tested=2, k=k) for i in range(100)]
    measured = Measured(rows, rows, {r.id for r in rows}, two_states=True)
    assert judge(parse_gate("passk.retained>=90%"), measured).verdict is verdict
