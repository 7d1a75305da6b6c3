"""SimNPO: NPO without a reference, on the mean NLL of each sequence.

Fan et al. 2024 (arXiv 2410.07163). Long answers weigh as much as short ones, and what the base
never knew well is left alone sooner. `delta` is the paper's gamma.
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
    """beta: how soon the loss levels off. delta: the mean NLL, in nats, that counts as even."""

    beta: float = option(4.5, above=0)
    delta: float = option(0.0, least=0)


def loss(step: Step, options: Options) -> torch.Tensor:
    """Return -(2 / beta) log sigmoid(beta (L / tokens - delta)), the mean over rows, + NLL(retain).

    L is a row's summed NLL over the learnt tokens, in nats.
    """
    import torch.nn.functional as F

    predicted = step.predicted(step.forget)
    margin = predicted.row_means(predicted.nll()) - options.delta
    forget = -2 / options.beta * F.logsigmoid(options.beta * margin).mean()
    return options.forget_weight * forget + options.retain_weight * step.retain_nll()


METHOD = Method(
    "simnpo",
    loss,
    Options(lr=1e-3, steps=150, batch=16, forget_weight=0.125),
    uses_retain=True,
    forget_mean="rows",
)
