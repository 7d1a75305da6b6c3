"""The state of a pytest session: settings, data, and a run for each pair of model and method."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_unlearn.core.errors import UserError, naming
from pytest_unlearn.core.secret import without
from pytest_unlearn.core.store import Store
from pytest_unlearn.gates import saved_runs
from pytest_unlearn.gates.case_rows import rows_in
from pytest_unlearn.gates.planning import REASON, Curtailment, check_feasible
from pytest_unlearn.gates.saved_runs import SavedRun
from pytest_unlearn.leaks.prompt_search import SEARCH_PROPERTY, SearchSummary
from pytest_unlearn.probes.families import Probe
from pytest_unlearn.reports import formats
from pytest_unlearn.run.checks import check_engine, check_training
from pytest_unlearn.run.dataset import Dataset
from pytest_unlearn.run.endpoints import all_keys
from pytest_unlearn.run.job import PairRun
from pytest_unlearn.run.measuring import Measuring
from pytest_unlearn.run.models import ModelPair
from pytest_unlearn.run.noted_runs import (
    attacks_of,
    cases_of,
    check_flags,
    check_trained,
    expected_cases,
    note_run,
)
from pytest_unlearn.run.provenance import Clock, redacted
from pytest_unlearn.run.result import Result, concluded, gate_fact, grounds, untried
from pytest_unlearn.run.settings import Pair, Settings
from pytest_unlearn.sandbox import SandboxError
from pytest_unlearn.session import xdist
from pytest_unlearn.session.endings import NoSilentEnd, ending_signals, remove_earlier
from pytest_unlearn.session.items import (
    ATTACK_NAME,
    CASE_PROPERTY,
    PAIR_PROPERTY,
    VERDICT_PROPERTY,
    LastWord,
    PairOrder,
    RowCollector,
    ShardSelection,
    gate_reports,
    show_values,
    solution_verdicts,
    warn_of_sandbox,
)
from pytest_unlearn.session.options import left_by, refusals
from pytest_unlearn.session.readiness import NO_MODEL, Readiness, warn
from pytest_unlearn.session.redaction import Redactor
from pytest_unlearn.session.sweep import read_grid

SUITE = Path(__file__).parents[1] / "suite"
_SEARCH = SUITE / "test_search.py"
_ROBUSTNESS = SUITE / "test_robustness.py"
SESSION = pytest.StashKey["UnlearnSession"]()
# The files where the controller notes which gates are settled, for the workers.
_SETTLED_INPUT = "unlearn_settled"


class UnlearnSession:
    """The plugin's state for one session; exists only if a model was named."""

    @refusals(SandboxError)
    def __init__(self, config: pytest.Config) -> None:
        """Read settings and data. Raises pytest.UsageError before anything is loaded."""
        self.config = config
        self.worker = xdist.this_worker(config)
        self._clock = Clock.now()
        self.pairs = read_grid(config)
        self.settings: Settings = self.pairs[0].settings
        xdist.choose_key(config, self.settings.fingerprint_key)
        self.reports = formats.choose_reports(
            self.settings.reports, config.invocation_params.dir, os.environ, self.sweeps
        )
        if not self.settings.replay:  # no model is loaded
            xdist.check(config, self.settings.device)
        methods = [pair.settings.method.method for pair in self.pairs]
        trains = any(method is not None for method in methods)
        requests = self.settings.requests
        every_request = replace(self.settings, requests=requests and requests.complete)
        # By request: without requests, all pairs have the same data.
        self._data = {
            chosen.requests: Dataset(chosen, trains)
            for chosen in {
                s.requests: s for s in (every_request, *(p.settings for p in self.pairs))
            }.values()
        }
        self.dataset = self._data[every_request.requests]
        # Warnings about what is probably a mistake but can be run.
        self.doubts = self._check_training()
        judging = self.settings.judging
        profile = judging.profile
        with naming(f"--unlearn-profile={profile}" if profile else "--unlearn-gate"):
            for pair in self.pairs:
                dataset = self._data_of(pair)
                check_feasible(
                    pair.settings.judging.gates,
                    dataset.cases(pair.settings.method),
                    confidence=judging.confidence,
                    decoys=self.settings.exposure,
                    requests=judging.requests,
                    samples=self.settings.leak_samples,
                    impossible=dataset.attacks.impossible(pair.settings.method),
                )
        self.runs: list[PairRun] = []
        for pair in self.pairs:
            check_engine(pair.settings)
        check_flags(self.settings)
        for pair in self.pairs:
            self.runs.append(PairRun(pair, self._data_of(pair), self._engine(pair)))
        for run in self.runs:
            run.left_by = left_by(config)
        first = self.runs[0]
        first.compared = self._saved_run(first)
        if (name := self.settings.judging.save) and not self.worker:
            saved_runs.check_writable(self._saved_runs, name)
        # Tried now, so that a refusal comes before any model is loaded.
        self.protection = first.engine.sandbox.protection() if self.dataset.tasks else None
        self.task_notes: list[str] = []
        if self.settings.check_tasks and self.worker is None:
            self.task_notes = first.engine.check_tasks()
        if self.protection is not None and self.worker is None:
            warn_of_sandbox(config, self.settings.sandbox, self.protection)
        self._redactor = self._new_redactor()
        self._readiness = Readiness(self._without_values)
        self.unwritten: list[str] = []
        self.concluded = False  # the verdict was shown
        self._no_silent_end = None
        if self.worker is None:
            self._no_silent_end = NoSilentEnd(config, self._without_values)
        self._failed = 0  # of pytest's count of failures, those that were noted
        # A replay has everything already: leaving cases out would save nothing.
        if self.settings.judging.curtail and not self.settings.replay:
            settled_paths = getattr(config, "workerinput", {}).get(_SETTLED_INPUT, [])
            for number, run in enumerate(self.runs):
                run.curtailment = self._curtailment(
                    run, settled_paths[number] if settled_paths else None
                )
        if self.worker is None:
            collector = RowCollector(self.collect, self.note_failure)
            config.pluginmanager.register(collector, "unlearn-collector")
            self._numbers = xdist.Numbers()
            config.pluginmanager.register(self._numbers, "unlearn-numbers")
            config.pluginmanager.register(LastWord(self), "unlearn-last-word")
            Store(self.settings.store, self.settings.replay).sweep()
        if self.sweeps:
            cases = {run.pair.label: {case.id for case in run.own_cases} for run in self.runs}
            config.pluginmanager.register(PairOrder(cases), "unlearn-pair-order")
        if (shard := self.settings.shard) is not None:
            parts = {
                run.pair.label: (
                    cases_of(shard, run.dataset),
                    {attack.name for attack in attacks_of(shard, run.attacked.attacks)},
                )
                for run in self.runs
            }
            selection = ShardSelection(parts, first=shard.number == 1)
            config.pluginmanager.register(selection, "unlearn-shard")

    def _without_values(self, text: str) -> str:
        """Return a text of this run without values, even if they are to be shown in reports."""
        return redacted(text, self.settings.fingerprint_key, self.dataset)

    def _new_redactor(self) -> Redactor | None:
        """Make and register the plugin that keeps values out of everything that pytest shows.

        Where values are to be shown, it keeps out the keys of endpoints, if there are any.
        """
        key, api_keys = self.settings.fingerprint_key, all_keys(self.settings)
        shown = self.settings.show_values
        if shown and not api_keys:
            return None
        redactor = Redactor(
            self.config.invocation_params.dir,
            lambda text: without(text if shown else redacted(text, key, self.dataset), api_keys),
            self.config.pluginmanager,
            keeps_variables=shown,
        )
        self.config.pluginmanager.register(redactor, "unlearn-redactor")
        return redactor

    def _data_of(self, pair: Pair) -> Dataset:
        """Return the data of a pair; each request has its own people to forget."""
        return self._data[pair.settings.requests]

    def _engine(self, pair: Pair) -> Measuring:
        """Make the engine of a pair; the engines share what does not depend on a model."""
        before = self.runs[-1] if self.runs else None
        requests = pair.settings.requests
        follows = before is not None and requests is not None and requests.before is not None
        earlier = before.engine.models if before is not None and follows else None
        try:
            models = self.config.hook.pytest_unlearn_models(
                config=self.config, settings=pair.settings, dataset=self._data_of(pair)
            )
        except (pytest.skip.Exception, SystemExit) as error:
            raise UserError(
                f"pytest_unlearn_models ended with {type(error).__name__} ({error}): there is no "
                "model to test; return one, or None to test the named model"
            ) from error
        return Measuring(
            pair.settings,
            self._data_of(pair),
            xdist.progress_printer(self.config),
            threads=self.worker.threads if self.worker else None,
            models=models,
            core=self.worker.index if self.worker else None,
            beside=self.runs[0].engine if self.runs else None,
            before=earlier if isinstance(earlier, ModelPair) else None,
        )

    def _check_training(self) -> list[str]:
        """Warn once about what training cannot do well; find faults before anything is loaded."""
        warnings: dict[str, None] = {}
        for pair in self.pairs:
            settings = pair.settings
            warnings |= dict.fromkeys(check_training(settings, self._data_of(pair)))
            if settings.method.alternates[0] is not None:
                with naming(f"--unlearn-method={settings.method.name}"):
                    self._data_of(pair).training_texts(*settings.method.alternates)
        for warning in warnings:
            warn(self.config, pytest.PytestWarning(warning))
        return list(warnings)

    def _curtailment(self, run: PairRun, path: str | None) -> Curtailment:
        judging = run.settings.judging
        gates, compared = judging.gates, [change.gate for change in judging.compare_fail]
        if path is not None:
            return Curtailment(gates, run.cases, Path(path), compared, judging.requests)
        folder = Store(self.settings.store).root
        return Curtailment.start(gates, run.cases, folder, compared, judging.requests)

    @property
    def sweeps(self) -> bool:
        """Return whether there are several pairs."""
        return len(self.pairs) > 1

    @property
    def judged(self) -> list[PairRun]:
        """The pairs that were judged."""
        return [run for run in self.runs if run.judged]

    @property
    def built(self) -> list[Result]:
        """The results of the judged pairs, once they were made."""
        return [run.result for run in self.judged if run.result is not None]

    def run_of(self, pair: Pair) -> PairRun:
        """Return the run of a pair."""
        return self.runs[self.pairs.index(pair)]

    def release(self, pair: Pair) -> None:
        """Release a pair's models, if they are held."""
        self._readiness.release(self.run_of(pair))

    def _saved_run(self, run: PairRun) -> SavedRun | None:
        """Return the saved run to compare with."""
        if not self.settings.judging.compare:
            return None
        saved = saved_runs.load(self._saved_runs, self.settings.judging.compare)
        saved_runs.check_same_data(saved, run.provenance)
        return saved

    @property
    def _saved_runs(self) -> Path:
        return self.config.rootpath / ".unlearn"

    # -- on every process --------------------------------------------------------------------

    @refusals()
    def start(self) -> None:
        """Choose this worker's GPU, and find the models before the first test needs one.

        Raises pytest.UsageError.
        """
        if self.worker:
            xdist.pin_gpu(self.worker)
            return
        xdist.check_alone()
        self.config.pluginmanager.register(xdist.PhaseCollector(self.runs[0].engine.phases))
        if not self.config.option.collectonly:
            for run in self.runs:
                run.engine.models.resolve()
                check_trained(run.settings, run.engine.models)

    def finish(self) -> None:
        """End what the engines started."""
        engine = self.runs[0].engine  # the sandbox and the phases are those of all
        engine.close()
        if self.worker:
            xdist.report_phases(self.config, engine.phases)
            return
        for run in self.runs:
            if run.curtailment:
                run.curtailment.end()

    def tell_values(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Write values into the report of a failing test if the user asked for them; otherwise keep
        them out of every report."""
        if self.settings.show_values:
            show_values(item, report)
        if self._redactor is not None:
            self._redactor.redact(report)

    def make_ready(self, item: pytest.Item) -> None:
        """Make what a test needs from models, if it will run; see `Readiness`."""
        if not self._is_needless(item):
            self._readiness.make(item, self._run_named_in(item.user_properties))

    def set_up(self, item: pytest.Item) -> None:
        """Skip a test that cannot change a verdict; fail one whose models could not be made."""
        if self._is_needless(item):
            pytest.skip(REASON)
        self._readiness.raise_for(item, self._run_named_in(item.user_properties))

    def _is_needless(self, item: pytest.Item) -> bool:
        """Return whether the case of a bundled test can no longer change a verdict.

        A critical test always runs, and so does a user's own test, which may fail on its own.
        """
        run = self._run_named_in(item.user_properties)
        module = getattr(getattr(item, "module", None), "__name__", "")
        own = not module.startswith("pytest_unlearn.suite")
        if run.curtailment is None or own or item.get_closest_marker("unlearn_critical"):
            return False
        cases = self._cases_in(run, item.user_properties)
        return bool(cases) and all(map(run.curtailment.needless, cases))

    def _cases_in(self, run: PairRun, properties: Iterable[tuple[str, object]]) -> list[str]:
        """Return the ids of the cases that a test measures: its own, or all of its attack."""
        entries = list(properties)
        cases = [str(value) for name, value in entries if name == CASE_PROPERTY]
        made = {str(value) for name, value in entries if name == ATTACK_NAME}
        if made:  # in each of its states
            asked = (case for case in run.cases if isinstance(case, Probe))
            cases += [probe.id for probe in asked if probe.attack.partition("@")[0] in made]
        return cases

    def _run_named_in(self, properties: Iterable[tuple[str, object]]) -> PairRun:
        """Return the run of the pair that a test's properties name; without a name, the first."""
        labels = [value for name, value in properties if name == PAIR_PROPERTY]
        return next((run for run in self.runs if run.pair.label in labels), self.runs[0])

    # -- on the controller -------------------------------------------------------------------

    def tell(self, workerinput: dict[str, object]) -> None:
        """Pass a new xdist worker what it needs to know."""
        xdist.tell(self.config, workerinput, self._numbers)
        curtailments = [run.curtailment for run in self.runs if run.curtailment]
        workerinput[_SETTLED_INPUT] = [str(each.path) for each in curtailments]

    def collect(self, report: pytest.TestReport) -> None:
        """Take a test's row from its report.

        A skipped test was not measured. A test without a model counts as an error, which another
        test reports.
        """
        named = dict(report.user_properties)
        if report.skipped and NO_MODEL in named and report.when == "setup":
            run = self._run_named_in(report.user_properties)
            run.seen.update(self._cases_in(run, report.user_properties))
        if report.skipped or not (report.when == "call" or report.failed):
            return
        if VERDICT_PROPERTY in named:  # a gate's own report
            return
        run = self._run_named_in(report.user_properties)
        if report.failed:
            self.note_failure(report.nodeid, run if PAIR_PROPERTY in named else None)
        run.seen.update(self._cases_in(run, report.user_properties))
        run.no_model = run.no_model or str(named.get(NO_MODEL, ""))
        for name, value in report.user_properties:
            if name == SEARCH_PROPERTY:
                run.search = SearchSummary.from_json(str(value))
        for row in rows_in(report.user_properties):
            run.rows[row.id] = row
            if verdicts := solution_verdicts(report):
                run.unsolved[row.id] = verdicts
        if run.curtailment:
            run.curtailment.update(run.measured(None))

    def note_failure(self, name: str, run: PairRun | None = None) -> None:
        """Record a failure, of one pair or of none: with it, nothing is for release."""
        self._failed += 1
        for one in self.runs if run is None else [run]:
            one.failures.append(name)

    def _note_failures_of_plugins(self, session: pytest.Session) -> None:
        """Record failures that change the exit code but are in no report: those that another plugin
        counts (a limit on coverage), and too many warnings."""
        if (more := session.testsfailed - self._failed) > 0:
            self.note_failure(f"{more} counted by a plugin")
        reporter: Any = self.config.pluginmanager.get_plugin("terminalreporter")
        limit = getattr(reporter, "_get_max_warnings", lambda: None)()
        if limit is not None and len(reporter.stats.get("warnings", ())) > limit:
            self.note_failure("more warnings than --max-warnings")

    @contextlib.contextmanager
    def judging(self, session: pytest.Session) -> Generator[None]:
        """Judge the gates after the test loop; a loop that was cut short gets no verdict."""
        if self.worker is None and not self.config.option.collectonly:
            remove_earlier(report.path for report in self.reports if not report.append)
        if self._no_silent_end:
            self._no_silent_end.stands = lambda: self.concluded and not session.exitstatus
        with ending_signals(self.worker is None) as ignore_them:
            try:
                yield
            except BaseException as error:
                ignore_them()
                # Interrupted during unlearning, before any case: the reports say so.
                begun = self._readiness.begun or self.config.pluginmanager.has_plugin("dsession")
                by_hand = isinstance(error, KeyboardInterrupt | pytest.exit.Exception)
                unseen = by_hand and begun and self.worker is None
                if self._judge(interrupted=str(error) or type(error).__name__, unseen=unseen):
                    self._write()
                if isinstance(error, pytest.exit.Exception) and error.returncode == 0:
                    # A run that was cut short is not a success.
                    error.returncode = pytest.ExitCode.INTERRUPTED
                raise
            ignore_them()
            try:
                self._conclude(session)
            except (KeyboardInterrupt, pytest.exit.Exception) as error:  # reports are not written
                self.note_failure(f"{type(error).__name__} after the tests")
                if isinstance(error, pytest.exit.Exception):
                    error.returncode = error.returncode or pytest.ExitCode.INTERRUPTED
                raise

    def _conclude(self, session: pytest.Session) -> None:
        """Judge and report a run that was not interrupted."""
        if self.config.option.collectonly or self.worker:
            return
        if self.settings.shard is not None:
            self._note_shard()
            return
        # -x ends the loop by an attribute under xdist, and by an exception without.
        stopped = session.shouldstop or session.shouldfail
        self._note_failures_of_plugins(session)
        # Judge even without a single case, if somebody relies on the verdict.
        unseen = self.settings.judging.require_complete or bool(self.settings.reports)
        if not self._judge(str(stopped) if stopped else None, unseen=unseen):
            return
        self._report(session)
        if name := self.settings.judging.save:
            try:
                self.runs[0].saved = self._save(name, self.runs[0])
            except OSError as error:  # it was writable before the run, but disks fill up
                reason = error.strerror or type(error).__name__
                self.unwritten.append(f"--unlearn-save={name}: not saved: {reason}")
        self._write()
        if self.unwritten:
            raise pytest.UsageError("; ".join(self.unwritten))

    def _note_shard(self) -> None:
        """Note what this shard measured, for the replay that judges all shards."""
        for run in self.runs:
            if run.rows:
                missing = self.missing_in_shard(run)
                note_run(run.settings, run.dataset, run.engine.models, missing)

    def missing_in_shard(self, run: PairRun) -> int:
        """Return how many cases of this shard were not run."""
        assert self.settings.shard is not None
        cases = expected_cases(self.settings.shard, run.dataset, run.attacked.attacks)
        return len(cases - run.seen)

    def _judge(self, interrupted: str | None, unseen: bool = False) -> bool:
        """Judge each pair with a case that was run, or all if `unseen`; return whether any
        was judged."""
        for run in self.runs:
            if run.seen or unseen:
                run.judge(interrupted)
        left_out = [run.pair.label for run in self.runs if not run.judged]
        for run in self.runs:
            run.left_out = left_out
        return any(run.seen or unseen for run in self.runs)

    def conclusion(self) -> tuple[str, str]:
        """Return the verdict on everything that was run, and why; see `concluded`."""
        gates = [
            (run.pair.named(result.gate.name), gate_fact(result))
            for run in self.judged
            for result in run.results
        ]
        failures = [name for run in self.runs for name in run.failures]
        left_out = self.runs[0].left_out if self.judged else ()
        judged = self.judged or self.runs
        models = max(run.models_judged for run in judged)
        first = judged[0]
        return concluded(
            gates,
            list(map(self._without_values, failures)),
            left_out,
            grounds(
                [fact for _, fact in gates],
                [attack.name for attack in first.attacked.attacks],
                untried(first.settings, first.dataset),
                list(first.dataset.attacks.impossible(first.settings.method)),
                [run.search.report for run in judged if run.search],
            ),
            models if models > len(self.runs) else 1,  # judging all pairs is not a selection
        )

    def _save(self, name: str, run: PairRun) -> str:
        """Save a complete run for later comparisons; return a line that says so, or why not."""
        missing = len(run.cases) - len(run.rows)
        if missing:
            return f"not saved as {name}: {missing} of {len(run.cases)} cases have no result"
        rows = [run.rows[key] for key in sorted(run.rows)]
        saved_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        saved = SavedRun(name, saved_at, run.provenance, rows)
        path = saved_runs.save(self._saved_runs, saved, run.results)
        return f"saved as {path.relative_to(self.config.rootpath)}"

    def _write(self) -> None:
        """Write the reports that were asked for, and the manifest into JUnit's."""
        for run in self.judged:
            if run.rows and not self.settings.replay:
                try:
                    note_run(run.settings, run.dataset, run.engine.models)
                except Exception as error:  # a full disk, or a conftest's key()
                    reason = f"{type(error).__name__}: {error}"
                    self.unwritten.append(f"the run: not noted for --unlearn-replay: {reason}")
        for line in self.unwritten:
            self.note_failure(formats.not_written(line))
        command = self.config.invocation_params.args
        results = [run.build(self._clock, command) for run in self.judged]
        failed = formats.write_reports(self.reports, *results)
        for line in failed:
            self.note_failure(formats.not_written(line))
        formats.add_manifest(
            self.config.pluginmanager.get_plugins(), *formats.not_for(failed, results)
        )
        self.unwritten += failed

    def _report(self, session: pytest.Session) -> None:
        """Log each gate as a test of its own, so that every report and the exit code include it."""
        source = self.config.inipath or Path("unlearn")
        confidence = self.settings.judging.confidence
        for run in self.judged:
            for result in run.results:
                session.testscollected += 1
                for report in gate_reports(
                    result, source, self.config.rootpath, run.pair, confidence
                ):
                    self.config.hook.pytest_runtest_logreport(report=report)
            self.config.hook.pytest_unlearn_judged(
                config=self.config,
                settings=run.settings,
                results=run.results,
                rows=list(run.rows.values()),
            )


def choose_paths(config: pytest.Config, settings: Settings) -> None:
    """Collect the bundled suite and `unlearn_testpaths` if the user named no path.

    Of the suite, only what the settings ask for.
    """
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        own = [str(config.rootpath / path) for path in config.getini("unlearn_testpaths")]
        config.args[:] = [str(SUITE), *own]
        # The argument stays the folder, because item ids begin with the file below it.
        needless = [(_SEARCH, settings.search), (_ROBUSTNESS, settings.attacks)]
        ignored = [str(path) for path, asked in needless if not asked]
        config.option.ignore = [*(config.option.ignore or []), *ignored]
