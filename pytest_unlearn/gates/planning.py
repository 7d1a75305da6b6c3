"""What gates need from the data, checked before a model is loaded and shown by `--unlearn-plan`;
and curtailment: skipping cases because every gate that counts them has already failed."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pytest_unlearn.core.text_files import held
from pytest_unlearn.gates.case_rows import Countable
from pytest_unlearn.gates.estimates import events_allowed, people_of, percent, units_needed
from pytest_unlearn.gates.gate import (
    DEFAULT,
    PROFILES,
    REQUESTS,
    Gate,
    GateError,
    concerns,
    narrowed,
)
from pytest_unlearn.gates.metrics import GAPS, METRICS, ROW_FILTERS, SIDES, Metric, Type
from pytest_unlearn.gates.statistics import CONFIDENCE, people_for_power
from pytest_unlearn.gates.verdicts import Measured, fails_whatever


@dataclass(frozen=True, slots=True)
class GatePlan:
    """What a gate needs and what the data have.

    `units` is the number of people or tasks, and `needed` how many a perfect model needs.
    `powered`: with this many, a model that uses up a fifth of the limit passes in 80 % of runs
    (None for gates that count, and if no number is enough). `allowed`: the most leaks (or lost
    cases) with which it passes if the base has all and controls have none; None if not even 0.
    """

    gate: Gate
    cases: int
    units: int
    needed: int
    powered: int | None
    allowed: int | None


def plan_gate(
    gate: Gate,
    cases: Sequence[Countable],
    confidence: float,
    requests: bool = False,
) -> GatePlan:
    """Return what a gate needs. Raises GateError for a limit that no data can show.

    `requests`: the people to forget are the whole population, so one is enough.
    """
    concerned = list(filter(narrowed(gate, cases, requests).concerns, cases))
    people = people_of(concerned, gate.each_alone)
    exact = requests and gate.metric.split == "forget" and not gate.metric.drawn
    allowed: int | None = math.floor(gate.limit) if gate.metric.type == "count" else 0
    if exact and gate.metric.type == "rate":
        allowed = math.floor(gate.limit * len(concerned))
    elif gate.metric.type in GAPS | SIDES:
        allowed = None
    elif not exact and not gate.by_counting:
        allowed = events_allowed(gate.metric.type, gate.limit, people, confidence)
    return GatePlan(
        gate,
        len(concerned),
        len(set(people)),
        1 if exact else gate.units_needed(confidence),
        None if exact else powered(gate.metric.type, gate.limit, confidence),
        allowed if concerned else None,
    )


def powered(type_: Type, limit: float, confidence: float) -> int | None:
    """Return how many people or tasks let a good, but not perfect, model pass in 80 % of runs.

    The model leaks (or loses) a fifth of what the limit allows, by whole people; if only some of a
    person's records leak, fewer people are enough. None for gates that count, and for drops.
    """
    if type_ in ("maximum", "count") or limit == 0:
        return None
    if type_ == "drop" or type_ in GAPS | SIDES:  # these are not rates
        return None
    slack = limit if type_ in ("rate", "loss") else 1.0 - limit
    return people_for_power(slack, slack / 5, confidence)


def check_decoys(gate: Gate, decoys: int) -> None:
    """Raise GateError for a limit on exposure that needs more decoys to be broken."""
    if gate.metric.type == "maximum" and decoys + 1 <= 2**gate.limit:
        least = math.floor(2**gate.limit)
        raise GateError(
            f"{gate.text}: {decoys} decoys can show at most {math.log2(decoys + 1):.3g} bits; "
            f"write --unlearn-exposure={least} or more"
        )


def check_samples(gate: Gate, samples: int) -> None:
    """Raise GateError for a gate on more samples of a probe than there are."""
    if gate.metric.name == "leak.sampled" and (gate.argument or 0) > samples:
        raise GateError(
            f"{gate.text}: {samples} texts are sampled for each probe; write "
            f"--unlearn-leak-samples={gate.argument} or more"
        )


def check_feasible(
    gates: Iterable[Gate],
    cases: Sequence[Countable],
    *,
    confidence: float,
    decoys: int = 0,
    requests: bool = False,
    samples: int = 0,
    impossible: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Raise GateError for a gate that the data could not meet even with perfect results.

    `decoys`: how many each value is ranked among, for gates on exposure. `requests`: see
    `plan_gate`. `samples`: texts drawn for each probe. `impossible`: attacks that were named and
    cannot be made, and why: gates on them are not evaluated.
    """
    for gate in gates:
        if gate.why_not_made(impossible):
            continue
        plan = plan_gate(gate, cases, confidence, requests)
        check_decoys(gate, decoys)
        check_samples(gate, samples)
        if plan.units >= plan.needed:
            continue
        metric = gate.metric
        if not plan.cases and (named := _named_nowhere(gate, cases)):
            raise GateError(f"{gate.text}: {named}")
        alone = gate.each_alone
        shared = any(case.cluster for case in cases)
        merged = " (people who share a value or a prompt count as one)" if shared else ""
        have = f"{plan.cases}" if alone else f"{plan.units} (in {plan.cases} {metric.cases})"
        raise GateError(
            f"{gate.text} needs at least {plan.needed} {metric.cases if alone else metric.units} "
            f"to be shown with {percent(confidence)} confidence, and the data have {have}{merged}; "
            f"add data or choose a limit that they can show{_advice(metric)}"
        )


