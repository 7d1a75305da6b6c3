"""What hidden states give away: the lens is a model cut off, the probe meets nobody twice."""

from __future__ import annotations

import contextlib

import pytest
import torch

from pytest_unlearn.attacks.attack import AttackError, Reading
from pytest_unlearn.attacks.hidden_states import cross_validated, signatures, told_apart
from pytest_unlearn.leaks.membership import auc
from pytest_unlearn.models.lm_head import cut_off, hidden_states, layers_of, states_at
from pytest_unlearn.models.loading import LanguageModel, Weights
from pytest_unlearn.models.texts import Example
from tests.support.small_models import Completes, llama, llama_folder, small_llama

__all__ = ["llama", "llama_folder"]

INPUTS = {
    "input_ids": torch.arange(3, 11)[None],
    "attention_mask": torch.ones(1, 8, dtype=torch.long),
}


def test_a_model_cut_off_reads_a_middle_layer() -> None:
    """Last norm and head follow the layer at once, and the layers come back whatever happens."""
    model = small_llama()
    whole = model(**INPUTS).logits
    middle = model.lm_head(model.model.norm(states_at(model, INPUTS, 0.5)))
    with cut_off(model, 0.25):
        assert len(layers_of_cut(model)) == 1
        assert torch.allclose(model(**INPUTS).logits, middle, atol=1e-5)
    with contextlib.suppress(ZeroDivisionError), cut_off(model, 0.99):
        assert len(layers_of_cut(model)) == 1  # never the whole model
        raise ZeroDivisionError
    assert len(layers_of(model)) == 2
    assert torch.equal(model(**INPUTS).logits, whole)


def layers_of_cut(model: torch.nn.Module) -> torch.nn.ModuleList:
    layers: torch.nn.ModuleList = model.model.layers
    return layers


def separation(scores: list[float], members: list[bool]) -> float:
    sides = (
        [s for s, m in zip(scores, members, strict=True) if m is side] for side in (True, False)
    )
    return auc(*sides, confidence=0.95).estimate


def test_the_probe_finds_a_direction() -> None:
    torch.manual_seed(0)
    members = [n % 2 == 0 for n in range(80)]
    features = torch.randn(80, 200)
    people = [f"p{n}" for n in range(80)]
    chance = separation(cross_validated(features, members, people), members)
    features[:, 7] += torch.tensor(members) * 3.0
    features[:, 9] += torch.tensor(members) * 3.0
    assert separation(cross_validated(features, members, people), members) > 0.8
    assert 0.3 < chance < 0.7


def test_a_person_is_never_told_by_his_own_rows() -> None:
    """Ten rows of each person that are all alike say nothing about anybody else."""
    members = [n % 2 == 0 for n in range(20) for _ in range(10)]
    people = [f"p{n}" for n in range(20) for _ in range(10)]
    alone = [f"row {n}" for n in range(200)]
    by_person = []
    for seed in range(10):
        torch.manual_seed(seed)
        features = torch.randn(20, 50).repeat_interleave(10, dim=0)
        by_person.append(separation(cross_validated(features, members, people), members))
        assert separation(cross_validated(features, members, alone), members) > 0.99
    assert 0.4 < sum(by_person) / 10 < 0.65


def test_one_person_on_a_side_is_refused() -> None:
    with pytest.raises(AttackError, match="two control people"):
        cross_validated(torch.randn(3, 4), [True, True, False], ["a", "b", "c"])


def test_a_signature_adds_up_to_the_logits_of_the_value(llama: Weights) -> None:
    """Its sum is the mean logit that a lens on that layer gives the value's tokens."""
    model = LanguageModel(llama, False)
    example = Example.answering("name: ", "ab", ";")
    (found, other) = signatures(model, [example, Example.answering("n: ", "abc", ";")], 1.0)
    ids = torch.tensor([llama.tokenizer(example.text)["input_ids"]])
    states = states_at(llama.model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 1.0)
    states = states.detach()
    own = [states[0, at] for at in (len(ids[0]) - 4, len(ids[0]) - 3)]
    head = llama.model.get_output_embeddings().weight.detach()
    logits = [
        float(s / s.square().mean().sqrt() @ head[token])
        for s, token in zip(own, ids[0, -3:-1], strict=True)
    ]
    assert abs(float(found.sum()) - sum(logits) / 2) < 1e-4
    assert found.shape == other.shape
    assert hidden_states(llama.model, INPUTS).shape[-1] == len(found)


def test_a_model_without_hidden_states_is_refused() -> None:
    reading = Reading(Completes(), None, ["a", "b"], [True, False])
    with pytest.raises(AttackError, match="gives no hidden states"):
        told_apart(reading, [], "50")
