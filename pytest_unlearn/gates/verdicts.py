"""Judging: a gate passes only when the bound on its metric, not the observed value, keeps it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from pytest_unlearn.gates.case_rows import ProbeRow, TaskRow
from pytest_unlearn.gates.estimates import Reading, Sample, percent, read, sample, scored, units_of
from pytest_unlearn.gates.gate import Gate
from pytest_unlearn.gates.judging import CONFIDENCE
from pytest_unlearn.gates.metrics import UPPER, Metric, Row
from pytest_unlearn.gates.statistics import (
    clopper_pearson_lower,
    clopper_pearson_upper,
    events_allowed,
)

# More bits than a rank among any number of decoys gives.
_MOST_BITS = 64.0


class Verdict(Enum):
    """What is known about a gate after a run."""

    PASS = "PASS"
    FAIL = "FAIL"
    UNDECIDED = "UNDECIDED"
    NOT_EVALUATED = "NOT EVALUATED"


class Judged(Protocol):
    """What a result is about: a gate, or a limit on the change from a saved run."""

    @property
    def name(self) -> str:
        """Its id in reports."""

    @property
    def text(self) -> str:
        """What the user wrote."""

    @property
    def limit_text(self) -> str:
        """The limit with its operator, for people."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """A judged gate. `observed` and `bound` are text for people; `advice` says what to do next.

    `n` is the number of cases, `units` the number of people or tasks that they are worth.
    `blocks` tells whether this result alone forbids the release. `population` says whom it speaks
    of where not of all, and `rehearsed` that these are only those that unlearning trained on.
    """

    gate: Judged
    verdict: Verdict
    n: int = 0
    observed: str = ""
    bound: str = ""
    advice: str = ""
    blocks: bool = True
    units: float = 0.0
    population: str = ""
    rehearsed: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run measured.

    `expected` are all cases of the data set (probes and task cases), `seen` the ids of those that
    were run; one that was run without a row ended in an error. `interrupted` is the reason why a
    run stopped early. `require_complete`: a gate that is not evaluated because cases are missing
    forbids the release. `curtailed`: cases were left out because they could change no verdict.
    `confidence` is that of each one-sided bound; `undecided_blocks`: a gate whose bound decides
    nothing forbids the release.
    """

    rows: Sequence[Row]
    expected: Sequence[object]
    seen: Collection[str]
    two_states: bool
    interrupted: str | None = None
    require_complete: bool = False
    curtailed: bool = False
    confidence: float = CONFIDENCE
    undecided_blocks: bool = True


@dataclass(frozen=True, slots=True)
class _Counted:
    """What of a run concerns one gate: scored rows, controls, the number of cases without a score
    although they were run (`unscored` of them have a row), and of those not run."""

    rows: list[Row]
    controls: list[Row]
    units: float
    errors: int
    unscored: int
    missing: int
    expected: int
    controls_missing: int


