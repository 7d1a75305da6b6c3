"""From what a run holds to the one `Result` that all formats render."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pytest_unlearn.gates.rows import ProbeRow, TaskRow
from pytest_unlearn.gates.shares import shares
from pytest_unlearn.gates.verdicts import GateResult
from pytest_unlearn.probes.families import Probe
from pytest_unlearn.reports.provenance import Clock, manifest, redacted
from pytest_unlearn.reports.result import Case, GateFact, Result, RunFacts, Status

if TYPE_CHECKING:
    from pytest_unlearn.dataset import Dataset
    from pytest_unlearn.engine import Engine
    from pytest_unlearn.options import Settings
    from pytest_unlearn.searching import SearchSummary
    from pytest_unlearn.tasks.format import TaskCase


# What a metric counts a probe by, and its person; the same of a task case.
_PROBE_FACTS = ("split", "family", "kind", "carrier", "planted", "knowledge", "owner")
CASE_FACTS: tuple[str, ...] = (*_PROBE_FACTS, "task")


@dataclass(frozen=True, slots=True)
class Ended:
    """What a run came to: the rows by case, the ids of the cases that were run, the gates."""

    rows: Mapping[str, ProbeRow | TaskRow]
    seen: Collection[str]
    gates: Sequence[GateResult]
    search: SearchSummary | None
    interrupted: str | None


def build_result(
    ended: Ended,
    settings: Settings,
    dataset: Dataset,
    engine: Engine,
    clock: Clock,
    command: Sequence[str],
) -> Result:
    """Return the result of a run; loads no model. `command`: pytest's arguments."""
    cases: list[Probe | TaskCase] = [*dataset.probes, *dataset.tasks]
    checkpoint = engine.models.stored_checkpoint()
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
        require_complete=settings.judging.require_complete,
        curtailed=settings.judging.curtail,
    )
    return Result(
        run=run,
        gates=tuple(map(gate_fact, ended.gates)),
        metrics=shares(list(ended.rows.values()), run.confidence, run.two_states),
        cases=tuple(_case(case, ended, engine, settings.show_values) for case in cases),
        provenance=manifest(
            settings, dataset, engine.models, engine.phases, clock, command, bool(ended.rows)
        ),
        search=asdict(ended.search) if ended.search else None,
    )


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
    )


def _case(case: Probe | TaskCase, ended: Ended, engine: Engine, show: bool) -> Case:
    row = ended.rows.get(case.id)
    status: Status = "measured" if row else "error" if case.id in ended.seen else "not run"
    if isinstance(case, Probe):
        shown, about = repr(case.value), {name: getattr(case, name) for name in _PROBE_FACTS}
    else:
        shown, about = "", {"task": case.task_id}
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
