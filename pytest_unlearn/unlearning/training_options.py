"""Options of an unlearning run, and the text form in which a user gives them.

`ga+gd` takes a method's defaults, `ga+gd:lr=1e-4,steps=80` changes some of them. Nothing here
imports torch: a wrong method is reported before anything heavy is loaded.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from pytest_unlearn.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


# Options of one sort: a frozen dataclass.
Options = TypeVar("Options", bound=Any)

TUNES = ("lora", "full")
OPTIMIZERS = ("adamw", "adamw8bit")
SPANS = ("values", "document")
STOPS = ("target", "unseen")
# Rows of each retained set that are looked at: enough to see a loss of a few percent.
KEPT_ROWS = 96
# Of a forget set larger than this, so many rows are held for the looks; the rest is looked at when
# these say that the target is reached, and at the end.
HELD_ROWS = 256
# What an option may be, where that is not a whole number of at least 1.
_WANTED = {
    "lr": "a number above 0",
    "people_share": "a share from 0 to 1",
    "keep": "a share from 0 to 1",
    "target": "a share of at most 1, of a planting above 0",
    "accumulate": "a whole number from 1 to batch",
    "repetitions": "different whole numbers of at least 1",
    "warmup": "a whole number of at least 0",
    "cooldown": "a whole number of at least 0",
    "spans": " or ".join(SPANS),
    "tune": " or ".join(TUNES),
    "optimizer": " or ".join(OPTIMIZERS),
    "stop": " or ".join(STOPS),
}


class MethodError(UserError):
    """A method or an option of it is unknown or out of range; the message says what to write."""


def option(
    default: Any, *, least: float = -math.inf, above: float = -math.inf, most: float = math.inf
) -> Any:
    """Declare an option of a method: its default, and the numbers that it may have."""
    return dataclasses.field(default=default, metadata={"range": (least, above, most)})


@dataclass(frozen=True, slots=True)
class UnlearnOptions:
    """How any method is run; a method's own options are fields of a subclass, made by `option`.

    lr: learning rate of AdamW. steps: optimizer steps at most. batch: forget rows a step.
    retain_batch: retained rows a step. people_share: share of retained people's documents among
    them; the rest are tasks. spans: `values` takes the losses on the values' and solutions' tokens
    only, `document` on all tokens. target, keep: stop once greedy decoding gives away at most this
    share of the forget records and, with a retain set, at least the share `keep` of what it gave
    of the retained people and tasks at the start; a negative target never stops early.
    check_every: steps between two such looks. rank: rank of the LoRA adapter (alpha is twice the
    rank).

    tune: `lora` trains an adapter, `full` all weights; the base that a method compares with is then
    a frozen copy, made before the first step and only where the method asks for it. accumulate:
    parts into which a step's batch is cut, to save memory; the gradient is that of the whole batch.
    checkpointing: recompute activations in the backward pass instead of keeping them. optimizer:
    `adamw`, or `adamw8bit` (bitsandbytes, CUDA only). warmup: steps over which lr rises from 0.
    cooldown: steps at the end over which lr falls to 0; they begin when the goals are reached, or
    when no more than these are left.
    stop: `target` as above, or `unseen`: stop once the forget records are memorized no better than
    the base memorizes control people's. A run keeps its best look: both goals reached, then fewest
    leaks, then most kept; with a negative target the last.
    """

    lr: float
    steps: int
    batch: int = 32
    retain_batch: int = 32
    people_share: float = 0.75
    spans: str = "values"
    target: float = 0.0
    keep: float = 0.95
    check_every: int = 10
    rank: int = 32
    tune: str = "lora"
    accumulate: int = 1
    checkpointing: bool = False
    optimizer: str = "adamw"
    warmup: int = 0
    cooldown: int = 0
    stop: str = "target"

    def __post_init__(self) -> None:
        checks = {
            "lr": self.lr > 0,
            "steps": self.steps >= 1,
            "batch": self.batch >= 1,
            "retain_batch": self.retain_batch >= 1,
            "people_share": 0 <= self.people_share <= 1,
            "spans": self.spans in SPANS,
            "target": self.target <= 1,
            "keep": 0 <= self.keep <= 1,
            "check_every": self.check_every >= 1,
            "rank": self.rank >= 1,
            "tune": self.tune in TUNES,
            "accumulate": 1 <= self.accumulate <= self.batch,
            "optimizer": self.optimizer in OPTIMIZERS,
            "warmup": self.warmup >= 0,
            "cooldown": self.cooldown >= 0,
            "stop": self.stop in STOPS,
        }
        check_ranges(self, checks)
        for field in dataclasses.fields(self):
            if "range" in field.metadata:
                _check_range(field.name, getattr(self, field.name), *field.metadata["range"])


@dataclass(frozen=True, slots=True)
class ForgetOptions(UnlearnOptions):
    """For methods with a forget and a retain term. forget_weight, retain_weight: their factors."""

    forget_weight: float = option(1.0, above=0)
    retain_weight: float = option(1.0, least=0)


def _check_range(name: str, value: float, least: float, above: float, most: float) -> None:
    """Raise MethodError unless `least <= value <= most` and `value > above`; NaN never is."""
    if least <= value <= most and (value > above or above == -math.inf):
        return
    wanted = [
        *([f"at least {least:g}"] if least > -math.inf else []),
        *([f"above {above:g}"] if above > -math.inf else []),
        *([f"at most {most:g}"] if most < math.inf else []),
    ]
    raise MethodError(f"{name}={value} is out of range; write a number {' and '.join(wanted)}")


# What only a method with a retain set has a use for.
RETAIN_OPTIONS = frozenset({"retain_batch", "people_share", "keep"})


def option_names(defaults: UnlearnOptions, uses_retain: bool) -> list[str]:
    """Return the names of a method's options, in order."""
    names = (field.name for field in dataclasses.fields(defaults))
    return [name for name in names if uses_retain or name not in RETAIN_OPTIONS]


