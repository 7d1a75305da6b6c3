"""Rows and cases that gates are judged on, made by hand."""

from __future__ import annotations

from typing import Any

from pytest_unlearn.gates.case_rows import NamedCase, ProbeRow, TaskRow
from pytest_unlearn.gates.saved_runs import (
    SavedRun,
)
from pytest_unlearn.gates.verdicts import Measured
from pytest_unlearn.leaks.outcome import Outcome


def probe(
    n: int, base: str, unlearned: str, split: str = "forget", kind: str = "email"
) -> ProbeRow:
    return ProbeRow(
        f"{split}-{n}", split, kind, "sql", f"person-{n}", Outcome(base), Outcome(unlearned)
    )


def task(n: int, base: str, unlearned: str) -> TaskRow:
    return TaskRow(f"task-{n}", f"task-{n}", base, unlearned)


def measured(rows: list[ProbeRow | TaskRow], two_states: bool = True, **more: object) -> Measured:
    return Measured(
        rows=rows,
        expected=more.get("expected", rows),  # type: ignore[arg-type]
        seen=more.get("seen", [row.id for row in rows]),  # type: ignore[arg-type]
        two_states=two_states,
        interrupted=more.get("interrupted"),  # type: ignore[arg-type]
        confidence=0.95,
    )


def forget_rows(n: int, leaks: int, base: str = "direct") -> list[ProbeRow | TaskRow]:
    return [probe(i, base, "direct" if i < leaks else "clean") for i in range(n)]


def case(owner: str, split: str = "forget") -> NamedCase:
    """Return a case of a data set, before any run."""
    return NamedCase(owner, split, "direct", "email", owner=owner)


def cases(people: int, each: int = 1) -> list[NamedCase]:
    return [case(f"person {n % people}") for n in range(people * each)]


PROVENANCE = {
    "data": {"records": "a", "tasks": "b"},
    "settings": {"seed": "0", "method": "ga"},
    "versions": {"torch": "2.13"},
}


def run(rows: list[ProbeRow | TaskRow], **more: Any) -> SavedRun:
    return SavedRun("main", "2026-01-01T00:00:00+00:00", PROVENANCE, rows, **more)
