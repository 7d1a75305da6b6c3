"""Distillation: learn a prediction from which the true token was removed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_unlearn.unlearning.method import ForgetOptions, Method, UnlearnOptions, option

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.step import Step


@dataclass(frozen=True, slots=True)
class UndialOptions(ForgetOptions):
    """beta: how far the true token's logit is lowered."""

    beta: float = option(10.0, above=0)


def undial_loss(step: Step, options: UndialOptions) -> torch.Tensor:
    """Return CE(softmax(z_base - beta [true token]), policy) + NLL(retain), token means."""
    from pytest_unlearn.models.lm_head import token_distillation, without_target

    base, policy = step.predicted_by_base(step.forget), step.predicted(step.forget)
    forget = policy.each(
        lambda logits, states, targets: token_distillation(
            without_target(base.head(states), targets, options.beta), logits
        ),
        base.states,
        base.targets,
    ).mean()
    return options.forget_weight * forget + options.retain_weight * step.retain_nll()


UNDIAL = Method(
    "undial",
    undial_loss,
    UndialOptions(lr=1e-3, steps=150, batch=16, retain_weight=3.0),
    uses_retain=True,
    about=(
        "UNDIAL, self-distillation with an adjusted logit: learn from a base that is less sure of "
        "the forget token.\n\n"
        "Dong et al. 2024 (arXiv 2402.10052). The teacher is the base with the true token's "
        "logit lowered by `beta`; prompt and padding are masked."
    ),
)


@dataclass(frozen=True, slots=True)
class ProdOptions(ForgetOptions):
    """top_p: the mass of the base's other choices that is kept. alpha: factor of the push against
    the true token, by the base's likelihood of it."""

    top_p: float = option(0.8, above=0, most=1)
    alpha: float = option(0.0, least=0)


def prod_loss(step: Step, options: ProdOptions) -> torch.Tensor:
    """Return CE(top-p of the base without the true token, policy) + NLL(retain), token means.

    The true token's own term is alpha p_base log p: negative mass, as in the paper.
    """
    from pytest_unlearn.models.lm_head import token_distillation, top_share, without_target

    base, policy = step.predicted_by_base(step.forget), step.predicted(step.forget)

    def tokens(logits: torch.Tensor, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        reference = base.head(states)
        others = top_share(without_target(reference, targets, math.inf), options.top_p)
        own = reference.softmax(dim=-1).gather(1, targets[:, None])
        return token_distillation(others.scatter(1, targets[:, None], -options.alpha * own), logits)

    forget = policy.each(tokens, base.states, base.targets).mean()
    return options.forget_weight * forget + options.retain_weight * step.retain_nll()


PROD = Method(
    "prod",
    prod_loss,
    ProdOptions(lr=1e-3, steps=150, batch=16, retain_weight=3.0),
    uses_retain=True,
    about=(
        "PROD: learn the base's next choices instead of the true token.\n\n"
        "Jiang et al. 2025 (arXiv 2506.17125), made for code. The teacher is the base's "
        "prediction without the true token, cut to its likeliest tokens (top-p); `alpha` adds a "
        "push against the true token."
    ),
)


def ce_u_loss(step: Step, options: UnlearnOptions) -> torch.Tensor:
    """Return CE(softmax(z without the true token), policy), the token mean."""
    from pytest_unlearn.models.lm_head import token_distillation, without_target

    policy = step.predicted(step.forget)
    return policy.each(
        lambda logits, targets: token_distillation(
            without_target(logits.detach(), targets, math.inf), logits
        ),
        policy.targets,
    ).mean()


CE_U = Method(
    "ce-u",
    ce_u_loss,
    UnlearnOptions(lr=5e-4, steps=100, batch=16),
    uses_retain=False,
    about=(
        "CE-U, cross-entropy unlearning: learn the model's own prediction without the true "
        "token.\n\n"
        "Yang 2025 (arXiv 2503.01224). The teacher is the current policy (without gradient) with "
        "the true token's logit at minus infinity. Every token of the answer counts, including "
        "the first, which the authors' code leaves out: an answer that cannot begin cannot leak."
    ),
)

METHODS = (
    UNDIAL,
    PROD,
    CE_U,
)
