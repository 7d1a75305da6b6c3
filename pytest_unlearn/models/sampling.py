"""How texts are drawn from a model. Without torch, so that a wrong flag is named at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from pytest_unlearn.core.errors import UserError


class DecodingError(UserError):
    """A decoding scheme is out of range or cannot be read; the message says what to write."""


@dataclass(frozen=True, slots=True)
class DecodingScheme:
    """Temperature, then top-k, then top-p, as in transformers.

    Temperature 0 is greedy decoding. Raises DecodingError for numbers out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise DecodingError(f"temperature is {self.temperature}: it must be 0 or more")
        if self.top_k is not None and self.top_k < 1:
            raise DecodingError(f"top_k is {self.top_k}: it must be 1 or more, or None")
        if not 0 < self.top_p <= 1:
            raise DecodingError(f"top_p is {self.top_p}: it must be in (0, 1]")


def parse_scheme(text: str) -> DecodingScheme:
    """Read `temperature=0.8,top_k=40,top_p=0.95`, any part of it. Raises DecodingError."""
    names = [field.name for field in fields(DecodingScheme)]
    found: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if name not in names or not equals:
            raise DecodingError(f"{part!r}: write NAME=NUMBER with {', '.join(names)}")
        if name in found:
            raise DecodingError(f"{name} is given twice")
        try:
            found[name] = int(number) if name == "top_k" else float(number)
        except ValueError:
            kind = "a whole number" if name == "top_k" else "a number"
            raise DecodingError(f"{name}={number}: write {kind}") from None
    return DecodingScheme(**found)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Decoding:
    """At most `max_new_tokens` tokens, until one of `stops` is written; it is not in the text.

    At `temperature` 0 decoding is greedy. Above, row i is drawn with `seeds[i]`, from what
    `top_p` leaves.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seeds: tuple[int, ...] = ()
    stops: tuple[str, ...] = ()


def cut_at(text: str, stops: Sequence[str]) -> str:
    """Return a text up to the first of the stops in it."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
