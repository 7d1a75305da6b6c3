"""Training one model in several processes, with its weights sharded (FSDP, Zhao et al. 2023).

`accelerate launch` and torchrun start the processes and describe them in the environment. In a
single process every function here is the identity, so the training loop is written once. Whatever
decides something (an evaluation, a stop, an error) is the same in all processes: one that went on
alone would wait for the others forever.

Each process holds a share of every weight, gathers a layer's weights when the layer runs, and
receives its share of the summed gradient. So a model larger than one GPU can be trained, and the
optimizer sees a share only. Every pass is collective: all processes must run equally many.

`accelerate config` writes a file, which the launcher passes on in environment variables. A setting
that changes how a model is trained is followed, or refused by its name with what to write instead;
none is ignored. FSDP always reshards each layer after a pass. A configuration of DeepSpeed's ZeRO-3
is followed by FSDP, which shards the same things: DeepSpeed's engine owns the optimizer and one
backward pass a step, where methods here have several losses, and put the base in a policy's place.
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


def merged(results: Mapping[K, V]) -> dict[K, V]:
    """Return what all processes found."""
    if count() == 1:
        return dict(results)
    boxes: list[Any] = [None] * count()
    dist.all_gather_object(boxes, dict(results))
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
    mesh = init_device_mesh(device_type(), (count(),))
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
        saved = shard.clone()
        shard.copy_(other)
        other.copy_(saved)
    outer.unshard()


class _Setting(NamedTuple):
    """A variable, the values of it that are what is done anyway, its name in accelerate's file, and
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

# Of DeepSpeed, ZeRO-3 is followed: FSDP shards weights, gradients and optimizer as it does.
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
# What accelerate takes where its configuration is silent.
_DEEPSPEED_DEFAULTS = {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}


def zero3(environment: Mapping[str, str]) -> bool:
    """Tell whether the launcher was configured for DeepSpeed, whose ZeRO-3 FSDP stands in for."""
    return environment.get(_USE_DEEPSPEED, "false").lower() not in _OFF.split()


def check_launcher(
    environment: Mapping[str, str], device: str, dtype: str, checkpointing: bool, accumulate: int
) -> None:
    """Raise UserError for what the launcher was configured to do, and the flags say otherwise.

    `device` and `dtype` are the run's flags, as `auto`; `checkpointing` and `accumulate` the
    method's options. These are the run's own, since it must find what was trained by its flags.
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
