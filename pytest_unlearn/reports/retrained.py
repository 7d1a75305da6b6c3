"""How far a method went: each metric on base, tested and retrained model, and the way in words.

What a model would show that never saw the people to forget is the goal. A figure beyond it (a value
that is less likely than to a model that never saw it) tells where something was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pytest_unlearn.gates.case_rows import Row
from pytest_unlearn.gates.estimates import Sample, sample, scored
from pytest_unlearn.gates.metrics import GAPS, METRICS, SIDES, Metric, shown
from pytest_unlearn.gates.scores import MEMBERSHIP, State
from pytest_unlearn.gates.statistics import CONFIDENCE
from pytest_unlearn.reports.tables import Table

# The number of samples for which leaks are compared.
SAMPLES = 1_000
# A way that is shorter than that (in shares, or AUC) is none to go.
_LEAST_WAY = 0.02
_STATES: tuple[State, ...] = ("base", "unlearned", "retrained")


@dataclass(frozen=True, slots=True)
class Way:
    """One metric on three models, and how much of the way from base to retrained was gone."""

    name: str
    base: float
    tested: float
    retrained: float
    auc: bool = False

    @property
    def share(self) -> float | None:
        """The share of the way, over 1 beyond the goal; None where base and goal are alike."""
        whole = self.base - self.retrained
        return None if abs(whole) < _LEAST_WAY else (self.base - self.tested) / whole

    @property
    def cells(self) -> list[str]:
        """The figures, as a table shows them."""
        form = "{:.2f}" if self.auc else "{:.1%}"
        went = "-" if self.share is None else f"{self.share:.0%}"
        return [self.name, *(form.format(n) for n in self._figures), went]

    @property
    def _figures(self) -> tuple[float, float, float]:
        return self.base, self.tested, self.retrained


def ways(rows: Sequence[Row], confidence: float = CONFIDENCE) -> list[Way]:
    """Return each metric that was measured on a retrained model as well; see `Way`.

    Of a metric with several views or states, that in which tested and retrained model differ most.
    """
    found: list[Way] = []
    if not any(_asked_of_retrained(row) for row in rows):
        return found
    for metric in METRICS.values():
        if metric.split == "control" or metric.type in ("maximum", "count", "drop", "loss"):
            continue
        if metric.rehearsed is not None or metric.name in ("leak.worst", "passk.retained"):
            continue  # another view of one that is there
        if metric.type in GAPS and metric.name not in ("gap.exposure", "gap.relearn"):
            continue
        several = list(_ways(metric, rows, confidence))
        if several:
            found.append(max(several, key=lambda way: abs(way.tested - way.retrained)))
    return found


def _asked_of_retrained(row: Row) -> bool:
    """Whether a row has anything of a retrained model."""
    return any(getattr(row, name, None) for name in ("retrained", "retrained_exact"))


def _ways(metric: Metric, rows: Sequence[Row], confidence: float) -> Iterator[Way]:
    states = dict.fromkeys(getattr(row, "attack", "") for row in rows)
    named = [name for name in states if name and name.partition("@")[0] == metric.attack]
    for filters in [{"attack": name} for name in named] if metric.worst else [{}]:
        part = shown(metric, filters, rows)
        argument = SAMPLES if metric.argument else 0
        compared = replace(metric, type="auc gap" if metric.type in SIDES else "gap")
        counted = scored(compared, metric.rows(rows, part), argument)
        if not counted:
            continue
        controls = compared.chance_rows(rows, part)
        found = sample(compared, counted, controls, argument)
        name = metric.name.removeprefix("gap.")
        name += f"({SAMPLES:,})" * (metric.argument is not None)
        yield from _of_sample(name, found, filters.get("attack", ""), confidence)


def _of_sample(name: str, found: Sample, attack: str, confidence: float) -> Iterator[Way]:
    if found.retrained:
        base, tested, retrained = (
            math.fsum(means) / len(means)
            for means in map(found.means, (found.base, found.new, found.retrained))
        )
        yield Way(f"{name} ({attack})" if attack else name, base, tested, retrained)
    for view, sides in enumerate(found.sides):
        if set(_STATES) <= set(sides.members):
            by = attack or MEMBERSHIP[view]
            base, tested, retrained = (sides.auc(state, confidence).estimate for state in _STATES)
            yield Way(f"{name} ({by})", base, tested, retrained, auc=True)


def way_table(rows: Sequence[Row], confidence: float = CONFIDENCE) -> Table:
    """Return the three models side by side, empty without a retrained one."""
    found = ways(rows, confidence)
    if not found:
        return []
    return [
        ["against retrained", "base", "tested", "retrained", "way gone"],
        *(way.cells for way in found),
    ]


def way_sentence(rows: Sequence[Row], confidence: float = CONFIDENCE) -> str:
    """Return in one sentence how much of the way to the retrained model was gone, by metric."""
    gone = [(way.name, way.share) for way in ways(rows, confidence) if way.share is not None]
    if not gone:
        return ""
    told = ", ".join(f"{name} {share:.0%}" for name, share in gone)
    return f"Of the way from base to retrained model the tested one went: {told}."
