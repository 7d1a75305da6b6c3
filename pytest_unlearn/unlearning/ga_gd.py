"""GA+GD: gradient ascent on the forget set, gradient descent on the retain set.

"Gradient difference", Liu et al. 2022; second of the three methods of arXiv 2502.05739.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_unlearn.unlearning.method import Method
from pytest_unlearn.unlearning.training_options import ForgetOptions, option

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.step import Step


@dataclass(frozen=True, slots=True)
class Options(ForgetOptions):
    """forget_bound: ascent on a token ends at this NLL in nats (infinity: the paper's loss)."""

    forget_bound: float = option(4.0, above=0)


def loss(step: Step, options: Options) -> torch.Tensor:
    """Return -NLL(forget) + NLL(retain), each the token mean over its learnt tokens."""
    return options.retain_weight * step.retain_nll() - options.forget_weight * step.forget_nll(
        options.forget_bound
    )


METHOD = Method("ga+gd", loss, Options(lr=5e-4, steps=150, retain_weight=4.0), uses_retain=True)
