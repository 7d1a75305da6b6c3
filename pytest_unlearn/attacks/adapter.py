"""What unlearning changed, taken in part, whole or not at all: base + a (tested - base).

Half an adapter undoes half of the unlearning. Whoever has base and tested weights can take any part
of their difference; whoever has the adapter apart needs only write another number into it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from pytest_unlearn.attacks.attack import Attack, AttackError, Target

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


def _scale(target: Target, share: float) -> None:
    """Set each weight to base + share (tested - base); in float32, and exact at 0.

    Raises AttackError where the base has other weights.
    """
    base = _same_weights(target)
    for name, weight in target.weights.items():
        before = base[name].to(weight.device)
        if share == 0:
            weight.data.copy_(before)
        else:
            moved = before.float() + share * (weight.data.float() - before.float())
            weight.data.copy_(moved)


def _same_weights(target: Target) -> Mapping[str, torch.Tensor]:
    base = target.base or {}
    for name, weight in target.weights.items():
        if name not in base or base[name].shape != weight.shape:
            raise AttackError(
                f"base and tested model differ in {name}: there is nothing between the two; leave "
                "interpolate0.5 out of --unlearn-attacks"
            )
    return base


def _merged(target: Target) -> None:
    """Leave the adapter where it is merged, in the weights."""


ATTACKS = (
    *(
        Attack(
            f"scale{share}",
            f"the adapter at {share} times its strength",
            functools.partial(_scale, share=share),
            needs="adapter",
            effort="cheap" if share == 0.5 else "all",
        )
        for share in (0.5, 0.8, 1.2)
    ),
    Attack("merged", "the adapter merged into the weights", _merged, needs="adapter"),
    Attack(
        "removed",
        "the adapter left out: what whoever gets it apart from its base can always do",
        functools.partial(_scale, share=0.0),
        needs="adapter",
        effort="named",
    ),
    Attack(
        "interpolate0.5",
        "the weights half way from the base to the tested model",
        functools.partial(_scale, share=0.5),
        needs="base",
        effort="named",
    ),
)