def judge(gate: Gate, measured: Measured) -> GateResult:
    """Return the verdict on one gate.

    PASS when the one-sided bound of its metric (`readings.read`) keeps the limit, FAIL when the
    opposite bound breaks it, UNDECIDED between, which blocks unless the run lets it through. Gates
    that count to 0 or to a maximum FAIL on one event. A run with errors never passes, and what it
    leaves undecided always blocks. NOT EVALUATED when cases are missing, or when the
    base had nothing to lose. A FAIL that no missing case can undo stands without them: with -k,
    with -x, and after an interrupt.
    """
    counted = _counted(gate, measured)
    n = len(counted.rows)
    cut_short = (counted.missing and not measured.curtailed) or measured.interrupted
    if cut_short and n:  # nothing that is missing undoes a leak
        early = _settled(gate, counted, measured)
        if early is not None and early.verdict is Verdict.FAIL:
            return early
    if measured.interrupted:
        reason = (
            f"the run was interrupted: {measured.interrupted}; run again, it goes on from there"
        )
        return _not_evaluated(gate, n, reason, blocks=measured.require_complete)
    if counted.missing:
        if measured.curtailed and (early := _settled(gate, counted, measured)):
            return early
        done = counted.expected - counted.missing
        reason = (
            f"partial selection: {done} of {counted.expected} run; leave out -k, -m, --lf and -x"
        )
        return _not_evaluated(gate, n, reason, blocks=measured.require_complete)
    if not n:
        if not counted.expected:
            return _not_evaluated(gate, n, _NO_CASE, blocks=True)
        if counted.unscored:
            return _not_evaluated(gate, n, _UNMEASURED, blocks=True)
        advice = f"all {counted.errors} cases ended in an error: mend it and run again"
        return GateResult(gate, Verdict.UNDECIDED, advice=advice)
    found = sample(gate.metric, counted.rows, counted.controls, gate.argument, gate.each_alone)
    result = _with_errors(_decide(gate, found, measured), counted)
    undisproved = result.verdict in (Verdict.PASS, Verdict.NOT_EVALUATED)
    if undisproved and (fault := base_fault(measured.rows)):
        return replace(result, verdict=Verdict.NOT_EVALUATED, advice=fault, blocks=True)
    return result


# Below so many tasks or trained records, a base that manages none of them shows nothing.
_FEWEST = 10


def base_fault(rows: Sequence[object]) -> str:
    """Say that the base cannot do what its kind can, with figures, or nothing.

    A base that solves no task and gives no trained value has broken weights or another model's
    tokenizer; whatever is compared with it, its silence proves nothing.
    """
    tasks = [row for row in rows if isinstance(row, TaskRow)]
    probes = [row for row in rows if isinstance(row, ProbeRow) and row.split != "control"]
    if len(tasks) < _FEWEST or len(probes) < _FEWEST:
        return ""
    if any("passed" in (row.base, *row.base_samples) for row in tasks):
        return ""
    if any(row.base["label"] == "direct" for row in probes):
        return ""
    return (
        f"the base cannot do what its kind can: it solves 0 of {len(tasks)} tasks and gives 0 of "
        f"{len(probes)} trained values; look whether its tokenizer and its weights belong together"
    )


_NO_CASE = "the data have no case that it counts; mend what stands in its brackets, or add data"
_UNMEASURED = (
    "this run does not measure it: the model or the data give no such scores; leave the gate out, "
    "or take a model that can be scored"
)


def settled(gate: Gate, measured: Measured) -> bool:
    """Tell whether a gate has its verdict, whatever the cases that are still missing bring."""
    counted = _counted(gate, measured)
    if not counted.missing and not counted.controls_missing:
        return True
    return _settled(gate, counted, measured) is not None


def _counted(gate: Gate, measured: Measured) -> _Counted:
    metric, filters = gate.metric, dict(gate.filters)
    cases = [case for case in measured.expected if gate.concerns(case)]
    ids = {str(case.id) for case in cases}  # type: ignore[attr-defined]
    rows = [row for row in measured.rows if row.id in ids]
    counted = scored(metric, rows, gate.argument)
    seen = set(measured.seen)
    missing = len(ids - seen)
    controls = {str(c.id) for c in metric.chance_rows(measured.expected, filters)}
    controls_missing = len(controls - seen)
    return _Counted(
        rows=counted,
        # A part of the controls may be any part: then no chance is taken off.
        controls=[] if controls_missing else metric.chance_rows(measured.rows, filters),
        units=units_of(cases, gate.each_alone),
        errors=len(ids) - missing - len(counted),
        unscored=len(rows) - len(counted),
        missing=missing,
        expected=len(ids),
        controls_missing=controls_missing,
    )


def _not_evaluated(gate: Gate, n: int, reason: str, blocks: bool) -> GateResult:
    return GateResult(gate, Verdict.NOT_EVALUATED, n, advice=reason, blocks=blocks)


