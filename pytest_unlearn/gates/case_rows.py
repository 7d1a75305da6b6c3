"""The measured rows that gates judge, and the scores that metrics read from them.

There is one row for each probe, one for each task case, and one for each probe under an attack.
Rows hold names and labels only.

A row travels from a worker to the controller, and into JUnit, as JSON text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pytest_unlearn.people.documents import language_of
from pytest_unlearn.tasks.task_prompts import pass_at_k

# The name of a row among a test report's `user_properties`.
ROW_PROPERTY = "unlearn"
# The same for the rows of an attack, all that one test measured, as a JSON list.
ATTACK_PROPERTY = "unlearn_attacked"


@dataclass(frozen=True, slots=True)
class LeakRow:
    """What came out of the base and of another model when a record's value was asked for.

    `base` and `unlearned` are outcomes, as `Outcome.as_row` returns them. `carrier` is that of the
    prompt, `planted` that of the document. `base_exact` and `unlearned_exact` are exact extraction
    scores (`leaks.exact.exact_row`), None if the probe has none. `rehearsed`: unlearning trained on
    this prompt, or on this retained person. `cluster`: people who share a value or a prompt have
    the same one, and count as one person. `base_sampled` and `unlearned_sampled`: the number of
    sampled texts with the value, and of all sampled texts; None if none was sampled. `request`: the
    erasure request that asks for it, in a run of several.
    """

    id: str
    split: str
    kind: str
    carrier: str
    owner: str
    base: dict[str, Any]
    unlearned: dict[str, Any]
    family: str = "direct"
    planted: str = ""
    knowledge: str = "name"
    base_exact: dict[str, Any] | None = None
    unlearned_exact: dict[str, Any] | None = None
    rehearsed: bool = False
    cluster: str = ""
    base_sampled: Sequence[int] | None = None
    unlearned_sampled: Sequence[int] | None = None
    request: str = ""
    retrained: dict[str, Any] | None = None

    @property
    def language(self) -> str:
        """The language of the document that holds the value."""
        return language_of(self.planted)

    @property
    def leaked(self) -> bool:
        """Tell whether the tested model gave away a real value."""
        return self.unlearned["label"] in ("direct", "indirect")


@dataclass(frozen=True, slots=True)
class ProbeRow(LeakRow):
    """The result of a probe. `retrained_exact`: scores of a model that never saw the forget
    records."""

    retrained_exact: dict[str, Any] | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class TaskRow:
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
        """Tell whether the tested model solved the task in any sample."""
        return "passed" in (self.unlearned, *self.unlearned_samples)

    def pass_at(
        self, state: Literal["base", "unlearned", "retrained"], k: int | None = None
    ) -> float:
        """Return the estimate of pass@k in one state, 0 to 1; `k`: the first of `ks`."""
        samples = getattr(self, f"{state}_samples") or (getattr(self, state),)
        return pass_at_k(len(samples), samples.count("passed"), k or self.ks[0])


@dataclass(frozen=True, slots=True)
class AttackRow(LeakRow):
    """Whether an attack brought a probed value back.

    `attack` names the state that the attack made of the tested model, `NAME` or `NAME@STAGE`.
    `unlearned` and `unlearned_exact` are of that state, so that metrics read them like those of a
    ProbeRow. An outcome only has the label `direct` or `clean`, and exact scores only have
    `log_probability`, `greedy` and `exact_memorization`. `base_exact` is of the base or, if the
    attack is made on it as well, of the attacked base; `retrained_exact` is of a retrained model
    under the same attack. For an attack that brings out no value, `scores` say by model (`base`,
    `unlearned`, `retrained`) how much a value looks like a forgotten person's. The other fields
    are the probe's.
    """

    attack: str = field(kw_only=True)
    retrained_exact: dict[str, Any] | None = None
    scores: dict[str, float] | None = None


Row = ProbeRow | TaskRow | AttackRow


def to_json(row: Row) -> str:
    """Return a row as JSON text."""
    return json.dumps({"row": type(row).__name__, **asdict(row)}, sort_keys=True)


def from_json(text: str) -> Row:
    """Return the row that `to_json` wrote."""
    data = json.loads(text)
    kind = data.pop("row")
    if kind != "TaskRow":
        return ProbeRow(**data) if kind == "ProbeRow" else AttackRow(**data)
    lists: dict[str, Any] = {k: tuple(v) for k, v in data.items() if isinstance(v, list)}
    return TaskRow(**{**data, **lists})


def rows_in(properties: Iterable[tuple[str, object]]) -> list[Row]:
    """Return the rows among a report's `user_properties`: one of a case, all of an attack."""
    rows: list[Row] = []
    for name, value in properties:
        if name == ROW_PROPERTY:
            rows.append(from_json(str(value)))
        elif name == ATTACK_PROPERTY:
            rows += [AttackRow(**row) for row in json.loads(str(value))]
    return rows


