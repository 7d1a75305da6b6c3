"""Training texts as token rows that fit the model, with the base's results that a method needs.

The base is run before the first step, once for each example: nothing is computed twice, and a run
that changes the base's own weights can use the results too. Rows come in a seeded order.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from pytest_unlearn.core.errors import UnlearningError
from pytest_unlearn.models.batches import (
    IGNORED,
    Batch,
    Encoded,
    States,
    TopTokens,
    collate,
    encode,
)
from pytest_unlearn.models.footprint import KEPT_STATES
from pytest_unlearn.models.generation import context_of
from pytest_unlearn.models.lm_head import logits_of
from pytest_unlearn.unlearning import distributed
from pytest_unlearn.unlearning.distributed import ShardedPolicy, run
from pytest_unlearn.unlearning.method import WithBaseTop
from pytest_unlearn.unlearning.step import (
    FullPolicy,
    Predictions,
    base_predictions,
    predictions,
    seen_by_base,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pytest_unlearn.models.texts import Example, TrainingTexts
    from pytest_unlearn.unlearning.method import Method, UnlearnOptions


MAX_TOKENS = 512
# The most names of shortened documents that are reported.
NAMED = 5


def length_limit(model: PreTrainedModel) -> int:
    """Return the limit of tokens in a row: `MAX_TOKENS`, or the model's context if that is less."""
    context = context_of(model)
    return MAX_TOKENS if context is None else min(MAX_TOKENS, context)


class Encoder:
    """Encodes examples for one model, and counts those that did not fit, for `report`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: int) -> None:
        self._tokenizer = tokenizer
        self.limit = limit
        self._cut: dict[str, int] = {}

    def answers(self, examples: Sequence[Example]) -> list[Encoded]:
        """Return rows in which the tokens of the answer are learned, cut after the last of them,
        since what follows does not change their predictions.

        A document over the limit loses its beginning. Raises UnlearningError, naming the row, when
        the answer does not fit or its tokens are unclear.
        """
        return [_up_to_answer(row) for row in self._whole(examples)]

    def documents(self, examples: Sequence[Example]) -> list[Encoded]:
        """Return whole documents with every token learned. A document over the limit is cut around
        its answer, so that the value is never lost."""
        return [Encoded(row.ids, list(row.ids), like=row.like) for row in self._whole(examples)]

    def _whole(self, examples: Sequence[Example]) -> list[Encoded]:
        return [self._row(number, example) for number, example in enumerate(examples, start=1)]

    def _row(self, number: int, example: Example) -> Encoded:
        name = example.name or f"row {number}"
        try:
            encoded = encode(self._tokenizer, example)
        except ValueError as error:
            raise UnlearningError(f"{name}: {error}") from error
        if len(encoded.ids) <= self.limit:
            return replace(encoded, like=example.like)
        row = encode(self._tokenizer, example, self.limit)
        # A token must come before the answer, or the answer's first token is predicted from
        # nothing.
        if learnt(row) < learnt(encoded) or row.labels[0] != IGNORED:
            raise UnlearningError(
                f"{name}: its value or solution is cut by the limit of {self.limit} tokens "
                f"({learnt(encoded)} tokens long); leave the record out, or shorten it"
            )
        self._cut[name] = len(encoded.ids)
        return replace(row, like=example.like)

    def report(self, progress: Callable[[str], None]) -> None:
        """Say how many documents were shortened, and which."""
        if self._cut:
            names = ", ".join(f"{n} ({size})" for n, size in list(self._cut.items())[:NAMED])
            more = f" and {len(self._cut) - NAMED} more" if len(self._cut) > NAMED else ""
            progress(
                f"{len(self._cut)} documents are longer than {self.limit} tokens and are trained "
                f"without their beginning: {names}{more}"
            )


def _up_to_answer(row: Encoded) -> Encoded:
    end = 1 + max(place for place, label in enumerate(row.labels) if label != IGNORED)
    return replace(row, ids=row.ids[:end], labels=row.labels[:end])


def learnt(row: Encoded) -> int:
    """Return how many tokens of a row are predicted and learned."""
    return sum(label != IGNORED for label in row.labels[1:])


def cycle(
    rows: Sequence[Encoded], size: int, rng: random.Random, window: int = 1
) -> Iterator[list[Encoded]]:
    """Yield batches of `size` forever; all rows come equally often.

    The rows of `window` batches are sorted by length together before they are cut, so that there is
    less padding. The order depends on `rng` alone, not on the number of devices or workers.
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


