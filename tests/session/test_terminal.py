"""Lines of the summary that need no run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_unlearn.gates.case_rows import ATTACK_PROPERTY, AttackRow, row_data
from pytest_unlearn.gates.estimates import share
from pytest_unlearn.gates.metrics import METRICS
from pytest_unlearn.leaks.outcome import Outcome
from pytest_unlearn.models.sources import ModelSource
from pytest_unlearn.run.planted import Planting
from pytest_unlearn.session.items import fail_on_leak
from pytest_unlearn.session.terminal import planting_line, status
from tests.support.attack_rows import attacked


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


@pytest.mark.parametrize("label", ["direct", "indirect", "clean"])
def test_an_attack_leaks_where_its_gate_counts_something(label: Any) -> None:
    """The letter, a critical test and `leak.direct[attack=NAME]` agree, also on indirect leaks."""
    rows = [
        *(replace(row, unlearned=Outcome(label)) for row in attacked("clues", 0, count=1)),
        *attacked("clues", 1, split="control", count=1),
    ]
    counted = share(METRICS["leak.direct"], rows, {"attack": "clues"}, 0.95)
    assert counted is not None
    leaked = counted.rate("tested") > 0
    report = passed(rows)
    assert (status(report) == ("leaked", "L", ("LEAKED", {"yellow": True}))) is leaked
    fail_on_leak(None, report, always=True)  # type: ignore[arg-type]
    assert report.failed is leaked is (label == "direct")


def passed(rows: list[AttackRow]) -> pytest.TestReport:
    text = json.dumps([row_data(row) for row in rows])
    return pytest.TestReport(
        nodeid="test_robustness.py::test_withstands[clues]",
        location=("test_robustness.py", 1, "test_withstands[clues]"),
        keywords={},
        outcome="passed",
        longrepr=None,
        when="call",
        user_properties=[(ATTACK_PROPERTY, text)],
    )
