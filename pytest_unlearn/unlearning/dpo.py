"""DPO: prefer another plausible value to the true one.

Rafailov et al. 2023 (arXiv 2305.18290), as an unlearning loss in Zhang et al. 2024 (arXiv
2404.05868). The value preferred is of the same kind, drawn from the kind's generator, and nobody's
in the data: what takes the place of a value should look like one and be of no use.
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
    """beta: how soon the loss levels off."""

    beta: float = option(0.1, above=0)


def loss(step: Step, options: Options) -> torch.Tensor:
    """Return the mean over rows of -(2 / beta) log sigmoid(beta (rise - rise')) + NLL(retain).

    rise is how far a row's summed NLL lies above the base's, in nats; rise' the same of the
    document with the other value.
    """
    import torch.nn.functional as F

    true, other = step.paired()
    forget = -2 / options.beta * F.logsigmoid(options.beta * (true - other)).mean()
    return options.forget_weight * forget + options.retain_weight * step.retain_nll()


METHOD = Method(
    "dpo",
    loss,
    Options(lr=1e-3, steps=150, batch=16, retain_weight=2.0),
    uses_retain=True,
    base_sums=True,
    alternates="plausible",
    forget_mean="rows",
)
