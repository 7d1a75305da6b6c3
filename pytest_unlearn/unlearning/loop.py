"""The unlearning loop: train until the forget records are gone, and keep the best weights."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from pytest_unlearn.core.errors import UnlearningError
from pytest_unlearn.models.batches import Batch, Encoded, collate, runs_as_tree
from pytest_unlearn.models.patching import merged_lora
from pytest_unlearn.unlearning import distributed
from pytest_unlearn.unlearning.data import (
    Encoder,
    TrainingRows,
    by_like,
    cycle,
    learnt,
    length_limit,
    partners,
    parts,
    rows_of,
    training_rows,
)
from pytest_unlearn.unlearning.distributed import run
from pytest_unlearn.unlearning.evaluation import (
    Evaluation,
    WatchedSets,
    answer_losses,
    collapsed,
)
from pytest_unlearn.unlearning.method import WithPairs, WithStrangersShare, WithSubstitutes
from pytest_unlearn.unlearning.preconditioning import preconditioners
from pytest_unlearn.unlearning.recall import recalled
from pytest_unlearn.unlearning.rehearsal import (
    LOOK_EVERY,
    LOOKED_ROWS,
    TOO_MANY_LOST,
    Rehearsal,
)
from pytest_unlearn.unlearning.step import RunState, Step, Targets, checkpointed, scaled_adapter
from pytest_unlearn.unlearning.substitutes import Substitutes
from pytest_unlearn.unlearning.trainer import Trainer, TrainingPlan, train

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pytest_unlearn.models.texts import Example, TrainingTexts
    from pytest_unlearn.unlearning.method import Method, UnlearnOptions

Batches = tuple[list[Encoded], list[Encoded]]


# The learning rate is halved down to this share of the option.
SLOWEST = 1 / 64


class _TooFast(Exception):
    """The model is losing more than half of what it should keep."""

    def __init__(self, lost: float) -> None:
        super().__init__(lost)
        self.lost = lost


@dataclass(frozen=True, slots=True)
class UnlearningReport:
    """What an unlearning did: the step whose weights were kept and the total number of steps, the
    share of forget records that greedy decoding still gives, the kept share of what it gave of the
    retain set (1 without one), and seconds."""

    steps: int
    trained_steps: int
    leak_rate: float
    kept: float
    seconds: float


def unlearn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: TrainingTexts,
    method: Method,
    options: UnlearnOptions,
    seed: int,
    progress: Callable[[str], None] = lambda message: None,
    saved: Path | None = None,
    targets: Targets = "all-linear",
) -> tuple[PeftModel, UnlearningReport]:
    """Train `model` by `method`, and return the trained model and a report.

    With `tune=lora`, this is `model` with an adapter; with the adapter off, it is the base. With
    `tune=full`, it is a `FullPolicy` around `model`, whose own weights have changed. If several
    processes train, either is sharded, in a `ShardedPolicy`. `saved`: a file (`processes.own_file`)
    for the state of a run that is killed; the caller removes it once the result has been written.
    `targets`: the modules that an adapter changes. The result is deterministic for a seed, a device
    and a number of threads. Raises UnlearningError.
    """
    if method.uses_retain and not (texts.retained_people or texts.tasks):
        raise UnlearningError(
            f"method {method.name} needs a retain set, and there are neither retained people nor "
            "tasks; give --unlearn-retain=FILE"
        )
    torch.manual_seed(seed)
    rng = random.Random(seed)
    pad = int(cast(int, tokenizer.pad_token_id))
    encoder = Encoder(tokenizer, length_limit(model))
    if method.uses_retain and options.recall:
        texts = replace(texts, recalled=_recalled(model, tokenizer, texts, options, seed, progress))
    trees = not options.checkpointing and _as_trees(model, encoder, texts)
    trainer = Trainer(model, options, f"--unlearn-method={method.name}", targets)
    policy = trainer.policy
    watched = WatchedSets(policy, encoder, texts, method.uses_retain, pad, rng, trees)
    # A method that works on the adapter's own layers needs these.
    merges = distributed.count() == 1 and not method.lora_only

    def merged() -> AbstractContextManager[None]:
        return merged_lora(policy) if merges else contextlib.nullcontext()

    rows = training_rows(policy, encoder, texts, method, options, pad, trees)
    if method.uses_retain and options.precondition:
        retained = [*rows.everybody, *rows.tasks]
        trainer.precondition(preconditioners(policy, retained, options.precondition, pad, rng))
    encoder.report(progress)
    state = RunState(seed)

    def losses(batch: Batches) -> Iterator[torch.Tensor]:
        scaled = options.least_scale < 1 and trainer.steps % 2 == 0
        # Around each yield, since a checkpointed backward pass runs the layers again.
        with (
            scaled_adapter(policy, options.least_scale) if scaled else contextlib.nullcontext(),
            merged(),
        ):
            yield from losses_at_scale(batch)
        if method.after_step:
            state.sums = _of_all(state.sums)
            method.after_step(state, options)
            state.sums = {}

    def collated(rows: list[Encoded]) -> Batch:
        return collate(rows, pad, model.device, trees)

    def losses_at_scale(batch: Batches) -> Iterator[torch.Tensor]:
        for forget, retain, part_options, share in _shares(*batch, options, method):
            step = Step(
                policy,
                collated(forget),
                collated(retain) if retain else None,
                state,
            )
            yield run(policy, partial(_loss, method, step, part_options, share))

    def look(steps: int) -> Evaluation:
        with merged():
            seen = watched.look(steps, options)
        progress(
            f"unlearning by {method.name}, step {steps} of at most {options.steps}: "
            f"{seen.leak_rate:.0%} still given away, {seen.kept:.0%} kept"
        )
        return seen

    def losses_now(rows: Sequence[Encoded]) -> list[float]:
        with merged():
            return answer_losses(policy, rows, pad, trees)

    rehearsal: Rehearsal | None = None
    if method.uses_retain and options.prioritized:
        people = rows.everybody if options.people_share or not rows.tasks else []
        drawn = people or rows.tasks
        most = LOOKED_ROWS * options.retain_batch
        rehearsal = Rehearsal(drawn, losses_now, most, state.numbers, seed)
    substitutes: Substitutes | None = None
    search_every = options.substitutes if isinstance(options, WithSubstitutes) else 0
    if search_every:
        as_rows = partial(rows_of, encoder, method, options)
        substitutes = Substitutes(policy, tokenizer, texts, as_rows, state.numbers, seed)

    def slower_possible() -> bool:
        lora = options.tune == "lora"  # whose start takes little memory
        return lora and options.keep > 0 and trainer.lr > options.lr * SLOWEST

    def before_draws(step: int) -> None:
        # A resumed run repeats the draws of the steps that it took, but has their findings.
        if step != trainer.steps or not step:
            return
        if rehearsal and step % LOOK_EVERY == 0:
            lost = rehearsal.look()
            if lost > TOO_MANY_LOST and slower_possible():
                raise _TooFast(lost)
        if substitutes and step % search_every == 0:
            with merged():
                found = substitutes.search()
            progress(
                f"unlearning by {method.name}, step {step}: asked {len(texts.forget)} times for "
                f"forgotten values, the model wrote somebody else's {found} times; they are "
                "unlearned there"
            )

    draws = rng.getstate()

    def plan() -> TrainingPlan[Batches]:
        rng.setstate(draws)
        return TrainingPlan(
            batches=_batches(rows, options, rng, rehearsal, substitutes, before_draws),
            losses=losses,
            look=look,
            done=lambda seen: watched.reached(seen, options),
            rank=(lambda seen: watched.rank(seen, options)) if options.target >= 0 else None,
            steps=options.steps,
            check_every=options.check_every,
            saved=saved,
            numbers=state.numbers,
            cooldown=options.cooldown,
        )

    start = trainer.snapshot() if rehearsal and slower_possible() else []
    with checkpointed(policy) if options.checkpointing else contextlib.nullcontext():
        while True:
            try:
                trained = train(trainer, plan(), progress)
                break
            except _TooFast as error:
                lr = trainer.lr / 2
                progress(
                    f"unlearning by {method.name}: after {trainer.steps} steps, {error.lost:.0%} "
                    f"of the retained answers are being lost; starting again with lr={lr:.2g}"
                )
                trainer.start_again(start, lr)
                state.numbers.clear()
                watched.start_again()
                if saved:
                    saved.unlink(missing_ok=True)
    trainer.check()
    with merged():
        best = watched.whole(trained.look)
    if collapsed(best, options):
        raise UnlearningError(
            f"--unlearn-method={method.name}: the model collapsed: after {trained.steps} steps "
            f"greedy decoding gives {best.kept:.0%} of what the base gave of the retain set; lower "
            f"the learning rate (lr={trainer.lr / 4:.1e}){_gentler(options)}; keep=0 lets a "
            "collapse pass"
        )
    report = UnlearningReport(
        best.steps, trained.steps, best.leak_rate, best.kept, round(trained.seconds, 3)
    )
    return policy, report


def _as_trees(model: Any, encoder: Encoder, texts: TrainingTexts) -> bool:
    """Return whether a model can run batches as trees, by trying two documents, and one that begins
    like the first and ends like the second."""
    first, second = ([*row.ids] for row in encoder.answers([*texts.forget, *texts.forget][:2]))
    third = first[: (len(first) + 1) // 2] + second[len(second) // 2 :]
    return runs_as_tree(model, [first, second, third], encoder.limit)


def _recalled(
    model: Any,
    tokenizer: Any,
    texts: TrainingTexts,
    options: UnlearnOptions,
    seed: int,
    progress: Callable[[str], None],
) -> list[Example]:
    """Return what the base recalls. With several processes, the first one asks, on its GPU if it
    has one, before the model is cut into shards."""
    documents: list[Example] = []
    if distributed.number() == 0:
        home = model.device
        if distributed.count() > 1 and distributed.device_type() == "cuda":
            model.to(torch.cuda.current_device())
        documents = recalled(model, tokenizer, texts, options.recall, seed, progress)
        if model.device != home:
            model.to(home)
    return distributed.from_first(documents)


def _gentler(options: UnlearnOptions) -> str:
    """Return advice on the method's other options that spare the retain set."""
    advice = {"retain_weight": "raise retain_weight", "forget_bound": "lower forget_bound"}
    names = {field.name for field in dataclasses.fields(options)}
    return "".join(f" or {words}" for name, words in advice.items() if name in names)


