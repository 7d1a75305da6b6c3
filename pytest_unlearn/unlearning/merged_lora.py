"""LoRA with the adapter added to the weights once a step: less to compute where it is not small.

An adapter of rank r on a layer of m to n numbers costs r(m + n) multiplications a token beside the
layer's mn, once forward and twice backward, and a few passes over all activations. At rank 64 that
is two fifths more on a layer of 256 to 256, and 3 % of one of 4,096. So a small layer is run with
W + sBA, made once a step; its gradient to the input goes through that as well, and those of A and B
are those of LoRA, up to rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from pytest_unlearn.models.footprint import MERGED_SHARE


class _Merged(torch.autograd.Function):
    """x (W + sBA)^T, given the sum and its parts."""

    @staticmethod
    def forward(
        context: Any,
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        merged: torch.Tensor,
        bias: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor:
        context.save_for_backward(x, a, b, merged)
        context.scale = scale
        return F.linear(x, merged, bias)

    @staticmethod
    def backward(context: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, a, b, merged = context.saved_tensors
        (up,) = upstream
        rows, above = x.flatten(0, -2), up.flatten(0, -2)
        of_a = context.scale * (above @ b).T @ rows
        of_b = context.scale * above.T @ (rows @ a.T)
        of_x = up @ merged if context.needs_input_grad[0] else None
        return of_x, of_a, of_b, None, None, None


def _merges(layer: Any) -> bool:
    """Tell whether a module is LoRA on a plain linear layer in float32, and not small beside it.

    In fewer bits the sum would round the adapter away.
    """
    if not hasattr(layer, "lora_A") or type(layer.get_base_layer()) is not torch.nn.Linear:
        return False
    base = layer.get_base_layer().weight
    adapter = [each.weight for part in (layer.lora_A, layer.lora_B) for each in part.values()]
    if any(weight.dtype != torch.float32 for weight in (base, *adapter)):
        return False
    size: int = base.numel()
    return bool(sum(weight.numel() for weight in adapter) >= MERGED_SHARE * size)


@contextlib.contextmanager
def merged_lora(policy: Any) -> Iterator[None]:
    """Run the layers of a policy for which that is cheaper with merged weights, for a block.

    The policy has one adapter, of `with_new_adapter`, or none. Its weights must not change in the
    block, nor its scale.
    """
    layers = [layer for layer in policy.modules() if _merges(layer)]
    try:
        for layer in layers:
            (name,) = layer.lora_A
            a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
            base, scale = layer.get_base_layer(), float(layer.scaling[name])
            with torch.no_grad():
                merged = torch.addmm(base.weight, b, a, alpha=scale)
            layer.forward = partial(_forward, layer, name, merged, scale)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _forward(
    layer: Any, name: str, merged: torch.Tensor, scale: float, x: torch.Tensor
) -> torch.Tensor:
    base = layer.get_base_layer()
    if layer.disable_adapters:
        plain: torch.Tensor = base(x)
        return plain
    # Read each time: where they are made of other weights, a backward pass frees how.
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    made: torch.Tensor = _Merged.apply(x, a, b, merged, base.bias, scale)  # type: ignore[no-untyped-call]
    return made
