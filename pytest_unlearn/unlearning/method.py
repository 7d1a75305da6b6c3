"""What an unlearning method is: a loss, its options, and what it needs of the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pytest_unlearn.unlearning.options import UnlearnOptions

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.policy import Step

Alternates = Literal["plausible", "placeholder"]


@dataclass(frozen=True, slots=True)
class Method:
    """A loss over one step's batches with its default options.

    `loss(step, options)` returns a scalar in nats and takes at most two passes of the policy and
    one of the base. `options` are of the class of `defaults`. `uses_retain`: the step has a retain
    batch. `base_sums`: `step.base_nll()` is asked for; the base is run once an example, before the
    first step. `alternates`: which other values stand in `step.alternate`, `plausible` (another
    value of the kind) or `placeholder`; with an option of the same name, so many of them a record.
    `own_spans`: `spans` is read by the loss itself, and labels are always the value's.
    """

    name: str
    loss: Callable[[Step, Any], torch.Tensor]
    defaults: UnlearnOptions
    uses_retain: bool
    base_sums: bool = False
    alternates: Alternates | None = None
    own_spans: bool = False
