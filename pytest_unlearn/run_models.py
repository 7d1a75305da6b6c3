"""What a run asks of its models, whoever holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from pytest_unlearn.plantings import Planting

State = Literal["base", "unlearned", "retrained"]
STATES: tuple[State, State] = ("base", "unlearned")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What unlearning made, in the store, with what its training reported.

    `folder` holds a LoRA adapter or, where `full`, a whole model. `steps`: the step whose weights
    were kept, of `trained_steps`.
    """

    folder: Path
    full: bool
    digest: str
    steps: int
    trained_steps: int
    leak_rate: float
    kept: float
    seconds: float


class ReplayError(RuntimeError):
    """Something is not in the store, and nothing may be made anew."""


class Completer(Protocol):
    """What a run asks of a model."""

    def complete(self, prompts: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        """Return the greedy completion of each prompt."""


class Models(Protocol):
    """The models of a run: `ModelPair`, or what a conftest puts in its place."""

    def key(self, state: State) -> dict[str, Any]:
        """Return plain JSON data that name everything that can change what a model writes."""

    def resolve(self) -> None:
        """Find the models, or raise ModelNotFoundError; called once before the first test."""

    def model(self, state: State) -> Completer:
        """Return one of the models, ready to run; `retrained` is asked for where one was named."""

    def stored_checkpoint(self) -> Checkpoint | None:
        """Return what unlearning reported, or None."""

    def stored_planting(self) -> Planting | None:
        """Return what planting reported, or None."""
