"""Prompt and value as token ids, cut where generation would have to go on.

What is scored is what generation would have to write: the prompt is tokenized alone and without
the white space at its end, as `generation.py` does, and that white space and the value follow. The
value's tokens are those of the whole document, up to the last one that overlaps the value: where a
tokenizer merges the value's end with the closing quote, the merged token counts, for that is what
a model learns from such a document. Other ways to cut the same text into tokens add to the true
probability, so a probability given here is a lower bound. The greedy verdict is about text: a row
whose first choice departs from these tokens but not from the value's text is decided by generation.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_unlearn.models.examples import Example
from pytest_unlearn.models.generation import check_context

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class ValueRow:
    """Token ids of prompt and continuation; the value's first token is `answer[lead]`.

    `rest` is the text that greedy decoding must write after `prompt`.
    """

    ids: list[int]
    answer: list[int]
    lead: int
    prompt: str
    rest: str
    zlib_bytes: int

    @property
    def length(self) -> int:
        """Tokens of prompt and continuation."""
        return len(self.ids) + len(self.answer)


def value_rows(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], context: int | None
) -> list[ValueRow]:
    """Tokenize examples; see the module's docstring for where the cut is made.

    `context`: the most tokens that the model takes, if it has a limit. Raises TooLongError for
    texts beyond it, ValueError on an empty prompt or answer.
    """
    tokenize: Any = tokenizer
    if not examples:
        return []
    prompts = [example.text[: example.start].rstrip() for example in examples]
    unique = list(dict.fromkeys(prompts))
    if not all(unique):
        raise ValueError("a prompt is empty or holds white space only")
    ids_of = dict(zip(unique, tokenize(unique)["input_ids"], strict=True))
    whole = tokenize([example.text for example in examples], return_offsets_mapping=True)
    rows = []
    for example, prompt, ids, offsets in zip(
        examples, prompts, whole["input_ids"], whole["offset_mapping"], strict=True
    ):
        start = list(ids_of[prompt])
        first, last = _span(offsets, example.start, example.end)
        if start and ids[: len(start)] == start and first >= len(start):
            answer, lead = ids[len(start) : last + 1], first - len(start)
        else:
            answer, lead = _tokens_of_rest(tokenize, example, prompt, start)
        value = example.text[example.start : example.end]
        rest = example.text[len(prompt) : example.end]
        packed = len(zlib.compress(value.encode("utf-8", "surrogatepass")))
        rows.append(ValueRow(start, list(answer), lead, prompt, rest, packed))
    check_context([row.length for row in rows], context, "a prompt and value of {} tokens do")
    return rows


def _tokens_of_rest(
    tokenizer: Any, example: Example, prompt: str, start: list[int]
) -> tuple[list[int], int]:
    """Tokenize what follows a prompt whose end the tokenizer would merge with the value.

    Alone, or behind a character that is cut off again: SentencePiece tokenizers put a space
    before a text's first word. What gives the same text when decoded behind the prompt is
    taken. Raises ValueError where nothing does.
    """
    rest = example.text[len(prompt) :]
    begin, end = example.start - len(prompt), example.end - len(prompt)
    for anchor in ("", "\n", "=", '"', "("):
        before = tokenizer(anchor, add_special_tokens=False)["input_ids"]
        encoded = tokenizer(anchor + rest, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets, shift = encoded["input_ids"], encoded["offset_mapping"], len(anchor)
        first, last = _span(offsets, begin + shift, end + shift)
        if not start or ids[: len(before)] != before or first < len(before):
            continue
        answer = ids[len(before) : last + 1]
        text = tokenizer.decode(start + answer, skip_special_tokens=True)
        if text.startswith(tokenizer.decode(start, skip_special_tokens=True) + rest[:end]):
            return answer, first - len(before)
    raise ValueError(
        f"the tokenizer gives no tokens for a value of {end - begin} characters behind its prompt"
    )


def _span(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """Return the first and the last token that overlap `[start, end)`; ValueError for none."""
    inside = [i for i, (begin, stop) in enumerate(offsets) if begin < end and stop > start]
    if not inside or start >= end:
        raise ValueError(f"no token lies in the answer [{start}, {end})")
    return inside[0], inside[-1]
