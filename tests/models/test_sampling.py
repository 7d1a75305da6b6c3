"""Samples: each with its own seed, whatever is beside it; stops; the boundary of a prompt."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_unlearn.models.batches import padded
from pytest_unlearn.models.generation import GenerationError, _AtStop, scheme_log_probs
from pytest_unlearn.models.loading import LanguageModel, Weights, load
from pytest_unlearn.models.prompt_formats import StyleError
from pytest_unlearn.models.sources import resolve
from pytest_unlearn.models.texts import Decoding, DecodingScheme
from pytest_unlearn.sandbox import Sandbox
from pytest_unlearn.tasks.extraction import solution
from pytest_unlearn.tasks.format import TaskCase, bundled_cases

PROMPTS = ["a", "def f(x):", "x = 'abc", "import os\nimport sys"]
SEEDS = (11, 12, 13, 14)


def drawn(
    weights: Weights, prompts: list[str], seeds: tuple[int, ...], **changes: object
) -> list[str]:
    decoding = replace(Decoding(12, 1.0, 0.95, seeds), **changes)  # type: ignore[arg-type]
    return LanguageModel(weights, adapted=False).write(
        "completion", prompts, [""] * len(prompts), decoding
    )


def test_a_sample_does_not_depend_on_its_batch(llama: Weights) -> None:
    """Alone, among others, in another order: the same text, and another with another seed."""
    together = drawn(llama, PROMPTS, SEEDS)
    assert together == [drawn(llama, [p], (s,))[0] for p, s in zip(PROMPTS, SEEDS, strict=True)]
    assert together[::-1] == drawn(llama, PROMPTS[::-1], SEEDS[::-1])
    assert together != drawn(llama, PROMPTS, (1, 2, 3, 4))
    assert len(set(drawn(llama, ["a"] * 8, tuple(range(8))))) == 8


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 0.7)])
def test_tokens_are_drawn_as_often_as_they_are_probable(
    llama: Weights, temperature: float, top_p: float
) -> None:
    """The first token of 3,000 samples against the scheme's own probabilities (chi-square)."""
    n = 3000
    with torch.no_grad():
        # Sharper than random weights, so that few tokens are rare.
        llama.model.get_output_embeddings().weight.mul_(8)  # type: ignore[operator, union-attr]
        ids = torch.tensor([llama.tokenizer("a")["input_ids"]])
        logits = llama.model(input_ids=ids).logits[:, -1].double()
    scheme = DecodingScheme(temperature, None, top_p)
    probabilities = scheme_log_probs(logits, scheme)[0].exp()
    decode = llama.tokenizer.decode
    texts = {t: str(decode([t])) for t in range(len(probabilities)) if t > 2}
    counts: Counter[str] = Counter()
    for start in range(0, n, 500):
        seeds = tuple(range(start, start + 500))
        counts.update(
            drawn(llama, ["a"] * 500, seeds, max_new_tokens=1, temperature=temperature, top_p=top_p)
        )
    wanted: Counter[str] = Counter()
    for token, text in texts.items():
        wanted[text] += float(probabilities[token])  # type: ignore[assignment]
    common = [text for text, p in wanted.items() if p * n >= 5]
    chi = sum((counts[t] - n * wanted[t]) ** 2 / (n * wanted[t]) for t in common)
    assert len(common) > 5
    assert chi < len(common) + 5 * math.sqrt(2 * len(common))
    assert all(wanted[text] > 0 for text in counts if text in wanted)


def test_temperature_nought_is_greedy(llama: Weights) -> None:
    greedy = LanguageModel(llama, adapted=False).complete(PROMPTS, 12)
    assert drawn(llama, PROMPTS, (), temperature=0.0) == greedy


def test_a_row_ends_at_its_own_stop(llama: Weights) -> None:
    """And no other row with it; the stop is not in the text."""
    free = LanguageModel(llama, adapted=False).complete(PROMPTS, 12)
    stop = next(text[4] for text in free if text[4] not in text[:4] and text[4] != "\ufffd")
    cut = drawn(llama, PROMPTS, (), temperature=0.0, stops=(stop, "never"))
    assert cut == [text.split(stop)[0] for text in free]
    assert cut != free


def test_a_stop_of_many_tokens_is_seen_while_it_is_written(llama: Weights) -> None:
    """In the row that has it, behind the prompt only."""
    at_stop = _AtStop(llama.tokenizer, ["print("], width=2)
    rows = [llama.tokenizer(text)["input_ids"] for text in ("xyprint(", "xyprint)", "print(xy")]
    ids: Any = torch.tensor([row[-8:] for row in rows])
    nothing: Any = None
    assert at_stop(ids, nothing).tolist() == [True, False, False]


def test_nan_and_unknown_styles_are_errors(llama: Weights) -> None:
    model = LanguageModel(llama, adapted=False)
    for style in ("chat", "infill"):
        with pytest.raises(StyleError):
            model.write(style, ["a"], [""], Decoding(2))
    with torch.no_grad():
        next(llama.model.parameters()).fill_(float("nan"))
    with pytest.raises(GenerationError, match="NaN"):
        drawn(llama, ["a"], (1,))


def test_losses_are_those_of_the_answer(llama: Weights) -> None:
    """In nats, with the number of tokens; None where the context has no room."""
    from pytest_unlearn.models.texts import Example

    model = LanguageModel(llama, adapted=False)
    examples = [Example.answering("def f(x):\n", "    return x\n"), Example.whole("y" * 300)]
    examples[1] = Example.answering("a", "y" * 300)
    first, second = model.losses(examples)
    assert first is not None
    assert second is None
    assert first[0] == pytest.approx(
        -model.log_probabilities([("def f(x):\n", "    return x\n")])[0]
    )
    assert first[1] >= len("    return x\n")


# -- the boundary --------------------------------------------------------------------------------


def solved(cases: list[TaskCase], texts: list[str]) -> float:
    with Sandbox() as sandbox:
        verdicts = []
        for case, text in zip(cases, texts, strict=True):
            assert isinstance(case.tests, tuple)
            source = solution(case.prompt, text, case.entry_point).source
            verdicts.append(sandbox.run(source, case.entry_point, case.tests).passed)
    return sum(verdicts) / len(cases)


def test_pass_at_1_with_and_without_the_boundary() -> None:
    """A prompt cut inside a white-space token is one that the model never saw: it costs all."""
    weights = load(resolve("tiny", "--unlearn-model"), "cpu", "float32")
    model = LanguageModel(weights, adapted=False)
    cases = list(bundled_cases()[:24:2])
    handled = model.complete([case.prompt for case in cases], 64)
    assert solved(cases, handled) >= 0.9
    # The same prompts, their line end fed as it stands.
    encoded = [weights.tokenizer(case.prompt)["input_ids"] for case in cases]
    ids, mask = padded(encoded, int(weights.tokenizer.pad_token_id or 0), "cpu", left=True)
    with model.active() as network, torch.no_grad():
        output = network.generate(input_ids=ids, attention_mask=mask, max_new_tokens=64)
    raw = [str(t) for t in weights.tokenizer.batch_decode(output[:, ids.shape[1] :], True)]
    assert solved(cases, ["\n" + text for text in raw]) <= 0.5
