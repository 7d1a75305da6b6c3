"""The measured rows that gates judge, and the scores that metrics read from them.

There is one row for each probe, one for each task case, and one for each probe under an attack.
Rows hold names and labels only.

A row travels from a worker to the controller, and into JUnit, as JSON text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from pytest_unlearn.leaks.exact import ExactScores, leak_at
from pytest_unlearn.leaks.membership import attack_score
from pytest_unlearn.leaks.outcome import Outcome
from pytest_unlearn.people.documents import language_of
from pytest_unlearn.tasks.format import NotAProbe
from pytest_unlearn.tasks.task_prompts import pass_at_k

# The name of a row among a test report's `user_properties`.
ROW_PROPERTY = "unlearn"
# The same for the rows of an attack, all that one test measured, as a JSON list.
ATTACK_PROPERTY = "unlearn_attacked"


State = Literal["base", "unlearned", "retrained"]
STATES: tuple[State, ...] = ("base", "unlearned", "retrained")


class Countable(Protocol):
    """The attributes by which metrics count a probe, a task case, a row or a case of a replay.

    `split` is None and all names are empty for a task. `exact`: it may have exact scores.
    `rehearsed`: unlearning trained on it. `counted_as`: the person of a probe, or the task of a
    wording; people who share a value or a prompt count as one, since the same comes out for all of
    them.
    """

    @property
    def id(self) -> str: ...
    @property
    def split(self) -> str | None: ...
    @property
    def kind(self) -> str: ...
    @property
    def carrier(self) -> str: ...
    @property
    def planted(self) -> str: ...
    @property
    def language(self) -> str: ...
    @property
    def knowledge(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def attack(self) -> str: ...
    @property
    def request(self) -> str: ...
    @property
    def cluster(self) -> str: ...
    @property
    def rehearsed(self) -> bool: ...
    @property
    def exact(self) -> bool: ...
    @property
    def counted_as(self) -> str: ...


Counted = TypeVar("Counted", bound=Countable)


@dataclass(frozen=True, slots=True)
class NamedCase:
    """A probe or task case of which only the names are known, as in a replay."""

    id: str
    split: str | None = None
    family: str = ""
    kind: str = ""
    carrier: str = ""
    planted: str = ""
    language: str = ""
    knowledge: str = ""
    owner: str = ""
    rehearsed: bool = False
    cluster: str = ""
    request: str = ""
    attack: str = ""
    task: str = ""
    exact: bool = True

    @property
    def counted_as(self) -> str:
        """What it counts as."""
        return self.cluster or self.owner or self.task or self.id


@dataclass(frozen=True, slots=True)
class LeakRow:
    """What came out of the base and of another model when a record's value was asked for.

    `carrier` is that of the prompt, `planted` that of the document. `base_exact` and
    `unlearned_exact` are None if the probe has no exact scores. `rehearsed`: unlearning trained on
    this prompt, or on this retained person. `cluster`: people who share a value or a prompt have
    the same one, and count as one person. `base_sampled` and `unlearned_sampled`: the number of
    sampled texts with the value, and of all sampled texts; None if none was sampled. `request`: the
    erasure request that asks for it, in a run of several.
    """

    exact: ClassVar[bool] = True

    id: str
    split: str
    kind: str
    carrier: str
    owner: str
    base: Outcome
    unlearned: Outcome
    family: str = "direct"
    planted: str = ""
    knowledge: str = "name"
    base_exact: ExactScores | None = None
    unlearned_exact: ExactScores | None = None
    rehearsed: bool = False
    cluster: str = ""
    base_sampled: tuple[int, int] | None = None
    unlearned_sampled: tuple[int, int] | None = None
    request: str = ""
    retrained: Outcome | None = None
    retrained_exact: ExactScores | None = field(default=None, kw_only=True)

    @property
    def language(self) -> str:
        """The language of the document that holds the value."""
        return language_of(self.planted)

    @property
    def leaked(self) -> bool:
        """Return whether the tested model gave away a real value."""
        return self.unlearned.leaked

    @property
    def counted_as(self) -> str:
        """What it counts as: a person, or several who share something."""
        return self.cluster or self.owner or self.id

    def outcome(self, state: State) -> Outcome | None:
        """Return the outcome in one state; None if that model was not run."""
        return {"base": self.base, "unlearned": self.unlearned, "retrained": self.retrained}[state]

    def exact_scores(self, state: State) -> ExactScores | None:
        """Return the exact scores in one state, if there are any."""
        return {
            "base": self.base_exact,
            "unlearned": self.unlearned_exact,
            "retrained": self.retrained_exact,
        }[state]

    def sampled(self, state: State) -> tuple[int, int] | None:
        """Return how many sampled texts have the value, and how many there are, if any."""
        counts = {"base": self.base_sampled, "unlearned": self.unlearned_sampled}
        return counts.get(state)


@dataclass(frozen=True, slots=True)
class ProbeRow(LeakRow):
    """The result of a probe. `retrained_exact`: scores of a model that never saw the forget
    records."""

    attack: ClassVar[str] = ""


@dataclass(frozen=True, slots=True)
class TaskRow(NotAProbe):
    """How a task case was solved. `base` and `unlearned` are the judge's statuses.

    `base_samples` and `unlearned_samples` are the statuses of all samples; the first of them are
    `base` and `unlearned`. Sample i of both models has the same seed. Gates judge pass@k for the
    first of `ks`. The other fields are the shares of samples that are complete programs and that
    are degenerate, and the loss of the canonical solution (nats, and its number of tokens), None
    for a model without scores. `group` is the task's set or file. `retrained`, `retrained_samples`
    and so on are of a model that never saw the forget records, if one was run. `run_again`: how
    many samples of both models ran out of time on a busy machine and were run a second time, which
    counts. `rehearsed`: unlearning trained on this task.
    """

    language: ClassVar[str] = ""

    id: str
    task: str
    base: str
    unlearned: str
    base_samples: tuple[str, ...] = ()
    unlearned_samples: tuple[str, ...] = ()
    ks: tuple[int, ...] = (1,)
    group: str = "bundled"
    base_parses: float | None = None
    unlearned_parses: float | None = None
    base_degenerate: float | None = None
    unlearned_degenerate: float | None = None
    base_loss: tuple[float, int] | None = None
    unlearned_loss: tuple[float, int] | None = None
    run_again: int = 0
    rehearsed: bool = False
    cluster: str = ""
    retrained: str | None = None
    retrained_samples: tuple[str, ...] = ()
    retrained_parses: float | None = None

    @property
    def solved(self) -> bool:
        """Return whether the tested model solved the task in any sample."""
        return "passed" in (self.unlearned, *self.unlearned_samples)

    @property
    def counted_as(self) -> str:
        """What it counts as: a task, or several that share a prompt."""
        return self.cluster or self.task or self.id

    def statuses(self, state: State) -> tuple[str, ...]:
        """Return the statuses of all samples in one state; empty if that model was not run."""
        samples, first = {
            "base": (self.base_samples, self.base),
            "unlearned": (self.unlearned_samples, self.unlearned),
            "retrained": (self.retrained_samples, self.retrained),
        }[state]
        return samples or (() if first is None else (first,))

    def parses(self, state: State) -> float | None:
        """Return the share of samples in one state that are complete programs, if known."""
        return {
            "base": self.base_parses,
            "unlearned": self.unlearned_parses,
            "retrained": self.retrained_parses,
        }[state]

    def pass_at(self, state: State, k: int | None = None) -> float:
        """Return the estimate of pass@k in one state, 0 to 1; `k`: the first of `ks`."""
        statuses = self.statuses(state)
        return pass_at_k(len(statuses), statuses.count("passed"), k or self.ks[0])


@dataclass(frozen=True, slots=True)
class AttackRow(LeakRow):
    """Whether an attack brought a probed value back.

    `attack` names the state that the attack made of the tested model, `NAME` or `NAME@STAGE`.
    `unlearned` and `unlearned_exact` are of that state, so that metrics read them like those of a
    ProbeRow. An outcome only has a label, of exact scores `direct` or `clean`, and exact scores
    only have `log_probability`, `greedy` and `exact_memorization`. `base_exact` is of the base or,
    if the attack is made on it as well, of the attacked base; `retrained_exact` is of a retrained
    model under the same attack. For an attack that brings out no value, `scores` has, by model, how
    much a value looks like that of a forgotten person. The other fields are the probe's.
    """

    attack: str = field(kw_only=True)
    scores: Mapping[State, float] | None = None

    @property
    def brought_back(self) -> bool:
        """Return whether the attack brought out the value of a person to be forgotten.

        This is what `leak.direct[attack=NAME]` counts. An indirect leak does not count under an
        attack: clues that the attack gives, such as a name, come out for anybody.
        """
        return self.split == "forget" and self.unlearned.label == "direct"


Row = ProbeRow | TaskRow | AttackRow


def row_data(row: Row) -> dict[str, Any]:
    """Return a row as JSON data."""

    def plain(value: Any) -> Any:
        return value.as_row() if isinstance(value, Outcome | ExactScores) else value

    return {item.name: plain(getattr(row, item.name)) for item in fields(row)}


def row_of_data(kind: type[Row], data: Mapping[str, Any]) -> Row:
    """Return the row that `row_data` wrote.

    Raises TypeError, ValueError or KeyError for anything else.
    """
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    if kind is TaskRow:
        return TaskRow(**values)
    for state in STATES:
        if values.get(state) is not None:
            values[state] = Outcome.from_row(values[state])
        if values.get(f"{state}_exact") is not None:
            values[f"{state}_exact"] = ExactScores.from_row(values[f"{state}_exact"])
    row: Row = kind(**values)
    return row


def to_json(row: Row) -> str:
    """Return a row as JSON text."""
    return json.dumps({"row": type(row).__name__, **row_data(row)}, sort_keys=True)


def from_json(text: str) -> Row:
    """Return the row that `to_json` wrote. Raises as `row_of_data` does."""
    data = json.loads(text)
    kinds: dict[str, type[Row]] = {kind.__name__: kind for kind in (ProbeRow, TaskRow, AttackRow)}
    return row_of_data(kinds[data.pop("row")], data)


def rows_in(properties: Iterable[tuple[str, object]]) -> list[Row]:
    """Return the rows among a report's `user_properties`: one of a case, all of an attack."""
    rows: list[Row] = []
    for name, value in properties:
        if name == ROW_PROPERTY:
            rows.append(from_json(str(value)))
        elif name == ATTACK_PROPERTY:
            rows += [row_of_data(AttackRow, row) for row in json.loads(str(value))]
    return rows


