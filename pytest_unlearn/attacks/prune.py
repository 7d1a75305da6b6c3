"""Weights left out, disturbed, or kept in half precision: what happens to a model on its way."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from pytest_unlearn.attacks.attack import Attack, Target

if TYPE_CHECKING:
    import torch

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


ATTACKS = (
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
)
