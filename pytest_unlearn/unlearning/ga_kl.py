"""GA+KL: gradient ascent on the forget set, while staying close to the base on the retain set.

Third of the three methods of arXiv 2502.05739. The divergence is KL(base || policy) over the
learnt tokens only: prompt and padding say nothing about what was retained.
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
    """forget_bound: ascent on a token ends at this NLL in nats (infinity: the paper's loss).
    kl_top: so many of the base's likeliest tokens are computed once and kept, the others count as
    one; 0 runs the base in each step, over the whole vocabulary."""

    forget_bound: float = option(4.0, above=0)
    kl_top: int = option(0, least=0)


def loss(step: Step, options: Options) -> torch.Tensor:
    """Return -NLL(forget) + KL(base || policy on retain), token means over the learnt tokens."""
    return options.retain_weight * step.retain_kl() - options.forget_weight * step.forget_nll(
        options.forget_bound
    )


METHOD = Method("ga+kl", loss, Options(lr=5e-4, steps=150, retain_weight=4.0), uses_retain=True)
