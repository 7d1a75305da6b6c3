"""Losses on hidden states: push them away (RMU), or anchor them at strangers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_unlearn.unlearning.method import ForgetOptions, Method, option

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
    moved = step.states(retain, options.depth) - step.base_states(retain, options.depth)
    misdirected = (forget - target).square().mean()
    total: torch.Tensor = options.forget_weight * misdirected
    return total + options.retain_weight * moved.square().mean()


RMU = Method(
    "rmu",
    rmu_loss,
    RmuOptions(lr=3e-3, steps=150, batch=16, retain_weight=10.0),
    uses_retain=True,
    about=(
        "RMU, representation misdirection: push hidden states at the forget tokens in a random "
        "direction.\n\n"
        "Li et al. 2024 (WMDP, arXiv 2403.03218). The states after a share `depth` of the "
        "layers are pulled to `steering` times a random unit vector where forget tokens are "
        "predicted, and kept at the base's where retain tokens are. Layers above are not run. "
        "Prompt and padding are left out."
    ),
)


# Anchors hold the states of at most this many layers.
_LAYERS = 8


@dataclass(frozen=True, slots=True)
class AnchoredOptions(ForgetOptions):
    """beta: power of a forget token's weight, its likelihood. anchor: factor of the rotation of
    hidden states. strangers: documents of made-up people. strangers_share: their share of the
    retained rows. carriers: the number of carriers in which each forget record is trained.
    substitutes: steps between searches for other people's values in the places of forgotten ones,
    which are unlearned there (`unlearning.substitutes`); 0 for no search. pairs: retained people's
    rows have the kinds and carriers of the step's forget rows."""

    beta: float = option(1.0, least=0)
    anchor: float = option(80.0, least=0)
    strangers: int = option(1500, least=1)
    strangers_share: float = option(0.25, least=0, most=1)
    carriers: int = option(3, least=1)
    substitutes: int = option(20, least=0)
    pairs: bool = False


def anchored_loss(step: Step, options: AnchoredOptions) -> torch.Tensor:
    """Return -mean(p^beta NLL) over forget tokens + KL(base || policy) + anchor * turn on retain.

    No gradient goes through the weight p^beta.
    """
    forget = -step.weighted_forget_nll(options.beta)
    divergence, turn = step.retain_drift(_LAYERS)
    held = divergence + options.anchor * turn
    return options.forget_weight * forget + options.retain_weight * held


ANCHORED = Method(
    "anchored",
    anchored_loss,
    AnchoredOptions(
        lr=7e-3,
        steps=110,
        batch=96,  # with fewer rows, the same depth costs more unlisted people
        retain_batch=64,
        people_share=0.85,
        recall=4000,
        prioritized=0.8,
        accumulate=4,  # rows of similar length together: half as much padding
        rank=64,
        warmup=5,
        cooldown=55,
        check_every=110,  # once: an evaluation takes as long as three steps
        least_scale=0.5,
        precondition=0.03,
        target=0.005,
        forget_weight=5.5,
    ),
    uses_retain=True,
    base_layers=_LAYERS,
    about=(
        "Anchored forgetting: weighted ascent on the forget tokens, while the base's hidden "
        "states are held for everybody else.\n\nThis project's own method. A retain set protects "
        "the people it lists, but unlisted people are erased with those who asked. So the method "
        "asks the base whom else it knows (option `recall`) and retains these people too. The "
        "retained rows also contain *strangers*: made-up people in the same documents, half of "
        "them with names that resemble forgotten ones. The model knows nothing about a stranger, "
        "so its predictions carry nothing to keep. Its hidden states do, because they encode "
        "whom the prompt is about before the model looks up what it knows. They are kept at "
        "every token of at most eight layers (`turn`: the mean square of the difference of "
        "normalized states), in addition to KL(base || policy) on the values. The ascent is "
        "WGA's (arXiv 2502.19301). Every second step is taken on half of the adapter, so that "
        "undoing a part of it brings little back. Steps are damped in directions that "
        "everybody's documents share (option `precondition`). Most retained people are drawn by "
        "how much the model is losing of them (option `prioritized`), and other people's values "
        "that it writes in the places of forgotten ones are unlearned there (`substitutes`)."
    ),
)


METHODS = (
    RMU,
    ANCHORED,
)