def _named_nowhere(gate: Gate, cases: Sequence[Countable]) -> str:
    """Return a message about a name in the brackets that no case has; else an empty text."""
    split = gate.metric.split
    for key, value in gate.filters:
        if key not in ROW_FILTERS or (key, value) == ("probe", "all"):
            continue
        asked = [case for case in cases if case.split == split]
        known = sorted({ROW_FILTERS[key](case) for case in asked} - {""})
        if value not in known:
            known_names = f"known: {', '.join(known)}" if known else "they have none"
            return f"none of the {gate.metric.cases} has {key}={value}; {known_names}"
    return ""


def _advice(metric: Metric) -> str:
    """Return what else to do about too few data of a split."""
    if metric.split == "forget":
        return (
            "; if these people are everybody to be forgotten, and not a sample, judge only them: "
            "--unlearn-population=requests"
        )
    if metric.split == "retain" and metric.rehearsed:
        return (
            "; only those whom the method trains on to keep them count, half of the retained ones; "
            "a method without a retain set trains on nobody"
        )
    if metric.split == "retain":
        return (
            "; only those whom unlearning never saw count, half of the retained ones: give more "
            "(--unlearn-retain=FILE, or retain=N of --unlearn-people), or name the gates yourself"
        )
    return ""


# -- the list of metrics: `--unlearn-metrics`, and the tables in the documentation --------------

# Two limits of each type, to show what they need.
_EXAMPLES = {
    "rate": (0.05, 0.01),
    "loss": (0.03, 0.01),
    "floor": (0.95, 0.99),
    "ratio": (0.9, 0.95),
    "drop": (0.5, 0.9),
    "gap": (0.05, 0.01),
    "auc": (0.65, 0.55),
}
_PERFECT = {
    "rate": "without an event",
    "loss": "without a loss",
    "floor": "without a failure",
    "ratio": "that lose nothing",
    "drop": "that stop leaking",
    "gap": "on whom both models are alike",
    "auc": "on each side who cannot be told apart",
}


def size_rule(metric: Metric, confidence: float) -> str:
    """Return the fewest people or tasks that a gate on this metric needs."""
    if metric.type == "maximum":
        return "decided by counting; more than 2^limit decoys"
    if metric.type == "count":
        return "decided by counting; one person is enough"
    if metric.type == "auc gap":
        return "two people on each side; the more, the narrower the interval"
    who = "tasks" if metric.split is None else "people"
    show = metric.show_limit if metric.type == "auc" else "{:.0%}".format
    sizes = ", ".join(
        f"{units_needed(metric.type, limit, confidence)} for {show(limit)}"
        for limit in _EXAMPLES[metric.type]
    )
    return f"{sizes} ({who} {_PERFECT[metric.type]})"


def power_rule(metric: Metric, confidence: float) -> str:
    """Return how many people or tasks let a good model pass in 80 % of runs, or an empty text."""
    if metric.type not in _EXAMPLES or metric.type in GAPS | SIDES:
        return ""
    limits = _EXAMPLES[metric.type]
    sizes = [
        f"{n} for {limit:.0%} at a true {_fifth(metric.type, limit)}"
        for limit in limits
        if (n := powered(metric.type, limit, confidence)) is not None
    ]
    return ", ".join(sizes)


def _fifth(type_: Type, limit: float) -> str:
    """Return the rate of the model for which `powered` counts people, as text."""
    slack = limit if type_ in ("rate", "loss") else 1.0 - limit
    share = slack / 5 if type_ in ("rate", "loss") else 1.0 - slack / 5
    return f"{100 * share:.6g}%"


