"""What gates ask of the data: checked before a model is loaded, and shown by `--unlearn-plan`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_unlearn.gates.estimates import Sample, percent, read, units_of
from pytest_unlearn.gates.gate import Gate, GateError
from pytest_unlearn.gates.judging import CONFIDENCE
from pytest_unlearn.gates.metrics import UPPER
from pytest_unlearn.gates.populations import narrowed


@dataclass(frozen=True, slots=True)
class GatePlan:
    """What a gate needs and what the data have.

    `units` is the effective number of people or tasks. `allowed`: the most leaks (or lost cases)
    with which it passes if the base has all and controls nothing; None where not even 0 do.
    """

    gate: Gate
    cases: int
    units: float
    needed: int
    allowed: int | None


def plan_gate(gate: Gate, cases: Sequence[object], confidence: float = CONFIDENCE) -> GatePlan:
    """Return what a gate needs. Raises GateError for a limit that no data can show."""
    concerned = list(filter(narrowed(gate, cases).concerns, cases))
    units = units_of(concerned, gate.each_alone)
    count = len(concerned)
    allowed = _allowed(gate, count, units, confidence) if count else None
    return GatePlan(gate, count, units, gate.units_needed(confidence), allowed)


def _allowed(gate: Gate, count: int, units: float, confidence: float) -> int | None:
    """Return the most leaks (or losses) among `count` cases, all of the base's, that still pass."""
    if gate.by_counting:
        return 0
    type_, limit = gate.metric.type, gate.limit

    def passes(events: int) -> bool:
        ones = events if type_ in ("rate", "drop") else count - events
        new = (1.0,) * ones + (0.0,) * (count - ones)
        reading = read(type_, Sample((1.0,) * count, new, units), confidence)
        assert reading is not None  # the base has them all
        return reading.upper <= limit if type_ in UPPER else reading.lower >= limit

    if not passes(0):
        return None
    low, high = 0, count  # a bound on all of them keeps no limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low


def check_decoys(gate: Gate, decoys: int) -> None:
    """Raise GateError for a limit on exposure that no rank among so few decoys could break."""
    if gate.metric.type == "maximum" and decoys + 1 <= 2**gate.limit:
        least = math.floor(2**gate.limit)
        raise GateError(
            f"{gate.text}: {decoys} decoys can show at most {math.log2(decoys + 1):.3g} bits; "
            f"write --unlearn-exposure={least} or more"
        )


def check_feasible(
    gates: Iterable[Gate],
    cases: Sequence[object],
    decoys: int = 0,
    confidence: float = CONFIDENCE,
) -> None:
    """Raise GateError for a gate that the data set could not meet even with perfect results.

    `decoys`: how many each value is ranked among, for gates on exposure.
    """
    for gate in gates:
        plan = plan_gate(gate, cases, confidence)
        check_decoys(gate, decoys)
        if plan.units >= plan.needed - 1e-9:
            continue
        metric = gate.metric
        alone = gate.each_alone
        have = f"{plan.cases}" if alone else f"{plan.units:.4g} (in {plan.cases} {metric.cases})"
        raise GateError(
            f"{gate.text} needs at least {plan.needed} {metric.cases if alone else metric.units} "
            f"to be shown with {percent(confidence)} confidence, and the data have {have}; add "
            "data or choose a limit that they can show"
        )
