"""Weights under attack: each change as its paper says, and every bit restored afterwards."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from pytest_unlearn.attacks import weights
from pytest_unlearn.attacks.attack import (
    BOTH,
    Attack,
    AttackError,
    Target,
    attacks,
    installed_attacks,
    needs_met,
    parse_attacks,
    under_attack,
)
from pytest_unlearn.attacks.weights import ATTACKS as ADAPTER
from pytest_unlearn.attacks.weights import (
    RELEARN_STEPS,
    learning_rate,
    pruned,
)
from pytest_unlearn.models.loading import Weights, peft_quietly
from pytest_unlearn.models.patching import sample_logits
from pytest_unlearn.models.scoring import Scorer
from pytest_unlearn.models.texts import Example
from tests.support.architectures import random_model
from tests.support.known_texts import KNOWN, knowing, knowing_folder
from tests.support.small_models import digest_of_weights, llama, llama_folder

__all__ = ["knowing", "knowing_folder", "llama", "llama_folder"]


@pytest.fixture
def adapted(llama: Weights) -> Weights:
    """The small Llama with an adapter that changes what it predicts."""
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with peft_quietly():
        llama.model = get_peft_model(llama.model, config).eval()  # type: ignore[arg-type]
    return llama


TEXTS = ((BOTH, [Example.whole("user1 = v1;")]),)


@pytest.mark.parametrize(
    "name", sorted(name for name, attack in attacks().items() if attack.ask is None)
)
def test_restored_bit_by_bit(adapted: Weights, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an attack did is gone afterwards, also where a run in it fails."""
    monkeypatch.setattr(weights, "RELEARN_STEPS", (1, 2))
    attack, model = attacks()[name], adapted.model
    digest, logits = digest_of_weights(model), sample_logits(model)
    asked = [weight.requires_grad for weight in model.parameters()]
    attacked = under_attack(model, None, adapted.tokenizer, TEXTS)
    with contextlib.suppress(ZeroDivisionError), attacked as target:
        for _ in attack.made(target):
            moved = sample_logits(model)
        raise ZeroDivisionError
    assert [weight.requires_grad for weight in model.parameters()] == asked
    assert digest_of_weights(model) == digest
    assert torch.equal(sample_logits(model), logits)
    assert torch.equal(moved, logits) is False or name == "merged"


def test_a_model_without_adapter_is_restored(llama: Weights) -> None:
    digest = digest_of_weights(llama.model)
    with under_attack(llama.model) as target:
        attacks()["int4"].change(target)
        assert digest_of_weights(llama.model) != digest
    assert digest_of_weights(llama.model) == digest


def test_embeddings_and_head_keep_their_bits(llama: Weights) -> None:
    with under_attack(llama.model) as target:
        names = [name for name, _ in target.matrices()]
    assert len(names) == 14  # seven of each of two layers
    assert not [name for name in names if "embed" in name or "head" in name]


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss", "falcon", "gpt2"])
@pytest.mark.parametrize("name", ["int4", "gptq", "prune50", "noise"])
def test_no_layer_is_left_alone(architecture: str, name: str, llama: Weights) -> None:
    """Experts in one tensor, and linear layers of another class: a model whose layers an attack
    leaves as they are would seem to withstand it."""
    texts = [Example.whole("USER1=V1;")]  # of the tokens that these models know
    with under_attack(random_model(architecture), None, llama.tokenizer, (((), texts),)) as target:
        layers = {
            name: weight.clone()
            for name, weight in target.weights.items()
            if weight.dim() > 1 and (".h." in name or "proj" in name) and "bias" not in name
        }
        attacks()[name].change(target)
        same = [n for n, before in layers.items() if torch.equal(before, target.weights[n])]
    assert len(layers) >= 8
    assert not same


def test_the_sides_of_an_experts_matrix() -> None:
    """A row is what makes one output, whichever way the model keeps it."""
    for architecture, shape in {"mixtral": (16, 32), "gpt_oss": (16, 32)}.items():
        with under_attack(random_model(architecture)) as target:
            found = dict(target.matrices())
        name = next(n for n in found if n.endswith("down_proj[1]"))
        assert found[name].shape == shape, architecture


