"""The questions to a model and its answers: the texts of a chunk of cases, whether they are answers
and agree with the scores, the losses of the tasks' own solutions, and models from a conftest."""

from __future__ import annotations

import contextlib
import math
import threading
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from pytest_unlearn.attacks.attack import BOTH
from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.secret import Secret
from pytest_unlearn.core.store import digest_of
from pytest_unlearn.leaks.exact import exact_row, extraction
from pytest_unlearn.leaks.outcome import Outcome
from pytest_unlearn.models.engine import abilities_of
from pytest_unlearn.models.texts import Decoding, Example
from pytest_unlearn.run.models import AttackedState
from pytest_unlearn.sandbox import SolutionVerdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from pytest_unlearn.attacks.attack import Attack
    from pytest_unlearn.core.store import Store
    from pytest_unlearn.leaks.exact import ExactScores
    from pytest_unlearn.models.engine import RunnableModel
    from pytest_unlearn.models.scoring import ValueScores
    from pytest_unlearn.probes.families import Probe
    from pytest_unlearn.run.divisions import Chunk
    from pytest_unlearn.run.models import Completer, Models, State, UnlearnedModel
    from pytest_unlearn.run.planted import Planting
    from pytest_unlearn.tasks.format import TaskCase


# An `Outcome` for a probe, a `SolutionVerdict` for a task.
Judged = TypeVar("Judged", Outcome, SolutionVerdict)


@dataclass(frozen=True, slots=True)
class Completion(Generic[Judged]):
    """What a model wrote after a prompt, and its outcome.

    `outcome` is an `Outcome` for a probe, a `SolutionVerdict` for a task. `text` is redacted when
    printed; `text.reveal()` gives it.
    """

    text: Secret
    outcome: Judged


@dataclass(frozen=True, slots=True)
class Completions(Generic[Judged]):
    """The completions of one case by the base and by the tested model.

    Of a task, all samples are there; `base` and `unlearned` are the first ones.
    """

    base: Completion[Judged]
    unlearned: Completion[Judged]
    base_samples: tuple[Completion[Judged], ...] = ()
    unlearned_samples: tuple[Completion[Judged], ...] = ()


class CompletionError(RuntimeError):
    """A model cannot be made or cannot answer, now or earlier in this run."""


@contextlib.contextmanager
def keeping(model: Any, keep: Callable[[int, Any], None]) -> Iterator[None]:
    """Pass each answer to `keep(row, answer)` as soon as it arrives, from any thread.

    Only models that request each text separately do so, by calling their `on_answer`: what a run
    has paid for until it is killed is not requested again.
    """
    before = getattr(model, "on_answer", None)
    if before is None or "separate" not in abilities_of(model):
        yield
        return
    model.on_answer = keep
    try:
        yield
    finally:
        model.on_answer = before


class RowsByPart:
    """The score rows of a chunk's cases in the store, written whenever one more is there."""

    def __init__(
        self, store: Store, key: str, rows: Mapping[str, Any], cases: Sequence[str]
    ) -> None:
        self._store = store
        self._key = key
        self._rows = dict(rows)
        self._cases = cases
        self._lock = threading.Lock()

    def keep(self, case: str, score: ValueScores) -> None:
        """Store the row of one more case; a later run asks for the others."""
        with self._lock:
            self._rows[case] = score_row(score)
            failed = [name for name in self._cases if name not in self._rows]
            self._store.put("scores", self._key, {"rows": self._rows, "failed": failed})


def score_row(score: ValueScores) -> dict[str, Any]:
    """Return the stored row of a value's scores."""
    margin = {"margin": score.margin} if math.isfinite(score.margin) else {}
    return {**exact_row(extraction(score)), **margin}


def completed(
    model: Completer, chunk: Chunk, keep: Callable[[int, Any], None] | None = None
) -> list[str]:
    """Complete a chunk in its style. A model from a conftest may have nothing but `complete`.

    `keep`: as in `keeping`; an empty text is left out, which may be no answer.
    """
    if keep is not None:
        with keeping(model, lambda row, text: keep(row, text) if text else None):
            return completed(model, chunk)
    abilities, able = abilities_of(model), cast("RunnableModel", model)
    if "samples" in abilities and (chunk.seeds or chunk.stops):
        decoding = Decoding(
            chunk.max_new_tokens, chunk.temperature, chunk.top_p, chunk.seeds, chunk.stops
        )
        return checked_texts(
            able.write(chunk.style, chunk.prompts, chunk.suffixes, decoding), chunk, model, "write"
        )
    if chunk.seeds:
        raise CompletionError(
            f"{type(model).__name__} cannot sample, it has no write(); leave out "
            "--unlearn-samples and --unlearn-temperature"
        )
    if chunk.style == "completion":
        texts: Any = model.complete(chunk.prompts, chunk.max_new_tokens)
        return checked_texts(texts, chunk, model, "complete")
    if chunk.style not in abilities:
        raise CompletionError(
            f"{type(model).__name__} takes no {chunk.style} prompts; leave {chunk.style} out of "
            "--unlearn-probes and --unlearn-task-style"
        )
    if chunk.style == "chat":
        texts = able.answer(chunk.prompts, chunk.max_new_tokens)
        return checked_texts(texts, chunk, model, "answer")
    pairs = list(zip(chunk.prompts, chunk.suffixes, strict=True))
    return checked_texts(able.infill(pairs, chunk.max_new_tokens), chunk, model, "infill")


