"""Training one model in several processes, with its weights sharded (FSDP, Zhao et al. 2023).

`accelerate launch` and torchrun start the processes and describe them in the environment. In a
single process every function here is the identity, so the training loop is written once. Every
decision (an evaluation, a stop, an error) is the same in all processes: a process that went on
alone would wait for the others forever.

Each process holds a share of every weight, gathers a layer's weights when the layer runs, and
receives its share of the summed gradient. So a model larger than one GPU can be trained, and the
optimizer sees only a share. Every pass is collective: all processes must run the same number of
passes.

`accelerate config` writes a file, which the launcher passes on in environment variables. A setting
that changes how a model is trained is followed, or refused by name with what to write instead; none
is ignored. FSDP always reshards each layer after a pass. A ZeRO-3 configuration of DeepSpeed is
followed with FSDP, which shards the same things: DeepSpeed's engine owns the optimizer and a single
backward pass per step, while methods here have several losses, and run the base in place of the
policy.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.models.lm_head import layers_of
from pytest_unlearn.unlearning.step import FullPolicy

if TYPE_CHECKING:
    from peft import PeftModel

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")

# A process that waits longer for another one ends with an error; writing a model takes minutes.
TIMEOUT = datetime.timedelta(minutes=30)


def join(device: str) -> None:
    """Join the processes that the launcher started; `device` is `cpu` or `cuda`.

    Each uses the GPU of its number on its machine. Does nothing in a single process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    if device != "cpu":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Numbers are exchanged on the CPU even if the weights are on GPUs.
    backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=TIMEOUT)


def leave() -> None:
    """Leave the group of processes."""
    if count() > 1:
        dist.destroy_process_group()


def count() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def number() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if count() > 1 else 0


def device_type() -> str:
    """Return `cuda` if the processes use GPUs, else `cpu`."""
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

    All processes get the same number of items, and some items twice if the number is not divisible:
    a sharded model runs in all processes at once, or not at all.
    """
    each = -(-len(items) // count())
    return [items[(number() + turn * count()) % len(items)] for turn in range(each)]


def merged(results: Mapping[K, V]) -> dict[K, V]:
    """Return what all processes found."""
    if count() == 1:
        return dict(results)
    boxes: list[Any] = [None] * count()
    dist.all_gather_object(boxes, dict(results))
    return {key: value for box in boxes for key, value in box.items()}


def own_file(path: Path) -> Path:
    """Return the file in which this process keeps its part of what a single process keeps in
    `path`."""
    if count() == 1:
        return path
    return path.with_name(f"{path.stem}.{number()}-of-{count()}{path.suffix}")


def loading_device(device: str) -> str:
    """Return the device on which to load a model for training: the CPU if its weights will be
    sharded."""
    return device if count() == 1 else "cpu"


class ShardedPolicy(torch.nn.Module):
    """A wrapper of a policy; `forward` runs any work that calls the policy's parts.

    FSDP gathers the weights outside the layers (embeddings, head) when the outermost module is
    called. The losses call body and head separately, so this wrapper is the outermost module, and
    the work is its argument.
    """

    def __init__(self, policy: PeftModel | FullPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, work: Callable[[], T]) -> T:
        """Return `work()`."""
        return work()

    def get_base_model(self) -> Any:
        """Return the transformers model in its current state."""
        return self.policy.get_base_model()

    def disable_adapter(self) -> AbstractContextManager[Any]:
        """Switch to the base in a block, as the policy does; only inside a `run`."""
        return cast("AbstractContextManager[Any]", self.policy.disable_adapter())


def run(policy: torch.nn.Module, work: Callable[[], T]) -> T:
    """Return `work()`, which may call a policy's body and head."""
    return cast("T", policy(work)) if isinstance(policy, ShardedPolicy) else work()


def sharded(policy: PeftModel | FullPolicy) -> ShardedPolicy:
    """Cut a policy's weights, which are the same in all processes, into shards on their devices.

    Raises ValueError if the model's layers are not found.
    """
    layers = layers_of(policy)
    mesh = init_device_mesh(device_type(), (count(),))
    outer = ShardedPolicy(policy)
    # The outermost module also releases its weights after a pass: an evaluation runs no backward
    # pass, and gathered weights would be stale once the best evaluation's weights are put in place.
    for module in (*layers, outer):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    if isinstance(policy, FullPolicy):
        shards = [own_shard(p) for p in policy.parameters()]
        policy.exchange = lambda base: _exchange(cast("FSDPModule", outer), shards, base)
        policy.own = lambda: shards
    return outer


def own_shard(weight: torch.Tensor) -> torch.Tensor:
    """Return this process's shard of a weight or gradient, sharing its memory; an unsharded one is
    returned as it is."""
    return weight.to_local().detach() if isinstance(weight, DTensor) else weight


def whole(weight: torch.Tensor) -> torch.Tensor:
    """Return a complete weight, on the CPU; all processes must call this at once."""
    full = weight.full_tensor() if isinstance(weight, DTensor) else weight
    return full.detach().cpu()


