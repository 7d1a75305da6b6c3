"""What is shown of a quantity, whether a gate judges it or not: counted once, as gates count.

Every report takes n, figures and bounds from here, so that no two of them can differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pytest_unlearn.gates.case_rows import TaskRow
from pytest_unlearn.gates.estimates import Reading, read, sample, scored
from pytest_unlearn.gates.judging import CONFIDENCE
from pytest_unlearn.gates.metrics import METRICS, UPPER, Metric, Row, State
from pytest_unlearn.gates.populations import shown


@dataclass(frozen=True, slots=True)
class Share:
    """A metric of scores from 0 to 1, on base and tested model.

    `n` counts the cases, `units` the people or tasks that they are worth. `base` and `tested` are
    sums of scores (counts, where a case scores 0 or 1). The bounds are one-sided: each end of
    `base_bounds` and `tested_bounds` holds with `confidence` by itself; chance (what controls
    give) is taken off the bounds as it is in the gate on this metric. `bound` is what such a gate
    would be judged on, as text; `-` where there is nothing to compare with.
    """

    name: str
    about: str
    n: int
    units: float
    base: float
    tested: float
    base_bounds: tuple[float, float]
    tested_bounds: tuple[float, float]
    bound: str
    confidence: float

    def rate(self, state: Literal["base", "tested"]) -> float:
        """Return one model's mean score, a fraction."""
        return float(getattr(self, state) / self.n)

    def interval(self, state: Literal["base", "tested"]) -> tuple[float, float]:
        """Return one model's bounds, fractions."""
        return self.base_bounds if state == "base" else self.tested_bounds

    def shown(self, state: Literal["base", "tested"]) -> str:
        """Return one model's figure as text."""
        return f"{getattr(self, state):g} ({self.rate(state):.1%})"

    @property
    def cells(self) -> list[str]:
        """Base, tested, n and bound, as every table shows them."""
        return [self.shown("base"), self.shown("tested"), size(self.n, self.units), self.bound]


def size(n: int, units: float) -> str:
    """Return the number of cases, and what they are worth in people or tasks where that is less."""
    return f"{n} ({units:.4g})" if 0 < units < n else str(n)


def share(
    metric: Metric,
    rows: Sequence[Row],
    filters: Mapping[str, str] | None = None,
    confidence: float = CONFIDENCE,
    two_states: bool = True,
) -> Share | None:
    """Return a metric's share over the rows that a gate with these filters counts, None without.

    `two_states`: base and tested model differ, so that they can be compared.
    """
    restricted = shown(metric, filters or {}, rows)
    counted = scored(metric, metric.rows(rows, restricted))
    if not counted:
        return None
    controls = metric.chance_rows(rows, restricted)
    found = sample(metric, counted, controls)
    return Share(
        name=metric.name,
        about=metric.about,
        n=found.n,
        units=found.units,
        base=math.fsum(found.base),
        tested=math.fsum(found.new),
        base_bounds=_ends(metric, counted, controls, "base", confidence),
        tested_bounds=_ends(metric, counted, controls, "unlearned", confidence),
        bound=_bound(metric, read(metric.type, found, confidence), two_states),
        confidence=confidence,
    )


def _ends(
    metric: Metric, rows: Sequence[Row], controls: Sequence[Row], state: State, confidence: float
) -> tuple[float, float]:
    """Return the bounds of one model's rate."""
    reading = read("rate", sample(metric, rows, controls, tested=state), confidence)
    assert reading is not None  # a rate has one wherever there is a row
    return reading.lower, reading.upper


def _bound(metric: Metric, reading: Reading | None, two_states: bool) -> str:
    if reading is None or (metric.type == "ratio" and not two_states):
        return "-"
    if metric.type in UPPER:
        return f"<={metric.show(reading.upper)}"
    return f">={metric.show(reading.lower)}" + (" of base" if metric.type == "ratio" else "")


def shares(
    rows: Sequence[Row], confidence: float = CONFIDENCE, two_states: bool = True
) -> tuple[Share, ...]:
    """Return the shares that every report names: all metrics of counts, none without a row.

    Of pass@k, what is retained is shown where two models are compared, and the rate where not.
    """
    other = "passk.rate" if two_states else "passk.retained"
    found = (
        share(metric, rows, confidence=confidence, two_states=two_states)
        for metric in METRICS.values()
        if metric.type in ("rate", "floor", "ratio") and not metric.argument
        if metric.name != other
    )
    return tuple(item for item in found if item is not None)


def pass_at(
    name: str, rows: Sequence[Row], k: int, confidence: float, two_states: bool
) -> Share | None:
    """Return the share of pass@k over task cases, for any k that was sampled."""

    def score(row: Row, state: State, argument: int) -> float | None:
        return row.pass_at(state, k) if isinstance(row, TaskRow) else None

    metric = replace(METRICS["passk.retained"], name=name, score=score)
    return share(metric, rows, confidence=confidence, two_states=two_states)