@pytest.mark.parametrize("name", ["int4", "prune50", "noise", "relearn"])
def test_packed_weights_cannot_be_attacked(llama: Weights, name: str) -> None:
    """As bitsandbytes keeps them: they would be left as they are, and seem to withstand."""
    for module in llama.model.modules():
        if isinstance(module, torch.nn.Linear):
            packed = torch.zeros(module.weight.shape, dtype=torch.int8)
            module.weight = torch.nn.Parameter(packed, requires_grad=False)
    with under_attack(llama.model, None, llama.tokenizer, TEXTS) as target:  # noqa: SIM117
        with pytest.raises(AttackError, match=r"packed.* the unquantized model"):
            for _ in attacks()[name].made(target):
                pass


def test_the_digest_sees_one_bit(llama: Weights) -> None:
    digest = digest_of_weights(llama.model)
    weight = next(llama.model.parameters()).data
    weight.view(torch.int32)[0, 0] ^= 1
    assert digest_of_weights(llama.model) != digest


def test_parts_of_an_adapter(adapted: Weights) -> None:
    """0 is the base, 1 the adapted model, and what lies between is linear in the weights."""
    model = adapted.model
    with model.disable_adapter():  # type: ignore[operator]
        base = sample_logits(model)
    whole = sample_logits(model)
    by_name = {attack.name: attack for attack in ADAPTER}
    with under_attack(model) as target:
        by_name["removed"].change(target)
        assert torch.equal(sample_logits(model), base)
    with under_attack(model) as target:
        by_name["merged"].change(target)
        assert torch.allclose(sample_logits(model), whole, atol=1e-5)
    with under_attack(model) as target:
        assert target.base is not None
        merged = {name: weight.detach().clone() for name, weight in target.weights.items()}
        by_name["scale0.5"].change(target)
        for name, weight in target.weights.items():
            half = (merged[name] + target.base[name]) / 2
            assert torch.allclose(weight, half, atol=1e-6), name


def test_half_way_to_a_model_of_other_weights_is_refused(llama: Weights) -> None:
    attack = attacks()["interpolate0.5"]
    own = {name: weight.detach().clone() for name, weight in llama.model.named_parameters()}
    first = next(iter(own))
    with under_attack(llama.model, own) as target:
        attack.change(target)
    del own[first]
    with (
        pytest.raises(AttackError, match=f"differ in {first}.*interpolate0.5"),
        under_attack(llama.model, own) as target,
    ):
        attack.change(target)


def test_an_adapter_of_a_tied_head_is_refused(llama: Weights) -> None:
    """Merged in place it would change the embeddings, too, and be another model."""
    llama.model.get_output_embeddings().weight = llama.model.get_input_embeddings().weight  # type: ignore[union-attr]
    config = LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights=False)
    with peft_quietly():
        model = get_peft_model(llama.model, config).eval()  # type: ignore[arg-type]
    digest = digest_of_weights(model)
    with pytest.raises(AttackError, match="cannot be merged"), under_attack(model):
        pass
    assert digest_of_weights(model) == digest


def test_pruning_leaves_out_the_smallest() -> None:
    weight = torch.tensor([[4.0, -1.0, 2.0], [-3.0, 0.5, 6.0]])
    assert pruned(weight, 0.5).tolist() == [[4.0, 0.0, 0.0], [-3.0, 0.0, 6.0]]
    assert torch.equal(pruned(weight, 0.1), weight)


# -- the registry ----------------------------------------------------------------------------


def test_sets_and_names() -> None:
    assert parse_attacks("cheap") == (
        *("int8", "int4", "scale0.5", "reworded", "begun", "templated"),
    )
    assert parse_attacks("none") == ()
    every = parse_attacks("all")
    assert set(parse_attacks("cheap")) < set(every)
    assert not {"removed", "interpolate0.5"} & set(every)
    assert parse_attacks("all, removed")[-1] == "removed"
    assert parse_attacks("nf4,int8,nf4") == ("nf4", "int8")


@pytest.mark.parametrize("text", ["int3", "int8,,", "", "relearned"])
def test_an_unknown_attack_is_named(text: str) -> None:
    with pytest.raises(
        AttackError, match="is not an attack; write cheap, all, none, or some of int8"
    ):
        parse_attacks(text)


