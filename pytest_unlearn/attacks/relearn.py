"""Relearning: a few steps of fine-tuning, on what does not hold the values that are asked for.

Unlearning that only hides a value lets it come back when the model is trained on something related
(arXiv 2406.13356, 2402.16835). Values that an attacker trains on say nothing, so half of the people
are trained on and the others asked for; and the same attack shows what training alone teaches
on control people, whom the model never saw: half of them are trained on, the others asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytest_unlearn.attacks.attack import Attack, AttackError, Stage, Target, Trains

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.models.batches import Encoded

# After so many steps values are asked for.
STEPS = (1, 5, 10, 20, 40)
BATCH = 16
_SEED = 0
# The learning rate of a model of this many weights; a larger one gets less, by the root of the
# ratio: 5e-4 for the tiny model, 8e-5 for 135 million weights, 1e-5 for 7 billion.
_LR, _WEIGHTS = 5e-4, 3.4e6
_MOST_TOKENS = 512
_MOST_NORM = 1.0


def learning_rate(weights: int) -> float:
    """Return AdamW's learning rate for a model of so many weights."""
    return float(_LR * min(1.0, (_WEIGHTS / weights) ** 0.5))


def relearn(target: Target) -> Iterator[Stage]:
    """Train on each of the target's texts by itself, from the tested weights; yield after `STEPS`.

    Whole documents are learnt, by AdamW on all weights, in batches of `BATCH` in a seeded order.
    Raises AttackError where there is nothing to train on.
    """
    if not any(texts for splits, texts in target.texts if "forget" in splits):
        raise AttackError(
            "relearning needs documents of others than those who are asked for: at least two "
            "people to forget, or retained people; leave relearn out of --unlearn-attacks"
        )
    tested = {name: weight.detach().to("cpu", copy=True) for name, weight in target.weights.items()}
    for splits, texts in target.texts:
        if not texts:
            continue
        for name, weight in target.weights.items():
            weight.data.copy_(tested[name])
        for step in _trained(target, [example.text for example in texts]):
            yield str(step), splits


def _trained(target: Target, texts: Sequence[str]) -> Iterator[int]:
    """Train, and yield the number of steps at each of `STEPS`."""
    import torch

    from pytest_unlearn.models.batches import collate, encode
    from pytest_unlearn.models.examples import Example
    from pytest_unlearn.models.generation import context_of

    most = min(_MOST_TOKENS, context_of(target.model) or _MOST_TOKENS)
    rows = [encode(target.tokenizer, Example.whole(text), most) for text in texts]
    weights = list(target.weights.values())
    asked = [weight.requires_grad for weight in weights]
    batches = _batches(rows, torch.Generator().manual_seed(_SEED))
    rate = learning_rate(sum(weight.numel() for weight in weights))
    try:
        with torch.enable_grad():
            for weight in weights:
                weight.requires_grad_(True)
            optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
        for step in itertools.count(1):
            with torch.enable_grad():
                batch = collate(next(batches), 0, target.model.device)
                _step(target.model, batch, optimizer, weights)
            if step in STEPS:
                yield step
            if step >= STEPS[-1]:
                return
    finally:
        for weight, was in zip(weights, asked, strict=True):
            weight.grad = None
            weight.requires_grad_(was)


def _step(model: Any, batch: Any, optimizer: torch.optim.Optimizer, weights: Any) -> None:
    import torch

    from pytest_unlearn.models.lm_head import token_mean_nll

    loss = token_mean_nll(model(**batch.model_inputs()).logits, batch.labels)
    if not bool(torch.isfinite(loss)):
        raise AttackError("relearning came to no number (NaN): the model cannot be trained")
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(weights, _MOST_NORM)
    optimizer.step()


def _batches(rows: list[Encoded], generator: torch.Generator) -> Iterator[list[Encoded]]:
    from pytest_unlearn.models.batches import shuffled_batches

    while True:
        yield from shuffled_batches(rows, BATCH, generator)


def _attack(name: str, trains: Trains, about: str) -> Attack:
    return Attack(
        name,
        f"{about}, for {STEPS[0]} to {STEPS[-1]} steps of {BATCH} documents (arXiv 2406.13356)",
        relearn,
        trains=trains,
        stages=tuple(map(str, STEPS)),
        beside=("retrained",),
    )


ATTACKS = (
    _attack("relearn", "people", "fine-tuning on half of the forgotten people, the others asked"),
    _attack("relearn-retained", "retained", "fine-tuning on retained people"),
    _attack("relearn-code", "code", "fine-tuning on code in which nobody is named"),
)
