"""Training texts as token rows that fit the model, and the seeded order in which they are seen."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_unlearn.models.batching import IGNORED, Encoded, encode
from pytest_unlearn.models.generation import context_of
from pytest_unlearn.unlearning.errors import UnlearningError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pytest_unlearn.models.examples import Example

MAX_TOKENS = 512
# As many names of shortened documents are told.
NAMED = 5


def length_limit(model: PreTrainedModel) -> int:
    """Return the most tokens of a row: `MAX_TOKENS`, or the model's context if that is less."""
    context = context_of(model)
    return MAX_TOKENS if context is None else min(MAX_TOKENS, context)


class Encoder:
    """Encodes examples for one model, and counts what did not fit; `report` tells it once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: int) -> None:
        self._tokenizer = tokenizer
        self._limit = limit
        self._cut: dict[str, int] = {}

    def answers(self, examples: Sequence[Example]) -> list[Encoded]:
        """Return rows in which the tokens of the answer are learnt.

        A document over the limit loses its beginning, then what follows the answer. Raises
        UnlearningError, naming the row, when the answer does not fit or its tokens cannot be told.
        """
        return [self._row(number, example) for number, example in enumerate(examples, start=1)]

    def documents(self, examples: Sequence[Example]) -> list[Encoded]:
        """Return the same rows with every token learnt: a long document is cut around its answer,
        so that what it was planted or unlearned for is never what is lost."""
        return [Encoded(row.ids, list(row.ids)) for row in self.answers(examples)]

    def _row(self, number: int, example: Example) -> Encoded:
        name = example.name or f"row {number}"
        try:
            whole = encode(self._tokenizer, example)
        except ValueError as error:
            raise UnlearningError(f"{name}: {error}") from error
        if len(whole.ids) <= self._limit:
            return whole
        row = encode(self._tokenizer, example, self._limit)
        # One token must stand before the answer, or its first is predicted from nothing.
        if learnt(row) < learnt(whole) or row.labels[0] != IGNORED:
            raise UnlearningError(
                f"{name}: its value or solution is cut by the limit of {self._limit} tokens "
                f"({learnt(whole)} tokens long); leave the record out, or shorten it"
            )
        self._cut[name] = len(whole.ids)
        return row

    def report(self, progress: Callable[[str], None]) -> None:
        """Say how many documents were shortened, and which."""
        if self._cut:
            names = ", ".join(f"{n} ({size})" for n, size in list(self._cut.items())[:NAMED])
            more = f" and {len(self._cut) - NAMED} more" if len(self._cut) > NAMED else ""
            progress(
                f"{len(self._cut)} documents are longer than {self._limit} tokens and are trained "
                f"without their beginning: {names}{more}"
            )


def learnt(row: Encoded) -> int:
    """Return how many tokens of a row are predicted and learnt."""
    return sum(label != IGNORED for label in row.labels[1:])


def cycle(
    rows: Sequence[Encoded], size: int, rng: random.Random, window: int = 1
) -> Iterator[list[Encoded]]:
    """Yield batches of `size` for ever; all rows come equally often.

    The rows of `window` batches are sorted by length together before they are cut, so that less is
    padded. Order comes from `rng` alone: neither the number of devices nor that of workers
    changes it.
    """
    pending: list[Encoded] = []
    while True:
        while len(pending) < size * window:
            pending.extend(rng.sample(rows, len(rows)))
        some = sorted(pending[: size * window], key=lambda row: len(row.ids))
        del pending[: size * window]
        batches = [some[start : start + size] for start in range(0, len(some), size)]
        rng.shuffle(batches)
        yield from batches


def parts(rows: Sequence[Encoded], count: int) -> list[list[Encoded]]:
    """Cut a batch into `count` parts of rows of like length, as equal in number as can be."""
    ordered = sorted(rows, key=lambda row: len(row.ids))
    cuts = [len(ordered) * n // count for n in range(count + 1)]
    return [ordered[a:b] for a, b in itertools.pairwise(cuts)]
