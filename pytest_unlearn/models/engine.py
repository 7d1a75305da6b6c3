"""What runs a model: the protocol of an engine's models, and how each declares its abilities.

An engine opens models; a model completes prompts, and declares in `abilities` what else it can do.
What it cannot do is not evaluated, with the reason; it never counts as zero or as forgotten. Other
packages add engines through entry points of the group `pytest_unlearn.engines`, which have the
engine's name and point to an `Engine`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Protocol,
    TypeVar,
    get_args,
    get_type_hints,
    runtime_checkable,
)

from pytest_unlearn.core.errors import UserError, naming
from pytest_unlearn.core.extensions import add_offered
from pytest_unlearn.models.texts import Decoding

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from pytest_unlearn.models.scoring import ValueScores
    from pytest_unlearn.models.sources import ModelSource
    from pytest_unlearn.models.texts import DecodingScheme, Example

T = TypeVar("T")

GROUP = "pytest_unlearn.engines"
TRANSFORMERS, ENDPOINT = "transformers", "endpoint"
Ability = Literal[
    "generate",
    "samples",
    "chat",
    "turns",
    "infill",
    "scores",
    "z_scores",
    "losses",
    "probabilities",
    "alternatives",
    "gradients",
    "hidden_states",
    "context",
    "weights",
    "ends",
    "separate",
]
# Abilities without a method, which a model has to declare. `ends`: it knows where a text ends, so
# that an empty text is an answer. `separate`: the other texts of a batch do not change a text.
DECLARED: frozenset[Ability] = frozenset({"ends", "separate"})
# The method behind each of the other abilities.
METHODS: dict[Ability, str] = {
    "generate": "complete",
    "samples": "write",
    "chat": "answer",
    "turns": "converse",
    "infill": "infill",
    "scores": "score",
    "z_scores": "score",
    "losses": "losses",
    "probabilities": "log_probabilities",
    "alternatives": "alternatives",
    "gradients": "gradient_norms",
    "hidden_states": "hidden_states",
    "context": "context",
    "weights": "active",
}


def is_address(name: str | None) -> bool:
    """Return whether a model's name is the address of an endpoint."""
    return name is not None and name.lower().startswith(("http://", "https://"))


