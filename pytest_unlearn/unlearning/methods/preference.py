"""Preference losses: NPO and its variants make the forget answers less likely than the base does,
up to a point; DPO and its variants prefer another value, or a placeholder, to the true one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_unlearn.unlearning.method import ForgetOptions, Method, UnlearnOptions, option

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.step import Step


@dataclass(frozen=True, slots=True)
class NpoOptions(UnlearnOptions):
    """beta: how soon the loss levels off (0 in the limit: gradient ascent)."""

    beta: float = option(0.1, above=0)


def npo_forget_term(step: Step, beta: float) -> torch.Tensor:
    """Return the mean over rows of -(2 / beta) log sigmoid(beta (L - L_base)).

    L is a row's summed NLL over the learnt tokens, in nats.
    """
    import torch.nn.functional as F

    predicted = step.predicted(step.forget)
    risen = predicted.row_sums(predicted.nll()) - step.base_nll()
    return -2 / beta * F.logsigmoid(beta * risen).mean()


def npo_loss(step: Step, options: NpoOptions) -> torch.Tensor:
    """Return the forget term alone."""
    return npo_forget_term(step, options.beta)


NPO = Method(
    "npo",
    npo_loss,
    NpoOptions(lr=5e-4, steps=100, batch=16),
    uses_retain=False,
    base_sums=True,
    forget_mean="rows",
    about=(
        "NPO, negative preference optimization: make the forget answers less likely than they "
        "are in the base.\n\n"
        "Zhang et al. 2024 (arXiv 2404.05868). The loss levels off where a sequence is much "
        "less likely than in the base, so it does not run away as gradient ascent does. The "
        "rest of the model still drifts, because nothing holds it."
    ),
)


@dataclass(frozen=True, slots=True)
class NpoGdOptions(ForgetOptions):
    """beta: how soon the forget term levels off (the paper's is 0.1; at 0.5 the forget term stops
    acting once a value is gone, and near misses of it may still come out)."""

    beta: float = option(0.5, above=0)


def npo_gd_loss(step: Step, options: NpoGdOptions) -> torch.Tensor:
    """Return NPO's forget term + NLL(retain)."""
    forget = npo_forget_term(step, options.beta)
    return options.forget_weight * forget + options.retain_weight * step.retain_nll()


NPO_GD = Method(
    "npo+gd",
    npo_gd_loss,
    NpoGdOptions(lr=1e-3, steps=150, batch=16, retain_weight=5.0),
    uses_retain=True,
    base_sums=True,
    forget_mean="rows",
    about=(
        "NPO+GD: NPO on the forget set, gradient descent on the retain set.\n\n"
        'Zhang et al. 2024 (arXiv 2404.05868), "NPO+RT".'
    ),
)


@dataclass(frozen=True, slots=True)
class NpoKlOptions(ForgetOptions):
    """beta: how soon the forget term levels off; see NPO+GD. kl_top: see GA+KL."""

    beta: float = option(0.5, above=0)
    kl_top: int = option(0, least=0)


def npo_kl_loss(step: Step, options: NpoKlOptions) -> torch.Tensor:
    """Return NPO's forget term + KL(base || policy on retain)."""
    forget = npo_forget_term(step, options.beta)
    return options.forget_weight * forget + options.retain_weight * step.retain_kl()


NPO_KL = Method(
    "npo+kl",
    npo_kl_loss,
    NpoKlOptions(lr=1e-3, steps=150, batch=16, retain_weight=5.0),
    uses_retain=True,
    base_sums=True,
    forget_mean="rows",
    about=(
        "NPO+KL: NPO on the forget set, while staying close to the base on the retain set.\n\n"
        'Zhang et al. 2024 (arXiv 2404.05868), "NPO+KL".'
    ),
)


@dataclass(frozen=True, slots=True)
class SimNpoOptions(ForgetOptions):
    """beta: how soon the loss levels off. delta: the mean NLL, in nats, that counts as even."""

    beta: float = option(4.5, above=0)
    delta: float = option(0.0, least=0)