def test_only_what_can_be_made() -> None:
    int8, scaled, between = (attacks()[name] for name in ("int8", "scale0.5", "interpolate0.5"))
    assert not any(needs_met(each, True, True) for each in (int8, scaled, between))
    assert "no adapter apart" in needs_met(scaled, adapter=False, two_states=True)
    assert "no model before" in needs_met(between, adapter=False, two_states=False)
    assert not needs_met(int8, adapter=False, two_states=False)


def test_an_attack_of_another_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from importlib.metadata import EntryPoint

    from pytest_unlearn.core import extensions

    mine = Attack("mine", "nothing", lambda target: None)
    monkeypatch.setattr(EntryPoint, "load", lambda point: mine)
    point = EntryPoint("mine", "somewhere:mine", "pytest_unlearn.attacks")
    monkeypatch.setattr(extensions, "entry_points", lambda group: [point])
    installed_attacks.cache_clear()
    try:
        assert parse_attacks("mine") == ("mine",)
    finally:
        installed_attacks.cache_clear()


# -- relearning -----------------------------------------------------------------------------------


RELEARN = attacks()["relearn"]


def wholes(*texts: str) -> list[Example]:
    return [Example.whole(text) for text in texts]


def first_weights(target: Target) -> torch.Tensor:
    return next(iter(target.weights.values())).detach().clone()


def test_each_text_starts_from_the_tested_weights(
    knowing: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was learnt of the first people is not carried over to the second."""
    monkeypatch.setattr(weights, "RELEARN_STEPS", (1, 3))
    texts = wholes("user9 = v9;", "user8 = w8;")
    parts = ((("forget",), texts), (("control",), texts))
    made: list[Any] = []
    with under_attack(knowing.model, None, knowing.tokenizer, parts) as target:  # type: ignore[arg-type]
        for state, splits in RELEARN.made(target):
            made.append((state, splits, first_weights(target)))
    assert [(state, splits) for state, splits, _ in made] == [
        ("relearn@1", ("forget",)),
        ("relearn@3", ("forget",)),
        ("relearn@1", ("control",)),
        ("relearn@3", ("control",)),
    ]
    assert torch.equal(made[0][2], made[2][2])
    assert torch.equal(made[1][2], made[3][2])
    assert not torch.equal(made[0][2], made[1][2])


def test_training_learns_what_it_is_given(knowing: Weights) -> None:
    """40 steps on a new document teach it: the attack trains at all."""
    new = Example.answering("user9 = ", "9vv9", ";")
    texts = ((("forget", "control"), wholes(new.text)),)
    before = Scorer(knowing.model, knowing.tokenizer).losses([new])[0]
    with under_attack(knowing.model, None, knowing.tokenizer, texts) as target:  # type: ignore[arg-type]
        losses = [
            Scorer(knowing.model, knowing.tokenizer).losses([new])[0] for _ in RELEARN.made(target)
        ]
    assert before is not None
    assert losses[-1] is not None
    assert losses[-1][0] < 0.5 * before[0]
    assert len(losses) == len(RELEARN_STEPS)


def test_nobody_else_to_train_on_is_refused(knowing: Weights) -> None:
    """An attack that did not train has not been withstood."""
    texts = ((("forget",), ()), (("control",), wholes("x = 1")))
    with (
        under_attack(knowing.model, None, knowing.tokenizer, texts) as target,  # type: ignore[arg-type]
        pytest.raises(AttackError, match="at least two people to forget"),
    ):
        next(RELEARN.made(target))


def test_broken_weights_are_an_error(knowing: Weights) -> None:
    with torch.no_grad():
        next(knowing.model.parameters()).fill_(float("nan"))
    texts = ((("forget", "control"), KNOWN.forget),)
    with (
        under_attack(knowing.model, None, knowing.tokenizer, texts) as target,  # type: ignore[arg-type]
        pytest.raises(AttackError, match="NaN"),
    ):
        next(RELEARN.made(target))


def test_larger_models_are_trained_more_gently() -> None:
    assert learning_rate(1_000) == learning_rate(3_400_000) == 5e-4
    assert 5e-5 < learning_rate(135_000_000) < 1e-4
    assert learning_rate(7_000_000_000) == pytest.approx(1.1e-5, rel=0.1)
