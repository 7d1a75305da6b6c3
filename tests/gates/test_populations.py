"""Gates judge what unlearning never saw, where there is any, and never only what it trained on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_unlearn.gates.case_rows import ProbeRow, TaskRow
from pytest_unlearn.gates.estimates import share
from pytest_unlearn.gates.gate import parse_gate
from pytest_unlearn.gates.metrics import METRICS
from pytest_unlearn.gates.populations import populations, shown
from pytest_unlearn.gates.verdicts import GateResult, Measured, judge_gate
from pytest_unlearn.leaks.outcome import Outcome


def probes(
    count: int,
    tested: str,
    *,
    split: str = "forget",
    family: str = "direct",
    base: str = "direct",
    rehearsed: bool = False,
) -> list[ProbeRow]:
    return [
        ProbeRow(
            id=f"{family}-{split}-{tested}-{rehearsed}-{n}",
            split=split,
            kind="email",
            carrier="json",
            owner=f"{split}-{rehearsed}-{n}",
            base=Outcome(base),
            unlearned=Outcome(tested),
            family=family,
            rehearsed=rehearsed,
        )
        for n in range(count)
    ]


def tasks(count: int, tested: str, rehearsed: bool) -> list[TaskRow]:
    return [
        TaskRow(f"t{n}-{tested}-{rehearsed}", f"t{n}-{rehearsed}", "passed", tested,
                rehearsed=rehearsed)
        for n in range(count)
    ]  # fmt: skip


def verdict(text: str, *rows: ProbeRow | TaskRow, seen: int | None = None) -> GateResult:
    ids = [row.id for row in rows][:seen]
    measured = Measured(
        [r for r in rows if r.id in ids], rows, set(ids), two_states=True, confidence=0.95
    )
    return judge_gate(parse_gate(text), measured)


def test_people_who_were_trained_on_show_nothing_about_the_others() -> None:
    """The method erases everybody whom it does not rehearse."""
    kept = probes(60, "direct", split="retain", rehearsed=True)
    lost = probes(60, "clean", split="retain")
    result = verdict("people.retained>=90%", *kept, *lost)
    assert result.verdict.value == "FAIL"
    assert (result.n, result.population) == (60, "retain people that unlearning was not given")
    assert verdict("people.rehearsed>=90%", *kept, *lost).verdict.value == "PASS"
    assert verdict("people.retained>=90%", *kept, *[replace(r, unlearned=r.base) for r in lost]
                   ).verdict.value == "PASS"  # fmt: skip


@pytest.mark.parametrize("text", ["passk.retained>=90%", "passk.drop<=10%", "passk.rate>=90%"])
def test_tasks_that_were_trained_on_count_nowhere(text: str) -> None:
    rows = [*tasks(60, "passed", True), *tasks(60, "failed", False)]
    assert verdict(text, *rows).verdict.value == "FAIL"
    assert verdict(text, *tasks(60, "failed", True), *tasks(60, "passed", False)
                   ).verdict.value == "PASS"  # fmt: skip


def test_where_all_were_trained_on_it_is_said() -> None:
    result = verdict("people.retained>=90%", *probes(60, "direct", split="retain", rehearsed=True))
    assert result.verdict.value == "PASS"
    assert result.rehearsed
    assert result.population == "retain people that unlearning trained on"


@pytest.mark.parametrize(
    ("trained", "other", "expected", "population"),
    [
        ("clean", "clean", "PASS", "never used (cross)"),
        ("clean", "direct", "FAIL", "never used (cross)"),
        ("direct", "clean", "FAIL", "trained on"),
    ],
)
def test_neither_trained_nor_other_prompts_may_leak(
    trained: str, other: str, expected: str, population: str
) -> None:
    rows = [*probes(60, trained, rehearsed=True), *probes(60, other, family="cross")]
    for text in ("leak.direct<=10%", "leak.direct<=0"):
        result = verdict(text, *rows)
        assert result.verdict.value == expected
        assert result.population.endswith(population)
        assert result.gate.name == "leak.direct"


def test_prompts_on_which_the_base_is_silent_show_nothing() -> None:
    silent = probes(60, "clean", family="cross", base="clean")
    rows = [*probes(60, "clean", rehearsed=True), *silent]
    result = verdict("leak.direct<=10%", *rows)
    assert (result.verdict.value, result.rehearsed) == ("PASS", True)
    # But what comes out there all the same counts.
    loud = probes(60, "direct", family="cross", base="clean")
    assert verdict("leak.direct<=10%", *rows[:60], *loud).verdict.value == "FAIL"


def test_a_missing_population_is_a_missing_part() -> None:
    rows = [*probes(60, "clean", rehearsed=True), *probes(60, "clean", family="cross")]
    assert verdict("leak.direct<=10%", *rows, seen=60).verdict.value == "NOT EVALUATED"


def test_a_family_that_is_named_is_the_one_that_counts() -> None:
    rows = [*probes(60, "clean", rehearsed=True), *probes(60, "direct", family="cross")]
    assert verdict("leak.direct[probe=direct]<=10%", *rows).verdict.value == "PASS"
    assert verdict("leak.direct[probe=cross]<=10%", *rows).verdict.value == "FAIL"


def test_without_training_nothing_changes() -> None:
    rows = [*probes(60, "clean"), *probes(60, "direct", family="cross")]
    result = verdict("leak.direct<=10%", *rows)
    assert (result.verdict.value, result.population) == ("PASS", "")


def test_tables_show_the_population_of_the_gates() -> None:
    rows = [*probes(60, "clean", rehearsed=True), *probes(50, "direct", family="cross")]
    found = share(METRICS["leak.direct"], rows, None, 0.95)
    assert found
    assert (found.n, found.tested) == (50, 50.0)
    silent = [*rows[:60], *probes(50, "clean", family="cross", base="clean")]
    assert shown(METRICS["leak.direct"], {}, silent) == {}
    assert len(populations(METRICS["leak.direct"], {}, silent)) == 2
