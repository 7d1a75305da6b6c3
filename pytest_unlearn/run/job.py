"""The whole job without pytest: unlearn, probe, judge. For notebooks and scripts.

`measure` runs it in one call. A pytest session holds a `PairRun` for each pair of model and method,
and runs the cases itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from pytest_unlearn.core.store import Store
from pytest_unlearn.gates import saved_runs
from pytest_unlearn.gates.case_rows import Row
from pytest_unlearn.gates.planning import Curtailment
from pytest_unlearn.gates.saved_runs import SavedRun
from pytest_unlearn.gates.verdicts import GateResult, Measured, judge_gate
from pytest_unlearn.leaks.prompt_search import SearchSummary
from pytest_unlearn.models.engine import is_address
from pytest_unlearn.probes.families import Probe
from pytest_unlearn.run.attacked import AttackedModel
from pytest_unlearn.run.checks import check_training
from pytest_unlearn.run.dataset import Dataset
from pytest_unlearn.run.measuring import Measuring
from pytest_unlearn.run.models import Models
from pytest_unlearn.run.provenance import Clock, note_try, provenance
from pytest_unlearn.run.result import Ended, PairName, Result, build_result
from pytest_unlearn.run.settings import Pair, Settings
from pytest_unlearn.tasks.format import TaskCase


class PairRun:
    """The run of one pair of model and method; each pair is judged on its own."""

    def __init__(
        self,
        pair: Pair,
        dataset: Dataset,
        engine: Measuring,
        compared: SavedRun | None = None,
        curtailment: Curtailment | None = None,
    ) -> None:
        """`compared`: an earlier run. `curtailment`: set if cases may be left out."""
        self.began = datetime.now(UTC).isoformat(timespec="seconds")
        self.pair = pair
        self.dataset = dataset
        self.engine = engine
        self.compared = compared
        self.curtailment = curtailment
        self.attacked = AttackedModel(pair.settings, dataset, engine)
        self.provenance = provenance(pair.settings, dataset)
        self.rows: dict[str, Row] = {}
        # The cases that were run; a case without a row ended in an error.
        self.seen: set[str] = set()
        self.judged = False
        # How many models were judged on these data, according to the store.
        self.models_judged = 1
        # Tests that failed: this pair's, and those that belong to no pair.
        self.failures: list[str] = []
        # The flags that left cases out of the run, as a message names them.
        self.left_by = "-k, -m, --lf and -x"
        # Why a model could not be made, if it could not.
        self.no_model = ""
        self.left_out: list[str] = []
        self.results: list[GateResult] = []
        self.search: SearchSummary | None = None
        # Why tasks were not solved, by row.
        self.unsolved: dict[str, str] = {}
        self.saved: str = ""
        self.result: Result | None = None
        self._interrupted: str | None = None

    @property
    def settings(self) -> Settings:
        """The settings of this pair."""
        return self.pair.settings

    def release(self) -> None:
        """Release loaded models to make room for the next pair's; they load again on demand."""
        self.engine.models.release()

    @functools.cached_property
    def cases(self) -> Sequence[Probe | TaskCase]:
        """All probes and task cases, with `rehearsed` set."""
        return self.dataset.cases(self.settings.method)

    @functools.cached_property
    def own_cases(self) -> Sequence[Probe | TaskCase]:
        """The cases that are asked of the tested model itself, not under attack."""
        return [*self.dataset.probes, *self.dataset.tasks]

    def measured(self, interrupted: str | None) -> Measured:
        """Return what was measured so far, for judging."""
        return Measured(
            rows=list(self.rows.values()),
            expected=self.cases,
            seen=self.seen,
            two_states=self.settings.compares_two_states,
            interrupted=interrupted,
            require_complete=self.settings.judging.require_complete,
            confidence=self.settings.judging.confidence,
            undecided_blocks=self.settings.judging.undecided == "fail",
            requests=self.settings.judging.requests,
            no_scores=self._no_scores,
            left_by=self.left_by,
            impossible=self.dataset.attacks.impossible(self.settings.method),
        )

    @functools.cached_property
    def _no_scores(self) -> str:
        """Why an endpoint's probabilities cannot be read; empty if they can."""
        if not is_address(self.settings.model):
            return ""
        engine = self.engine.models.key("unlearned").get("engine", {})
        engine_scores = str(engine.get("scores", ""))
        why = engine_scores.removeprefix("none: ")
        return f"the endpoint's probabilities cannot be read: {why}" if why != engine_scores else ""

    def judge(self, interrupted: str | None) -> None:
        """Judge all gates.

        In a grid, a pair that was complete before an interrupt counts as complete.
        """
        if not self.pair.alone and len(self.seen) == len(self.cases):
            interrupted = None
        self._interrupted = interrupted
        self.judged = True
        measured = self.measured(interrupted)
        judging = self.settings.judging
        self.results = [judge_gate(gate, measured) for gate in judging.gates]
        if len(self.seen) == len(self.cases) and not interrupted:
            self.models_judged = note_try(self.settings, self.provenance)
        if self.compared:
            self.results += [
                saved_runs.judge_change(change, self.compared, measured)
                for change in judging.compare_fail
            ]

    def build(self, clock: Clock, command: Sequence[str]) -> Result:
        """Build, keep and return the result that reports render. `command`: pytest's arguments."""
        ended = Ended(
            self.rows,
            self.seen,
            self.results,
            self.search,
            self._interrupted,
            self.failures,
            self.left_out,
            self.models_judged,
        )
        result = build_result(ended, self.settings, self.dataset, self.engine, clock, command)
        if not self.pair.alone:
            requests = self.settings.requests
            name = PairName(
                self.pair.label,
                self.pair.model,
                self.pair.method,
                self.pair.request,
                requests is not None and requests.apart,
            )
            result = replace(result, pair=name)
        self.result = result
        return result


def measure(
    settings: Settings,
    progress: Callable[[str], None] = lambda line: None,
    models: Models | None = None,
) -> Result:
    """Run every case of these settings and return the judged result, which reports render.

    What is in the store is not made again. `progress` gets a line for each step and each warning.
    `models`: replaces the models that the settings name. Raises UserError before a model is loaded
    if a setting or a file is wrong. An error in a case ends the job; what was measured before is in
    the store.
    """
    clock = Clock.now()
    Store(settings.store, settings.replay).sweep()
    dataset = Dataset(settings)
    for warning in check_training(settings, dataset):
        progress(warning)
    engine = Measuring(settings, dataset, progress, models=models)
    run = PairRun(Pair(settings.model, settings.method.name, True, settings), dataset, engine)
    try:
        engine.models.resolve()
        if settings.check_tasks:
            for note in engine.check_tasks():
                progress(note)
        for probe in dataset.probes:
            run.rows[probe.id] = engine.run_probe(probe)[1]
        for case in dataset.tasks:
            run.rows[case.id] = engine.run_task(case)[1]
        for attack in run.attacked.attacks:
            run.rows |= {row.id: row for row in run.attacked.rows(attack)}
    finally:
        engine.close()
    run.seen.update(case.id for case in run.cases)
    run.judge(interrupted=None)
    return run.build(clock, command=())
