"""The reports for programs: `jsonl` and `csv` hold the cases of a run, `summary` its verdict.

`jsonl` has a line for the run, one for each gate and one for each case; for a sweep, these lines
for each pair, every line with its pair. `results.schema.json` is the schema of a line. The file can
be read back and judged again. `csv` has a line for each case, for a spreadsheet (RFC 4180).
`summary` is one JSON object with gates, metrics and the manifest.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Any, NamedTuple

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.text_files import finite, known_fields, read_objects
from pytest_unlearn.gates.case_rows import AttackRow, ProbeRow, Row, TaskRow, row_data, row_of_data
from pytest_unlearn.gates.estimates import Share, shares
from pytest_unlearn.reports.comparison import stages, standings
from pytest_unlearn.reports.robustness import attack_data, inside_figures, ways
from pytest_unlearn.run.result import (
    CASE_FACTS,
    Case,
    GateFact,
    PairName,
    Result,
    RunFacts,
    verdict_of_all,
)

SCHEMA = "pytest-unlearn/results"
# Increase when a field is renamed, removed, or changes its meaning; not for a new field.
SCHEMA_VERSION = 1
# For a sweep: there are several run lines, and every line has its pair.
SWEEP_VERSION = 2


def render_jsonl(result: Result) -> str:
    """Return the lines."""
    return _lines(result, {"version": SCHEMA_VERSION})


def render_jsonl_sweep(results: Sequence[Result]) -> str:
    """Return the lines of all pairs."""
    # The number of pairs, so that a file cut off between two of them is recognized.
    version = {"version": SWEEP_VERSION, "pairs": len(results)}
    return "".join(_lines(result, version) for result in results)


def _lines(result: Result, version: dict[str, int]) -> str:
    first = {
        "record": "run",
        "schema": SCHEMA,
        **version,
        **run_data(result),
        "search": result.search,
        "provenance": result.provenance,
    }
    gates = [{"record": "gate", **gate_data(gate)} for gate in result.gates]
    pair = pair_data(result)
    lines = "".join(
        as_json({**line, **pair}, indent=None) for line in (*gates, *map(case_data, result.cases))
    )
    # This detects accidents by an editor or a script, but not a forger, who writes a new digest.
    first["sha256"] = hashlib.sha256(lines.encode()).hexdigest()
    return as_json({**first, **pair}, indent=None) + lines


def case_data(case: Case) -> dict[str, Any]:
    """Return a case's line: its row if it was measured, and how its value may be shown."""
    data: dict[str, Any] = {"record": "case", "id": case.id, "status": case.status, **case.about}
    if case.row is not None:
        data |= row_data(case.row)
    data["type"] = "attack" if case.about.get("attack") else "probe" if case.shown else "task"
    if case.shown:
        data["shown"] = case.shown
    texts = {"value": case.value, "base_text": case.base_text, "tested_text": case.tested_text}
    return data | {name: text for name, text in texts.items() if text is not None}


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
_PAIR = ("pair", "model", "method", "request")
_VALUES = ("value", "base_text", "tested_text")


def render_csv(result: Result) -> str:
    """Return the table; it has columns with values only if the user asked for them."""
    return _table((), [result])


def render_csv_sweep(results: Sequence[Result]) -> str:
    """Return the table of all pairs; the first columns name the pair."""
    return _table(_PAIR, results)


def _table(first: Sequence[str], results: Sequence[Result]) -> str:
    shown = any(result.run.values_shown for result in results)
    columns = [*first, *_COLUMNS, *(_VALUES if shown else ())]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    for result in results:
        pair = {} if result.pair is None else dict(zip(_PAIR, astuple(result.pair), strict=False))
        for case in result.cases:
            cells = {**pair, **_cells(case)}
            writer.writerow({name: _safe(cell) for name, cell in cells.items()})
    return text.getvalue()


def _cells(case: Case) -> dict[str, Any]:
    cells: dict[str, Any] = {"id": case.id, "status": case.status, "shown": case.shown}
    cells |= {"value": case.value, "base_text": case.base_text, "tested_text": case.tested_text}
    cells["rehearsed"] = "yes" if case.about.get("rehearsed") else "no"
    row = case.row
    if isinstance(row, TaskRow):
        cells |= {"type": "task", "task": row.task, "base": row.base, "tested": row.unlearned}
    elif row is not None:
        base, tested = row.base_exact, row.unlearned_exact
        cells |= {
            "split": row.split,
            "family": row.family,
            "kind": row.kind,
            "carrier": row.carrier,
            "planted": row.planted,
            "language": row.language,
            "knowledge": row.knowledge,
            "owner": row.owner,
            "type": "probe" if isinstance(row, ProbeRow) else "attack",
            "attack": row.attack,
            "base": row.base.label,
            "tested": row.unlearned.label,
            "how": row.unlearned.how,
            "leaked_kind": row.unlearned.kind,
            "leaked_owner": row.unlearned.owner,
            "base_log_probability": finite(base.log_probability) if base else None,
            "tested_log_probability": finite(tested.log_probability) if tested else None,
        }
    return cells


def _safe(cell: Any) -> Any:
    """Keep a spreadsheet from evaluating a text as a formula (OWASP, CSV injection)."""
    if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + cell
    return cell


class ResultsFileError(UserError):
    """A file has no results that can be judged again; the message names file and line."""


