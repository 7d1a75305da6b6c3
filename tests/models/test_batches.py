"""Masks, padding and trees: what is learnt, and the same states and gradients with fewer tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from pytest_unlearn.models.batches import (
    IGNORED,
    Encoded,
    TokenTree,
    as_tree,
    collate,
    encode,
    runs_as_tree,
    shuffled_batches,
    tree_states,
)
from pytest_unlearn.models.lm_head import hidden_states
from pytest_unlearn.models.texts import Example
from tests.support.architectures import ARCHITECTURES, random_model
from tests.support.small_models import byte_tokenizer

BYTES = byte_tokenizer()
words = st.text(alphabet="abc \n\"'=", min_size=1, max_size=12)


@given(words, words, st.text(alphabet="abc", max_size=5))
def test_labels_are_the_answers_tokens(prompt: str, answer: str, after: str) -> None:
    """With a byte tokenizer: exactly the answer, and the end token when nothing follows."""
    row = encode(BYTES, Example.answering(prompt, answer, after))
    learnt = [token for token, label in zip(row.ids, row.labels, strict=True) if label != IGNORED]
    assert all(label in (token, IGNORED) for token, label in zip(row.ids, row.labels, strict=True))
    text = BYTES.decode(learnt, skip_special_tokens=True)
    assert text == answer
    assert (BYTES.eos_token_id in learnt) is (after == "")


def test_a_token_across_the_border_is_learnt() -> None:
    """A tokenizer that merges quote and value must not lose the value's first character."""
    bpe = Tokenizer(
        models.BPE(vocab={"x": 0, "=": 1, '"': 2, "a": 3, '"a': 4}, merges=[('"', "a")])
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe)
    row = encode(tokenizer, Example.answering('x="', "aa", '"'))
    assert row.ids == [0, 1, 4, 3, 2]
    assert row.labels == [IGNORED, IGNORED, 4, 3, IGNORED]


def test_padding_is_right_and_never_learnt() -> None:
    """Mask 0, label IGNORED, and the rows as they were."""
    rows = [encode(BYTES, Example.whole(text)) for text in ("ab", "abcdef")]
    batch = collate(rows, pad_id=0)
    assert batch.input_ids.shape == batch.labels.shape == batch.attention_mask.shape
    assert batch.attention_mask.sum(1).tolist() == [len(row.ids) for row in rows]
    padding = batch.attention_mask == 0
    assert bool((batch.labels[padding] == IGNORED).all())
    assert batch.input_ids[0, : len(rows[0].ids)].tolist() == rows[0].ids


def test_an_answer_without_a_token_is_refused() -> None:
    """It would count as a loss of zero."""
    for example in (Example("text", 2, 2), Example("text", 4, 4)):
        with pytest.raises(ValueError, match="no token of a text"):
            encode(BYTES, Example(example.text + "x", example.start, example.end))


@pytest.mark.parametrize(("before", "after"), [(300, 0), (0, 300), (300, 300), (10, 300)])
def test_a_long_text_keeps_its_answer(before: int, after: int) -> None:
    """The beginning goes, and what follows the answer; the answer stays whole."""
    row = encode(BYTES, Example.answering("p" * before + "=", "value", "x" * after), 64)
    assert len(row.ids) == len(row.labels) == 64
    learnt = [label for label in row.labels if label != IGNORED]
    assert BYTES.decode(learnt, skip_special_tokens=True) == "value"


def test_an_epoch_holds_each_row_once() -> None:
    """In batches of like length, in an order that the generator gives."""
    rows = [encode(BYTES, Example.whole("a" * (1 + n % 7))) for n in range(50)]
    epochs = [
        list(shuffled_batches(rows, 8, torch.Generator().manual_seed(seed))) for seed in (0, 0, 1)
    ]
    assert sorted(id(r) for b in epochs[0] for r in b) == sorted(map(id, rows))
    assert epochs[0] == epochs[1]
    assert epochs[0] != epochs[2]
    spread = max(len(r.ids) for r in epochs[0][0]) - min(len(r.ids) for r in epochs[0][0])
    assert spread <= 2


