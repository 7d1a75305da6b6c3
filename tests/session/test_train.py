"""`python -m pytest_unlearn.train`: what it refuses, and what a launcher must not start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_unlearn import train
from pytest_unlearn.run.models import ModelPair
from pytest_unlearn.session import xdist
from tests.support.lookup_run import UnlearnRun
from tests.support.small_models import llama_folder

__all__ = ["llama_folder"]

TWO = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("flags", "environment", "wrong"),
    [
        (["--unlearn-method=none"], {}, "there is nothing to train: write --unlearn-method"),
        (["--unlearn-method=codeeraser"], TWO, "codeeraser: the loss of codeeraser is not a sum"),
        (["--unlearn-method=ga:batch=1"], TWO, "--unlearn-method=ga: 2 processes need a row each"),
        (["--unlearn-device=cuda:1"], TWO, "--unlearn-device=cuda:1: each of 2 processes takes"),
        (["--unlearn-method=none", "--unlearn-plant"], TWO, "--unlearn-method=none: 2 processes"),
        (["--unlearn-plant"], TWO, "--unlearn-plant: several processes cannot plant; run `python"),
        ([], {**TWO, "ACCELERATE_USE_DEEPSPEED": "true"}, "write 3, whose sharding FSDP does"),
        ([], {**TWO, "GPUS": "1"}, "2 processes on this machine need a GPU each, and there is 1"),
    ],
)
def test_what_is_refused(
    unlearn_run: UnlearnRun,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    environment: dict[str, str],
    wrong: str,
) -> None:
    """Before a model is loaded, by the flag's name, and by the first process alone."""
    gpus = int(environment.get("GPUS", "0"))
    monkeypatch.setattr(xdist, "visible_gpus", lambda: gpus)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    arguments = [*unlearn_run.arguments(), *unlearn_run.gates(flags), *flags]
    run = unlearn_run.pytester.runpytest_inprocess
    first = run(*arguments, plugins=[train._Training()])
    assert first.ret == pytest.ExitCode.USAGE_ERROR
    first.stderr.fnmatch_lines([f"*{wrong}*"])
    if environment:
        monkeypatch.setenv("RANK", "1")
        second = run(*arguments, plugins=[train._Training()])
        assert second.ret == pytest.ExitCode.USAGE_ERROR
        assert not second.stderr.lines


def test_no_model_and_help(pytester: pytest.Pytester) -> None:
    """Without a model there is nothing to train; the flags are pytest's."""
    run = pytester.runpytest_inprocess(plugins=[train._Training()])
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*name a model, as in --unlearn-model=tiny*"])
    assert pytester.runpytest_inprocess("--help", plugins=[train._Training()]).ret == 0


def test_models_of_a_conftest_are_not_trained(unlearn_run: UnlearnRun) -> None:
    """What answers from elsewhere has no weights here."""
    unlearn_run.lookup()
    run = unlearn_run.pytester.runpytest_inprocess(
        *unlearn_run.arguments(), *unlearn_run.gates(()), plugins=[train._Training()]
    )
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*a conftest provides the models*"])


def test_one_process_trains_what_a_run_needs(
    unlearn_run: UnlearnRun, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tested model, then the retrained one where it is the run's own; and no test is run."""
    asked: list[str] = []
    prepare = ModelPair.prepare

    def noted(pair: ModelPair, state: Any) -> None:
        asked.append(state)
        prepare(pair, "unlearned")

    monkeypatch.setattr(ModelPair, "prepare", noted)
    unlearn_run.model = llama_folder
    flags = [
        *unlearn_run.arguments(),
        *unlearn_run.gates(()),
        "--unlearn-method=ga:steps=1,batch=2,target=-1,rank=2",
        f"--unlearn-retrained={llama_folder}",
    ]
    run = unlearn_run.pytester.runpytest_inprocess(*flags, plugins=[train._Training()])
    assert run.ret == pytest.ExitCode.OK, run.stderr.str()
    run.stdout.fnmatch_lines(["model *  method ga  processes 1", "unlearned in 1 steps (*"])
    run.stdout.no_fnmatch_line("*passed*")
    assert asked == ["unlearned", "retrained"]


def test_a_training_that_fails(unlearn_run: UnlearnRun, llama_folder: Path) -> None:
    """Its error is told, and the exit code is none of success."""
    unlearn_run.model = llama_folder
    run = unlearn_run.pytester.runpytest_inprocess(
        *unlearn_run.arguments(),
        *unlearn_run.gates(()),
        "--unlearn-method=ga:steps=1,batch=2,target=-1,rank=2,lr=1e-50",
        plugins=[train._Training()],
    )
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    run.stderr.fnmatch_lines(["ERROR (process 0): --unlearn-method=ga: the adapter did not move*"])


def test_a_launcher_does_not_start_the_tests(
    unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of all tests would each give a verdict, and the launcher one exit code."""
    unlearn_run.lookup()
    monkeypatch.setenv("WORLD_SIZE", "2")
    run = unlearn_run("-k", "add-1")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*accelerate launch -m pytest_unlearn.train*"])
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert unlearn_run("-k", "add-1").ret != pytest.ExitCode.USAGE_ERROR
