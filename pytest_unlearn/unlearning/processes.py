"""Several processes that train one model: who this one is, and what they tell one another.

`accelerate launch` and torchrun start them and say so in the environment. Alone, each function is
the identity, so that the loop is written once. What decides anything (a look, a stop, an error) is
the same on all processes: one that went on alone would wait for the others for ever.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")

# A process that waits longer for another ends with an error; writing a model takes minutes.
TIMEOUT = datetime.timedelta(minutes=30)


def join(device: str) -> None:
    """Meet the processes that the launcher started; `device` is `cpu` or `cuda`.

    Each takes the GPU of its number on its machine. Does nothing in a process that is alone.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    if device != "cpu":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Figures are exchanged on the CPU also where weights are on GPUs.
    backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=TIMEOUT)


def leave() -> None:
    """Part from the other processes."""
    if count() > 1:
        dist.destroy_process_group()


def count() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def number() -> int:
    """Return which of them this is, from 0."""
    return dist.get_rank() if count() > 1 else 0


def device_type() -> str:
    """Return `cuda` where the processes have met on GPUs, else `cpu`."""
    return "cuda" if "nccl" in dist.get_backend_config() else "cpu"


def summed(numbers: torch.Tensor) -> torch.Tensor:
    """Return the sums over all processes of some numbers, on the numbers' device."""
    if count() == 1:
        return numbers
    total = numbers.detach().cpu().clone()
    dist.all_reduce(total)
    return total.to(numbers.device)


def from_first(value: T) -> T:
    """Return the first process's value."""
    if count() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def mine(items: Sequence[T]) -> list[T]:
    """Return this process's share of some work.

    All processes get equally many, some of them twice where the number does not come out even: a
    sharded model runs on all at once, or not at all.
    """
    each = -(-len(items) // count())
    return [items[(number() + turn * count()) % len(items)] for turn in range(each)]


def merged(found: Mapping[K, V]) -> dict[K, V]:
    """Return what all processes found."""
    if count() == 1:
        return dict(found)
    boxes: list[Any] = [None] * count()
    dist.all_gather_object(boxes, dict(found))
    return {key: value for box in boxes for key, value in box.items()}


def own_file(path: Path) -> Path:
    """Return where this process keeps its part of what `path` holds of a single one."""
    if count() == 1:
        return path
    return path.with_name(f"{path.stem}.{number()}-of-{count()}{path.suffix}")


def loading_device(device: str) -> str:
    """Return where a model is loaded that is to be trained: weights to be sharded, on the CPU."""
    return device if count() == 1 else "cpu"
