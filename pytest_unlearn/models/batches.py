"""Training examples as padded batches, with a mask of the tokens to learn, or as trees.

Probes and documents of one kind and carrier begin with the same tokens. In a causal model, the
states of these tokens are the same, and so is their contribution to a gradient. So common prefixes
can go through a model once, and padding is not needed: all tokens of a batch are given as one row,
each node of the tree once. Only in attention are the rows put side by side again, each with the
keys and values along its path. Nothing else in a model looks from token to token; if something
does, `runs_as_tree` returns False.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pytest_unlearn.models.lm_head import IGNORED as IGNORED
from pytest_unlearn.models.lm_head import body_of, causal_model, hidden_states
from pytest_unlearn.models.texts import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The name by which transformers finds `_attention`.
_NAME = "unlearn_token_tree"
# Names of configuration entries that limit what a token sees, in tokens.
_WINDOWS = ("sliding_window", "attention_chunk_size")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids and labels of one example, both of shape `[tokens]`.

    `like`: the example's. What a method may have attached: `alternate`, the same text with another
    answer; `base_nll`, the base model's summed NLL of the labels, in nats; `base_top`, its
    likeliest tokens; `base_states`, its hidden states.
    """

    ids: list[int]
    labels: list[int]
    alternate: Encoded | None = None
    base_nll: float | None = None
    base_top: TopTokens | None = None
    base_states: States | None = field(default=None, repr=False, compare=False)
    like: str = ""


class TopTokens(NamedTuple):
    """The `k` likeliest tokens where each of `n` labels is predicted, both of shape `[n, k]`."""

    log_probs: torch.Tensor
    ids: torch.Tensor


class Node(NamedTuple):
    """A token of a tree: its place in a row, and the first row that has it."""

    token: int
    depth: int
    row: int


def tree_of(rows: Sequence[Sequence[int]]) -> tuple[list[Node], list[list[int]]]:
    """Return the tokens of all rows, common prefixes only once, and each row's path.

    A node's parent comes before it.
    """
    numbers: dict[tuple[int, int], int] = {}
    nodes: list[Node] = []
    paths = []
    for place, row in enumerate(rows):
        path: list[int] = []
        parent = -1
        for depth, token in enumerate(row):
            number = numbers.setdefault((parent, token), len(nodes))
            if number == len(nodes):
                nodes.append(Node(token, depth, place))
            path.append(number)
            parent = number
        paths.append(path)
    return nodes, paths


@dataclass(frozen=True, slots=True)
class TokenTree:
    """A batch as a tree of `n` tokens; all tensors are int64.

    tokens, depths: `[n]`. places: `[rows, tokens]`, the node of each token, 0 at padding, which is
    on the right. firsts: `[n]`, the first place of each node in the flattened rows.
    """

    tokens: torch.Tensor
    depths: torch.Tensor
    places: torch.Tensor
    firsts: torch.Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> TokenTree:
        """Return the tree of rows of token ids."""
        nodes, paths = tree_of(rows)
        width = max(map(len, paths))
        return cls(
            torch.tensor([node.token for node in nodes], device=device),
            torch.tensor([node.depth for node in nodes], device=device),
            padded(paths, 0, device)[0],
            torch.tensor([node.row * width + node.depth for node in nodes], device=device),
        )


class States(NamedTuple):
    """Hidden states of a row: those of some layers at each token, `[layers, tokens, hidden]`, and
    the head's inputs at the predictions of its `n` labels, `[n, hidden]`."""

    layers: torch.Tensor
    last: torch.Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """`input_ids`, `attention_mask` and `labels`, each int64 of shape `[rows, tokens]`.

    Padding is on the right; its labels are `IGNORED`. `rows`: the examples, with what is attached.
    `tree`: set if a model runs the batch as a tree.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    rows: tuple[Encoded, ...] = field(default=(), repr=False)
    tree: TokenTree | None = field(default=None, repr=False)

    def model_inputs(self) -> dict[str, torch.Tensor]:
        """Return what a forward pass needs; the loss is computed by the caller."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}

    def relabelled(self, labels: torch.Tensor) -> Batch:
        """Return the same texts with other labels."""
        return replace(self, labels=labels)

    def whole_labels(self) -> torch.Tensor:
        """Return labels that learn every token of the texts."""
        return self.input_ids.masked_fill(self.attention_mask == 0, IGNORED)

    def learnt_of(self, wider: Batch) -> torch.Tensor:
        """Return which of the `n` tokens learned in `wider`, a batch of the same texts, are learned
        here: bool `[n]`."""
        return self.labels[:, 1:][wider.labels[:, 1:] != IGNORED] != IGNORED


def as_tree(batch: Batch) -> Batch:
    """Return a batch with its tree, for a model for which `runs_as_tree` is true."""
    rows = [row.ids for row in batch.rows]
    return replace(batch, tree=TokenTree.of(rows, batch.input_ids.device))


