"""Results after a run: judged again, and side by side.

A result is judged again by its own gates or by others. The pairs of a sweep are compared by leak
and ability, with their Pareto front. Erasure requests are compared in order, by sustainability and
scalability as in MUSE (arXiv 2407.06460): leaks of this request and of all earlier ones, ability
and retained people.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pytest_unlearn.gates.case_rows import NamedCase, ProbeRow, State, TaskRow
from pytest_unlearn.gates.estimates import shares
from pytest_unlearn.gates.gate import Gate, parse_gate
from pytest_unlearn.gates.judging import Judging
from pytest_unlearn.gates.planning import check_decoys
from pytest_unlearn.gates.saved_runs import is_change
from pytest_unlearn.gates.verdicts import Measured, judge_gate
from pytest_unlearn.reports.tables import Table, aligned, forget_rows
from pytest_unlearn.run.result import GateFact, Result, dropped_gates, gate_fact


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


def asked_of(result: Result, gates: Iterable[Gate]) -> list[Gate]:
    """Return the gates, without those on requests made later than the result's."""
    known = {None, *(case.about.get("request") for case in result.cases)}
    later = result.pair is not None and bool(result.pair.request)
    return [gate for gate in gates if not later or dict(gate.filters).get("request") in known]


def rejudged(result: Result, judging: Judging) -> Result:
    """Return the result with the verdicts of these gates on its rows.

    Limits on a change since a saved run keep their verdicts, because neither run's rows changed. If
    the rules differ from the run's own, the manifest lists them (`replayed`). Raises GateError for
    a limit on exposure that the run's decoys cannot break.
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
        expected=[NamedCase(id=case.id, **case.about) for case in result.cases],
        seen={case.id for case in result.cases if case.status != "not run"},
        two_states=run.two_states,
        interrupted=run.interrupted,
        require_complete=run.require_complete,
        confidence=run.confidence,
        undecided_blocks=run.undecided == "fail",
        requests=run.population == "requests",
    )
    gates = [gate_fact(judge_gate(gate, measured)) for gate in asked_of(result, judging.gates)]
    gates += [gate for gate in result.gates if is_change(gate.text)]
    rules: dict[str, Any] = {
        "gates": [gate.text for gate in gates],
        "confidence": run.confidence,
        "undecided": run.undecided,
        "population": run.population,
        "require_complete": run.require_complete,
    }
    provenance = dict(result.provenance)
    before = [gate.text for gate in result.gates]
    if run != result.run or rules["gates"] != before:
        dropped = dropped_gates(before, rules["gates"])
        provenance["replayed"] = rules | ({"dropped": dropped} if dropped else {})
    return replace(
        result,
        run=run,
        gates=tuple(gates),
        metrics=shares(result.rows, run.confidence, run.two_states),
        provenance=provenance,
    )


def changes(before: Result, after: Result) -> Iterator[str]:
    """Yield a line for each gate that has a different verdict now, is new, or was left out."""
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
    """Return what to do next, a line for each gate that has advice."""
    return [f"{gate.name}: {gate.advice}" for gate in result.gates if gate.advice]


def table_lines(result: Result) -> list[str]:
    """Return the gates as aligned lines."""
    table = [["gate", "observed", "n", result.run.bound_head, "limit", "verdict"]]
    table += [
        [g.name, g.observed or "-", g.size, g.bound or "-", g.limit_text, g.verdict]
        for g in result.gates
    ]
    return aligned(table)


# What is shown of each pair, as gates that hardly any figure breaks, so that their bounds are the
# ones that a gate with a real limit would be judged on.
_SHOWN = (
    "leak.direct<=99.9%",
    "leak.indirect<=99.9%",
    "passk.retained>=0.1%",
    "people.retained>=0.1%",
)
LEAK = "forget probes that leak, directly or indirectly"
ABILITY = "pass@k relative to the base"


@dataclass(frozen=True, slots=True)
class Standing:
    """A pair among the others. `measured` are the figures of `_SHOWN` with their bounds.

    `leak` is the share of direct forget probes that bring out a real value, `ability` pass@k of
    the tested model divided by the base's. Both are fractions; None if there is no figure, or if
    the run of the pair was incomplete or had errors. `front`: no other pair leaks less with the
    same ability, or has more ability with the same leak.
    """

    label: str
    verdict: str
    measured: tuple[GateFact, ...]
    leak: float | None
    ability: float | None
    front: bool = False


def standings(results: Sequence[Result]) -> list[Standing]:
    """Return the pairs in order, with those on the Pareto front marked."""
    all_standings = list(map(_standing, results))
    return [replace(one, front=_on_front(one, all_standings)) for one in all_standings]


def _standing(result: Result) -> Standing:
    # For a method that changes nothing, "retained" is still a figure: everything.
    compared = replace(result, run=replace(result.run, two_states=True))
    judging = replace(recorded(compared), gates=tuple(map(parse_gate, _SHOWN)))
    forget = forget_rows(result.rows, "direct")
    tasks = [row for row in result.rows if isinstance(row, TaskRow)]
    base = math.fsum(row.pass_at("base") for row in tasks)
    comparable = not result.caveat and bool(forget) and base > 0
    return Standing(
        result.label,
        result.verdict,
        rejudged(compared, judging).gates,
        leak=sum(row.leaked for row in forget) / len(forget) if comparable else None,
        ability=math.fsum(row.pass_at("unlearned") for row in tasks) / base if comparable else None,
    )


def _on_front(one: Standing, among: Iterable[Standing]) -> bool:
    if one.leak is None or one.ability is None:
        return False
    return not any(
        other.leak is not None
        and other.ability is not None
        and other.leak <= one.leak
        and other.ability >= one.ability
        and (other.leak, other.ability) != (one.leak, one.ability)
        for other in among
    )


def sweep_table(standings: Sequence[Standing], front: bool = True) -> Table:
    """Return a line for each pair: counts with the gates' one-sided bounds, verdict, front."""
    names = [gate.name for gate in standings[0].measured]
    return [
        ["pair", *names, "verdict", *(["Pareto"] if front else [])],
        *(
            [
                one.label,
                *(f"{g.observed} {g.bound}" if g.observed else "-" for g in one.measured),
                one.verdict,
                *(["front" if one.front else "-"] if front else []),
            ]
            for one in standings
        ),
    ]


