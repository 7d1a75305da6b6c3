"""Attacks on the weights: rounded, pruned, disturbed, scaled back towards the base, or fine-tuned.

Rounding, which anyone does to run a model on a small machine, can undo unlearning that moved each
weight by less than a step (arXiv 2410.16454). Only the rounding is done here, in plain torch and on
any device: to a grid and back. NF4 and FP4 round like bitsandbytes, which a test checks if it is
installed; the integer grids round to nearest, which is where GPTQ and AWQ start.

Half an adapter undoes half of the unlearning. Anyone who has the base and tested weights can take
any part of their difference, base + a (tested - base); anyone who has the adapter alone only has to
change its scale.

Unlearning that only hides a value lets it come back when the model is trained on something related
(arXiv 2406.13356, 2402.16835). What comes back because the attacker trained on it shows nothing, so
half of the people are trained on and the others are asked for. The same attack on control people,
whom the model never saw, shows what the training alone teaches.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytest_unlearn.attacks.attack import Attack, AttackError, Stage, Target, Trains

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from pytest_unlearn.models.batches import Encoded


# The number of weights that share a scale.
GROUP_SIZE = 64
_Q4_BLOCK = 32
# The quantiles of a normal distribution, scaled to 1 (QLoRA, arXiv 2305.14314, appendix E).
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
# Sign, two bits of exponent and one of mantissa, scaled to 1 (bitsandbytes).
_FP4_HALF = (0.0, 0.0625 / 12, 2 / 12, 3 / 12, 4 / 12, 6 / 12, 8 / 12, 1.0)
FP4 = tuple(sorted({sign * level for level in _FP4_HALF for sign in (-1, 1)}))


def rounded_to_rows(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Return `[rows, columns]` rounded to a symmetric grid with one scale a row (LLM.int8's)."""
    most = 2 ** (bits - 1) - 1
    scale = weight.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / most
    rounded: torch.Tensor = (weight.float() / scale).round() * scale
    return rounded.to(weight.dtype)


def rounded_in_groups(weight: torch.Tensor, bits: int, size: int) -> torch.Tensor:
    """Return `[rows, columns]` rounded to a grid from the least to the greatest of each group.

    `size`: columns in a group, 0 for whole rows; the last group of a row may be shorter.
    """
    import torch

    size = size or weight.shape[1]
    parts = []
    for group in torch.split(weight.float(), size, dim=1):
        low, high = group.amin(dim=1, keepdim=True), group.amax(dim=1, keepdim=True)
        step = ((high - low) / (2**bits - 1)).clamp(min=1e-12)
        parts.append(((group - low) / step).round() * step + low)
    return torch.cat(parts, dim=1).to(weight.dtype)


def rounded_to_code(weight: torch.Tensor, code: Sequence[float], size: int) -> torch.Tensor:
    """Return a weight rounded to the nearest level of a code times its block's greatest size.

    Blocks are `size` weights in a row of memory, over the ends of rows, as bitsandbytes takes them.
    """
    import torch

    levels = torch.tensor(code, dtype=torch.float32, device=weight.device)
    flat = weight.float().reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % size)).reshape(-1, size)
    scale = padded.abs().amax(dim=1, keepdim=True)
    middles = (levels[1:] + levels[:-1]) / 2
    nearest = levels[torch.bucketize(padded / scale.clamp(min=1e-30), middles)]
    return (nearest * scale).reshape(-1)[: len(flat)].reshape(weight.shape).to(weight.dtype)


def rounded_to_q4_0(weight: torch.Tensor) -> torch.Tensor:
    """Return `[rows, columns]` rounded as llama.cpp's q4_0: 32 of a row share a scale in float16.

    The largest weight of a block, by size, is eight steps.
    """
    import torch

    parts = []
    for block in torch.split(weight.double(), _Q4_BLOCK, dim=1):
        largest = block.gather(1, block.abs().argmax(dim=1, keepdim=True))
        step = largest.float() / -8
        inverse = torch.where(step == 0, 0.0, 1 / step).double()
        levels = (block * inverse + 8.5).trunc().clamp(0, 15)
        parts.append((levels - 8) * step.half().double())
    return torch.cat(parts, dim=1).to(weight.dtype)


def _each(rounding: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Target], None]:
    def change(target: Target) -> None:
        for _, weight in target.matrices():
            weight.copy_(rounding(weight))

    return change


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
    """Add normal noise, the same in every run, since it is drawn on the CPU."""
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

    Raises AttackError where the base has other weights.
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
# The learning rate for this many weights. A larger model gets less, by the root of the ratio:
# 5e-4 for the tiny model, 8e-5 for 135 million weights, 1e-5 for 7 billion.
_LR, _WEIGHTS = 5e-4, 3.4e6
_MOST_TOKENS = 512
_MOST_NORM = 1.0


def learning_rate(weights: int) -> float:
    """Return AdamW's learning rate for a model of this size."""
    return float(_LR * min(1.0, (_WEIGHTS / weights) ** 0.5))


def relearn(target: Target) -> Iterator[Stage]:
    """Train on each of the target's texts by itself, starting from the tested weights.

    Yields after each of `RELEARN_STEPS`. Trains all weights on whole documents by AdamW, in batches
    of `RELEARN_BATCH` in a seeded order. Raises AttackError where there is nothing to train on.
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
    Attack(
        "int8",
        "weights rounded to 8 bits, one scale a row, as LLM.int8 stores them (arXiv 2208.07339)",
        _each(functools.partial(rounded_to_rows, bits=8)),
        effort="cheap",
    ),
    Attack(
        "int4",
        f"weights rounded to 4 bits, a range for each {GROUP_SIZE} of a row, as GPTQ and AWQ begin "
        "(arXiv 2210.17323)",
        _each(functools.partial(rounded_in_groups, bits=4, size=GROUP_SIZE)),
        effort="cheap",
    ),
    Attack(
        "int4-row",
        "weights rounded to 4 bits, one range a row",
        _each(functools.partial(rounded_in_groups, bits=4, size=0)),
    ),
    Attack(
        "nf4",
        "weights rounded to NF4 as QLoRA stores them (bitsandbytes, arXiv 2305.14314)",
        _each(functools.partial(rounded_to_code, code=NF4, size=GROUP_SIZE)),
    ),
    Attack(
        "fp4",
        "weights rounded to FP4 (bitsandbytes)",
        _each(functools.partial(rounded_to_code, code=FP4, size=GROUP_SIZE)),
    ),
    Attack(
        "q4_0",
        "weights rounded to q4_0 as GGUF files hold them (llama.cpp), a scale for each 32 of a row",
        _each(rounded_to_q4_0),
    ),
    *(
        Attack(
            f"prune{percent}",
            f"the smallest {percent} % of each matrix set to zero (arXiv 1506.02626)",
            functools.partial(_prune, share=percent / 100),
        )
        for percent in (10, 30, 50)
    ),
    Attack(
        "noise",
        f"normal noise of {NOISE:.0%} of each matrix's standard deviation (arXiv 2412.01784)",
        _disturb,
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
        "relearn", "people", "fine-tuning on half of the forgotten people, asking for the others"
    ),
    _relearning("relearn-retained", "retained", "fine-tuning on retained people"),
    _relearning("relearn-code", "code", "fine-tuning on code that names nobody"),
)