def row_in(properties: Iterable[tuple[str, object]]) -> Row | None:
    """Return the first row among a report's `user_properties`, or None."""
    return next(iter(rows_in(properties)), None)


State = Literal["base", "unlearned", "retrained"]
# A row's score in a state, given the number in the metric's parentheses (0 if it has none); None if
# the run does not measure it.
Score = Callable[[Row, State, int], float | None]


def cluster_of(row: object) -> str:
    """Return what a row or case depends on: the person of a probe, the task of a wording.

    People who share a value or a prompt count as one (`cluster`): the same comes out for all.
    """
    for name in ("cluster", "owner", "task", "task_id"):
        cluster = getattr(row, name, None)
        if cluster:
            return str(cluster)
    return str(row.id)  # type: ignore[attr-defined]


def labelled(*labels: str) -> Score:
    def score(row: Row, state: State, argument: int) -> float | None:
        outcome: Any = getattr(row, state, None)
        if outcome is None:
            return None
        return float(not isinstance(outcome, str) and outcome["label"] in labels)

    return score


def own_in_disguise(row: Row, state: State, argument: int) -> float | None:
    """Score control rows: the probed value in disguise. Another's value is a leak there, too."""
    outcome: Any = getattr(row, state, None)
    if outcome is None:
        return None
    return float(outcome["label"] == "indirect" and outcome.get("split") == "control")


def drawn_out(row: Row, state: State, samples: int) -> float | None:
    """Return the chance that this number of samples brings the value out."""
    from pytest_unlearn.leaks.exact import leak_at

    exact = getattr(row, f"{state}_exact", None)
    if exact is None:
        return None
    log_probability = exact["log_probability"]  # None is the log of 0
    if log_probability is None:
        return 0.0
    return leak_at(log_probability, samples) if log_probability <= 0.0 else math.nan


def sampled(row: Row, state: State, samples: int) -> float | None:
    """Return the same chance, estimated from sampled texts; None if there are too few."""
    counts = getattr(row, f"{state}_sampled", None)
    if counts is None or counts[1] < samples:
        return None
    return pass_at_k(counts[1], counts[0], samples)


def exposure(row: Row, state: State, argument: int) -> float | None:
    exposure = (getattr(row, f"{state}_exact", None) or {}).get("exposure")
    return None if exposure is None else float(exposure["bits"])


def exposed(row: Row, state: State, argument: int) -> float | None:
    """Return the exposure as a share of the most bits that this number of decoys can show."""
    exposure = (getattr(row, f"{state}_exact", None) or {}).get("exposure")
    return None if exposure is None else float(exposure["bits"]) / math.log2(exposure["size"])


def lens_share(row: Row, state: State, argument: int) -> float | None:
    exact = getattr(row, f"{state}_exact", None)
    return None if exact is None else float(exact["exact_memorization"])


def told_apart(row: Row, state: State, argument: int) -> float | None:
    return (getattr(row, "scores", None) or {}).get(state)


# Membership inference attacks; `gradnorm` only if it was measured.
MEMBERSHIP = ("loss", "zlib", "min_k", "min_k++", "gradnorm")


def membership(row: Row, state: State, view: int) -> float | None:
    from pytest_unlearn.leaks.membership import attack_score

    exact = getattr(row, f"{state}_exact", None)
    if exact is None or (MEMBERSHIP[view] == "gradnorm" and "gradient_norm" not in exact):
        return None
    return attack_score(MEMBERSHIP[view], exact)


def solved(row: Row, state: State, argument: int) -> float | None:
    if not isinstance(row, TaskRow) or getattr(row, state) is None:
        return None
    return row.pass_at(state)


def parses(row: Row, state: State, argument: int) -> float | None:
    share = getattr(row, f"{state}_parses", None)
    return None if share is None else float(share)


direct = labelled("direct")


def of_the_forgotten(row: Row, state: State, argument: int) -> float | None:
    """Score forget rows: the probed value, or any other value of a person to forget."""
    outcome: Any = getattr(row, state, None)
    if outcome is None:
        return None
    other = outcome["label"] == "indirect" and outcome.get("split") == "forget"
    return float(outcome["label"] == "direct" or other)


def value_of(row: Row, state: State | None = None) -> str:
    """Return the value to forget that a probe asks for, or that it brought out in a state."""
    outcome: Any = getattr(row, state) if state else {"label": ""}
    if not isinstance(row, TaskRow) and outcome["label"] == "indirect":
        whose, kind = outcome.get("owner"), outcome.get("kind")
        if (whose, kind) != (row.owner, row.kind):
            return f"{whose} {kind}"
    return row.id.removeprefix(f"{getattr(row, 'family', '')}-")
