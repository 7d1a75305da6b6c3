"""The rows that a metric is judged on, and those that tables show.

A model is judged on what it was not trained on: held-out people and tasks. Forget probes are judged
on a family of new words *and* on trained documents, and the worse verdict counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pytest_unlearn.gates.case_rows import Countable, ProbeRow
from pytest_unlearn.gates.metrics import GAPS, SIDES, Metric, Row

# Tables show a family only if the base gives away at least this share of it.
_TELLING = 0.2


@dataclass(frozen=True, slots=True)
class Population:
    """The filters of a metric's rows or cases, and a description of them."""

    filters: dict[str, str]
    about: str = ""
    rehearsed: bool = False


def populations(
    metric: Metric, filters: Mapping[str, str], cases: Iterable[Countable], requests: bool = False
) -> list[Population]:
    """Return the populations that a metric is judged on, the preferred one first.

    None of them is empty if any case counts. `cases`: rows, or all probes and task cases of a run,
    with `rehearsed` set. `requests`: the people to forget are the whole population, and every probe
    of them counts.
    """
    given = dict(filters)
    compared = metric.type in GAPS | SIDES  # with other people, or with another model
    if metric.type == "count" or (requests and metric.split == "forget" and not compared):
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
        who = f"{metric.units} that unlearning was not given"
        return [Population({**given, "rehearsed": "no"}, who)]
    if not seen:
        return [Population(given)]
    used = Population(given, "prompts that unlearning trained on", True)
    if "probe" in given or metric.type == "maximum" or compared:  # taken on documents alone
        return [used]
    every = [case for case in cases if metric.concerns(case, {**given, "probe": "all"})]
    fresh = next((case.family for case in every if not _rehearsed(case)), None)
    if fresh is None:
        return [used]
    other = {**given, "probe": fresh, "rehearsed": "no"}
    return [Population(other, f"prompts that unlearning never used ({fresh})"), used]


def shown(metric: Metric, filters: Mapping[str, str], rows: Sequence[Row]) -> dict[str, str]:
    """Return the filters of the rows that tables show: the first population that shows enough."""
    parts = populations(metric, filters, rows)
    for population in parts[:-1]:
        asked = [row for row in rows if metric.concerns(row, population.filters)]
        known = sum(isinstance(row, ProbeRow) and row.base.label == "direct" for row in asked)
        if known >= _TELLING * len(asked):
            return population.filters
    return parts[-1].filters


def _rehearsed(case: Countable) -> bool:
    return case.rehearsed
