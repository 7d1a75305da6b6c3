"""What became of model and people after each erasure request, and by how many it asked for.

Sustainability and scalability as in MUSE (arXiv 2407.06460): leaks of this and of all earlier
requests, ability and retained people, request after request.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_unlearn.gates.case_rows import ProbeRow, TaskRow
from pytest_unlearn.reports.tables import Table
from pytest_unlearn.run.result import Result


@dataclass(frozen=True, slots=True)
class Stage:
    """The model after a request.

    `leaking`: of each request that was made so far the people of whom a value came out, of any
    probe, and all its people. `ability` is pass@k and `retained` the values of retained people that
    come out, both divided by the first model's: on what unlearning never saw, where there is any.
    None where the first model has none, or where the run was not whole and without errors. `apart`:
    it was unlearned from the first model, and earlier requests were not.
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
        """People of this request who leak, and all of it."""
        return self.leaking.get(self.request, (0, 0))

    @property
    def earlier(self) -> tuple[int, int]:
        """People of earlier requests who leak, and all of these."""
        others = [counts for name, counts in self.leaking.items() if name != self.request]
        return sum(leaks for leaks, _ in others), sum(people for _, people in others)

    @property
    def every(self) -> tuple[int, int]:
        """People of all requests so far who leak, and all of these."""
        counts = list(self.leaking.values())
        return sum(leaks for leaks, _ in counts), sum(people for _, people in counts)

    @property
    def leak(self) -> float | None:
        """Share of the people of all requests so far of whom a value came out."""
        leaks, people = self.every
        return leaks / people if people else None


def stages(results: Iterable[Result]) -> list[Stage]:
    """Return the stages of a run of requests, in order; none of a run without."""
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
    kept = _unseen([row for row in probes if row.split == "retain" and row.family == "direct"])
    whole = not result.caveat
    return Stage(
        result.label,
        result.pair.request,
        result.pair.apart,
        counts,
        ability=_ratio(tasks, lambda row, state: row.pass_at(state)) if whole else None,
        retained=_ratio(kept, _given) if whole else None,
        verdict=result.verdict,
    )


def _whose(row: ProbeRow) -> list[str]:
    """Return the person to forget of whom a value came out, if one did."""
    outcome = row.unlearned
    if outcome["label"] == "direct":
        return [row.owner]
    if outcome["label"] == "indirect" and outcome.get("split") == "forget":
        return [str(outcome.get("owner"))]
    return []


def _given(row: Any, state: str) -> float:
    return float(getattr(row, state)["label"] == "direct")


def _unseen(rows: list[Any]) -> list[Any]:
    """Return the rows that unlearning did not train on; all where there are no others."""
    return [row for row in rows if not row.rehearsed] or rows


def _ratio(rows: Sequence[Any], score: Callable[[Any, Any], float]) -> float | None:
    base = math.fsum(score(row, "base") for row in rows)
    return math.fsum(score(row, "unlearned") for row in rows) / base if base else None


def stage_table(found: Sequence[Stage]) -> Table:
    """Return a line a request: who leaks, what is left of ability and of retained people."""
    head = ["after request", "its people", "of them leak", "of earlier ones", "which"]
    return [
        [*head, "pass@k, of the base's", "retained values", "verdict"],
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
            for one in found
        ),
    ]


def _of(counts: tuple[int, int]) -> str:
    return f"{counts[0]} of {counts[1]}" if counts[1] else "-"


def percent_of(value: float | None) -> str:
    """Return a share as text, a hyphen for none."""
    return "-" if value is None else f"{value:.1%}"


def stage_sentence(found: Sequence[Stage]) -> str:
    """Return the worst of all requests, by each measure."""
    clauses = []
    leaks = [one for one in found if one.leak is not None]
    if leaks:
        worst = max(leaks, key=lambda one: one.leak or 0.0)
        if worst.leak:
            clause = f"{worst.every[0]} of {worst.every[1]} people leak after {worst.label}"
        else:
            clause = "nobody leaks after any"
        clauses.append(clause)
    for name, what in (("ability", "pass@k"), ("retained", "retained people's values")):
        known = [one for one in found if getattr(one, name) is not None]
        if known:
            least = min(known, key=lambda one: getattr(one, name))
            clauses.append(
                f"{what} at {getattr(least, name):.1%} of the base's after {least.label}"
            )
    return f"Worst of {len(found)} requests: " + ("; ".join(clauses) or "nothing was measured")