def decoding_key(chunk: Chunk, number: int) -> dict[str, Any]:
    """Return how one completion of a chunk is decoded, for its key."""
    stops = {"stops": chunk.stops} if chunk.stops else {}
    if not chunk.seeds:
        return {"decoding": "greedy", "seed": 0, **stops}
    return {
        "decoding": [chunk.temperature, chunk.top_p],
        "seed": chunk.seeds[number],
        **stops,
    }


def checked_texts(texts: Any, chunk: Chunk, model: Any, method: str) -> list[str]:
    """Return what a model returned for a chunk, if that is one text for each prompt.

    Raises CompletionError otherwise, and if all texts are empty: only answers are stored. A model
    with the ability `ends` may end each text at once.
    """
    name = f"{type(model).__name__}.{method}()"
    if not isinstance(texts, list | tuple):
        raise CompletionError(
            f"{name} returned {_kind(texts)}; it must return a list of {len(chunk.prompts)} strings"
        )
    if len(texts) != len(chunk.prompts):
        raise CompletionError(
            f"{name} returned {len(texts)} texts for {len(chunk.prompts)} prompts"
        )
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise CompletionError(
                f"{name} returned {_kind(text)} for {chunk.cases[number]}; every text must be a "
                "string"
            )
    if not any(texts) and "ends" not in abilities_of(model):
        raise CompletionError(
            f"{name} returned {len(texts)} empty texts for {len(texts)} prompts: that is "
            "not an answer"
        )
    return [str(text) for text in texts]


def check_count(scores: Any, count: int, model: Any, method: str) -> None:
    """Raise CompletionError for anything but a list of `count` scores."""
    name = f"{type(model).__name__}.{method}()"
    if not isinstance(scores, list | tuple) or len(scores) != count:
        count_text = f"{len(scores)}" if isinstance(scores, list | tuple) else _kind(scores)
        raise CompletionError(
            f"{name} returned {count_text}; it must return a list of {count} scores"
        )


def _kind(value: object) -> str:
    return "None" if value is None else f"an object of the class {type(value).__name__}"


# Increase when a change to this package changes the loss of the same solution.
LOSSES_VERSION = 1


class SolutionLosses:
    """The loss of every canonical solution on base and tested model, computed once and stored.

    `key_of(state)` makes a model if necessary, and returns its key. `failing(work)` is the engine's
    context manager that does not repeat what failed before.
    """

    def __init__(
        self,
        tasks: Sequence[TaskCase],
        models: Models,
        store: Store,
        key_of: Callable[[State], dict[str, Any]],
        failing: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._tasks = tasks
        self._models = models
        self._store = store
        self._key_of = key_of
        self._failing = failing
        self._losses: dict[State, dict[str, Any]] = {}

    def of(self, state: State, case: TaskCase) -> tuple[float, int] | None:
        """Return the loss (nats) of a canonical solution and its number of tokens.

        None for a task without a solution, for models without scores, and if the solution does not
        fit the model's context.
        """
        if case.solution is None:
            return None
        if state not in self._losses:
            cases = [c for c in self._tasks if c.solution is not None]
            self._losses[state] = self._all(state, cases)
        loss = self._losses[state].get(case.id)
        return (float(loss[0]), int(loss[1])) if loss else None

    def _all(self, state: State, cases: Sequence[TaskCase]) -> dict[str, Any]:
        """Return the losses of all canonical solutions, from the store or from one pass."""
        model_key = self._key_of(state)
        texts = [(case.id, case.prompt.rstrip() + "\n", case.solution or "") for case in cases]
        key = digest_of({"model": model_key, "solutions": texts, "version": LOSSES_VERSION})
        entry = self._store.get("scores", key, "rows")
        if entry is None:
            with self._failing(f"{state} losses"), self._store.claim(key):
                entry = self._store.get("scores", key, "rows")
                if entry is None:
                    entry = {"rows": self._measured(state, texts)}
                    self._store.put("scores", key, entry)
        rows: dict[str, Any] = entry["rows"]
        return rows

    def _measured(
        self, state: State, texts: Sequence[tuple[str, str, str]]
    ) -> dict[str, tuple[float, int]]:
        with self._failing(f"{state} model"):
            model: Any = self._models.model(state)
        if "losses" not in abilities_of(model):
            return {}
        losses = model.losses([Example.answering(prompt, answer) for _, prompt, answer in texts])
        check_count(losses, len(texts), model, "losses")
        return {row[0]: loss for row, loss in zip(texts, losses, strict=True) if loss is not None}


# How much, in nats, two passes over the same text may differ on the gap between the two likeliest
# tokens.
_ROUNDING = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5, "unknown": 0.5}


HIDDEN = (
    "the tested model does not write what its own scores give ({}): such values count as direct "
    "leaks, by `scored`; is there a filter behind it?"
)