class RunnableModel(Protocol):
    """A model in one state, ready to run. Only `complete` is required; see `METHODS`."""

    @property
    def abilities(self) -> frozenset[str]:
        """What the model can do."""

    def complete(self, prompts: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        """Return the greedy completion of each prompt, the prompt left out.

        White space at the end of a prompt is left to the model to write.
        """

    def write(
        self, style: str, prompts: Sequence[str], suffixes: Sequence[str], decoding: Decoding
    ) -> list[str]:
        """Return what the model writes to each prompt as `completion`, `chat` or `infill`.

        `suffixes` follow the gap of an infill. Row i is drawn with `decoding.seeds[i]`, the
        same text for the same seed in any batch; a text ends before one of `decoding.stops`.
        """

    def answer(self, messages: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        """Return the greedy answer to each message of a user."""

    def converse(
        self, conversations: Sequence[Sequence[str]], max_new_tokens: int = 64
    ) -> list[str]:
        """Return the greedy answer to the last turn of each conversation.

        Turns are texts in order: the user's first, the model's answer to it, and so on.
        """

    def infill(self, prompts: Sequence[tuple[str, str]], max_new_tokens: int = 64) -> list[str]:
        """Return the greedy text between each (prefix, suffix)."""

    def score(
        self, examples: Sequence[Example], scheme: DecodingScheme | None = None
    ) -> list[ValueScores]:
        """Return the scores of each example's answer, from one teacher-forced pass."""

    def losses(self, examples: Sequence[Example]) -> list[tuple[float, int] | None]:
        """Return each answer's loss (nats) and its number of tokens; None if it does not fit the
        context."""

    def log_probabilities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the log-probability (nats) of each value after its prompt."""

    def alternatives(self, prompt: str, values: Sequence[str], after: str = "") -> list[float]:
        """Return the log-probability (nats) of many values after one prompt."""

    def gradient_norms(self, examples: Sequence[Example]) -> list[float]:
        """Return the norm of the gradient of each example's loss."""

    def hidden_states(self, texts: Sequence[str], depth: float = 1.0) -> list[Any]:
        """Return the hidden states `[tokens, hidden]` of each text, after a share of the layers."""

    def context(self) -> int | None:
        """Return the most tokens of a text; None for no limit."""

    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer of a model with the ability `weights`."""

    def active(self) -> AbstractContextManager[Any]:
        """Yield the transformers model with its weights in this state, for a `with` block."""


class Writing(ABC):
    """`complete` and `answer` of a model that has `write`."""

    @abstractmethod
    def write(
        self, style: str, prompts: Sequence[str], suffixes: Sequence[str], decoding: Decoding
    ) -> list[str]:
        """Return what the model writes; see `RunnableModel.write`."""

    def complete(self, prompts: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        """Return the greedy completion of each prompt."""
        return self.write("completion", prompts, [""] * len(prompts), Decoding(max_new_tokens))

    def answer(self, messages: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        """Return the greedy answer to each message of a user, through the chat template."""
        return self.write("chat", messages, [""] * len(messages), Decoding(max_new_tokens))


@runtime_checkable
class Engine(Protocol):
    """An inference engine. `open` returns a model; nothing of the model is read before."""

    name: str
    abilities: frozenset[str]

    def configured(self, text: str) -> Engine:
        """Return the engine with the options that the user wrote after its name and a colon, as
        `option=value,option=value`. Raises UserError for unknown options."""

    def key(self) -> dict[str, Any]:
        """Return, as plain JSON data, everything about the engine that can change what a model
        writes: its version, mode and batch limits. This is part of the key of every completion."""

    def check(self, source: ModelSource, flag: str) -> None:
        """Raise UserError if the engine cannot run a model, before anything expensive is done."""

    def open(
        self,
        source: ModelSource,
        device: str,
        dtype: str,
        progress: Callable[[str], None],
    ) -> RunnableModel:
        """Return a model, ready to run; an adapter of the source is part of it."""


def abilities_of(model: object) -> frozenset[str]:
    """Return what a model can do: what it declares or, if it declares nothing, has methods for.

    Raises UserError for a model that cannot complete a prompt, that declares an unknown ability, or
    that lacks the methods of one.
    """
    name = type(model).__name__
    has = frozenset(
        ability for ability, method in METHODS.items() if callable(getattr(model, method, None))
    )
    if "generate" not in has:
        raise UserError(
            f"the model of the class {name} has no complete(prompts, max_new_tokens): every model "
            "must complete prompts"
        )
    declared = getattr(model, "abilities", None)
    if declared is None:
        return has
    known = frozenset(get_args(Ability))
    for ability in sorted(declared):
        if ability not in known:
            raise UserError(
                f"the model of the class {name} declares the ability {ability!r}; known are "
                f"{', '.join(sorted(known))}"
            )
        if ability not in has | DECLARED:
            raise UserError(
                f"the model of the class {name} declares the ability {ability}, and has no "
                f"{METHODS[ability]}()"
            )
    return frozenset(declared) | {"generate"}


# Engines of this package by name: modules of this room with an `ENGINE`.
_OWN = {TRANSFORMERS: "transformers_engine", "vllm": "vllm_engine", ENDPOINT: "endpoint"}


@functools.cache
def engines() -> Mapping[str, Engine]:
    """Return all engines by name. Raises UserError for an entry point that is not an engine."""
    known: dict[str, Engine] = {}
    for name, module in _OWN.items():
        path = f"pytest_unlearn.models.{module}"
        if importlib.util.find_spec(path) is not None:
            known[name] = importlib.import_module(path).ENGINE
    add_offered(known, GROUP, "an engine", Engine)
    return known


def engine_named(text: str) -> Engine:
    """Return the engine for `name` or `name:option=value,...`.

    Raises UserError if there is no such engine, and for options that it does not know.
    """
    known = engines()
    name, colon, options = text.partition(":")
    if name not in known:
        raise UserError(
            f"--unlearn-engine={name}: no engine of this name is installed; write "
            f"{' or '.join(known)}, or install the package that brings it"
        )
    if not colon:
        return known[name]
    with naming(f"--unlearn-engine={name}"):
        return known[name].configured(options)


def read_options(options: T, text: str) -> T:
    """Return a dataclass of numbers and words, changed by `name=value,name=value`.

    Raises UserError, including the dataclass's own for a number out of range.
    """
    before: Any = options
    types = get_type_hints(type(options))
    changes: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if (
            not equals or name not in types
        ):  # the text may be a key, so the message does not repeat it
            raise UserError(f"write options as name=value,name=value with {', '.join(types)}")
        if name in changes:
            raise UserError(f"{name} is given twice; write it once")
        try:
            changes[name] = types[name](value)
        except ValueError:
            kind = "a whole number" if types[name] is int else "a number"
            raise UserError(f"{name}={value}: write {kind}") from None
    after: T = dataclasses.replace(before, **changes)
    return after
