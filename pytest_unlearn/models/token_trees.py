"""Batches run as trees: what rows begin with alike goes through a model once, and no padding does.

Probes and documents of one kind and carrier begin with the same tokens. Of a causal model the
states there are the same, and so is what they add to a gradient. All tokens of a batch are given
as one row, each node of the tree once; in attention alone the rows are put side by side again,
each with the keys and values along its path. Nothing else in a model looks from token to token; of
one in which something does, `runs_as_tree` says no.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pytest_unlearn.models.batches import TokenTree, padded
from pytest_unlearn.models.lm_head import body_of, causal_model, hidden_states

# The name under which transformers finds `_attention`.
_NAME = "unlearn_token_tree"
# Names of a model's own limits to what a token sees, in tokens.
_WINDOWS = ("sliding_window", "attention_chunk_size")


_TREE: ContextVar[TokenTree] = ContextVar("tree")


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend along each row's path; tensors are `[1, heads, n, size]`, the result `[1, n, ...]`.

    Padding is on the right, where no token of a row sees it.
    """
    tree = _TREE.get()
    rows, width = tree.places.shape
    places, firsts = tree.places.flatten().to(query.device), tree.firsts.to(query.device)

    def side_by_side(tensor: torch.Tensor) -> torch.Tensor:
        _, heads, count, size = tensor.shape
        flat = tensor[0].transpose(0, 1).reshape(count, heads * size)
        return flat.index_select(0, places).view(rows, width, heads, size).transpose(1, 2)

    options["is_causal"] = True
    output, _ = sdpa_attention_forward(
        module, side_by_side(query), side_by_side(key), side_by_side(value), None, **options
    )
    return output.flatten(0, 1).index_select(0, firsts)[None], None


ALL_ATTENTION_FUNCTIONS.register(_NAME, _attention)


@contextlib.contextmanager
def attending(model: Any, tree: TokenTree) -> Iterator[dict[str, torch.Tensor]]:
    """Let a model's layers attend along the paths of a tree, for a block; give its inputs.

    Raises ValueError for a model whose attention is not torch's (`sdpa`).
    """
    config = causal_model(model).config.get_text_config()
    before = getattr(config, "_attn_implementation", None)
    if before != "sdpa":
        raise ValueError(f"{type(model).__name__} attends by {before}, which takes no tree")
    token = _TREE.set(tree)
    config._attn_implementation = _NAME
    try:
        yield {
            "input_ids": tree.tokens[None],
            # Four dimensions: the caller's own, so that none is made of it.
            "attention_mask": torch.zeros(1, 1, 1, 1, device=tree.tokens.device),
            "position_ids": tree.depths[None],
        }
    finally:
        config._attn_implementation = before
        _TREE.reset(token)


def tree_states(model: Any, tree: TokenTree) -> torch.Tensor:
    """Return the last hidden states of a tree's tokens, `[n, hidden]`, ready for the head.

    For a model of which `runs_as_tree` says so. The backward pass needs no more of this function,
    unless layers are run again in it (checkpointing).
    """
    with attending(model, tree) as inputs:
        output = body_of(model)(**inputs, use_cache=False)
    states: torch.Tensor = output.last_hidden_state[0]
    return states.to(tree.tokens.device)


@torch.no_grad()
def runs_as_tree(model: Any, rows: Sequence[Sequence[int]], longest: int) -> bool:
    """Tell whether a model gives the states of rows of token ids when they are run as a tree.

    It is tried. `rows`: a few, some of which begin alike; `longest`: the most tokens of a row.
    """
    config = causal_model(model).config.get_text_config()
    windows = [getattr(config, name, None) for name in _WINDOWS]
    if any(isinstance(window, int) and window < longest for window in windows):
        return False
    device = causal_model(model).get_input_embeddings().weight.device
    tree = TokenTree.of(rows, device)
    ids, mask = padded([list(row) for row in rows], 0, device)
    own = hidden_states(model, {"input_ids": ids, "attention_mask": mask})[mask.bool()]
    try:
        made = tree_states(model, tree)[tree.places[mask.bool()]]
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return False
    off = float((made - own).float().norm() / own.float().norm().clamp(min=1e-12))
    return off <= (1e-4 if own.dtype == torch.float32 else 0.05)  # not where it is NaN
