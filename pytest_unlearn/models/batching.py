"""Training examples as padded batches, with a mask that says which tokens are learnt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pytest_unlearn.models.examples import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The label that torch's cross-entropy and every Hugging Face model leave out.
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids and labels of one example, both of shape `[tokens]`."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class Batch:
    """`input_ids`, `attention_mask` and `labels`, each int64 of shape `[rows, tokens]`.

    Padding is on the right; its labels are `IGNORED`.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor

    def model_inputs(self) -> dict[str, torch.Tensor]:
        """Return what a forward pass needs; the loss is computed by the caller."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}


def encode(
    tokenizer: PreTrainedTokenizerBase, example: Example, max_length: int | None = None
) -> Encoded:
    """Tokenize an example as it would stand in training data, closed by the end-of-text token.

    A token is learnt when any of its characters lies in the answer: a tokenizer may merge
    the first character of a value with the quote before it, and a span cut at token borders of
    the prompt alone would miss it. A text of more than `max_length` tokens loses its beginning,
    and what follows the answer, never the answer's end. Raises ValueError when no token falls
    into the answer.
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


def collate(rows: Sequence[Encoded], pad_id: int, device: torch.device | str = "cpu") -> Batch:
    """Pad rows on the right to the longest of them."""
    ids, mask = padded([row.ids for row in rows], pad_id, device)
    labels, _ = padded([row.labels for row in rows], IGNORED, device)
    return Batch(ids, mask, labels)


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
    """Yield one epoch in batches of rows of like length, in random order.

    Sorting by length before cutting keeps padding small; the order inside a length class and the
    order of batches come from `generator`.
    """
    order = torch.randperm(len(rows), generator=generator).tolist()
    order.sort(key=lambda i: len(rows[i].ids))
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    for b in torch.randperm(len(batches), generator=generator).tolist():
        yield [rows[i] for i in batches[b]]