def side_by_side(results: Sequence[Result]) -> tuple[list[Table], str]:
    """Return the tables that show pairs side by side, and a sentence about them.

    For erasure requests the table of stages comes first and there is no front, since requests are
    not alternatives to each other.
    """
    pairs, requests = standings(results), stages(results)
    if requests:
        return [stage_table(requests), sweep_table(pairs, front=False)], stage_sentence(requests)
    return [sweep_table(pairs)], front_sentence(pairs)


def front_sentence(standings: Sequence[Standing]) -> str:
    """Return which pairs are on the front, with leak and ability."""
    front = [
        f"{one.label} ({one.leak:.1%} leak, {one.ability:.1%} retained)"
        for one in standings
        if one.front
    ]
    if front:
        return f"Pareto front of leak (direct or indirect) against ability: {', '.join(front)}"
    return (
        "no Pareto front: no pair ran completely and without errors, on probes and on tasks that "
        "the base solves"
    )


@dataclass(frozen=True, slots=True)
class Stage:
    """The model after a request.

    `leaking`: for each request so far, how many of its people had a value come out by any probe,
    and how many people it has. `ability` is pass@k and `retained` the share of retained people's
    values that come out, both divided by the first model's and measured on what unlearning never
    saw, if there is any. None if the first model's figure is 0, or if the run was incomplete or had
    errors. `apart`: unlearned from the first model, without the earlier requests.
    """

    label: str
    request: str
    apart: bool
    leaking: dict[str, tuple[int, int]]
    ability: float | None
    retained: float | None
    verdict: str

    @property
    def people(self) -> int:
        """How many people the request asked for."""
        return self.leaking.get(self.request, (0, 0))[1]

    @property
    def own(self) -> tuple[int, int]:
        """People of this request who leak, and all of its people."""
        return self.leaking.get(self.request, (0, 0))

    @property
    def earlier(self) -> tuple[int, int]:
        """People of earlier requests who leak, and all people of those."""
        others = [counts for name, counts in self.leaking.items() if name != self.request]
        return sum(leaks for leaks, _ in others), sum(people for _, people in others)

    @property
    def every(self) -> tuple[int, int]:
        """People of all requests so far who leak, and all people of those."""
        counts = list(self.leaking.values())
        return sum(leaks for leaks, _ in counts), sum(people for _, people in counts)

    @property
    def leak(self) -> float | None:
        """Share of the people of all requests so far who leak."""
        leaks, people = self.every
        return leaks / people if people else None


