"""Options of an unlearning run, and the text form in which a user gives them.

`ga+gd` takes a method's defaults, `ga+gd:lr=1e-4,steps=80` changes some of them. Nothing here
imports torch: a wrong method is reported before anything heavy is loaded.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, get_type_hints


class MethodError(ValueError):
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

    def __post_init__(self) -> None:
        checks = {
            "lr": self.lr > 0,
            "steps": self.steps >= 1,
            "batch": self.batch >= 1,
            "retain_batch": self.retain_batch >= 1,
            "people_share": 0 <= self.people_share <= 1,
            "spans": self.spans in ("values", "document"),
            "target": self.target <= 1,
            "keep": 0 <= self.keep <= 1,
            "check_every": self.check_every >= 1,
            "rank": self.rank >= 1,
        }
        for name, fine in checks.items():
            if not fine:
                raise MethodError(f"{name}={getattr(self, name)} is out of range")
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


def changed(
    defaults: UnlearnOptions, text: str, method: str = "this method", uses_retain: bool = True
) -> UnlearnOptions:
    """Return `defaults` with the changes of `name=value,name=value`.

    Raises MethodError for a value out of range and for an option that the method does not have.
    """
    types = get_type_hints(type(defaults))
    names = option_names(defaults, uses_retain)
    changes: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in names:
            raise MethodError(
                f"{part.strip()!r} is not an option of {method}; write name=value with "
                f"{', '.join(names)}"
            )
        if name in changes:
            raise MethodError(f"{name} is given twice; write it once")
        try:
            changes[name] = types[name](value)
        except ValueError:
            raise MethodError(f"{name}={value}: write {types[name].__name__}") from None
    return dataclasses.replace(defaults, **changes)
