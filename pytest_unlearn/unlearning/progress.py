"""What a killed training run goes on from: one file, replaced as a whole at each look."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pytest_unlearn.unlearning.errors import room_for


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
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    os.close(handle)
    try:
        with room_for("a checkpoint of the training", path.parent):
            tensors = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
            save_file(tensors, temporary, metadata={"notes": json.dumps(dict(state.notes))})
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def load_state(path: Path) -> SavedState | None:
    """Return a saved state, on the CPU, or None when there is none that can be read."""
    try:
        with safe_open(path, framework="pt") as file:
            notes = json.loads((file.metadata() or {})["notes"])
            return SavedState({name: file.get_tensor(name) for name in file.keys()}, notes)  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
