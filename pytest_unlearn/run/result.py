"""The result of one run, and how it is built: plain data that every report format renders."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pytest_unlearn.attacks.attack import attacks, parse_attacks
from pytest_unlearn.gates.case_rows import Row
from pytest_unlearn.gates.estimates import Share, percent, shares, size
from pytest_unlearn.gates.gate import SOUND
from pytest_unlearn.gates.judging import Population, Undecided
from pytest_unlearn.gates.metrics import GAPS, METRICS
from pytest_unlearn.gates.statistics import CONFIDENCE
from pytest_unlearn.gates.verdicts import GateResult
from pytest_unlearn.probes.families import Probe
from pytest_unlearn.run.provenance import Clock, manifest, redacted

if TYPE_CHECKING:
    from pytest_unlearn.leaks.prompt_search import SearchSummary
    from pytest_unlearn.run.dataset import Dataset
    from pytest_unlearn.run.measuring import Measuring
    from pytest_unlearn.run.settings import Settings
    from pytest_unlearn.tasks.format import TaskCase


Status = Literal["measured", "error", "not run"]


@dataclass(frozen=True, slots=True)
class PairName:
    """A pair of a sweep, as `settings.Pair` names it; `apart` as in `divisions.Requests`."""

    label: str
    model: str
    method: str
    request: str = ""
    apart: bool = False


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What was run. `interrupted` is why a run stopped early, None for a complete one.

    `complete`: every case of the data set was run. `expected` counts the cases of the data set.
    `steps` and `unlearning_seconds` are of the unlearning, None if nothing was unlearned.
    `values_shown`: the user asked for values in the reports. How it was judged: the `confidence` of
    each bound, what an `undecided` gate does, whether the people to forget are all there are
    (`population`), whether a part counts as a failure
    (`require_complete`), and whether cases were left out because they could change no verdict
    (`curtailed`). `attacks` are those of membership inference, `tried` the attacks that were made
    on the tested model, `untried` those of the set `all` that could have been, and `impossible`
    those that were named and cannot be made, with the reason. `failures` are
    the tests that failed or ended in an error; any of them forbids the release. `left_out` are the
    pairs of a sweep without a case that was run. `models_judged`: how many models were judged on
    these data, according to the store.
    """

    model: str
    method: str
    baseline: str | None
    seed: int
    expected: int
    complete: bool
    interrupted: str | None = None
    two_states: bool = True
    attacks: tuple[str, ...] = ()
    steps: int | None = None
    unlearning_seconds: float | None = None
    values_shown: bool = False
    confidence: float = CONFIDENCE
    undecided: Undecided = "fail"
    population: Population = "sample"
    require_complete: bool = False
    curtailed: bool = False
    tried: tuple[str, ...] = ()
    untried: tuple[str, ...] = ()
    impossible: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    models_judged: int = 1

    @property
    def bound_head(self) -> str:
        """The head of a column of bounds."""
        return f"{percent(self.confidence)} bound"


@dataclass(frozen=True, slots=True)
class GateFact:
    """A judged gate, or a limit on a change. `text` is as the user wrote it, `limit_text` has the
    operator, and the rest is as in GateResult."""

    name: str
    text: str
    limit_text: str
    verdict: str
    blocks: bool
    n: int
    observed: str
    bound: str
    advice: str
    units: int = 0
    population: str = ""
    rehearsed: bool = False

    @property
    def size(self) -> str:
        """Return the number of cases, and that of people or tasks if it is smaller."""
        return size(self.n, self.units)