def partners(
    rows: Sequence[Encoded], others: Mapping[str, Sequence[Encoded]], count: int, rng: random.Random
) -> list[Encoded]:
    """Return `count` rows of `others`, by `like`: one like each of `rows` in turn.

    A row without a similar one gets a partner from all of `others`.
    """
    every = [row for some in others.values() for row in some]
    return [
        rng.choice(others.get(row.like) or every)
        for row in itertools.islice(itertools.cycle(rows), count)
    ]


def by_like(rows: Sequence[Encoded]) -> dict[str, list[Encoded]]:
    """Return the rows, grouped by `like`."""
    groups: dict[str, list[Encoded]] = {}
    for row in rows:
        groups.setdefault(row.like, []).append(row)
    return groups


def parts(rows: Sequence[Encoded], count: int) -> list[list[Encoded]]:
    """Cut a batch into `count` parts of nearly equal size, each with rows of similar length."""
    ordered = sorted(rows, key=lambda row: len(row.ids))
    cuts = [len(ordered) * n // count for n in range(count + 1)]
    return [ordered[a:b] for a, b in itertools.pairwise(cuts)]


_BATCH = 32


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """What batches are drawn from: forget rows (one for each alternate, if any), people, people
    whom the base recalls, tasks, strangers."""

    forget: list[Encoded]
    people: list[Encoded]
    recalled: list[Encoded]
    tasks: list[Encoded]
    strangers: list[Encoded]

    @property
    def everybody(self) -> list[Encoded]:
        """Return the rows of all retained people whom the model knows."""
        return [*self.people, *self.recalled]


def rows_of(
    encoder: Encoder, method: Method, options: UnlearnOptions, examples: Sequence[Example]
) -> list[Encoded]:
    """Return examples as rows whose learned tokens are those that `spans` names."""
    whole_documents = options.spans == "document" and not method.own_spans
    return encoder.documents(examples) if whole_documents else encoder.answers(examples)


def training_rows(
    policy: Any,
    encoder: Encoder,
    texts: TrainingTexts,
    method: Method,
    options: UnlearnOptions,
    pad: int,
    trees: bool = False,
) -> TrainingRows:
    """Return the rows of a run, as `method` and its options need them; `policy` is still the base.

    `trees`: it runs batches as trees. Raises UnlearningError for an answer that does not fit.
    """
    rows = partial(rows_of, encoder, method, options)

    def summed(rows: list[Encoded]) -> list[Encoded]:
        return with_base_sums(policy, rows, pad) if method.base_sums else rows

    forget = summed(rows(texts.forget))
    if texts.alternates:
        others = summed(rows([other for each in texts.alternates for other in each]))
        pairs = iter(others)
        forget = [
            replace(row, alternate=next(pairs))
            for row, each in zip(forget, texts.alternates, strict=True)
            for _ in each
        ]
    people: list[Encoded] = []
    recalled: list[Encoded] = []
    tasks: list[Encoded] = []
    if method.uses_retain:
        top = options.kl_top if isinstance(options, WithBaseTop) else 0
        people, recalled, tasks = (
            with_base_top(policy, retained, pad, top) if top else retained
            for retained in map(rows, (texts.retained_people, texts.recalled, texts.tasks))
        )
    retained = [people, recalled, tasks, rows(texts.strangers)]
    if method.base_layers and distributed.count() == 1:
        retained = _with_base_states(policy, retained, pad, method.base_layers, options, trees)
    return TrainingRows(forget, *retained)


def _with_base_states(
    policy: Any,
    retained: list[list[Encoded]],
    pad: int,
    most: int,
    options: UnlearnOptions,
    trees: bool,
) -> list[list[Encoded]]:
    """Return sets of rows with the base's states attached; unchanged if the states take too much
    memory, or if a row is drawn less than twice."""
    every = [row for rows in retained for row in rows]
    config, weight = policy.config.get_text_config(), next(policy.parameters())
    layers = min(most, config.num_hidden_layers)
    numbers = sum(layers * len(row.ids) + learnt(row) for row in every) * config.hidden_size
    drawn_twice = options.steps * options.retain_batch >= 2 * len(every)
    if numbers * weight.element_size() > KEPT_STATES or not drawn_twice:
        return retained
    order = sorted(range(len(every)), key=lambda number: len(every[number].ids))
    for part in (order[n : n + _BATCH] for n in range(0, len(order), _BATCH)):
        batch = collate([every[number] for number in part], pad, weight.device, trees)
        states, last = seen_by_base(policy, batch, most)
        for number in part:
            tokens, count = len(every[number].ids), learnt(every[number])
            kept = States(states[:, :tokens].clone(), last[:count].clone())
            every[number] = replace(every[number], base_states=kept)
            states, last = states[:, tokens:], last[count:]
    rows = iter(every)
    return [list(itertools.islice(rows, len(each))) for each in retained]


def with_base_sums(policy: Any, rows: Sequence[Encoded], pad: int) -> list[Encoded]:
    """Return the rows with the base's summed NLL of their labels, in nats."""

    def sums(seen: Predictions) -> list[float]:
        return seen.row_sums(seen.nll()).tolist()

    base_sums = _asked(policy, rows, pad, sums)
    return [replace(row, base_nll=value) for row, value in zip(rows, base_sums, strict=True)]


def with_base_top(policy: Any, rows: Sequence[Encoded], pad: int, k: int) -> list[Encoded]:
    """Return the rows with the base's `k` likeliest tokens at each label, kept on the CPU."""

    def tops(seen: Predictions) -> list[TopTokens]:
        def top(logits: torch.Tensor) -> torch.Tensor:
            likeliest = logits.log_softmax(dim=-1).topk(min(k, logits.shape[-1]), dim=-1)
            # One tensor for the chunks; token ids are exact in float64.
            return torch.stack([likeliest.values.double(), likeliest.indices.double()], dim=-1)

        both = seen.each(top).cpu()
        return [
            TopTokens(
                both[seen.rows.cpu() == row, :, 0].float(),
                both[seen.rows.cpu() == row, :, 1].long(),
            )
            for row in range(seen.count)
        ]

    base_tops = _asked(policy, rows, pad, tops)
    return [replace(row, base_top=value) for row, value in zip(rows, base_tops, strict=True)]


def _asked(policy: Any, rows: Sequence[Encoded], pad: int, function: Any) -> list[Any]:
    """Return `function(predictions)` of the base for all rows, in order."""
    # No copy of the base's weights is needed while the weights are still the base's.
    inner = policy.policy if isinstance(policy, ShardedPolicy) else policy
    untrained = isinstance(inner, FullPolicy) and not inner.started

    def asked(batch: Batch) -> Any:
        if untrained:
            return function(predictions(policy, batch, lambda s: logits_of(policy, s)))
        return function(base_predictions(policy, batch))

    return for_each_row(policy, rows, pad, asked)


@torch.no_grad()
def for_each_row(
    policy: Any,
    rows: Sequence[Encoded],
    pad: int,
    function: Callable[[Batch], Sequence[Any]],
    size: int = _BATCH,
    trees: bool = False,
) -> list[Any]:
    """Return what `function` gives for each row of a batch, for all rows, in order.

    Rows of similar length are batched together, `size` at a time, and shared among the processes.
    `trees`: the model runs batches as trees.
    """
    device = next(policy.parameters()).device
    order = sorted(range(len(rows)), key=lambda number: len(rows[number].ids))
    found: dict[int, Any] = {}
    for part in distributed.mine([order[n : n + size] for n in range(0, len(order), size)]):
        batch = collate([rows[number] for number in part], pad, device, trees)
        found.update(zip(part, run(policy, partial(function, batch)), strict=True))
    found = distributed.merged(found)
    return [found[number] for number in range(len(rows))]