def read_results(path: Path, show_values: bool) -> tuple[Result, ...]:
    """Read what `--unlearn-report=jsonl` wrote: the result of a run, or those of a sweep's pairs.

    Values in it are dropped unless `show_values`. Raises ResultsFileError naming file and line.
    """
    runs: list[_Lines] = []
    number = 1
    for number, line in read_objects(path, ResultsFileError, ("record",)):
        if not runs or line["record"] == "run":
            _check_head(path, number, line)
            runs.append(_Lines(line, [], [], hashlib.sha256()))
            continue
        runs[-1].digest.update(as_json(line, indent=None).encode())
        try:
            if line["record"] == "gate":
                runs[-1].gates.append(GateFact(**known_fields(GateFact, line)))
            else:
                runs[-1].cases.append(_case(line, show_values))
        except (KeyError, TypeError) as error:
            raise ResultsFileError(
                f"{path}:{number}: not a line of results ({type(error).__name__}: {error}); write "
                "the file again with --unlearn-report=jsonl"
            ) from error
    if not runs:
        _check_head(path, number, {})
    pairs = runs[0].head.get("pairs", 1)
    if len(runs) != pairs:
        raise ResultsFileError(
            f"{path}: it has {len(runs)} of {pairs} runs; it was cut off, give the complete file"
        )
    return tuple(_result(path, lines, show_values) for lines in runs)


class _Lines(NamedTuple):
    """The lines of one run: the first, and what the others hold."""

    head: dict[str, Any]
    gates: list[GateFact]
    cases: list[Case]
    digest: hashlib._Hash


def _check_head(path: Path, number: int, line: dict[str, Any]) -> None:
    version = SWEEP_VERSION if "pair" in line else SCHEMA_VERSION
    if line.get("schema") != SCHEMA or line.get("version") != version:
        raise ResultsFileError(
            f"{path}:{number}: not results of this version; give a file that "
            f"--unlearn-report=jsonl wrote (schema {SCHEMA}, version {SCHEMA_VERSION} or, for a "
            f"sweep, {SWEEP_VERSION})"
        )


def _result(path: Path, lines: _Lines, show_values: bool) -> Result:
    head, cases = lines.head, tuple(lines.cases)
    run = RunFacts(**known_fields(RunFacts, head["run"]))
    if len(cases) != run.expected:
        raise ResultsFileError(
            f"{path}: it has {len(cases)} of the run's {run.expected} cases; it was cut off, give "
            "the complete file"
        )
    if head.get("sha256") != lines.digest.hexdigest():
        raise ResultsFileError(
            f"{path}: its lines are not those that the run wrote, they were changed or left out "
            "since; give the file as --unlearn-report=jsonl wrote it"
        )
    run = replace(
        run,
        attacks=tuple(run.attacks),
        tried=tuple(run.tried),
        untried=tuple(run.untried),
        impossible=tuple(run.impossible),
        failures=tuple(run.failures),
        left_out=tuple(run.left_out),
        values_shown=run.values_shown and show_values,
    )
    rows = [case.row for case in cases if case.row is not None]
    pair = PairName(**known_fields(PairName, head["pair"])) if "pair" in head else None
    metrics = shares(rows, run.confidence, run.two_states)
    return Result(run, tuple(lines.gates), metrics, cases, head["provenance"], head["search"], pair)


def _case(line: dict[str, Any], show_values: bool) -> Case:
    kinds: dict[str, type[Row]] = {"probe": ProbeRow, "task": TaskRow, "attack": AttackRow}
    kind, row = kinds[line["type"]], None
    if line["status"] == "measured":
        row = row_of_data(kind, known_fields(kind, line))
    values = {name: line.get(name) if show_values else None for name in _VALUES}
    about = {name: line[name] for name in CASE_FACTS if name in line}
    return Case(line["id"], line["status"], row, line.get("shown", ""), about, **values)


SUMMARY_SCHEMA = "pytest-unlearn/summary"
# Increase when a field is renamed, removed, or changes its meaning; not for a new field.
SUMMARY_VERSION = 1
# For a sweep: `pairs` has what version 1 has for a run, once for each pair.
SUMMARY_SWEEP_VERSION = 2


def render_json(result: Result) -> str:
    """Return the JSON text."""
    return as_json({"schema": SUMMARY_SCHEMA, "version": SUMMARY_VERSION, **_body(result)})


def render_json_sweep(results: Sequence[Result]) -> str:
    """Return the JSON text of a sweep: the verdict of all, and each pair with its standing."""
    pairs = [
        {
            **pair_data(result),
            "leak": standing.leak,
            "ability": standing.ability,
            "front": standing.front,
            **_body(result),
        }
        for result, standing in zip(results, standings(results), strict=True)
    ]
    data = {
        "schema": SUMMARY_SCHEMA,
        "version": SUMMARY_SWEEP_VERSION,
        "verdict": verdict_of_all(results),
    }
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
    """Return which pair of a sweep a result belongs to; nothing for a run of one pair."""
    return {} if result.pair is None else {"pair": asdict(result.pair)}


def _body(result: Result) -> dict[str, Any]:
    return {
        **run_data(result),
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


def run_data(result: Result) -> dict[str, Any]:
    """Return the verdict, whether the run was complete, and what was run."""
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
    """Return a share as JSON data; each of its bounds is one-sided."""
    return asdict(share)


def as_json(data: Any, indent: int | None = 2) -> str:
    """Return JSON text for every reader: no infinity or NaN, ASCII, a line break at the end."""
    return json.dumps(finite(data), indent=indent, allow_nan=False) + "\n"
