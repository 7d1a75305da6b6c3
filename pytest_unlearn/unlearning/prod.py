"""PROD: learn the base's next choices in the place of the true token.

Jiang et al. 2025 (arXiv 2506.17125), made for code. The teacher is the base's prediction without
the true token, cut to its likeliest tokens (top-p); `alpha` adds a push against the true token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_unlearn.unlearning.method import Method
from pytest_unlearn.unlearning.training_options import ForgetOptions, option

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.step import Step


@dataclass(frozen=True, slots=True)
class Options(ForgetOptions):
    """top_p: the mass of the base's other choices that is kept. alpha: factor of the push against
    the true token, by the base's likelihood of it."""

    top_p: float = option(0.8, above=0, most=1)
    alpha: float = option(0.0, least=0)


def loss(step: Step, options: Options) -> torch.Tensor:
    """Return CE(top-p of the base without the true token, policy) + NLL(retain), token means.

    The true token's own term is alpha p_base log p: negative mass, as in the paper.
    """
    from pytest_unlearn.models.losses import token_distillation, top_share, without_target

    base, policy = step.predicted_by_base(step.forget), step.predicted(step.forget)

    def tokens(logits: torch.Tensor, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        reference = base.head(states)
        others = top_share(without_target(reference, targets, math.inf), options.top_p)
        own = reference.softmax(dim=-1).gather(1, targets[:, None])
        return token_distillation(others.scatter(1, targets[:, None], -options.alpha * own), logits)

    forget = policy.each(tokens, base.states, base.targets).mean()
    return options.forget_weight * forget + options.retain_weight * step.retain_nll()


METHOD = Method(
    "prod", loss, Options(lr=1e-3, steps=150, batch=16, retain_weight=3.0), uses_retain=True
)