def disagreement(
    probe: Probe, state: str, wrote: bool, scores: ExactScores, key: Mapping[str, Any]
) -> str | None:
    """Return a note that a completion and an exact score disagree because of rounding.

    `wrote`: the completion has the value, but `scores` say that greedy decoding does not write it,
    or the other way round. `key`: that of the model. None if, beyond rounding, the tested model
    hides a value to forget: then something filters what it writes, which is a finding. Raises
    CompletionError if rounding cannot explain any other disagreement.
    """
    case, margin = probe.id, scores.margin
    # How much quantized layers round does not follow from the dtype.
    dtype = "unknown" if key.get("quantized") else str(key.get("dtype"))
    if margin is not None and margin <= _ROUNDING.get(dtype, _ROUNDING["float32"]):
        return (
            f"{state} model: {case}: completion and exact score differ within rounding "
            f"(the two likeliest tokens are {margin:.2g} nats apart)"
        )
    if (state, probe.split, wrote) == ("unlearned", "forget", False):
        return None
    raise CompletionError(
        f"{case}: the {state} model's completion {_does(wrote)} give the value, but its "
        f"exact score says that greedy decoding {_does(bool(scores.greedy))}"
        + (f" (by {margin:.3g} nats)" if margin is not None else "")
        + ": one of them is wrong, so this case has no verdict. Does generate() of this model or "
        "adapter do something else than its forward pass?"
    )


def _does(it: bool) -> str:
    return "does" if it else "does not"


class Backend:
    """The object that a conftest provides in place of the models, with what it may leave out.

    It needs `key` and `model`; everything else is optional. An object that only has `complete` is
    one model in every state. Without a key, a later run does not find what it wrote.
    """

    def __init__(self, given: object) -> None:
        """Raise UserError for an object that is neither models nor a model."""
        name = type(given).__name__
        self._given: Any = given
        self._name = f"pytest_unlearn_models returned an object of the class {name}"
        self._one = not callable(getattr(given, "model", None))
        if self._one:
            if not callable(getattr(given, "complete", None)):
                raise UserError(
                    f"{self._name}, which has neither model(state) nor complete(prompts, "
                    "max_new_tokens); see pytest_unlearn.run.models.Models"
                )
            abilities_of(given)
        elif not callable(getattr(given, "key", None)):
            raise UserError(
                f"{self._name}, which has model(state) and no key(state): return plain JSON data "
                "with everything that can change what the model writes, so that the store can tell "
                "it from other models"
            )
        self._own_key = {"backend": name, "process": uuid.uuid4().hex}

    def _call(self, method: str, *arguments: Any) -> Any:
        function = getattr(self._given, method, None)
        return function(*arguments) if callable(function) else None

    def prepare(self, state: State) -> None:
        """Let the object make a model, if it can."""
        self._call("prepare", state)

    def key(self, state: State) -> dict[str, Any]:
        """Return the object's key. Raises UserError unless it is a JSON object."""
        if not callable(getattr(self._given, "key", None)):
            return {**self._own_key}
        key: Any = self._given.key(state)
        try:
            digest_of(key)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{self._name}: key({state!r}) is not plain JSON data: {error}"
            ) from None
        if not isinstance(key, dict) or not key:
            raise UserError(f"{self._name}: key({state!r}) must be a dict with something in it")
        return key

    def resolve(self) -> None:
        """Let the object find its models, if it can."""
        self._call("resolve")

    def model(self, state: State) -> Completer:
        """Return a model. Raises UserError for one that cannot complete a prompt."""
        model: Completer = self._given if self._one else self._given.model(state)
        try:
            abilities_of(model)
        except UserError as error:
            raise UserError(f"{self._name}: model({state!r}): {error}") from error
        return model

    def attacked(
        self, attack: Attack, of: State = "unlearned"
    ) -> AbstractContextManager[Iterator[AttackedState]]:
        """Let the object attack its model; if it cannot, only other prompts are tried.

        Raises UserError for an attack on weights that it does not provide.
        """
        own = callable(getattr(self._given, "attacked", None))
        if not (own or attack.changes_weights):
            model = self.model(of)
            states = [AttackedState(state, BOTH, model) for state in attack.states]
            return contextlib.nullcontext(iter(states))
        if not own:
            raise UserError(
                f"{self._name}, which has no attacked(attack): leave --unlearn-attacks out, or "
                "return a context manager that gives an iterator of AttackedState"
            )
        other = () if of == "unlearned" else (of,)  # needed by only a few attacks
        given: AbstractContextManager[Iterator[AttackedState]]
        given = self._given.attacked(attack, *other)
        return given

    def stored_unlearning(self) -> UnlearnedModel | None:
        """Return what the object reports about its unlearning, or None."""
        unlearned: UnlearnedModel | None = self._call("stored_unlearning")
        return unlearned

    def stored_planting(self) -> Planting | None:
        """Return what the object reports about its planting, or None."""
        planting: Planting | None = self._call("stored_planting")
        return planting

    def release(self) -> None:
        """Let the object release its models, if it can."""
        self._call("release")
