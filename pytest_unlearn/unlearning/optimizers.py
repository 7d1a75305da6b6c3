"""Optimizers by name, and their rule of the learning rate."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from pytest_unlearn.unlearning.options import OPTIMIZERS, MethodError

if TYPE_CHECKING:
    import torch

ADAMW, ADAMW_8BIT = OPTIMIZERS


def check_optimizer(name: str, device: str) -> None:
    """Raise MethodError where an optimizer cannot run on a device (`cpu`, `cuda:1`, `map`).

    Needs no torch, so that it can be asked before a model is loaded.
    """
    if name != ADAMW_8BIT:
        return
    if not device.startswith(("cuda", "map")):
        raise MethodError(
            f"optimizer={name} needs a CUDA device, and this run is on {device}; write "
            f"optimizer={ADAMW}"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MethodError(
            f"optimizer={name} needs the package bitsandbytes; `pip install bitsandbytes`, or "
            f"write optimizer={ADAMW}"
        )


def make_optimizer(
    name: str, parameters: Sequence[torch.Tensor], lr: float
) -> torch.optim.Optimizer:
    """Return an optimizer over float32 `parameters`, without weight decay.

    `adamw8bit` keeps its moments in 8 bits and in memory that CUDA pages out to the host when the
    GPU is full (Dettmers et al. 2022, arXiv 2110.02861). Raises MethodError; see `check_optimizer`.
    """
    import torch

    if name == ADAMW:
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    check_optimizer(name, parameters[0].device.type)
    bitsandbytes: Any = importlib.import_module("bitsandbytes")
    made = bitsandbytes.optim.PagedAdamW8bit(parameters, lr=lr, weight_decay=0.0)
    return cast("torch.optim.Optimizer", made)


def rate_at(step: int, lr: float, warmup: int) -> float:
    """Return the learning rate of a step (from 1): it rises for `warmup` steps, then stays."""
    return lr * min(1.0, step / warmup) if warmup else lr
