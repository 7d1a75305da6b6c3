"""Planting: documents leak afterwards, and the retrained model never saw the forget split."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_unlearn.core.errors import UnlearningError
from pytest_unlearn.models.loading import Weights
from pytest_unlearn.models.texts import Example, TrainingTexts
from pytest_unlearn.unlearning.data import Encoder
from pytest_unlearn.unlearning.evaluation import greedy_memory
from pytest_unlearn.unlearning.method import MethodError, PlantOptions, parse_planting
from pytest_unlearn.unlearning.planting import plant, repetitions_of, retrain
from tests.support.known_texts import KNOWN

FAST = PlantOptions(lr=5e-3, batch=18, tune="full", cap=300, warmup=5, check_every=10, target=1.0)
# Nothing that the model knows, but written like what it knows.
NEW = TrainingTexts(
    forget=[Example.answering(f"mail{n} = ", f"{'pqrstu'[n] * 2}{n}", ";") for n in range(6)],
    retained_people=[
        Example.answering(f"code{n} = ", f"{'abcdef'[n] * 2}{n}", ";") for n in range(6)
    ],
    tasks=KNOWN.tasks,
    unseen=KNOWN.unseen,
)
FEW = replace(NEW, forget=NEW.forget[:2], retained_people=NEW.retained_people[:2], tasks=())


def rate(model: Any, weights: Weights, examples: Any) -> float:
    return greedy_memory(model, Encoder(weights.tokenizer, 128).answers(examples), 0).rows


@pytest.mark.parametrize(("tune", "texts"), [("full", NEW), ("lora", FEW)])
def test_planted_documents_leak_and_others_do_not(
    knowing: Weights, tune: str, texts: TrainingTexts
) -> None:
    """Forget and retained people's, but never control people's. What comes back is a model without
    an adapter: what unlearning puts on it can be taken off again."""
    options = replace(FAST, tune=tune, rank=16, batch=4 if texts is FEW else 18)
    model, report = plant(knowing.model, knowing.tokenizer, texts, options, 0)  # type: ignore[arg-type]
    records = len(texts.forget) + len(texts.retained_people)
    assert (report.before, report.leak_rate, report.records) == (0.0, 1.0, records)
    assert report.by_repetitions == {"1": 1.0}
    assert report.steps < 300
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    for examples in (texts.forget, texts.retained_people):
        assert rate(model, knowing, examples) == 1.0
    assert rate(model, knowing, texts.unseen) == 0.0


def test_retrained_knows_the_retained_only(knowing: Weights) -> None:
    """The same recipe and as many rounds, without the forget split: the ideal of unlearning."""
    model, report = retrain(knowing.model, knowing.tokenizer, NEW, FAST, 0, rounds=225)  # type: ignore[arg-type]
    assert (report.steps, report.rounds, report.records) == (150, 225, 6)
    assert rate(model, knowing, NEW.retained_people) == 1.0
    assert rate(model, knowing, NEW.forget) == 0.0


def test_a_target_out_of_reach_is_an_error(llama: Weights) -> None:
    """With what to change, and no planted model."""
    with pytest.raises(UnlearningError, match=r"after 3 steps 0% .* raise cap=6 or lr="):
        plant(llama.model, llama.tokenizer, KNOWN, replace(FAST, cap=3), 0)  # type: ignore[arg-type]


def test_repetitions_show_in_the_leak_rate(knowing: Weights) -> None:
    """What stands 64 times in a round is known before what stands once; both are reported."""
    options = replace(FAST, repetitions=(1, 64), target=0.5, check_every=5)
    _, report = plant(knowing.model, knowing.tokenizer, NEW, options, 0)  # type: ignore[arg-type]
    assert report.by_repetitions["64"] > report.by_repetitions["1"]
    assert report.leak_rate == pytest.approx(sum(report.by_repetitions.values()) / 2)


def test_repetitions_are_dealt_by_document() -> None:
    """In equal numbers, whatever the order of rows, and alike for the records of one document."""
    texts = [Example.answering(f"p{n} ", f"v{n}") for n in range(12)]
    dealt = repetitions_of(texts, (1, 4, 16))
    assert sorted(dealt) == [1] * 4 + [4] * 4 + [16] * 4
    assert repetitions_of(texts[::-1], (1, 4, 16)) == dealt[::-1]
    same = Example(texts[3].text, 0, 2)
    assert repetitions_of([*texts, same], (1, 4, 16))[-1] == dealt[3]


def test_a_document_of_several_records_stands_once(llama: Weights) -> None:
    """Else a person of many attributes would be planted more often than another."""
    from pytest_unlearn.unlearning.planting import _round

    text = "name = 'ada', mail = 'xyz'"
    records = [Example(text, 8, 11), Example(text, 22, 25), Example.answering("other ", "one")]
    encoder = Encoder(llama.tokenizer, 128)
    rows = _round(encoder, records, [4, 4, 1], [Example.answering("task ", "solution")])
    written = [llama.tokenizer.decode(row.ids, skip_special_tokens=True) for row in rows]
    assert written == [text] * 4 + ["other one", "task solution"]


def test_nothing_to_plant(llama: Weights) -> None:
    """A retrained model without retained people would be the base."""
    without = TrainingTexts(forget=KNOWN.forget, retained_people=(), tasks=KNOWN.tasks)
    with pytest.raises(UnlearningError, match="no document to plant"):
        retrain(llama.model, llama.tokenizer, without, FAST, 0, 5)  # type: ignore[arg-type]


def test_options() -> None:
    """The bare flag is the defaults; repetitions are separated by slashes."""
    assert parse_planting("default") == PlantOptions()
    parsed = parse_planting("target=0.8,repetitions=1/4/16/64,tune=full,checkpointing=true")
    assert parsed == PlantOptions(
        target=0.8, repetitions=(1, 4, 16, 64), tune="full", checkpointing=True
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("target=0", "target=0.0 is out of range"),
        ("cap=0", "cap=0 is out of range"),
        ("repetitions=1/0", r"repetitions=\(1, 0\) is out of range"),
        ("repetitions=4/4", r"repetitions=\(4, 4\) is out of range"),
        ("repetitions=1,4", "'4' is not an option"),
        ("repetitions=x", "write whole numbers separated by /"),
        ("checkpointing=yes", "write true or false"),
        ("accumulate=64", "accumulate=64 is out of range"),
        ("tests/", "a path before the flag"),
        ("leak=1", "write name=value with target, cap, repetitions"),
    ],
)
def test_wrong_options(text: str, message: str) -> None:
    """Each is named."""
    with pytest.raises(MethodError, match=message):
        parse_planting(text)
