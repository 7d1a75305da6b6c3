"""Bare `--unlearn-replay` on a machine that is not the one that generated: no GPU, no model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pytest_unlearn.models.presets import TINY_FOLDER
from pytest_unlearn.run.models import UnlearnedModel
from pytest_unlearn.run.noted_runs import Recorded
from pytest_unlearn.run.planted import Planting
from tests.support.lookup_run import UnlearnRun, forget_ids

# Keys as those of a GPU with another build of torch; what was trained is said as well.
ON_GPU = """
class LookupModels(LookupModels):  # the class itself outlives this run
    def key(self, state):
        return {"device": "cuda", "torch": "2.13.0+cu130", "state": state}
"""


@pytest.fixture
def model(unlearn_run: UnlearnRun) -> Path:
    """A model folder, the one that the run names."""
    folder = unlearn_run.pytester.path / "coder"
    shutil.copytree(TINY_FOLDER, folder)
    unlearn_run.model = "coder"
    return folder


def run_on_gpu(run: UnlearnRun, *flags: str) -> pytest.RunResult:
    run.lookup(leaking=forget_ids(20), also=ON_GPU)
    result = run(*flags)
    run.pytester.path.joinpath("conftest.py").unlink()  # from here on no model answers
    run.log.unlink()
    return result


FLAGS = ("--unlearn-device=cuda", "--unlearn-report=summary")


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["serial", "workers"])
def test_a_store_from_a_gpu_is_judged_without_one_and_without_the_model(
    unlearn_run: UnlearnRun, model: Path, workers: tuple[str, ...]
) -> None:
    """Same verdicts; the report says on what device the texts were made."""
    made = run_on_gpu(unlearn_run, *FLAGS)
    shutil.rmtree(model)
    judged = unlearn_run(*FLAGS, "--unlearn-replay", *workers, subprocess=bool(workers))
    assert (judged.ret, made.ret) == (1, 1)
    judged.stdout.fnmatch_lines(["leak.direct *20 (33.3%)*FAIL", "NOT FOR RELEASE*"])
    judged.stdout.no_fnmatch_line("*error*")
    summary = json.loads((unlearn_run.pytester.path / "unlearn-summary.json").read_text())
    assert summary["provenance"]["models"]["base"]["device"] == "cuda"
    assert unlearn_run.generated() == []


def test_other_flags_are_another_run(unlearn_run: UnlearnRun, model: Path) -> None:
    """What this seed would have generated is not in the store, and nothing else is taken for it."""
    run_on_gpu(unlearn_run, *FLAGS)
    judged = unlearn_run(*FLAGS, "--unlearn-replay", "--unlearn-seed=1", "-k", "add-0")
    assert judged.ret == pytest.ExitCode.TESTS_FAILED
    judged.stdout.no_fnmatch_line("*PASS*")


def test_a_model_that_changed_is_refused(unlearn_run: UnlearnRun, model: Path) -> None:
    """The store's texts are not those of the model that is here."""
    run_on_gpu(unlearn_run, *FLAGS)
    (model / "generation_config.json").write_text('{"temperature": 0.5}')
    judged = unlearn_run(*FLAGS, "--unlearn-replay")
    assert judged.ret == pytest.ExitCode.USAGE_ERROR
    judged.stderr.fnmatch_lines(["ERROR: --unlearn-model=coder names another model now than *"])


def test_what_is_missing_is_an_error(unlearn_run: UnlearnRun, model: Path) -> None:
    """Cases that the noted run never made are errors, and the gates do not pass."""
    run_on_gpu(unlearn_run, *FLAGS, "-k", "add-0")
    judged = unlearn_run(*FLAGS, "--unlearn-replay", "-k", "forget-000 or add-0")
    assert judged.ret == pytest.ExitCode.TESTS_FAILED
    judged.stdout.fnmatch_lines(["*ReplayError: --unlearn-replay: something of the base model*"])


def test_training_is_reported_as_noted() -> None:
    """Steps and seconds stand in reports, though the weights are elsewhere."""
    checkpoint = {"full": False, "digest": "d", "steps": 80, "trained_steps": 80} | {
        "leak_rate": 0.0,
        "kept": 1.0,
        "seconds": 47.0,
    }
    planting = {"steps": 9, "rounds": 1.0, "leak_rate": 0.9, "before": 0.0, "records": 96} | {
        "by_repetitions": {"1": 0.9},
        "seconds": 7.0,
    }
    entry = {"gates": [], "keys": {}, "checkpoint": checkpoint, "planting": planting}
    noted = Recorded("coder", entry)
    assert isinstance(found := noted.stored_unlearning(), UnlearnedModel)
    assert (found.steps, found.seconds) == (80, 47.0)
    assert isinstance(planted := noted.stored_planting(), Planting)
    assert planted.records == 96
    nothing = Recorded("coder", {"gates": [], "keys": {}, "checkpoint": None, "planting": None})
    assert nothing.stored_unlearning() is nothing.stored_planting() is None