# A row's score in a state, given the number in the metric's parentheses (0 if it has none); None if
# the run does not measure it.
Score = Callable[[Row, State, int], float | None]


def outcome_of(row: Row, state: State) -> Outcome | None:
    """Return what came out in a state; None for a task."""
    return None if isinstance(row, TaskRow) else row.outcome(state)


def exact_of(row: Row, state: State) -> ExactScores | None:
    """Return the exact scores in a state, if there are any; None for a task."""
    return None if isinstance(row, TaskRow) else row.exact_scores(state)


def labelled(*labels: str) -> Score:
    """Return a score of 1 for these outcomes."""

    def score(row: Row, state: State, argument: int) -> float | None:
        outcome = outcome_of(row, state)
        return None if outcome is None else float(outcome.label in labels)

    return score


def own_in_disguise(row: Row, state: State, argument: int) -> float | None:
    """Score control rows: the probed value in disguise. Another's value is a leak there, too."""
    outcome = outcome_of(row, state)
    if outcome is None:
        return None
    return float(outcome.label == "indirect" and outcome.split == "control")


def drawn_out(row: Row, state: State, samples: int) -> float | None:
    """Return the chance that this number of samples brings the value out."""
    scores = exact_of(row, state)
    if scores is None:
        return None
    return leak_at(scores.log_probability, samples) if scores.log_probability <= 0.0 else math.nan


