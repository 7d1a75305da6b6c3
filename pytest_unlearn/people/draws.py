"""Random choices that are the same on every Python version and machine, and frozen word lists.

`random.Random` promises a stable sequence only for `random()`. The bundled people must be
reproducible bit for bit for years, so their choices come from SHA-256 in counter mode. Surnames and
streets are invented: they belong to nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Choices(Protocol):
    """A source of choices: `Stream`, or one that Hypothesis draws and shrinks."""

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


FIRST_NAMES = tuple(
    "Ada Alan Amir Anna Aron Bea Ben Carl Cleo Dan Dora Ed Elsa Emil Eva Finn Gita Hana Hugo Ida "
    "Igor Ines Ivan Jan Jo June Kai Kim Lara Lena Leo Lin Lola Luca Mara Max Mei Milo Mina Nadia "
    "Ned Nina Noah Nora Olga Omar Otto Paul Pia Rosa Ruth Sam Sara Sven Tara Tess Theo Tom Uma "
    "Vera Viktor Walt Yara Zoe".split()
)

SURNAME_HEADS = tuple(
    "Bal Bor Cas Cor Dal Dor Fen Gar Gor Hal Hol Jar Kel Kor Lan Lor Mal Mar Nor Or Pel Quin Ral "
    "Ros Sal Sor Tal Tor Ul Val Vor Wil".split()
)
SURNAME_TAILS = tuple(
    "bek bin by dane dell den dor fax ford gan gate ham hart ick kin lake land lin ling man mond "
    "more nock ple ric sen son ster ton wick win worth".split()
)

STREET_HEADS = tuple(
    "Amber Ash Bell Birch Brook Cedar Clay Copper Crane Dove Elm Fern Flint Fox Glen Hazel Heron "
    "Holly Iron Ivy Lark Maple Mill Moss Oak Pine Quill Reed Rook Sage Thorn Wren".split()
)
STREET_TAILS = ("bank", "bridge", "crest", "dale", "field", "gate", "grove", "hill")
STREET_KINDS = ("Close", "Drive", "Lane", "Road", "Row", "Street", "Walk", "Way")

WORDS = tuple(
    "acorn anchor apple arrow badge basil beach berry bison blaze bloom bolt brick bridge broom "
    "cabin cactus candle canoe carpet castle cello chalk cherry circle clover cloud comet copper "
    "coral cotton crater cricket crown dahlia desert dragon eagle echo ember falcon feather fennel "
    "fiddle flame forest fossil garnet geyser ginger glacier goblet granite harbor hazel hornet "
    "island ivory jacket jasmine jungle kettle".split()
)
