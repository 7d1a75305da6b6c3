"""Passes with the adapter added to the weights give what PEFT gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model

from pytest_unlearn.models import patching
from pytest_unlearn.models.loading import LanguageModel, Weights, peft_quietly
from pytest_unlearn.models.patching import merged_lora
from pytest_unlearn.models.texts import Example
from pytest_unlearn.unlearning.step import with_new_adapter
from tests.support.small_models import with_moved_adapter


@pytest.fixture
def policy(llama: Weights) -> Iterator[Any]:
    """The small Llama with an adapter whose B is not zero."""
    wrapped = with_moved_adapter(llama, 8)
    yield wrapped
    wrapped.unload()


def test_layers_run_merged_in_the_block_only(policy: Any, llama: Weights) -> None:
    """And as the base's where the adapter is off."""
    layer = next(module for module in policy.modules() if hasattr(module, "lora_A"))
    x = torch.randn(2, 3, layer.get_base_layer().in_features)
    own, base = layer(x), layer.get_base_layer()(x)
    with merged_lora(policy):
        assert "forward" in vars(layer)
        torch.testing.assert_close(layer(x), own)
        with policy.disable_adapter():
            assert torch.equal(layer(x), base)
    assert "forward" not in vars(layer)
    assert not torch.allclose(own, base)


@pytest.mark.parametrize(("rank", "dtype", "merges"), [(8, "float32", True), (1, "float32", False)])
def test_small_adapters_run_as_ever(llama: Weights, rank: int, dtype: str, merges: bool) -> None:
    """Rank 1 is 6 % of a layer of 32 to 32; merging would cost more than it saves."""
    policy = with_new_adapter(llama.model, rank, ["q_proj"])  # type: ignore[arg-type]
    with merged_lora(policy):
        changed = ["forward" in vars(module) for module in policy.modules()]
    assert any(changed) == merges
    policy.delete_adapter("default")


def test_fewer_bits_are_not_merged(llama: Weights) -> None:
    """The sum would round the adapter away."""
    policy = with_new_adapter(llama.model, 8).to(torch.bfloat16)  # type: ignore[arg-type]
    with merged_lora(policy):
        assert not any("forward" in vars(module) for module in policy.modules())
    policy.delete_adapter("default")
    llama.model.to(torch.float32)  # type: ignore[call-arg]


def runs_merged(model: Any) -> bool:
    """Tell whether any layer runs with merged weights in a block."""
    with merged_lora(model):
        return any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    "change",
    [
        {"use_dora": True},
        {"lora_bias": True},
        {"target_modules": ["embed_tokens"]},
    ],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.filterwarnings("ignore:.lora_bias")
def test_other_kinds_of_lora_are_left_to_peft(llama: Weights, change: dict[str, Any]) -> None:
    model: Any = llama.model
    config = LoraConfig(**{"r": 8, "target_modules": ["q_proj"]} | change)
    with peft_quietly():
        policy = get_peft_model(model, config)
    assert not runs_merged(policy)
    policy.unload()


def test_adalora_is_left_to_peft(llama: Weights) -> None:
    """Its matrices are parameters, not layers, with a third between them."""
    model: Any = llama.model
    config = AdaLoraConfig(target_modules=["q_proj"], total_step=9, tinit=1, tfinal=1)
    with peft_quietly():
        policy = get_peft_model(model, config)
    assert not runs_merged(policy)
    policy.unload()


def test_a_layer_with_a_forward_of_another_is_left_to_it(policy: Any) -> None:
    """accelerate replaces `forward` to move inputs between devices."""
    layers = [module for module in policy.modules() if hasattr(module, "lora_A")]
    for layer, replaced in zip(layers, (layers[0], layers[1].get_base_layer()), strict=False):
        vars(replaced)["forward"] = own = replaced.forward
        with merged_lora(policy):
            assert vars(layer).get("forward") is (own if replaced is layer else None)
        assert vars(replaced).pop("forward") is own


def test_several_adapters_and_merged_ones_are_left_to_peft(policy: Any) -> None:
    assert runs_merged(policy)
    policy.merge_adapter()
    assert not runs_merged(policy)
    policy.unmerge_adapter()
    policy.add_adapter("second", policy.peft_config["default"])
    assert not runs_merged(policy)
    policy.delete_adapter("second")
    assert runs_merged(policy)


def test_a_model_scores_and_writes_what_it_does_without(
    llama: Weights, policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In both states, gradients included, which reach the weights that a merged layer hides."""
    examples = [Example.answering(f"user{n} = ", f"v{n}" * (n + 1)) for n in range(4)]
    prompts = [example.text[: example.start] for example in examples]
    monkeypatch.setattr(llama, "model", policy)

    def results(adapted: bool) -> tuple[Any, ...]:
        model = LanguageModel(llama, adapted)
        losses = [loss[0] for loss in model.losses(examples) if loss]
        states = torch.cat(model.hidden_states(prompts))
        return losses, model.gradient_norms(examples), states, model.complete(prompts, 8)

    merged = [results(adapted) for adapted in (True, False)]
    monkeypatch.setattr(patching, "MERGED_SHARE", float("inf"))
    plain = [results(adapted) for adapted in (True, False)]
    assert not runs_merged(policy)
    for got, expected in zip(merged, plain, strict=True):
        for one, other in zip(got[:3], expected[:3], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert got[3] == expected[3]
    assert merged[0][0] != merged[1][0]
