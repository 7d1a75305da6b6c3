"""Commands that replace a run: the metrics, the plan, or an earlier run judged again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pytest_unlearn.core.errors import UserError, naming, plain_lines
from pytest_unlearn.gates.estimates import percent
from pytest_unlearn.gates.planning import metric_lines
from pytest_unlearn.reports.comparison import (
    advice_lines,
    asked_of,
    changes,
    recorded,
    rejudged,
    side_by_side,
    table_lines,
)
from pytest_unlearn.reports.data_reports import read_results
from pytest_unlearn.reports.formats import choose_reports, not_for, write_reports
from pytest_unlearn.reports.tables import aligned
from pytest_unlearn.run.result import conclusion_of_all
from pytest_unlearn.session.options import given, is_active, judging_of, refusals
from pytest_unlearn.session.terminal import written_lines


@refusals()
def replay(config: pytest.Config) -> int:
    """Print the verdicts and those that changed, write the reports, return pytest's exit code.

    Raises pytest.UsageError for unreadable results, wrong gates and wrong reports.
    """
    folder = config.invocation_params.dir
    results = folder / str(given(config, "unlearn_replay"))
    reports_given = given(config, "unlearn_report") or ()
    reports = choose_reports(reports_given, folder, os.environ)
    before = read_results(results, bool(given(config, "unlearn_show_values")))
    sweeps = before[0].pair is not None
    if sweeps:
        reports = choose_reports(reports_given, folder, os.environ, sweeps)
    # The pairs of a sweep have the same rules, except for gates on later requests.
    gates = {gate.text: gate for one in before for gate in recorded(one).gates}
    judging = judging_of(config, replace(recorded(before[0]), gates=tuple(gates.values())))
    nowhere = set(judging.gates) - {g for one in before for g in asked_of(one, judging.gates)}
    for gate in nowhere:
        raise UserError(f"--unlearn-gate={gate.text}: no request of this run has that name")
    with naming(f"--unlearn-replay={results}"):
        after = [rejudged(one, judging) for one in before]
    there = [str(report.path) for report in reports if report.path.exists() and not report.append]
    unwritten = write_reports(reports, *after)
    after = not_for(unwritten, after)
    lines = [
        f"replay of {results}: {sum(len(one.rows) for one in after)} rows, no model",
        f"gates of {judging.source}, confidence {percent(judging.confidence)}",
        *dict.fromkeys(filter(None, (one.dropped for one in after))),
    ]
    if there and any(one.dropped for one in after):
        lines.append(f"replaced existing reports: {', '.join(there)}")
    lines.append("")
    for old, new in zip(before, after, strict=True):
        lines += [f"{new.label}: {new.verdict}"] if sweeps else []
        lines += [*table_lines(new), *advice_lines(new), *changes(old, new)]
        lines += [new.caveat] if new.caveat else []
        lines += [""] if sweeps else []
    if sweeps:
        tables, sentence = side_by_side(after)
        lines += [*(line for table in tables for line in aligned(table)), sentence]
    verdict, why = conclusion_of_all(after)
    verdict_line = f"{verdict}: {why}" if verdict == "FOR RELEASE" else verdict
    lines += [*written_lines(reports, unwritten), verdict_line]
    print(plain_lines("\n".join(lines)))
    if unwritten:
        return pytest.ExitCode.USAGE_ERROR
    blocked = verdict == "NOT FOR RELEASE"
    return pytest.ExitCode.TESTS_FAILED if blocked else pytest.ExitCode.OK


@refusals()
def show(config: pytest.Config) -> int:
    """Print and return the exit code. Raises pytest.UsageError, as a run would."""
    if config.option.unlearn_metrics:
        print("\n".join(metric_lines(judging_of(config).confidence)))
        return 0
    if not is_active(config):
        raise UserError("--unlearn-plan: name a model, as in --unlearn-model=tiny")
    from pytest_unlearn.session.session import SESSION

    config._do_configure()  # as pytest's own --markers and --fixtures do
    try:
        print(plain_lines("\n".join(_plan(config))))
    finally:
        if SESSION in config.stash:
            config.stash[SESSION].finish()
        config._ensure_unconfigure()
    return 0


def _plan(config: pytest.Config) -> Iterator[str]:
    from pytest_unlearn.models.presets import TINY_FOLDER
    from pytest_unlearn.run.estimate import is_here, plan, plan_sweep
    from pytest_unlearn.run.models import ModelPair
    from pytest_unlearn.session.session import SESSION
    from pytest_unlearn.session.terminal import header

    session = config.stash[SESSION]
    for run in session.runs:
        settings = run.settings
        names = (settings.model, settings.baseline, settings.retrained)
        if isinstance(run.engine.models, ModelPair) and all(
            is_here(name) for name in names if name not in (None, "retrain")
        ):
            for flag, source in run.engine.models.find().items():
                if source.folder != TINY_FOLDER:  # known to be complete, so do not import torch
                    run.engine.models.check(source, f"{flag}={source.name}")
    lines, tables = (
        plan_sweep([(run.pair, run.dataset) for run in session.runs])
        if session.sweeps
        else plan(session.settings, session.dataset)
    )
    yield header(session)
    yield from (f"warning: {doubt}" for doubt in session.doubts)
    yield from lines
    for table in tables:
        yield ""
        yield from aligned(table)
