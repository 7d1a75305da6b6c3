"""Rows travel as JSON text; a task of several samples counts as the part that its pass@k is."""

from __future__ import annotations

import math

import pytest

from pytest_unlearn.gates.case_rows import AttackRow, ProbeRow, TaskRow, from_json, to_json
from pytest_unlearn.gates.gate import parse_gate
from pytest_unlearn.gates.verdicts import Measured, Verdict, judge
from pytest_unlearn.leaks.exact import RankedExposure
from tests.support.golden_rows import ROWS

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


@pytest.mark.parametrize("kind", ROWS)
def test_the_text_of_a_row_is_frozen(kind: str) -> None:
    """Saved runs of earlier versions are read, and written again byte for byte."""
    assert to_json(from_json(ROWS[kind])) == ROWS[kind]


def test_the_log_of_zero_and_exposure_that_was_not_asked_for() -> None:
    """The log of 0 is null in JSON; exposure is null for a kind without decoys, else left out."""
    probe, attack = from_json(ROWS["probe"]), from_json(ROWS["attack"])
    assert isinstance(probe, ProbeRow)
    assert isinstance(attack, AttackRow)
    known, silent, brought = probe.base_exact, probe.unlearned_exact, attack.unlearned_exact
    assert known
    assert silent
    assert brought
    assert known.exposure == RankedExposure(bits=10.0, rank=1, size=1024)
    assert (silent.log_probability, silent.n_for_half) == (-math.inf, math.inf)
    assert (silent.exposure, silent.ranked, brought.ranked) == (None, True, False)
    assert (probe.base.relation, probe.sampled("base")) == ("own", (3, 8))
    with pytest.raises(TypeError, match="where an object belongs"):
        from_json(ROWS["attack"].replace('"base": {"label": "direct"}', '"base": "direct"'))


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
    measured = Measured(rows, rows, {r.id for r in rows}, two_states=True, confidence=0.95)
    assert judge(parse_gate("passk.retained>=90%"), measured).verdict is verdict
