"""What `accelerate launch` was configured to do, in the environment of the processes it starts.

`accelerate config` writes a file, and the launcher hands it on in variables. What changes how a
model is trained is done as it says, or refused by the setting's name with what to write instead; it
is never passed over in silence. The shape of FSDP is always the same: each layer's weights are in
shards, and let go after a pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pytest_unlearn.core.errors import UserError


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
    _setting(
        "ACCELERATE_USE_DEEPSPEED",
        _OFF,
        "distributed_type: DEEPSPEED",
        "distributed_type: FSDP (`accelerate launch --use_fsdp`): DeepSpeed owns optimizer and "
        "backward pass, and methods here take several losses a step and put the base in its place",
    ),
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


def check_launcher(
    environment: Mapping[str, str], device: str, dtype: str, checkpointing: bool, accumulate: int
) -> None:
    """Raise UserError for what the launcher was configured to do, and the flags say otherwise.

    `device` and `dtype` are the run's flags, as `auto`; `checkpointing` and `accumulate` the
    method's options. These are the run's own, since it must find what was trained by its flags.
    """
    for setting in _SETTINGS:
        value = environment.get(setting.variable)
        if value is not None and value.lower() not in setting.fine:
            raise UserError(
                f"accelerate's configuration ({setting.name}, {setting.variable}={value}): this is "
                f"not done here; write {setting.instead}"
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
                f"accelerate's configuration ({variable}={value}) is to be a flag, by which the "
                f"run finds what was trained: write {instead}"
            )
    steps = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps not in ("1", "auto", str(accumulate)):
        raise UserError(
            f"accelerate's configuration (gradient_accumulation_steps: {steps}) is to be an option "
            f"of the method: write accumulate={steps}"
        )
