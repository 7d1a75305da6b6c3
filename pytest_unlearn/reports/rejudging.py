"""A result judged again, by the same gates or by others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

from pytest_unlearn.gates.expressions import Gate
from pytest_unlearn.gates.verdicts import Measured, judge
from pytest_unlearn.reports.building import gate_fact
from pytest_unlearn.reports.result import Result


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
