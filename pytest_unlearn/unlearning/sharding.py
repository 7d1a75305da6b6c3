"""A policy whose weights lie in shards on several processes (FSDP, Zhao et al. 2023).

Each process holds a share of every weight, gathers a layer's weights when the layer runs, and
receives its share of the summed gradient; so a model larger than one GPU can be trained, and the
optimizer sees a share only. Every pass is a collective act: all processes must run equally many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from pytest_unlearn.models.heads import layers_of
from pytest_unlearn.unlearning import processes
from pytest_unlearn.unlearning.adapters import FullPolicy

if TYPE_CHECKING:
    from peft import PeftModel

T = TypeVar("T")


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
    mesh = init_device_mesh(processes.device_type(), (processes.count(),))
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