def metric_lines(confidence: float) -> Iterator[str]:
    """Yield the list of metrics and profiles as plain text."""
    bound = f"{percent(confidence)} bound"
    yield f"Metrics of --unlearn-gate, each judged on a one-sided {bound}; counted leaks can be"
    yield "held to 0 as well, which one leak fails:"
    for metric in METRICS.values():
        yield ""
        yield f"{metric.form}{metric.operator}LIMIT"
        yield f"    {metric.about}"
        yield f"    unit    {metric.unit}"
        yield f"    needs   {size_rule(metric, confidence)}"
        if power := power_rule(metric, confidence):
            yield f"    power   of 80%: {power}"
        yield f"    source  {metric.source}"
    yield ""
    yield "Profiles of --unlearn-profile:"
    for profile in (*PROFILES.values(), DEFAULT, REQUESTS):
        yield ""
        yield f"{profile.name}: {'  '.join(profile.gates)}"
        if profile.gaps:
            yield f"    with --unlearn-retrained: {'  '.join(profile.gaps)}"
        yield f"    {profile.about}"


def metric_table() -> str:
    """Return the metrics as a Markdown table."""
    lines = [
        "| gate | meaning | unit | needs at least | for 80 % power | source |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{metric.form}{metric.operator}` | {metric.about} | {metric.unit} | "
        f"{size_rule(metric, CONFIDENCE)} | {power_rule(metric, CONFIDENCE) or '-'} | "
        f"{metric.source} |"
        for metric in METRICS.values()
    ]
    return "\n".join(lines)


def profile_table() -> str:
    """Return the profiles as a Markdown table."""
    lines = ["| profile | gates |", "|---|---|"]
    lines += [
        f"| `{profile.name}` | {', '.join(f'`{gate}`' for gate in profile.gates)}"
        + (
            f"; with `--unlearn-retrained`: {', '.join(f'`{gate}`' for gate in profile.gaps)}"
            if profile.gaps
            else ""
        )
        + " |"
        for profile in (*PROFILES.values(), DEFAULT, REQUESTS)
    ]
    return "\n".join(lines)


REASON = "curtailed: every gate that counts this case has failed already"
# The name of what is never settled early.
_COMPARED = "compared"


class Curtailment:
    """The gates that have failed for good, in a file that other processes can read.

    The process that judges makes it with `start` and calls `update`; a worker opens it by its path.
    """

    def __init__(
        self,
        gates: Sequence[Gate],
        cases: Sequence[Countable],
        path: Path,
        compared: Sequence[Gate] = (),
        requests: bool = False,
    ) -> None:
        """`compared`: metrics whose change since a saved run is judged; all their cases are run.

        `requests`: the people to forget are asked in every way.
        """
        self.path = path
        self._gates = gates
        gates_of: dict[str, set[str]] = {}
        for gate, name in [(g, g.name) for g in gates] + [(g, _COMPARED) for g in compared]:
            for case in concerns(gate, cases, requests):
                gates_of.setdefault(str(case.id), set()).add(name)
        self._gates_of = gates_of
        # Checking costs a pass over all cases, so it is done after each hundredth of them.
        self._step = max(1, len(cases) // 100)
        self._looked_at = 0
        self._settled: frozenset[str] = frozenset()
        self._read_at = -1
        self._lock: int | None = None

    @classmethod
    def start(
        cls,
        gates: Sequence[Gate],
        cases: Sequence[Countable],
        folder: Path,
        compared: Sequence[Gate] = (),
        requests: bool = False,
    ) -> Curtailment:
        """Make the file in an existing folder, readable only by its owner.

        It is locked until `end`, so that the file of a killed run can be removed.
        """

        def make() -> Path:
            handle, name = tempfile.mkstemp(dir=folder, prefix="settled-", suffix=".json")
            os.close(handle)
            return Path(name)

        path, lock = held(make)
        path.write_text("[]", encoding="ascii")
        started = cls(gates, cases, path, compared, requests)
        started._lock = lock
        return started

    def update(self, measured: Measured) -> None:
        """Find the gates that are settled by what was measured so far."""
        if len(measured.seen) < self._looked_at + self._step:
            return
        self._looked_at = len(measured.seen)
        now = self._settled | {
            gate.name
            for gate in self._gates
            if gate.name not in self._settled and fails_whatever(gate, measured)
        }
        if now != self._settled:
            self._settled = now
            # In place, since the lock is on this file. Half a list is not JSON, so nobody reads it.
            self.path.write_text(json.dumps(sorted(now)), encoding="ascii")

    def needless(self, case_id: str) -> bool:
        """Return whether all gates that count a case have failed for good.

        A case that no gate counts is needless if all gates have.
        """
        counting = self._gates_of.get(case_id, {gate.name for gate in self._gates})
        return bool(counting) and counting <= self._known()

    def _known(self) -> frozenset[str]:
        with contextlib.suppress(OSError, ValueError):  # gone: its process has ended
            changed = self.path.stat().st_mtime_ns
            if changed != self._read_at:
                self._settled = frozenset(json.loads(self.path.read_bytes()))
                self._read_at = changed
        return self._settled

    def end(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
