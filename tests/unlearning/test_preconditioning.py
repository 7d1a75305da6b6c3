"""Merged weights and preconditioned steps: plain LoRA up to rounding, and matrices as defined."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_unlearn.models.batches import Batch, Encoded, as_tree, collate, encode
from pytest_unlearn.models.lm_head import layers_of
from pytest_unlearn.models.loading import Weights
from pytest_unlearn.models.patching import merged_lora
from pytest_unlearn.models.texts import Example, TrainingTexts
from pytest_unlearn.unlearning import data
from pytest_unlearn.unlearning.data import Encoder, training_rows
from pytest_unlearn.unlearning.methods import METHODS, parse_method
from pytest_unlearn.unlearning.preconditioning import Preconditioner, preconditioners
from pytest_unlearn.unlearning.step import RunState, Step, scaled_adapter, with_new_adapter
from pytest_unlearn.unlearning.trainer import Trainer
from tests.support.architectures import ARCHITECTURES, random_model
from tests.support.known_texts import KNOWN
from tests.support.small_models import with_moved_adapter

FORGET = [Example.answering(f"user{n} = ", f"v{n}" * (n + 1), ";\n") for n in range(3)]
KEPT = [Example.answering(f"user{n} = ", f"k{n}") for n in (7, 7, 8)]


@pytest.fixture
def policy(llama: Weights) -> Any:
    """The small Llama with an adapter whose B is not zero."""
    wrapped = with_moved_adapter(llama, 8)
    yield wrapped
    wrapped.delete_adapter("default")


def loss_and_gradients(
    policy: Any, llama: Weights, merged: bool, trees: bool
) -> tuple[float, dict[str, torch.Tensor]]:
    """What the default method makes of a step on a part of the adapter."""

    def batch(examples: list[Example]) -> Batch:
        made = collate([encode(llama.tokenizer, example) for example in examples], 0)
        return as_tree(made) if trees else made

    step = Step(policy, batch(FORGET), batch(KEPT), RunState(0))
    weights = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    with scaled_adapter(policy, 0.4), merged_lora(policy) if merged else contextlib.nullcontext():
        loss = METHODS["anchored"].loss(step, METHODS["anchored"].defaults)
        found = torch.autograd.grad(loss, list(weights.values()))
    return loss.item(), dict(zip(weights, found, strict=True))


@pytest.mark.parametrize("trees", [True, False])
@pytest.mark.parametrize("steps", [1, 2])
def test_states_of_the_base_are_made_once(
    policy: Any, llama: Weights, trees: bool, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They give the plain loss and gradients; not where rows are drawn less than twice, or where
    they take too much memory."""
    method = METHODS["anchored"]
    options = replace(method.defaults, steps=steps, retain_batch=len(KEPT))
    texts = TrainingTexts(FORGET, KEPT[:1], KEPT[1:2], strangers=KEPT[2:])
    encoder = Encoder(llama.tokenizer, 256)

    def kept() -> list[Encoded]:
        rows = training_rows(policy, encoder, texts, method, options, 0, trees)
        return [*rows.people, *rows.tasks, *rows.strangers]

    rows = kept()
    assert all((row.base_states is not None) == (steps == 2) for row in rows)
    found = []
    for retained in (rows, [replace(row, base_states=None) for row in rows]):
        batch = collate(retained, 0)
        step = Step(policy, batch, as_tree(batch) if trees else batch, RunState(0))
        divergence, turn = step.retain_drift(8)
        loss = divergence + turn
        gradient = torch.autograd.grad(loss, [p for p in policy.parameters() if p.requires_grad])
        found.append((loss, gradient))
    torch.testing.assert_close(*found)
    monkeypatch.setattr(data, "KEPT_STATES", 1)
    assert all(row.base_states is None for row in kept())


@pytest.mark.parametrize(("merged", "trees"), [(True, False), (False, True), (True, True)])
def test_a_step_is_the_plain_one(policy: Any, llama: Weights, merged: bool, trees: bool) -> None:
    plain, expected = loss_and_gradients(policy, llama, merged=False, trees=False)
    loss, gradients = loss_and_gradients(policy, llama, merged, trees)
    assert loss == pytest.approx(plain, rel=1e-5)
    assert max(float(each.abs().max()) for each in expected.values()) > 1e-3
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5)


