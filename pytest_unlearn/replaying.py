"""`--unlearn-replay`: an earlier run's rows, judged and rendered again without a model."""

from __future__ import annotations

import os

import pytest

from pytest_unlearn.flags import given
from pytest_unlearn.gates.expressions import GateError
from pytest_unlearn.gates.readings import percent
from pytest_unlearn.options import SettingsError, judging_of
from pytest_unlearn.reports.footer import written_lines
from pytest_unlearn.reports.formats import ReportError, choose_reports, write_reports
from pytest_unlearn.reports.replay import (
    ReplayError,
    advice_lines,
    changes,
    read_results,
    recorded,
    rejudged,
    table_lines,
)


def replay(config: pytest.Config) -> int:
    """Print the verdicts, name those that changed, write the reports; return pytest's exit code.

    Raises pytest.UsageError for results that cannot be read, wrong gates and wrong reports.
    """
    folder = config.invocation_params.dir
    results = folder / str(given(config, "unlearn_replay"))
    try:
        reports = choose_reports(given(config, "unlearn_report") or (), folder, os.environ)
        before = read_results(results, bool(given(config, "unlearn_show_values")))
        judging = judging_of(config, recorded(before))
        after = rejudged(before, judging)
    except (ReplayError, ReportError, SettingsError) as error:
        raise pytest.UsageError(str(error)) from error
    except GateError as error:
        raise pytest.UsageError(f"--unlearn-replay={results}: {error}") from error
    unwritten = write_reports(reports, after)
    lines = [
        f"replay of {results}: {len(after.rows)} rows, no model",
        f"gates of {judging.source}, confidence {percent(judging.confidence)}",
        "",
    ]
    lines += [*table_lines(after), *advice_lines(after), *changes(before, after)]
    lines += [after.caveat] if after.caveat else []
    lines += [*written_lines(reports, unwritten), after.verdict]
    print("\n".join(lines))
    if unwritten:
        return pytest.ExitCode.USAGE_ERROR
    blocked = after.verdict == "NOT FOR RELEASE"
    return pytest.ExitCode.TESTS_FAILED if blocked else pytest.ExitCode.OK
