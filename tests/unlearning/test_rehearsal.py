"""Retained rows are drawn by what the model has lost, and looks stay within their budget."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_unlearn.core.errors import UnlearningError
from pytest_unlearn.models.batches import Encoded
from pytest_unlearn.models.loading import Weights, load
from pytest_unlearn.models.sources import ModelSource
from pytest_unlearn.models.texts import TrainingTexts
from pytest_unlearn.unlearning import loop
from pytest_unlearn.unlearning import rehearsal as rehearsal_module
from pytest_unlearn.unlearning.method import UnlearnOptions
from pytest_unlearn.unlearning.methods import METHODS
from pytest_unlearn.unlearning.rehearsal import LOOKED_ROWS, Rehearsal, scored_rows
from tests.support.known_texts import KNOWN

ROWS = [Encoded([n, n], [-100, n]) for n in range(40)]


@dataclass
class Model:
    """The loss of each row, and which rows were looked at."""

    losses: dict[int, float] = field(default_factory=dict)
    looked: list[list[int]] = field(default_factory=list)

    def __call__(self, rows: Sequence[Encoded]) -> list[float]:
        self.looked.append([row.ids[0] for row in rows])
        return [self.losses.get(row.ids[0], 0.5) for row in rows]


def rehearsal(model: Model, most: int = 40, numbers: dict[str, float] | None = None) -> Rehearsal:
    """A rehearsal of `ROWS`."""
    return Rehearsal(ROWS, model, most, {} if numbers is None else numbers, seed=0)


def drawn(rehearsal: Rehearsal, share: float = 0.5, step: int = 1) -> list[int]:
    """The rows of a step that were put in place of others."""
    others = [Encoded([n, n], [-100, n]) for n in range(100, 110)]
    rows = rehearsal.instead_of(others, share, step)
    assert len(rows) == len(others)
    return [row.ids[0] for row in rows if row.ids[0] < 100]


def test_lost_rows_take_their_share_of_a_step() -> None:
    """Before the first look, and for what was not lost, nothing changes."""
    model = Model()
    some = rehearsal(model)
    assert drawn(some) == []
    some.look()
    assert drawn(some) == []
    model.losses = dict.fromkeys(range(20), 4.0) | {30: 0.52}  # row 30 has lost 0.02 nats
    some.look()
    for step in range(20):
        rows = drawn(some, step=step)
        assert len(set(rows)) == 5
        assert max(rows) < 20
    assert sorted(drawn(some, share=1.0)) != sorted(drawn(some, share=1.0, step=2))


def test_fewer_rows_are_replaced_if_fewer_are_lost() -> None:
    model = Model()
    some = rehearsal(model)
    model.losses = {3: 2.0, 4: 2.0}
    some.look()
    assert sorted(drawn(some, share=1.0)) == [3, 4]
    model.losses = {}
    some.look()  # regained
    assert drawn(some, share=1.0) == []


def test_what_lost_more_is_drawn_more_often() -> None:
    """In proportion: 3 nats to 1; more than that does not count."""
    model = Model()
    some = rehearsal(model)
    model.losses = {0: 100.0, 1: 1.5}
    some.look()
    steps = range(2000)
    first = sum(drawn(some, share=0.1, step=step) == [0] for step in steps) / len(steps)
    assert first == pytest.approx(0.75, abs=0.04)


def test_a_look_takes_no_more_rows_than_it_may() -> None:
    """Half for what lost most, the rest in turn, so that everything is looked at in time."""
    model = Model()
    some = rehearsal(model, most=8)
    assert model.looked == [list(range(40))]  # the base, once
    for _ in range(5):
        some.look()
    assert {len(rows) for rows in model.looked[1:]} == {8}
    assert sorted(n for rows in model.looked[1:] for n in rows) == list(range(40))
    model.losses = {n: 2.0 + n for n in range(40)}
    for _ in range(12):  # in turns of four, since the other four are known to be lost
        some.look()
    assert {39, 38, 37, 36} <= set(model.looked[-1])
    assert len(set(model.looked[-1])) == 8


def test_saved_numbers_bring_back_the_same_draws() -> None:
    """As a resumed run has them."""
    model, numbers = Model(), dict[str, float]()
    some = rehearsal(model, 8, numbers)
    model.losses = dict.fromkeys(range(40), 3.0)
    some.look()
    other_model = Model()
    other = rehearsal(other_model, 8, dict(numbers))
    other_model.losses = model.losses
    assert drawn(some) == drawn(other) != []
    some.look()
    other.look()
    assert model.looked[-1] == other_model.looked[-1]


# -- in a run --------------------------------------------------------------------------------

METHOD = METHODS["anchored"]


def options(**changes: Any) -> UnlearnOptions:
    """Options for a few small steps."""
    small: dict[str, Any] = {
        "lr": 3e-2,
        "warmup": 0,
        "keep": 0.0,
        "steps": 6,
        "batch": 4,
        "retain_batch": 6,
        "accumulate": 1,
        "rank": 4,
        "cooldown": 0,
        "check_every": 2,
        "recall": 0,
        "precondition": 0.0,
        "target": -1.0,
        "substitutes": 0,
    }
    return replace(METHOD.defaults, **(small | changes))


def run(folder: Path, chosen: UnlearnOptions, **more: Any) -> torch.Tensor:
    """The trained weights of a run on `KNOWN`."""
    weights: Weights = load(ModelSource("k", folder), "cpu", "float32")
    policy, _ = loop.unlearn(weights.model, weights.tokenizer, KNOWN, METHOD, chosen, 0, **more)  # type: ignore[arg-type]
    return torch.cat([p.detach().flatten() for p in policy.parameters() if p.requires_grad])


@pytest.fixture(autouse=True)
def looks_every_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOOK_EVERY", 2)
    monkeypatch.setattr(rehearsal_module, "LOOK_EVERY", 2)


def test_a_run_looks_and_draws(knowing_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has lost something changes the steps after a look; a run scores as many rows as the plan
    counts, and none without the option."""
    scored: list[int] = []
    answer_losses = loop.answer_losses

    def counted(policy: Any, rows: Sequence[Encoded], *more: Any) -> list[float]:
        scored.append(len(rows))
        return answer_losses(policy, rows, *more)

    monkeypatch.setattr(loop, "answer_losses", counted)
    chosen = options(prioritized=0.0, retain_batch=1)
    even = run(knowing_folder, chosen)
    assert sum(scored) == scored_rows(chosen, 6) == 0
    chosen = options(prioritized=1.0, retain_batch=1)
    by_loss = run(knowing_folder, chosen)
    assert sum(scored) == scored_rows(chosen, 6) == 18  # at the base, before steps 3 and 5
    assert scored_rows(chosen, 20) == 20 + 2 * LOOKED_ROWS
    assert not torch.equal(even, by_loss)