def stages(results: Iterable[Result]) -> list[Stage]:
    """Return the stages of a run of requests, in order; none for a run without requests."""
    return [_stage(result) for result in results if result.pair is not None and result.pair.request]


def _stage(result: Result) -> Stage:
    assert result.pair is not None
    rows = result.rows
    probes = [row for row in rows if isinstance(row, ProbeRow)]
    forget = [row for row in probes if row.split == "forget"]
    request_of = {row.owner: row.request for row in forget}
    leaking = {owner for row in forget for owner in _whose(row)}
    counts = {
        name: (
            sum(owner in leaking for owner, asked in request_of.items() if asked == name),
            sum(asked == name for asked in request_of.values()),
        )
        for name in dict.fromkeys(request_of.values())
    }
    tasks = _unseen([row for row in rows if isinstance(row, TaskRow)])
    retained = _unseen([row for row in probes if row.split == "retain" and row.family == "direct"])
    complete = not result.caveat
    return Stage(
        result.label,
        result.pair.request,
        result.pair.apart,
        counts,
        ability=_ratio(tasks, lambda row, state: row.pass_at(state)) if complete else None,
        retained=_ratio(retained, _given) if complete else None,
        verdict=result.verdict,
    )


def _whose(row: ProbeRow) -> list[str]:
    """Return the person to forget whose value came out, if any."""
    outcome = row.unlearned
    if outcome.label == "direct":
        return [row.owner]
    if outcome.label == "indirect" and outcome.split == "forget":
        return [str(outcome.owner)]
    return []


def _given(row: ProbeRow, state: State) -> float:
    outcome = row.outcome(state)
    return float(outcome is not None and outcome.label == "direct")


_Kind = TypeVar("_Kind", ProbeRow, TaskRow)


def _unseen(rows: list[_Kind]) -> list[_Kind]:
    """Return the rows that unlearning did not train on, or all if there are none."""
    return [row for row in rows if not row.rehearsed] or rows


def _ratio(rows: Sequence[_Kind], score: Callable[[_Kind, State], float]) -> float | None:
    base = math.fsum(score(row, "base") for row in rows)
    return math.fsum(score(row, "unlearned") for row in rows) / base if base else None


def stage_table(stages: Sequence[Stage]) -> Table:
    """Return a line for each request: who leaks, what is left of ability and retained people."""
    head = ["after request", "its people", "of them leak", "of earlier ones", "which"]
    return [
        [*head, "pass@k relative to the base", "retained values", "verdict"],
        *(
            [
                one.label,
                str(one.people),
                _of(one.own),
                _of(one.earlier),
                ", ".join(f"{name} {n}" for name, (n, _) in one.leaking.items() if n) or "-",
                percent_of(one.ability),
                percent_of(one.retained),
                one.verdict,
            ]
            for one in stages
        ),
    ]


def _of(counts: tuple[int, int]) -> str:
    return f"{counts[0]} of {counts[1]}" if counts[1] else "-"


def percent_of(value: float | None) -> str:
    """Return a share as text, a hyphen for None."""
    return "-" if value is None else f"{value:.1%}"


def stage_sentence(stages: Sequence[Stage]) -> str:
    """Return a sentence about the worst of all requests, by each measure."""
    clauses = []
    leaks = [one for one in stages if one.leak is not None]
    if leaks:
        worst = max(leaks, key=lambda one: one.leak or 0.0)
        if worst.leak:
            clause = f"{worst.every[0]} of {worst.every[1]} people leak after {worst.label}"
        else:
            clause = "nobody leaks after any"
        clauses.append(clause)
    measured = {
        "pass@k": [(one.ability, one.label) for one in stages if one.ability is not None],
        "retained people's values": [
            (one.retained, one.label) for one in stages if one.retained is not None
        ],
    }
    for what, known in measured.items():
        if known:
            least, label = min(known, key=lambda pair: pair[0])
            clauses.append(f"{what} at {least:.1%} of the base's after {label}")
    return f"Worst of {len(stages)} requests: " + ("; ".join(clauses) or "nothing was measured")
