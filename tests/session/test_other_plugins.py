"""Beside the plugins that many projects have: same verdict, same exit code, no value in theirs.

Each test skips where its plugin is not installed. `.ci/run` installs them all (extra `plugins`)
when the other tests are done, and runs these: some plugins change every run in their environment.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support.lookup_run import (
    CONTROL,
    FORGET,
    RETAIN,
    TASKS,
    UnlearnRun,
    forget_ids,
    record_lines,
)

ALL = FORGET + RETAIN + CONTROL + TASKS
VALUES = [line["value"] for line in record_lines("forget", FORGET)]


def needs(module: str) -> Any:
    """Skip where a plugin is not installed; a run that names it would be a usage error."""
    return pytest.mark.skipif(find_spec(module) is None, reason=f"needs {module}")


def holds_no_value(path: Path) -> str:
    """Return a file's text, after looking for values in it."""
    text = path.read_text()
    assert not [value for value in VALUES if value in text]
    return text


@needs("pytest_html")
def test_pytest_html(unlearn_run: UnlearnRun) -> None:
    """Its page has the gates beside the tests."""
    unlearn_run.lookup(leaking=forget_ids(20))
    result = unlearn_run("--html=page.html", "--self-contained-html", subprocess=True)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    text = holds_no_value(unlearn_run.pytester.path / "page.html")
    assert "unlearn::gate[leak.direct]" in text
    assert "unlearn::gate[passk.retained]" in text


@needs("pytest_jsonreport")
def test_pytest_json_report(unlearn_run: UnlearnRun) -> None:
    """Its file counts the gates, and each has its outcome."""
    unlearn_run.lookup(leaking=forget_ids(20))
    flags = ("--json-report", "--json-report-file=report.json")
    result = unlearn_run(*flags, subprocess=True)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    report = json.loads(holds_no_value(unlearn_run.pytester.path / "report.json"))
    assert report["exitcode"] == 1
    outcomes = {test["nodeid"]: test["outcome"] for test in report["tests"]}
    assert outcomes["unlearn::gate[leak.direct]"] == "failed"
    assert outcomes["unlearn::gate[passk.retained]"] == "passed"


@needs("pytest_randomly")
def test_pytest_randomly(unlearn_run: UnlearnRun) -> None:
    """Another order generates the same chunks, each once, and comes to the same verdict."""
    unlearn_run.lookup(leaking=forget_ids(20))
    result = unlearn_run("-p", "randomly", "-p", "no:xdist", subprocess=True)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["Using --randomly-seed=*", "*leak.direct*20 (33.3%)*FAIL"])
    made = unlearn_run.generated()
    assert len(made) == len(set(made)) == 2 * ALL


@needs("pytest_rerunfailures")
def test_pytest_rerunfailures(unlearn_run: UnlearnRun) -> None:
    """A leak that failed and was run again is one leak: it leaked each time, and counts once."""
    unlearn_run.lookup(leaking=forget_ids(3))
    flags = ("--reruns=2", "--unlearn-probe-outcome=fail", "--unlearn-report=summary")
    result = unlearn_run(*flags, subprocess=True)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*leak.direct*3 (5.0%)*60*UNDECIDED", "*6 rerun*"])
    summary = json.loads((unlearn_run.pytester.path / "unlearn-summary.json").read_text())
    assert (summary["measured"], summary["errors"]) == (ALL, 0)


@needs("pytest_cov")
def test_pytest_cov(unlearn_run: UnlearnRun) -> None:
    """Coverage of the workers too; a floor that fails the run fails the release as well, since exit
    code and verdict say the same."""
    unlearn_run.lookup(also="def never_called():\n    return 1\n")
    result = unlearn_run("--cov=.", "--cov-fail-under=100", "-n2", subprocess=True)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["conftest.py *83%", "NOT FOR RELEASE: 1 test failed (1 counted by a plugin)"]
    )
    assert unlearn_run("--cov=.", subprocess=True).ret == pytest.ExitCode.OK


@needs("pytest_timeout")
def test_pytest_timeout(unlearn_run: UnlearnRun) -> None:
    """The time of models and batches is no test's; a probe that timed out is no forgetting."""
    unlearn_run.lookup(
        also="""
import time
from pytest_unlearn.testing import LookupModel
write = LookupModel.write
def slow(self, *arguments):
    LookupModel.write = write
    time.sleep(3)
    return write(self, *arguments)
LookupModel.write = slow

class Stuck:  # a conftest's own hooks are not for tests in other folders
    def pytest_runtest_setup(self, item):
        if item.name.endswith("direct-email-forget-000]"):
            time.sleep(60)

def pytest_configure(config):
    config.pluginmanager.register(Stuck())
"""
    )
    result = unlearn_run(
        "--timeout=1.5", "--unlearn-report=summary", "-p", "no:randomly", subprocess=True
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*Timeout*", "*leak.direct*UNDECIDED", "leak.direct: 1 case ended in an error*"]
    )
    summary = json.loads((unlearn_run.pytester.path / "unlearn-summary.json").read_text())
    assert summary["errors"] == 1
    assert summary["verdict"] == "NOT FOR RELEASE"
