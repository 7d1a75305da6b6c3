"""GA+KL: gradient ascent on the forget set, while staying close to the base on the retain set.

Third of the three methods of arXiv 2502.05739. The divergence is KL(base || policy) over the
learnt tokens only: prompt and padding say nothing about what was retained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_unlearn.unlearning.options import UnlearnOptions

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.policy import Step

DEFAULTS = UnlearnOptions(lr=5e-4, steps=150, retain_weight=4.0, forget_bound=4.0)


def loss(step: Step, options: UnlearnOptions) -> torch.Tensor:
    """Return -NLL(forget) + KL(base || policy on retain), token means over the learnt tokens."""
    return options.retain_weight * step.retain_kl() - options.forget_weight * step.forget_nll(
        options.forget_bound
    )
