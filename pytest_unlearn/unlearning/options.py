"""Options of an unlearning run, and the text form in which a user gives them.

`ga+kl` takes a method's defaults, `ga+kl:lr=1e-4,steps=80` changes some of them. Nothing here
imports torch: a wrong method is reported before anything heavy is loaded.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Options of one sort: a frozen dataclass.
Options = TypeVar("Options", bound=Any)

TUNES = ("lora", "full")
OPTIMIZERS = ("adamw", "adamw8bit")


class MethodError(ValueError):
    """A method or an option of it is unknown or out of range; the message says what to write."""


@dataclass(frozen=True, slots=True)
class UnlearnOptions:
    """How a method is run.

    lr: learning rate of AdamW. steps: optimizer steps at most. batch: forget rows a step.
    retain_batch: retained rows a step. people_share: share of retained people's documents among
    them; the rest are tasks. forget_weight, retain_weight: factors of the two loss terms.
    forget_bound: ascent on a forget token ends at this NLL in nats (infinity: the paper's unbounded
    loss). spans: `value` takes the losses on the values' and solutions' tokens only, `document` on
    all tokens. target, keep: stop once greedy decoding gives away at most this share of the forget
    records and, with a retain set, at least the share `keep` of what it gave of the retained
    people and tasks at the start; a negative target never stops early. check_every: steps between
    two such looks. rank: rank of the LoRA adapter (alpha is twice the rank).

    tune: `lora` trains an adapter, `full` all weights; the base that a method compares with is then
    a frozen copy, made before the first step and only where the method asks for it. accumulate:
    parts into which a step's batch is cut, to save memory; the gradient is that of the whole batch.
    checkpointing: recompute activations in the backward pass instead of keeping them. optimizer:
    `adamw`, or `adamw8bit` (bitsandbytes, CUDA only). warmup: steps over which lr rises from 0.
    stop: `target` as above, or `unseen`: stop once the forget records are memorized no better than
    the base memorizes control people's. A run keeps its best look: both goals reached, then fewest
    leaks, then most kept; with a negative target the last.
    """

    lr: float
    steps: int
    batch: int = 32
    retain_batch: int = 32
    people_share: float = 0.75
    forget_weight: float = 1.0
    retain_weight: float = 1.0
    forget_bound: float = math.inf
    spans: str = "value"
    target: float = 0.0
    keep: float = 0.95
    check_every: int = 10
    rank: int = 32
    tune: str = "lora"
    accumulate: int = 1
    checkpointing: bool = False
    optimizer: str = "adamw"
    warmup: int = 0
    stop: str = "target"

    def __post_init__(self) -> None:
        checks = {
            "lr": self.lr > 0,
            "steps": self.steps >= 1,
            "batch": self.batch >= 1,
            "retain_batch": self.retain_batch >= 1,
            "people_share": 0 <= self.people_share <= 1,
            "forget_weight": self.forget_weight > 0,
            "retain_weight": self.retain_weight >= 0,
            "forget_bound": self.forget_bound > 0,
            "spans": self.spans in ("value", "document"),
            "target": self.target <= 1,
            "keep": 0 <= self.keep <= 1,
            "check_every": self.check_every >= 1,
            "rank": self.rank >= 1,
            "tune": self.tune in TUNES,
            "accumulate": 1 <= self.accumulate <= min(self.batch, self.retain_batch),
            "optimizer": self.optimizer in OPTIMIZERS,
            "warmup": self.warmup >= 0,
            "stop": self.stop in ("target", "unseen"),
        }
        check_ranges(self, checks)


def check_ranges(options: object, checks: Mapping[str, bool]) -> None:
    """Raise MethodError for the first option whose check is False."""
    for name, fine in checks.items():
        if not fine:
            raise MethodError(f"{name}={getattr(options, name)} is out of range")


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("/"))


# How an option of a type is read, and what to write for it; other types read themselves.
_READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    bool: (_truth, "true or false"),
    tuple[int, ...]: (_numbers, "whole numbers separated by /"),
}


def changed(defaults: Options, text: str) -> Options:
    """Return `defaults`, a dataclass, with the changes of `name=value,name=value`.

    Raises MethodError.
    """
    before: Any = defaults
    types = get_type_hints(type(defaults))
    changes: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in types:
            known = ", ".join(field.name for field in dataclasses.fields(before))
            raise MethodError(f"{part.strip()!r} is not an option; write name=value with {known}")
        read, written = _READERS.get(types[name]) or (types[name], types[name].__name__)
        try:
            changes[name] = read(value)
        except ValueError:
            raise MethodError(f"{name}={value}: write {written}") from None
    after: Options = dataclasses.replace(before, **changes)
    return after
