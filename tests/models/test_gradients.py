"""Gradient norms against autograd by hand; members of a trained batch stand out in each attack."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_unlearn.leaks.exact import ExactScores, exact_row, extraction
from pytest_unlearn.leaks.membership import ATTACKS, attack_score, auc
from pytest_unlearn.models.batches import collate, encode
from pytest_unlearn.models.generation import GenerationError
from pytest_unlearn.models.gradients import gradient_norms, last_block
from pytest_unlearn.models.loading import Weights, peft_quietly
from pytest_unlearn.models.scoring import Scorer
from pytest_unlearn.models.texts import Example
from pytest_unlearn.people.draws import Stream
from tests.support.small_models import learn

EXAMPLES = [
    Example.answering("a = '", "bcd", "'\n"),
    Example.answering("name: ", "x yz", "\n"),
    Example.answering("q", "longer value than the others", '"'),
]


def by_hand(model: Any, tokenizer: Any, example: Example, chosen: str, p: int) -> float:
    """Backpropagate one token's loss at a time into a copy and take the norm over all entries."""
    model = copy.deepcopy(model)
    prompt = tokenizer(example.text[: example.start])["input_ids"]
    ids = tokenizer(example.text[: example.end])["input_ids"]
    for position in range(len(prompt), len(ids)):
        logits = model(input_ids=torch.tensor([ids[:position]])).logits[0, -1]
        loss = -logits.log_softmax(-1)[ids[position]] / (len(ids) - len(prompt))
        loss.backward()
    entries = torch.cat(
        [
            w.grad.flatten()
            for n, w in model.named_parameters()
            if chosen in n and w.grad is not None
        ]
    )
    return float(entries.double().abs().pow(p).sum().pow(1 / p))


@pytest.mark.parametrize("p", [1, 2])
def test_norm_by_hand(llama: Weights, p: int) -> None:
    """Over all parameters and over the last block, of examples of different length."""
    model: Any = llama.model
    norms = gradient_norms(model, llama.tokenizer, EXAMPLES, p=p)
    last = gradient_norms(model, llama.tokenizer, EXAMPLES, last_block(model), p)
    # The second value follows a space, which generation has to write and nobody asked for.
    for index in (0, 2):
        for found, chosen in ((norms, ""), (last, "layers.1.")):
            expected = by_hand(model, llama.tokenizer, EXAMPLES[index], chosen, p)
            assert found[index] == pytest.approx(expected, rel=1e-4)
    assert all(part < whole for part, whole in zip(last, norms, strict=True))


def test_of_the_tokens_that_are_scored(llama: Weights) -> None:
    """The loss is the mean of `ValueScores.log_probs`: moving along the gradient lowers that."""
    model: Any = llama.model
    norms = gradient_norms(model, llama.tokenizer, EXAMPLES)
    step = 1e-3
    for example, norm in zip(EXAMPLES, norms, strict=True):
        moved = copy.deepcopy(model)
        scores = Scorer(model, llama.tokenizer).score([example])[0].log_probs
        length = len(llama.tokenizer(example.text[: example.end])["input_ids"])
        ids = torch.tensor([llama.tokenizer(example.text[: example.end])["input_ids"]])
        logits = moved(input_ids=ids[:, :-1]).logits[0, -len(scores) :]
        assert len(scores) < length
        torch.nn.functional.cross_entropy(logits, ids[0, -len(scores) :]).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for weight in moved.parameters():
                if weight.grad is not None:
                    weight -= step * weight.grad / norm
        after = Scorer(moved, llama.tokenizer).score([example])[0].log_probs
        gained = (math.fsum(after) - math.fsum(scores)) / len(scores)
        assert gained == pytest.approx(step * norm, rel=0.05)


def test_nothing_of_the_model_changes(llama: Weights) -> None:
    """Flags, `.grad` and modes are restored, also after an error, and a caller's mode is no bar."""
    model: Any = llama.model
    parameters = list(model.parameters())
    for index, weight in enumerate(parameters):
        weight.requires_grad_(index % 2 == 0)
    parameters[0].grad = torch.ones_like(parameters[0])
    model.train()
    model.model.layers[0].eval()

    def state() -> list[Any]:
        return [
            [w.requires_grad for w in parameters],
            [w.grad is None for w in parameters],
            [m.training for m in model.modules()],
        ]

    before = state()
    norms = gradient_norms(model, llama.tokenizer, EXAMPLES)
    assert state() == before
    assert bool((parameters[0].grad == 1).all())
    with torch.inference_mode():
        assert gradient_norms(model, llama.tokenizer, EXAMPLES) == norms
    with torch.no_grad():
        parameters[-1].fill_(float("nan"))
    with pytest.raises(GenerationError, match="not finite"):
        gradient_norms(model, llama.tokenizer, EXAMPLES)
    assert state() == before


