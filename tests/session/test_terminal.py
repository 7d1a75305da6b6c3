"""Lines of the summary that need no run."""

from __future__ import annotations

from pathlib import Path

from pytest_unlearn.models.sources import ModelSource
from pytest_unlearn.run.planted import Planting
from pytest_unlearn.session.terminal import planting_line


def planting(by_repetitions: dict[str, float]) -> Planting:
    return Planting(
        source=ModelSource("tiny (planted)", Path("folder")),
        steps=300,
        rounds=12.5,
        leak_rate=0.85,
        before=0.0,
        records=40,
        by_repetitions=by_repetitions,
        seconds=61.4,
    )


def test_planting() -> None:
    """How much comes out, and how much did before: repetitions only where they differ."""
    line = "planted in 300 steps (61 s): 85% of 40 records come out, 0% did before"
    assert planting_line(planting({"1": 0.85})) == line
    assert planting_line(planting({"1": 0.7, "16": 1.0})) == (
        f"{line}; by repetitions 1x 70%, 16x 100%"
    )