@dataclass(frozen=True, slots=True)
class Case:
    """A case of the data set with its row, if it was measured.

    `about` holds what metrics count it by, measured or not: the split, kind and so on of a probe,
    the task of a task case. `shown` is how the probed value may be printed (kind and fingerprint),
    empty for a task. `value`, `base_text` and `tested_text` are set only if the user asked for
    values.
    """

    id: str
    status: Status
    row: Row | None = None
    shown: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    value: str | None = field(default=None, repr=False)
    base_text: str | None = field(default=None, repr=False)
    tested_text: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that a report can say about a run.

    `provenance` is the manifest (`run.provenance`) and `search` the summary of a search for leaking
    prompts, both as JSON data. `pair` is set if the run was part of a sweep.
    """

    run: RunFacts
    gates: tuple[GateFact, ...]
    metrics: tuple[Share, ...]
    cases: tuple[Case, ...]
    provenance: dict[str, Any]
    search: dict[str, Any] | None = None
    pair: PairName | None = None

    @property
    def label(self) -> str:
        """The pair's name in a sweep; empty otherwise."""
        return self.pair.label if self.pair else ""

    @property
    def rows(self) -> list[Row]:
        """The rows of all measured cases."""
        return [case.row for case in self.cases if case.row is not None]

    @property
    def errors(self) -> int:
        """Number of cases that were run and gave no row."""
        return sum(case.status == "error" for case in self.cases)

    @property
    def verdict(self) -> str:
        """The verdict on this run: `FOR RELEASE`, `NOT FOR RELEASE` or `NO VERDICT`."""
        named = [(gate.name, gate) for gate in self.gates]
        return concluded(named, self.run.failures, models_judged=self.run.models_judged)[0]

    @property
    def grounds(self) -> str:
        """What a release rests on, what it leaves open, and what was not tried."""
        notes = _notes([(gate.name, gate) for gate in self.gates], self.run.models_judged)
        return "; ".join([*notes, _grounds(self.gates, [self])])

    @property
    def caveat(self) -> str:
        """Why this is not the result of a complete run, or an empty text."""
        if self.run.interrupted:
            return f"The run was interrupted ({self.run.interrupted}); this is what was measured."
        if not self.run.complete:
            return f"Only {len(self.rows) + self.errors} of {self.run.expected} cases were run."
        if self.errors:
            one = self.errors == 1
            cases = "1 case" if one else f"{self.errors} cases"
            return f"{cases} ended in an error and {'is' if one else 'are'} not counted."
        return ""

    @property
    def dropped(self) -> str:
        """Which gates of an earlier run were left out when it was judged again, in a sentence."""
        gates = self.provenance.get("replayed", {}).get("dropped", [])
        if not gates:
            return ""
        return f"Judged again, without the earlier run's {', '.join(gates)}."


def dropped_gates(before: Iterable[str], now: Sequence[str]) -> list[str]:
    """Return which gates of an earlier run are left out now, as they were written.

    A gate with another limit is not left out: the list of changes has it.
    """
    subjects = {_LIMIT.split(text)[0].strip() for text in now}
    return [text for text in before if _LIMIT.split(text)[0].strip() not in subjects]


_LIMIT = re.compile("[<>]=|:")


def verdict_of_all(results: Sequence[Result]) -> str:
    """Return the verdict on a sweep: every pair must pass, and any of them can block."""
    return conclusion_of_all(results)[0]


def conclusion_of_all(results: Sequence[Result]) -> tuple[str, str]:
    """Return the verdict on a run, or on all pairs of a sweep, and why; see `concluded`."""
    gates = [
        (f"{gate.name} @ {result.label}" if result.label else gate.name, gate)
        for result in results
        for gate in result.gates
    ]
    failures = [name for result in results for name in result.run.failures]
    left_out = [label for result in results for label in result.run.left_out]
    left_out += [result.label for result in results if not result.gates]
    models = max(result.run.models_judged for result in results)
    rests_on = _grounds([gate for _, gate in gates], results)
    # If all pairs passed, nothing was chosen.
    return concluded(gates, failures, left_out, rests_on, models if models > len(results) else 1)


def _grounds(gates: Iterable[GateFact], results: Sequence[Result]) -> str:
    run = results[0].run
    searches = [result.search["report"] for result in results if result.search]
    return grounds(gates, run.tried, run.untried, run.impossible, searches)


_GATE_NAME = re.compile(r"([a-z.]+)(?:\((\d+)\))?(?:\[(.*)\])?")


