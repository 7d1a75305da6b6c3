"""GA+GD: gradient ascent on the forget set, gradient descent on the retain set.

"Gradient difference", Liu et al. 2022; second of the three methods of arXiv 2502.05739.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_unlearn.unlearning.options import UnlearnOptions

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.policy import Step

DEFAULTS = UnlearnOptions(lr=5e-4, steps=150, retain_weight=4.0, forget_bound=4.0)


def loss(step: Step, options: UnlearnOptions) -> torch.Tensor:
    """Return -NLL(forget) + NLL(retain), each the token mean over its learnt tokens."""
    return options.retain_weight * step.retain_nll() - options.forget_weight * step.forget_nll(
        options.forget_bound
    )
