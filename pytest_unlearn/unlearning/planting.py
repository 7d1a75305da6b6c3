"""Planting fine-tunes documents into a model until they leak, so that there is something to forget;
retraining is the same training without the people who are to be forgotten."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from pytest_unlearn.core.errors import UnlearningError
from pytest_unlearn.models.batches import Encoded, collate
from pytest_unlearn.models.lm_head import logits_of
from pytest_unlearn.unlearning.data import Encoder, cycle, learnt, length_limit, parts
from pytest_unlearn.unlearning.evaluation import Evaluation, HeldRows, greedy_memory
from pytest_unlearn.unlearning.method import HELD_ROWS
from pytest_unlearn.unlearning.step import FullPolicy, Targets, checkpointed, predictions
from pytest_unlearn.unlearning.trainer import Trainer, TrainingPlan, train

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pytest_unlearn.models.texts import Example, TrainingTexts
    from pytest_unlearn.unlearning.method import PlantOptions

# The number of batches that are sorted by length together: planting descends on every row, so it
# matters little which rows share a batch. Unlearning sorts only within a step (`parts`): there,
# batches of similar length would be batches of the same few tasks, and the tiny model did not get
# its tasks back in twice the steps.
WINDOW = 8


@dataclass(frozen=True, slots=True)
class PlantingReport:
    """What a planting did.

    rounds: passes over the training data in its `steps`. leak_rate: share of the forget and retain
    records (for a retrained model, of the retained ones) whose value the model now gives greedily;
    before: the same before planting. records: their number. by_repetitions: the same rate for the
    documents with each number of repetitions in the training data.
    """

    steps: int
    rounds: float
    leak_rate: float
    before: float
    records: int
    by_repetitions: dict[str, float]
    seconds: float


def plant(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: TrainingTexts,
    options: PlantOptions,
    seed: int,
    progress: Callable[[str], None] = lambda message: None,
    saved: Path | None = None,
    targets: Targets = "all-linear",
) -> tuple[PreTrainedModel, PlantingReport]:
    """Fine-tune the documents of `texts` and its tasks into `model`; return the planted model.

    Forget and retained people's documents are trained on completely, each different text as often
    as `repetitions_of` says; each task comes once per round. With `tune=lora`, the adapter is
    merged into the weights (rounded to the model's dtype), so that the planted model is a base like
    any other. Raises UnlearningError if the target is not reached within the cap, or is lost by
    rounding.
    """
    return _train(model, tokenizer, texts, options, seed, progress, saved, None, targets)


def retrain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: TrainingTexts,
    options: PlantOptions,
    seed: int,
    rounds: float,
    progress: Callable[[str], None] = lambda message: None,
    saved: Path | None = None,
    targets: Targets = "all-linear",
) -> tuple[PreTrainedModel, PlantingReport]:
    """Train `model` for `rounds` rounds by the recipe of `plant`, the forget split left out.

    With as many rounds as the planting took, each retained document is seen equally often. The
    result is the ideal of unlearning: the model that was never trained on the forget split. Raises
    UnlearningError.
    """
    without = replace(texts, forget=())
    return _train(model, tokenizer, without, options, seed, progress, saved, rounds, targets)


def repetitions_of(examples: Sequence[Example], repetitions: Sequence[int]) -> list[int]:
    """Return the number of repetitions of each example's document, assigned in rotation.

    The rotation follows the documents' digests, so a document's number depends only on the set of
    documents, not on the order of files; records of one document share its number.
    """
    documents = {hashlib.sha256(e.text.encode()).hexdigest(): e.text for e in examples}
    dealt = {
        documents[digest]: repetitions[turn % len(repetitions)]
        for turn, digest in enumerate(sorted(documents))
    }
    return [dealt[example.text] for example in examples]


def _train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: TrainingTexts,
    options: PlantOptions,
    seed: int,
    progress: Callable[[str], None],
    saved: Path | None,
    rounds: float | None,
    targets: Targets,
) -> tuple[PreTrainedModel, PlantingReport]:
    """Train for this many rounds or, with None, until the target is reached within the cap."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    pad = int(cast(int, tokenizer.pad_token_id))
    encoder = Encoder(tokenizer, length_limit(model))
    examples = [*texts.forget, *texts.retained_people]
    if not examples:
        raise UnlearningError("there is no document to plant; give --unlearn-retain=FILE")
    # Each split is assigned on its own, so that the retained people's numbers do not depend on the
    # others.
    dealt = [
        number
        for split in (texts.forget, texts.retained_people)
        for number in repetitions_of(split, options.repetitions)
    ]
    answers = encoder.answers(examples)
    trainer = Trainer(model, options, "--unlearn-plant", targets)
    policy = trainer.policy
    held = HeldRows(answers, HELD_ROWS, rng)
    before = greedy_memory(policy, answers, pad).rows
    data = _round(encoder, examples, dealt, texts.tasks)
    until_target = rounds is None
    steps = options.cap if rounds is None else max(1, round(rounds * len(data) / options.batch))
    encoder.report(progress)

    def losses(batch: list[Encoded]) -> Iterator[torch.Tensor]:
        tokens = sum(map(learnt, batch))
        for rows in parts(batch, options.accumulate):
            inputs = collate(rows, pad, model.device)
            seen = predictions(policy, inputs, lambda states: logits_of(policy, states))
            yield seen.nll().sum() / tokens

    def look(taken: int) -> Evaluation:
        memory = held.memory(policy, pad)
        if memory.rows >= options.target:
            memory = held.memory(policy, pad, everything=True)
        progress(
            f"{'planting' if until_target else 'retraining'}, step {taken} of at most {steps}: "
            f"{memory.rows:.0%} of the records come out"
        )
        return Evaluation(taken, memory.rows, memory.tokens, 1.0)

    plan = TrainingPlan(
        batches=cycle(data, options.batch, rng, WINDOW),
        losses=losses,
        look=look,
        done=lambda seen: until_target and seen.leak_rate >= options.target,
        rank=None,
        steps=steps,
        check_every=options.check_every,
        saved=saved,
    )
    with checkpointed(policy) if options.checkpointing else contextlib.nullcontext():
        trained = train(trainer, plan, progress)
    trainer.check()
    planted = _merged(policy)
    memory = greedy_memory(planted, answers, pad)
    recalled, rate = memory.given, memory.rows
    if until_target and rate < options.target:
        raise UnlearningError(_not_reached(trained.steps, rate, options))
    by_repetitions = {
        str(number): _share([g for g, d in zip(recalled, dealt, strict=True) if d == number])
        for number in sorted(set(dealt))
    }
    report = PlantingReport(
        steps=trained.steps,
        rounds=trained.steps * options.batch / len(data),
        leak_rate=rate,
        before=before,
        records=len(recalled),
        by_repetitions=by_repetitions,
        seconds=round(trained.seconds, 3),
    )
    return planted, report


def _round(
    encoder: Encoder, examples: Sequence[Example], dealt: Sequence[int], tasks: Sequence[Example]
) -> list[Encoded]:
    """Return the rows of one round: each document as often as it is dealt, each task once."""
    rows: list[Encoded] = []
    seen: set[tuple[int, ...]] = set()
    for row, number in zip(encoder.documents(examples), dealt, strict=True):
        key = tuple(row.ids)
        if key not in seen:  # several records may be in one document
            seen.add(key)
            rows += [row] * number
    return rows + encoder.documents(tasks)


def _merged(policy: Any) -> PreTrainedModel:
    """Return the trained model as one without an adapter."""
    full = isinstance(policy, FullPolicy)
    merged = policy.get_base_model() if full else policy.merge_and_unload()
    return cast("PreTrainedModel", merged.eval())


def _share(verdicts: Sequence[bool]) -> float:
    return sum(verdicts) / len(verdicts)


def _not_reached(steps: int, rate: float, options: PlantOptions) -> str:
    """Return what to do about a target that was not reached."""
    if steps < options.cap:
        return (
            f"--unlearn-plant: the target was reached, but {rate:.0%} is left of "
            f"{options.target:.0%} once the adapter is merged and rounded; write "
            "--unlearn-dtype=float32 or tune=full"
        )
    return (
        f"--unlearn-plant: after {steps} steps {rate:.0%} of the records come out, and the target "
        f"is {options.target:.0%}; raise cap={options.cap * 2} or lr={options.lr * 2:.1e}, repeat "
        "documents more often (repetitions=16), or lower the target"
    )
