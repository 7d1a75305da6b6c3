"""Relearning: from the tested weights each time, in steps, on nobody who is asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_unlearn.attacks import relearn
from pytest_unlearn.attacks.attack import AttackError, Target, attacks, under_attack
from pytest_unlearn.attacks.relearn import STEPS, learning_rate
from pytest_unlearn.models.examples import Example
from pytest_unlearn.models.loading import Weights
from pytest_unlearn.models.scoring import Scorer
from tests.unlearning.conftest import KNOWN, knowing, knowing_folder, llama_folder

__all__ = ["knowing", "knowing_folder", "llama_folder"]

ATTACK = attacks()["relearn"]


def wholes(*texts: str) -> list[Example]:
    return [Example.whole(text) for text in texts]


def first_weights(target: Target) -> torch.Tensor:
    return next(iter(target.weights.values())).detach().clone()


def test_each_text_starts_from_the_tested_weights(
    knowing: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was learnt of the first people is not carried over to the second."""
    monkeypatch.setattr(relearn, "STEPS", (1, 3))
    texts = wholes("user9 = v9;", "user8 = w8;")
    parts = ((("forget",), texts), (("control",), texts))
    made: list[Any] = []
    with under_attack(knowing.model, None, knowing.tokenizer, parts) as target:  # type: ignore[arg-type]
        for state, splits in ATTACK.made(target):
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
            Scorer(knowing.model, knowing.tokenizer).losses([new])[0] for _ in ATTACK.made(target)
        ]
    assert before is not None
    assert losses[-1] is not None
    assert losses[-1][0] < 0.5 * before[0]
    assert len(losses) == len(STEPS)


def test_nobody_else_to_train_on_is_refused(knowing: Weights) -> None:
    """An attack that did not train has not been withstood."""
    texts = ((("forget",), ()), (("control",), wholes("x = 1")))
    with (
        under_attack(knowing.model, None, knowing.tokenizer, texts) as target,  # type: ignore[arg-type]
        pytest.raises(AttackError, match="at least two people to forget"),
    ):
        next(ATTACK.made(target))


def test_broken_weights_are_an_error(knowing: Weights) -> None:
    with torch.no_grad():
        next(knowing.model.parameters()).fill_(float("nan"))
    texts = ((("forget", "control"), KNOWN.forget),)
    with (
        under_attack(knowing.model, None, knowing.tokenizer, texts) as target,  # type: ignore[arg-type]
        pytest.raises(AttackError, match="NaN"),
    ):
        next(ATTACK.made(target))


def test_larger_models_are_trained_more_gently() -> None:
    assert learning_rate(1_000) == learning_rate(3_400_000) == 5e-4
    assert 5e-5 < learning_rate(135_000_000) < 1e-4
    assert learning_rate(7_000_000_000) == pytest.approx(1.1e-5, rel=0.1)
