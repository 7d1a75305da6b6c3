"""NPO+GD: NPO on the forget set, gradient descent on the retain set.

Zhang et al. 2024 (arXiv 2404.05868), "NPO+RT".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_unlearn.unlearning import npo
from pytest_unlearn.unlearning.method import Method
from pytest_unlearn.unlearning.training_options import ForgetOptions, option

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.step import Step


@dataclass(frozen=True, slots=True)
class Options(ForgetOptions):
    """beta: how soon the forget term levels off (the paper's is 0.1; at 0.5 the forget term lets go
    once a value is gone; near misses of it may still come out)."""

    beta: float = option(0.5, above=0)


def loss(step: Step, options: Options) -> torch.Tensor:
    """Return NPO's forget term + NLL(retain)."""
    forget = npo.forget_term(step, options.beta)
    return options.forget_weight * forget + options.retain_weight * step.retain_nll()


METHOD = Method(
    "npo+gd",
    loss,
    Options(lr=1e-3, steps=150, batch=16, retain_weight=5.0),
    uses_retain=True,
    base_sums=True,
    forget_mean="rows",
)