@pytest.mark.parametrize("substitutes", [0, 2])
def test_a_run_that_was_cut_off_ends_with_the_same_weights(
    knowing_folder: Path, tmp_path: Path, substitutes: int
) -> None:
    """What was lost, and whose values were found, is saved with the weights."""
    chosen = options(prioritized=0.8, substitutes=substitutes, check_every=3)

    def stop(message: str) -> None:
        if "step 6 of" in message:
            raise KeyboardInterrupt

    saved = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(knowing_folder, chosen, saved=saved, progress=stop)
    lines: list[str] = []
    resumed = run(knowing_folder, chosen, saved=saved, progress=lines.append)
    assert lines[0].startswith("continuing after step 3")
    assert torch.equal(resumed, run(knowing_folder, chosen))


@pytest.mark.parametrize(
    "texts",
    [
        replace(KNOWN, tasks=[]),
        replace(KNOWN, retained_people=[]),
    ],
    ids=["people", "tasks"],
)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_people_alone_and_tasks_alone_are_rehearsed(
    knowing: Weights, texts: TrainingTexts, share: float
) -> None:
    """Whatever share of people is asked for."""
    chosen = options(prioritized=0.8, people_share=share)
    _, report = loop.unlearn(knowing.model, knowing.tokenizer, texts, METHOD, chosen, 0)  # type: ignore[arg-type]
    assert report.trained_steps == 6


def test_too_large_steps_are_halved(knowing_folder: Path) -> None:
    """From the start, until the model keeps half of what it should: the same weights as with that
    rate from the beginning."""
    lines: list[str] = []
    chosen = options(prioritized=0.5, lr=0.2, keep=0.95, check_every=1, target=1.0)
    halved = run(knowing_folder, chosen, progress=lines.append)
    again = [line for line in lines if "starting again" in line]
    assert "after 2 steps, 100% of the retained answers are being lost" in again[0]
    assert again[0].endswith("starting again with lr=0.1")
    rate = 0.2 / 2 ** len(again)
    assert torch.equal(halved, run(knowing_folder, replace(chosen, lr=rate)))


def test_a_rate_that_was_halved_is_resumed(knowing_folder: Path, tmp_path: Path) -> None:
    """A run that is cut off afterwards goes on with that rate, and not with what it had before."""
    chosen = options(prioritized=0.5, lr=0.2, keep=0.95, check_every=1, target=-1.0)
    lines: list[str] = []
    unbroken = run(knowing_folder, chosen, progress=lines.append)
    halvings = sum("starting again" in line for line in lines)
    assert halvings
    again: list[str] = []

    def stop(message: str) -> None:
        if "starting again" in message:
            again.append(message)
        if len(again) == halvings and "step 3 of" in message:
            raise KeyboardInterrupt

    saved = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(knowing_folder, chosen, saved=saved, progress=stop)
    lines.clear()
    resumed = run(knowing_folder, chosen, saved=saved, progress=lines.append)
    assert lines[0].startswith("continuing after step 2")
    assert not any("starting again" in line for line in lines)
    assert torch.equal(resumed, unbroken)


@pytest.mark.parametrize("changes", [{"keep": 0.0}, {"tune": "full", "least_scale": 1.0}])
def test_steps_are_not_halved_where_that_was_not_asked(
    knowing_folder: Path, changes: dict[str, Any]
) -> None:
    """If nothing need be kept, or a copy of all weights would be needed to begin anew."""
    lines: list[str] = []
    chosen = options(prioritized=0.5, lr=0.2, **{"keep": 0.95, **changes})
    with contextlib.suppress(UnlearningError):  # collapsed
        run(knowing_folder, chosen, progress=lines.append)
    assert not any("starting again" in line for line in lines)
