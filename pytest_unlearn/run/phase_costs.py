"""What planting, unlearning, probes and attacks take of a machine: bytes and seconds, by phase.

Weights, adapters, gradients and optimizer states are exact for the presets' architectures; what a
pass holds besides is estimated. Seconds follow from floating-point operations (2 a weight and token
for a pass forward, and as many again for each gradient) and from speeds: assumed ones, or those
that `benchmarks/gpu.py --speeds` measured on the user's machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.models.architecture import (
    CHUNK_ELEMENTS,
    CHUNK_NUMBERS,
    SCORED_TOKENS,
    Architecture,
    training_bytes,
)

# Copies of a chunk of logits in float32 that a loss or a score has at once.
_LOGITS = 3 * 4
_SPEEDS = ("training_flops", "scoring_flops", "bandwidth", "layer_seconds")


@dataclass(frozen=True, slots=True)
class Machine:
    """A kind (`cpu`, `cuda`) and its speeds: floating-point operations a second in training and in
    scoring, bytes of weights read a second in decoding, and seconds that a layer takes at the least
    in a step of it."""

    kind: str
    name: str
    training_flops: float
    scoring_flops: float
    bandwidth: float
    layer_seconds: float
    bytes_a_weight: int


_CORES = os.cpu_count() or 1
MACHINES: Mapping[str, Machine] = {
    "cpu": Machine("cpu", f"CPU, {_CORES} cores", 2e10 * _CORES, 2e10 * _CORES, 1e10, 2e-4, 4),
    "cuda": Machine("cuda", "GPU", 1e14, 1e14, 1e12, 3e-5, 2),
}


def machines(kind: str, dtype: str, speeds: Path | None) -> list[Machine]:
    """Return the machines to plan for: those of a kind (`cpu`, `cuda`), or both.

    `dtype`: the run's, `auto` for each machine's own. `speeds`: a file of measured speeds, which
    stand for the assumed ones of their kind. Raises UserError for a file that holds none.
    """
    known = dict(MACHINES)
    if speeds is not None:
        measured = _measured(speeds)
        known[measured.kind] = measured
    widths = {"float32": 4, "bfloat16": 2, "float16": 2}
    chosen = [known[kind]] if kind in known else list(known.values())
    return [replace(m, bytes_a_weight=widths.get(dtype, m.bytes_a_weight)) for m in chosen]


def _measured(path: Path) -> Machine:
    """Read what `benchmarks/gpu.py --speeds=FILE` wrote."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        speeds: dict[str, Any] = {key: float(found[key]) for key in _SPEEDS}
        machine = replace(MACHINES[found["kind"]], name=f"{found['name']} (measured)", **speeds)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--unlearn-speeds={path}: no file of measured speeds ({type(error).__name__}: {error})"
            "; write one by `python benchmarks/gpu.py --speeds=FILE`, or leave it out"
        ) from error
    if not all(speed > 0 for speed in speeds.values()):
        raise UserError(f"--unlearn-speeds={path}: a speed is 0 or less; measure it again")
    return machine


@dataclass(frozen=True, slots=True)
class Training:
    """A training to be planned: tokens of a step's rows, steps at the most, tokens of each look
    and steps between looks, what is trained (`tune`, `rank`, `targets`) and how.

    `base_passes`: passes of the base over a step's tokens. `keeps_base`: with `tune=full` a copy of
    the base is kept.
    """

    name: str
    tokens: int
    steps: int
    looked: int
    check_every: int
    tune: str
    rank: int
    optimizer: str
    accumulate: int
    checkpointing: bool
    targets: tuple[str, ...] | None = None
    base_passes: int = 0
    keeps_base: bool = False


@dataclass(frozen=True, slots=True)
class PhaseCost:
    """Bytes and seconds of a phase: the models' weights, what is trained of them with gradients and
    optimizer, and what passes hold (activations, logits, keys and values)."""

    name: str
    weights: float
    trained: float
    passes: float
    seconds: float

    @property
    def memory(self) -> float:
        """All bytes at once."""
        return self.weights + self.trained + self.passes


def training_cost(
    training: Training, shape: Architecture, parameters: int, machine: Machine
) -> PhaseCost:
    """Return what a training takes of a machine."""
    width, lora = machine.bytes_a_weight, training.tune == "lora"
    count = shape.adapter(training.rank, training.targets) if lora else parameters
    trained = training_bytes(count, width, training.optimizer, adapter=lora)
    trained += parameters * width * training.keeps_base * (not lora)
    part = -(-training.tokens // training.accumulate)
    rank = training.rank if lora else 0
    held = shape.kept_bytes(part, width, rank, training.checkpointing)
    logits = min(CHUNK_ELEMENTS, part * shape.vocabulary)
    # Forward, backward to the activations, and to the weights where these are trained.
    passes = 2 + (not lora) + training.checkpointing + training.base_passes
    flops = 2.0 * parameters * training.tokens * passes * training.steps
    looks = 1 + training.steps // training.check_every
    return PhaseCost(
        training.name,
        parameters * width,
        trained,
        held + _LOGITS * logits,
        flops / machine.training_flops
        + 2.0 * parameters * training.looked * looks / machine.scoring_flops
        + training.steps * passes * shape.layers * machine.layer_seconds,
    )


def pass_bytes(shape: Architecture, tokens: int, width: int) -> float:
    """Return the bytes that a pass without a way back holds at once: those of one layer."""
    return float(tokens) * width * (3 * shape.inner + 6 * shape.hidden)


def asking_cost(
    shape: Architecture,
    parameters: int,
    machine: Machine,
    longest: int,
    rows: int,
    tokens: int,
    steps: int,
    models: int,
) -> PhaseCost:
    """Return what completions and scores take.

    `longest`: the most tokens that a chunk of up to `rows` prompts holds at once. `tokens`: all
    that go through a model. `steps`: decoding steps of all chunks. `models`: held at once.
    """
    width = machine.bytes_a_weight
    writing = shape.cache_bytes(longest, width) + pass_bytes(shape, longest, width)
    writing += _LOGITS * rows * shape.vocabulary
    scoring = pass_bytes(shape, SCORED_TOKENS, width) + _LOGITS * CHUNK_NUMBERS / 3
    read = parameters * width / machine.bandwidth
    return PhaseCost(
        "probes and tasks",
        models * parameters * width,
        0.0,
        max(writing, scoring if tokens else 0.0),
        2.0 * parameters * tokens / machine.scoring_flops
        + steps * (read + shape.layers * machine.layer_seconds),
    )
