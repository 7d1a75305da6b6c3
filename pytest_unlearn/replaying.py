"""`--unlearn-replay`: an earlier run's rows, judged and rendered again without a model."""

from __future__ import annotations

import os

import pytest

from pytest_unlearn.flags import given
from pytest_unlearn.gates.expressions import GateError, parse_gate
from pytest_unlearn.reports.footer import written_lines
from pytest_unlearn.reports.formats import ReportError, choose_reports, write_reports
from pytest_unlearn.reports.replay import ReplayError, changes, read_results, rejudged, table_lines


def replay(config: pytest.Config) -> int:
    """Print the verdicts, name those that changed, write the reports; return pytest's exit code.

    Raises pytest.UsageError for results that cannot be read, wrong gates and wrong reports.
    """
    folder = config.invocation_params.dir
    results = folder / str(given(config, "unlearn_replay"))
    try:
        reports = choose_reports(given(config, "unlearn_report") or (), folder, os.environ)
        before = read_results(results, bool(given(config, "unlearn_show_values")))
        texts = given(config, "unlearn_gate") or [gate.text for gate in before.gates]
        after = rejudged(before, [parse_gate(text) for text in texts])
    except (ReplayError, ReportError) as error:
        raise pytest.UsageError(str(error)) from error
    except GateError as error:
        raise pytest.UsageError(f"--unlearn-gate: {error}") from error
    unwritten = write_reports(reports, after)
    lines = [f"replay of {results}: {len(after.rows)} rows, no model", ""]
    lines += [*table_lines(after), *changes(before, after)]
    lines += [after.caveat] if after.caveat else []
    lines += [*written_lines(reports, unwritten), after.verdict]
    print("\n".join(lines))
    if unwritten:
        return pytest.ExitCode.USAGE_ERROR
    blocked = after.verdict == "NOT FOR RELEASE"
    return pytest.ExitCode.TESTS_FAILED if blocked else pytest.ExitCode.OK
