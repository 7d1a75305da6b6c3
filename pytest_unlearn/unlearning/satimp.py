"""SatImp: ascent on tokens that are neither forgotten yet (saturation) nor certain (importance).

Yang et al. 2025 (arXiv 2505.11953). The weight is p^beta1 (1 - p)^beta2.
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
    """beta1: power of p (the paper's 5 spares values that are second choices); beta2: of 1 - p."""

    beta1: float = option(2.0, least=0)
    beta2: float = option(1.0, least=0)


def loss(step: Step, options: Options) -> torch.Tensor:
    """Return -mean(p^beta1 (1 - p)^beta2 NLL) over forget tokens + NLL(retain).

    No gradient goes through the weights.
    """
    nll = step.predicted(step.forget).nll()
    known = (-nll.detach()).exp()
    weight = known**options.beta1 * (1 - known) ** options.beta2
    forget = -(weight * nll).mean()
    return options.forget_weight * forget + options.retain_weight * step.retain_nll()


METHOD = Method(
    "satimp", loss, Options(lr=1e-3, steps=150, batch=16, retain_weight=1.0), uses_retain=True
)
