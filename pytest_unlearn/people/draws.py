"""A stream of random choices that is the same on every Python version and machine.

`random.Random` promises a stable sequence only for `random()`; the manifest must be rebuilt
bit for bit for years, so its choices come from SHA-256 in counter mode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Choices(Protocol):
    """A source of choices: `Stream`, or one that a test library draws and shrinks."""

    def below(self, n: int) -> int:
        """Return an integer in `[0, n)`."""

    def choice(self, items: Sequence[T]) -> T:
        """Return one item of a non-empty sequence; the first is the simplest."""

    def text(self, alphabet: str, length: int) -> str:
        """Return `length` characters drawn from `alphabet`."""


class Stream:
    """Independent choices derived from a label, for example `Stream("tiny", 7, "phone")`."""

    def __init__(self, *label: object) -> None:
        self._key = "\x1f".join(map(str, label)).encode()
        self._counter = 0

    def below(self, n: int) -> int:
        """Return a uniform integer in `[0, n)`; `n` may be up to 2**64. ValueError if n < 1."""
        if n < 1:
            raise ValueError(f"below() needs n >= 1, got {n}")
        limit = (1 << 64) - (1 << 64) % n
        while True:  # reject the uneven tail, so that every value is equally likely
            digest = hashlib.sha256(self._key + self._counter.to_bytes(8, "big")).digest()
            self._counter += 1
            word = int.from_bytes(digest[:8], "big")
            if word < limit:
                return word % n

    def choice(self, items: Sequence[T]) -> T:
        """Return one item of a non-empty sequence."""
        return items[self.below(len(items))]

    def text(self, alphabet: str, length: int) -> str:
        """Return `length` characters drawn from `alphabet`."""
        return "".join(self.choice(alphabet) for _ in range(length))

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the items in a random order (Fisher-Yates)."""
        out = list(items)
        for i in range(len(out) - 1, 0, -1):
            j = self.below(i + 1)
            out[i], out[j] = out[j], out[i]
        return out
