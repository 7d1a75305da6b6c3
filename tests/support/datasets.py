"""Data sets of a few records and tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytest_unlearn.run.dataset import Dataset
from pytest_unlearn.tasks.task_prompts import Sampling


class DataSettings:
    """The settings that a data set reads."""

    forget: tuple[Path, ...] = ()
    retain: tuple[Path, ...] = ()
    control: tuple[Path, ...] = ()
    tasks: tuple[Path, ...] = ()
    probes: tuple[str, ...] = ("direct",)
    batch_size = 64
    leak_samples = 0
    kept_code: tuple[Path, ...] = ()
    sampling = Sampling()
    seed = 0
    held_out = 0.5
    confirm: int | None = None
    rehearsed: tuple[Path, ...] = ()
    attacks: tuple[str, ...] = ()
    adapter = None
    baseline = None
    people = None
    requests = None
    sandbox = "auto"


def dataset(**changes: Any) -> Dataset:
    given: Any = DataSettings()
    for name, value in changes.items():
        setattr(given, name, value)
    return Dataset(given)
