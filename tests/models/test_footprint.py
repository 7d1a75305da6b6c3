"""Sizes by configuration alone, against the models themselves on torch's `meta` device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.models.footprint import (
    KEPT_STATES,
    Architecture,
    Training,
    machines,
    training_bytes,
    training_cost,
)
from pytest_unlearn.models.lm_head import hidden_states
from pytest_unlearn.models.presets import presets
from pytest_unlearn.unlearning.step import checkpointed, with_new_adapter
from pytest_unlearn.unlearning.trainer import make_optimizer

NAMES = tuple(presets())


def on_meta(config: Mapping[str, Any]) -> Any:
    """Return a model in bfloat16, without memory behind its weights."""
    with torch.device("meta"):
        made = AutoConfig.for_model(**config)
        return AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16)


def held_bytes(weights: list[Any]) -> int:
    """Return what a step of AdamW leaves in memory: masters, gradients and moments in float32."""
    masters = [weight.detach().float() for weight in weights]
    for master in masters:
        master.grad = torch.zeros_like(master)
    optimizer = make_optimizer("adamw", masters, 1e-4)
    optimizer.step()
    moments = [
        value
        for state in optimizer.state.values()
        for name, value in state.items()
        if name != "step"  # a number a tensor
    ]
    tensors = [*masters, *(master.grad for master in masters), *moments]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


@pytest.mark.parametrize("name", NAMES)
def test_bytes_of_weights_adapter_and_optimizer_are_exact(name: str) -> None:
    """Of all layers the weights; of three, which is quicker, what is trained of them."""
    preset = presets()[name]
    shape = Architecture.of(preset.config)
    assert shape.exact
    every = on_meta(preset.config).parameters()
    assert shape.parameters == sum(weight.numel() for weight in every)
    config = {**preset.config, "num_hidden_layers": 3}
    shape, model = Architecture.of(config), on_meta(config)
    weights = list(model.parameters())
    full = training_bytes(shape.parameters, 2, "adamw", adapter=False)
    assert full == held_bytes(weights)
    policy = with_new_adapter(model, 32, list(preset.lora_targets))
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    count = shape.adapter(32, preset.lora_targets)
    assert count == shape.adapter(32)  # each preset's adapter is on all layers
    assert count == sum(weight.numel() for weight in trained)
    own = sum(weight.nbytes for weight in trained)
    assert training_bytes(count, 2, "adamw", adapter=True) == own + held_bytes(trained)


def kept_by_torch(policy: Any, tokens: int) -> int:
    """Return the bytes that a pass saves for the way back, weights left out."""
    own = {weight.untyped_storage()._cdata for weight in policy.parameters()}
    saved: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage()._cdata not in own:
            saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = hidden_states(policy, {"input_ids": torch.zeros(1, tokens, dtype=torch.long)})
    assert states.requires_grad
    return sum(storage.nbytes() for storage in saved.values())


@pytest.mark.parametrize("name", ["codellama", "qwen2.5-coder", "starcoder2"])
def test_what_a_pass_keeps_is_what_torch_saves(name: str) -> None:
    """Within 3 % on the architecture in small: bfloat16, a LoRA adapter, with checkpoints too."""
    preset = presets()[name]
    groups = preset.config["num_attention_heads"] // preset.config["num_key_value_heads"]
    small = {
        "hidden_size": 256,
        "intermediate_size": preset.config["intermediate_size"] // 16,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": max(1, 8 // groups),
        "vocab_size": 64,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    config = {**preset.config, **small}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.bfloat16)
    policy = with_new_adapter(model, 8, list(preset.lora_targets)).eval()
    shape, tokens = Architecture.of(config), 64
    assert kept_by_torch(policy, tokens) == pytest.approx(
        shape.kept_bytes(tokens, 2, 8, checkpointing=False), rel=0.03
    )
    with checkpointed(policy):
        kept = kept_by_torch(policy, tokens)
    # One layer's own, which comes in the way back, is counted too.
    one = shape.kept_bytes(tokens, 2, 8, checkpointing=False) / shape.layers
    assert kept + one == pytest.approx(shape.kept_bytes(tokens, 2, 8, checkpointing=True), rel=0.05)


# -- phases of a run -----------------------------------------------------------------------------

SHAPE = Architecture.of(presets()["codeqwen"].config)
# Two rows of 2,048 tokens, as benchmarks/gpu.py takes them.
STEP = Training(
    name="unlearn",
    tokens=4096,
    steps=100,
    looked=1000,
    check_every=10,
    tune="lora",
    rank=32,
    optimizer="adamw",
    accumulate=1,
    checkpointing=True,
    base_passes=1,
)
SPEEDS = {
    "kind": "cuda",
    "name": "NVIDIA X",
    "training_flops": 4e14,
    "scoring_flops": 3e14,
    "bandwidth": 2e12,
    "layer_seconds": 2e-5,
}


def cost(training: Training, speeds: Path | None = None, dtype: str = "auto") -> tuple[float, ...]:
    (machine,) = machines("cuda", dtype, speeds)
    found = training_cost(training, SHAPE, SHAPE.parameters, machine)
    return found.weights, found.trained, found.passes, found.seconds


def test_weights_with_an_adapter_added_are_counted() -> None:
    """In float32 only, and where the adapter is 15 % of a layer at least."""
    tiny = replace(SHAPE, hidden=256, inner=688, layers=4, heads_width=256, keys_width=256)
    every = 4 * 4 * (4 * 256 * 256 + 3 * 256 * 688)
    assert tiny.merged_bytes(64, None, 4) == every
    assert tiny.merged_bytes(64, ["q_proj"], 4) == 4 * 4 * 256 * 256
    assert tiny.merged_bytes(64, None, 2) == 0
    assert tiny.merged_bytes(8, None, 4) == 0
    assert SHAPE.merged_bytes(64, None, 4) == 0
    (machine,) = machines("cpu", "auto", None)
    trained = [
        training_cost(replace(STEP, rank=rank), tiny, 1000, machine).trained for rank in (64, 8)
    ]
    assert trained[0] - 8 * trained[1] == every


def test_states_of_the_base_are_kept_up_to_a_limit() -> None:
    """They take memory and save the base's pass; above the limit they do neither."""
    plain, kept, too_many = (
        cost(replace(STEP, states=states)) for states in (0, KEPT_STATES // 2, KEPT_STATES // 2 + 1)
    )
    assert too_many == plain
    assert kept[2] - plain[2] == KEPT_STATES
    assert kept[3] < 0.8 * plain[3]


def test_other_passes_cost_time_only() -> None:
    """As much as evaluations of as many tokens."""
    plain, scored = cost(STEP), cost(replace(STEP, scored=10**6))
    assert scored[:3] == plain[:3]
    looks = 1 + STEP.steps // STEP.check_every
    looked = cost(replace(STEP, looked=STEP.looked + 10**6))
    assert scored[3] - plain[3] == pytest.approx((looked[3] - plain[3]) / looks)
    assert scored[3] > plain[3]


def test_a_7b_step_fits_24_gb_with_checkpoints_and_not_without() -> None:
    weights, trained, passes, _ = cost(STEP)
    assert weights == 2 * SHAPE.parameters
    assert weights + trained + passes < 24e9
    assert sum(cost(replace(STEP, checkpointing=False))[:3]) > 24e9
    halved = replace(STEP, checkpointing=False, accumulate=2)
    assert cost(halved)[2] < cost(replace(STEP, checkpointing=False))[2]
    assert cost(replace(STEP, optimizer="adamw8bit"))[1] < trained
    full = replace(STEP, tune="full")
    assert cost(full)[1] == 16 * SHAPE.parameters  # masters, gradients, two moments
    assert cost(replace(full, keeps_base=True))[1] == 18 * SHAPE.parameters
    assert cost(full, dtype="float32")[:2] == (4 * SHAPE.parameters, 12 * SHAPE.parameters)


def test_measured_speeds_take_the_place_of_assumed_ones(tmp_path: Path) -> None:
    file = tmp_path / "speeds.json"
    file.write_text(json.dumps(SPEEDS))
    assert cost(STEP, file)[3] < cost(STEP)[3]
    assert [m.name for m in machines("auto", "auto", file)][1] == "NVIDIA X (measured)"
    assert [m.kind for m in machines("cpu", "auto", file)] == ["cpu"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        (json.dumps({**SPEEDS, "kind": "tpu"}), "KeyError"),
        (json.dumps({**SPEEDS, "bandwidth": "fast"}), "ValueError"),
        (json.dumps({**SPEEDS, "bandwidth": 0}), "0 or less"),
        (None, "FileNotFoundError"),
    ],
)
def test_a_file_without_speeds_is_refused(tmp_path: Path, text: str | None, named: str) -> None:
    file = tmp_path / "speeds.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=f"--unlearn-speeds=.*{named}"):
        machines("auto", "auto", file)