def test_dropout_is_off(llama: Weights) -> None:
    """A model left in training mode gives the same score twice."""
    model: Any = llama.model
    expected = gradient_norms(model, llama.tokenizer, EXAMPLES)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    assert gradient_norms(model, llama.tokenizer, EXAMPLES) == expected


def test_an_adapter_counts_as_if_merged(llama: Weights) -> None:
    """The adapted, frozen model has the norms of the merged one; switched off, of the base."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(2)
    model: Any = llama.model
    base = gradient_norms(model, llama.tokenizer, EXAMPLES)
    options = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    with peft_quietly():
        adapted: Any = get_peft_model(model, options)
    adapted.requires_grad_(False)
    norms = gradient_norms(adapted, llama.tokenizer, EXAMPLES)
    last = gradient_norms(adapted, llama.tokenizer, EXAMPLES, last_block(adapted))
    assert norms != pytest.approx(base, rel=0.01)
    with adapted.disable_adapter():
        off = gradient_norms(adapted, llama.tokenizer, EXAMPLES)
    assert off == pytest.approx(base, rel=1e-4)
    merged: Any = adapted.merge_and_unload()
    assert norms == pytest.approx(gradient_norms(merged, llama.tokenizer, EXAMPLES), rel=1e-4)
    assert last == pytest.approx(
        gradient_norms(merged, llama.tokenizer, EXAMPLES, last_block(merged)), rel=1e-4
    )


def test_refusals(llama: Weights) -> None:
    """No norm of nothing, and no p that nobody checked."""
    model: Any = llama.model
    with pytest.raises(ValueError, match="p is 3"):
        gradient_norms(model, llama.tokenizer, EXAMPLES, p=3)
    with pytest.raises(ValueError, match="chosen"):
        gradient_norms(model, llama.tokenizer, EXAMPLES, lambda name: False)
    with pytest.raises(GenerationError, match="context"):
        gradient_norms(model, llama.tokenizer, [Example.answering("a", "b" * 300)])
    with pytest.raises(ValueError, match="list of blocks"):
        last_block(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    assert gradient_norms(model, llama.tokenizer, []) == []


def _rows(model: Any, llama: Weights, examples: list[Example]) -> list[ExactScores]:
    scores = Scorer(model, llama.tokenizer).score(examples)
    reference = Scorer(llama.model, llama.tokenizer).score(examples)
    norms = gradient_norms(model, llama.tokenizer, examples)
    return [
        replace(
            ExactScores.from_row(exact_row(extraction(own))),
            gradient_norm=norm,
            reference_loss=extraction(other).loss,
        )
        for own, other, norm in zip(scores, reference, norms, strict=True)
    ]


def _aucs(rows: list[ExactScores]) -> dict[str, float]:
    """Each attack's AUC where the first half are members."""
    half = len(rows) // 2
    scores = {name: [attack_score(name, each) for each in rows] for name in ATTACKS}
    return {name: auc(s[:half], s[half:], confidence=0.95).estimate for name, s in scores.items()}


def test_members_stand_out_after_training(llama: Weights) -> None:
    """Eight texts trained on score above eight of the same sort in all six attacks."""
    stream = Stream("membership", 7)
    examples = [
        Example.answering(
            f"{stream.text('abcdefgh', 3)}.code = '", stream.text("abcdefghij0123456789", 8), "'\n"
        )
        for _ in range(16)
    ]
    before = _aucs(_rows(llama.model, llama, examples))
    assert all(0.2 < value < 0.8 for value in before.values()), before

    trained: Any = copy.deepcopy(llama.model)
    batch = collate([encode(llama.tokenizer, example) for example in examples[:8]], 0)
    learn(trained, batch, steps=20)
    after = _aucs(_rows(trained, llama, examples))
    assert all(value > 0.8 for value in after.values()), after
