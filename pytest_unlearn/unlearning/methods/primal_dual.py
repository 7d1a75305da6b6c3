"""Primal-dual unlearning: a price for retained loss that adapts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_unlearn.unlearning.method import Method
from pytest_unlearn.unlearning.training_options import ForgetOptions, option

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.step import RunState, Step


_PRICE = "pdu price"
_EXCESS = "pdu excess"


@dataclass(frozen=True, slots=True)
class PduOptions(ForgetOptions):
    """epsilon: retained NLL that is allowed, in nats a token. price: the retain term's factor at
    the start. price_step: how far it moves for each nat above or below epsilon, a step."""

    epsilon: float = option(0.3, least=0)
    price: float = option(100.0, least=0)
    price_step: float = option(5.0, least=0)


def pdu_loss(step: Step, options: PduOptions) -> torch.Tensor:
    """Return mean (max z - mean z)^2 over forget tokens + price (NLL(retain) - epsilon).

    The price is the same for all parts of a step.
    """
    forget = step.predicted(step.forget).each(
        lambda logits: (logits.max(dim=-1).values - logits.mean(dim=-1)).square()
    )
    excess = options.retain_weight * (step.retain_nll() - options.epsilon)
    step.state.add(_EXCESS, float(excess.detach()))
    price = step.state.numbers.get(_PRICE, options.price)
    return options.forget_weight * forget.mean() + price * excess


def move_price(state: RunState, options: PduOptions) -> None:
    """Move the price by the step's excess, which is all parts' together."""
    price = state.numbers.get(_PRICE, options.price) + options.price_step * state.sums[_EXCESS]
    state.numbers[_PRICE] = max(0.0, price)


PDU = Method(
    "pdu",
    pdu_loss,
    PduOptions(lr=1e-3, steps=150, batch=16),
    uses_retain=True,
    after_step=move_price,
    about=(
        "PDU, primal-dual unlearning: flatten the forget logits, at a price for retained loss "
        "that adapts.\n\n"
        "Entesari et al. 2025 (arXiv 2506.05314). The price rises while the retained NLL is "
        "above `epsilon` and falls, to 0 at least, while it is below."
    ),
)

METHODS = (PDU,)
