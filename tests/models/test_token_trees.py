"""Batches run as trees: the same states and gradients with fewer tokens, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from pytest_unlearn.models.batches import Encoded, TokenTree, as_tree, collate
from pytest_unlearn.models.lm_head import hidden_states
from pytest_unlearn.models.token_trees import runs_as_tree, tree_states
from tests.support.architectures import ARCHITECTURES, random_model

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
