"""Preconditioned steps: matrices as defined, and weights made through them."""

from __future__ import annotations

import random

import pytest
import torch

from pytest_unlearn.models.batches import encode
from pytest_unlearn.models.loading import Weights
from pytest_unlearn.unlearning.methods import parse_method
from pytest_unlearn.unlearning.preconditioning import Preconditioner, preconditioners
from pytest_unlearn.unlearning.trainer import Trainer
from tests.unlearning.conftest import KNOWN


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
