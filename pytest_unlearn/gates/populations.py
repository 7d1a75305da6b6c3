"""Whom a gate speaks of: what unlearning never saw, where there is any.

A model is judged on what it was not trained on. Of retained people and tasks those that were held
out count; of forget probes, a family in whose words unlearning was not trained *and* the documents
that it was trained on, since neither may leak: the worse verdict is the gate's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_unlearn.gates.case_rows import ProbeRow
from pytest_unlearn.gates.metrics import Metric, Row

# Of a family on which the base gives away less than this share, silence shows too little for it to
# stand for the others in tables.
_TELLING = 0.2


@dataclass(frozen=True, slots=True)
class Population:
    """The filters of a metric's rows or cases, and who these are, in words."""

    filters: dict[str, str]
    about: str = ""
    rehearsed: bool = False


def populations(
    metric: Metric, filters: Mapping[str, str], cases: Iterable[Any], requests: bool = False
) -> list[Population]:
    """Return what a metric is judged on, the first for choice; each has a case where any has.

    `cases`: rows, or all probes and task cases of a run, marked `rehearsed` or not. `requests`: the
    people to forget are all there are, and are asked in every way.
    """
    given = dict(filters)
    if metric.type == "count" or (requests and metric.split == "forget"):
        return [Population({"probe": "all", **given}, "all people to forget, and no others")]
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


def _rehearsed(case: object) -> bool:
    return bool(getattr(case, "rehearsed", False))
