"""Gradient ascent on the forget set: alone, held by a retain set, or weighted token by token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_unlearn.unlearning.method import Method
from pytest_unlearn.unlearning.training_options import ForgetOptions, UnlearnOptions, option

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.step import Step


@dataclass(frozen=True, slots=True)
class AscentOptions(UnlearnOptions):
    """forget_bound: ascent on a token ends at this NLL in nats (infinity: the paper's loss)."""

    forget_bound: float = option(math.inf, above=0)


def ga_loss(step: Step, options: AscentOptions) -> torch.Tensor:
    """Return -NLL(forget), the token mean over the learnt tokens."""
    return -step.forget_nll(options.forget_bound)


GA = Method(
    "ga",
    ga_loss,
    AscentOptions(lr=5e-4, steps=100),
    uses_retain=False,
    about=(
        "GA, gradient ascent: raise the loss on what is to be forgotten, and nothing else.\n\n"
        "Jang et al. 2023 (arXiv 2210.01504); first of the three methods of arXiv 2502.05739. "
        "Unbounded: it forgets everything else too, which is why the release gates ask for "
        "retained ability."
    ),
)


@dataclass(frozen=True, slots=True)
class GradientDifferenceOptions(ForgetOptions):
    """forget_bound: ascent on a token ends at this NLL in nats (infinity: the paper's loss)."""

    forget_bound: float = option(4.0, above=0)


def ga_gd_loss(step: Step, options: GradientDifferenceOptions) -> torch.Tensor:
    """Return -NLL(forget) + NLL(retain), each the token mean over its learnt tokens."""
    return options.retain_weight * step.retain_nll() - options.forget_weight * step.forget_nll(
        options.forget_bound
    )


GA_GD = Method(
    "ga+gd",
    ga_gd_loss,
    GradientDifferenceOptions(lr=5e-4, steps=150, retain_weight=4.0),
    uses_retain=True,
    about=(
        "GA+GD: gradient ascent on the forget set, gradient descent on the retain set.\n\n"
        '"Gradient difference", Liu et al. 2022; second of the three methods of arXiv '
        "2502.05739."
    ),
)


@dataclass(frozen=True, slots=True)
class AscentKlOptions(ForgetOptions):
    """forget_bound: ascent on a token ends at this NLL in nats (infinity: the paper's loss).
    kl_top: so many of the base's likeliest tokens are computed once and kept, the others count as
    one; 0 runs the base in each step, over the whole vocabulary."""

    forget_bound: float = option(4.0, above=0)
    kl_top: int = option(0, least=0)


def ga_kl_loss(step: Step, options: AscentKlOptions) -> torch.Tensor:
    """Return -NLL(forget) + KL(base || policy on retain), token means over the learnt tokens."""
    return options.retain_weight * step.retain_kl() - options.forget_weight * step.forget_nll(
        options.forget_bound
    )


GA_KL = Method(
    "ga+kl",
    ga_kl_loss,
    AscentKlOptions(lr=5e-4, steps=150, retain_weight=4.0),
    uses_retain=True,
    about=(
        "GA+KL: gradient ascent on the forget set, while staying close to the base on the "
        "retain set.\n\n"
        "Third of the three methods of arXiv 2502.05739. The divergence is KL(base || policy) "
        "over the learnt tokens only: prompt and padding say nothing about what was retained."
    ),
)


@dataclass(frozen=True, slots=True)
class WgaOptions(ForgetOptions):
    """beta: power of the weight; 0 is gradient ascent."""

    beta: float = option(1.0, least=0)


def wga_loss(step: Step, options: WgaOptions) -> torch.Tensor:
    """Return -mean(p^beta NLL) over forget tokens + NLL(retain); no gradient through the weight."""
    forget = -step.weighted_forget_nll(options.beta)
    return options.forget_weight * forget + options.retain_weight * step.retain_nll()


WGA = Method(
    "wga",
    wga_loss,
    WgaOptions(lr=1e-3, steps=150, batch=16, retain_weight=4.0),
    uses_retain=True,
    about=(
        "WGA, weighted gradient ascent: each token weighs by its own likelihood.\n\n"
        "Wang et al. 2025 (arXiv 2502.19301). Ascent stops by itself on what is unlikely "
        "already."
    ),
)


@dataclass(frozen=True, slots=True)
class SatImpOptions(ForgetOptions):
    """beta1: power of p (the paper's 5 spares values that are second choices); beta2: of 1 - p."""

    beta1: float = option(2.0, least=0)
    beta2: float = option(1.0, least=0)


def satimp_loss(step: Step, options: SatImpOptions) -> torch.Tensor:
    """Return -mean(p^beta1 (1 - p)^beta2 NLL) over forget tokens + NLL(retain).

    No gradient goes through the weights.
    """
    nll = step.predicted(step.forget).nll()
    known = (-nll.detach()).exp()
    weight = known**options.beta1 * (1 - known) ** options.beta2
    forget = -(weight * nll).mean()
    return options.forget_weight * forget + options.retain_weight * step.retain_nll()


SATIMP = Method(
    "satimp",
    satimp_loss,
    SatImpOptions(lr=1e-3, steps=150, batch=16, retain_weight=1.0),
    uses_retain=True,
    about=(
        "SatImp: ascent on tokens that are neither forgotten yet (saturation) nor certain "
        "(importance).\n\n"
        "Yang et al. 2025 (arXiv 2505.11953). The weight is p^beta1 (1 - p)^beta2."
    ),
)

METHODS = (
    GA,
    GA_GD,
    GA_KL,
    WGA,
    SATIMP,
)
