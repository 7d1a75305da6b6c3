"""Results read back from their JSON Lines, and what another judgement of them changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.text_files import read_any_objects
from pytest_unlearn.gates.case_rows import AttackRow, ProbeRow, TaskRow
from pytest_unlearn.gates.estimates import shares
from pytest_unlearn.reports.rows_jsonl import SCHEMA, SCHEMA_VERSION, SWEEP_VERSION
from pytest_unlearn.reports.tables import aligned
from pytest_unlearn.run.result import CASE_FACTS, Case, GateFact, PairName, Result, RunFacts

_VALUES = ("value", "base_text", "tested_text")


class ResultsFileError(UserError):
    """A file holds no results that can be judged again; the message names file and line."""


def read_results(path: Path, show_values: bool) -> tuple[Result, ...]:
    """Read what `--unlearn-report=jsonl` wrote: the result of a run, or those of a sweep's pairs.

    Values in it are left behind unless `show_values`. Raises ResultsFileError naming file and line.
    """
    found: list[_Lines] = []
    number = 1
    for number, line in read_any_objects(path, ResultsFileError, ("record",)):
        if not found or line["record"] == "run":
            _check_head(path, number, line)
            found.append(_Lines(line, [], []))
            continue
        try:
            if line["record"] == "gate":
                found[-1].gates.append(_made(GateFact, line))
            else:
                found[-1].cases.append(_case(line, show_values))
        except (KeyError, TypeError) as error:
            raise ResultsFileError(
                f"{path}:{number}: no line of results ({type(error).__name__}: {error}); write the "
                "file anew by --unlearn-report=jsonl"
            ) from error
    if not found:
        _check_head(path, number, {})
    pairs = found[0].head.get("pairs", 1)
    if len(found) != pairs:
        raise ResultsFileError(
            f"{path}: {len(found)} runs, and there were {pairs}: the file was cut"
        )
    return tuple(_result(path, lines, show_values) for lines in found)


class _Lines(NamedTuple):
    """The lines of one run: its first, and what was read of the others."""

    head: dict[str, Any]
    gates: list[GateFact]
    cases: list[Case]


def _check_head(path: Path, number: int, line: dict[str, Any]) -> None:
    version = SWEEP_VERSION if "pair" in line else SCHEMA_VERSION
    if line.get("schema") != SCHEMA or line.get("version") != version:
        raise ResultsFileError(
            f"{path}:{number}: no results of this version; give a file that "
            f"--unlearn-report=jsonl wrote (schema {SCHEMA}, version {SCHEMA_VERSION} or, of a "
            f"sweep, {SWEEP_VERSION})"
        )


def _result(path: Path, lines: _Lines, show_values: bool) -> Result:
    head, cases = lines.head, tuple(lines.cases)
    run = _made(RunFacts, head["run"])
    if len(cases) != run.expected:
        raise ResultsFileError(
            f"{path}: {len(cases)} cases, and the run had {run.expected}: the file was cut short"
        )
    run = replace(
        run,
        attacks=tuple(run.attacks),
        tried=tuple(run.tried),
        untried=tuple(run.untried),
        failures=tuple(run.failures),
        left_out=tuple(run.left_out),
        values_shown=run.values_shown and show_values,
    )
    rows = [case.row for case in cases if case.row is not None]
    pair = _made(PairName, head["pair"]) if "pair" in head else None
    metrics = shares(rows, run.confidence, run.two_states)
    return Result(run, tuple(lines.gates), metrics, cases, head["provenance"], head["search"], pair)


def _made(kind: Any, data: dict[str, Any]) -> Any:
    """Make a dataclass of the fields that it knows; later versions may have added more."""
    known = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in data.items() if name in known})


def _case(line: dict[str, Any], show_values: bool) -> Case:
    kind = {"probe": ProbeRow, "task": TaskRow, "attack": AttackRow}[line["type"]]
    row = _made(kind, line) if line["status"] == "measured" else None
    values = {name: line.get(name) if show_values else None for name in _VALUES}
    about = {name: line[name] for name in CASE_FACTS if name in line}
    return Case(line["id"], line["status"], row, line.get("shown", ""), about, **values)


def changes(before: Result, after: Result) -> Iterator[str]:
    """Yield a line for each gate whose verdict is another now, that is new, or that is gone."""
    known = {gate.name: gate for gate in before.gates}
    for gate in after.gates:
        old = known.pop(gate.name, None)
        if old is None:
            yield f"NEW: {gate.text} is {gate.verdict}"
        elif old.verdict != gate.verdict:
            limit = "" if old.text == gate.text else f" ({old.text})"
            yield f"CHANGED: {gate.text} is {gate.verdict}, was {old.verdict}{limit}"
    for old in known.values():
        yield f"LEFT OUT: {old.text} was {old.verdict}"


def advice_lines(result: Result) -> list[str]:
    """Return what to do next, a line for each gate that has something to say."""
    return [f"{gate.name}: {gate.advice}" for gate in result.gates if gate.advice]


def table_lines(result: Result) -> list[str]:
    """Return the gates as aligned lines."""
    table = [["gate", "observed", "n", result.run.bound_head, "limit", "verdict"]]
    table += [
        [g.name, g.observed or "-", g.size, g.bound or "-", g.limit_text, g.verdict]
        for g in result.gates
    ]
    return aligned(table)
