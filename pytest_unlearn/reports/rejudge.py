"""A result judged again, by the same gates or by others."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from pytest_unlearn.gates.estimates import shares
from pytest_unlearn.gates.gate import parse_gate
from pytest_unlearn.gates.judging import Judging
from pytest_unlearn.gates.planning import check_decoys
from pytest_unlearn.gates.saved_runs import is_change
from pytest_unlearn.gates.verdicts import Measured, judge_gate
from pytest_unlearn.run.result import Result, gate_fact


def recorded(result: Result) -> Judging:
    """Return how a run was judged. Raises GateError for a gate that this version does not know."""
    return Judging(
        gates=tuple(parse_gate(g.text) for g in result.gates if not is_change(g.text)),
        source="the earlier run",
        profile=None,
        confidence=result.run.confidence,
        undecided=result.run.undecided,
        population=result.run.population,
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
        population=judging.population,
        require_complete=judging.require_complete,
    )
    for gate in judging.gates:
        check_decoys(gate, result.provenance.get("settings", {}).get("exposure", 0))
    measured = Measured(
        rows=result.rows,
        expected=[
            SimpleNamespace(id=case.id, **{"rehearsed": False, **case.about})
            for case in result.cases
        ],
        seen={case.id for case in result.cases if case.status != "not run"},
        two_states=run.two_states,
        interrupted=run.interrupted,
        require_complete=run.require_complete,
        confidence=run.confidence,
        undecided_blocks=run.undecided == "fail",
        requests=run.population == "requests",
    )
    gates = [gate_fact(judge_gate(gate, measured)) for gate in judging.gates]
    gates += [gate for gate in result.gates if is_change(gate.text)]
    rules = {
        "gates": [gate.text for gate in gates],
        "confidence": run.confidence,
        "undecided": run.undecided,
        "population": run.population,
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
