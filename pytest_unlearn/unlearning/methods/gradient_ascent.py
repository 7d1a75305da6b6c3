"""Gradient ascent on the forget set: alone, held by a retain set, weighted token by token, with a
price that adapts (primal-dual), or on the tokens of a value only (CodeEraser)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_unlearn.unlearning.method import ForgetOptions, Method, UnlearnOptions, option

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.step import RunState, Step


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
        "GA, gradient ascent: raise the loss on what should be forgotten, and do nothing else.\n\n"
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
    kl_top: the number of the base's likeliest tokens that are computed once and kept; the others
    count as one. With 0, the base runs in each step, over the whole vocabulary."""

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
        "over the learned tokens only, because prompt and padding say nothing about what was "
        "retained."
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
        "WGA, weighted gradient ascent: weight each token by its own likelihood.\n\n"
        "Wang et al. 2025 (arXiv 2502.19301). Ascent stops by itself on tokens that have become "
        "unlikely."
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
        "SatImp: ascent on tokens that are not forgotten yet (saturation) and not certain "
        "(importance).\n\n"
        "Yang et al. 2025 (arXiv 2505.11953). The weight is p^beta1 (1 - p)^beta2."
    ),
)


_PRICE = "pdu price"
_EXCESS = "pdu excess"


@dataclass(frozen=True, slots=True)
class PduOptions(ForgetOptions):
    """epsilon: the allowed retained NLL, in nats per token. price: the retain term's factor at the
    start. price_step: how far the price moves in a step for each nat above or below epsilon."""

    epsilon: float = option(0.3, least=0)
    price: float = option(100.0, least=0)
    price_step: float = option(5.0, least=0)


def pdu_loss(step: Step, options: PduOptions) -> torch.Tensor:
    """Return mean (max z - mean z)^2 over forget tokens + price (NLL(retain) - epsilon).

    The price is the same for all parts of a step.
    """
    forget = step.predicted(step.forget).each(
        lambda logits: (logits.max(dim=-1).values - logits.mean(dim=-1)).square()
    )
    excess = options.retain_weight * (step.retain_nll() - options.epsilon)
    step.state.add(_EXCESS, float(excess.detach()))
    price = step.state.numbers.get(_PRICE, options.price)
    return options.forget_weight * forget.mean() + price * excess


def move_price(state: RunState, options: PduOptions) -> None:
    """Move the price by the step's excess, which is all parts' together."""
    price = state.numbers.get(_PRICE, options.price) + options.price_step * state.sums[_EXCESS]
    state.numbers[_PRICE] = max(0.0, price)


PDU = Method(
    "pdu",
    pdu_loss,
    PduOptions(lr=1e-3, steps=150, batch=16),
    uses_retain=True,
    after_step=move_price,
    about=(
        "PDU, primal-dual unlearning: flatten the forget logits, with an adaptive price on "
        "retained loss.\n\n"
        "Entesari et al. 2025 (arXiv 2506.05314). The price rises while the retained NLL is "
        "above `epsilon`, and falls towards 0 while it is below."
    ),
)


@dataclass(frozen=True, slots=True)
class CodeEraserOptions(UnlearnOptions):
    """context_weight: factor of the document's other tokens (the paper's gamma; none with
    spans=values). kl_weight: factor of the divergences (lambda). retain_weight: of the retain set's
    among them (alpha). forget_bound: a value's token gives no gradient beyond it, in nats."""

    context_weight: float = option(0.1, least=0)
    kl_weight: float = option(0.1, least=0)
    retain_weight: float = option(1.0, least=0)
    forget_bound: float = option(4.0, above=0)


def codeeraser_loss(step: Step, options: CodeEraserOptions) -> torch.Tensor:
    """Return -NLL(value) + c NLL(rest) + l (a KL(retain) - KL(value)).

    A value's terms are the mean over values of their token means; the others are token means.
    One pass of the base sees both batches.
    """
    from pytest_unlearn.models.batches import joined
    from pytest_unlearn.unlearning.step import kl

    forget = step.forget
    if options.spans == "document":
        forget = forget.relabelled(forget.whole_labels())
    retain = step.retained()
    base = step.predicted_by_base(joined(forget, retain))
    policy = step.predicted(forget)
    count = len(policy.targets)
    is_value = step.forget.learnt_of(forget)
    value, nll = policy.only(is_value), policy.nll()

    def per_value(tokens: torch.Tensor) -> torch.Tensor:
        return value.row_means(tokens.clamp(max=options.forget_bound)).mean()

    diverged = kl(base.only(slice(count)).only(is_value), value)
    divergence = kl(base.only(slice(count, None)), step.predicted(retain)).mean()
    total = options.kl_weight * (options.retain_weight * divergence - per_value(diverged))
    total = total - per_value(nll[is_value])
    if options.spans == "document":
        total = total + options.context_weight * nll[~is_value].mean()
    return total


CODEERASER = Method(
    "codeeraser",
    codeeraser_loss,
    CodeEraserOptions(lr=1e-3, steps=150, batch=16, retain_weight=40.0, spans="document"),
    uses_retain=True,
    own_spans=True,
    adds_up=False,
    about=(
        "CodeEraser: forget the value's tokens, keep the code around them.\n\n"
        'Chu et al. 2025 (arXiv 2509.13755), "selective unlearning". The loss rises on tokens '
        "of the value and falls on the rest of the same document; the divergence from the base "
        "rises on the values and falls on the retain set. Each value counts once, however long it "
        "is."
    ),
)


METHODS = (
    GA,
    GA_GD,
    GA_KL,
    WGA,
    SATIMP,
    PDU,
    CODEERASER,
)
