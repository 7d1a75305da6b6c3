"""The loop writes what `generate` writes, with less to compute; the rest `generate` does."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pytest_unlearn.models import batches
from pytest_unlearn.models.decoding import written
from pytest_unlearn.models.generation import Writer, _generated, _way, until
from pytest_unlearn.models.lm_head import cut_off
from pytest_unlearn.models.loading import Weights
from pytest_unlearn.models.texts import Decoding

NEW = 24


def small(kind: str, **more: Any) -> Any:
    """Return a small model of random weights whose texts end now and then."""
    torch.manual_seed(3)
    config = AutoConfig.for_model(
        kind,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=40,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **more,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def prompts(count: int = 12) -> list[list[int]]:
    """Return prompts of different lengths that begin alike."""
    rng = random.Random(0)
    starts = [[rng.randrange(3, 40) for _ in range(6)] for _ in range(3)]
    return [
        starts[n % 3] + [rng.randrange(3, 40) for _ in range(rng.randrange(5))]
        for n in range(count)
    ]


class Tokens:
    """A tokenizer of nothing but its padding."""

    pad_token_id = 0


def greedy(logits: torch.Tensor, rows: Sequence[int], step: int) -> torch.Tensor:
    return logits.argmax(dim=-1)


def passes(model: Any) -> list[tuple[int, int]]:
    """Return a list that notes rows and tokens of each pass from now on."""
    seen: list[tuple[int, int]] = []

    def note(module: Any, given: Any, named: dict[str, Any]) -> None:
        seen.append(tuple(named["input_ids"].shape))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return seen


@pytest.fixture(scope="module", params=["llama", "qwen2", "starcoder2"])
def model(request: pytest.FixtureRequest) -> Any:
    return small(request.param)


@pytest.fixture(scope="module")
def expected(model: Any) -> list[list[int]]:
    """What `generate` gives; some end before others."""
    rows = _generated(model, Tokens(), prompts(), Decoding(NEW), [2])  # type: ignore[arg-type]
    found = [until(row, 0, [2]) for row in rows]
    assert len(set(map(len, found))) > 2
    return found


@pytest.mark.parametrize("tree", [True, False])
@pytest.mark.parametrize("drafts", ["none", "right", "wrong", "some", "late"])
def test_the_texts_are_those_of_generate(
    model: Any, expected: list[list[int]], tree: bool, drafts: str
) -> None:
    """Whatever is guessed; a guess that departs late leaves keys behind that nobody may see."""
    late = [[*row[:7], *(3 + (token + 5) % 37 for token in row[7:])] for row in expected]
    guesses: dict[str, list[list[int]]] = {
        "none": [],
        "right": expected,
        "wrong": [[(token + 1) % 40 for token in row] for row in expected],
        "some": [row if n % 3 else [] for n, row in enumerate(expected)],
        "late": late,
    }
    found = written(model, prompts(), NEW, 0, [2], greedy, None, guesses[drafts], tree)
    assert [until(row, 0, [2]) for row in found] == expected
    assert all(len(row) <= NEW for row in found)


@pytest.mark.parametrize("drafts", [False, True])
def test_a_model_that_is_cut_off_writes_too(
    model: Any, expected: list[list[int]], drafts: bool
) -> None:
    """As under the logit lens: the layers that are left out have no keys and values."""
    with cut_off(model, 1 / 3):
        rows = _generated(model, Tokens(), prompts(), Decoding(NEW), [2])  # type: ignore[arg-type]
        found = written(model, prompts(), NEW, 0, [2], greedy, None, expected if drafts else [])
    assert [until(row, 0, [2]) for row in found] == [until(row, 0, [2]) for row in rows]


def test_less_is_computed(model: Any, expected: list[list[int]]) -> None:
    """Shared beginnings once, no row that has ended, and a right draft in a few passes."""
    assert _way(model, Tokens(), prompts(), [2]) is True  # type: ignore[arg-type]
    seen = passes(model)
    written(model, prompts(), NEW, 0, [2], greedy)
    nodes, paths = batches.tree_of(prompts())
    assert seen[0] == (1, len(nodes))
    assert len(nodes) < sum(map(len, prompts())) == sum(map(len, paths))
    widths = [rows for rows, _ in seen[1:]]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < len(prompts())
    plain = len(seen)
    seen.clear()
    written(model, prompts(), NEW, 0, [2], greedy, None, expected)
    assert len(seen) < plain / 2


def test_stops_end_rows_and_drafts_alike(model: Any, expected: list[list[int]]) -> None:
    """A row is written no further than where it is told to stop, draft or not."""

    def stopped(rows: list[list[int]]) -> list[bool]:
        return [len(row) >= 5 for row in rows]

    for drafts in ([], expected):
        found = written(model, prompts(), NEW, 0, [2], greedy, stopped, drafts)
        for row, whole in zip(found, expected, strict=True):
            assert until(row, 0, [2])[:5] == whole[:5]
            assert len(row) <= 5 + 8 * bool(drafts)


def test_draws_are_those_of_generate(model: Any) -> None:
    """A row's own numbers draw its tokens, also after others have left."""
    decoding = Decoding(NEW, 1.3, 0.9, tuple(range(len(prompts()))))
    rows = _generated(model, Tokens(), prompts(), decoding, [2])  # type: ignore[arg-type]
    own = Writer().written(model, Tokens(), prompts(), decoding, [2])  # type: ignore[arg-type]
    assert [until(row, 0, [2]) for row in own] == [until(row, 0, [2]) for row in rows]


def test_what_the_loop_cannot_run_generate_does() -> None:
    """Keys and values that are let go of, and a model that generates in a way of its own."""
    sliding = small("mistral", sliding_window=8)
    assert _way(sliding, Tokens(), prompts(), [2]) is None  # type: ignore[arg-type]
    own = Writer().written(sliding, Tokens(), prompts(), Decoding(NEW), [2])  # type: ignore[arg-type]
    rows = _generated(sliding, Tokens(), prompts(), Decoding(NEW), [2])  # type: ignore[arg-type]
    assert own == rows


def test_a_loop_that_departs_from_generate_is_not_used(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried before it is trusted: here the positions of trees are wrong."""
    tree = batches.tree_of

    def shifted(rows: Sequence[list[int]]) -> Any:
        nodes, paths = tree(rows)
        return [node._replace(depth=node.depth // 2) for node in nodes], paths

    monkeypatch.setattr(batches, "tree_of", shifted)
    assert _way(model, Tokens(), prompts(), [2]) is False  # type: ignore[arg-type]


def test_base_and_unlearned_share_a_writer(llama: Weights) -> None:
    """What one state wrote is the draft of the other; the text is that state's own."""
    from pytest_unlearn.models.loading import LanguageModel

    texts = ["a", "def f(x):", "x = 'abc"]
    first = LanguageModel(llama, adapted=False).complete(texts, 12)
    seen = passes(llama.model)
    assert LanguageModel(llama, adapted=False).complete(texts, 12) == first
    assert len(seen) < 6
    with torch.no_grad():
        for weight in llama.model.parameters():
            weight.mul_(1.2)
    changed = LanguageModel(llama, adapted=False).complete(texts, 12)
    llama.writer = Writer()
    assert LanguageModel(llama, adapted=False).complete(texts, 12) == changed
