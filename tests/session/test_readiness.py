"""What tests need of models: made outside of their time, and told once where it cannot be made."""

from __future__ import annotations

import json

import pytest

from tests.support.lookup_run import CONTROL, FORGET, RETAIN, TASKS, UnlearnRun

ALL = FORGET + RETAIN + CONTROL + TASKS

# A conftest's models that do something before they can be had.
BEFORE = """
import time, warnings
from pytest_unlearn.core.errors import UserError
from pytest_unlearn.run.models import Models

def pytest_configure(config):
    prepare = LookupModels.prepare
    def first(self, state):
        {statement}
    LookupModels.prepare = first
    config.add_cleanup(lambda: setattr(LookupModels, "prepare", prepare))
"""


def test_no_test_has_the_time_of_a_model(unlearn_run: UnlearnRun) -> None:
    """Models and completions are made while no test is set up or called, as pytest says itself."""
    unlearn_run.lookup(
        also=BEFORE.format(statement="outside()")
        + """
import os
from pytest_unlearn.testing import LookupModel

def outside():
    assert "::test_solved" not in os.environ.get("PYTEST_CURRENT_TEST", "")

class Outside(LookupModels):
    def answers(self, *arguments):
        outside()
        return super().answers(*arguments)

def pytest_unlearn_models(dataset):
    return Outside(dataset)
"""
    )
    result = unlearn_run("-k", "solved")
    result.assert_outcomes(passed=TASKS + 1, skipped=2)


def test_a_missing_model_is_told_once(unlearn_run: UnlearnRun) -> None:
    """One error, the cause in the last lines, and all cases counted as errors."""
    unlearn_run.lookup(also=BEFORE.format(statement='raise UserError("the weights are a cake")'))
    result = unlearn_run("--unlearn-report=summary")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert len(result.outlines) < 60
    result.stdout.fnmatch_lines(
        ["no model: UserError: the weights are a cake", "NOT FOR RELEASE*", f"*{ALL - 1} skipped*"]
    )
    summary = json.loads((unlearn_run.pytester.path / "unlearn-summary.json").read_text())
    assert (summary["verdict"], summary["errors"]) == ("NOT FOR RELEASE", ALL)


def test_ended_by_hand_before_the_first_case(unlearn_run: UnlearnRun) -> None:
    """Ctrl-C during unlearning leaves the report that was asked for."""
    unlearn_run.lookup(also=BEFORE.format(statement="raise KeyboardInterrupt"))
    arguments = [*unlearn_run.arguments(), *unlearn_run.gates(()), "--unlearn-report=summary"]
    result = unlearn_run.pytester.runpytest_inprocess(*arguments, no_reraise_ctrlc=True)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    summary = json.loads((unlearn_run.pytester.path / "unlearn-summary.json").read_text())
    assert (summary["verdict"], summary["measured"]) == ("NO VERDICT", 0)
    result.stdout.fnmatch_lines(["leak.direct: the run was interrupted: KeyboardInterrupt*"])


def test_a_warning_of_ours_is_no_error(unlearn_run: UnlearnRun) -> None:
    """`filterwarnings = error` is about the user's tests; warnings are shown all the same."""
    unlearn_run.lookup(also=BEFORE.format(statement='warnings.warn("old weights")'))
    result = unlearn_run("-W", "error")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*UserWarning: old weights*", "FOR RELEASE*"])


@pytest.mark.parametrize(("seconds", "shown"), [(0.0, True), (30.0, False)])
def test_progress_in_a_log(
    unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch, seconds: float, shown: bool
) -> None:
    """Without a terminal a line now and then; a run of seconds has none."""
    monkeypatch.setattr("pytest_unlearn.session.xdist.LOG_SECONDS", seconds)
    unlearn_run.lookup()
    result = unlearn_run("-k", "solved")
    lines = [line for line in result.outlines if line.startswith("[unlearn] ")]
    assert bool(lines) == shown
    assert all("completions in" in line for line in lines)


@pytest.mark.parametrize(
    ("made", "shown"),
    [("2999-01-01", "unlearned in 3 steps (226 s)"), ("2020-01-01", "3 steps (by an earlier run*")],
)
def test_time_of_an_earlier_run(unlearn_run: UnlearnRun, made: str, shown: str) -> None:
    """A run that took its model from the store does not say that it took minutes to make."""
    unlearn_run.lookup(
        also=f"""
from pytest_unlearn.run.models import UnlearnedModel

class Unlearned(LookupModels):
    def stored_unlearning(self):
        return UnlearnedModel(Path(), False, "", 3, 3, 0.0, 1.0, 226.0, {made!r})

def pytest_unlearn_models(dataset):
    return Unlearned(dataset)
"""
    )
    result = unlearn_run("-k", "solved")
    result.stdout.fnmatch_lines([f"model tiny * {shown}"])
