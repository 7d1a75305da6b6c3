"""Generation: greedy and sampled texts, each with its own seed; stops; where a prompt ends."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, GenerationConfig

from pytest_unlearn.models import generation
from pytest_unlearn.models.batches import padded
from pytest_unlearn.models.generation import (
    GenerationError,
    TooLongError,
    _AtStop,
    context_of,
    scheme_log_probs,
)
from pytest_unlearn.models.loading import LanguageModel, ModelLoadError, Weights, load
from pytest_unlearn.models.prompt_formats import StyleError
from pytest_unlearn.models.sources import ModelSource, resolve
from pytest_unlearn.models.texts import Decoding, DecodingScheme, Example
from pytest_unlearn.sandbox import Sandbox
from pytest_unlearn.tasks.extraction import solution
from pytest_unlearn.tasks.format import TaskCase, bundled_cases

PROMPTS = ["a", "def f(x):", "x = 'abc", "import os\nimport sys"]


def by_hand(weights: Weights, prompt: str, tokens: int) -> str:
    """Decode greedily without cache, padding or transformers' generation."""
    ids = weights.tokenizer(prompt.rstrip(), return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    for _ in range(tokens):
        with torch.no_grad():
            token = weights.model(input_ids=ids).logits[0, -1].argmax()
        if int(token) == weights.tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, token.view(1, 1)], dim=1)
    return str(weights.tokenizer.decode(ids[0, start:], skip_special_tokens=True))


def test_batched_is_greedy_by_hand(llama: Weights) -> None:
    """Left padding and the key-value cache change nothing."""
    completions = LanguageModel(llama, adapted=False).complete(PROMPTS, 12)
    assert completions == [by_hand(llama, prompt, 12) for prompt in PROMPTS]
    assert len({len(c) for c in completions}) >= 1


def test_trailing_white_space_is_the_models_to_write(llama: Weights) -> None:
    """A prompt cut inside a white-space token is one that no model saw in training."""
    model = LanguageModel(llama, adapted=False)
    assert model.complete(["def f(x):\n    "], 8) == model.complete(["def f(x):"], 8)
    with pytest.raises(ValueError, match="empty"):
        model.complete([" \n"])


def test_nan_is_an_error(llama: Weights) -> None:
    """argmax over NaN gives a token: a broken model would look as if it had forgotten."""
    with torch.no_grad():
        next(llama.model.parameters()).fill_(float("nan"))
    with pytest.raises(GenerationError, match="NaN"):
        LanguageModel(llama, adapted=False).complete(["a"])


def test_a_models_own_generation_settings_are_left_out(llama_folder: Path, tmp_path: Path) -> None:
    """A repetition penalty or sampling in generation_config.json must not change greedy."""
    folder = tmp_path / "model"
    shutil.copytree(llama_folder, folder)
    GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True, temperature=2.0, repetition_penalty=9.0, eos_token_id=2, max_length=3
    ).save_pretrained(folder)
    plain = load(ModelSource("a", llama_folder), "cpu", "float32")
    tuned = load(ModelSource("b", folder), "cpu", "float32")
    assert LanguageModel(tuned, False).complete(PROMPTS, 12) == LanguageModel(
        plain, False
    ).complete(PROMPTS, 12)


def test_threads_are_restored(llama: Weights) -> None:
    """A worker's share of CPU threads holds while it generates, and only then."""
    before = torch.get_num_threads()
    LanguageModel(llama, adapted=False, threads=1).complete(["a"], 2)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype(llama_folder: Path, dtype: str) -> None:
    """Loaded in the dtype asked for."""
    weights = load(ModelSource("a", llama_folder), "cpu", dtype)
    assert str(weights.model.dtype) == f"torch.{dtype}"
    assert LanguageModel(weights, False).complete(["a"], 2)


def test_a_broken_folder_says_why(llama_folder: Path, tmp_path: Path) -> None:
    """A weight file that is none, and a configuration of no known architecture."""
    for name, text in (
        ("model.safetensors", "no weights"),
        ("config.json", json.dumps({"model_type": "nonesuch"})),
    ):
        folder = tmp_path / name
        shutil.copytree(llama_folder, folder)
        (folder / name).write_text(text)
        with pytest.raises(ModelLoadError, match=f"cannot load a from {folder}"):
            load(ModelSource("a", folder), "cpu", "float32")


