"""The unlearning loop: a LoRA adapter is trained until the forget records are gone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from pytest_unlearn.models.batching import IGNORED, Encoded, collate, encode
from pytest_unlearn.models.examples import Example, TrainingTexts
from pytest_unlearn.models.loading import peft_quietly
from pytest_unlearn.unlearning.policy import RunState, Step
from pytest_unlearn.unlearning.rows import TrainingRows, training_rows

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pytest_unlearn.unlearning.method import Method
    from pytest_unlearn.unlearning.options import UnlearnOptions

MAX_TOKENS = 512


class UnlearningError(RuntimeError):
    """Unlearning went wrong (NaN, an adapter that did not move); the message gives advice."""


@dataclass(frozen=True, slots=True)
class UnlearningReport:
    """What a run did: steps taken, the share of forget records that greedy decoding still gives
    away, and the share kept of what it gave of the retain set (1 where none is used)."""

    steps: int
    leak_rate: float
    kept: float

    def describe(self, most: int) -> str:
        """Return a line of progress."""
        return (
            f"step {self.steps} of at most {most}: "
            f"{self.leak_rate:.0%} still given away, {self.kept:.0%} kept"
        )


def unlearn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: TrainingTexts,
    method: Method,
    options: UnlearnOptions,
    seed: int,
    progress: Callable[[str], None] = lambda message: None,
) -> tuple[PeftModel, UnlearningReport]:
    """Train an adapter on `model` by `method` and return the wrapped model.

    `model` itself is not changed: with the adapter off it is the base. Deterministic for a seed,
    a device and a number of threads. Raises UnlearningError.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    pad = int(cast(int, tokenizer.pad_token_id))
    policy = _with_adapter(model, options.rank)
    policy.eval()  # no dropout: the reference must be the base itself, and runs must repeat
    watched = _WatchedSets(policy, tokenizer, texts, method.uses_retain, rng)
    rows = training_rows(policy, tokenizer, texts, method, options, MAX_TOKENS)
    batches = _batches(rows, options, rng)
    state = RunState(seed)
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.lr, weight_decay=0.0)
    for step in range(1, options.steps + 1):
        forget, retain = next(batches)
        loss = method.loss(
            Step(
                policy,
                collate(forget, pad, model.device),
                collate(retain, pad, model.device) if retain else None,
                state,
            ),
            options,
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        if not bool(torch.isfinite(loss)) or not bool(torch.isfinite(norm)):
            raise UnlearningError(
                f"step {step}: the loss is {loss.item()}; lower the learning rate "
                f"(--unlearn-method={method.name}:lr={options.lr / 4:.1e})"
            )
        optimizer.step()
        if step % options.check_every == 0 or step == options.steps:  # the last step, always
            report = UnlearningReport(step, *watched.look())
            progress(f"unlearning by {method.name}, {report.describe(options.steps)}")
            if report.leak_rate <= options.target and report.kept >= options.keep:
                break
    _check_adapter(policy, method.name)
    return policy, report


class _WatchedSets:
    """The sets that the loop looks at to know when to stop, and what the base gave of them."""

    # As many rows of the retain set are looked at: enough to see a loss of a few percent.
    ROWS = 96

    def __init__(
        self,
        policy: PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        texts: TrainingTexts,
        retain: bool,
        rng: random.Random,
    ) -> None:
        self._policy = policy
        self._pad = int(cast(int, tokenizer.pad_token_id))

        def rows(examples: Sequence[Example]) -> list[Encoded]:
            return [encode(tokenizer, example, MAX_TOKENS) for example in examples]

        self._forget = rows(texts.forget)
        kept = [texts.retained_people, texts.tasks] if retain else []
        self._kept = [
            rows(rng.sample(examples, min(len(examples), self.ROWS)))
            for examples in kept
            if examples
        ]
        self._before = [self._given(rows) for rows in self._kept]

    def look(self) -> tuple[float, float]:
        """Return the leak rate on the forget set, and the worst share kept of a retained set."""
        shares = [
            self._given(rows) / before
            for rows, before in zip(self._kept, self._before, strict=True)
            if before > 0
        ]
        return self._given(self._forget), min(shares, default=1.0)

    def _given(self, rows: Sequence[Encoded]) -> float:
        return greedy_rate(self._policy, rows, self._pad)


@torch.no_grad()
def greedy_rate(
    policy: torch.nn.Module, rows: Sequence[Encoded], pad: int, batch: int = 64
) -> float:
    """Return the share of rows whose answer greedy decoding would give.

    One teacher-forced pass: each token of the answer must be the model's first choice.
    """
    device = next(policy.parameters()).device
    ordered = sorted(rows, key=lambda row: len(row.ids))
    leaked = 0
    for start in range(0, len(ordered), batch):
        inputs = collate(ordered[start : start + batch], pad, device)
        output: Any = policy(**inputs.model_inputs(), use_cache=False)
        chosen = output.logits[:, :-1].argmax(dim=-1)
        labels = inputs.labels[:, 1:]
        leaked += int(((chosen == labels) | (labels == IGNORED)).all(dim=1).sum())
    return leaked / len(ordered)


def _with_adapter(model: PreTrainedModel, rank: int) -> PeftModel:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with peft_quietly():
        return cast("PeftModel", get_peft_model(model, config))


def _cycle(rows: Sequence[Encoded], size: int, rng: random.Random) -> Iterator[list[Encoded]]:
    """Yield batches for ever; each row comes once before any comes again."""
    pending: list[Encoded] = []
    while True:
        while len(pending) < size:
            pending.extend(rng.sample(rows, len(rows)))
        yield pending[:size]
        del pending[:size]


def _batches(
    rows: TrainingRows, options: UnlearnOptions, rng: random.Random
) -> Iterator[tuple[list[Encoded], list[Encoded]]]:
    """Yield forget and retain batches for ever; people and tasks are mixed by `people_share`."""
    people = (
        round(options.retain_batch * options.people_share) if rows.tasks else (options.retain_batch)
    )
    if not rows.people:
        people = 0
    forget = _cycle(rows.forget, options.batch, rng)
    retain = [
        _cycle(kept, size, rng)
        for kept, size in ((rows.people, people), (rows.tasks, options.retain_batch - people))
        if size and kept
    ]
    while True:
        yield next(forget), [row for stream in retain for row in next(stream)]


def _check_adapter(policy: PeftModel, name: str) -> None:
    """Raise UnlearningError when the adapter is broken or never moved.

    LoRA's B matrices start at zero; with a wrong gradient path they stay there, and the
    "unlearned" model is the base.
    """
    moved = False
    for parameter_name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            if not bool(torch.isfinite(parameter).all()):
                raise UnlearningError(f"method {name}: {parameter_name} is not finite")
            if "lora_B" in parameter_name and bool((parameter != 0).any()):
                moved = True
    if not moved:
        raise UnlearningError(
            f"method {name}: the adapter did not move; no gradient reached it, or lr is too small"
        )
