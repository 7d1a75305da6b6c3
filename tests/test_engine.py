"""The engine's scores are those of the values at hand, read or made once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_unlearn.dataset import Dataset
from pytest_unlearn.engine import Engine
from pytest_unlearn.models.examples import Example
from pytest_unlearn.models.scoring import ValueScores
from pytest_unlearn.tasks.prompts import Sampling
from pytest_unlearn.testing import LookupModel, LookupModels
from tests.conftest import record_lines, write_lines


class Given:
    """The settings that a data set and an engine read."""

    retain: tuple[Path, ...] = ()
    control: tuple[Path, ...] = ()
    tasks: tuple[Path, ...] = ()
    probes: tuple[str, ...] = ("direct",)
    batch_size = 64
    sampling = Sampling()
    seed = 0
    exposure = 0

    def __init__(self, forget: Path, store: Path) -> None:
        self.forget = (forget,)
        self.store = store


class ScoringModels(LookupModels):
    """A lookup backend with scores; `scored` holds what it was asked to score."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self.scored: list[str] = []

    def model(self, state: Any) -> LookupModel:
        found: Any = super().model(state)
        found.score = self.score
        return found  # type: ignore[no-any-return]

    def score(self, examples: Sequence[Example]) -> list[ValueScores]:
        self.scored += [example.text[example.start : example.end] for example in examples]
        return [
            ValueScores((-1.0,), (-1.0,), (False,), (0.0,), 0.0, 0.0, False, 8) for _ in examples
        ]


def scored(rows: list[dict[str, Any]], folder: Path) -> list[str]:
    """Run all probes of a data file on a store in `folder`; return what was scored."""
    settings: Any = Given(write_lines(folder / "forget.jsonl", rows), folder / "store")
    dataset = Dataset(settings)
    models = ScoringModels(dataset)
    engine = Engine(settings, dataset, models=models)
    try:
        for probe in dataset.probes:
            row = engine.run_probe(probe)[1]
            assert row.base_exact is not None
            assert row.base_exact["loss"] == pytest.approx(1.0)
    finally:
        engine.close()
    return models.scored


def test_scores_are_made_once_and_never_taken_from_another_value(tmp_path: Path) -> None:
    """A prompt does not name its value: with another one the stored scores are not its own."""
    rows = record_lines("forget", 4)
    assert len(scored(rows, tmp_path)) == 2 * len(rows)  # base and tested model
    assert scored(rows, tmp_path) == []
    changed = [{**row, "value": row["value"][::-1]} for row in rows]
    assert set(scored(changed, tmp_path)) == {row["value"] for row in changed}
