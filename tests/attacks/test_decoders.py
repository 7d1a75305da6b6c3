"""Other decoders on a model of random weights: what they give is what adding up gives."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from pytest_unlearn.attacks.attack import AttackError, Reading, attacks, under_attack
from pytest_unlearn.attacks.prompt_attacks import in_format, likeliest, near_verbatim
from pytest_unlearn.models.generation import GenerationError
from pytest_unlearn.models.loading import LanguageModel, Weights
from pytest_unlearn.models.scoring import Scorer
from pytest_unlearn.models.texts import Example
from tests.support.small_models import Completes, byte_tokenizer, small_llama

VALUE = "abcd"
EXAMPLE = Example.answering("k=", VALUE, ";")


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    """A scorer of a model whose predictions are far from even."""
    model = small_llama().eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(40)
    return Scorer(model, byte_tokenizer())


def chance(scorer: Scorer, text: str) -> float:
    return math.exp(scorer.log_probabilities([("k=", text)])[0])


def mass(found: dict[str, Any]) -> float:
    return 0.0 if found["log_probability"] is None else math.exp(found["log_probability"])


def test_the_next_token_after_each_continuation(scorer: Scorer) -> None:
    """With the prompt's cache or without it, in a batch or alone."""
    row = scorer.tokens_of(EXAMPLE)
    continuations = [[], row.answer[:1], row.answer[:3]]
    found = scorer.following(row, continuations)
    for mine, each in zip(found, continuations, strict=True):
        ids = torch.tensor([row.ids + each])
        logits = scorer._model(ids).logits[0, -1]
        assert torch.allclose(mine, logits.log_softmax(-1), atol=1e-4)


def test_mass_near_a_value_is_never_over_the_whole(scorer: Scorer) -> None:
    """At least the value's own probability; at most that of all texts within one edit."""
    found = mass(near_verbatim(scorer, EXAMPLE, "1"))
    assert found >= chance(scorer, VALUE) * 0.999
    # A text that is counted begins with the value but one character, or with three of its own.
    letters = [chr(code) for code in range(33, 127)]
    begins = {VALUE[:3]} | {VALUE[:i] + VALUE[i + 1 :] for i in range(4)}
    begins |= {VALUE[:i] + c + VALUE[i + 1 :] for i in range(4) for c in letters}
    begins |= {VALUE[:i] + c + VALUE[i:] for i in range(5) for c in letters}
    whole = sum(chance(scorer, text) for text in begins)
    assert found <= whole * 1.001
    assert mass(near_verbatim(scorer, EXAMPLE, "3")) == found  # a quarter of four letters is one


def test_the_likeliest_texts_of_a_beam(scorer: Scorer) -> None:
    """A character is found among so many guesses or not, by its rank."""
    row = scorer.tokens_of(EXAMPLE)
    log_probs = scorer.following(row, [[]])[0]
    ranks = {c: int((log_probs > log_probs[own(scorer, c)]).sum()) for c in "abcdefghijklmnopqr"}
    for character, rank in ranks.items():
        found = likeliest(scorer, Example.answering("k=", character, ";"), "90")
        assert found["greedy"] or rank >= 90, character
        if rank < 90:  # and a token without text in front of it adds to that
            assert mass(found) >= 0.999 * chance(scorer, character)
    last = max(ranks, key=lambda character: ranks[character])
    assert not likeliest(scorer, Example.answering("k=", last, ";"), "2")["greedy"]


def own(scorer: Scorer, character: str) -> int:
    (token,) = scorer.tokens_of(Example.answering("k=", character, ";")).answer
    return token


def test_only_what_has_the_form(scorer: Scorer) -> None:
    """Probabilities of all texts of a form add up to one; the likeliest is the greedy one."""
    texts = ["".join(pair) for pair in itertools.product("0123456789", repeat=2)]
    found = [in_format(scorer, Example.answering("k=", text, ";"), "") for text in texts]
    assert math.isclose(sum(map(mass, found)), 1.0, rel_tol=1e-3)
    assert sum(each["greedy"] for each in found) == 1


def test_the_least_likely_token_is_the_first_choice(scorer: Scorer) -> None:
    """The logits are turned round while it lasts, and the weights stay as they are."""
    model = scorer._model
    ids = torch.tensor([[1, 40, 41]])
    before = model(ids).logits
    attack = attacks()["inverse-greedy"]
    with under_attack(model) as target:
        made = attack.made(target)
        assert next(made) == ("inverse-greedy", ("forget", "control"))
        assert torch.equal(model(ids).logits, -before)
        made.close()
    assert torch.equal(model(ids).logits, before)


def test_the_difference_of_two_checkpoints() -> None:
    """At strength 1 the base's logits twice, less the tested model's."""
    base, tested = small_llama().eval(), small_llama().eval()
    with torch.no_grad():
        tested.lm_head.weight.add_(torch.randn_like(tested.lm_head.weight))
    models: list[Any] = [
        LanguageModel(Weights(None, model, byte_tokenizer()), False)  # type: ignore[arg-type]
        for model in (base, tested)
    ]
    read = attacks()["difference"].read
    assert read is not None
    (found,) = read(Reading(models[1], models[0], ["a"], [True]), [EXAMPLE], "1.0")
    row = Scorer(base, byte_tokenizer()).tokens_of(EXAMPLE)
    ids = torch.tensor([row.ids + row.answer])
    with torch.no_grad():
        logits = (2 * base(ids).logits - tested(ids).logits)[0, len(row.ids) - 1 : -1]
    own = [float(line.log_softmax(0)[t]) for line, t in zip(logits, row.answer, strict=True)]
    assert math.isclose(found["log_probability"], sum(own), abs_tol=1e-3)


@pytest.mark.parametrize("name", ["near-verbatim", "likeliest", "format"])
def test_a_model_without_logits_is_refused(name: str) -> None:
    read = attacks()[name].read
    assert read is not None
    with pytest.raises(AttackError, match="gives no logits"):
        read(Reading(Completes(), None, ["a"], [True]), [EXAMPLE], "1")


@pytest.mark.parametrize("name", ["near-verbatim", "likeliest", "format", "inverse-greedy"])
def test_a_broken_model_is_an_error(name: str) -> None:
    """And not a model that gives nothing."""
    model = small_llama().eval()
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    scorer = Scorer(model, byte_tokenizer())

    def ask() -> None:
        read = {"near-verbatim": near_verbatim, "likeliest": likeliest, "format": in_format}
        if name in read:
            read[name](scorer, EXAMPLE, "1")
            return
        with under_attack(model) as target:
            for _ in attacks()[name].made(target):
                scorer.score([EXAMPLE])

    with pytest.raises((AttackError, GenerationError), match="NaN"):
        ask()
