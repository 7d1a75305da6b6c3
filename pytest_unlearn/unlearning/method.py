"""What an unlearning method is, its options, and the text form in which a user gives them.

A method is a loss, its options, and what it needs from the run. `ga+gd` takes a method's defaults,
`ga+gd:lr=1e-4,steps=80` changes some of them. Nothing here imports torch, so that a wrong method is
reported before anything heavy is loaded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Protocol,
    TypeVar,
    get_type_hints,
    runtime_checkable,
)

from pytest_unlearn.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from pytest_unlearn.unlearning.step import RunState, Step


# Options of one sort: a frozen dataclass.
Options = TypeVar("Options", bound=Any)

TUNES = ("lora", "full")
OPTIMIZERS = ("adamw", "adamw8bit")
SPANS = ("values", "document")
STOPS = ("target", "unseen")
# Rows of each retained set that are evaluated: enough to see a loss of a few percent.
KEPT_ROWS = 96
# If a forget set is larger, this many rows are used for evaluations; the rest is evaluated when
# these reach the target, and at the end.
HELD_ROWS = 256
# Prompts per batch when the base is asked whom else it knows (option `recall`).
RECALL_BATCH = 128
# What an option may be, if not a whole number of at least 1.
_EXPECTED = {
    "lr": "a number above 0",
    "people_share": "a share from 0 to 1",
    "keep": "a share from 0 to 1",
    "target": "a share of at most 1, of a planting above 0",
    "accumulate": "a whole number from 1 to batch",
    "repetitions": "different whole numbers of at least 1",
    "recall": "a whole number of at least 0",
    "warmup": "a whole number of at least 0",
    "cooldown": "a whole number of at least 0",
    "prioritized": "a share from 0 to 1",
    "precondition": "a number of at least 0; above 0 with tune=lora only",
    "least_scale": "a share above 0 and at most 1; less than 1 with tune=lora only",
    "spans": " or ".join(SPANS),
    "tune": " or ".join(TUNES),
    "optimizer": " or ".join(OPTIMIZERS),
    "stop": " or ".join(STOPS),
}


class MethodError(UserError):
    """A method or its option is unknown or out of range; the message says what to write instead."""


def option(
    default: Any, *, least: float = -math.inf, above: float = -math.inf, most: float = math.inf
) -> Any:
    """Declare an option of a method: its default and its range."""
    return dataclasses.field(default=default, metadata={"range": (least, above, most)})


@dataclass(frozen=True, slots=True)
class UnlearnOptions:
    """Options of every method; a method's own options are fields of a subclass, made by `option`.

    lr: learning rate of AdamW. steps: the most optimizer steps. batch: forget rows per step.
    retain_batch: retained rows per step. people_share: the share of people's documents among them;
    the rest are tasks. recall: the number of names that the base writes; what it knows by heart
    about people who are not to be forgotten is retained too (`unlearning.recall`). prioritized: the
    share of people's rows (of tasks' without people) that are drawn by how much the model has lost
    of them since the start (`unlearning.rehearsal`). spans: `values` computes losses only on the
    tokens of values and solutions, `document` on all tokens. target, keep: stop once greedy
    decoding gives at most a share `target` of the forget records and, with a retain set, at least a
    share `keep` of what it gave of the retained people and tasks at the start; with a negative
    target, training never stops early. check_every: steps between two such evaluations. rank: rank
    of the LoRA adapter (alpha is twice the rank).

    tune: `lora` trains an adapter, `full` all weights; with `full`, the base that a method compares
    with is a frozen copy, made before the first step and only if the method needs it. accumulate:
    the number of parts into which a step's batch is split, to save memory; the gradient is that of
    the whole batch. checkpointing: recompute activations in the backward pass instead of keeping
    them. optimizer: `adamw`, or `adamw8bit` (bitsandbytes, CUDA only). warmup: steps over which lr
    rises from 0. cooldown: steps at the end over which lr falls to 0; they begin when the goals are
    reached, or when only this many steps are left. least_scale: below 1, every second step is taken
    with the adapter scaled to this share, so that undoing a part of it brings back less.
    precondition: above 0, steps of the adapter are damped in directions that are common in retained
    documents (`unlearning.preconditioning`); the smaller the value, the more directions. stop:
    `target` as above, or `unseen`: stop once the forget records are memorized no better than the
    base memorizes control people's. A run keeps its best evaluation (both goals reached, then
    fewest leaks, then most kept), or with a negative target the last.
    """

    lr: float
    steps: int
    batch: int = 32
    retain_batch: int = 32
    people_share: float = 0.75
    recall: int = 0
    prioritized: float = 0.0
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
    least_scale: float = 1.0
    precondition: float = 0.0
    stop: str = "target"

    def __post_init__(self) -> None:
        checks = {
            "lr": self.lr > 0,
            "steps": self.steps >= 1,
            "batch": self.batch >= 1,
            "retain_batch": self.retain_batch >= 1,
            "people_share": 0 <= self.people_share <= 1,
            "recall": self.recall >= 0,
            "prioritized": 0 <= self.prioritized <= 1,
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
            "least_scale": self.least_scale == 1
            or (0 < self.least_scale < 1 and self.tune == "lora"),
            "precondition": self.precondition == 0
            or (0 < self.precondition < math.inf and self.tune == "lora"),
            "stop": self.stop in STOPS,
        }
        check_ranges(self, checks)
        for field in dataclasses.fields(self):
            if "range" in field.metadata:
                _check_range(field.name, getattr(self, field.name), *field.metadata["range"])


@dataclass(frozen=True, slots=True)
class ForgetOptions(UnlearnOptions):
    """Options of methods with a forget and a retain term. forget_weight, retain_weight: their
    factors."""

    forget_weight: float = option(1.0, above=0)
    retain_weight: float = option(1.0, least=0)


# -- what a method's own options may need from the data, found by `isinstance` ---------


@runtime_checkable
class WithAlternates(Protocol):
    """`alternates`: how many other values are taught in place of each true one."""

    alternates: int


@runtime_checkable
class WithStrangers(Protocol):
    """`strangers`: the number of documents of made-up people."""

    strangers: int


@runtime_checkable
class WithStrangersShare(Protocol):
    """`strangers_share`: the made-up people's share of the retained rows of a step."""

    strangers_share: float


