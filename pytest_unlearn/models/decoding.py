"""How a text is drawn from a model. Without torch, so that a run can be planned before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
