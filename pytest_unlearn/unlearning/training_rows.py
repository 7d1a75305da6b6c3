"""Training texts as token rows, with what a method needs of the base attached.

The base is asked before the first step, once an example: nothing of it is computed again, and a
run that changes the base's own weights can use it as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from pytest_unlearn.models.batching import Batch, Encoded, TopTokens, collate
from pytest_unlearn.models.heads import logits_of
from pytest_unlearn.unlearning import processes
from pytest_unlearn.unlearning.adapters import FullPolicy
from pytest_unlearn.unlearning.policy import Predictions, base_predictions, predictions
from pytest_unlearn.unlearning.sharding import ShardedPolicy, run

if TYPE_CHECKING:
    from pytest_unlearn.models.examples import TrainingTexts
    from pytest_unlearn.unlearning.method import Method
    from pytest_unlearn.unlearning.options import UnlearnOptions
    from pytest_unlearn.unlearning.rows import Encoder

_BATCH = 32


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """What batches are drawn from: forget rows (one for each alternate, if any), people, tasks."""

    forget: list[Encoded]
    people: list[Encoded]
    tasks: list[Encoded]


def training_rows(
    policy: Any,
    encoder: Encoder,
    texts: TrainingTexts,
    method: Method,
    options: UnlearnOptions,
    pad: int,
) -> TrainingRows:
    """Return the rows of a run, as `method` and its options want them; `policy` is the base still.

    Raises UnlearningError for an answer that does not fit.
    """
    whole = options.spans == "document" and not method.own_spans
    rows = encoder.documents if whole else encoder.answers

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
    tasks: list[Encoded] = []
    if method.uses_retain:
        top = getattr(options, "kl_top", 0)
        people, tasks = (
            with_base_top(policy, kept, pad, top) if top else kept
            for kept in (rows(texts.retained_people), rows(texts.tasks))
        )
    return TrainingRows(forget, people, tasks)


def with_base_sums(policy: Any, rows: Sequence[Encoded], pad: int) -> list[Encoded]:
    """Return the rows with the base's summed NLL of their labels, in nats."""

    def sums(seen: Predictions) -> list[float]:
        return seen.row_sums(seen.nll()).tolist()

    found = _asked(policy, rows, pad, sums)
    return [replace(row, base_nll=value) for row, value in zip(rows, found, strict=True)]


def with_base_top(policy: Any, rows: Sequence[Encoded], pad: int, k: int) -> list[Encoded]:
    """Return the rows with the base's `k` likeliest tokens at each label, kept on the CPU."""

    def tops(seen: Predictions) -> list[TopTokens]:
        def top(logits: torch.Tensor) -> torch.Tensor:
            found = logits.log_softmax(dim=-1).topk(min(k, logits.shape[-1]), dim=-1)
            # One tensor for the chunks; token ids are exact in float64.
            return torch.stack([found.values.double(), found.indices.double()], dim=-1)

        both = seen.each(top).cpu()
        return [
            TopTokens(
                both[seen.rows.cpu() == row, :, 0].float(),
                both[seen.rows.cpu() == row, :, 1].long(),
            )
            for row in range(seen.count)
        ]

    found = _asked(policy, rows, pad, tops)
    return [replace(row, base_top=value) for row, value in zip(rows, found, strict=True)]


@torch.no_grad()
def _asked(policy: Any, rows: Sequence[Encoded], pad: int, function: Any) -> list[Any]:
    """Return `function(predictions)` for all rows, in their order; rows of like length together."""
    # No copy of the base's weights has to be made where these are still the base's.
    inner = policy.policy if isinstance(policy, ShardedPolicy) else policy
    untrained = isinstance(inner, FullPolicy) and not inner.started
    device = next(policy.parameters()).device
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
    found: dict[int, Any] = {}
    for part in processes.mine([order[n : n + _BATCH] for n in range(0, len(order), _BATCH)]):
        batch = collate([rows[index] for index in part], pad, device)

        def asked(batch: Batch = batch) -> Any:
            if untrained:
                return function(predictions(policy, batch, lambda s: logits_of(policy, s)))
            return function(base_predictions(policy, batch))

        found.update(zip(part, run(policy, asked), strict=True))
    found = processes.merged(found)
    return [found[index] for index in range(len(rows))]
