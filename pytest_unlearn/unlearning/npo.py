"""NPO, negative preference optimization: make the forget answers less likely than the base does.

Zhang et al. 2024 (arXiv 2404.05868). The loss levels off where a sequence is much less likely than
in the base, so it does not run away as gradient ascent does; the rest of the model drifts all the
same, since nothing holds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_unlearn.unlearning.method import Method
from pytest_unlearn.unlearning.training_options import UnlearnOptions, option

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.step import Step


@dataclass(frozen=True, slots=True)
class Options(UnlearnOptions):
    """beta: how soon the loss levels off (0 in the limit: gradient ascent)."""

    beta: float = option(0.1, above=0)


def forget_term(step: Step, beta: float) -> torch.Tensor:
    """Return the mean over rows of -(2 / beta) log sigmoid(beta (L - L_base)).

    L is a row's summed NLL over the learnt tokens, in nats.
    """
    import torch.nn.functional as F

    predicted = step.predicted(step.forget)
    risen = predicted.row_sums(predicted.nll()) - step.base_nll()
    return -2 / beta * F.logsigmoid(beta * risen).mean()


def loss(step: Step, options: Options) -> torch.Tensor:
    """Return the forget term alone."""
    return forget_term(step, options.beta)


METHOD = Method(
    "npo",
    loss,
    Options(lr=5e-4, steps=100, batch=16),
    uses_retain=False,
    base_sums=True,
    forget_mean="rows",
)