def _loss(method: Method, step: Step, options: Any, share: float) -> torch.Tensor:
    return share * method.loss(step, options)


def _of_all(sums: dict[str, float]) -> dict[str, float]:
    """Return the sums over all processes, which have the same names."""
    totals = distributed.summed(torch.tensor(list(sums.values()), dtype=torch.float64))
    return dict(zip(sums, totals.tolist(), strict=True))


def _shares(
    forget: list[Encoded], retain: list[Encoded], options: Any, method: Method
) -> Iterator[tuple[list[Encoded], list[Encoded], Any, float]]:
    """Cut a step's batches into `accumulate` parts, each with its options and its factor.

    With several processes, each takes some rows of every part, of similar length. A term that is a
    mean over learned tokens weights a part by its tokens (the forget term by its rows, if it is a
    mean over rows), so that the gradients of the parts add up to that of the whole batch; a mean of
    the parts' means would not. Two terms have their shares in their weights; a single term has the
    factor.
    """
    count = options.accumulate
    if count * distributed.count() == 1:
        yield forget, retain, options, 1.0
        return
    own = slice(distributed.number(), None, distributed.count())

    def size(rows: list[Encoded]) -> int:
        return sum(map(learnt, rows))

    retained = parts(retain, count) if retain else [[]] * count
    for every, every_kept in zip(parts(forget, count), retained, strict=True):
        rows, kept_rows = every[own], every_kept[own]
        by_rows = method.forget_mean == "rows"
        share = len(rows) / len(forget) if by_rows else size(rows) / size(forget)
        if not method.uses_retain:
            yield rows, kept_rows, options, share
            continue
        weights = {
            "forget_weight": options.forget_weight * share,
            "retain_weight": options.retain_weight * size(kept_rows) / size(retain),
        }
        yield rows, kept_rows, replace(options, **weights), 1.0


