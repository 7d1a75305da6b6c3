"""GA, gradient ascent: raise the loss on what is to be forgotten, and nothing else.

Jang et al. 2023 (arXiv 2210.01504); first of the three methods of arXiv 2502.05739. Unbounded: it
forgets everything else too, which is why the release gates ask for retained ability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_unlearn.unlearning.method import Method
from pytest_unlearn.unlearning.training_options import UnlearnOptions, option

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.step import Step


@dataclass(frozen=True, slots=True)
class Options(UnlearnOptions):
    """forget_bound: ascent on a token ends at this NLL in nats (infinity: the paper's loss)."""

    forget_bound: float = option(math.inf, above=0)


def loss(step: Step, options: Options) -> torch.Tensor:
    """Return -NLL(forget), the token mean over the learnt tokens."""
    return -step.forget_nll(options.forget_bound)


METHOD = Method("ga", loss, Options(lr=5e-4, steps=100), uses_retain=False)
