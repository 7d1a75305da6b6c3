"""Masks and padding: what is learnt, and what is not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from pytest_unlearn.models.batches import IGNORED, collate, encode, shuffled_batches
from pytest_unlearn.models.texts import Example
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
