"""Which retained documents a step rehearses: mostly those that the model is losing.

With even draws, most retained rows of a step were never in danger, and a document that is being
lost comes back once or twice in a run. So the run looks regularly at how much less likely the
answers have become since the start, and draws a part of the rows by that: prioritized replay
(Schaul et al. 2016, arXiv 1511.05952), where the priority is the rise of the loss (Aljundi et al.
2019, arXiv 1908.04742).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_unlearn.models.batches import Encoded
    from pytest_unlearn.unlearning.method import UnlearnOptions

# Steps between two looks.
LOOK_EVERY = 10
# Rows per look, in retained rows of a step.
LOOKED_ROWS = 12
# In nats: an answer that has lost this much is looked at each time, and not only in its turn.
_LOST = 1.0
# If more than this share is lost, the steps are too large for the model.
TOO_MANY_LOST = 0.5
# An answer that has lost less than this is in no danger.
_LEAST = 0.05
# One that has lost more is not drawn more often.
_MOST = 3.0

# Returns the summed NLL of each row's learned tokens, in nats, for the model as it is.
Losses = Callable[[Sequence["Encoded"]], Sequence[float]]


def scored_rows(options: UnlearnOptions, rows: int) -> int:
    """Return how many of a run's retained rows are scored: all at the start, then those of each
    look; none without `prioritized`."""
    if not options.prioritized:
        return 0
    looks = (options.steps - 1) // LOOK_EVERY
    return rows + looks * min(rows, LOOKED_ROWS * options.retain_batch)


class Rehearsal:
    """The retained rows, and how many nats of each answer the model has lost since the start."""

    def __init__(
        self,
        rows: Sequence[Encoded],
        losses: Losses,
        most: int,
        numbers: MutableMapping[str, float],
        seed: int,
    ) -> None:
        """The model is still the base. `most`: rows per look. `numbers`: where the losses are kept,
        by name; saved with the training, so that a resumed run draws the same rows."""
        self._rows = rows
        self._losses = losses
        self._before = losses(rows)
        self._most = min(most, len(rows))
        self._numbers = numbers
        self._seed = seed
        self._turns = random.Random(seed).sample(range(len(rows)), len(rows))

    def look(self) -> float:
        """Update what is lost, and return the share of all rows that is.

        At most half of the looked-at rows are those that had lost most. The others are the next in
        turn, from which the share is estimated.
        """
        lost = [n for n in self._turns if self._lost(n) > _LOST]
        chosen = dict.fromkeys(heapq.nlargest(self._most // 2, lost, key=self._lost))
        turn = int(self._numbers.get("looked", 0))
        in_turn = set()
        while len(chosen) < self._most:
            number = self._turns[turn % len(self._turns)]
            chosen[number] = None
            in_turn.add(number)
            turn += 1
        self._numbers["looked"] = turn
        now = self._losses([self._rows[n] for n in chosen])
        for number, loss in zip(chosen, now, strict=True):
            self._numbers[f"lost.{number}"] = max(0.0, loss - self._before[number])
        return sum(self._lost(number) > _LOST for number in in_turn) / len(in_turn)

    def instead_of(self, rows: Sequence[Encoded], share: float, step: int) -> list[Encoded]:
        """Return rows of a step of which a share is replaced by rows drawn in proportion to what
        they have lost; fewer are replaced if fewer are in danger."""
        rng = random.Random(f"{self._seed} {step}")
        # Weighted sampling without replacement (Efraimidis and Spirakis 2006).
        keys = {
            number: rng.random() ** (1 / min(lost, _MOST))
            for number in range(len(self._rows))
            if (lost := self._lost(number)) > _LEAST
        }
        drawn = heapq.nlargest(round(share * len(rows)), keys, key=keys.__getitem__)
        others = rng.sample(rows, len(rows) - len(drawn))
        return [*(self._rows[number] for number in drawn), *others]

    def _lost(self, number: int) -> float:
        return self._numbers.get(f"lost.{number}", 0.0)
