"""Preconditioned steps, which spare what all documents have in common.

A step on a linear layer changes what the layer gives for every input that resembles those of the
batch. Documents of different people differ only in the people, so a step that erases one person
also affects the others. An adapter's matrix A, which is applied to an input `x` first, is therefore
multiplied by P = λ (K + λI)^-1, where K is the second moment of the layer's inputs in retained
documents and λ a multiple of its mean eigenvalue: this damps directions that are common in these
documents, and leaves what distinguishes people. This is the input side of a Kronecker-factored
preconditioner (Martens and Grosse 2015, arXiv 1503.05671), and a soft form of the null-space
projections of continual learning (arXiv 2103.07113) and of model editing (arXiv 2410.02355).

K is computed from a sample of tokens, which may be fewer than the inputs' width: then P = I - Y^T
Y, where Y has one row per token.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pytest_unlearn.models.batches import Batch, Encoded, collate
from pytest_unlearn.models.lm_head import hidden_states, inputs_seen
from pytest_unlearn.unlearning.distributed import run
from pytest_unlearn.unlearning.step import base_state

# Tokens in the sample, and the rows and batches that they come from. For inputs of 4,096 numbers in
# 16 bits, Y takes 8 MB.
TOKENS = 1024
_ROWS, _BATCHES = 256, 16


@dataclass(frozen=True, slots=True)
class Preconditioner:
    """scale (I - Y^T Y), symmetric; `rows`: Y, `[tokens, width]`."""

    rows: torch.Tensor
    scale: float

    @classmethod
    def of(cls, inputs: torch.Tensor, damping: float) -> Preconditioner:
        """Return damping·m (K + damping·m·I)^-1, scaled to the Frobenius norm of I.

        K is the second moment of `inputs`, `[tokens, width]`, and m its mean eigenvalue.

        The scale keeps the meaning of a learning rate. By Woodbury's identity, only a matrix of
        size tokens by tokens is inverted. Raises ValueError for inputs that are all 0 or not
        finite.
        """
        count, width = inputs.shape
        sample = inputs.double()
        gram = sample @ sample.T
        least = damping * float(gram.trace()) / width
        if not (math.isfinite(least) and least > 0):
            raise ValueError("the inputs of a layer are all 0, or not finite")
        factor = torch.linalg.cholesky(gram + least * torch.eye(count, device=gram.device))
        rows = torch.linalg.solve_triangular(factor, sample, upper=False)
        kept = width - 2 * float(rows.square().sum()) + float((rows @ rows.T).square().sum())
        return cls(rows.to(inputs.dtype), math.sqrt(width / kept))

    def apply(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return `matrix` P, for a float32 matrix of `[n, width]`."""
        rows = self.rows.to(matrix.dtype)
        return self.scale * (matrix - (matrix @ rows.T) @ rows)


def preconditioners(
    policy: Any, documents: Sequence[Encoded], damping: float, pad: int, rng: random.Random
) -> dict[str, Preconditioner]:
    """Return a preconditioner for the matrix A of each layer with an adapter, by the parameter's
    name.

    `documents`: retained documents, a sample of which is run through the base. Raises ValueError
    for inputs that are all 0 or not finite.
    """
    chosen = rng.sample(documents, min(len(documents), _ROWS))
    batches = [chosen[n::_BATCHES] for n in range(_BATCHES) if chosen[n::_BATCHES]]
    device = next(policy.parameters()).device
    samples: dict[str, list[torch.Tensor]] = {}
    for part in batches:
        batch = collate(part, pad, device)
        real = batch.attention_mask.flatten().nonzero()[:, 0].tolist()
        places = torch.tensor(rng.sample(real, min(len(real), TOKENS // len(batches))))
        for name, inputs in _inputs(policy, batch, places).items():
            samples.setdefault(name, []).append(inputs)
    made: dict[str, Preconditioner] = {}
    last: tuple[torch.Tensor, Preconditioner] | None = None
    for name, each in samples.items():
        inputs = torch.cat(each)
        # Parallel layers, such as those of queries, keys and values, have the same input.
        if last is None or last[0].shape != inputs.shape or not torch.equal(last[0], inputs):
            last = inputs, Preconditioner.of(inputs, damping)
        made[name] = last[1]
    return made


@torch.no_grad()
def _inputs(policy: Any, batch: Batch, places: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the base's inputs of each layer with an adapter at some places of a batch.

    Of a layer that gets some tokens only, as an expert does, as many of those. One whose adapter
    goes on a matrix inside is left out: PEFT wraps experts that a model keeps in one tensor, and
    what goes into the second of their matrices is not seen.
    """
    by_name: dict[str, torch.Tensor] = {}
    tokens = batch.attention_mask.numel()

    def see(name: str, inputs: torch.Tensor) -> None:
        flat = inputs.flatten(0, -2)
        if flat.shape[-1] != layers[name].lora_A["default"].weight.shape[-1] or not len(flat):
            return
        rows = places.to(flat.device)
        by_name[name] = flat.index_select(0, rows if len(flat) == tokens else rows % len(flat))

    layers: dict[str, Any] = {
        f"{name}.lora_A.default.weight": module
        for name, module in policy.named_modules()
        if "default" in getattr(module, "lora_A", {})
    }

    def passed() -> None:
        with base_state(policy) as base:
            hidden_states(base, batch.model_inputs())

    with inputs_seen(layers, see):
        run(policy, passed)
    return by_name
