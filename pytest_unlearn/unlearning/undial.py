"""UNDIAL, self-distillation with an adjusted logit: the base, less sure of the forget token.

Dong et al. 2024 (arXiv 2402.10052). The teacher is the base with the true token's logit lowered by
`beta`; prompt and padding are masked.
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
    """beta: how far the true token's logit is lowered."""

    beta: float = option(10.0, above=0)


def loss(step: Step, options: Options) -> torch.Tensor:
    """Return CE(softmax(z_base - beta [true token]), policy) + NLL(retain), token means."""
    from pytest_unlearn.models.losses import token_distillation, without_target

    base, policy = step.predicted_by_base(step.forget), step.predicted(step.forget)
    forget = policy.each(
        lambda logits, states, targets: token_distillation(
            without_target(base.head(states), targets, options.beta), logits
        ),
        base.states,
        base.targets,
    ).mean()
    return options.forget_weight * forget + options.retain_weight * step.retain_nll()


METHOD = Method(
    "undial", loss, Options(lr=1e-3, steps=150, batch=16, retain_weight=3.0), uses_retain=True
)
