"""WGA, weighted gradient ascent: each token weighs by its own likelihood.

Wang et al. 2025 (arXiv 2502.19301). Ascent stops by itself on what is unlikely already.
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
    """beta: power of the weight; 0 is gradient ascent."""

    beta: float = option(1.0, least=0)


def loss(step: Step, options: Options) -> torch.Tensor:
    """Return -mean(p^beta NLL) over forget tokens + NLL(retain); no gradient through the weight."""
    nll = step.predicted(step.forget).nll()
    forget = -((-options.beta * nll.detach()).exp() * nll).mean()
    return options.forget_weight * forget + options.retain_weight * step.retain_nll()


METHOD = Method(
    "wga", loss, Options(lr=1e-3, steps=150, batch=16, retain_weight=4.0), uses_retain=True
)
