"""The evaluations that decide when the loop stops, and which of them was best."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from pytest_unlearn.models.batches import Batch, Encoded
from pytest_unlearn.models.lm_head import logits_of
from pytest_unlearn.unlearning.data import for_each_row, learnt
from pytest_unlearn.unlearning.method import HELD_ROWS as HELD_ROWS
from pytest_unlearn.unlearning.method import KEPT_ROWS
from pytest_unlearn.unlearning.step import Predictions, predictions

if TYPE_CHECKING:
    from pytest_unlearn.models.texts import TrainingTexts
    from pytest_unlearn.unlearning.data import Encoder
    from pytest_unlearn.unlearning.method import UnlearnOptions

# If the base gives a smaller share of a set's answers completely, what is kept is counted in
# tokens: a single row could decide otherwise, and there is no share of zero.
FEW = 0.1
# If less than this is left of what the base gave, the model has fallen silent.
COLLAPSED = 0.02


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluation of the model after `steps` steps.

    leak_rate: share of watched records whose complete value greedy decoding gives. memorized: share
    of their values' tokens that are the model's first choice (memorization accuracy, Tirumala et
    al. 2022). kept: the worst share, over retained sets, of what the base gave: complete answers,
    or tokens if it gave few complete ones (1 without a set).
    """

    steps: int
    leak_rate: float
    memorized: float
    kept: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What greedy decoding gives for some rows: the shares of complete answers and of their tokens,
    and whether it gives each row's answer, in the order of the rows."""

    rows: float
    tokens: float
    given: tuple[bool, ...]


def greedy_memory(
    policy: torch.nn.Module,
    rows: Sequence[Encoded],
    pad: int,
    batch: int = 64,
    trees: bool = False,
) -> Memory:
    """Return which of the rows' answers greedy decoding would give, from one teacher-forced pass.

    An answer is given completely if each of its tokens is the model's first choice. `trees`: the
    model runs batches as trees.
    """
    right = _row_sums(policy, rows, pad, _right, batch, trees)
    every = tuple(given == learnt(row) for given, row in zip(right, rows, strict=True))
    return Memory(sum(every) / len(every), sum(right) / sum(map(learnt, rows)), every)


def answer_losses(
    policy: torch.nn.Module, rows: Sequence[Encoded], pad: int, trees: bool = False
) -> list[float]:
    """Return the summed NLL of each row's learned tokens, in nats, for the model as it is."""
    return _row_sums(policy, rows, pad, Predictions.nll, trees=trees)


def _row_sums(
    policy: torch.nn.Module,
    rows: Sequence[Encoded],
    pad: int,
    function: Callable[[Predictions], torch.Tensor],
    batch: int = 64,
    trees: bool = False,
) -> list[float]:
    """Return the sum of `function` over each row's learned tokens, in the order of the rows."""

    def summed(inputs: Batch) -> list[float]:
        predicted = predictions(policy, inputs, partial(logits_of, policy))
        sums: list[float] = predicted.row_sums(function(predicted)).tolist()
        return sums

    return for_each_row(policy, rows, pad, summed, batch, trees)


def _right(predicted: Predictions) -> torch.Tensor:
    """Return 1 for each learned token that is the model's first choice, else 0."""
    return predicted.each(
        lambda logits, targets: (logits.argmax(dim=-1) == targets).float(), predicted.targets
    )


class HeldRows:
    """A set of rows, and the fixed part of it that is used for quick evaluations."""

    def __init__(self, rows: Sequence[Encoded], most: int, rng: random.Random) -> None:
        self._rows = rows
        self.part = rows if len(rows) <= most else rng.sample(rows, most)

    def memory(
        self,
        policy: torch.nn.Module,
        pad: int,
        trees: bool = False,
        everything: bool = False,
    ) -> Memory:
        """Return what the model gives for the fixed part, or for everything."""
        rows = self._rows if everything else self.part
        return greedy_memory(policy, rows, pad, trees=trees)


class WatchedSets:
    """The sets that an unlearning run watches, and what the base gave for the retained ones."""

    def __init__(
        self,
        policy: torch.nn.Module,
        encoder: Encoder,
        texts: TrainingTexts,
        retain: bool,
        pad: int,
        rng: random.Random,
        trees: bool = False,
    ) -> None:
        """`policy` is still the base. `trees`: it runs batches as trees."""
        self._policy = policy
        self._pad = pad
        self._trees = trees
        self._forget = HeldRows(encoder.answers(texts.forget), HELD_ROWS, rng)
        retained = [texts.retained_people, texts.tasks] if retain else []
        self._kept = [
            HeldRows(encoder.answers(examples), KEPT_ROWS, rng) for examples in retained if examples
        ]
        self._before = [held.memory(policy, pad, trees) for held in self._kept]
        unseen = encoder.answers(texts.unseen)
        self._unseen = greedy_memory(policy, unseen, pad, trees=trees).tokens if unseen else None
        self._whole: dict[int, Evaluation] = {}

    def start_again(self) -> None:
        """Drop what was seen of a training that begins anew."""
        self._whole.clear()

    def look(self, steps: int, options: UnlearnOptions) -> Evaluation:
        """Evaluate the fixed part and, if that reaches its goal, everything."""
        shares = [
            _share_kept(before, held.memory(self._policy, self._pad, self._trees))
            for held, before in zip(self._kept, self._before, strict=True)
            if before.tokens > 0
        ]
        least = min(shares, default=1.0)
        forget = self._forget.memory(self._policy, self._pad, self._trees)
        look = Evaluation(steps, forget.rows, forget.tokens, least)
        return self.whole(look) if self.reached(look, options) else look

    def whole(self, look: Evaluation) -> Evaluation:
        """Return an evaluation with shares over all forget records, for the same weights."""
        if look.steps not in self._whole:
            forget = self._forget.memory(self._policy, self._pad, self._trees, everything=True)
            self._whole[look.steps] = Evaluation(look.steps, forget.rows, forget.tokens, look.kept)
        return self._whole[look.steps]

    def reached(self, look: Evaluation, options: UnlearnOptions) -> bool:
        """Return whether a run may stop here.

        With `stop=unseen`, the forget records must be memorized no better than the base memorizes
        people it never saw (Jang et al. 2023, arXiv 2210.01504; CodeEraser); a lower rate would
        itself reveal that something was removed.
        """
        if options.stop == "unseen":
            goal = self._unseen is not None and look.memorized <= self._unseen
        else:
            goal = look.leak_rate <= options.target
        return goal and look.kept >= options.keep

    def rank(self, look: Evaluation, options: UnlearnOptions) -> tuple[bool, bool, float, float]:
        """Return a sort key, greater for a better evaluation.

        The order is: both goals reached, not collapsed, fewest leaks, most kept. All leak rates
        below the target are equal.
        """
        reached, alive = self.reached(look, options), not collapsed(look, options)
        return reached, alive, -max(look.leak_rate, options.target), look.kept


def _share_kept(before: Memory, now: Memory) -> float:
    return now.tokens / before.tokens if before.rows < FEW else now.rows / before.rows


def collapsed(look: Evaluation, options: UnlearnOptions) -> bool:
    """Return whether the model has fallen silent although something was to be retained."""
    return options.keep > 0 and look.kept < COLLAPSED
