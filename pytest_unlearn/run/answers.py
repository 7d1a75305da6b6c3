"""What a model is asked for a chunk of cases, and whether what it gives is an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from pytest_unlearn.models.engine import abilities_of
from pytest_unlearn.models.sampling import Decoding

if TYPE_CHECKING:
    from pytest_unlearn.models.engine import RunnableModel
    from pytest_unlearn.run.dataset import Chunk
    from pytest_unlearn.run.models import Completer


class CompletionError(RuntimeError):
    """A model could not be had, or a chunk not be completed, earlier in this run."""


def completed(model: Completer, chunk: Chunk) -> list[str]:
    """Run a chunk in its style. Models put in place by a conftest may know `complete` only."""
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
            f"{type(model).__name__} draws no samples, it has no write(); leave out "
            "--unlearn-samples and --unlearn-temperature"
        )
    if chunk.style == "completion":
        texts: Any = model.complete(chunk.prompts, chunk.max_new_tokens)
        return checked_texts(texts, chunk, model, "complete")
    if chunk.style not in abilities:
        raise CompletionError(
            f"{type(model).__name__} knows no {chunk.style} prompts; leave {chunk.style} out of "
            "--unlearn-probes and --unlearn-task-style"
        )
    if chunk.style == "chat":
        texts = able.answer(chunk.prompts, chunk.max_new_tokens)
        return checked_texts(texts, chunk, model, "answer")
    pairs = list(zip(chunk.prompts, chunk.suffixes, strict=True))
    return checked_texts(able.infill(pairs, chunk.max_new_tokens), chunk, model, "infill")


def checked_texts(texts: Any, chunk: Chunk, model: Any, method: str) -> list[str]:
    """Return what a model gave for a chunk, if it is one text for each prompt.

    Raises CompletionError otherwise, and where no text has a character: what is stored must be an
    answer. An engine that knows where a text ends (`knows_ends`) may end each at once.
    """
    name = f"{type(model).__name__}.{method}()"
    if not isinstance(texts, list | tuple):
        raise CompletionError(
            f"{name} returned {_kind(texts)}; it must return a list of {len(chunk.prompts)} strings"
        )
    if len(texts) != len(chunk.prompts):
        raise CompletionError(f"{name} returned {len(texts)} texts to {len(chunk.prompts)} prompts")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise CompletionError(
                f"{name} returned {_kind(text)} for {chunk.cases[number]}; every text must be a "
                "string"
            )
    if not any(texts) and not getattr(model, "knows_ends", False):
        raise CompletionError(
            f"{name} returned {len(texts)} empty texts to {len(texts)} prompts: that is no answer"
        )
    return [str(text) for text in texts]


def check_count(scores: Any, count: int, model: Any, method: str) -> None:
    """Raise CompletionError for anything but a list of so many scores, none of which is None."""
    name = f"{type(model).__name__}.{method}()"
    if not isinstance(scores, list | tuple) or len(scores) != count:
        given = f"{len(scores)}" if isinstance(scores, list | tuple) else _kind(scores)
        raise CompletionError(f"{name} returned {given}; it must return a list of {count} scores")


def _kind(value: object) -> str:
    return "None" if value is None else f"an object of the class {type(value).__name__}"
