"""Results read back from their JSON Lines, and judged again by the same gates or by others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pytest_unlearn.gates.expressions import Gate
from pytest_unlearn.gates.rows import ProbeRow, TaskRow
from pytest_unlearn.gates.verdicts import Measured, judge
from pytest_unlearn.jsonl import read_any_objects
from pytest_unlearn.reports.breakdown import aligned
from pytest_unlearn.reports.building import CASE_FACTS, gate_fact
from pytest_unlearn.reports.result import Case, GateFact, Result, RunFacts, shares
from pytest_unlearn.reports.rows_jsonl import SCHEMA, SCHEMA_VERSION

_VALUES = ("value", "base_text", "tested_text")


class ReplayError(ValueError):
    """A file holds no results that can be judged again; the message names file and line."""


def read_results(path: Path, show_values: bool) -> Result:
    """Read what `--unlearn-report=jsonl` wrote. Values in it are left behind unless `show_values`.

    Raises ReplayError naming file and line.
    """
    lines = read_any_objects(path, ReplayError, ("record",))
    number, head = next(lines, (1, {}))
    if head.get("schema") != SCHEMA or head.get("version") != SCHEMA_VERSION:
        raise ReplayError(
            f"{path}:{number}: no results of this version; give a file that "
            f"--unlearn-report=jsonl wrote (schema {SCHEMA}, version {SCHEMA_VERSION})"
        )
    gates, cases = [], []
    for number, line in lines:
        try:
            if line["record"] == "gate":
                gates.append(_made(GateFact, line))
            else:
                cases.append(_case(line, show_values))
        except (KeyError, TypeError) as error:
            raise ReplayError(
                f"{path}:{number}: no line of results ({type(error).__name__}: {error}); write the "
                "file anew by --unlearn-report=jsonl"
            ) from error
    run = _made(RunFacts, head["run"])
    if len(cases) != run.expected:
        raise ReplayError(
            f"{path}: {len(cases)} cases, and the run had {run.expected}: the file was cut short"
        )
    run = replace(run, attacks=tuple(run.attacks), values_shown=run.values_shown and show_values)
    rows = [case.row for case in cases if case.row is not None]
    return Result(run, tuple(gates), shares(rows), tuple(cases), head["provenance"], head["search"])


def _made(kind: Any, data: dict[str, Any]) -> Any:
    """Make a dataclass of the fields that it knows; later versions may have added more."""
    known = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in data.items() if name in known})


def _case(line: dict[str, Any], show_values: bool) -> Case:
    kind = ProbeRow if line["type"] == "probe" else TaskRow
    row = _made(kind, line) if line["status"] == "measured" else None
    values = {name: line.get(name) if show_values else None for name in _VALUES}
    about = {name: line[name] for name in CASE_FACTS if name in line}
    return Case(line["id"], line["status"], row, line.get("shown", ""), about, **values)


def rejudged(result: Result, gates: Sequence[Gate]) -> Result:
    """Return the result with the verdicts of these gates on its rows."""
    measured = Measured(
        rows=result.rows,
        expected=[SimpleNamespace(id=case.id, **case.about) for case in result.cases],
        seen={case.id for case in result.cases if case.status != "not run"},
        two_states=result.run.two_states,
        interrupted=result.run.interrupted,
    )
    return replace(result, gates=tuple(gate_fact(judge(gate, measured)) for gate in gates))


def changes(before: Result, after: Result) -> Iterator[str]:
    """Yield a line for each gate whose verdict is another now, by its limit or by the rules."""
    known = {gate.name: gate for gate in before.gates}
    for gate in after.gates:
        old = known.get(gate.name)
        if old is not None and old.verdict != gate.verdict:
            limit = "" if old.text == gate.text else f" ({old.text})"
            yield f"CHANGED: {gate.text} is {gate.verdict}, was {old.verdict}{limit}"


def table_lines(result: Result) -> list[str]:
    """Return the gates as aligned lines."""
    table = [["gate", "observed", "n", "95% bound", "limit", "verdict"]]
    table += [
        [g.name, g.observed or "-", str(g.n), g.bound or "-", g.limit_text, g.verdict]
        for g in result.gates
    ]
    return aligned(table)
