"""The model being unlearned, its reference for free, and the terms of one step's loss."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pytest_unlearn.models.losses import token_mean_kl, token_mean_nll

if TYPE_CHECKING:
    from peft import PeftModel

    from pytest_unlearn.models.batching import Batch


@dataclass(frozen=True, slots=True)
class Step:
    """One step: the policy (a model with a LoRA adapter), a forget and a retain batch.

    Each term runs one forward pass when it is asked for, so a method pays for what it uses: GA
    one, GA+GD two, GA+KL two and one without gradient.
    """

    policy: PeftModel
    forget: Batch
    retain: Batch | None

    def forget_nll(self, bound: float) -> torch.Tensor:
        """Return the token-mean NLL of the forget batch, in nats, each token at most `bound`."""
        return token_mean_nll(self._logits(self.forget), self.forget.labels, bound)

    def retain_nll(self) -> torch.Tensor:
        """Return the token-mean NLL of the retain batch, in nats."""
        batch = self._retained()
        return token_mean_nll(self._logits(batch), batch.labels)

    def retain_kl(self) -> torch.Tensor:
        """Return the token-mean KL(base || policy) of the retain batch, in nats."""
        batch = self._retained()
        with torch.no_grad(), base_state(self.policy):
            reference = self._logits(batch)
        return token_mean_kl(reference, self._logits(batch), batch.labels)

    def _retained(self) -> Batch:
        if self.retain is None:
            raise ValueError("this method needs a retain set")
        return self.retain

    def _logits(self, batch: Batch) -> torch.Tensor:
        output: Any = self.policy(**batch.model_inputs(), use_cache=False)
        logits: torch.Tensor = output.logits
        return logits


@contextlib.contextmanager
def base_state(policy: PeftModel) -> Iterator[None]:
    """Switch the adapter off for a block: the model is then exactly the base.

    Dropout is off in both states (the caller keeps the model in `eval` mode), so that the
    reference is the base's prediction and no sample of it.
    """
    with policy.disable_adapter():
        yield
