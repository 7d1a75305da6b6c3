"""What is trained: a LoRA adapter on a frozen model, or all of its weights beside their base."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from pytest_unlearn.core.errors import UnlearningError
from pytest_unlearn.models.loading import peft_quietly

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


# Names of modules, or PEFT's word for all linear layers but the head.
Targets = list[str] | str


def with_new_adapter(
    model: PreTrainedModel, rank: int, targets: Targets = "all-linear"
) -> PeftModel:
    """Return `model` with a new LoRA adapter on some modules, alpha twice the rank.

    The adapter has the model's dtype and no casts around it, which PEFT would add; steps that
    bfloat16 would round away add up in the trainer's master weights.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with peft_quietly():
        return cast("PeftModel", get_peft_model(model, config, autocast_adapter_dtype=False))


class FullPolicy(torch.nn.Module):
    """A model whose every weight is trained; `disable_adapter` gives the base, as peft's does.

    Only a method that asks for the base pays for it: a frozen copy of the weights is made the
    first time, which must be before the first step, and swapped in for the length of a block.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model.requires_grad_(True)
        self._base: list[torch.Tensor] | None = None
        self.started = False
        # Where the weights are in memory, and how they and the base's change places: otherwise
        # where they are in shards.
        self.own: Callable[[], Sequence[torch.Tensor]] = lambda: list(self.model.parameters())
        self.exchange = self._swap

    def forward(self, *arguments: Any, **inputs: Any) -> Any:
        """Run the model."""
        return self.model(*arguments, **inputs)

    def get_base_model(self) -> PreTrainedModel:
        """Return the model itself, in the state that it is in."""
        return self.model

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    @property
    def keeps_base(self) -> bool:
        """Tell whether the base has been asked for."""
        return self._base is not None

    def keep_base(self) -> None:
        """Copy the weights as they are. Raises RuntimeError once training has changed them."""
        if self._base is None:
            if self.started:
                raise RuntimeError("the base is asked for after the first step; it is gone")
            self._base = [p.detach().clone() for p in self.own()]

    def start(self) -> None:
        """Note that the weights change from here on."""
        self.started = True

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Put the base's weights in place for a block.

        The tensors change places, so that a graph built before still meets its own in `backward`.
        """
        self.keep_base()
        base = self._base or []
        self.exchange(base)
        try:
            yield
        finally:
            self.exchange(base)

    def _swap(self, base: list[torch.Tensor]) -> None:
        for number, parameter in enumerate(self.model.parameters()):
            parameter.data, base[number] = base[number], parameter.data


@contextlib.contextmanager
def checkpointed(model: torch.nn.Module) -> Iterator[None]:
    """Recompute activations in the backward pass instead of keeping them, for a block.

    transformers does so in training mode only, and silently not at all in evaluation mode, in which
    the loop keeps the model for want of dropout. So the layers alone are put in training mode; what
    is inside them, dropout included, stays in evaluation mode. The embeddings' output is made to
    ask for a gradient: without it, a frozen embedding cuts LoRA off from every checkpointed layer,
    and `lora_B` stays zero. Raises UnlearningError for a model without such layers.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise UnlearningError(
            f"checkpointing=true: {type(model).__name__} has no layers that can be checkpointed; "
            "leave it out, and lower batch or raise accumulate to save memory"
        )
    embeddings: Any = cast(Any, model).get_base_model().get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda module, inputs, out: out.requires_grad_(True))
    dropouts = [
        (layer, name, value)
        for layer in layers
        for name, value in vars(layer).items()
        if "drop" in name and isinstance(value, float)
    ]
    recompute: Any = partial(checkpoint, use_reentrant=False)
    try:
        for layer in layers:
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = recompute
            layer.training = True
        for layer, name, _ in dropouts:
            setattr(layer, name, 0.0)
        yield
    finally:
        hook.remove()
        for layer in layers:
            layer.gradient_checkpointing = False
            layer.training = False
        for layer, name, value in dropouts:
            setattr(layer, name, value)