def test_no_pickle_is_loaded(llama_folder: Path, tmp_path: Path) -> None:
    """A folder with pickled weights only does not load."""
    folder = tmp_path / "pickled"
    shutil.copytree(llama_folder, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadError):
        load(ModelSource("a", folder), "cpu", "float32")


def test_what_does_not_fit_the_context_is_an_error(llama: Weights) -> None:
    """Cut off there, a value would read as forgotten; the model of the tests has 256 tokens."""
    model = LanguageModel(llama, adapted=False)
    assert model.complete(["x" * 200], 255 - 200)
    with pytest.raises(GenerationError, match=r"up to 56 tokens, 257 together, do not fit .* 256"):
        model.complete(["x" * 200], 56)


def test_the_rows_that_are_too_long_are_named(llama: Weights) -> None:
    """So that a run can leave them out, and only them."""
    with pytest.raises(TooLongError) as caught:
        LanguageModel(llama, adapted=False).complete(["x" * 10, "x" * 300, "x", "x" * 256], 8)
    assert caught.value.rows == (1, 3)


@pytest.mark.parametrize(
    ("name", "fields", "context"),
    [
        ("gemma3", {"text_config": {"max_position_embeddings": 77}}, 77),
        ("mpt", {"max_seq_len": 78}, 78),
        ("gpt2", {"n_positions": 79}, 79),
        ("llama", {"max_position_embeddings": 80}, 80),
        ("mamba", {}, None),
    ],
)
def test_the_context_of_each_architecture(
    name: str, fields: dict[str, Any], context: int | None
) -> None:
    """Configurations call it by several names, and multimodal ones keep it inside."""
    model: Any = SimpleNamespace(config=CONFIG_MAPPING[name](**fields))
    assert context_of(model) == context


def test_unlikely_texts_are_given_up(llama: Weights) -> None:
    """Those whose likelihood falls below `least` are empty, the others as ever."""
    model, new = LanguageModel(llama, adapted=False), 3
    texts = model.complete(PROMPTS, new)
    likelihoods = [math.exp(log_likelihood(llama, prompt, new)) for prompt in PROMPTS]
    least = sorted(likelihoods)[2] * 0.999
    decoding = Decoding(new, least=least)
    found = model.write("completion", PROMPTS, [""] * len(PROMPTS), decoding)
    pairs = zip(texts, likelihoods, strict=True)
    assert found == [text if likelihood >= least else "" for text, likelihood in pairs]
    assert sum(map(bool, found)) == 2
    ran: list[int] = []
    hook = llama.model.register_forward_pre_hook(lambda *_: ran.append(1))
    unlikely = replace(decoding, least=max(likelihoods) ** (1 / new) * 1.001)
    assert model.write("completion", PROMPTS, [""] * len(PROMPTS), unlikely) == [""] * 4
    hook.remove()
    assert len(ran) < new  # no text was written to its end


def test_what_follows_a_stop_does_not_count(llama: Weights) -> None:
    """A text that has ended is written on in its batch, until an eighth of the texts have."""
    model, new = LanguageModel(llama, adapted=False), 6
    prompts = [f"{number}=" for number in range(32)]
    texts = model.complete(prompts, new)
    (row,) = (number for number, text in enumerate(texts) if "<" in text)
    end = next(n for n in range(1, new) if "<" in model.complete(prompts[row : row + 1], n)[0])
    # No token of these random weights is worse than e^-6, and no two are better than e^-8.
    least = math.exp(log_likelihood(llama, prompts[row], end) - 7)
    decoding = Decoding(new, stops=("<",), least=least)
    before, _, _ = texts[row].partition("<")
    assert model.write("completion", prompts, [""] * len(prompts), decoding)[row] == before


def log_likelihood(llama: Weights, prompt: str, new: int) -> float:
    """Of the greedy text, by whole passes."""
    ids, total = llama.tokenizer(prompt)["input_ids"], 0.0
    for _ in range(new):
        with torch.no_grad():
            likely = llama.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        total += float(likely.max())
        ids = [*ids, int(likely.argmax())]
    return total


