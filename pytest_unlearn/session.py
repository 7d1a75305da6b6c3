"""What one pytest session holds: settings, data, the engine, and on the controller the results."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from pytest_unlearn import workers
from pytest_unlearn.cases import CASE_PROPERTY
from pytest_unlearn.dataset import Dataset
from pytest_unlearn.engine import Engine
from pytest_unlearn.gates.expressions import GateError
from pytest_unlearn.gates.rows import ProbeRow, TaskRow, row_in
from pytest_unlearn.gates.verdicts import GateResult, Measured, check_feasible, judge
from pytest_unlearn.models.sources import ModelNotFoundError
from pytest_unlearn.options import Settings, SettingsError, read_settings
from pytest_unlearn.people.files import RecordFileError
from pytest_unlearn.probes.families import FamilyError
from pytest_unlearn.reports.building import Ended, build_result
from pytest_unlearn.reports.formats import ReportError, choose_reports, write_reports
from pytest_unlearn.reports.gate_reports import gate_reports
from pytest_unlearn.reports.junit import add_manifest
from pytest_unlearn.reports.provenance import Clock
from pytest_unlearn.reports.result import Result
from pytest_unlearn.searching import SEARCH_PROPERTY, SearchSummary
from pytest_unlearn.tasks.format import TaskFileError

SUITE = Path(__file__).parent / "suite"
_SEARCH = SUITE / "test_search.py"
SESSION = pytest.StashKey["UnlearnSession"]()


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
            workers.check(config, self.settings.device)
            self.dataset = Dataset(self.settings)
            if self.settings.method.method is not None and not self.dataset.probes_of("forget"):
                raise SettingsError(
                    f"--unlearn-method={self.settings.method.name} needs records to forget; give "
                    "--unlearn-forget=FILE, or --unlearn-method=none"
                )
            check_feasible(self.settings.gates, self._cases)
            self.engine = Engine(
                self.settings,
                self.dataset,
                workers.progress_printer(config),
                threads=self.worker.threads if self.worker else None,
                models=config.hook.pytest_unlearn_models(
                    config=config, settings=self.settings, dataset=self.dataset
                ),
            )
        except GateError as error:
            raise pytest.UsageError(f"--unlearn-gate: {error}") from error
        except FamilyError as error:
            raise pytest.UsageError(f"--unlearn-probes: {error}") from error
        except (
            SettingsError,
            RecordFileError,
            TaskFileError,
            ModelNotFoundError,
            ReportError,
        ) as error:
            raise pytest.UsageError(str(error)) from error
        self.rows: dict[str, ProbeRow | TaskRow] = {}
        self.results: list[GateResult] = []
        self.search: SearchSummary | None = None
        self.result: Result | None = None
        self.unwritten: list[str] = []
        self._seen: set[str] = set()

    @property
    def _cases(self) -> Sequence[object]:
        return [*self.dataset.probes, *self.dataset.tasks]

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

    # -- on the controller -------------------------------------------------------------------

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
        if self.config.option.collectonly or self.worker or not self._seen:
            return
        # -x ends the loop by an attribute under xdist, and by an exception without.
        stopped = session.shouldstop or session.shouldfail
        self._judge(interrupted=str(stopped) if stopped else None)
        self._report(session)
        self._write()
        if self.unwritten:
            raise pytest.UsageError("; ".join(self.unwritten))

    def _judge(self, interrupted: str | None) -> None:
        self._interrupted = interrupted
        measured = Measured(
            rows=list(self.rows.values()),
            expected=self._cases,
            seen=self._seen,
            two_states=self.settings.compares_two_states,
            interrupted=interrupted,
        )
        self.results = [judge(gate, measured) for gate in self.settings.gates]

    def _write(self) -> None:
        """Write the reports that were asked for, and the manifest into JUnit's."""
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
