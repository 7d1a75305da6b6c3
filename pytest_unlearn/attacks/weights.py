"""Attacks on the weights themselves: rounded, pruned, disturbed, or scaled back towards the base.

Rounding, as anyone does who runs a model on a small machine, can undo unlearning that moved each
weight less than a step (arXiv 2410.16454). Only the rounding is done here, in plain torch and on
any device: to a grid and back. It is that of bitsandbytes for NF4 and FP4, where a test finds it
installed, and for the integer grids the round-to-nearest that GPTQ and AWQ start from.

Half an adapter undoes half of the unlearning. Anyone who has base and tested weights can take any
part of their difference, base + a (tested - base); anyone who has the adapter by itself only has to
write another number into it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from pytest_unlearn.attacks.attack import Attack, AttackError, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch


# Weights that share a scale.
GROUP_SIZE = 64
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


def _each(rounding: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Target], None]:
    def change(target: Target) -> None:
        for _, weight in target.matrices():
            weight.copy_(rounding(weight))

    return change


# Of each matrix's own standard deviation.
NOISE = 0.05
_SEED = 0


def pruned(weight: torch.Tensor, share: float) -> torch.Tensor:
    """Return a matrix whose smallest `share` of weights, by size, is zero (arXiv 1506.02626)."""
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
    """Add normal noise, the same in every run: it is drawn on the CPU."""
    import torch

    generator = torch.Generator().manual_seed(_SEED)
    for _, weight in target.matrices():
        noise = torch.randn(weight.shape, generator=generator) * (NOISE * float(weight.std()))
        weight.add_(noise.to(weight.device, weight.dtype))


def _cast(target: Target, dtype: str) -> None:
    """Round every weight to half precision and back; what is beyond float16 stays its largest."""
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
                f"base and tested model differ in {name}: there is nothing between the two; leave "
                "interpolate0.5 out of --unlearn-attacks"
            )
    return base


def _merged(target: Target) -> None:
    """Leave the adapter where it is merged, in the weights."""


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
        "the adapter left out: what anyone who gets it separately can always do",
        functools.partial(_scale, share=0.0),
        needs="adapter",
        effort="named",
    ),
    Attack(
        "interpolate0.5",
        "the weights half way from the base to the tested model",
        functools.partial(_scale, share=0.5),
        needs="base",
        effort="named",
    ),
)
