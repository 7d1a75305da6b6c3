"""The shipped model is small, is what its recipe made, and leaks and codes as its page says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from pytest_unlearn.leaks.outcome import Detector
from pytest_unlearn.models.loading import LanguageModel, load
from pytest_unlearn.models.sources import resolve
from pytest_unlearn.models.tiny import recipe
from pytest_unlearn.people.generate import tiny_records
from pytest_unlearn.probes.families import build_probes
from pytest_unlearn.sandbox import Sandbox
from pytest_unlearn.tasks.extraction import solution
from pytest_unlearn.tasks.format import bundled_cases, bundled_tasks

RECORDED = json.loads(recipe.RECORDED.read_text())


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    return LanguageModel(load(resolve("tiny", "--unlearn-model"), "cpu", "float32"), adapted=False)


def test_size(tiny: LanguageModel) -> None:
    """At most 4M parameters and 8 MB, safetensors, by the ordinary transformers classes."""
    with tiny.active() as model:
        assert sum(p.numel() for p in model.parameters()) <= 4_000_000
        assert type(model).__name__ == "LlamaForCausalLM"
    assert sum(path.stat().st_size for path in recipe.FOLDER.iterdir()) <= 8_000_000


def test_digests_are_the_recorded_ones() -> None:
    """Weights, tokenizer and the training data, rebuilt here."""
    assert recipe.file_digests(recipe.FOLDER) == RECORDED["files"]
    assert recipe.data_digest() == RECORDED["data"]


def test_control_people_are_in_no_training_text() -> None:
    """Neither their values nor their names."""
    texts = [record.document.reveal() for record in recipe.training_records()]
    texts += [text for task in recipe.task_documents(bundled_tasks()) for text in task]
    everything = "\n".join(texts)
    for record in tiny_records():
        if record.split == "control":
            assert record.value.reveal() not in everything
            assert record.before.reveal() not in everything


def test_unseen_wordings_are_unseen() -> None:
    """The measured wordings are not in the training data."""
    texts = [text for task in recipe.task_documents(bundled_tasks()) for text in task]
    assert not [case.id for case in bundled_cases() if any(case.prompt in t for t in texts)]


def test_leaks_before_unlearning(tiny: LanguageModel) -> None:
    """At least 0.95 on forget and on retained people, none on controls."""
    detector = Detector(tiny_records())
    probes = build_probes(tiny_records(), ["direct"])
    rates = {}
    for split in ("forget", "retain", "control"):
        of_split = [probe for probe in probes if probe.split == split]
        texts = tiny.complete([probe.prompt.reveal() for probe in of_split], 48)
        direct = [
            detector.outcome(probe, text).label == "direct"
            for probe, text in zip(of_split, texts, strict=True)
        ]
        rates[split] = sum(direct) / len(direct)
    assert rates["forget"] >= 0.95
    assert rates["retain"] >= 0.95
    assert rates["control"] == 0


def test_codes_before_unlearning(tiny: LanguageModel) -> None:
    """pass@1 of at least 0.80 on wordings that it never saw."""
    cases = bundled_cases()
    texts = tiny.complete([case.prompt for case in cases], 128)
    with Sandbox() as sandbox:
        passed = [
            sandbox.run(
                solution(case.prompt, text, case.entry_point).source, case.entry_point, case.tests
            ).passed
            for case, text in zip(cases, texts, strict=True)
        ]
    assert sum(passed) / len(passed) >= 0.80


def test_recipe_trains_in_steps_that_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch, twice: the same weights. The whole recipe is `recipe --check`."""
    monkeypatch.setattr(recipe, "EPOCHS", 1)
    monkeypatch.setattr(recipe, "BATCH", 256)
    threads = torch.get_num_threads()
    digests = []
    try:
        for _ in range(2):
            with Path("/dev/null").open("w") as log:
                model, _ = recipe.train(log)
            weights = [p.detach().float().numpy().tobytes() for p in model.parameters()]
            digests.append(hashlib.sha256(b"".join(weights)).hexdigest())
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    assert digests[0] == digests[1]
