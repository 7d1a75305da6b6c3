"""The pairs of a sweep side by side, and the Pareto front of leak against ability."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pytest_unlearn.gates.case_rows import TaskRow
from pytest_unlearn.gates.gate import parse_gate
from pytest_unlearn.reports.rejudge import recorded, rejudged
from pytest_unlearn.reports.tables import Table, forget_rows
from pytest_unlearn.run.result import GateFact, Result

# What is shown of each pair, as gates that hardly any figure breaks: so their bounds are what a
# gate of a real limit would be judged on.
_SHOWN = (
    "leak.direct<=99.9%",
    "leak.indirect<=99.9%",
    "passk.retained>=0.1%",
    "people.retained>=0.1%",
)
LEAK = "forget probes that leak, directly or indirectly"
ABILITY = "pass@k, of the base's"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a pair stands. `measured` are the figures of `_SHOWN` with their bounds.

    `leak` is the share of direct forget probes that bring out a real value, `ability` pass@k of
    the tested model divided by the base's; both fractions, None where there is none, or where the
    pair was not run whole and without errors. `front`: no other pair leaks less at the same
    ability, or is abler at the same leak.
    """

    label: str
    verdict: str
    measured: tuple[GateFact, ...]
    leak: float | None
    ability: float | None
    front: bool = False


def standings(results: Sequence[Result]) -> list[Standing]:
    """Return the pairs in order, those on the front marked."""
    found = list(map(_standing, results))
    return [replace(one, front=_on_front(one, found)) for one in found]


def _standing(result: Result) -> Standing:
    # Of a method that changes nothing, "retained" is still a figure: all of it.
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


def sweep_table(found: Sequence[Standing]) -> Table:
    """Return a line a pair: counts with the gates' one-sided bounds, verdict, front."""
    names = [gate.name for gate in found[0].measured]
    return [
        ["pair", *names, "verdict", "Pareto"],
        *(
            [
                one.label,
                *(f"{g.observed} {g.bound}" if g.observed else "-" for g in one.measured),
                one.verdict,
                "front" if one.front else "-",
            ]
            for one in found
        ),
    ]


def front_sentence(found: Sequence[Standing]) -> str:
    """Return which pairs are on the front, with leak and ability."""
    front = [
        f"{one.label} ({one.leak:.1%} leak, {one.ability:.1%} retained)"
        for one in found
        if one.front
    ]
    if front:
        return f"Pareto front of leak (direct or indirect) against ability: {', '.join(front)}"
    return (
        "no Pareto front: no pair was run whole and without errors, on probes and on tasks that "
        "the base solves"
    )
