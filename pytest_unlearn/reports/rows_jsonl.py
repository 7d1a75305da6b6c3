"""The report `jsonl`: a line for the run, a line a gate, a line a case.

Of a sweep, such lines pair by pair, each with its pair. `results.schema.json` is the schema of a
line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pytest_unlearn.reports.summary import as_json, gate_data, head, pair_data
from pytest_unlearn.run.result import Case, Result

SCHEMA = "pytest-unlearn/results"
# Raise when a field is renamed, removed, or means something else; a new field raises nothing.
SCHEMA_VERSION = 1
# Of a sweep: there are several lines for runs, and every line has its pair.
SWEEP_VERSION = 2


def render(result: Result) -> str:
    """Return the lines."""
    return _lines(result, {"version": SCHEMA_VERSION})


def render_sweep(results: Sequence[Result]) -> str:
    """Return the lines of all pairs."""
    # How many there are, so that a file that was cut short between two is known.
    told = {"version": SWEEP_VERSION, "pairs": len(results)}
    return "".join(_lines(result, told) for result in results)


def _lines(result: Result, told: dict[str, int]) -> str:
    first = {
        "record": "run",
        "schema": SCHEMA,
        **told,
        **head(result),
        "search": result.search,
        "provenance": result.provenance,
    }
    gates = [{"record": "gate", **gate_data(gate)} for gate in result.gates]
    lines = [first, *gates, *map(case_data, result.cases)]
    pair = pair_data(result)
    return "".join(as_json({**line, **pair}, indent=None) for line in lines)


def case_data(case: Case) -> dict[str, Any]:
    """Return a case's line: its row where it was measured, and how its value may be shown."""
    data: dict[str, Any] = {"record": "case", "id": case.id, "status": case.status, **case.about}
    if case.row is not None:
        data |= asdict(case.row)
    data["type"] = "attack" if case.about.get("attack") else "probe" if case.shown else "task"
    if case.shown:
        data["shown"] = case.shown
    told = {"value": case.value, "base_text": case.base_text, "tested_text": case.tested_text}
    return data | {name: text for name, text in told.items() if text is not None}
