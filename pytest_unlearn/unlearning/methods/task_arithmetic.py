"""Task arithmetic: learn the forget set, then negate what was learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_unlearn.unlearning.method import Method, MethodError, UnlearnOptions, option

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.step import Step


@dataclass(frozen=True, slots=True)
class TaskVectorOptions(UnlearnOptions):
    """scale: how far to go in the opposite direction, in steps of the fine-tuning's length."""

    scale: float = option(3.0, above=0)


def task_vector_loss(step: Step, options: TaskVectorOptions) -> torch.Tensor:
    """Return NLL(forget) of the model that is fine-tuned, the token mean.

    Raises ValueError without an adapter, and MethodError with gradient checkpointing, which would
    run layers again when the adapter has its own sign back.
    """
    from pytest_unlearn.unlearning.step import scaled_adapter

    if any(getattr(module, "gradient_checkpointing", False) for module in step.policy.modules()):
        raise MethodError("task-vector cannot be run with gradient checkpointing")
    with scaled_adapter(step.policy, -1 / options.scale):
        return step.predicted(step.forget).nll().mean()


TASK_VECTOR = Method(
    "task-vector",
    task_vector_loss,
    TaskVectorOptions(lr=1e-3, steps=100, batch=16),
    uses_retain=False,
    lora_only=True,
    about=(
        "Task vector: fine-tune on the forget set, then go as far in the opposite "
        "direction.\n\nIlharco et al. 2023 (arXiv 2212.04089): theta - scale (theta_finetuned - "
        "theta). The adapter that is kept is the negated one. The loss uses it with the factor "
        "-1 / scale, which gives the fine-tuned model, so that each evaluation sees what would "
        "be released. Everything else that the fine-tuning touched is negated too: expect "
        "ability to suffer."
    ),
)

METHODS = (TASK_VECTOR,)
