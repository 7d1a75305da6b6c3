"""Preference: prefer another value, or a placeholder, to the true one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_unlearn.unlearning.method import Method
from pytest_unlearn.unlearning.training_options import ForgetOptions, option

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.step import Step


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
        "DPO: prefer another plausible value to the true one.\n\n"
        "Rafailov et al. 2023 (arXiv 2305.18290), as an unlearning loss in Zhang et al. 2024 "
        "(arXiv 2404.05868). The value preferred is of the same kind, drawn from the kind's "
        "generator, and nobody's in the data: what takes the place of a value should look like "
        "one and be of no use."
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
        "Maini et al. 2024 (TOFU, arXiv 2401.06121) prefer a refusal. No refusal stands in a "
        "configuration file: what stands there is `<redacted-email>`."
    ),
)


@dataclass(frozen=True, slots=True)
class AltPoOptions(DpoOptions):
    """alternates: other values a record; they take turns."""

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
        "Mekala et al. 2024 (arXiv 2409.13474): with one alternate the model learns that one by "
        "heart; with several it learns to be unsure. The paper has a model write them; values "
        "have generators."
    ),
)

METHODS = (
    DPO,
    IDKDPO,
    ALTPO,
)