@runtime_checkable
class WithCarriers(Protocol):
    """`carriers`: the number of carriers in which each forget record is trained."""

    carriers: int


@runtime_checkable
class WithSubstitutes(Protocol):
    """`substitutes`: steps between searches for other people's values in the places of forgotten
    ones, 0 for none."""

    substitutes: int


@runtime_checkable
class WithPairs(Protocol):
    """`pairs`: retained rows have the kinds and carriers of the step's forget rows."""

    pairs: bool


@runtime_checkable
class WithBaseTop(Protocol):
    """`kl_top`: how many of the base's likeliest tokens are computed once; 0 for none."""

    kl_top: int


def document_searches(options: UnlearnOptions) -> int:
    """Return how often a run asks for each forgotten value, in all its carriers (`substitutes`)."""
    if not isinstance(options, WithSubstitutes) or not options.substitutes:
        return 0
    carriers = options.carriers if isinstance(options, WithCarriers) else 1
    return (options.steps - 1) // options.substitutes * carriers


def _check_range(name: str, value: float, least: float, above: float, most: float) -> None:
    """Raise MethodError unless `least <= value <= most` and `value > above`, also for NaN."""
    if least <= value <= most and (value > above or above == -math.inf):
        return
    limits = [
        *([f"at least {least:g}"] if least > -math.inf else []),
        *([f"above {above:g}"] if above > -math.inf else []),
        *([f"at most {most:g}"] if most < math.inf else []),
    ]
    raise MethodError(f"{name}={value} is out of range; write a number {' and '.join(limits)}")


# Options that only a method with a retain set uses.
RETAIN_OPTIONS = frozenset(
    {"retain_batch", "people_share", "recall", "prioritized", "precondition", "keep"}
)


def option_names(defaults: UnlearnOptions, uses_retain: bool) -> list[str]:
    """Return the names of a method's options, in order."""
    names = (field.name for field in dataclasses.fields(defaults))
    return [name for name in names if uses_retain or name not in RETAIN_OPTIONS]


def check_ranges(options: object, checks: Mapping[str, bool]) -> None:
    """Raise MethodError for the first option whose check is False."""
    for name, fine in checks.items():
        if not fine:
            expected = _EXPECTED.get(name, "a whole number of at least 1")
            raise MethodError(f"{name}={getattr(options, name)} is out of range; write {expected}")


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("/"))


# How an option of a type is read, and what to write for it; other types parse themselves.
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


# What the bare flag means.
BARE = "default"