@torch.no_grad()
def _exchange(
    outer: FSDPModule, shards: Sequence[torch.Tensor], base: Sequence[torch.Tensor]
) -> None:
    """Swap the trained shards and the base's in memory, where FSDP gathers them from.

    Weights that are already gathered are released before, and gathered again after. Graphs built
    before see the trained weights in `backward`, since these are back in place by then.
    """
    if shards and shards[0].is_cuda:
        torch.cuda.synchronize()  # a layer may just be gathered for the backward pass
    outer.reshard()
    for shard, other in zip(shards, base, strict=True):
        saved = shard.clone()
        shard.copy_(other)
        other.copy_(saved)
    outer.unshard()


class _Setting(NamedTuple):
    """A variable, its values that match what is done anyway, its name in accelerate's file, and
    what to write instead of another value."""

    variable: str
    fine: frozenset[str]
    name: str
    instead: str


def _setting(variable: str, fine: str, name: str, instead: str) -> _Setting:
    return _Setting(variable, frozenset(fine.split()), name, instead)


_OFF = "false none no 0"
_SETTINGS = (
    _setting("ACCELERATE_USE_MEGATRON_LM", _OFF, "distributed_type: MEGATRON_LM", "FSDP"),
    _setting("ACCELERATE_USE_PARALLELISM_CONFIG", _OFF, "parallelism_config", "none of it"),
    _setting("ACCELERATE_DYNAMO_BACKEND", _OFF, "dynamo_backend", "no"),
    _setting(
        "FSDP_RESHARD_AFTER_FORWARD", "true full_shard 1", "fsdp_reshard_after_forward", "true"
    ),
    _setting("FSDP_SHARDING_STRATEGY", "full_shard 1", "fsdp_sharding_strategy", "FULL_SHARD"),
    _setting("FSDP_OFFLOAD_PARAMS", _OFF, "fsdp_offload_params", "false, and more processes"),
    _setting(
        "FSDP_AUTO_WRAP_POLICY",
        "none transformer_based_wrap",
        "fsdp_auto_wrap_policy",
        "TRANSFORMER_BASED_WRAP",
    ),
)

# For DeepSpeed, ZeRO-3 is followed: FSDP shards weights, gradients and optimizer in the same way.
_USE_DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"
_DEEPSPEED = (
    _setting(
        "ACCELERATE_DEEPSPEED_ZERO_STAGE", "3", "zero_stage", "3, whose sharding FSDP does here"
    ),
    _setting(
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE",
        "none",
        "offload_optimizer_device",
        "none, and more processes",
    ),
    _setting(
        "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE",
        "none",
        "offload_param_device",
        "none, and more processes",
    ),
    _setting("ACCELERATE_GRADIENT_CLIPPING", "1 1.0 none", "gradient_clipping", "1.0"),
    _setting(
        "ACCELERATE_DEEPSPEED_CONFIG_FILE",
        "none",
        "deepspeed_config_file",
        "accelerate's own settings (zero_stage: 3), and no file of DeepSpeed's",
    ),
    _setting(
        "ACCELERATE_DEEPSPEED_MOE_LAYER_CLS_NAMES", "none", "deepspeed_moe_layer_cls_names", "none"
    ),
)
# What accelerate uses if its configuration does not say.
_DEEPSPEED_DEFAULTS = {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}


def zero3(environment: Mapping[str, str]) -> bool:
    """Return whether the launcher was configured for DeepSpeed, whose ZeRO-3 FSDP replaces."""
    return environment.get(_USE_DEEPSPEED, "false").lower() not in _OFF.split()


def check_launcher(
    environment: Mapping[str, str], device: str, dtype: str, checkpointing: bool, accumulate: int
) -> None:
    """Raise UserError if the launcher's configuration contradicts the flags.

    `device` and `dtype` are the run's flags, as `auto`; `checkpointing` and `accumulate` the
    method's options. The flags decide, since the run must find the trained model by them.
    """
    given = dict(environment)
    if zero3(environment):
        given = {**_DEEPSPEED_DEFAULTS, **given}
    for setting in (*_SETTINGS, *(_DEEPSPEED if zero3(environment) else ())):
        value = given.get(setting.variable)
        if value is not None and value.lower() not in setting.fine:
            raise UserError(
                f"accelerate's configuration ({setting.name}, {setting.variable}={value}): this "
                f"is not supported here; write {setting.instead}"
            )
    for variable, asked, done, instead in (
        ("ACCELERATE_USE_CPU", ("true",), device == "cpu", "--unlearn-device=cpu"),
        ("ACCELERATE_MIXED_PRECISION", ("bf16",), dtype == "bfloat16", "--unlearn-dtype=bfloat16"),
        ("ACCELERATE_MIXED_PRECISION", ("fp16", "fp8"), False, "mixed_precision: bf16"),
        ("FSDP_ACTIVATION_CHECKPOINTING", ("true",), checkpointing, "checkpointing=true"),
    ):
        value = environment.get(variable, "")
        if value.lower() in asked and not done:
            raise UserError(
                f"accelerate's configuration ({variable}={value}) must also be given as a flag, "
                f"by which the run finds what was trained: write {instead}"
            )
    steps = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps not in ("1", "auto", str(accumulate)):
        raise UserError(
            f"accelerate's configuration (gradient_accumulation_steps: {steps}) must be given as "
            f"an option of the method: write accumulate={steps}"
        )