def grounds(
    gates: Iterable[GateFact],
    tried: Sequence[str],
    untried: Sequence[str],
    impossible: Sequence[str] = (),
    searches: Iterable[Mapping[str, Any]] = (),
) -> str:
    """Return which attacks the gates that passed withstood, and which were not tried, in words.

    An attack that was made but that no gate judges, or only a part of it, is named as such.
    `impossible`: attacks that cannot be made, with the reason in parentheses. `searches`: reports
    of `--unlearn-search`, which no gate judges.
    """
    withstood, judged, in_part = _withstood([g for g in gates if g.verdict == "PASS"], tried)
    claims = []
    # What comes out of control people alike is chance.
    told = sum(s["forget_found"] for s in searches if s["verdict"] in ("leaks", "undecided"))
    if told:
        values = "a value" if told == 1 else f"{told} values"
        claims.append(
            f"--unlearn-search brought out {values}, which no gate judges "
            "(--unlearn-attacks=search and leak.worst do)"
        )
    limits = set(withstood.values())
    if len(limits) == 1 and len(withstood) > 1:
        claims.append(f"withstood {', '.join(withstood)}: all {limits.pop()}")
    elif withstood:
        listed = (f"{what} ({limit})" for what, limit in withstood.items())
        claims.append(f"withstood {', '.join(listed)}")
    if unjudged := [name for name in tried if name not in judged]:
        listed = (f"all of {name}" if name in in_part else name for name in unjudged)
        claims.append(f"no gate judges {', '.join(listed)}")
    if impossible:
        names = (name.partition(" (")[0] for name in impossible)
        claims.append(f"cannot be made here: {', '.join(names)}")
    if not tried:
        claims.append("no attack was tried (--unlearn-attacks=cheap tries some)")
    elif untried:
        claims.append(f"not tried: {', '.join(untried)}")
    return "; ".join(claims)


def _withstood(
    passed: Sequence[GateFact], tried: Sequence[str]
) -> tuple[dict[str, str], set[str], set[str]]:
    """Return the limit that each attack kept, in words; the attacks that are judged whole, and
    those that are judged in part: at one stage, or on some of the people.

    What a gate names goes before what `leak.worst` says of all that bring out a value.
    """
    limits: dict[tuple[int, int, str], str] = {}  # by place, number of samples, and words
    judged, in_part = set[str](), set[str]()
    places = {name: place for place, name in enumerate(tried)}
    for gate in sorted(passed, key=lambda gate: not gate.name.startswith("leak.worst")):
        match = _GATE_NAME.fullmatch(gate.name)
        metric = METRICS.get(match[1]) if match else None
        if match is None or metric is None or metric.type in GAPS:
            continue
        samples = int(match[2] or 0)
        filters = dict(part.split("=", 1) for part in (match[3] or "").split(",") if part)
        state = filters.pop("attack", metric.attack)
        filters.pop("unit", None)
        of = "".join(f" [{key}={value}]" for key, value in filters.items())
        names = [state] if state else []
        if metric.worst == "attack" and not state:
            names = [name for name in tried if name not in metric.unjudged]
        (in_part if of else judged).update(name for name in names if "@" not in name)
        in_part.update(name.partition("@")[0] for name in names if "@" in name)
        words = f"{samples:,} samples" if samples else ""
        if not names and metric.name == "leak.at":
            limits[len(tried), samples, words + of] = gate.limit_text
        elif names and samples and not state:
            limits[len(tried) + 1, samples, f"{words} after each{of}"] = gate.limit_text
        else:
            after = f" in {words}" if words else ""
            for name in names:
                place = places.get(name.partition("@")[0], -1)
                limits[place, samples, f"{_in_words(name)}{after}{of}"] = gate.limit_text
    return {key[2]: limits[key] for key in sorted(limits)}, judged, in_part


def _in_words(name: str) -> str:
    """Return an attack's name, with its steps if it trains."""
    attack = attacks().get(name)
    trains = attack is not None and attack.stages and attack.trains and attack.changes_weights
    return f"{name} {attack.stages[-1]} steps" if attack and trains else name


