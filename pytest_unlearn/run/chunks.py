"""Cases cut into the batches in which they are completed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pytest_unlearn.core.store import digest_of
from pytest_unlearn.probes.families import Style


@dataclass(frozen=True, slots=True)
class Chunk:
    """Cases that are completed together: one batch. `id` is the same in every run of the data.

    At a `temperature` over 0, case i is drawn with `seeds[i]`. A text ends at one of `stops`.
    """

    id: str
    cases: tuple[str, ...]
    prompts: tuple[str, ...]
    max_new_tokens: int
    style: Style
    suffixes: tuple[str, ...]
    temperature: float = 0.0
    top_p: float = 1.0
    seeds: tuple[int, ...] = ()
    stops: tuple[str, ...] = ()

    def part(self, numbers: Sequence[int]) -> Chunk:
        """Return the chunk with some of its cases only."""
        return replace(
            self,
            cases=tuple(self.cases[n] for n in numbers),
            prompts=tuple(self.prompts[n] for n in numbers),
            suffixes=tuple(self.suffixes[n] for n in numbers),
            seeds=tuple(self.seeds[n] for n in numbers) if self.seeds else (),
        )

    def __repr__(self) -> str:  # prompts may be personal data
        return f"<Chunk {self.id} of {len(self.cases)} cases>"


class ChunkRow(NamedTuple):
    """What a case adds to its chunk."""

    id: str
    prompt: str
    tokens: int
    style: Style = "completion"
    suffix: str = ""
    seed: int | None = None


def cut(rows: Sequence[ChunkRow], size: int) -> Iterator[Chunk]:
    """Cut rows of one style into chunks; a chunk takes the most tokens of its rows."""
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield Chunk(
            id=digest_of(part),
            cases=tuple(row.id for row in part),
            prompts=tuple(row.prompt for row in part),
            max_new_tokens=max(row.tokens for row in part),
            style=part[0].style,
            suffixes=tuple(row.suffix for row in part),
            seeds=tuple(row.seed for row in part if row.seed is not None),
        )
