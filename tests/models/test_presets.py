"""Every preset's architecture and kind of tokenizer, in small, from loading to unlearning."""

from __future__ import annotations

import gc
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_unlearn.core import extensions
from pytest_unlearn.models import presets as presets_module
from pytest_unlearn.models.generation import decode
from pytest_unlearn.models.loading import LanguageModel, Weights, load, resolve_dtype
from pytest_unlearn.models.presets import Preset, PresetError, presets
from pytest_unlearn.models.prompt_formats import StyleError, infill_ids, infill_style
from pytest_unlearn.models.texts import Example, TrainingTexts
from pytest_unlearn.unlearning.loop import unlearn
from pytest_unlearn.unlearning.methods import METHODS
from tests.support.preset_models import (
    GAP,
    KNOWN,
    MIDDLE,
    NAMES,
    UNKNOWN,
    Planted,
    plant,
)


@pytest.fixture(scope="module", params=NAMES)
def planted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """The small model of each preset in turn."""
    return plant(presets()[request.param], tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def weights(planted: Planted) -> Weights:
    """The model, loaded; tests must leave it as it is."""
    return load(planted.source, "cpu", "float32")


def direct_log_probs(model: Any, tokenizer: Any, example: Example) -> tuple[float, float]:
    """Return log p of white space and value, each summed, from a pass over the document's tokens.

    Nothing but the tokenizer's own offsets tells which tokens are which.
    """
    prompt = example.text[: example.start].rstrip()
    encoding = tokenizer(example.text, return_offsets_mapping=True)
    ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
    start = len(tokenizer(prompt)["input_ids"])
    assert ids[:start] == tokenizer(prompt)["input_ids"]
    with torch.no_grad():
        log_probs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    sums = [0.0, 0.0]
    for i in range(start, len(ids)):
        begin, end = offsets[i]
        if begin < example.end:
            sums[end > example.start] += log_probs[i - 1, ids[i]].item()
    return sums[0], sums[1]


def writes_by_hand(weights: Weights, prompt: str, wanted: str) -> bool:
    """Decode greedily without a cache, without stopping, and look after each token."""
    model: Any = weights.model
    tokenizer: Any = weights.tokenizer
    row = list(tokenizer(prompt)["input_ids"])
    with torch.no_grad():
        for _ in range(40):
            row.append(int(model(input_ids=torch.tensor([row])).logits[0, -1].argmax()))
            if tokenizer.decode(row, skip_special_tokens=True).startswith(prompt + wanted):
                return True
    return False


def test_scores_are_what_a_direct_pass_and_real_generation_give(weights: Weights) -> None:
    """Prefix spaces, bytes for letters, tokens over the value's border: all counted right."""
    model = LanguageModel(weights, adapted=False)
    examples = [*KNOWN, *UNKNOWN]
    written = model.complete([example.text[: example.start] for example in examples], 40)
    for example, scores, text in zip(examples, model.score(examples), written, strict=True):
        lead, value = direct_log_probs(weights.model, weights.tokenizer, example)
        assert scores.lead_log_prob == pytest.approx(lead, abs=1e-4)
        assert sum(scores.log_probs) == pytest.approx(value, abs=1e-3)
        prompt = example.text[: example.start]
        rest = prompt[len(prompt.rstrip()) :] + example.text[example.start : example.end]
        assert scores.spelled == text.startswith(rest)
        assert scores.spelled == writes_by_hand(weights, prompt.rstrip(), rest)
    assert [scores.spelled for scores in model.score(examples)] == [True] * 4 + [False] * 3
    prompt = 'email = "'
    values = ["ada.lark@example.com", "bo", "Zoë"]
    plain = model.log_probabilities([(prompt, value) for value in values])
    assert model.alternatives(prompt, values) == pytest.approx(plain, abs=1e-3)


def test_a_completion_cut_inside_a_character_keeps_what_stands_before(weights: Weights) -> None:
    """Four tokens of the city: where a byte is a token, one character and a third of another."""
    (text,) = LanguageModel(weights, adapted=False).complete(["city='"], 4)
    assert text == "東\ufffd"
    ids = weights.tokenizer("city='東京'")["input_ids"]
    assert decode(weights.tokenizer, ids[:-2]) == "city='東\ufffd"
    assert decode(weights.tokenizer, [*ids[:-2], ids[-1], *ids[-4:]]) == "city='東\ufffd'京'"
    beyond = len(weights.tokenizer) + 5  # a model's vocabulary may be larger than its tokenizer's
    assert decode(weights.tokenizer, [*ids[:-2], beyond]) == "city='東\ufffd"


def test_fills_in_the_middle_as_it_was_trained_to(planted: Planted, weights: Weights) -> None:
    """The middle comes back without the token that ends it; a preset without the style says so."""
    model = LanguageModel(weights, adapted=False)
    style = planted.preset.infill
    if style is None:
        with pytest.raises(StyleError, match="leave infill out"):
            model.infill([GAP])
        return
    assert model.infill([GAP, ("x = ", "")], 12)[0].strip() == MIDDLE
    assert infill_style(weights.tokenizer) == style  # a local folder without a preset fares alike
    ids = infill_ids(weights.tokenizer, *GAP, style)
    tokens = weights.tokenizer.convert_ids_to_tokens(ids)
    order = [token for token in tokens if token in style.markers]
    assert order == list(style.markers)
    before, gap, after = (tokens.index(marker) for marker in style.markers)
    assert (gap == before + 1) == (style.order == "spm")
    tail = weights.tokenizer.decode(ids[gap + 1 : after])
    assert tail == GAP[1]
    if style.apart:  # no space of SentencePiece's before what stands in the middle of a text
        assert not tokens[gap + 1].startswith("▁")
        assert tokens[0] == "<s>"
        assert tokens[1:3] == [style.prefix, "▁" if style.prefix_space else style.suffix]
        assert style.order == "psm" or tokens[after + 1 :] == ["total", "▁="]


def test_answers_through_the_chat_template_where_it_has_one(
    planted: Planted, weights: Weights
) -> None:
    """A base model's preset says that it has none, before anything is loaded."""
    if planted.preset.chat:
        assert LanguageModel(weights, adapted=False).answer(["hi"], 4) == [
            LanguageModel(weights, adapted=False).answer(["hi", "what is it?"], 4)[0]
        ]
        planted.preset.check_families(("direct", "chat"))
        return
    with pytest.raises(StyleError, match="leave chat out"):
        planted.preset.check_families(("direct", "chat"))


def test_stops_end_a_completion(planted: Planted, weights: Weights) -> None:
    """Each stop that the vocabulary has is an end, besides the tokenizer's own."""
    vocabulary = weights.tokenizer.get_vocab()
    ends = weights.model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    assert weights.tokenizer.eos_token_id in ends
    assert {vocabulary[stop] for stop in planted.preset.stops} <= set(ends)


def test_one_step_saved_and_loaded_again(planted: Planted, tmp_path: Path) -> None:
    """An adapter on the preset's modules, a step of gradient ascent, the same scores from disk."""
    policy_of = load(planted.source, "cpu", "float32")
    options = replace(METHODS["ga"].defaults, lr=1e-3, steps=1, check_every=1, batch=4, rank=4)
    texts = TrainingTexts(forget=KNOWN, retained_people=(), tasks=())
    model: Any = policy_of.model
    policy, report = unlearn(model, policy_of.tokenizer, texts, METHODS["ga"], options, seed=0)
    assert report.steps == 1
    changed = {name.split(".")[-1] for name, m in policy.named_modules() if hasattr(m, "lora_A")}
    assert changed == set(policy_of.lora_targets)
    policy_of.model = policy
    trained = LanguageModel(policy_of, adapted=True).score(KNOWN)
    policy.save_pretrained(str(tmp_path / "adapter"))
    again = load(planted.source, "cpu", "float32")
    before = LanguageModel(again, adapted=False).score(KNOWN)
    again.adapt(tmp_path / "adapter")
    assert [sum(s.log_probs) for s in LanguageModel(again, adapted=True).score(KNOWN)] == (
        pytest.approx([sum(s.log_probs) for s in trained], abs=1e-4)
    )
    assert LanguageModel(again, adapted=False).score(KNOWN) == before
    assert sum(trained[0].log_probs) < sum(before[0].log_probs)
    gc.collect()


@pytest.mark.parametrize("name", [*NAMES, "tiny"])
def test_facts_agree_with_each_other(name: str) -> None:
    """A pinned commit, weights that fit the memory named, a configuration that can be built."""
    from transformers import AutoConfig, AutoModelForCausalLM

    preset = presets()[name]
    assert preset.revision == "main" or len(bytes.fromhex(preset.revision)) == 20
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**preset.config))
    assert type(model).__name__ == preset.config["architectures"][0]
    assert model.config.rope_parameters["rope_theta"] == preset.config["rope_theta"]
    gib = sum(p.numel() for p in model.parameters()) * 2 / 2**30
    assert gib < preset.probe_gib
    assert gib < preset.unlearn_gib < 24
    assert resolve_dtype("auto", "cuda", preset) == preset.dtype
    assert resolve_dtype("auto", "cpu", preset) == "float32"
    modules = {name.split(".")[-1] for name, _ in model.named_modules()}
    assert set(preset.lora_targets) <= modules


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, f"{__name__}:{value}", presets_module.GROUP)


MINE = Preset("mine", "Me/Mine", "a preset of another package")
NOT_ONE = "Me/Mine"


def test_other_packages_add_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an entry point; one that is broken is named, and never left out in silence."""

    def found(*points: EntryPoint) -> dict[str, Preset]:
        monkeypatch.setattr(extensions, "entry_points", lambda group: points)
        return dict(presets_module.installed_presets.__wrapped__())

    assert found(entry("mine", "MINE"))["mine"] is MINE
    for name, value, message in (
        ("mine", "NOT_THERE", "the preset mine .*NOT_THERE"),
        ("mine", "NOT_ONE", "must name a .*Preset whose name is 'mine'"),
        ("other", "MINE", "whose name is 'other'"),
    ):
        with pytest.raises(PresetError, match=message):
            found(entry(name, value))
    with pytest.raises(PresetError, match="there is a preset of this name already"):
        found(entry("mine", "MINE"), entry("mine", "MINE"))
