"""The text form of a gate: `leak.direct<=5%`, `leak.at(100)<=0.05`, `leak.direct[kind=x]<=0`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.gates.estimates import units_needed
from pytest_unlearn.gates.metrics import FILTERS, METRICS, Metric
from pytest_unlearn.gates.statistics import CONFIDENCE

_GATE = re.compile(
    r"(?P<metric>[a-z.]+)\s*(?:\((?P<argument>[^)]*)\))?\s*(?:\[(?P<filters>[^\]]*)\])?\s*"
    r"(?P<operator><=|>=|<|>|=+)\s*(?P<limit>[^\s<>=]+)"
)
_PLAIN = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_WHOLE = re.compile(r"[0-9]+")
# No sample is large enough to show less; and floats stay far from where they lose digits.
_LEAST = Decimal("1e-9")
_EXAMPLE = "write METRIC<=LIMIT or METRIC>=LIMIT, as in leak.direct<=5% or passk.retained>=0.9"
_MOST_SAMPLES = 10**9


class GateError(UserError):
    """A gate does not parse, or no number of rows at hand could meet it."""


def plain_number(text: str) -> Decimal | None:
    """Return a number as people write it, None for anything else.

    ASCII digits, a point, an exponent: no sign, no underscore, no `nan`, whatever Python accepts.
    """
    return Decimal(text) if _PLAIN.fullmatch(text) else None


@dataclass(frozen=True, slots=True)
class Gate:
    """A metric, the rows it is restricted to, and its limit: a fraction in [0, 1), bits or values.

    `argument` is the number in parentheses, 0 where the metric has none.
    """

    text: str
    metric: Metric
    filters: tuple[tuple[str, str], ...]
    limit: float
    argument: int = 0

    @property
    def name(self) -> str:
        """The metric with its filters, without the limit: the gate's id in reports."""
        filters = ",".join(f"{key}={value}" for key, value in self.filters)
        name = f"{self.metric.name}({self.argument})" if self.argument else self.metric.name
        return f"{name}[{filters}]" if filters else name

    @property
    def limit_text(self) -> str:
        """The limit with its operator, for people: never rounded."""
        if self.limit == 0:
            return f"{self.metric.operator}0"
        return self.metric.operator + self.metric.show_limit(self.limit)

    @property
    def each_alone(self) -> bool:
        """Tell whether each case is taken to be independent of all others (`unit=case`)."""
        return ("unit", "case") in self.filters

    @property
    def by_counting(self) -> bool:
        """Tell whether one event too many decides, whatever the number of rows."""
        return self.limit == 0 or self.metric.type in ("maximum", "count")

    def concerns(self, case: object) -> bool:
        """Tell whether a row, probe or task case is counted by this gate."""
        return self.metric.concerns(case, dict(self.filters))

    def units_needed(self, confidence: float = CONFIDENCE) -> int:
        """Return the fewest people or tasks on which this gate can pass at a confidence."""
        needed = units_needed(self.metric.type, self.limit, confidence)
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
        known = ", ".join(metric.form for metric in METRICS.values())
        raise GateError(f"{text!r}: unknown metric {match['metric']!r}; known: {known}")
    argument = _argument(text, metric, match["argument"])
    if match["operator"] != metric.operator:
        name = f"{metric.name}({argument})" if argument else metric.name
        raise GateError(f"{text!r}: write {name}{metric.operator}{match['limit']}")
    filters = _filters(text, metric, match["filters"])
    gate = Gate(text.strip(), metric, filters, _limit(text, metric, match["limit"]), argument)
    if metric.split is None and any(key != "unit" for key, _ in gate.filters):
        raise GateError(f"{text!r}: tasks have no kind and no carrier; leave the brackets out")
    if gate.each_alone and metric.type == "count":
        raise GateError(f"{text!r}: values are counted, not cases; leave unit=case out")
    if gate.each_alone and ("probe", "all") in gate.filters:
        raise GateError(
            f"{text!r}: probes of one record by several families are not independent; leave "
            "unit=case out, or name one family"
        )
    return gate


def _argument(text: str, metric: Metric, given: str | None) -> int:
    if metric.argument is None:
        if given is not None:
            raise GateError(f"{text!r}: {metric.name} takes no number in parentheses")
        return 0
    digits = (given or "").strip()
    if not _WHOLE.fullmatch(digits) or not 0 < int(digits) <= _MOST_SAMPLES:
        raise GateError(
            f"{text!r}: write {metric.form} with a whole number, as in {metric.name}(100)"
        )
    return int(digits)


def _filters(text: str, metric: Metric, given: str | None) -> tuple[tuple[str, str], ...]:
    if given is None:
        return ()
    filters: list[tuple[str, str]] = []
    for part in given.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key not in FILTERS or not value:
            known = f"{', '.join(FILTERS[:-1])} or {FILTERS[-1]}"
            raise GateError(f"{text!r}: in brackets write {known}=NAME")
        if key == "attack" and not metric.attackable:
            known = ", ".join(each.form for each in METRICS.values() if each.attackable)
            raise GateError(f"{text!r}: attack= restricts {known}, and nothing else")
        if key in dict(filters):
            raise GateError(f"{text!r}: {key} stands twice in the brackets")
        if key == "unit" and value != "case":
            raise GateError(f"{text!r}: write unit=case, or leave it out to judge people or tasks")
        filters.append((key, value))
    return tuple(sorted(filters, key=lambda pair: FILTERS.index(pair[0])))


def _limit(text: str, metric: Metric, given: str) -> float:
    number, percent = (given[:-1], True) if given.endswith("%") else (given, False)
    bits = metric.type == "maximum"
    values = metric.type == "count"
    exact = plain_number(number)
    if exact is None:
        example = "10 (bits)" if bits else "0 (values)" if values else "0.05 or 5%"
        raise GateError(f"{text!r}: {given!r} is not a number; write {example}")
    exact /= 100 if percent else 1
    if 0 < exact < _LEAST:
        raise GateError(f"{text!r}: no run can show so small a limit; write 0, or 0.01% or more")
    limit = float(exact)
    if values:
        if percent:
            raise GateError(f"{text!r}: the limit is a number of values; write 0")
        return limit
    if bits:
        if percent or not 0 < limit < 64:
            raise GateError(f"{text!r}: the limit is a number of bits; write 10")
        return limit
    if limit == 0 and metric.type == "rate" and metric.counted:
        return limit
    if not 0 < limit < 1:
        zero = "only leaks that are counted can be held to 0" if limit == 0 else ""
        raise GateError(
            f"{text!r}: the limit must lie between 0 and 1 (or 0% and 100%), both left out"
            + (f": {zero}" if zero else ": a rate of exactly 1 cannot be shown by counting")
        )
    return limit
