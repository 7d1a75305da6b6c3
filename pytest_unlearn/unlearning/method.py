"""What an unlearning method is: a loss, its options, and what it needs of the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pytest_unlearn.unlearning.training_options import ForgetOptions, MethodError, UnlearnOptions

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.step import RunState, Step

Alternates = Literal["plausible", "placeholder"]


@dataclass(frozen=True, slots=True)
class Method:
    """A loss over one step's batches with its default options.

    `loss(step, options)` returns a scalar in nats and takes at most two passes of the policy and
    one of the base. `options` are of the class of `defaults`. `uses_retain`: the step has a retain
    batch. `base_sums`: `step.base_nll()` is asked for; the base is run once an example, before the
    first step. `alternates`: which other values stand in `step.alternate`, `plausible` (another
    value of the kind) or `placeholder`; with an option of the same name, so many of them a record.
    Options `strangers` and `strangers_share`: the retain batch holds documents of made-up people
    too. Option `carriers`: each forget record is trained in so many.
    `own_spans`: `spans` is read by the loss itself, and labels are always the value's.
    `forget_mean`: what the forget term is a mean over, so that the parts of a batch add up to the
    whole (option `accumulate`); the retain term is always one over tokens. `lora_only`: the loss
    works on a LoRA adapter, and runs its layers once. `adds_up`: the losses of a batch's parts,
    each with its share in `forget_weight` and `retain_weight`, add up to that of the whole; a
    loss with a retain set needs options of the class ForgetOptions for it. `after_step` is called
    once a step with the run's state, whose `sums` are then all parts'. `about`: what the method
    does and which paper it comes from, for the reference.
    """

    name: str
    loss: Callable[[Step, Any], torch.Tensor]
    defaults: UnlearnOptions
    uses_retain: bool
    base_sums: bool = False
    alternates: Alternates | None = None
    own_spans: bool = False
    forget_mean: Literal["tokens", "rows"] = "tokens"
    lora_only: bool = False
    adds_up: bool = True
    after_step: Callable[[RunState, Any], None] | None = None
    about: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError for a loss that has no weights to take its shares."""
        if self.adds_up and self.uses_retain and not isinstance(self.defaults, ForgetOptions):
            raise ValueError(
                f"method {self.name}: write adds_up=False, or options of a class that is a "
                "ForgetOptions, whose forget_weight and retain_weight the loss multiplies with"
            )


def check_training_options(method: Method, options: UnlearnOptions) -> None:
    """Raise MethodError for options of the training that a method's loss does not allow."""
    if options.accumulate > 1 and not method.adds_up:
        raise MethodError(
            f"accumulate={options.accumulate}: the loss of {method.name} is no sum over the parts "
            "of a batch; leave it out, and lower batch or write checkpointing=true to save memory"
        )
    if method.uses_retain and options.accumulate > options.retain_batch:
        raise MethodError(
            f"accumulate={options.accumulate} is out of range: each part needs a retained row, and "
            f"a step has {options.retain_batch}; write at most that, or raise retain_batch"
        )
    if method.lora_only and (options.tune != "lora" or options.checkpointing):
        raise MethodError(
            f"{method.name} works on a LoRA adapter whose layers run once; leave out "
            f"{'checkpointing' if options.tune == 'lora' else 'tune'}"
        )


def check_processes(method: Method, options: UnlearnOptions, count: int) -> None:
    """Raise MethodError where `count` processes cannot share each step of a training."""
    if not method.adds_up:
        raise MethodError(
            f"the loss of {method.name} is no sum over the parts of a batch, so {count} processes "
            "cannot share it; train in one process (--unlearn-device=map spreads the model over "
            "its GPUs)"
        )
    rows = min(options.batch, options.retain_batch) if method.uses_retain else options.batch
    if options.accumulate * count > rows:
        raise MethodError(
            f"{count} processes need a row each of every part of a batch, and there are {rows} "
            f"rows in {options.accumulate} parts; write a batch and retain_batch of at least "
            f"{options.accumulate * count}, or start fewer processes"
        )
