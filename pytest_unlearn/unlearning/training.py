"""Steps and looks: the part of a training that unlearning and planting share."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pytest_unlearn.unlearning import distributed
from pytest_unlearn.unlearning.checkpoints import SavedState, load_state, save_state
from pytest_unlearn.unlearning.evaluation import Look
from pytest_unlearn.unlearning.trainer import Trainer

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class Course(Generic[Batch]):
    """How a training goes.

    batches: what each step sees, the same from the start for the same seed. losses: the losses of
    one batch, made one by one. look: what is seen after so many steps. done: whether that is
    enough. rank: of two looks, the greater is kept; None keeps the last. steps: at most so many.
    check_every: steps between looks. saved: the file to go on from after a kill; None for none.
    numbers: what the losses carry from step to step, saved along. cooldown: so many steps at the
    end in which the learning rate falls; they begin when a look is enough, or when no more than
    these are left.
    """

    batches: Iterator[Batch]
    losses: Callable[[Batch], Iterable[Any]]
    look: Callable[[int], Look]
    done: Callable[[Look], bool]
    rank: Callable[[Look], tuple[Any, ...]] | None
    steps: int
    check_every: int
    saved: Path | None
    numbers: dict[str, float] = field(default_factory=dict)
    cooldown: int = 0


@dataclass(frozen=True, slots=True)
class Trained:
    """How a training ended: the look whose weights are in place now, all steps taken, seconds."""

    look: Look
    steps: int
    seconds: float


def train(trainer: Trainer, course: Course[Batch], progress: Callable[[str], None]) -> Trained:
    """Run a course to its end and put the weights of its best look in place.

    At each look the state is saved; another process with the same arguments goes on from there and
    ends with the weights of a run that nothing interrupted. Raises UnlearningError.
    """
    started = time.perf_counter()
    look: Look | None = None
    best: Look | None = None
    weights: list[Any] = []
    before = 0.0
    end = course.steps
    state = _agreed(load_state(course.saved)) if course.saved else None
    if state is not None:
        trainer.go_on(state)
        best, before = Look(**state.notes["best"]), float(state.notes["seconds"])
        end = int(state.notes["end"])
        weights = [state.tensors[f"best.{n}"] for n in range(state.notes["bests"])]
        course.numbers.update(state.notes["carried"])
        for _ in range(trainer.steps):
            next(course.batches)
        progress(f"going on after step {trainer.steps}, where the last run was cut off")
    while trainer.steps < end:
        left = end - trainer.steps
        trainer.step(course.losses(next(course.batches)), min(1.0, left / max(1, course.cooldown)))
        last = trainer.steps == end
        if trainer.steps % course.check_every and not last:
            continue
        look = course.look(trainer.steps)
        if best is None or course.rank is None or course.rank(look) > course.rank(best):
            best = look
            weights = trainer.snapshot() if course.rank else []
        if end == course.steps and course.done(look):  # the cooldown begins, if it has not
            end = min(end, trainer.steps + course.cooldown)
            last = trainer.steps == end
        if course.saved and not last:
            seconds = before + time.perf_counter() - started
            notes = {"seconds": seconds, "carried": course.numbers, "end": end}
            save_state(course.saved, _with_best(trainer.state(), best, weights, notes))
    if best is None:
        raise ValueError("a course needs at least one step")
    if best != look and weights:
        trainer.put(weights)
    return Trained(best, trainer.steps, before + time.perf_counter() - started)


def _agreed(state: SavedState | None) -> SavedState | None:
    """Return this process's state where those of all are of one step: a kill may have come between
    the writing of one's and another's."""
    steps = state.notes["steps"] if state else None
    everywhere = set(distributed.merged({distributed.number(): steps}).values())
    return state if everywhere == {steps} else None


def _with_best(
    state: SavedState, best: Look, weights: list[Any], more: dict[str, Any]
) -> SavedState:
    notes = {"best": dataclasses.asdict(best), "bests": len(weights), **more}
    tensors = {f"best.{n}": weight for n, weight in enumerate(weights)}
    return SavedState({**state.tensors, **tensors}, {**state.notes, **notes})
