"""What one pytest session holds: settings, data, the engine, and on the controller the results."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from pytest_unlearn import recorded, workers
from pytest_unlearn.cases import CASE_PROPERTY
from pytest_unlearn.dataset import Dataset
from pytest_unlearn.engine import Engine
from pytest_unlearn.gates import baselines
from pytest_unlearn.gates.baselines import BaselineError, SavedRun
from pytest_unlearn.gates.curtail import REASON, Curtailment
from pytest_unlearn.gates.expressions import GateError
from pytest_unlearn.gates.planning import check_feasible
from pytest_unlearn.gates.rows import ProbeRow, TaskRow, row_in
from pytest_unlearn.gates.verdicts import GateResult, Measured, judge
from pytest_unlearn.models.presets import PresetError
from pytest_unlearn.models.sources import ModelNotFoundError
from pytest_unlearn.models.styles import StyleError
from pytest_unlearn.options import Settings, SettingsError, read_settings
from pytest_unlearn.people.alternates import AlternateError
from pytest_unlearn.people.files import RecordFileError
from pytest_unlearn.probes.families import FamilyError
from pytest_unlearn.provenance import provenance
from pytest_unlearn.reports import protection, unsolved
from pytest_unlearn.reports.building import Ended, build_result
from pytest_unlearn.reports.formats import ReportError, choose_reports, write_reports
from pytest_unlearn.reports.gate_reports import gate_reports
from pytest_unlearn.reports.junit import add_manifest
from pytest_unlearn.reports.provenance import Clock
from pytest_unlearn.reports.result import Result
from pytest_unlearn.sandbox import ImportNotFoundError, SandboxError
from pytest_unlearn.searching import SEARCH_PROPERTY, SearchSummary
from pytest_unlearn.tasks.format import TaskFileError
from pytest_unlearn.training_checks import check_training

SUITE = Path(__file__).parent / "suite"
_SEARCH = SUITE / "test_search.py"
SESSION = pytest.StashKey["UnlearnSession"]()
# Where the controller notes which gates have their verdict, told to the workers.
_SETTLED_INPUT = "unlearn_settled"


class UnlearnSession:
    """The plugin's state for one session; exists only when a model was named."""

    def __init__(self, config: pytest.Config) -> None:
        """Read settings and data. Raises pytest.UsageError before anything is loaded."""
        self.config = config
        self.worker = workers.this_worker(config)
        self._clock = Clock.now()
        try:
            self.settings: Settings = read_settings(config)
            workers.choose_key(config, self.settings.fingerprint_key)
            self.reports = choose_reports(
                self.settings.reports, config.invocation_params.dir, os.environ
            )
            if not self.settings.replay:  # no model is loaded
                workers.check(config, self.settings.device)
            self.dataset = Dataset(self.settings)
            for warning in check_training(self.settings, self.dataset):
                config.issue_config_time_warning(pytest.PytestWarning(warning), stacklevel=2)
            if self.settings.method.alternates[0] is not None:  # faults now, not after loading
                self.dataset.training_texts(*self.settings.method.alternates)
            check_feasible(self.settings.judging.gates, self._cases, self.settings.exposure)
            self.provenance = provenance(self.settings, self.dataset)
            self.compared = self._saved_run()
            self.engine = Engine(
                self.settings,
                self.dataset,
                workers.progress_printer(config),
                threads=self.worker.threads if self.worker else None,
                models=config.hook.pytest_unlearn_models(
                    config=config, settings=self.settings, dataset=self.dataset
                ),
                core=self.worker.index if self.worker else None,
            )
            # Tried now, so that a refusal comes before any model is loaded.
            self.protection = self.engine.sandbox.protection() if self.dataset.tasks else None
            if self.settings.check_tasks and self.worker is None:
                self.engine.check_tasks()
        except GateError as error:
            profile = self.settings.judging.profile
            flag = f"--unlearn-profile={profile}" if profile else "--unlearn-gate"
            raise pytest.UsageError(f"{flag}: {error}") from error
        except ImportNotFoundError as error:
            raise pytest.UsageError(f"unlearn_sandbox_imports: {error}") from error
        except (FamilyError, StyleError) as error:
            raise pytest.UsageError(f"--unlearn-probes: {error}") from error
        except AlternateError as error:
            name = self.settings.method.name
            raise pytest.UsageError(f"--unlearn-method={name}: {error}") from error
        except (
            SettingsError,
            RecordFileError,
            TaskFileError,
            ModelNotFoundError,
            PresetError,
            SandboxError,
            BaselineError,
            ReportError,
        ) as error:
            raise pytest.UsageError(str(error)) from error
        if self.protection is not None and self.worker is None:
            protection.warn(config, self.settings.sandbox, self.protection)
        self.rows: dict[str, ProbeRow | TaskRow] = {}
        self.results: list[GateResult] = []
        self.search: SearchSummary | None = None
        # Why tasks were not solved, by row.
        self.unsolved: dict[str, str] = {}
        self.saved: str = ""
        self.result: Result | None = None
        self.unwritten: list[str] = []
        self._seen: set[str] = set()
        self._curtailment: Curtailment | None = None
        if self.settings.judging.curtail:
            gates = self.settings.judging.gates
            told = getattr(config, "workerinput", {}).get(_SETTLED_INPUT)
            self._curtailment = (
                Curtailment(gates, self._cases, Path(told))
                if told
                else Curtailment.start(gates, self._cases, self.settings.store)
            )

    @property
    def _cases(self) -> Sequence[object]:
        return [*self.dataset.probes, *self.dataset.tasks]

    def _saved_run(self) -> SavedRun | None:
        """Return the saved run to compare with."""
        if not self.settings.judging.compare:
            return None
        run = baselines.load(self._saved_runs, self.settings.judging.compare)
        baselines.check_same_data(run, self.provenance)
        return run

    @property
    def _saved_runs(self) -> Path:
        return self.config.rootpath / ".unlearn"

    # -- on every process --------------------------------------------------------------------

    def start(self) -> None:
        """Choose this worker's GPU, and find the models before the first test needs one."""
        if self.worker:
            workers.pin_gpu(self.worker)
            return
        self.config.pluginmanager.register(workers.PhaseCollector(self.engine.phases))
        if not self.config.option.collectonly:
            try:
                self.engine.models.resolve()
            except ModelNotFoundError as error:
                raise pytest.UsageError(str(error)) from error

    def finish(self) -> None:
        """End what the engine started."""
        self.engine.close()
        if self.worker:
            workers.report_phases(self.config, self.engine.phases)
        elif self._curtailment:
            self._curtailment.end()

    def skip_needless(self, item: pytest.Item) -> None:
        """Skip a test whose case can change no verdict any more; a critical one is always run."""
        if self._curtailment is None or item.get_closest_marker("unlearn_critical"):
            return
        for name, value in item.user_properties:
            if name == CASE_PROPERTY and self._curtailment.needless(str(value)):
                pytest.skip(REASON)

    # -- on the controller -------------------------------------------------------------------

    def tell(self, workerinput: dict[str, object]) -> None:
        """Give a new xdist worker what it has to know."""
        workers.tell(self.config, workerinput)
        if self._curtailment:
            workerinput[_SETTLED_INPUT] = str(self._curtailment.path)

    def collect(self, report: pytest.TestReport) -> None:
        """Take a test's row from its report; a test that was skipped was not measured."""
        if report.skipped or not (report.when == "call" or report.failed):
            return
        self._seen.update(str(v) for name, v in report.user_properties if name == CASE_PROPERTY)
        for name, value in report.user_properties:
            if name == SEARCH_PROPERTY:
                self.search = SearchSummary.from_json(str(value))
        row = row_in(report.user_properties)
        if row is not None:
            self.rows[row.id] = row
            if verdicts := unsolved.verdicts_in(report):
                self.unsolved[row.id] = verdicts
        if self._curtailment:
            self._curtailment.update(self._measured(None))

    @contextlib.contextmanager
    def judging(self, session: pytest.Session) -> Generator[None]:
        """Judge the gates after the test loop; a loop that was cut short gets no verdict."""
        try:
            yield
        except BaseException as error:
            if self._seen:
                self._judge(interrupted=str(error) or type(error).__name__)
                self._write()
            raise
        if self.config.option.collectonly or self.worker:
            return
        if not self._seen and not self.settings.judging.require_complete:
            return
        # -x ends the loop by an attribute under xdist, and by an exception without.
        stopped = session.shouldstop or session.shouldfail
        self._judge(interrupted=str(stopped) if stopped else None)
        self._report(session)
        if self.settings.judging.save:
            self.saved = self._save(self.settings.judging.save)
        self._write()
        if self.unwritten:
            raise pytest.UsageError("; ".join(self.unwritten))

    def _judge(self, interrupted: str | None) -> None:
        self._interrupted = interrupted
        measured = self._measured(interrupted)
        self.results = [judge(gate, measured) for gate in self.settings.judging.gates]
        if self.compared:
            self.results += [
                baselines.judge_change(change, self.compared, measured)
                for change in self.settings.judging.compare_fail
            ]

    def _measured(self, interrupted: str | None) -> Measured:
        return Measured(
            rows=list(self.rows.values()),
            expected=self._cases,
            seen=self._seen,
            two_states=self.settings.compares_two_states,
            interrupted=interrupted,
            require_complete=self.settings.judging.require_complete,
            curtailed=self.settings.judging.curtail,
        )

    def _save(self, name: str) -> str:
        """Keep a complete run for later comparisons; return what became of it."""
        missing = len(self._cases) - len(self.rows)
        if missing:
            return f"not saved as {name}: {missing} of {len(self._cases)} cases have no result"
        rows = [self.rows[key] for key in sorted(self.rows)]
        saved_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        run = SavedRun(name, saved_at, self.provenance, rows)
        path = baselines.save(self._saved_runs, run, self.results)
        return f"saved as {path.relative_to(self.config.rootpath)}"

    def _write(self) -> None:
        """Write the reports that were asked for, and the manifest into JUnit's."""
        if self.rows and not self.settings.replay:
            recorded.note(self.settings, self.dataset, self.engine.models)
        self.result = build_result(
            Ended(self.rows, self._seen, self.results, self.search, self._interrupted),
            self.settings,
            self.dataset,
            self.engine,
            self._clock,
            self.config.invocation_params.args,
        )
        add_manifest(self.config.pluginmanager.get_plugins(), self.result)
        self.unwritten = write_reports(self.reports, self.result)

    def _report(self, session: pytest.Session) -> None:
        """Log each gate as a test of its own, so that every report and the exit code carry it."""
        source = self.config.inipath or Path("unlearn")
        for result in self.results:
            session.testscollected += 1
            for report in gate_reports(result, source, self.config.rootpath):
                self.config.hook.pytest_runtest_logreport(report=report)
        self.config.hook.pytest_unlearn_judged(
            config=self.config, results=self.results, rows=list(self.rows.values())
        )


def choose_paths(config: pytest.Config, searches: bool) -> None:
    """Collect the bundled suite and `unlearn_testpaths` where the user named no path.

    `searches`: the search for leaking prompts was asked for.
    """
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        own = [str(config.rootpath / path) for path in config.getini("unlearn_testpaths")]
        config.args[:] = [str(SUITE), *own]
        if not searches:  # the folder stays the argument: item ids begin with the file below it
            config.option.ignore = [*(config.option.ignore or []), str(_SEARCH)]
