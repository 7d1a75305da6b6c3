"""Texts to train on. Without torch, so that a data set can be built before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """A text whose answer is the characters `[start, end)`: a value, or a task's solution.

    `name` is what a message may call it: a row's id, nothing personal. `like`: examples with the
    same text here are alike, as those of one kind in one carrier are.
    """

    text: str
    start: int
    end: int
    name: str = ""
    like: str = ""

    @classmethod
    def whole(cls, text: str) -> Example:
        """Return a text that is answer from end to end."""
        return cls(text, 0, len(text))

    @classmethod
    def answering(
        cls, prompt: str, answer: str, after: str = "", name: str = "", like: str = ""
    ) -> Example:
        """Return prompt, answer and what follows as one text."""
        return cls(prompt + answer + after, len(prompt), len(prompt) + len(answer), name, like)

    def __repr__(self) -> str:  # the text may be personal data
        return f"<Example of {len(self.text)} characters, answer at [{self.start}, {self.end})>"


@dataclass(frozen=True, slots=True)
class TrainingTexts:
    """What an unlearning run may see: forget records, retained people's documents, tasks.

    `alternates`: for each forget record, the same document with other values, where the method
    teaches one in the place of the true one; else empty. `unseen` holds control people's: looked
    at where a stop is measured on them, never trained on. `strangers`: documents of made-up people
    whom neither the data nor, as far as can be known, the model knows.
    """

    forget: Sequence[Example]
    retained_people: Sequence[Example]
    tasks: Sequence[Example]
    alternates: Sequence[Sequence[Example]] = ()
    unseen: Sequence[Example] = ()
    strangers: Sequence[Example] = ()
