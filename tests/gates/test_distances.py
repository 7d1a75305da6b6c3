"""Gates on AUCs and on the distance from a retrained model: both ways, with an interval."""

from __future__ import annotations

import pytest

from pytest_unlearn.gates.case_rows import Row, from_json, to_json
from pytest_unlearn.gates.gate import GateError, parse_gate
from pytest_unlearn.gates.planning import plan_gate
from pytest_unlearn.gates.saved_runs import parse_change
from pytest_unlearn.gates.verdicts import GateResult, Measured, fails_whatever, judge_gate
from tests.support.distance_rows import PEOPLE, people, probe, under


def verdict(text: str, rows: list[Row], seen: int | None = None) -> GateResult:
    ids = {row.id for row in rows[:seen]}
    measured = Measured(
        [r for r in rows if r.id in ids], rows, ids, two_states=True, confidence=0.95
    )
    return judge_gate(parse_gate(text), measured)


@pytest.mark.parametrize("shift", [-3.0, 3.0])
def test_people_stand_out_by_low_and_by_high_scores(shift: float) -> None:
    """A value far less likely than a stranger's tells as much as one that is too likely."""
    result = verdict("membership.auc<=0.65", people(shift))
    assert (result.verdict.value, result.observed) == ("FAIL", "1.00")
    result = verdict("gap.membership<=0.2", people(shift))
    assert result.verdict.value == "FAIL"


def test_a_model_that_shows_what_a_retrained_one_shows() -> None:
    rows = people(seed=3)
    for gate in ("membership.auc<=0.7", "gap.membership<=0.1", "gap.leak(1000)<=5%"):
        assert verdict(gate, rows).verdict.value == "PASS", gate
    assert verdict("gap.membership<=0.1", rows).observed == "0.00"
    assert verdict("gap.exposure<=5%", rows).verdict.value == "PASS"


def test_what_is_between_is_undecided() -> None:
    result = verdict("membership.auc<=0.65", people(-0.25))
    assert result.verdict.value == "UNDECIDED"
    assert result.n == PEOPLE


def test_more_than_a_retrained_model_says_is_a_distance() -> None:
    result = verdict("gap.leak(1000)<=5%", people(-4.4))
    assert result.verdict.value == "FAIL"
    assert "against 0.0%" in result.observed


def test_without_a_retrained_model_no_distance_is_judged() -> None:
    rows = people(retrained=False)
    result = verdict("gap.leak(1000)<=5%", rows)
    assert (result.verdict.value, result.blocks) == ("NOT EVALUATED", True)
    assert "--unlearn-retrained" in result.advice
    assert verdict("membership.auc<=0.7", rows).verdict.value == "PASS"


def test_without_control_people_nobody_is_told_apart() -> None:
    rows = [row for row in people() if getattr(row, "split", "") == "forget"]
    result = verdict("membership.auc<=0.65", rows)
    assert (result.verdict.value, result.blocks) == ("NOT EVALUATED", True)


def test_a_base_that_shows_nothing_proves_nothing() -> None:
    """Where base and retrained model are alike, so is a tested model that did nothing."""
    rows: list[Row] = [
        probe(split, n, 5.0 + n / 100, 5.0 + n / 100, 5.0 + n / 100)
        for split in ("forget", "control")
        for n in range(PEOPLE)
    ]
    for gate in ("gap.leak(1000)<=5%", "gap.membership<=0.1", "membership.auc<=0.7"):
        assert verdict(gate, rows).verdict.value == "NOT EVALUATED", gate


def test_a_part_of_the_people_decides_nothing() -> None:
    """The others can move ranks, and differences, either way."""
    rows = people(-3.0)
    for gate in ("membership.auc<=0.65", "gap.leak(1000)<=5%"):
        assert verdict(gate, rows, seen=30).verdict.value == "NOT EVALUATED"
        measured = Measured(
            rows[:30], rows, {row.id for row in rows[:30]}, two_states=True, confidence=0.95
        )
        assert not fails_whatever(parse_gate(gate), measured)


def test_the_lens_is_judged_at_its_worst_layer_beyond_chance() -> None:
    """A quarter of the tokens is chance, as control people show, and no fault of theirs."""
    rows = [*people(), *under("lens@25", 0.25, 0.25), *under("lens@50", 0.60, 0.25)]
    result = verdict("lens.share<=20%", rows)
    assert result.verdict.value == "FAIL"
    assert result.observed == "60.00%, chance 25.00% by lens@50"
    result = verdict("gap.lens<=20%", rows)
    assert (result.verdict.value, result.observed.rpartition(" by ")[2]) == ("FAIL", "lens@50")
    assert verdict("lens.share[attack=lens@25]<=20%", rows).verdict.value == "PASS"


def test_a_linear_probe_is_no_leak_of_a_value() -> None:
    """It counts for its own metric alone, and never among the attacks that values withstood."""
    rows = [*people(), *under("linear-probe@50", 0.9, 0.0), *under("int4", 0.0, 0.0)]
    assert verdict("leak.worst<=10%", rows).observed.endswith("by int4")
    assert verdict("states.auc<=0.65", rows).verdict.value == "FAIL"
    assert verdict("gap.states<=0.2", rows).verdict.value == "FAIL"
    alike = [*people(), *under("linear-probe@50", 0.0, 0.0)]
    assert verdict("states.auc<=0.65", alike).verdict.value == "PASS"
    assert verdict("gap.states<=0.1", alike).verdict.value == "PASS"
    with pytest.raises(GateError, match=r"states\.auc"):
        parse_gate("leak.direct[attack=linear-probe]<=5%")


def test_relearning_is_compared_at_each_step() -> None:
    rows = [*people(), *under("relearn@1", 0, 0), *under("relearn@20", 0, 0)]
    assert verdict("gap.relearn(100)<=10%", rows).verdict.value == "NOT EVALUATED"  # base as silent
    with pytest.raises(GateError, match="attack= restricts"):
        parse_gate("gap.relearn(100)[attack=int4]<=10%")


def test_a_limit_on_an_auc_is_above_chance() -> None:
    with pytest.raises(GateError, match="is chance"):
        parse_gate("membership.auc<=0.5")
    plan = plan_gate(parse_gate("membership.auc<=0.65"), people(), 0.95)
    assert (plan.units, plan.needed) == (PEOPLE, 21)


def test_distances_have_no_change_since_a_saved_run() -> None:
    with pytest.raises(GateError, match="compares models or people"):
        parse_change("gap.leak(1000):+1%")


def test_rows_travel_as_text() -> None:
    for row in [*people()[:1], *under("linear-probe@50", 1, 0)[:1]]:
        assert from_json(to_json(row)) == row
