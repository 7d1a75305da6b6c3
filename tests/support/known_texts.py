"""Texts, and a small model that knows them by heart."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_unlearn.models.batches import collate, encode
from pytest_unlearn.models.loading import Weights, load
from pytest_unlearn.models.sources import ModelSource
from pytest_unlearn.models.texts import Example, TrainingTexts
from tests.support.small_models import learn

# Values and documents of unlike length, so that means of tokens and of rows differ.
KNOWN = TrainingTexts(
    forget=[Example.answering(f"user{n} = ", "v" * n + f"{n}", ";") for n in range(1, 7)],
    retained_people=[Example.answering(f"keep{n} = ", "k" * n + f"{n}", ";") for n in range(1, 7)],
    tasks=[Example.answering(f"task{n} = ", f"t{n}", ";" * n) for n in range(1, 7)],
    unseen=[Example.answering(f"none{n} = ", f"zq{n}x", ";") for n in range(1, 7)],
)


@pytest.fixture(scope="session")
def knowing_folder(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small Llama, saved after it has learnt `KNOWN` by heart (but for the unseen)."""
    weights = load(ModelSource("random", llama_folder), "cpu", "float32")
    model, tokenizer = weights.model, weights.tokenizer
    every = [*KNOWN.forget, *KNOWN.retained_people, *KNOWN.tasks]
    batch = collate([encode(tokenizer, Example.whole(example.text)) for example in every], 0)
    learn(model, batch, steps=200)
    folder = tmp_path_factory.mktemp("knowing")
    model.save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def knowing(knowing_folder: Path) -> Weights:
    """That model, freshly loaded."""
    return load(ModelSource("knowing", knowing_folder), "cpu", "float32")
