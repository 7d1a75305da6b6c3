"""`--unlearn-replay`: an earlier run's rows, judged and rendered again without a model."""

from __future__ import annotations

import os

import pytest

from pytest_unlearn.flags import given
from pytest_unlearn.gates.expressions import GateError
from pytest_unlearn.gates.readings import percent
from pytest_unlearn.options import SettingsError, judging_of
from pytest_unlearn.reports.breakdown import aligned
from pytest_unlearn.reports.footer import written_lines
from pytest_unlearn.reports.formats import ReportError, choose_reports, write_reports
from pytest_unlearn.reports.rejudging import recorded, rejudged
from pytest_unlearn.reports.replay import (
    ReplayError,
    advice_lines,
    changes,
    read_results,
    table_lines,
)
from pytest_unlearn.reports.result import verdict_of_all
from pytest_unlearn.reports.sweep import front_sentence, standings, sweep_table


def replay(config: pytest.Config) -> int:
    """Print the verdicts, name those that changed, write the reports; return pytest's exit code.

    Raises pytest.UsageError for results that cannot be read, wrong gates and wrong reports.
    """
    folder = config.invocation_params.dir
    results = folder / str(given(config, "unlearn_replay"))
    wanted = given(config, "unlearn_report") or ()
    try:
        reports = choose_reports(wanted, folder, os.environ)
        before = read_results(results, bool(given(config, "unlearn_show_values")))
        sweeps = before[0].pair is not None
        if sweeps:
            reports = choose_reports(wanted, folder, os.environ, sweeps)
        judging = judging_of(config, recorded(before[0]))  # a sweep's pairs have the same rules
        after = [rejudged(one, judging) for one in before]
    except (ReplayError, ReportError, SettingsError) as error:
        raise pytest.UsageError(str(error)) from error
    except GateError as error:
        raise pytest.UsageError(f"--unlearn-replay={results}: {error}") from error
    unwritten = write_reports(reports, *after)
    lines = [
        f"replay of {results}: {sum(len(one.rows) for one in after)} rows, no model",
        f"gates of {judging.source}, confidence {percent(judging.confidence)}",
        "",
    ]
    for old, new in zip(before, after, strict=True):
        lines += [f"{new.label}: {new.verdict}"] if sweeps else []
        lines += [*table_lines(new), *advice_lines(new), *changes(old, new)]
        lines += [new.caveat] if new.caveat else []
        lines += [""] if sweeps else []
    if sweeps:
        found = standings(after)
        lines += [*aligned(sweep_table(found)), front_sentence(found)]
    verdict = verdict_of_all(after)
    lines += [*written_lines(reports, unwritten), verdict]
    print("\n".join(lines))
    if unwritten:
        return pytest.ExitCode.USAGE_ERROR
    blocked = verdict == "NOT FOR RELEASE"
    return pytest.ExitCode.TESTS_FAILED if blocked else pytest.ExitCode.OK