def _with_errors(result: GateResult, counted: _Counted) -> GateResult:
    """A run with errors never passes, and says that it has them."""
    if not counted.errors:
        return result
    if counted.unscored == counted.errors:
        advice = (
            f"{counted.errors} cases have no such score (a kind without decoys, or a model without "
            "scores); restrict the gate, as in [kind=email]"
        )
    else:
        advice = f"{counted.errors} cases ended in an error: mend it and run again"
    return replace(
        result,
        verdict=Verdict.UNDECIDED if result.verdict is Verdict.PASS else result.verdict,
        blocks=True,
        advice=advice,
    )


def _settled(gate: Gate, counted: _Counted, measured: Measured) -> GateResult | None:
    """Return the verdict that a gate has whatever the missing cases bring, or None.

    Each verdict is monotone in what the base and in what the tested model did: what holds with
    all missing cases at either end holds for everything between. Of chance, only that it never
    turns a PASS into anything else: other verdicts wait for the controls.
    """
    if not measured.two_states and gate.metric.type in ("ratio", "drop", "loss"):
        return None
    top = _MOST_BITS if gate.metric.type == "maximum" else 1.0
    now = sample(gate.metric, counted.rows, counted.controls, gate.argument, gate.each_alone)
    ends = [
        _with_errors(
            _decide(gate, _filled(gate, now, counted, base, new), measured),
            counted,
        )
        for base, new in itertools.product((0.0, top), repeat=2)
    ]
    if len({(end.verdict, end.blocks) for end in ends}) > 1:
        return None
    if counted.controls_missing and ends[0].verdict is not Verdict.PASS:
        return None
    # The end that is nearest to another verdict is the one to show.
    nearest = (
        ends[0] if (ends[0].verdict is Verdict.FAIL) == (gate.metric.type in UPPER) else ends[1]
    )
    done = counted.expected - counted.missing
    advice = f"settled after {done} of {counted.expected} cases: the others could change nothing"
    return replace(nearest, advice="; ".join(filter(None, (nearest.advice, advice))))


def _filled(gate: Gate, now: Sample, counted: _Counted, base: float, new: float) -> Sample:
    """Return a sample in which all missing cases have these scores."""
    size = now.n + counted.missing
    missing = counted.missing
    return Sample(
        base=(*now.base, *[base] * missing),
        new=(*now.new, *[new] * missing),
        units=counted.units * size / counted.expected,
        had=(*now.had, *[base] * missing) if gate.metric.had else (),
        chance=now.chance,
    )


def _decide(gate: Gate, found: Sample, measured: Measured) -> GateResult:
    """Return the verdict on a complete sample."""
    if not measured.two_states and gate.metric.type in ("ratio", "drop", "loss"):
        advice = "nothing to compare with; give --unlearn-baseline=NAME"
        return _not_evaluated(gate, found.n, advice, blocks=False)
    reading = read(gate.metric.type, found, measured.confidence)
    if reading is None:
        advice = "the base succeeds nowhere, so nothing could be lost; use cases it can do"
        return GateResult(gate, Verdict.NOT_EVALUATED, found.n, advice=advice)
    if gate.by_counting:
        result = _counting(gate, found, measured.confidence)
    else:
        result = _bounded(gate, found, reading, measured)
    observed = _observed(gate, found, reading)
    return replace(result, n=found.n, units=found.units, observed=observed)


def _counting(gate: Gate, found: Sample, confidence: float) -> GateResult:
    """Judge a gate that one event fails. None seen is a PASS that says what n excludes."""
    events = sum(score > gate.limit for score in found.new)
    if events:
        advice = f"{events} of {found.n} cases break it, and none may; {_LONGER}"
        return GateResult(gate, Verdict.FAIL, bound=f"{events} over", advice=advice)
    upper = clopper_pearson_upper(0, found.units, confidence)
    bound = f"<={upper:.1%}" + (" over" if gate.metric.type == "maximum" else "")
    if found.had and not any(score > gate.limit for score in found.had):
        return _nothing_to_forget(gate, found, bound)
    advice = (
        f"counted: none of {found.n} cases; that excludes, with {percent(confidence)} confidence, "
        f"a share over {upper:.1%}, and nothing smaller"
    )
    return GateResult(gate, Verdict.PASS, bound=bound, advice=advice, blocks=False)


