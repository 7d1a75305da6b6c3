"""What the engine asks of a model: a chunk's completions, and the loss of canonical solutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from pytest_unlearn.models.examples import Example
from pytest_unlearn.models.sampling import Decoding
from pytest_unlearn.run_models import ReplayError
from pytest_unlearn.store import Store, digest_of

if TYPE_CHECKING:
    from pytest_unlearn.dataset import Chunk
    from pytest_unlearn.plantings import Planting
    from pytest_unlearn.run_models import Checkpoint, Completer, Models, State
    from pytest_unlearn.tasks.format import TaskCase

# Raise when a change of this package changes the loss of the same solution.
LOSSES_VERSION = 1


class CompletionError(RuntimeError):
    """A model could not be had, or a chunk not be completed, earlier in this run."""


class Replayed:
    """The models of an earlier run, of which only what the store has can be read."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def key(self, state: State) -> dict[str, Any]:
        """Return a model's key."""
        return self._models.key(state)

    def resolve(self) -> None:
        """Find the models, whose files are in the keys."""
        self._models.resolve()

    def stored_checkpoint(self) -> Checkpoint | None:
        """Return what unlearning reported, or None."""
        return self._models.stored_checkpoint()

    def stored_planting(self) -> Planting | None:
        """Return what planting reported, or None."""
        return self._models.stored_planting()

    def model(self, state: State) -> Completer:
        """Raise ReplayError: something is asked for that the store does not have."""
        raise ReplayError(
            f"--unlearn-replay: something of the {state} model is not in the store; run once "
            "without it, with the same data and settings"
        )


class SolutionLosses:
    """The loss of every canonical solution on base and tested model, made once and kept.

    `failing(work)` is the engine's context manager that does not try again what failed before.
    """

    def __init__(
        self,
        tasks: Sequence[TaskCase],
        models: Models,
        store: Store,
        failing: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._tasks = tasks
        self._models = models
        self._store = store
        self._failing = failing
        self._found: dict[State, dict[str, Any]] = {}

    def of(self, state: State, case: TaskCase) -> tuple[float, int] | None:
        """Return the loss (nats) of a canonical solution and its tokens: perplexity comes of it.

        None for a task without one, and for models that give no scores or have no room for it.
        """
        if case.solution is None:
            return None
        if state not in self._found:
            cases = [c for c in self._tasks if c.solution is not None]
            self._found[state] = self._all(state, cases)
        found = self._found[state].get(case.id)
        return (float(found[0]), int(found[1])) if found else None

    def _all(self, state: State, cases: Sequence[TaskCase]) -> dict[str, Any]:
        """Return the losses of all canonical solutions, from the store or from one pass."""
        with self._failing(state):
            model_key = self._models.key(state)
        texts = [(case.id, case.prompt.rstrip() + "\n", case.solution or "") for case in cases]
        key = digest_of({"model": model_key, "solutions": texts, "version": LOSSES_VERSION})
        entry = self._store.get("scores", key)
        if entry is None:
            with self._failing(f"{state} losses"), self._store.claim(key):
                entry = self._store.get("scores", key)
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
        if not hasattr(model, "losses"):
            return {}
        found = model.losses([Example.answering(prompt, answer) for _, prompt, answer in texts])
        return {row[0]: loss for row, loss in zip(texts, found, strict=True) if loss is not None}


def decoding_key(chunk: Chunk, number: int) -> dict[str, Any]:
    """Return how one completion of a chunk is drawn, for its key."""
    stops = {"stops": chunk.stops} if chunk.stops else {}
    if not chunk.seeds:
        return {"decoding": "greedy", "seed": 0, **stops}
    return {
        "decoding": [chunk.temperature, chunk.top_p],
        "seed": chunk.seeds[number],
        **stops,
    }


def completed(model: Completer, chunk: Chunk) -> list[str]:
    """Run a chunk in its style. Models put in place by a conftest may know `complete` only."""
    write: Any = getattr(model, "write", None)
    if write is not None and (chunk.seeds or chunk.stops):
        decoding = Decoding(
            chunk.max_new_tokens, chunk.temperature, chunk.top_p, chunk.seeds, chunk.stops
        )
        return list(write(chunk.style, chunk.prompts, chunk.suffixes, decoding))
    if chunk.seeds:
        raise CompletionError(
            f"{type(model).__name__} draws no samples, it has no write(); leave out "
            "--unlearn-samples and --unlearn-temperature"
        )
    if chunk.style == "completion":
        return model.complete(chunk.prompts, chunk.max_new_tokens)
    method = getattr(model, "answer" if chunk.style == "chat" else "infill", None)
    if method is None:
        raise CompletionError(
            f"{type(model).__name__} knows no {chunk.style} prompts; leave {chunk.style} out of "
            "--unlearn-probes and --unlearn-task-style"
        )
    if chunk.style == "chat":
        return list(method(chunk.prompts, chunk.max_new_tokens))
    pairs = list(zip(chunk.prompts, chunk.suffixes, strict=True))
    return list(method(pairs, chunk.max_new_tokens))
