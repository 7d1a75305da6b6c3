"""The report `summary`: gates, metrics and the manifest as one JSON object."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pytest_unlearn.gates.estimates import Share
from pytest_unlearn.reports.comparison import standings
from pytest_unlearn.reports.retrained import ways
from pytest_unlearn.reports.robustness import attack_data, inside_figures
from pytest_unlearn.reports.sustainability import stages
from pytest_unlearn.run.result import GateFact, Result, verdict_of_all

SCHEMA = "pytest-unlearn/summary"
# Raise when a field is renamed, removed, or means something else; a new field raises nothing.
SCHEMA_VERSION = 1
# Of a sweep: what version 1 says of a run stands under `pairs`, once for each.
SWEEP_VERSION = 2


def render(result: Result) -> str:
    """Return the JSON text."""
    return as_json({"schema": SCHEMA, "version": SCHEMA_VERSION, **_body(result)})


def render_sweep(results: Sequence[Result]) -> str:
    """Return the JSON text of a sweep: the verdict of all, and each pair with its standing."""
    pairs = [
        {
            **pair_data(result),
            "leak": found.leak,
            "ability": found.ability,
            "front": found.front,
            **_body(result),
        }
        for result, found in zip(results, standings(results), strict=True)
    ]
    data = {"schema": SCHEMA, "version": SWEEP_VERSION, "verdict": verdict_of_all(results)}
    requests = [
        {
            "pair": one.label,
            "request": one.request,
            "people": one.people,
            "leaking": {name: leaks for name, (leaks, _) in one.leaking.items()},
            "leak": one.leak,
            "ability": one.ability,
            "retained": one.retained,
            "verdict": one.verdict,
        }
        for one in stages(results)
    ]
    return as_json({**data, **({"requests": requests} if requests else {}), "pairs": pairs})


def pair_data(result: Result) -> dict[str, Any]:
    """Return which pair of a sweep a result is of; nothing of a run of one pair."""
    return {} if result.pair is None else {"pair": asdict(result.pair)}


def _body(result: Result) -> dict[str, Any]:
    return {
        **head(result),
        "gates": [gate_data(gate) for gate in result.gates],
        "metrics": [share_data(share) for share in result.metrics],
        "attacks": attack_data(result.rows, result.run.confidence),
        "hidden_states": [asdict(o) for o in inside_figures(result.rows, result.run.confidence)],
        "against_retrained": [
            {**asdict(way), "way_gone": way.share}
            for way in ways(result.rows, result.run.confidence)
        ],
        "search": result.search,
        "provenance": result.provenance,
    }


def head(result: Result) -> dict[str, Any]:
    """Return the verdict, whether the run was whole, and what was run."""
    return {
        "verdict": result.verdict,
        "caveat": result.caveat,
        "run": asdict(result.run),
        "measured": len(result.rows),
        "errors": result.errors,
    }


def gate_data(gate: GateFact) -> dict[str, Any]:
    """Return a gate as JSON data."""
    return asdict(gate)


def share_data(share: Share) -> dict[str, Any]:
    """Return a share as JSON data; bounds are one-sided, each end by itself."""
    return asdict(share)


def as_json(data: Any, indent: int | None = 2) -> str:
    """Return JSON text that every reader takes: no infinity, no NaN; ASCII; a line break last."""
    return json.dumps(_finite(data), indent=indent, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
