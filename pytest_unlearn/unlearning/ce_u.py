"""CE-U, cross-entropy unlearning: the model's own prediction with the true token taken out.

Yang 2025 (arXiv 2503.01224). The teacher is the policy of the moment (no gradient) with the true
token's logit at minus infinity. Each token of the answer counts, the first one too: what cannot be
begun cannot be given away, and the authors' code leaves it out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_unlearn.unlearning.method import Method
from pytest_unlearn.unlearning.training_options import UnlearnOptions

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.step import Step


def loss(step: Step, options: UnlearnOptions) -> torch.Tensor:
    """Return CE(softmax(z without the true token), policy), the token mean."""
    from pytest_unlearn.models.losses import token_distillation, without_target

    policy = step.predicted(step.forget)
    return policy.each(
        lambda logits, targets: token_distillation(
            without_target(logits.detach(), targets, math.inf), logits
        ),
        policy.targets,
    ).mean()


METHOD = Method("ce-u", loss, UnlearnOptions(lr=5e-4, steps=100, batch=16), uses_retain=False)