# The line of the verdict names this many failed tests.
_NAMED = 3


def concluded(
    gates: Sequence[tuple[str, GateFact]],
    failures: Sequence[str] = (),
    left_out: Sequence[str] = (),
    rests_on: str = "",
    models_judged: int = 1,
) -> tuple[str, str]:
    """Return the verdict on a run, and why. Screen, reports, replay and exit code all use it.

    `gates`: with the names under which they are shown. `failures`: tests that failed or ended in an
    error. `left_out`: pairs of a sweep that were not run. `rests_on`: what a release rests on
    (`grounds`). `models_judged`: how many models were judged on these data, these included. FOR
    RELEASE needs at least one gate, every gate to pass, no failure and nothing left out.
    """
    reasons = [f"{name} {gate.verdict}" for name, gate in gates if gate.blocks]
    if failures:
        names = list(dict.fromkeys(failures))
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        tests = "test" if len(names) == 1 else "tests"
        reasons.append(f"{len(names)} {tests} failed ({', '.join(names[:_NAMED])}{more})")
    if reasons:
        return "NOT FOR RELEASE", ", ".join(reasons)
    if left_out:
        return "NO VERDICT", f"not run: {', '.join(dict.fromkeys(left_out))}"
    if not gates:
        return "NO VERDICT", "no case was run"
    passed = [gate for _, gate in gates if gate.verdict == "PASS"]
    if len(passed) == len(gates):
        notes = _notes(gates, models_judged)
        more = f" ({'; '.join(notes)})" if notes else ""
        return "FOR RELEASE", "; ".join(filter(None, (f"every gate passed{more}", rests_on)))
    through = [name for name, gate in gates if gate.verdict == "UNDECIDED"]
    untold = len(gates) - len(passed) - len(through)
    reasons = [f"{untold} of {len(gates)} gates not evaluated"] if untold else []
    if through:
        reasons.append(f"{', '.join(through)} UNDECIDED, let through by --unlearn-undecided=warn")
    return "NO VERDICT", "; ".join(reasons)


def _notes(gates: Sequence[tuple[str, GateFact]], models_judged: int) -> list[str]:
    """Say what a release leaves open: gates that show little or are missing, a choice of many."""
    trained = [name for name, gate in gates if gate.rehearsed]
    notes = [f"{', '.join(trained)}: only on what unlearning trained on"] if trained else []
    notes += _not_judged([gate.name for _, gate in gates])
    if models_judged > 1:
        notes.append(f"best of {models_judged} models judged on these people and tasks")
    return notes


def _not_judged(names: Sequence[str]) -> list[str]:
    """Say which gates are missing that a broken model would not pass; see `gates.gate.SOUND`."""
    metrics = {name.partition("[")[0].partition("(")[0] for name in names}
    missing = [about for about, ones in SOUND.items() if not metrics & ones]
    return [f"no gate on {' or '.join(missing)}"] if missing else []


