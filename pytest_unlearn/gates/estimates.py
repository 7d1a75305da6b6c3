"""From scored rows to bounds: what a metric's figure is, and between what it lies.

Rows of one person, or wordings of one task, are not independent. All bounds are therefore taken
on the effective number of people or tasks (`effective_number`), the worst case, so that they hold
whatever the dependence is; `tests/gates/test_coverage.py` simulates it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_unlearn.gates.differences import (
    cases_needed_for_drop,
    excess_bounds,
    paired_difference_bounds,
)
from pytest_unlearn.gates.judging import CONFIDENCE
from pytest_unlearn.gates.metrics import Metric, Row, Score, State, Type, cluster_of
from pytest_unlearn.gates.statistics import (
    cases_needed_for_ratio,
    clopper_pearson_lower,
    clopper_pearson_upper,
    effective_number,
    paired_ratio_bounds,
    probes_needed,
)


def percent(confidence: float) -> str:
    """Return a confidence for people: 0.95 is `95%`, 0.999 is `99.9%`."""
    return f"{100 * confidence:.6g}%"


@dataclass(frozen=True, slots=True)
class Sample:
    """Scores of base and tested model on the same rows, and what these rows are worth.

    `units`: the effective number of independent rows, at most `n`. `had`: the base's scores of
    what there was to forget. `chance`: the tested model's mean score on controls and their
    effective number, None where nothing comes out of them by chance.
    """

    base: tuple[float, ...]
    new: tuple[float, ...]
    units: float
    had: tuple[float, ...] = ()
    chance: tuple[float, float] | None = None

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.new)

    @property
    def weight(self) -> float:
        """Independent rows that one row is worth, at most 1."""
        return self.units / self.n

    @property
    def cells(self) -> tuple[float, float, float]:
        """Rows with success on both, on the base only, on the tested model only.

        A score between 0 and 1 counts as that part of a row.
        """
        pairs = list(zip(self.base, self.new, strict=True))
        both = math.fsum(min(pair) for pair in pairs)
        lost = math.fsum(max(0.0, base - new) for base, new in pairs)
        return both, lost, math.fsum(max(0.0, new - base) for base, new in pairs)


def units_of(cases: Iterable[object], each_alone: bool) -> float:
    """Return the effective number of independent cases; `each_alone`: all are taken to be."""
    clusters = Counter(map(cluster_of, cases))
    return float(clusters.total()) if each_alone else effective_number(clusters.values())


def sample(
    metric: Metric,
    rows: Sequence[Row],
    controls: Sequence[Row] = (),
    argument: int = 0,
    each_alone: bool = False,
    tested: State = "unlearned",
) -> Sample:
    """Return the scores of rows that all have one; see `Metric` for the arguments.

    `tested`: the model that is read as the tested one.
    """
    return Sample(
        base=_scores(metric.score, rows, "base", argument),
        new=_scores(metric.score, rows, tested, argument),
        units=units_of(rows, each_alone),
        had=_scores(metric.had, rows, "base", argument) if metric.had else (),
        chance=_chance(metric, controls, argument, each_alone, tested),
    )


def scored(metric: Metric, rows: Iterable[Row], argument: int = 0) -> list[Row]:
    """Return the rows that have a score on both models; a figure is counted on no others."""
    return [
        row
        for row in rows
        if metric.score(row, "base", argument) is not None
        and metric.score(row, "unlearned", argument) is not None
    ]


def _scores(score: Score, rows: Iterable[Row], state: State, argument: int) -> tuple[float, ...]:
    found = (score(row, state, argument) for row in rows)
    return tuple(value for value in found if value is not None)


def _chance(
    metric: Metric, controls: Sequence[Row], argument: int, each_alone: bool, tested: State
) -> tuple[float, float] | None:
    if metric.chance is None:
        return None
    asked = [row for row in controls if metric.chance(row, tested, argument) is not None]
    scores = _scores(metric.chance, asked, tested, argument)
    if not any(scores):
        return None
    return math.fsum(scores) / len(scores), units_of(asked, each_alone)


@dataclass(frozen=True, slots=True)
class Reading:
    """A figure and its one-sided bounds; for `maximum` both bounds are the figure."""

    figure: float
    lower: float
    upper: float


def read(type_: Type, found: Sample, confidence: float = CONFIDENCE) -> Reading | None:
    """Return the figure of a sample with its bounds, each of which holds with `confidence`.

    None for a ratio or drop where the base never succeeds. ValueError for no row at all.
    """
    if not found.n:
        raise ValueError("no row, no figure")
    w, n = found.weight, found.units
    both, lost, gained = found.cells
    mean = math.fsum(found.new) / found.n
    if type_ == "maximum":
        return Reading(max(found.new), max(found.new), max(found.new))
    if type_ == "loss":
        lower, upper = paired_difference_bounds(
            _count(lost * w, n), _count(gained * w, n), n, confidence
        )
        return Reading((lost - gained) / found.n, lower, upper)
    if type_ in ("ratio", "drop"):
        if both + lost == 0:
            return None
        lower, upper = paired_ratio_bounds(both * w, lost * w, gained * w, confidence)
        ratio = (both + gained) / (both + lost)
        if type_ == "ratio":
            return Reading(ratio, lower, upper)
        return Reading(1.0 - ratio, 1.0 - upper, 1.0 - lower)
    events = _count(mean * n, n)
    if type_ == "rate" and found.chance is not None:
        rate, controls = found.chance
        by_chance = _count(rate * controls, controls)
        return Reading(mean, *excess_bounds(events, n, by_chance, controls, confidence))
    return Reading(
        mean,
        clopper_pearson_lower(events, n, confidence),
        clopper_pearson_upper(events, n, confidence),
    )


def _count(events: float, n: float) -> float:
    """Keep a sum of floats within what a count can be."""
    return min(n, max(0.0, round(events, 9)))


def units_needed(type_: Type, limit: float, confidence: float = CONFIDENCE) -> int | None:
    """Return the fewest independent rows on which a gate can pass with perfect results.

    None for a limit so small that no number of rows can show it.
    """
    if type_ == "maximum" or limit == 0:
        return 1
    if type_ in ("rate", "loss"):
        return probes_needed(limit, confidence)
    if type_ == "drop":
        return cases_needed_for_drop(limit, confidence)
    return cases_needed_for_ratio(limit, confidence)
