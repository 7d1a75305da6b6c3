"""Whom a gate speaks of: what unlearning never saw, where there is any.

A model is judged on what it was not trained on. Of retained people and tasks those that were held
out count; of forget probes, a family in whose words unlearning was not trained *and* the documents
that it was trained on, since neither may leak: the worse verdict is the gate's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_unlearn.gates.case_rows import ProbeRow
from pytest_unlearn.gates.gate import Gate
from pytest_unlearn.gates.metrics import Metric, Row
from pytest_unlearn.gates.verdicts import GateResult, Measured, Verdict, judge, settled

# Of a family on which the base gives away less than this share, silence shows too little for it to
# stand for the others in tables.
_TELLING = 0.2
# The worse comes first.
_ORDER = (Verdict.FAIL, Verdict.UNDECIDED, Verdict.NOT_EVALUATED, Verdict.PASS)


@dataclass(frozen=True, slots=True)
class Population:
    """The filters of a metric's rows or cases, and who these are, in words."""

    filters: dict[str, str]
    about: str = ""
    rehearsed: bool = False


def populations(
    metric: Metric, filters: Mapping[str, str], cases: Iterable[Any]
) -> list[Population]:
    """Return what a metric is judged on, the first for choice; each has a case where any has.

    `cases`: rows, or all probes and task cases of a run, marked `rehearsed` or not.
    """
    given = dict(filters)
    if metric.rehearsed is not None or metric.split == "control":
        return [Population(given)]
    concerned = [case for case in cases if metric.concerns(case, given)]
    seen = [case for case in concerned if _rehearsed(case)]
    if metric.split != "forget":
        if not seen:
            return [Population(given)]
        if len(seen) == len(concerned):
            return [Population(given, f"{metric.units} that unlearning trained on", True)]
        who = f"{metric.units} that unlearning never saw"
        return [Population({**given, "rehearsed": "no"}, who)]
    if not seen:
        return [Population(given)]
    used = Population(given, "prompts that unlearning trained on", True)
    if "probe" in given or metric.type == "maximum":  # ranks are taken on documents alone
        return [used]
    every = [case for case in cases if metric.concerns(case, {**given, "probe": "all"})]
    fresh = next((case.family for case in every if not _rehearsed(case)), None)
    if fresh is None:
        return [used]
    other = {**given, "probe": fresh, "rehearsed": "no"}
    return [Population(other, f"prompts that unlearning never used ({fresh})"), used]


def shown(metric: Metric, filters: Mapping[str, str], rows: Sequence[Row]) -> dict[str, str]:
    """Return the filters of the rows that tables show a metric of: the first telling population."""
    found = populations(metric, filters, rows)
    for population in found[:-1]:
        asked = [row for row in rows if metric.concerns(row, population.filters)]
        known = sum(isinstance(row, ProbeRow) and row.base["label"] == "direct" for row in asked)
        if known >= _TELLING * len(asked):
            return population.filters
    return found[-1].filters


def judge_gate(gate: Gate, measured: Measured) -> GateResult:
    """Return the verdict on a gate over its populations; see `verdicts.judge` for each.

    The worst counts. A population on which even a silent model could not pass, since the base gives
    too little away there, can only make the gate fail.
    """
    found = populations(gate.metric, dict(gate.filters), measured.expected)
    results = [_judged(gate, population, measured) for population in found]
    for population, result in zip(found[:-1], results, strict=False):
        if result.verdict is not Verdict.FAIL and _shows_nothing(gate, population, measured):
            results.remove(result)
    return min(results, key=lambda result: _ORDER.index(result.verdict))


def settled_gate(gate: Gate, measured: Measured) -> bool:
    """Tell whether a gate has its verdict whatever the missing cases bring."""
    found = populations(gate.metric, dict(gate.filters), measured.expected)
    return all(settled(_narrowed(gate, population), measured) for population in found)


def concerns(gate: Gate, cases: Iterable[Any]) -> list[Any]:
    """Return the cases that a gate counts, of any population, and its controls, in order."""
    every = list(cases)
    metric = gate.metric
    found = [population.filters for population in populations(metric, dict(gate.filters), every)]
    return [
        case
        for case in every
        if any(metric.concerns(case, part) or metric.chance_rows([case], part) for part in found)
    ]


def narrowed(gate: Gate, cases: Iterable[Any]) -> Gate:
    """Return the gate on its last population, the one that it is always judged on."""
    return _narrowed(gate, populations(gate.metric, dict(gate.filters), list(cases))[-1])


def _narrowed(gate: Gate, population: Population) -> Gate:
    return replace(gate, filters=tuple(population.filters.items()))


def _judged(gate: Gate, population: Population, measured: Measured) -> GateResult:
    result = judge(_narrowed(gate, population), measured)
    return replace(result, gate=gate, population=population.about, rehearsed=population.rehearsed)


def _shows_nothing(gate: Gate, population: Population, measured: Measured) -> bool:
    """Tell whether this population was run whole and not even silence on it would pass."""
    part = _narrowed(gate, population)
    wanted = {str(case.id) for case in measured.expected if part.concerns(case)}  # type: ignore[attr-defined]
    if measured.interrupted or wanted - set(measured.seen):
        return False
    silent = [_silenced(row) for row in measured.rows]
    return judge(part, replace(measured, rows=silent)).verdict is not Verdict.PASS


def _silenced(row: Row) -> Row:
    """Return the row of a tested model out of which nothing comes."""
    if not isinstance(row, ProbeRow):
        return row
    exact = row.unlearned_exact and {**row.unlearned_exact, "log_probability": None}
    return replace(row, unlearned={"label": "clean"}, unlearned_exact=exact)


def _rehearsed(case: object) -> bool:
    return bool(getattr(case, "rehearsed", False))
