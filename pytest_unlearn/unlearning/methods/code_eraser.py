"""CodeEraser: forget the tokens of a value, keep the code around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_unlearn.unlearning.method import Method
from pytest_unlearn.unlearning.training_options import UnlearnOptions, option

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.step import Step


@dataclass(frozen=True, slots=True)
class CodeEraserOptions(UnlearnOptions):
    """context_weight: factor of the document's other tokens (the paper's gamma; none with
    spans=values). kl_weight: factor of the divergences (lambda). retain_weight: of the retain set's
    among them (alpha). forget_bound: a value's token gives no gradient beyond it, in nats."""

    context_weight: float = option(0.1, least=0)
    kl_weight: float = option(0.1, least=0)
    retain_weight: float = option(1.0, least=0)
    forget_bound: float = option(4.0, above=0)


def codeeraser_loss(step: Step, options: CodeEraserOptions) -> torch.Tensor:
    """Return -NLL(value) + c NLL(rest) + l (a KL(retain) - KL(value)).

    A value's terms are the mean over values of their token means; the others are token means.
    One pass of the base sees both batches.
    """
    from pytest_unlearn.models.batches import joined
    from pytest_unlearn.unlearning.step import kl

    forget = step.forget
    if options.spans == "document":
        forget = forget.relabelled(forget.whole_labels())
    retain = step.retained()
    base = step.predicted_by_base(joined(forget, retain))
    policy = step.predicted(forget)
    count = len(policy.targets)
    is_value = step.forget.learnt_of(forget)
    value, nll = policy.only(is_value), policy.nll()

    def per_value(tokens: torch.Tensor) -> torch.Tensor:
        return value.row_means(tokens.clamp(max=options.forget_bound)).mean()

    diverged = kl(base.only(slice(count)).only(is_value), value)
    kept = kl(base.only(slice(count, None)), step.predicted(retain)).mean()
    total = options.kl_weight * (options.retain_weight * kept - per_value(diverged))
    total = total - per_value(nll[is_value])
    if options.spans == "document":
        total = total + options.context_weight * nll[~is_value].mean()
    return total


CODEERASER = Method(
    "codeeraser",
    codeeraser_loss,
    CodeEraserOptions(lr=1e-3, steps=150, batch=16, retain_weight=40.0, spans="document"),
    uses_retain=True,
    own_spans=True,
    adds_up=False,
    about=(
        "CodeEraser: forget the value's tokens, keep the code around them.\n\n"
        'Chu et al. 2025 (arXiv 2509.13755), "selective unlearning". Tokens of the value climb, '
        "the rest of the same document descends, and a divergence from the base is raised on "
        "the values and lowered on the retain set. Each value counts once, however long it is."
    ),
)

METHODS = (CODEERASER,)