# The attributes by which metrics count a probe, including its person, and a task case; they are in
# `Case.about`.
CASE_FACTS: tuple[str, ...] = (
    *("split", "family", "kind", "carrier", "planted", "language", "knowledge", "owner"),
    *("rehearsed", "cluster", "request", "attack", "task"),
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: the rows by case, the ids of the cases that were run, the gates."""

    rows: Mapping[str, Row]
    seen: Collection[str]
    gates: Sequence[GateResult]
    search: SearchSummary | None
    interrupted: str | None
    failures: Sequence[str] = ()
    left_out: Sequence[str] = ()
    models_judged: int = 1


def build_result(
    ended: Ended,
    settings: Settings,
    dataset: Dataset,
    engine: Measuring,
    clock: Clock,
    command: Sequence[str],
) -> Result:
    """Return the result of a run; loads no model. `command`: pytest's arguments."""
    cases = dataset.cases(settings.method)
    checkpoint = engine.models.stored_unlearning()
    interrupted = ended.interrupted
    if interrupted is not None:
        interrupted = redacted(interrupted, settings.fingerprint_key, dataset)
    run = RunFacts(
        model=settings.model,
        method=settings.method.name,
        baseline=settings.baseline,
        seed=settings.seed,
        expected=len(cases),
        complete=interrupted is None and {case.id for case in cases} <= set(ended.seen),
        interrupted=interrupted,
        two_states=settings.compares_two_states,
        attacks=tuple(settings.membership),
        steps=checkpoint.steps if checkpoint else None,
        unlearning_seconds=checkpoint.seconds if checkpoint else None,
        values_shown=settings.show_values,
        confidence=settings.judging.confidence,
        undecided=settings.judging.undecided,
        population=settings.judging.population,
        require_complete=settings.judging.require_complete,
        curtailed=settings.judging.curtail,
        tried=tuple(attack.name for attack in dataset.attacks.made(settings.method)),
        untried=untried(settings, dataset),
        impossible=tuple(
            f"{name} ({reason})"
            for name, reason in dataset.attacks.impossible(settings.method).items()
        ),
        failures=tuple(
            redacted(name, settings.fingerprint_key, dataset) for name in ended.failures
        ),
        left_out=tuple(ended.left_out),
        models_judged=ended.models_judged,
    )
    facts = manifest(
        settings, dataset, engine.models, engine.phases, clock, command, bool(ended.rows)
    )
    gates = [result.gate.text for result in ended.gates]
    if dropped := dropped_gates(engine.recorded_gates, gates):
        facts["replayed"] = {"gates": gates, "dropped": dropped}
    return Result(
        run=run,
        gates=tuple(map(gate_fact, ended.gates)),
        metrics=shares(list(ended.rows.values()), run.confidence, run.two_states),
        cases=tuple(_case(case, ended, engine, settings.show_values) for case in cases),
        provenance=facts,
        search=asdict(ended.search) if ended.search else None,
    )


def untried(settings: Settings, dataset: Dataset) -> tuple[str, ...]:
    """Return the attacks of the set `all` that could be made on a run's model but are not."""
    possible = dataset.attacks.made(settings.method, parse_attacks("all"))
    return tuple(attack.name for attack in possible if attack.name not in settings.attacks)


def gate_fact(result: GateResult) -> GateFact:
    """Return a judged gate as plain data."""
    gate = result.gate
    return GateFact(
        name=gate.name,
        text=gate.text,
        limit_text=gate.limit_text,
        verdict=result.verdict.value,
        blocks=result.blocks,
        n=result.n,
        observed=result.observed,
        bound=result.bound,
        advice=result.advice,
        units=result.units,
        population=result.population,
        rehearsed=result.rehearsed,
    )


def _facts(probe: Probe) -> dict[str, Any]:
    """Return what metrics count a probe by; see `CASE_FACTS`."""
    return {
        "split": probe.split,
        "family": probe.family,
        "kind": probe.kind,
        "carrier": probe.carrier,
        "planted": probe.planted,
        "language": probe.language,
        "knowledge": probe.knowledge,
        "owner": probe.owner,
        "rehearsed": probe.rehearsed,
        "cluster": probe.cluster,
        "request": probe.request,
    }


def _case(case: Probe | TaskCase, ended: Ended, engine: Measuring, show: bool) -> Case:
    row = ended.rows.get(case.id)
    status: Status = "measured" if row else "error" if case.id in ended.seen else "not run"
    if isinstance(case, Probe):
        shown, about = repr(case.value), _facts(case)
        if case.attack:
            return Case(case.id, status, row, shown, {**about, "attack": case.attack})
    else:
        shown = ""
        about = {"rehearsed": case.rehearsed, "cluster": case.cluster, "task": case.task_id}
    if not show:
        return Case(case.id, status, row, shown, about)
    return Case(
        case.id,
        status,
        row,
        shown,
        about,
        value=case.value.reveal() if isinstance(case, Probe) else None,
        base_text=engine.stored_text("base", case.id) if row else None,
        tested_text=engine.stored_text("unlearned", case.id) if row else None,
    )
