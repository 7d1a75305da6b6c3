"""The text form of a gate: `leak.direct<=5%`, `leak.direct[kind=email]<=0.05`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_unlearn.gates.metrics import FILTERS, METRICS, Metric
from pytest_unlearn.gates.statistics import cases_needed_for_ratio, probes_needed

_GATE = re.compile(
    r"(?P<metric>[a-z.]+)\s*(?:\[(?P<filters>[^\]]*)\])?\s*(?P<operator><=|>=|<|>|=+)\s*"
    r"(?P<limit>[^\s<>=]+)"
)
_EXAMPLE = "write METRIC<=LIMIT or METRIC>=LIMIT, as in leak.direct<=5% or passk.retained>=0.9"


class GateError(ValueError):
    """A gate does not parse, or no number of rows at hand could meet it."""


@dataclass(frozen=True, slots=True)
class Gate:
    """A metric, the rows it is restricted to, and its limit as a fraction in (0, 1)."""

    text: str
    metric: Metric
    filters: tuple[tuple[str, str], ...]
    limit: float

    @property
    def name(self) -> str:
        """The metric with its filters, without the limit: the gate's id in reports."""
        filters = ",".join(f"{key}={value}" for key, value in self.filters)
        return f"{self.metric.name}[{filters}]" if filters else self.metric.name

    def rows_needed(self) -> int:
        """Return the smallest number of rows on which this gate can pass at 95 % confidence."""
        if self.metric.type == "ratio":
            return cases_needed_for_ratio(self.limit)
        needed = probes_needed(self.limit)
        if needed is None:
            raise GateError(f"{self.text}: so small a limit cannot be shown by counting")
        return needed


def parse_gate(text: str) -> Gate:
    """Read a gate. Raises GateError saying what to write instead."""
    match = _GATE.fullmatch(text.strip())
    if match is None:
        raise GateError(f"{text!r} is not a gate; {_EXAMPLE}")
    metric = METRICS.get(match["metric"])
    if metric is None:
        raise GateError(
            f"{text!r}: unknown metric {match['metric']!r}; known: {', '.join(METRICS)}"
        )
    if match["operator"] != metric.operator:
        raise GateError(f"{text!r}: write {metric.name}{metric.operator}{match['limit']}")
    gate = Gate(
        text.strip(), metric, _filters(text, match["filters"]), _limit(text, match["limit"])
    )
    if metric.split is None and gate.filters:
        raise GateError(f"{text!r}: tasks have no kind and no carrier; leave the brackets out")
    return gate


def _filters(text: str, given: str | None) -> tuple[tuple[str, str], ...]:
    if given is None:
        return ()
    filters = []
    for part in given.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key not in FILTERS or not value:
            known = f"{', '.join(FILTERS[:-1])} or {FILTERS[-1]}"
            raise GateError(f"{text!r}: in brackets write {known}=NAME")
        filters.append((key, value))
    return tuple(filters)


def _limit(text: str, given: str) -> float:
    number, percent = (given[:-1], True) if given.endswith("%") else (given, False)
    try:
        limit = float(number) / (100 if percent else 1)
    except ValueError:
        raise GateError(f"{text!r}: {given!r} is not a number; write 0.05 or 5%") from None
    if not 0 < limit < 1:
        raise GateError(
            f"{text!r}: the limit must lie between 0 and 1 (or 0% and 100%), both left out: a rate "
            "of exactly 0 or 1 cannot be shown by counting"
        )
    return limit
