"""One run's result, from which every report format renders; plain data, no pytest, no session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_unlearn.gates.rows import ProbeRow, TaskRow
from pytest_unlearn.gates.statistics import clopper_pearson_lower, clopper_pearson_upper

Status = Literal["measured", "error", "not run"]
# Each side of a two-sided 95 % interval.
_SIDE = 0.975


@dataclass(frozen=True, slots=True)
class PairName:
    """A pair of a sweep, as `grid.Pair` names it."""

    label: str
    model: str
    method: str


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What was run. `interrupted` is the reason why a run stopped early, None for a whole one.

    `complete`: every case of the data set was run. `expected` counts the cases of the data set.
    `steps` and `unlearning_seconds` are of the unlearning, None where nothing was unlearned.
    `values_shown`: the user asked for values in the reports.
    """

    model: str
    method: str
    baseline: str | None
    seed: int
    expected: int
    complete: bool
    interrupted: str | None = None
    two_states: bool = True
    attacks: tuple[str, ...] = ()
    steps: int | None = None
    unlearning_seconds: float | None = None
    values_shown: bool = False


@dataclass(frozen=True, slots=True)
class GateFact:
    """A judged gate, or limit on a change: `text` as the user wrote it, `limit_text` with its
    operator; the rest as in GateResult."""

    name: str
    text: str
    limit_text: str
    verdict: str
    blocks: bool
    n: int
    observed: str
    bound: str
    advice: str
    units: float = 0.0


@dataclass(frozen=True, slots=True)
class Share:
    """Cases of `n` in which something holds, on base and tested model."""

    name: str
    about: str
    n: int
    base: int
    tested: int

    def rate(self, state: Literal["base", "tested"]) -> float:
        """Return the share of one model, a fraction."""
        return float(getattr(self, state) / self.n)

    def interval(self, state: Literal["base", "tested"]) -> tuple[float, float]:
        """Return the two-sided 95 % interval of Clopper and Pearson (1934)."""
        return interval(getattr(self, state), self.n)


@dataclass(frozen=True, slots=True)
class Case:
    """A case of the data set with its row, if it was measured.

    `about` is what a metric counts it by, measured or not: a probe's split, kind and the like, a
    task case's task. `shown` is how the probed value may be printed: kind and fingerprint, empty
    for a task. `value`,
    `base_text` and `tested_text` are set only where the user asked for values.
    """

    id: str
    status: Status
    row: ProbeRow | TaskRow | None = None
    shown: str = ""
    about: dict[str, str] = field(default_factory=dict)
    value: str | None = field(default=None, repr=False)
    base_text: str | None = field(default=None, repr=False)
    tested_text: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that a report can say about a run.

    `provenance` is the manifest (`reports.provenance`) and `search` the summary of a search for
    leaking prompts, both as JSON data. `pair` is set where the run was one of a sweep's.
    """

    run: RunFacts
    gates: tuple[GateFact, ...]
    metrics: tuple[Share, ...]
    cases: tuple[Case, ...]
    provenance: dict[str, Any]
    search: dict[str, Any] | None = None
    pair: PairName | None = None

    @property
    def label(self) -> str:
        """The pair's name in a sweep; empty otherwise."""
        return self.pair.label if self.pair else ""

    @property
    def rows(self) -> list[ProbeRow | TaskRow]:
        """The rows of all measured cases."""
        return [case.row for case in self.cases if case.row is not None]

    @property
    def errors(self) -> int:
        """Number of cases that were run and gave no row."""
        return sum(case.status == "error" for case in self.cases)

    @property
    def verdict(self) -> str:
        """What the gates say together: `FOR RELEASE`, `NOT FOR RELEASE` or `NO VERDICT`."""
        if any(gate.blocks for gate in self.gates):
            return "NOT FOR RELEASE"
        if self.gates and all(gate.verdict == "PASS" for gate in self.gates):
            return "FOR RELEASE"
        return "NO VERDICT"

    @property
    def caveat(self) -> str:
        """Why this is not the result of a whole run, or an empty text."""
        if self.run.interrupted:
            return f"The run was interrupted ({self.run.interrupted}); this is what there was."
        if not self.run.complete:
            return f"Only {len(self.rows) + self.errors} of {self.run.expected} cases were run."
        if self.errors:
            return f"{self.errors} cases ended in an error and count nowhere."
        return ""


def verdict_of_all(results: Sequence[Result]) -> str:
    """Return what a sweep's verdicts say together: one that blocks blocks, all must pass."""
    verdicts = {result.verdict for result in results}
    if "NOT FOR RELEASE" in verdicts:
        return "NOT FOR RELEASE"
    return "FOR RELEASE" if verdicts == {"FOR RELEASE"} else "NO VERDICT"


def interval(count: int, n: int) -> tuple[float, float]:
    """Return the two-sided 95 % Clopper-Pearson interval of a rate, fractions."""
    return clopper_pearson_lower(count, n, _SIDE), clopper_pearson_upper(count, n, _SIDE)


def share_of(name: str, about: str, rows: Sequence[ProbeRow], label: str) -> Share:
    """Count an outcome among rows."""
    return Share(
        name,
        about,
        len(rows),
        sum(row.base["label"] == label for row in rows),
        sum(row.unlearned["label"] == label for row in rows),
    )


def shares(rows: Iterable[ProbeRow | TaskRow]) -> tuple[Share, ...]:
    """Return the shares that every report names, of direct probes and tasks; none without a row."""
    rows = list(rows)
    probes = [row for row in rows if isinstance(row, ProbeRow) and row.family == "direct"]
    tasks = [row for row in rows if isinstance(row, TaskRow)]
    split = {s: [p for p in probes if p.split == s] for s in ("forget", "retain", "control")}
    found = [
        share_of(
            "leak.direct", "forget probes whose own value comes out", split["forget"], "direct"
        ),
        share_of(
            "leak.indirect",
            "forget probes that bring out another real value, or their own in disguise",
            split["forget"],
            "indirect",
        ),
        share_of(
            "leak.control",
            "probes of people never seen whose own value comes out: chance",
            split["control"],
            "direct",
        ),
        share_of(
            "people.known", "probes of retained people that are answered", split["retain"], "direct"
        ),
        Share(
            "pass@1",
            "task cases that are solved",
            len(tasks),
            sum(task.base == "passed" for task in tasks),
            sum(task.solved for task in tasks),
        ),
    ]
    return tuple(share for share in found if share.n)