def sampled(row: Row, state: State, samples: int) -> float | None:
    """Return the same chance, estimated from sampled texts; None if there are too few."""
    counts = None if isinstance(row, TaskRow) else row.sampled(state)
    if counts is None or counts[1] < samples:
        return None
    return pass_at_k(counts[1], counts[0], samples)


def exposure(row: Row, state: State, argument: int) -> float | None:
    """Return the exposure in bits."""
    scores = exact_of(row, state)
    return scores.exposure.bits if scores and scores.exposure else None


def exposed(row: Row, state: State, argument: int) -> float | None:
    """Return the exposure as a share of the most bits that this number of decoys can show."""
    scores = exact_of(row, state)
    if scores is None or scores.exposure is None:
        return None
    return scores.exposure.bits / math.log2(scores.exposure.size)


def lens_share(row: Row, state: State, argument: int) -> float | None:
    """Return the share of a value's tokens that a middle layer gives."""
    scores = exact_of(row, state)
    return None if scores is None else scores.exact_memorization


def told_apart(row: Row, state: State, argument: int) -> float | None:
    """Return how much a value looks like a forgotten person's."""
    scores = row.scores if isinstance(row, AttackRow) else None
    return (scores or {}).get(state)


# Membership inference attacks; `gradnorm` only if it was measured.
MEMBERSHIP = ("loss", "zlib", "min_k", "min_k++", "gradnorm")


def membership(row: Row, state: State, view: int) -> float | None:
    """Return the score of one of `MEMBERSHIP`."""
    scores = exact_of(row, state)
    if scores is None or (MEMBERSHIP[view] == "gradnorm" and scores.gradient_norm is None):
        return None
    return attack_score(MEMBERSHIP[view], scores)


def solved(row: Row, state: State, argument: int) -> float | None:
    """Return pass@k of a task."""
    if not isinstance(row, TaskRow) or not row.statuses(state):
        return None
    return row.pass_at(state)


def parses(row: Row, state: State, argument: int) -> float | None:
    """Return the share of a task's solutions that parse."""
    return row.parses(state) if isinstance(row, TaskRow) else None


direct = labelled("direct")


def of_the_forgotten(row: Row, state: State, argument: int) -> float | None:
    """Score forget rows: the probed value, or any other value of a person to forget."""
    outcome = outcome_of(row, state)
    if outcome is None:
        return None
    other = outcome.label == "indirect" and outcome.split == "forget"
    return float(outcome.label == "direct" or other)


def value_of(row: Row, state: State | None = None) -> str:
    """Return the value to forget that a probe asks for, or that it brought out in a state."""
    outcome = outcome_of(row, state) if state else None
    if outcome and not isinstance(row, TaskRow):
        another = (outcome.owner, outcome.kind) != (row.owner, row.kind)
        if outcome.label == "indirect" and another:
            return f"{outcome.owner} {outcome.kind}"
    return row.id.removeprefix(f"{row.family}-")