def encode(
    tokenizer: PreTrainedTokenizerBase, example: Example, max_length: int | None = None
) -> Encoded:
    """Tokenize an example as it appears in training data, closed by the end-of-text token.

    A token is learned if any of its characters is in the answer: a tokenizer may merge the first
    character of a value with the quote before it, and a span cut at token borders of the prompt
    alone would miss it. A text of more than `max_length` tokens loses its beginning and what
    follows the answer, but never the answer's end. Raises ValueError if no token is in the answer.
    """
    encoding: Any = tokenizer(example.text, return_offsets_mapping=True)
    ids: list[int] = list(encoding["input_ids"])
    labels = [
        token if begin < example.end and stop > example.start else IGNORED
        for token, (begin, stop) in zip(ids, encoding["offset_mapping"], strict=True)
    ]
    if tokenizer.eos_token_id is not None:
        ids.append(int(tokenizer.eos_token_id))
        labels.append(ids[-1] if example.end >= len(example.text) else IGNORED)
    learnt = [position for position, label in enumerate(labels) if label != IGNORED]
    if not learnt or learnt[-1] == 0:
        raise ValueError(
            f"no token of a text of {len(example.text)} characters lies in its answer "
            f"[{example.start}, {example.end})"
        )
    if max_length is not None and len(ids) > max_length:
        stop = max(learnt[-1] + 1, max_length)
        ids, labels = ids[stop - max_length : stop], labels[stop - max_length : stop]
    return Encoded(ids, labels)


def collate(
    rows: Sequence[Encoded],
    pad_id: int,
    device: torch.device | str = "cpu",
    trees: bool = False,
) -> Batch:
    """Pad rows on the right to the longest of them; with `trees`, add their tree (`as_tree`)."""
    ids, mask = padded([row.ids for row in rows], pad_id, device)
    labels, _ = padded([row.labels for row in rows], IGNORED, device)
    batch = Batch(ids, mask, labels, tuple(rows))
    return as_tree(batch) if trees else batch


def joined(first: Batch, second: Batch) -> Batch:
    """Return the rows of two batches as one batch, padded to the wider: one pass for both."""
    width = max(first.input_ids.shape[1], second.input_ids.shape[1])

    def both(name: str, filler: int) -> torch.Tensor:
        parts = [getattr(batch, name) for batch in (first, second)]
        return torch.cat([F.pad(p, (0, width - p.shape[1]), value=filler) for p in parts])

    return Batch(
        both("input_ids", 0),  # any token will do: the mask is 0 there
        both("attention_mask", 0),
        both("labels", IGNORED),
        first.rows + second.rows,
    )


def padded(
    rows: Sequence[list[int]], pad: int, device: torch.device | str, left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of numbers padded to the longest, on the right or `left`, and their mask.

    Both int64 of shape `[rows, longest]`; the mask is 0 at padding.
    """
    width = max(map(len, rows))

    def filled(row: list[int], filler: int) -> list[int]:
        padding = [filler] * (width - len(row))
        return padding + row if left else row + padding

    return (
        torch.tensor([filled(row, pad) for row in rows], device=device),
        torch.tensor([filled([1] * len(row), 0) for row in rows], device=device),
    )


def shuffled_batches(
    rows: Sequence[Encoded], size: int, generator: torch.Generator
) -> Iterator[list[Encoded]]:
    """Yield one epoch in batches of rows of similar length, in random order.

    Sorting by length before cutting keeps padding small; the order inside a length class and the
    order of batches come from `generator`.
    """
    order = torch.randperm(len(rows), generator=generator).tolist()
    order.sort(key=lambda i: len(rows[i].ids))
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    for b in torch.randperm(len(batches), generator=generator).tolist():
        yield [rows[i] for i in batches[b]]


_TREE: ContextVar[TokenTree] = ContextVar("tree")


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend along each row's path; tensors are `[1, heads, n, size]`, the result is `[1, n, ...]`.

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
    """Let a model's layers attend along the paths of a tree in a block; yield its inputs.

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
            # Four dimensions, so that transformers does not make another mask from it.
            "attention_mask": torch.zeros(1, 1, 1, 1, device=tree.tokens.device),
            "position_ids": tree.depths[None],
        }
    finally:
        config._attn_implementation = before
        _TREE.reset(token)


def tree_states(model: Any, tree: TokenTree) -> torch.Tensor:
    """Return the last hidden states of a tree's tokens, `[n, hidden]`, ready for the head.

    For a model for which `runs_as_tree` is true. The backward pass does not need the block any
    more, unless layers are run again in it (checkpointing).
    """
    with attending(model, tree) as inputs:
        output = body_of(model)(**inputs, use_cache=False)
    states: torch.Tensor = output.last_hidden_state[0]
    return states.to(tree.tokens.device)


@torch.no_grad()
def runs_as_tree(model: Any, rows: Sequence[Sequence[int]], longest: int) -> bool:
    """Return whether a model gives the right states if rows of token ids are run as a tree, by
    trying it.

    `rows`: a few rows, some with a common prefix; `longest`: the most tokens of a row.
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