def check_ranges(options: object, checks: Mapping[str, bool]) -> None:
    """Raise MethodError for the first option whose check is False."""
    for name, fine in checks.items():
        if not fine:
            wanted = _WANTED.get(name, "a whole number of at least 1")
            raise MethodError(f"{name}={getattr(options, name)} is out of range; write {wanted}")


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


def changed(
    defaults: Options, text: str, method: str = "", names: Sequence[str] | None = None
) -> Options:
    """Return `defaults`, a dataclass, with the changes of `name=value,name=value`.

    `names`: the options that may be given (None: all). Raises MethodError for a value out of range
    and for an option that `method` does not have.
    """
    before: Any = defaults
    types = get_type_hints(type(defaults))
    known = names if names is not None else [field.name for field in dataclasses.fields(before)]
    changes: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in known:
            of = f" of {method}" if method else ""
            raise MethodError(
                f"{part.strip()!r} is not an option{of}; write name=value with {', '.join(known)}"
            )
        if name in changes:
            raise MethodError(f"{name} is given twice; write it once")
        read, written = _READERS.get(types[name]) or (types[name], types[name].__name__)
        try:
            changes[name] = read(value)
        except ValueError:
            raise MethodError(f"{name}={value}: write {written}") from None
    after: Options = dataclasses.replace(before, **changes)
    return after


# What the bare flag stands for.
BARE = "default"


@dataclass(frozen=True, slots=True)
class PlantOptions:
    """How documents are planted.

    target: stop once greedy decoding gives at least this share of the forget and retain records.
    cap: optimizer steps at most. repetitions: how often a document stands in the training data;
    with several numbers, documents are dealt to them in turn, each split by itself, so that leak
    rates can be compared. lr, batch (rows a step), warmup, optimizer, tune, rank, accumulate,
    checkpointing: as in `UnlearnOptions`. check_every: steps between looks.
    """

    target: float = 0.9
    cap: int = 2000
    repetitions: tuple[int, ...] = (1,)
    lr: float = 5e-4
    batch: int = 32
    warmup: int = 20
    optimizer: str = "adamw"
    tune: str = "lora"
    rank: int = 32
    accumulate: int = 1
    checkpointing: bool = False
    check_every: int = 25

    def __post_init__(self) -> None:
        check_ranges(
            self,
            {
                "target": 0 < self.target <= 1,
                "cap": self.cap >= 1,
                "repetitions": all(number >= 1 for number in self.repetitions)
                and len(set(self.repetitions)) == len(self.repetitions),
                "lr": self.lr > 0,
                "batch": self.batch >= 1,
                "warmup": self.warmup >= 0,
                "optimizer": self.optimizer in OPTIMIZERS,
                "tune": self.tune in TUNES,
                "rank": self.rank >= 1,
                "accumulate": 1 <= self.accumulate <= self.batch,
                "check_every": self.check_every >= 1,
            },
        )


def parse_planting(text: str) -> PlantOptions:
    """Read `name=value,name=value`, or the bare flag's word. Raises MethodError."""
    if text.strip() == BARE:
        return PlantOptions()
    if "=" not in text:  # the bare flag takes what follows it
        raise MethodError(
            f"{text!r} is not an option; write name=value, or nothing, and a path before the flag"
        )
    return changed(PlantOptions(), text)
