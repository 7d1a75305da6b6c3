"""What gates ask of the data: checked before a model is loaded, and shown by `--unlearn-plan`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_unlearn.gates.expressions import Gate, GateError
from pytest_unlearn.gates.readings import CONFIDENCE, units_of
from pytest_unlearn.gates.statistics import events_allowed


@dataclass(frozen=True, slots=True)
class GatePlan:
    """What a gate needs and what the data have.

    `units` is the effective number of people or tasks. `allowed`: the most leaks (or lost cases)
    with which it passes if nothing comes out of controls; None where that is no number.
    """

    gate: Gate
    cases: int
    units: float
    needed: int
    allowed: int | None


def plan_gate(gate: Gate, cases: Sequence[object]) -> GatePlan:
    """Return what a gate needs. Raises GateError for a limit that no data can show."""
    concerned = [case for case in cases if gate.concerns(case)]
    units = units_of(concerned, gate.each_alone)
    count = len(concerned)
    allowed = None
    if gate.by_counting:
        allowed = 0
    elif gate.metric.type in ("rate", "loss"):
        allowed = events_allowed(gate.limit, count, CONFIDENCE, units)
    elif gate.metric.type == "floor":
        allowed = events_allowed(1 - gate.limit, count, CONFIDENCE, units)
    return GatePlan(gate, count, units, gate.units_needed(), allowed)


def check_feasible(gates: Iterable[Gate], cases: Sequence[object], decoys: int = 0) -> None:
    """Raise GateError for a gate that the data set could not meet even with perfect results.

    `decoys`: how many each value is ranked among, for gates on exposure.
    """
    for gate in gates:
        plan = plan_gate(gate, cases)
        if gate.metric.type == "maximum" and decoys + 1 <= 2**gate.limit:
            least = math.floor(2**gate.limit)
            raise GateError(
                f"{gate.text}: {decoys} decoys can show at most {math.log2(decoys + 1):.3g} bits; "
                f"write --unlearn-exposure={least} or more"
            )
        if plan.cases and plan.units >= plan.needed - 1e-9:
            continue
        metric = gate.metric
        alone = gate.each_alone
        have = f"{plan.cases}" if alone else f"{plan.units:.4g} (in {plan.cases} {metric.cases})"
        raise GateError(
            f"{gate.text} needs at least {plan.needed} {metric.cases if alone else metric.units} "
            f"to be shown with 95 % confidence, and the data have {have}; add data or choose a "
            "limit that they can show"
        )
