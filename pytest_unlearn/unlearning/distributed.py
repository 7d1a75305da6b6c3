"""Several processes that train one model: who this one is, what they tell each other, and a policy
whose weights lie in shards on them (FSDP, Zhao et al. 2023).

`accelerate launch` and torchrun start them and say so in the environment. Alone, each function is
the identity, so that the loop is written once. What decides anything (a look, a stop, an error) is
the same on all processes: one that went on alone would wait for the others for ever.

Each process holds a share of every weight, gathers a layer's weights when the layer runs, and
receives its share of the summed gradient; so a model larger than one GPU can be trained, and the
optimizer sees a share only. Every pass is a collective act: all processes must run equally many.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from pytest_unlearn.models.lm_head import layers_of
from pytest_unlearn.unlearning import distributed
from pytest_unlearn.unlearning.step import FullPolicy

if TYPE_CHECKING:
    from peft import PeftModel


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


class ShardedPolicy(torch.nn.Module):
    """Stands for a policy; `forward` runs any work in which the policy's parts are called.

    FSDP gathers the weights outside the layers (embeddings, head) when the outermost module is
    called. The losses call body and head by themselves, so the outermost module is this one, and
    the work is its argument.
    """

    def __init__(self, policy: PeftModel | FullPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, work: Callable[[], T]) -> T:
        """Return `work()`."""
        return work()

    def get_base_model(self) -> Any:
        """Return the transformers model in the state that it is in."""
        return self.policy.get_base_model()

    def disable_adapter(self) -> AbstractContextManager[Any]:
        """Give the base for a block, as the policy does; inside a `run` only."""
        return cast("AbstractContextManager[Any]", self.policy.disable_adapter())


def run(policy: torch.nn.Module, work: Callable[[], T]) -> T:
    """Return `work()`, in which a policy's body and head may be called."""
    return cast("T", policy(work)) if isinstance(policy, ShardedPolicy) else work()


def sharded(policy: PeftModel | FullPolicy) -> ShardedPolicy:
    """Cut a policy's weights, the same on all processes, into shards on their devices.

    Raises ValueError for a model whose layers are not found.
    """
    layers = layers_of(policy)
    mesh = init_device_mesh(distributed.device_type(), (distributed.count(),))
    outer = ShardedPolicy(policy)
    # The outermost module, too, lets its weights go after a pass: a look runs no backward pass, and
    # what it had gathered would be stale once the best look's weights are put in place.
    for module in (*layers, outer):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    if isinstance(policy, FullPolicy):
        shards = [own_shard(p) for p in policy.parameters()]
        policy.exchange = lambda base: _exchange(cast("FSDPModule", outer), shards, base)
        policy.own = lambda: shards
    return outer


def own_shard(weight: torch.Tensor) -> torch.Tensor:
    """Return this process's shard of a weight or gradient, sharing its memory; a whole one as it
    is."""
    return weight.to_local().detach() if isinstance(weight, DTensor) else weight


def whole(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight as a whole, on the CPU; all processes must ask at once."""
    full = weight.full_tensor() if isinstance(weight, DTensor) else weight
    return full.detach().cpu()


@torch.no_grad()
def _exchange(
    outer: FSDPModule, shards: Sequence[torch.Tensor], base: Sequence[torch.Tensor]
) -> None:
    """Let shards and the base's change places in memory, where FSDP gathers them from.

    What is gathered already is let go before, and gathered again after. Graphs built before meet
    the trained weights in `backward`, since these are back in place by then.
    """
    if shards and shards[0].is_cuda:
        torch.cuda.synchronize()  # a layer may be on its way, gathered for the pass backwards
    outer.reshard()
    for shard, other in zip(shards, base, strict=True):
        kept = shard.clone()
        shard.copy_(other)
        other.copy_(kept)
    outer.unshard()