def _bounded(gate: Gate, found: Sample, reading: Reading, measured: Measured) -> GateResult:
    """Judge by the bounds of a reading."""
    metric, limit = gate.metric, gate.limit
    if metric.type in UPPER:
        keeps, breaks = reading.upper <= limit, reading.lower > limit
        bound, opposite = f"<={metric.show(reading.upper)}", f">={metric.show(reading.lower)}"
    else:
        keeps, breaks = reading.lower >= limit, reading.upper < limit
        bound, opposite = f">={metric.show(reading.lower)}", f"<={metric.show(reading.upper)}"
    if breaks:
        return GateResult(gate, Verdict.FAIL, bound=opposite, advice=_after_failure(metric))
    if found.had and _lower(found.had, found.units, measured.confidence) <= limit:
        return _nothing_to_forget(gate, found, bound)
    if keeps:
        return GateResult(gate, Verdict.PASS, bound=bound, blocks=False)
    advice, blocks = _would_decide(gate, found, measured.confidence), measured.undecided_blocks
    return GateResult(gate, Verdict.UNDECIDED, bound=bound, advice=advice, blocks=blocks)


_LONGER = "unlearn longer or by another method (--unlearn-method); -v lists the leaking probes"


def _after_failure(metric: Metric) -> str:
    if metric.split == "control":
        return (
            "people that the model never saw come out: their values can be guessed, or it did see "
            "them; take other control people"
        )
    if metric.name.startswith("leak."):
        return _LONGER
    return "unlearn more gently: fewer steps, a lower lr, or a method with a retain set"


def _lower(scores: Sequence[float], units: float, confidence: float) -> float:
    share = min(1.0, math.fsum(scores) / len(scores))
    return clopper_pearson_lower(share * units, units, confidence)


def _nothing_to_forget(gate: Gate, found: Sample, bound: str) -> GateResult:
    if gate.metric.type == "maximum":
        gave = f"none of {found.n} values stood out on the base"
    elif gate.metric.counted:
        gave = f"the base gives away only {math.fsum(found.had):g} of {found.n}"
    else:
        gave = f"the base gives away only {math.fsum(found.had) / found.n:.1%}"
    advice = f"{gave}, so silence shows nothing; probe with data that the base knows"
    return GateResult(gate, Verdict.NOT_EVALUATED, bound=bound, advice=advice)


def _would_decide(gate: Gate, found: Sample, confidence: float) -> str:
    if gate.metric.type != "rate" or not gate.metric.counted:
        return "more cases, or fewer losses, would decide it"
    allowed = events_allowed(gate.limit, found.n, confidence, found.units)
    if allowed is None:  # errors left fewer probes than the limit needs
        return f"{found.n} probes are too few for this limit; take more"
    return (
        f"{found.n} probes can show this limit with at most {allowed} leaks; unlearn further, "
        "or take more probes"
    )


def _observed(gate: Gate, found: Sample, reading: Reading) -> str:
    metric = gate.metric
    new, base = math.fsum(found.new), math.fsum(found.base)
    match metric.type:
        case "maximum":
            return metric.show(reading.figure)
        case "floor":
            return f"{new:g}/{found.n} ({new / found.n:.1%})"
        case "ratio":
            return f"{new:g}/{base:g} ({new / base:.1%})"
        case "drop":
            return f"{base:g} to {new:g} ({reading.figure:.1%} less)"
        case "loss":
            return f"{base:g} to {new:g} ({reading.figure * 100:.1f} pp)"
    chance = f", chance {found.chance[0]:.1%}" if found.chance else ""
    if metric.counted:
        return f"{new:g} ({reading.figure:.1%}{chance})"
    return f"{reading.figure:.2%}{chance}"
