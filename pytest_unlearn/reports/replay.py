"""Results read back from their JSON Lines, and judged again by the same gates or by others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pytest_unlearn.gates.baselines import is_change
from pytest_unlearn.gates.expressions import parse_gate
from pytest_unlearn.gates.options import Judging
from pytest_unlearn.gates.planning import check_decoys
from pytest_unlearn.gates.rows import ProbeRow, TaskRow
from pytest_unlearn.gates.shares import shares
from pytest_unlearn.gates.verdicts import Measured, judge
from pytest_unlearn.jsonl import read_any_objects
from pytest_unlearn.reports.breakdown import aligned
from pytest_unlearn.reports.building import CASE_FACTS, gate_fact
from pytest_unlearn.reports.result import Case, GateFact, Result, RunFacts
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
    metrics = shares(rows, run.confidence, run.two_states)
    return Result(run, tuple(gates), metrics, tuple(cases), head["provenance"], head["search"])


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


def recorded(result: Result) -> Judging:
    """Return how a run was judged. Raises GateError for a gate that this version does not know."""
    return Judging(
        gates=tuple(parse_gate(g.text) for g in result.gates if not is_change(g.text)),
        source="the earlier run",
        profile=None,
        confidence=result.run.confidence,
        undecided=result.run.undecided,
        require_complete=result.run.require_complete,
        curtail=result.run.curtailed,
        save=None,
        compare=None,
        compare_fail=(),
    )


def rejudged(result: Result, judging: Judging) -> Result:
    """Return the result with the verdicts of these gates on its rows.

    Limits on a change since a saved run keep their verdicts: both runs' rows are what they were.
    Where the rules are others than the run's own, the manifest names them (`replayed`). Raises
    GateError for a limit on exposure that the run's decoys cannot break.
    """
    run = replace(
        result.run,
        confidence=judging.confidence,
        undecided=judging.undecided,
        require_complete=judging.require_complete,
    )
    for gate in judging.gates:
        check_decoys(gate, result.provenance.get("settings", {}).get("exposure", 0))
    measured = Measured(
        rows=result.rows,
        expected=[SimpleNamespace(id=case.id, **case.about) for case in result.cases],
        seen={case.id for case in result.cases if case.status != "not run"},
        two_states=run.two_states,
        interrupted=run.interrupted,
        require_complete=run.require_complete,
        curtailed=run.curtailed,
        confidence=run.confidence,
        undecided_blocks=run.undecided == "fail",
    )
    gates = [gate_fact(judge(gate, measured)) for gate in judging.gates]
    gates += [gate for gate in result.gates if is_change(gate.text)]
    rules = {
        "gates": [gate.text for gate in gates],
        "confidence": run.confidence,
        "undecided": run.undecided,
        "require_complete": run.require_complete,
    }
    provenance = dict(result.provenance)
    if run != result.run or rules["gates"] != [gate.text for gate in result.gates]:
        provenance["replayed"] = rules
    return replace(
        result,
        run=run,
        gates=tuple(gates),
        metrics=shares(result.rows, run.confidence, run.two_states),
        provenance=provenance,
    )


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
