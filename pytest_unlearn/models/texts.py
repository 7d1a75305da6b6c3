"""Texts to train on, and how texts are sampled from a model.

This does not import torch, so a data set is built, and a wrong flag refused, before anything is
loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from pytest_unlearn.core.errors import UserError


@dataclass(frozen=True, slots=True)
class Example:
    """A text whose answer is the characters `[start, end)`: a value, or a task's solution.

    `name` is what a message may call it: a row's id, nothing personal. `kind`: the value's kind.
    `like`: examples with the same text here are alike, as those of one kind in one carrier are.
    `person`: where the person is named before the value, `[start, end)`; None if unknown.
    """

    text: str
    start: int
    end: int
    name: str = ""
    like: str = ""
    kind: str = ""
    person: tuple[int, int] | None = None

    @classmethod
    def whole(cls, text: str) -> Example:
        """Return a text that consists only of an answer."""
        return cls(text, 0, len(text))

    @classmethod
    def answering(
        cls, prompt: str, answer: str, after: str = "", name: str = "", **more: Any
    ) -> Example:
        """Return prompt, answer and what follows as one text; `more`: other fields."""
        text = prompt + answer + after
        return cls(text, len(prompt), len(prompt) + len(answer), name, **more)

    @property
    def answer(self) -> str:
        """Return the characters of the answer."""
        return self.text[self.start : self.end]

    @property
    def named(self) -> str:
        """Return how the text names the person, or an empty text."""
        return self.text[slice(*self.person)] if self.person else ""

    def __repr__(self) -> str:  # the text may be personal data
        return f"<Example of {len(self.text)} characters, answer at [{self.start}, {self.end})>"


@dataclass(frozen=True, slots=True)
class TrainingTexts:
    """What an unlearning run may see: forget records, retained people's documents, tasks.

    `alternates`: for each forget record, the same document with other values, if the method teaches
    these in place of the true one; else empty. `unseen` has control people's documents, which are
    evaluated if a stop is measured on them, and never trained on. `strangers`: documents of made-up
    people who are neither in the data nor, as far as can be known, known to the model. `recalled`:
    documents that the base itself brought up (`unlearning.recall`).
    """

    forget: Sequence[Example]
    retained_people: Sequence[Example]
    tasks: Sequence[Example]
    alternates: Sequence[Sequence[Example]] = ()
    unseen: Sequence[Example] = ()
    strangers: Sequence[Example] = ()
    recalled: Sequence[Example] = ()


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
    options: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if name not in names or not equals:
            raise DecodingError(f"{part!r}: write NAME=NUMBER with {', '.join(names)}")
        if name in options:
            raise DecodingError(f"{name} is given twice")
        try:
            options[name] = int(number) if name == "top_k" else float(number)
        except ValueError:
            kind = "a whole number" if name == "top_k" else "a number"
            raise DecodingError(f"{name}={number}: write {kind}") from None
    return DecodingScheme(**options)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Decoding:
    """At most `max_new_tokens` tokens, until one of `stops` is written; it is not in the text.

    At `temperature` 0 decoding is greedy. Above, row i is drawn with `seeds[i]`, from what `top_p`
    leaves. A greedy text may be abandoned once its likelihood is below `least`; it is then empty.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seeds: tuple[int, ...] = ()
    stops: tuple[str, ...] = ()
    least: float = 0.0


def cut_at(text: str, stops: Sequence[str]) -> str:
    """Return a text up to the first of the stops in it."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
