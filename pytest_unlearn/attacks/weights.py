"""Attacks on the weights: pruned, disturbed, scaled back towards the base, or fine-tuned.

Half an adapter undoes half of the unlearning. Anyone who has the base and tested weights can take
any part of their difference, base + a (tested - base); anyone who has the adapter alone only has to
change its scale.

Unlearning that only hides a value lets it come back when the model is trained on something related
(arXiv 2406.13356, 2402.16835). What comes back because the attacker trained on it shows nothing, so
the attack trains on half of the people and asks about the others. The same attack on control
people, whom the model never saw, shows what the training alone teaches.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytest_unlearn.attacks.attack import Attack, AttackError, Stage, Target, Trains, is_plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from pytest_unlearn.models.batches import Encoded


# Of each matrix's own standard deviation.
NOISE = 0.05
_SEED = 0


def pruned(weight: torch.Tensor, share: float) -> torch.Tensor:
    """Return a matrix with its smallest `share` of weights set to zero (arXiv 1506.02626)."""
    sizes = weight.float().abs().reshape(-1)
    count = int(share * len(sizes))
    if not count:
        return weight.clone()
    least = sizes.topk(count, largest=False).indices
    out = weight.clone().reshape(-1)
    out[least] = 0
    return out.reshape(weight.shape)


def _prune(target: Target, share: float) -> None:
    for _, weight in target.matrices():
        weight.copy_(pruned(weight, share))


def _disturb(target: Target) -> None:
    """Add normal noise, which is the same in every run, since it is drawn on the CPU."""
    import torch

    generator = torch.Generator().manual_seed(_SEED)
    for _, weight in target.matrices():
        noise = torch.randn(weight.shape, generator=generator) * (NOISE * float(weight.std()))
        weight.add_(noise.to(weight.device, weight.dtype))


def _cast(target: Target, dtype: str) -> None:
    """Round every weight to half precision and back, clamped to the largest number."""
    import torch

    short: torch.dtype = getattr(torch, dtype)
    most = torch.finfo(short).max
    for weight in target.weights.values():
        weight.data.copy_(weight.data.clamp(-most, most).to(short))


def _scale(target: Target, share: float) -> None:
    """Set each weight to base + share (tested - base); in float32, and exact at 0.

    Raises AttackError if the base has other weights.
    """
    base = _same_weights(target)
    for name, weight in target.weights.items():
        before = base[name].to(weight.device)
        if share == 0:
            weight.data.copy_(before)
        else:
            moved = before.float() + share * (weight.data.float() - before.float())
            weight.data.copy_(moved)


def _same_weights(target: Target) -> Mapping[str, torch.Tensor]:
    base = target.base or {}
    for name, weight in target.weights.items():
        if name not in base or base[name].shape != weight.shape:
            raise AttackError(
                f"base and tested model differ in {name}, so they cannot be interpolated; leave "
                "interpolate0.5 out of --unlearn-attacks"
            )
    return base


def _merged(target: Target) -> None:
    """Leave the adapter merged into the weights."""


# Relearning asks for the values after each of these numbers of steps.
RELEARN_STEPS = (1, 5, 10, 20, 40)
RELEARN_BATCH = 16
# The learning rate for this many weights. A larger model gets a smaller one, by the square root of
# the ratio: 5e-4 for the tiny model, 8e-5 for 135 million weights, 1e-5 for 7 billion.
_LR, _WEIGHTS = 5e-4, 3.4e6
_MOST_TOKENS = 512
_MOST_NORM = 1.0


def learning_rate(weights: int) -> float:
    """Return AdamW's learning rate for a model of this size."""
    return float(_LR * min(1.0, (_WEIGHTS / weights) ** 0.5))


def relearn(target: Target) -> Iterator[Stage]:
    """Train on each of the target's texts by itself, starting from the tested weights.

    Yields after each of `RELEARN_STEPS`. Trains all weights on whole documents by AdamW, in batches
    of `RELEARN_BATCH` in a seeded order. Raises AttackError if there is nothing to train on.
    """
    if not any(texts for splits, texts in target.texts if "forget" in splits):
        raise AttackError(
            "relearning needs documents of people other than those who are probed: at least two "
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
    """Train, and yield the number of steps at each of `RELEARN_STEPS`."""
    import torch

    from pytest_unlearn.models.batches import collate, encode
    from pytest_unlearn.models.generation import context_of
    from pytest_unlearn.models.texts import Example

    most = min(_MOST_TOKENS, context_of(target.model) or _MOST_TOKENS)
    rows = [encode(target.tokenizer, Example.whole(text), most) for text in texts]
    weights = list(target.weights.values())
    if not all(map(is_plain, weights)):
        raise AttackError(
            "some of the model's weights are packed (quantized) and cannot be trained: leave "
            "relearning out, or attack the unquantized model"
        )
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
            if step in RELEARN_STEPS:
                yield step
            if step >= RELEARN_STEPS[-1]:
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
        raise AttackError("the loss of relearning is NaN: the model cannot be trained")
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(weights, _MOST_NORM)
    optimizer.step()


def _batches(rows: list[Encoded], generator: torch.Generator) -> Iterator[list[Encoded]]:
    from pytest_unlearn.models.batches import shuffled_batches

    while True:
        yield from shuffled_batches(rows, RELEARN_BATCH, generator)


def _relearning(name: str, trains: Trains, about: str) -> Attack:
    return Attack(
        name,
        f"{about}, for {RELEARN_STEPS[0]} to {RELEARN_STEPS[-1]} steps of {RELEARN_BATCH} "
        "documents (arXiv 2406.13356)",
        relearn,
        trains=trains,
        stages=tuple(map(str, RELEARN_STEPS)),
        beside=("retrained",),
    )


ATTACKS = (
    *(
        Attack(
            f"prune{percent}",
            f"the smallest {percent} % of each matrix replaced by zero (arXiv 1506.02626)",
            functools.partial(_prune, share=percent / 100),
            version=2,
        )
        for percent in (10, 30, 50)
    ),
    Attack(
        "noise",
        f"normal noise of {NOISE:.0%} of each matrix's standard deviation (arXiv 2412.01784)",
        _disturb,
        version=2,
    ),
    Attack("bf16", "weights in bfloat16", functools.partial(_cast, dtype="bfloat16")),
    Attack("fp16", "weights in float16", functools.partial(_cast, dtype="float16")),
    *(
        Attack(
            f"scale{share}",
            f"the adapter at {share} times its strength",
            functools.partial(_scale, share=share),
            needs="adapter",
            effort="cheap" if share == 0.5 else "all",
        )
        for share in (0.5, 0.8, 1.2)
    ),
    Attack("merged", "the adapter merged into the weights", _merged, needs="adapter"),
    Attack(
        "removed",
        "the adapter left out, as anyone who gets it separately can do",
        functools.partial(_scale, share=0.0),
        needs="adapter",
        effort="named",
    ),
    Attack(
        "interpolate0.5",
        "the weights halfway from the base to the tested model",
        functools.partial(_scale, share=0.5),
        needs="base",
        effort="named",
    ),
    _relearning(
        "relearn",
        "people",
        "fine-tuning on half of the forgotten people, then asking about the others",
    ),
    _relearning("relearn-retained", "retained", "fine-tuning on retained people"),
    _relearning("relearn-code", "code", "fine-tuning on code without people"),
)
