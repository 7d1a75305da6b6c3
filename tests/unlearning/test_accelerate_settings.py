"""accelerate's configuration is done as it says, or refused by its name."""

from __future__ import annotations

import pytest

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.unlearning.accelerate_settings import check_launcher

# What `accelerate launch --use_fsdp` says unless it is configured otherwise (accelerate 1.15).
DEFAULT = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_SHARDING_STRATEGY": "FULL_SHARD",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
}


def test_what_is_not_configured_is_fine() -> None:
    check_launcher({}, "auto", "auto", False, 1)  # torchrun
    check_launcher(DEFAULT, "auto", "auto", False, 1)
    configured = {
        **DEFAULT,
        "ACCELERATE_USE_CPU": "true",
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "FSDP_ACTIVATION_CHECKPOINTING": "true",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    }
    check_launcher(configured, "cpu", "bfloat16", True, 4)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "true", "distributed_type: DEEPSPEED.*--use_fsdp"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "MEGATRON_LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "parallelism_config"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "dynamo_backend.*write no"),
        ("FSDP_RESHARD_AFTER_FORWARD", "false", "fsdp_reshard_after_forward.*write true"),
        ("FSDP_SHARDING_STRATEGY", "SHARD_GRAD_OP", "write FULL_SHARD"),
        ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params"),
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", "write TRANSFORMER_BASED_WRAP"),
        ("ACCELERATE_USE_CPU", "True", "write --unlearn-device=cpu"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "write --unlearn-dtype=bfloat16"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "write mixed_precision: bf16"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "write checkpointing=true"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8", "write accumulate=8"),
    ],
)
def test_what_is_configured_otherwise_is_named(variable: str, value: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_launcher({**DEFAULT, variable: value}, "auto", "auto", False, 1)
