"""A trained policy written into a folder: its adapter, or the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pytest_unlearn.models.patching import save_adapter
from pytest_unlearn.unlearning.adapters import FullPolicy
from pytest_unlearn.unlearning.sharding import ShardedPolicy, whole


def gathered(policy: Any) -> dict[str, torch.Tensor] | None:
    """Return what is to be written of a sharded policy, as wholes on the CPU; None of another.

    All processes must ask at once. The keys are those of the policy without its shards.
    """
    if not isinstance(policy, ShardedPolicy):
        return None
    if not isinstance(policy.policy, FullPolicy):
        named = policy.policy.named_parameters()
        return {name: whole(weight) for name, weight in named if weight.requires_grad}
    model = policy.get_base_model()
    # Tied weights once, and the buffers that a file holds.
    names = dict(model.named_parameters()).keys() | dict(model.named_buffers()).keys()
    return {name: whole(weight) for name, weight in model.state_dict().items() if name in names}


def save_trained(
    policy: Any, tokenizer: Any, folder: Path, state: dict[str, torch.Tensor] | None
) -> None:
    """Write a policy's adapter, or, where all weights were trained, its model with the tokenizer.

    `state`: what `gathered` gave of it.
    """
    inner = policy.policy if isinstance(policy, ShardedPolicy) else policy
    if isinstance(inner, FullPolicy):
        inner.get_base_model().save_pretrained(str(folder), state_dict=state)
        tokenizer.save_pretrained(str(folder))
    else:
        save_adapter(inner, folder, state)