def simnpo_loss(step: Step, options: SimNpoOptions) -> torch.Tensor:
    """Return -(2 / beta) log sigmoid(beta (L / tokens - delta)), the mean over rows, + NLL(retain).

    L is a row's summed NLL over the learnt tokens, in nats.
    """
    import torch.nn.functional as F

    predicted = step.predicted(step.forget)
    margin = predicted.row_means(predicted.nll()) - options.delta
    forget = -2 / options.beta * F.logsigmoid(options.beta * margin).mean()
    return options.forget_weight * forget + options.retain_weight * step.retain_nll()


SIMNPO = Method(
    "simnpo",
    simnpo_loss,
    SimNpoOptions(lr=1e-3, steps=150, batch=16, forget_weight=0.125),
    uses_retain=True,
    forget_mean="rows",
    about=(
        "SimNPO: NPO without a reference, on the mean NLL of each sequence.\n\n"
        "Fan et al. 2024 (arXiv 2410.07163). Long answers weigh as much as short ones, and "
        "ascent stops sooner on what the base never knew well. `delta` is the paper's gamma."
    ),
)


@dataclass(frozen=True, slots=True)
class DpoOptions(ForgetOptions):
    """beta: how soon the loss levels off."""

    beta: float = option(0.1, above=0)


def dpo_loss(step: Step, options: DpoOptions) -> torch.Tensor:
    """Return the mean over rows of -(2 / beta) log sigmoid(beta (rise - rise')) + NLL(retain).

    rise is how far a row's summed NLL lies above the base's, in nats; rise' the same of the
    document with the other value.
    """
    import torch.nn.functional as F

    true, other = step.paired()
    forget = -2 / options.beta * F.logsigmoid(options.beta * (true - other)).mean()
    return options.forget_weight * forget + options.retain_weight * step.retain_nll()


DPO = Method(
    "dpo",
    dpo_loss,
    DpoOptions(lr=1e-3, steps=150, batch=16, retain_weight=2.0),
    uses_retain=True,
    base_sums=True,
    alternates="plausible",
    forget_mean="rows",
    about=(
        "DPO: prefer another plausible value to the true one.\n\nRafailov et al. 2023 (arXiv "
        "2305.18290), as an unlearning loss in Zhang et al. 2024 (arXiv 2404.05868). The "
        "preferred value is of the same kind, comes from the kind's generator and belongs to "
        "nobody in the data: what replaces a value should look like one and be useless."
    ),
)


IDKDPO = Method(
    "idkdpo",
    dpo_loss,
    DpoOptions(lr=2e-3, steps=150, batch=16, retain_weight=2.0),
    uses_retain=True,
    base_sums=True,
    alternates="placeholder",
    forget_mean="rows",
    about=(
        'IdkDPO: prefer "I do not know" to the true value; in code, a placeholder.\n\n'
        "Maini et al. 2024 (TOFU, arXiv 2401.06121) prefer a refusal. Configuration files hold "
        "no refusals; they hold `<redacted-email>`."
    ),
)


@dataclass(frozen=True, slots=True)
class AltPoOptions(DpoOptions):
    """alternates: other values per record, used in turn."""

    alternates: int = option(5, least=1, most=100)


ALTPO = Method(
    "altpo",
    dpo_loss,
    AltPoOptions(lr=1e-3, steps=150, batch=16, retain_weight=2.0),
    uses_retain=True,
    base_sums=True,
    alternates="plausible",
    forget_mean="rows",
    about=(
        "AltPO, alternate preference optimization: prefer any of several plausible values to "
        "the true one.\n\n"
        "Mekala et al. 2024 (arXiv 2409.13474): given one alternate, the model memorizes it; given "
        "several, it learns to be unsure. In the paper a model writes the alternates; here the "
        "generators of the kinds do."
    ),
)


METHODS = (
    NPO,
    NPO_GD,
    NPO_KL,
    SIMNPO,
    DPO,
    IDKDPO,
    ALTPO,
)
