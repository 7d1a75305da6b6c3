"""Texts to train on. Without torch, so that a data set can be built before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    """A text whose answer is the characters `[start, end)`: a value, or a task's solution.

    `name` is what a message may call it: a row's id, nothing personal. `kind`: that of the value.
    `like`: examples with the same text here are alike, as those of one kind in one carrier are.
    `person`: where the person is named before the value, `[start, end)`; None where that is not
    known.
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
        """Return a text that is answer from end to end."""
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
        """The characters of the answer."""
        return self.text[self.start : self.end]

    @property
    def named(self) -> str:
        """How the person is named, or nothing."""
        return self.text[slice(*self.person)] if self.person else ""

    def __repr__(self) -> str:  # the text may be personal data
        return f"<Example of {len(self.text)} characters, answer at [{self.start}, {self.end})>"


@dataclass(frozen=True, slots=True)
class TrainingTexts:
    """What an unlearning run may see: forget records, retained people's documents, tasks.

    `alternates`: for each forget record, the same document with other values, where the method
    teaches one in the place of the true one; else empty. `unseen` holds control people's: looked
    at where a stop is measured on them, never trained on. `strangers`: documents of made-up people
    whom neither the data nor, as far as can be known, the model knows. `recalled`: documents that
    the base itself brought up (`unlearning.recall`).
    """

    forget: Sequence[Example]
    retained_people: Sequence[Example]
    tasks: Sequence[Example]
    alternates: Sequence[Sequence[Example]] = ()
    unseen: Sequence[Example] = ()
    strangers: Sequence[Example] = ()
    recalled: Sequence[Example] = ()
