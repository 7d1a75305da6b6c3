"""Rounding the weights to few bits, as whoever runs a model on a small machine does.

Rounding can undo unlearning that moved each weight less than a step (arXiv 2410.16454). What is
done here is the rounding alone, in plain torch and on any device: to a grid and back. It is that of
bitsandbytes for NF4 and FP4, where a test finds it installed, and the round-to-nearest that GPTQ
and AWQ start from for the integer grids.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from pytest_unlearn.attacks.attack import Attack, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
)
