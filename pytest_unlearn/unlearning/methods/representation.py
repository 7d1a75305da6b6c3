"""Representation misdirection: hidden states are pushed away, not tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_unlearn.unlearning.method import Method
from pytest_unlearn.unlearning.training_options import ForgetOptions, option

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.step import Step


@dataclass(frozen=True, slots=True)
class RmuOptions(ForgetOptions):
    """steering: length of the target vector. depth: share of the layers below the one that is
    steered (the paper's layer 7 of 32 is 0.25)."""

    steering: float = option(20.0, above=0)
    depth: float = option(0.75, above=0, most=1)


def rmu_loss(step: Step, options: RmuOptions) -> torch.Tensor:
    """Return the mean square distances (over tokens and components) of forget and retain states."""
    import torch

    retain = step.retained()
    forget = step.states(step.forget, options.depth)
    generator = torch.Generator().manual_seed(step.state.seed)
    direction = torch.rand(forget.shape[-1], generator=generator)  # uniform, as in the paper's code
    target = (options.steering * direction / direction.norm()).to(forget)
    kept = step.states(retain, options.depth) - step.base_states(retain, options.depth)
    misdirected = (forget - target).square().mean()
    total: torch.Tensor = options.forget_weight * misdirected
    return total + options.retain_weight * kept.square().mean()


RMU = Method(
    "rmu",
    rmu_loss,
    RmuOptions(lr=3e-3, steps=150, batch=16, retain_weight=10.0),
    uses_retain=True,
    about=(
        "RMU, representation misdirection: push hidden states at the forget tokens in a random "
        "direction.\n\n"
        "Li et al. 2024 (WMDP, arXiv 2403.03218). The states after a share `depth` of the "
        "layers are drawn to `steering` times a random unit vector where forget tokens are "
        "predicted, and held to the base's where retain tokens are. Layers above take no part: "
        "no pass runs them. Prompt and padding are left out."
    ),
)

METHODS = (RMU,)
