"""Cases cut into chunks: the batches in which they are completed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pytest_unlearn.core.store import digest_of
from pytest_unlearn.probes.families import Probe, Style
from pytest_unlearn.tasks.format import TaskCase
from pytest_unlearn.tasks.task_prompts import (
    Sampling,
    prompt_of,
    room_for,
    sample_id,
    seed_of,
    suffix_of,
)

# Room for what a model writes after the value: it may be other people's data.
PROBE_TOKENS = 48
AFTER_VALUE_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Chunk:
    """Cases that are completed together: one batch. `id` is the same in every run on the data.

    At a `temperature` over 0, case i is sampled with `seeds[i]`. A text ends at one of `stops`.
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
    """One case of a chunk."""

    id: str
    prompt: str
    tokens: int
    style: Style = "completion"
    suffix: str = ""
    seed: int | None = None


def cut(rows: Sequence[ChunkRow], size: int) -> Iterator[Chunk]:
    """Cut rows of one style into chunks; a chunk allows as many tokens as its longest row needs."""
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


def probe_row(probe: Probe) -> ChunkRow:
    """Return a probe's row, with the number of tokens that a completion may take.

    A value that the budget cuts off would read as forgotten. Cutting chunks loads no tokenizer; a
    byte takes at most one token.
    """
    tokens = max(PROBE_TOKENS, len(probe.value.reveal().encode()) + AFTER_VALUE_TOKENS)
    return ChunkRow(probe.id, probe.prompt.reveal(), tokens, probe.style, probe.suffix.reveal())


def task_rows(cases: Iterable[TaskCase], sampling: Sampling, seed: int) -> list[ChunkRow]:
    """Return a row for each sample of each task case; `seed` is the run's."""
    return [
        ChunkRow(
            sample_id(case.id, number, sampling.samples),
            prompt_of(case, sampling.style),
            room_for(case, sampling),
            sampling.style,
            suffix_of(case, sampling.style),
            seed_of(seed, case.id, number) if sampling.temperature else None,
        )
        for case in cases
        for number in range(sampling.samples)
    ]
