"""The loop that writes a batch of texts, with less to compute than transformers' `generate`.

- Prompts of a batch begin alike, since probes of one kind and carrier do. What they share goes
  through the model once, as a tree (`batches`), and each row then gets the keys and values
  along its path.
- A row that has ended leaves the batch, and is not computed until the longest has ended.
- Where another state of the model has written after the same prompt (the base, before the unlearned
  model), that text is a draft: one pass over some tokens of it gives what greedy decoding chooses
  at each of their places, so that all up to the first other choice is had in a pass and not token
  by token (speculative decoding, Leviathan et al. 2023, arXiv 2211.17192, with greedy choices). A
  draft changes no text: only the model's own choices are kept.

Positions and masks are given outright. Whether a model can be run so, `generation.Writer` finds out
against `generate` itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from pytest_unlearn.models.batches import TokenTree, attending, padded
from pytest_unlearn.models.lm_head import causal_model

# The most numbers in the logits of a pass over drafts; longer guesses are cut.
_DRAFT_NUMBERS = 1 << 27
# Tokens of a draft that are checked at first, and after a wrong one; then twice as many each time.
_AHEAD = 4


class LoopError(Exception):
    """This loop cannot run a model; `generate` can."""


def cache_name(model: Any) -> str:
    """Return what a model calls its keys and values; transformers 5.24 gave them another name."""
    bare = causal_model(model)
    return "cache" if "cache" in inspect.signature(bare.forward).parameters else "past_key_values"


def fits(model: Any) -> bool:
    """Return whether this loop can be tried with a model, which must generate token by token."""
    from transformers import GenerationMixin

    bare = causal_model(model)
    return (
        getattr(type(bare), "generate", None) is GenerationMixin.generate
        and not bare.config.is_encoder_decoder
        and {"position_ids", "logits_to_keep"} <= set(inspect.signature(bare.forward).parameters)
    )


# From logits `[n, vocabulary]`, their row numbers and their step to one token per row.
Choose = Callable[[torch.Tensor, Sequence[int], int], torch.Tensor]


@torch.inference_mode()
def written(
    model: Any,
    prompts: Sequence[list[int]],
    new: int,
    pad: int,
    ends: Sequence[int],
    choose: Choose,
    stopped: Callable[[list[list[int]]], list[bool]] | None = None,
    drafts: Sequence[list[int]] = (),
    tree: bool = True,
) -> list[list[int]]:
    """Return up to `new` token ids after each prompt, the end of a text included.

    `choose` returns the next tokens; `stopped` returns, for the new ids of some rows, whether each
    row ends there. `drafts`: ids that may come after each prompt, for greedy choices only. `tree`:
    what the prompts share goes through the model once. Raises LoopError for a model whose keys and
    values cannot be indexed.
    """
    name, rows = cache_name(model), list(range(len(prompts)))
    logits, cache, mask = _read(model, prompts, pad, tree)
    texts = [[token] for token in choose(logits, rows, 0).tolist()]
    alive = _alive(rows, texts, new, ends, stopped)
    numbers = len(prompts) * int(model.config.get_text_config().vocab_size)
    most, ahead = _DRAFT_NUMBERS // numbers, _AHEAD
    while alive:
        if len(rows) - len(alive) >= max(1, len(rows) // 8):
            rows_left = torch.tensor([rows.index(row) for row in alive], device=mask.device)
            cache.batch_select_indices(rows_left)
            mask, rows = mask[rows_left], list(alive)
        living = set(alive)
        guesses = _guesses(rows, living, texts, drafts, min(ahead, most), new)
        blocks = [texts[row][-1:] + guess for row, guess in zip(rows, guesses, strict=True)]
        ids, block_mask = padded(blocks, pad, model.device, left=True)
        before = mask.sum(dim=1, keepdim=True)
        mask = torch.cat([mask, block_mask], dim=1)
        width = max(map(len, guesses)) + 1
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(before + block_mask.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=width,
            **{name: cache},
        )
        cache = getattr(output, name)
        step = max(len(texts[row]) for row in alive)
        logits = output.logits[:, -width:]
        chosen = torch.stack([choose(logits[:, i], rows, step) for i in range(width)], dim=1)
        followed = 0
        for place, (choices, guess) in enumerate(zip(chosen.tolist(), guesses, strict=True)):
            if rows[place] in living:
                count = _take(texts[rows[place]], choices[width - 1 - len(guess) :], guess, ends)
                followed += count == len(guess) > 0
                if count < len(guess):  # later tokens must not see the rest
                    mask[place, mask.shape[1] - len(guess) + count :] = 0
        # A draft that has been right so far is likely to stay right.
        ahead = min(2 * ahead, new) if 2 * followed >= len(alive) else _AHEAD
        alive = _alive(alive, texts, new, ends, stopped)
    return texts


def _read(
    model: Any, prompts: Sequence[list[int]], pad: int, tree: bool
) -> tuple[torch.Tensor, Any, torch.Tensor]:
    """Return the logits after each prompt `[n, vocabulary]`, keys and values of all their tokens,
    padded on the left, and the mask `[n, longest]`."""
    name, device = cache_name(model), model.device
    ids, mask = padded(prompts, pad, device, left=True)
    if not tree:
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1], _checked(getattr(output, name, None), model), mask
    nodes = TokenTree.of(prompts, device)
    lengths = torch.tensor([[len(prompt)] for prompt in prompts], device=device)
    with attending(model, nodes) as inputs:
        output = model(
            **inputs, use_cache=True, logits_to_keep=nodes.places.gather(1, lengths - 1)[:, 0]
        )
    cache = _checked(getattr(output, name, None), model)
    # Padding is on the right there, and on the left here.
    shifted = torch.arange(ids.shape[1], device=device) - (ids.shape[1] - lengths)
    places = nodes.places.gather(1, shifted.clamp(min=0))
    for layer in cache.layers:
        if layer.keys is None:  # of a layer above the cut (the logit lens)
            continue
        layer.keys = layer.keys[0][:, places].transpose(0, 1).contiguous()
        layer.values = layer.values[0][:, places].transpose(0, 1).contiguous()
    return output.logits[0], cache, mask


def _checked(cache: Any, model: Any) -> Any:
    """Return keys and values. Raises LoopError unless there is a tensor for each layer."""
    from transformers.cache_utils import DynamicLayer

    layers = getattr(cache, "layers", ())
    if not layers or any(type(layer) is not DynamicLayer for layer in layers):
        raise LoopError(f"{type(model).__name__} has no keys and values to choose from")
    return cache


def _guesses(
    rows: Sequence[int],
    living: Collection[int],
    texts: Sequence[list[int]],
    drafts: Sequence[list[int]],
    ahead: int,
    new: int,
) -> list[list[int]]:
    """Return the next tokens of each row's draft, up to `ahead`, if the row has followed it so far.

    Return nothing if most rows have none, since the whole batch pays for the widest.
    """
    nothing: list[list[int]] = [[] for _ in rows]
    if not drafts or ahead < 1:
        return nothing
    guesses = []
    for row in rows:
        text, draft = texts[row], drafts[row]
        follows = row in living and draft[: len(text)] == text
        guesses.append(draft[len(text) : len(text) + ahead][: new - 1 - len(text)] * follows)
    return guesses if 2 * sum(map(bool, guesses)) >= len(rows) else nothing


def _take(text: list[int], choices: list[int], guess: list[int], ends: Sequence[int]) -> int:
    """Add the choices along a guess to a text, up to the first that differs from it or ends the
    text; return how many tokens of the guess were right."""
    count = next((i for i, token in enumerate(guess) if choices[i] != token), len(guess))
    end = next((i for i, token in enumerate(choices[: count + 1]) if token in ends), count)
    text += choices[: end + 1]
    return count


def _alive(
    rows: Sequence[int],
    texts: Sequence[list[int]],
    new: int,
    ends: Sequence[int],
    stopped: Callable[[list[list[int]]], list[bool]] | None,
) -> list[int]:
    """Return the rows that have not ended."""
    open_rows = [row for row in rows if texts[row][-1] not in ends and len(texts[row]) < new]
    if stopped is None or not open_rows:
        return open_rows
    over = stopped([texts[row] for row in open_rows])
    return [row for row, end in zip(open_rows, over, strict=True) if not end]
