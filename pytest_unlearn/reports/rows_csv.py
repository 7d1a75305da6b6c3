"""The report `csv`: a line a case, for a spreadsheet (RFC 4180)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from pytest_unlearn.gates.case_rows import ProbeRow, TaskRow
from pytest_unlearn.run.result import Case, Result

_COLUMNS = (
    "id",
    "type",
    "status",
    "split",
    "family",
    "attack",
    "kind",
    "carrier",
    "planted",
    "language",
    "knowledge",
    "owner",
    "task",
    "rehearsed",
    "shown",
    "base",
    "tested",
    "how",
    "leaked_kind",
    "leaked_owner",
    "base_log_probability",
    "tested_log_probability",
)
_PAIR = ("pair", "model", "method")
_VALUES = ("value", "base_text", "tested_text")


def render(result: Result) -> str:
    """Return the table; columns with values only where the user asked for them."""
    return _table((), [result])


def render_sweep(results: Sequence[Result]) -> str:
    """Return the table of all pairs; the first columns name the pair."""
    return _table(_PAIR, results)


def _table(first: Sequence[str], results: Sequence[Result]) -> str:
    shown = any(result.run.values_shown for result in results)
    columns = [*first, *_COLUMNS, *(_VALUES if shown else ())]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    for result in results:
        pair = {} if result.pair is None else dict(zip(_PAIR, astuple(result.pair), strict=True))
        for case in result.cases:
            cells = {**pair, **_cells(case)}
            writer.writerow({name: _safe(cell) for name, cell in cells.items()})
    return text.getvalue()


def _cells(case: Case) -> dict[str, Any]:
    cells: dict[str, Any] = {"id": case.id, "status": case.status, "shown": case.shown}
    cells |= {name: getattr(case, name) for name in _VALUES}
    cells["rehearsed"] = "yes" if case.about.get("rehearsed") else "no"
    row = case.row
    if isinstance(row, TaskRow):
        cells |= {"type": "task", "task": row.task, "base": row.base, "tested": row.unlearned}
    elif row is not None:
        same = ("split", "family", "kind", "carrier", "planted", "language", "knowledge", "owner")
        cells |= {name: getattr(row, name) for name in same}
        cells |= {
            "type": "probe" if isinstance(row, ProbeRow) else "attack",
            "attack": getattr(row, "attack", None),
            "base": row.base["label"],
            "tested": row.unlearned["label"],
            "how": row.unlearned.get("how"),
            "leaked_kind": row.unlearned.get("kind"),
            "leaked_owner": row.unlearned.get("owner"),
            "base_log_probability": (row.base_exact or {}).get("log_probability"),
            "tested_log_probability": (row.unlearned_exact or {}).get("log_probability"),
        }
    return cells


def _safe(cell: Any) -> Any:
    """Keep a spreadsheet from running a text as a formula (OWASP, CSV injection)."""
    if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + cell
    return cell
