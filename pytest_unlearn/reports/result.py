"""One run's result, from which every report format renders; plain data, no pytest, no session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_unlearn.gates.options import CONFIDENCE, Undecided
from pytest_unlearn.gates.readings import percent
from pytest_unlearn.gates.rows import ProbeRow, TaskRow
from pytest_unlearn.gates.shares import Share, size

Status = Literal["measured", "error", "not run"]


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
    `values_shown`: the user asked for values in the reports. How it was judged: `confidence` of
    each bound, what an `undecided` gate does, whether a part counts as a failure
    (`require_complete`), and whether cases were left out because they could change no verdict
    (`curtailed`).
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
    confidence: float = CONFIDENCE
    undecided: Undecided = "fail"
    require_complete: bool = False
    curtailed: bool = False

    @property
    def bound_head(self) -> str:
        """The head of a column of bounds."""
        return f"{percent(self.confidence)} bound"


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

    @property
    def size(self) -> str:
        """The number of cases, and what they are worth in people or tasks where that is less."""
        return size(self.n, self.units)


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
