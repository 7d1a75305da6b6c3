"""Judging: a gate passes only when the bound on its metric, not the observed value, keeps it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from pytest_unlearn.gates.expressions import Gate, GateError
from pytest_unlearn.gates.rows import ProbeRow, TaskRow
from pytest_unlearn.gates.statistics import (
    clopper_pearson_lower,
    clopper_pearson_upper,
    events_allowed,
    paired_ratio_bounds,
)

CONFIDENCE = 0.95


class Verdict(Enum):
    """What is known about a gate after a run."""

    PASS = "PASS"
    FAIL = "FAIL"
    UNDECIDED = "UNDECIDED"
    NOT_EVALUATED = "NOT EVALUATED"


@dataclass(frozen=True, slots=True)
class GateResult:
    """A judged gate. `observed` and `bound` are text for people; `advice` says what to do next.

    `blocks` tells whether this result alone forbids the release.
    """

    gate: Gate
    verdict: Verdict
    n: int = 0
    observed: str = ""
    bound: str = ""
    advice: str = ""
    blocks: bool = True


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run measured.

    `expected` are all cases of the data set (probes and task cases), `seen` the ids of those that
    were run; one that was run without a row ended in an error. `interrupted` is the reason why a
    run stopped early.
    """

    rows: Sequence[ProbeRow | TaskRow]
    expected: Sequence[object]
    seen: Collection[str]
    two_states: bool
    interrupted: str | None = None


def check_feasible(gates: Iterable[Gate], cases: Sequence[object]) -> None:
    """Raise GateError for a gate that the data set could not meet even with perfect results."""
    for gate in gates:
        count = sum(gate.metric.concerns(case, dict(gate.filters)) for case in cases)
        needed = gate.rows_needed()
        if count < needed:
            what = "task cases" if gate.metric.split is None else f"{gate.metric.split} probes"
            raise GateError(
                f"{gate.text} needs at least {needed} {what} to be shown with 95 % confidence, and "
                f"the data have {count}; add data or choose a limit that they can show"
            )


def judge(gate: Gate, measured: Measured) -> GateResult:
    """Return the verdict on one gate.

    Rates: one-sided 95 % Clopper-Pearson bounds (1934). Ratios: the paired one-sided bound of
    `paired_ratio_bounds`. PASS when the bound keeps the limit, FAIL when the opposite bound
    breaks it, UNDECIDED between. A run with errors never passes. NOT EVALUATED when cases are
    missing, or when the base had nothing to lose.
    """
    filters = dict(gate.filters)
    rows = gate.metric.rows(measured.rows, filters)
    expected = {str(c.id) for c in measured.expected if gate.metric.concerns(c, filters)}  # type: ignore[attr-defined]
    missing = len(expected - set(measured.seen))
    if measured.interrupted:
        return _not_evaluated(gate, len(rows), f"the run was interrupted: {measured.interrupted}")
    if missing:
        return _not_evaluated(
            gate, len(rows), f"partial selection: {len(expected) - missing} of {len(expected)} run"
        )
    errors = len(expected) - len(rows)
    if not rows:
        return GateResult(gate, Verdict.UNDECIDED, advice=f"all {errors} cases ended in an error")
    if gate.metric.type == "rate":
        result = _judge_rate(gate, rows)
    else:
        result = _judge_ratio(gate, rows, measured.two_states)
    if not errors:
        return result
    return replace(
        result,
        verdict=Verdict.UNDECIDED if result.verdict is Verdict.PASS else result.verdict,
        blocks=True,
        advice=f"{errors} cases ended in an error: mend it and run again",
    )


def _not_evaluated(gate: Gate, n: int, reason: str) -> GateResult:
    return GateResult(gate, Verdict.NOT_EVALUATED, n, advice=reason, blocks=False)


def _judge_rate(gate: Gate, rows: Sequence[ProbeRow | TaskRow]) -> GateResult:
    rate = gate.metric.rate(rows)
    upper = clopper_pearson_upper(rate.events, rate.n, CONFIDENCE)
    lower = clopper_pearson_lower(rate.events, rate.n, CONFIDENCE)
    observed = f"{rate.events} ({rate.events / rate.n:.1%})"
    if lower > gate.limit:
        return GateResult(
            gate,
            Verdict.FAIL,
            rate.n,
            observed,
            f">={lower:.1%}",
            "unlearn longer or by another method (--unlearn-method); -v lists the leaking probes",
        )
    base_lower = clopper_pearson_lower(rate.base_direct, rate.n, CONFIDENCE)
    if gate.metric.split == "forget" and base_lower <= gate.limit:
        return GateResult(
            gate,
            Verdict.NOT_EVALUATED,
            rate.n,
            observed,
            f"<={upper:.1%}",
            f"the base gives away only {rate.base_direct} of {rate.n}, so silence shows nothing; "
            "probe with data that the base knows",
        )
    if upper <= gate.limit:
        return GateResult(gate, Verdict.PASS, rate.n, observed, f"<={upper:.1%}", blocks=False)
    allowed = events_allowed(gate.limit, rate.n, CONFIDENCE)
    if allowed is None:  # errors left fewer probes than the limit needs
        advice = f"{rate.n} probes are too few for this limit"
    else:
        advice = (
            f"{rate.n} probes can show this limit with at most {allowed} leaks; unlearn further, "
            "or take more probes"
        )
    return GateResult(
        gate,
        Verdict.UNDECIDED,
        rate.n,
        observed,
        f"<={upper:.1%}",
        advice,
    )


def _judge_ratio(gate: Gate, rows: Sequence[ProbeRow | TaskRow], two_states: bool) -> GateResult:
    pairs = gate.metric.pairs(rows)
    if not two_states:
        return _not_evaluated(
            gate, pairs.n, "nothing to compare with; give --unlearn-baseline=NAME"
        )
    if pairs.base == 0:
        return GateResult(
            gate,
            Verdict.NOT_EVALUATED,
            pairs.n,
            advice="the base succeeds nowhere, so nothing could be lost; use cases it can do",
        )
    lower, upper = paired_ratio_bounds(pairs.both, pairs.base_only, pairs.new_only, CONFIDENCE)
    observed = f"{pairs.new:.4g}/{pairs.base:.4g} ({pairs.new / pairs.base:.1%})"
    if lower >= gate.limit:
        return GateResult(gate, Verdict.PASS, pairs.n, observed, f">={lower:.1%}", blocks=False)
    if upper < gate.limit:
        return GateResult(
            gate,
            Verdict.FAIL,
            pairs.n,
            observed,
            f"<={upper:.1%}",
            "unlearn more gently: fewer steps, a lower lr, or a method with a retain set",
        )
    return GateResult(
        gate,
        Verdict.UNDECIDED,
        pairs.n,
        observed,
        f">={lower:.1%}",
        "more cases, or fewer losses, would decide it",
    )
