"""The measured rows on which gates judge: one a probe, one a task case; row names and labels only.

A row travels from a worker to the controller, and into JUnit, as JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

# Under this name a row stands in a test report's `user_properties`.
ROW_PROPERTY = "unlearn"


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """What a probe brought out. `base` and `unlearned` are outcomes as `Outcome.as_row` gives.

    `carrier` is the one in which was asked, `planted` the one of the document. `base_exact` and
    `unlearned_exact` are exact extraction scores (`leaks.exact_rows.exact_row`), None where the
    probe has none; `retrained_exact` those of a model that never saw the forget records.
    """

    id: str
    split: str
    kind: str
    carrier: str
    owner: str
    base: dict[str, Any]
    unlearned: dict[str, Any]
    family: str = "direct"
    planted: str = ""
    knowledge: str = "name"
    base_exact: dict[str, Any] | None = None
    unlearned_exact: dict[str, Any] | None = None
    retrained_exact: dict[str, Any] | None = None

    @property
    def leaked(self) -> bool:
        """Tell whether the tested model gave a real value away."""
        return self.unlearned["label"] in ("direct", "indirect")


@dataclass(frozen=True, slots=True)
class TaskRow:
    """How a task case was solved. `base` and `unlearned` are the judge's statuses."""

    id: str
    task: str
    base: str
    unlearned: str

    @property
    def solved(self) -> bool:
        """Tell whether the tested model solved the task."""
        return self.unlearned == "passed"


def to_json(row: ProbeRow | TaskRow) -> str:
    """Return a row as JSON text."""
    return json.dumps({"row": type(row).__name__, **asdict(row)}, sort_keys=True)


def from_json(text: str) -> ProbeRow | TaskRow:
    """Return the row that `to_json` wrote."""
    data = json.loads(text)
    return ProbeRow(**data) if data.pop("row") == "ProbeRow" else TaskRow(**data)


def row_in(properties: Iterable[tuple[str, object]]) -> ProbeRow | TaskRow | None:
    """Return the row among a report's `user_properties`, if the test measured one."""
    for name, value in properties:
        if name == ROW_PROPERTY:
            return from_json(str(value))
    return None
