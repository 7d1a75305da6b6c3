"""Values of others in the places of forgotten ones are found and unlearned there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_unlearn.models.loading import Weights
from pytest_unlearn.models.texts import Example, TrainingTexts
from pytest_unlearn.unlearning import loop
from pytest_unlearn.unlearning.data import Encoder
from pytest_unlearn.unlearning.method import document_searches
from pytest_unlearn.unlearning.methods import METHODS
from pytest_unlearn.unlearning.step import with_new_adapter
from pytest_unlearn.unlearning.substitutes import Substitutes
from tests.support.known_texts import KNOWN


def swapped(own: str = "another9") -> TrainingTexts:
    """The model knows `keep4 = kkkk4` and `user5 = vvvvv5` by heart; here, `user5`'s own value is
    another one, and `vvvvv5` is a retained person's."""
    forget = [Example.answering("user5 = ", own, ";", kind="key", like="line")]
    return replace(KNOWN, forget=forget, retained_people=[Example.answering("it = ", "vvvvv5")])


def search(knowing: Weights, texts: TrainingTexts) -> tuple[Substitutes, int, dict[str, float]]:
    """The substitutes in texts, how many were found, and what is saved."""
    policy: Any = with_new_adapter(knowing.model, 4)
    encoder = Encoder(knowing.tokenizer, 64)
    numbers: dict[str, float] = {}
    some = Substitutes(policy, knowing.tokenizer, texts, encoder.answers, numbers, seed=0)
    return some, some.search(), numbers


def test_another_persons_value_is_found_in_its_place(knowing: Weights) -> None:
    some, found, numbers = search(knowing, swapped())
    assert found == 1
    (row,) = some.draw(8, step=3)
    text = knowing.tokenizer.decode(list(row.ids))
    assert text.endswith("user5 = vvvvv5")
    learned = [label for label in row.labels if label != -100]
    assert knowing.tokenizer.decode(learned) == "vvvvv5"
    assert row.like == "line"
    assert not any("vvvvv5" in name for name in numbers)  # the saved state says where, not what


def test_a_value_of_ones_own_is_no_substitute(knowing: Weights) -> None:
    some, found, _ = search(knowing, replace(swapped(), forget=list(KNOWN.forget)))
    assert found == 0
    assert some.draw(8, step=3) == []


@pytest.mark.parametrize(
    "texts",
    [
        replace(
            KNOWN,
            forget=[Example.answering("user1 = ", "another9", ";")],
            retained_people=[Example.answering("it = ", "v1")],
        ),
        TrainingTexts([Example.answering("user1 = ", "v2")], [], []),
    ],
)
def test_short_values_are_no_substitutes(knowing: Weights, texts: TrainingTexts) -> None:
    """They look like other words; also if no value is longer."""
    assert search(knowing, texts)[1] == 0


def test_a_run_unlearns_them(knowing: Weights) -> None:
    """The model stops writing the retained person's value in that place."""
    method, lines = METHODS["anchored"], list[str]()
    options: Any = replace(
        method.defaults,
        lr=2e-3,
        steps=40,
        batch=1,
        accumulate=1,
        retain_batch=4,
        rank=4,
        cooldown=0,
        warmup=0,
        recall=0,
        precondition=0.0,
        target=-1.0,
        anchor=1.0,
        substitutes=4,
    )
    texts = swapped()
    loop.unlearn(knowing.model, knowing.tokenizer, texts, method, options, 0, lines.append)  # type: ignore[arg-type]
    searches = [line for line in lines if "somebody else's" in line]
    assert len(searches) == document_searches(replace(options, carriers=1)) == 9
    assert "step 4: asked 1 times for forgotten values" in searches[0]
    assert "somebody else's 1 times" in searches[0]
    assert "somebody else's 0 times" in searches[-1]


@pytest.mark.parametrize("count", [0, 1])
def test_a_draw_is_no_larger_than_asked(knowing: Weights, count: int) -> None:
    some, _, _ = search(knowing, swapped())
    assert len(some.draw(count, step=1)) == count
