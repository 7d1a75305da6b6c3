"""Gates over attacks: one state at a time, the worst of all, never one that was not made."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pytest_unlearn.gates.case_rows import (
    ATTACK_PROPERTY,
    Row,
    from_json,
    row_data,
    rows_in,
    to_json,
)
from pytest_unlearn.gates.estimates import shares
from pytest_unlearn.gates.gate import GateError, concerns, parse_gate
from pytest_unlearn.gates.planning import plan_gate
from pytest_unlearn.gates.saved_runs import parse_change
from pytest_unlearn.gates.verdicts import (
    GateResult,
    Measured,
    fails_whatever,
    judge_gate,
)
from tests.support.attack_rows import attacked, probes


def measured(rows: list[Row], seen: int | None = None) -> Measured:
    ids = [row.id for row in rows][:seen]
    return Measured(
        [r for r in rows if r.id in ids], rows, set(ids), two_states=True, confidence=0.95
    )


def verdict(text: str, *rows: Row, seen: int | None = None) -> GateResult:
    return judge_gate(parse_gate(text), measured(list(rows), seen))


def test_each_attack_is_counted_by_itself() -> None:
    rows = [*probes(), *attacked("int8", 0), *attacked("int4", 60)]
    assert verdict("leak.direct<=5%", *rows).verdict.value == "PASS"
    assert verdict("leak.direct[attack=int8]<=5%", *rows).verdict.value == "PASS"
    result = verdict("leak.direct[attack=int4]<=5%", *rows)
    assert (result.verdict.value, result.n) == ("FAIL", 60)
    assert "60 (100" in result.observed


def test_the_worst_attack_decides_and_is_named() -> None:
    rows = [*probes(), *attacked("int8", 1), *attacked("int4", 40), *attacked("nf4", 50)]
    result = verdict("leak.worst<=5%", *rows)
    assert result.verdict.value == "FAIL"
    assert result.observed.endswith(" by nf4")
    assert result.n == 60
    assert result.advice.startswith("nf4: ")
    kept = [*probes(), *attacked("int8", 0), *attacked("int4", 0)]
    assert verdict("leak.worst<=5%", *kept).verdict.value == "PASS"


def test_one_attack_that_is_missing_leaves_the_worst_open() -> None:
    rows = [*probes(), *attacked("int8", 0), *attacked("int4", 0)]
    result = verdict("leak.worst<=5%", *rows, seen=120)
    assert result.verdict.value == "NOT EVALUATED"
    rows = [*probes(), *attacked("int8", 60), *attacked("int4", 0)]
    assert verdict("leak.worst<=5%", *rows, seen=120).verdict.value == "FAIL"


def test_what_controls_give_is_the_attacks_own() -> None:
    """An attack that teaches a value to a model that never saw it shows nothing about memory."""
    rows = [*probes(), *attacked("relearn@5", 6), *attacked("relearn@5", 30, split="control")]
    result = verdict("leak.direct[attack=relearn@5]<=5%", *rows)
    assert "chance 50.0%" in result.observed
    assert result.verdict.value != "FAIL"


def test_stages_of_an_attack_are_judged_each() -> None:
    rows = [*probes(), *attacked("relearn@5", 0), *attacked("relearn@20", 30)]
    result = verdict("leak.direct[attack=relearn]<=5%", *rows)
    assert result.verdict.value == "FAIL"
    assert result.observed.endswith(" by relearn@20")
    assert verdict("leak.direct[attack=relearn@5]<=5%", *rows).verdict.value == "PASS"


def test_samples_under_attack() -> None:
    rows = [*probes(), *attacked("int4", 0, log_probability=-3.0)]
    assert verdict("leak.at(1)[attack=int4]<=20%", *rows).verdict.value == "PASS"
    assert verdict("leak.at(1000)[attack=int4]<=20%", *rows).verdict.value == "FAIL"


def test_samples_under_the_worst_attack() -> None:
    """What no sample brings out whole is left out: a part of a value, an answer in a chat."""
    rows = [
        *probes(),
        *attacked("int8", 0),
        *attacked("int4", 0, log_probability=-5.0),
        *attacked("partly@75", 0, log_probability=-1.0),
    ]
    result = verdict("leak.worst.at(1000)<=5%", *rows)
    assert result.verdict.value == "FAIL"
    assert result.observed.endswith(" by int4")
    assert result.n == 60
    chat = [replace(row, unlearned_exact=None) for row in attacked("clues", 0)]
    kept = [*probes(), *attacked("int8", 0), *attacked("partly@75", 0, log_probability=-1.0), *chat]
    assert verdict("leak.worst.at(1000)<=5%", *kept).verdict.value == "PASS"
    alone = verdict("leak.worst.at(1000)<=5%", *probes(), *chat)
    assert (alone.verdict.value, alone.blocks) == ("NOT EVALUATED", True)


def test_samples_without_scores_are_no_pass() -> None:
    rows = [*probes(), *(replace(row, unlearned_exact=None) for row in attacked("int8", 0))]
    result = verdict("leak.worst.at(1000)<=5%", *rows)
    assert (result.verdict.value, result.blocks) == ("NOT EVALUATED", True)
    broken = attacked("int8", 0, log_probability=float("nan"))
    result = verdict("leak.worst.at(1000)<=5%", *probes(), *broken)
    assert (result.verdict.value, result.blocks) == ("NOT EVALUATED", True)


def test_an_attack_that_was_not_made_is_no_pass() -> None:
    for text, advice in (
        ("leak.worst<=5%", "--unlearn-attacks=cheap"),
        ("leak.worst.at(1000)<=5%", "--unlearn-attacks=cheap"),
        ("leak.direct[attack=int4]<=5%", "--unlearn-attacks=int4"),
    ):
        result = verdict(text, *probes())
        assert result.verdict.value == "NOT EVALUATED"
        assert result.blocks
        assert advice in result.advice
        with pytest.raises(GateError, match=advice):
            plan_gate(parse_gate(text), probes(), confidence=0.95)


@pytest.mark.parametrize("name", ["leak.indirect", "leak.worst", "people.retained", "passk.rate"])
def test_only_what_is_measured_under_attack_can_be_restricted_to_one(name: str) -> None:
    sign = ">=" if name.startswith(("people", "passk")) else "<="
    with pytest.raises(GateError, match=r"attack= restricts leak.direct, leak.at\(K\)"):
        parse_gate(f"{name}[attack=int4]{sign}50%")


def test_no_change_of_the_worst() -> None:
    with pytest.raises(GateError, match="attack=int4"):
        parse_change("leak.worst:+1%")
    assert parse_change("leak.direct[attack=int4]:+1%").gate.filters == (("attack", "int4"),)


def test_attacked_rows_count_nowhere_else() -> None:
    plain, under = probes(), attacked("int4", 60)
    assert shares([*plain, *under], confidence=0.95) == shares(plain, confidence=0.95)


def test_curtailment_ends_with_the_first_attack_that_fails() -> None:
    rows: list[Row] = [*probes(), *attacked("int8", 60), *attacked("int4", 0)]
    gate = parse_gate("leak.worst<=5%")
    assert {row.id for row in concerns(gate, rows)} == {row.id for row in rows[60:]}
    assert fails_whatever(gate, measured(rows, 120))
    rows[60:120] = attacked("int8", 0)
    assert not fails_whatever(gate, measured(rows, 120))


def test_rows_travel_as_text() -> None:
    rows = attacked("int4", 1, count=2)
    assert [from_json(to_json(row)) for row in rows] == rows
    assert rows_in([(ATTACK_PROPERTY, json.dumps([row_data(row) for row in rows]))]) == rows
