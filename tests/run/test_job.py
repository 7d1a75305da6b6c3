"""The whole job without pytest, as a notebook runs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.gates.gate import parse_gate
from pytest_unlearn.run.dataset import Dataset
from pytest_unlearn.run.job import measure
from pytest_unlearn.run.settings import Settings
from pytest_unlearn.testing import LookupModels
from tests.support.lookup_run import SMALL_GATES, record_lines, task_lines, write_lines


def settings_in(folder: Path) -> Settings:
    """Return the settings of a small run with everything else at its default."""
    return Settings(
        model="lookup",
        forget=(write_lines(folder / "forget.jsonl", record_lines("forget", 60)),),
        retain=(write_lines(folder / "retain.jsonl", record_lines("retain", 30)),),
        control=(write_lines(folder / "control.jsonl", record_lines("control", 30)),),
        tasks=(write_lines(folder / "tasks.jsonl", task_lines(30)),),
        store=folder / "store",
    )


def test_settings_have_defaults() -> None:
    """What a bare run takes is what a notebook gets by naming the model."""
    settings = Settings(model="tiny")
    assert settings.method.name != "none"
    assert [gate.name for gate in settings.judging.gates]
    assert settings.compares_two_states


def test_the_whole_job(tmp_path: Path) -> None:
    """Every case is measured, and the gates are judged as in a session."""
    settings = settings_in(tmp_path)
    judging = replace(settings.judging, gates=tuple(map(parse_gate, SMALL_GATES)))
    settings = replace(settings, judging=judging)
    models = LookupModels(Dataset(settings))
    result = measure(settings, models=models)
    assert result.run.complete
    assert len(result.rows) == 150
    assert {gate.verdict for gate in result.gates} == {"PASS"}
    assert result.verdict == "FOR RELEASE"


def test_leaks_are_judged(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    dataset = Dataset(settings)
    leaking = [probe.id for probe in dataset.probes_of("forget")]
    result = measure(settings, models=LookupModels(dataset, leaking=leaking))
    assert result.verdict == "NOT FOR RELEASE"


def test_a_wrong_setting_is_refused_before_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        measure(Settings(model="tiny", forget=(tmp_path / "none.jsonl",)))