def _definition(inputs: torch.Tensor, damping: float) -> torch.Tensor:
    moment = inputs.double().T @ inputs.double()
    mean = float(moment.trace()) / len(moment)
    eye = torch.eye(len(moment), dtype=torch.float64)
    inverse = damping * mean * torch.linalg.inv(moment + damping * mean * eye)
    return inverse * (len(moment) ** 0.5 / inverse.norm())


@pytest.mark.parametrize(("tokens", "width"), [(40, 12), (12, 40)])
@pytest.mark.parametrize("damping", [0.03, 3.0])
def test_matrix_is_that_of_the_definition(tokens: int, width: int, damping: float) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(tokens, width, generator=generator) * torch.arange(1, width + 1)
    made = Preconditioner.of(inputs, damping).apply(torch.eye(width))
    torch.testing.assert_close(made, _definition(inputs, damping).float(), rtol=1e-4, atol=1e-5)
    assert float(made.norm()) == pytest.approx(width**0.5, rel=1e-4)


def test_common_inputs_are_damped() -> None:
    common, rare = torch.eye(8)[:1], torch.eye(8)[1:2]
    inputs = torch.cat([common * 10] * 20 + [rare])
    made = Preconditioner.of(inputs, 0.01)
    assert float(made.apply(common).norm()) < 0.02 * float(made.apply(rare).norm())


@pytest.mark.parametrize("fill", [0.0, float("nan")])
def test_inputs_without_a_direction_are_refused(fill: float) -> None:
    with pytest.raises(ValueError, match="all 0, or not finite"):
        Preconditioner.of(torch.full((4, 3), fill), 0.1)


def test_weights_are_made_from_the_optimizers_through_the_preconditioner(knowing: Weights) -> None:
    options = parse_method("anchored:rank=4,lr=0.1,warmup=0").options
    trainer = Trainer(knowing.model, options, "--unlearn-method=anchored")
    documents = [encode(knowing.tokenizer, example) for example in KNOWN.retained_people]
    chosen = preconditioners(trainer.policy, documents, 0.1, 0, random.Random(0))
    named = {n: p for n, p in trainer.policy.named_parameters() if p.requires_grad}
    assert set(chosen) == {name for name in named if "lora_A" in name}
    before = {name: weight.detach().clone() for name, weight in named.items()}
    trainer.precondition(chosen)
    for name, weight in named.items():
        expected = before[name]
        if name in chosen:
            expected = chosen[name].apply(expected)
            assert not torch.allclose(weight, before[name])
        torch.testing.assert_close(weight.detach(), expected)
    trainer.step(weight.sum().square() + weight.sum() for weight in named.values())
    for (name, weight), master in zip(named.items(), trainer.snapshot(), strict=True):
        made = chosen.get(name)
        torch.testing.assert_close(weight.detach(), master if made is None else made.apply(master))


def test_layers_with_one_input_share_a_preconditioner(knowing: Weights) -> None:
    policy = Trainer(knowing.model, parse_method("anchored").options, "").policy
    documents = [encode(knowing.tokenizer, example) for example in KNOWN.retained_people]
    chosen = preconditioners(policy, documents, 0.1, 0, random.Random(0))
    first = {name.rsplit(".", 4)[1]: made for name, made in chosen.items() if ".0." in name}
    assert first["q_proj"] is first["k_proj"] is first["v_proj"]
    assert first["gate_proj"] is first["up_proj"]
    assert len({id(made) for made in first.values()}) == 4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_of_every_architecture(architecture: str, knowing: Weights) -> None:
    """PEFT refuses some of Mamba's layers and wraps experts in one tensor: an adapter goes on the
    others, and what is damped is as wide as the inputs of its layer."""
    policy = with_new_adapter(random_model(architecture), 2)
    documents = [encode(knowing.tokenizer, Example.whole(f"USER{n}=V{n};")) for n in range(8)]
    chosen = preconditioners(policy, documents, 0.1, 0, random.Random(0))
    adapted = {n: p for n, p in policy.named_parameters() if "lora_A" in n}
    assert len(adapted) >= 4
    assert len(chosen) >= len(adapted) / 2
    assert all(made.rows.shape[-1] == adapted[n].shape[-1] for n, made in chosen.items())
    assert len(layers_of(policy)) == 2