@dataclass(frozen=True, slots=True)
class PlantOptions:
    """How documents are planted.

    target: stop once greedy decoding gives at least this share of the forget and retain records.
    cap: the most optimizer steps. repetitions: how often a document occurs in the training data;
    several numbers are assigned to the documents of each split in turn, so that leak rates can be
    compared. lr, batch (rows per step), warmup, optimizer, tune, rank, accumulate, checkpointing:
    as in `UnlearnOptions`. check_every: steps between evaluations.
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


Alternates = Literal["plausible", "placeholder"]


@dataclass(frozen=True, slots=True)
class Method:
    """A loss over one step's batches with its default options.

    `loss(step, options)` returns a scalar in nats and takes at most two passes of the policy and
    one of the base. `options` are of the class of `defaults`. `uses_retain`: the step has a retain
    batch. `base_sums`: the loss calls `step.base_nll()`; the base runs once per example, before the
    first step. `alternates`: which other values are in `step.alternate`, `plausible` (another value
    of the kind) or `placeholder`; an option of the same name is their number per record. Options
    `strangers` and `strangers_share`: the retain batch also has documents of made-up people. Option
    `carriers`: each forget record is trained in this many. `own_spans`: the loss itself reads
    `spans`, and labels are always those of the value. `forget_mean`: what the forget term is a mean
    over, so that the parts of a batch add up to the whole (option `accumulate`); the retain term is
    always a mean over tokens. `lora_only`: the loss works on a LoRA adapter, and runs its layers
    once. `base_layers`: the loss needs the base's states of this many layers at retained rows; if
    they fit in memory, the base runs once per row, before the first step. `adds_up`: the losses of
    a batch's parts, each with its share in `forget_weight` and `retain_weight`, add up to that of
    the whole; a loss with a retain set needs options of the class ForgetOptions for it.
    `after_step` is called once per step with the run's state, whose `sums` then cover all parts.
    `about`: what the method does and which paper it comes from, for the reference.
    """

    name: str
    loss: Callable[[Step, Any], torch.Tensor]
    defaults: UnlearnOptions
    uses_retain: bool
    base_sums: bool = False
    alternates: Alternates | None = None
    own_spans: bool = False
    forget_mean: Literal["tokens", "rows"] = "tokens"
    lora_only: bool = False
    base_layers: int = 0
    adds_up: bool = True
    after_step: Callable[[RunState, Any], None] | None = None
    about: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError for a loss without weights that can hold its shares."""
        if self.adds_up and self.uses_retain and not isinstance(self.defaults, ForgetOptions):
            raise ValueError(
                f"method {self.name}: write adds_up=False, or options of a class that is a "
                "ForgetOptions, whose forget_weight and retain_weight the loss multiplies with"
            )


def check_training_options(method: Method, options: UnlearnOptions) -> None:
    """Raise MethodError for training options that a method's loss does not allow."""
    if options.accumulate > 1 and not method.adds_up:
        raise MethodError(
            f"accumulate={options.accumulate}: the loss of {method.name} is not a sum over the "
            "parts of a batch; leave it out, and lower batch or write checkpointing=true to save "
            "memory"
        )
    if method.uses_retain and options.accumulate > options.retain_batch:
        raise MethodError(
            f"accumulate={options.accumulate} is out of range: each part needs a retained row, and "
            f"a step has {options.retain_batch}; write at most that, or raise retain_batch"
        )
    if method.lora_only and (options.tune != "lora" or options.checkpointing):
        raise MethodError(
            f"{method.name} works on a LoRA adapter whose layers run once; leave out "
            f"{'checkpointing' if options.tune == 'lora' else 'tune'}"
        )


def check_processes(method: Method, options: UnlearnOptions, count: int) -> None:
    """Raise MethodError if `count` processes cannot share the steps of a training."""
    if not method.adds_up:
        raise MethodError(
            f"the loss of {method.name} is not a sum over the parts of a batch, so {count} "
            "processes cannot share it; train in one process (--unlearn-device=map spreads the "
            "model over its GPUs)"
        )
    rows = min(options.batch, options.retain_batch) if method.uses_retain else options.batch
    if options.accumulate * count > rows:
        raise MethodError(
            f"{count} processes need a row each of every part of a batch, and there are {rows} "
            f"rows in {options.accumulate} parts; write a batch and retain_batch of at least "
            f"{options.accumulate * count}, or start fewer processes"
        )
