"""GA, gradient ascent: raise the loss on what is to be forgotten, and nothing else.

Jang et al. 2023 (arXiv 2210.01504); first of the three methods of arXiv 2502.05739. Unbounded: it
forgets everything else too, which is why the release gates ask for retained ability.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_unlearn.unlearning.options import UnlearnOptions

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.policy import Step

DEFAULTS = UnlearnOptions(lr=5e-4, steps=100)


def loss(step: Step, options: UnlearnOptions) -> torch.Tensor:
    """Return -NLL(forget), the token mean over the learnt tokens."""
    return -options.forget_weight * step.forget_nll(options.forget_bound)