def test_a_batch_that_does_not_fit_is_halved(
    llama: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The texts are those of the whole batch; the flag that saves the attempt is named."""
    whole = LanguageModel(llama, adapted=False).complete(PROMPTS, 8)
    drawn = Decoding(8, 0.9, 1.0, tuple(range(len(PROMPTS))))
    samples = LanguageModel(llama, False).write("completion", PROMPTS, [""] * 4, drawn)
    written = generation.written
    most = 1

    def short_of_memory(model: Any, prompts: Any, *more: Any) -> Any:
        if len(prompts) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return written(model, prompts, *more)

    monkeypatch.setattr(generation, "_way", lambda *given: True)
    monkeypatch.setattr(generation, "written", short_of_memory)
    told: list[str] = []
    model = LanguageModel(llama, adapted=False, progress=told.append)
    assert model.complete(PROMPTS, 8) == whole
    assert "--unlearn-batch-size=2" in told[0]
    assert model.write("completion", PROMPTS, [""] * 4, drawn) == samples
    most = 0
    with pytest.raises(GenerationError, match=r"one prompt of 2 tokens .* --unlearn-batch-size"):
        model.complete(["a"], 8)


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    llama: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come as they are, at once."""

    def broken(**inputs: Any) -> Any:
        raise RuntimeError("The size of tensor a (8) must match the size of tensor b (9)")

    monkeypatch.setattr(llama.model, "generate", broken)
    with pytest.raises(RuntimeError, match="size of tensor a"):
        LanguageModel(llama, adapted=False).complete(PROMPTS, 8)


def test_ids_beyond_the_vocabulary(llama: Weights) -> None:
    """Neither an index error of torch, nor another token's embedding."""
    llama.tokenizer.add_tokens(["<more>"])
    model = LanguageModel(llama, adapted=False)
    for run in (
        lambda: model.complete(["a <more>"], 2),
        lambda: model.score([Example.answering("a <more>", "b")]),
        lambda: model.gradient_norms([Example.answering("a <more>", "b")]),
    ):
        with pytest.raises(GenerationError, match=r"token id 259, and the model's vocab.* has 259"):
            run()


def test_a_long_prompt_does_not_widen_the_others(
    llama: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are cut by tokens, so that at most half is padding; the texts are the same."""
    assert generation.alike([9, 8, 10, 7]) == [[0, 1, 2, 3]]
    assert generation.alike([9, 400, 8, 10]) == [[2, 0, 3], [1]]
    assert generation.alike([5]) == [[0]]
    widths = []
    plain = generation._decoded

    def decoded(model: Any, tokenizer: Any, rows: Any, *rest: Any) -> list[str]:
        widths.append(sorted(map(len, rows)))
        return plain(model, tokenizer, rows, *rest)

    monkeypatch.setattr(generation, "_decoded", decoded)
    prompts = [PROMPTS[0], "x = 1\n" * 20, *PROMPTS[1:]]
    drawn = Decoding(6, 1.0, 1.0, tuple(range(len(prompts))))
    for decoding in (Decoding(6), drawn):
        widths.clear()
        model = LanguageModel(llama, adapted=False)
        texts = model.write("completion", prompts, [""] * len(prompts), decoding)
        assert len(widths) > 1
        assert all(len(part) * (part[-1] + 6) <= 2 * (sum(part) + 6 * len(part)) for part in widths)
        monkeypatch.setattr(generation, "MOST_CELLS", 1000)
        assert (
            LanguageModel(llama, adapted=False).write(
                "completion", prompts, [""] * len(prompts), decoding
            )
            == texts
        )
        monkeypatch.setattr(generation, "MOST_CELLS", 2)


# -- samples -------------------------------------------------------------------------------------


SAMPLED = ["a", "def f(x):", "x = 'abc", "import os\nimport sys"]
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
    together = drawn(llama, SAMPLED, SEEDS)
    assert together == [drawn(llama, [p], (s,))[0] for p, s in zip(SAMPLED, SEEDS, strict=True)]
    assert together[::-1] == drawn(llama, SAMPLED[::-1], SEEDS[::-1])
    assert together != drawn(llama, SAMPLED, (1, 2, 3, 4))
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
    greedy = LanguageModel(llama, adapted=False).complete(SAMPLED, 12)
    assert drawn(llama, SAMPLED, (), temperature=0.0) == greedy


def test_a_row_ends_at_its_own_stop(llama: Weights) -> None:
    """And no other row with it; the stop is not in the text."""
    free = LanguageModel(llama, adapted=False).complete(SAMPLED, 12)
    stop = next(text[4] for text in free if text[4] not in text[:4] and text[4] != "\ufffd")
    cut = drawn(llama, SAMPLED, (), temperature=0.0, stops=(stop, "never"))
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