def _batches(
    rows: TrainingRows,
    options: UnlearnOptions,
    rng: random.Random,
    rehearsal: Rehearsal | None = None,
    substitutes: Substitutes | None = None,
    before: Callable[[int], None] = lambda step: None,
) -> Iterator[Batches]:
    """Yield forget and retain batches forever; people and tasks are mixed by `people_share`.

    People are those in the retain set and those whom the base recalls, in proportion to their rows.
    For a method with strangers, a share `strangers_share` of the `retain_batch` rows are theirs.
    With `pairs`, people's rows have the kinds and carriers of the step's forget rows. With
    `prioritized`, this share of people's rows (of tasks' without people) are drawn by what the
    model has lost; with `substitutes`, an eighth as many rows as the forget rows come on top of
    these. `before` is called with the number of a step before its batch is drawn.
    """
    share = options.strangers_share if isinstance(options, WithStrangersShare) else 0.0
    strangers = round(options.retain_batch * share) if rows.strangers else 0
    known = options.retain_batch - strangers
    pairs = isinstance(options, WithPairs) and options.pairs
    people = round(known * options.people_share) if rows.tasks else known
    everybody = rows.everybody
    if not everybody:
        people = 0
    forget = cycle(rows.forget, options.batch, rng)
    paired = by_like(everybody) if pairs and people else {}

    def even(part: list[Encoded], size: int) -> Iterator[list[Encoded]]:
        return cycle(part, size, rng) if part and size else itertools.repeat([])

    persons = even([] if paired else everybody, people)
    tasks = even(rows.tasks, known - people)
    unknown = even(rows.strangers, strangers)
    for step in itertools.count():
        before(step)
        batch = next(forget)
        beside = partners(rng.sample(batch, len(batch)), paired, people, rng) if paired else []
        kept, learned = [*beside, *next(persons)], next(tasks)
        if rehearsal and kept:
            kept = rehearsal.instead_of(kept, options.prioritized, step)
        elif rehearsal:
            learned = rehearsal.instead_of(learned, options.prioritized, step)
        if substitutes:
            batch = [*batch, *substitutes.draw(max(1, options.batch // 8), step)]
        yield batch, [*kept, *learned, *next(unknown)]
