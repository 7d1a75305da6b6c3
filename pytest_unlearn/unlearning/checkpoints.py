"""What a training leaves on disk: a state for a killed run to go on from, the trained policy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pytest_unlearn.core.errors import room_for
from pytest_unlearn.core.text_files import replacing
from pytest_unlearn.models.patching import save_adapter
from pytest_unlearn.unlearning.distributed import ShardedPolicy, whole
from pytest_unlearn.unlearning.lora import FullPolicy


@dataclass(frozen=True, slots=True)
class SavedState:
    """Tensors by name, and what JSON can hold: steps, looks, the optimizer's numbers."""

    tensors: Mapping[str, torch.Tensor]
    notes: Mapping[str, Any]


def save_state(path: Path, state: SavedState) -> None:
    """Write a state; a reader sees the one before or this one, never half of it.

    safetensors, so that reading it back runs no code. Raises UnlearningError on a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (
        room_for("a checkpoint of the training", path.parent),
        replacing(path) as temporary,
    ):
        tensors = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
        save_file(tensors, temporary, metadata={"notes": json.dumps(dict(state.notes))})


def load_state(path: Path) -> SavedState | None:
    """Return a saved state, on the CPU, or None when there is none that can be read."""
    try:
        with safe_open(path, framework="pt") as file:
            notes = json.loads((file.metadata() or {})["notes"])
            return SavedState({name: file.get_tensor(name) for name in file.keys()}, notes)  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


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