# The first three begin alike, the last is the beginning of the first, the fourth like nothing else.
ROWS = [[5, 6, 7, 8, 9], [5, 6, 7, 10], [5, 6, 11, 12, 13, 14], [20, 21], [5, 6, 7]]
# Whose attention is torch's, with nothing beside it that looks from token to token.
TREES = {"llama", "qwen2", "starcoder2", "cohere", "granite", "gpt2", "mixtral", "hyperclovax"}


def test_what_rows_begin_with_alike_is_there_once() -> None:
    tree = TokenTree.of(ROWS)
    assert tree.tokens.tolist() == [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 20, 21]
    assert tree.depths.tolist() == [0, 1, 2, 3, 4, 3, 2, 3, 4, 5, 0, 1]
    assert tree.places.tolist() == [
        [0, 1, 2, 3, 4, 0],
        [0, 1, 2, 5, 0, 0],
        [0, 1, 6, 7, 8, 9],
        [10, 11, 0, 0, 0, 0],
        [0, 1, 2, 0, 0, 0],
    ]
    assert tree.places.flatten()[tree.firsts].tolist() == list(range(12))


def plain_states(model: Any, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """The states of each row, run alone."""
    ids = [torch.tensor([[*row]]) for row in rows]
    return [
        hidden_states(model, {"input_ids": each, "attention_mask": torch.ones_like(each)})[0]
        for each in ids
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_states_are_those_of_the_rows(architecture: str) -> None:
    """Or the model does not run trees: windows, recurrent layers, an attention of its own."""
    model = random_model(architecture)
    before = model.config._attn_implementation
    runs = runs_as_tree(model, ROWS, 32)
    assert model.config._attn_implementation == before
    if architecture in TREES:
        assert runs
    if runs:
        tree = TokenTree.of(ROWS)
        made = tree_states(model, tree)
        for row, own in enumerate(plain_states(model, ROWS)):
            torch.testing.assert_close(made[tree.places[row, : len(own)]], own)


def test_gradients_are_those_of_the_rows() -> None:
    """A token of several rows has the gradients of all."""
    model = random_model("llama")
    weights = dict(model.named_parameters())
    factors = torch.randn(len(ROWS), 6, 16, generator=torch.Generator().manual_seed(0))

    def gradients(states: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        total = sum((own * factors[row, : len(own)]).sum() for row, own in enumerate(states))
        found = torch.autograd.grad(total, list(weights.values()), allow_unused=True)  # type: ignore[arg-type]
        return {n: g for n, g in zip(weights, found, strict=True) if g is not None}

    tree = TokenTree.of(ROWS)
    made = tree_states(model, tree)
    of_tree = gradients([made[tree.places[n, : len(row)]] for n, row in enumerate(ROWS)])
    of_rows = gradients(plain_states(model, ROWS))
    assert len(of_rows) > 10
    assert of_tree.keys() == of_rows.keys()
    for name, expected in of_rows.items():
        torch.testing.assert_close(of_tree[name], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [6, None])
def test_a_window_shorter_than_a_row_is_no_tree(size: int | None) -> None:
    model = random_model("mixtral")
    model.config.sliding_window = size
    assert runs_as_tree(model, ROWS, 6)
    assert runs_as_tree(model, ROWS, 7) == (size is None)


def test_an_attention_of_another_kind_is_no_tree() -> None:
    model = random_model("llama")
    model.set_attn_implementation("eager")
    assert not runs_as_tree(model, ROWS, 32)
    assert model.config._attn_implementation == "eager"


def test_a_batch_keeps_its_tree() -> None:
    batch = as_tree(collate([Encoded(row, list(row)) for row in ROWS], 0))
    assert batch.tree is not None
    assert batch.relabelled(batch.whole_labels()).tree is batch.tree
    padded = batch.tree.tokens[batch.tree.places] * batch.attention_mask
    assert torch.equal(padded, batch.input_ids)
