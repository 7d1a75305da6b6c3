"""What a model needs from a machine, from its `config.json` alone: weights, bytes, operations,
seconds.

Parameters, adapters, gradients and optimizer states are exact for the architectures of the presets:
a test builds each of them on torch's `meta` device and compares. What a training pass keeps for its
backward pass was counted from what torch saves for Llama, Qwen2 and StarCoder2 under a LoRA
adapter. Seconds follow from floating-point operations (2 for each weight and token of a forward
pass, and as many again for each gradient) and from speeds: assumed ones, or those that
`benchmarks/gpu.py --speeds` measured on the user's machine. Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.models.presets import CONTEXTS

# Model types with LayerNorms with biases and an MLP of two matrices, not three.
_PLAIN = frozenset(("starcoder2", "gpt2", "gpt_neox", "gpt_bigcode"))
# Model types of which all tensors are known here.
_EXACT = frozenset(("llama", "qwen2", "starcoder2"))
# Logits computed at once in training: 64 MiB in float32.
CHUNK_ELEMENTS = 2**24
# Padded tokens of one scoring pass, at first; halved for good if a batch does not fit.
SCORED_TOKENS = 8192
# Numbers in the vocabulary-sized tensor of such a pass: at most 128 MiB of float32.
CHUNK_NUMBERS = 1 << 25
# An adapter with at least this share of its layer's weights is merged in each step, in float32: the
# sums take as much memory as the weights, which are few in this case (`models.patching`).
MERGED_SHARE = 0.15
# The most bytes of the base's hidden states at all retained rows that are kept from before the
# first step (`unlearning.data`); otherwise they are computed again in each step.
KEPT_STATES = 1 << 29
# Bytes of a float32 number, the type of sums, moments and norms.
_FLOAT = 4


@dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers that a model's size follows from.

    `heads_width`, `keys_width`: the numbers per token in all query heads and in all key heads.
    `tied`: the head is the embedding. `plain`: it has LayerNorms and an MLP of two matrices,
    instead of RMSNorms and three. `biases`: which linear layers of a transformer layer have them.
    `exact`: `parameters` is right to the last one.
    """

    hidden: int
    inner: int
    layers: int
    heads_width: int
    keys_width: int
    vocabulary: int
    tied: bool
    plain: bool
    biases: frozenset[str]
    exact: bool
    context: int | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Architecture:
        """Read a `config.json`, also that of a multimodal model."""
        config = config.get("text_config", config)
        kind = str(config.get("model_type", ""))
        hidden, heads = int(config.get("hidden_size", 0)), int(config.get("num_attention_heads", 1))
        width = int(config.get("head_dim") or hidden // heads)
        plain = kind in _PLAIN
        biases = {"q_proj", "k_proj", "v_proj"} if kind == "qwen2" else set[str]()
        if config.get("use_bias") and plain:
            biases = {"q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"}
        if config.get("attention_bias"):
            biases |= {"q_proj", "k_proj", "v_proj", "o_proj"}
        if config.get("mlp_bias"):
            biases |= {"gate_proj", "up_proj", "down_proj"}
        return cls(
            hidden=hidden,
            inner=int(config.get("intermediate_size") or 4 * hidden),
            layers=int(config.get("num_hidden_layers", 0)),
            heads_width=heads * width,
            keys_width=int(config.get("num_key_value_heads") or heads) * width,
            vocabulary=int(config.get("vocab_size", 0)),
            tied=bool(config.get("tie_word_embeddings", kind == "starcoder2")),
            plain=plain,
            biases=frozenset(biases),
            exact=kind in _EXACT,
            context=next((int(config[name]) for name in CONTEXTS if config.get(name)), None),
        )

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of the matrices of one layer, by name."""
        hidden, keys = self.hidden, self.keys_width
        attention = {
            "q_proj": (self.heads_width, hidden),
            "k_proj": (keys, hidden),
            "v_proj": (keys, hidden),
            "o_proj": (hidden, self.heads_width),
        }
        if self.plain:
            return attention | {"c_fc": (self.inner, hidden), "c_proj": (hidden, self.inner)}
        wide = dict.fromkeys(("gate_proj", "up_proj"), (self.inner, hidden))
        return attention | wide | {"down_proj": (hidden, self.inner)}

    @property
    def parameters(self) -> int:
        """All weights."""
        shapes = self.linear
        layer = sum(rows * columns for rows, columns in shapes.values())
        layer += sum(shapes[name][0] for name in self.biases)
        norm = self.hidden * (2 if self.plain else 1)
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * (layer + 2 * norm) + norm + embeddings

    def adapter(self, rank: int, targets: Collection[str] | None = None) -> int:
        """Return the number of weights of a LoRA adapter on modules of these names; None: on all
        but the head."""
        shapes = self.linear
        chosen = [shapes[name] for name in shapes if targets is None or name in targets]
        return self.layers * rank * sum(rows + columns for rows, columns in chosen)

    def merged_bytes(self, rank: int, targets: Collection[str] | None, width: int) -> int:
        """Return the bytes of merged weights, for layers that a step merges (`MERGED_SHARE`)."""
        shapes = [s for n, s in self.linear.items() if targets is None or n in targets]
        if width < _FLOAT:
            return 0
        return sum(
            self.layers * rows * columns * width
            for rows, columns in shapes
            if rank * (rows + columns) >= MERGED_SHARE * rows * columns
        )

    def cache_bytes(self, tokens: int, width: int) -> int:
        """Return the bytes of keys and values of this many tokens; `width`: bytes per weight."""
        return 2 * self.layers * self.keys_width * width * tokens

    def kept_bytes(self, tokens: int, width: int, rank: int, checkpointing: bool) -> int:
        """Return the bytes that a pass over this many tokens keeps for the backward pass.

        A layer keeps the inputs of its matrices, its queries, keys and values, the factors in the
        MLP, and the inputs of its norms (in float32, except for LayerNorms). With checkpointing, it
        keeps its own input, and one layer at a time keeps the rest.
        """
        norms = 2 * self.hidden * (width if self.plain else _FLOAT)
        mlp = (2 if self.plain else 4) * self.inner
        attention = 2 * self.hidden + 2 * self.heads_width + 2 * self.keys_width
        layer = width * (attention + mlp + len(self.linear) * rank) + norms
        last = _FLOAT * self.hidden
        if checkpointing:
            return tokens * (self.layers * self.hidden * width + layer + last)
        return tokens * (self.layers * layer + last)


def training_bytes(trained: int, width: int, optimizer: str, adapter: bool) -> int:
    """Return the bytes that `unlearning.trainer.Trainer` holds for this many trained weights.

    These are an adapter's weights, float32 master weights if the model has fewer bits, float32
    gradients, and the optimizer's two moments, which take one byte each with `adamw8bit`.
    """
    moments = 2 if optimizer == "adamw8bit" else 2 * _FLOAT
    own = width if adapter else 0
    masters = _FLOAT if width < _FLOAT else 0
    return trained * (own + masters + _FLOAT + moments)


# -- phases of a run on a machine ----------------------------------------------------------------

# Bytes of the float32 copies of a chunk of logits that a loss or a score holds at once.
_LOGITS = 3 * 4
_SPEEDS = ("training_flops", "scoring_flops", "bandwidth", "layer_seconds")


@dataclass(frozen=True, slots=True)
class Machine:
    """A kind (`cpu`, `cuda`) and its speeds: floating-point operations per second in training and
    in scoring, bytes of weights read per second in decoding, and the least seconds that a layer
    takes in a decoding step."""

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
    """Return the machines to plan for: the one of a kind (`cpu`, `cuda`), or both.

    `dtype`: the run's, `auto` for each machine's own. `speeds`: a file of measured speeds, which
    replace the assumed ones of their kind. Raises UserError for a file without speeds.
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
        content = json.loads(path.read_text(encoding="utf-8"))
        speeds: dict[str, Any] = {key: float(content[key]) for key in _SPEEDS}
        machine = replace(MACHINES[content["kind"]], name=f"{content['name']} (measured)", **speeds)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--unlearn-speeds={path}: not a file of measured speeds ({type(error).__name__}: "
            f"{error}); write one with `python benchmarks/gpu.py --speeds=FILE`, or leave the flag "
            "out"
        ) from error
    if not all(speed > 0 for speed in speeds.values()):
        raise UserError(f"--unlearn-speeds={path}: a speed is 0 or less; measure it again")
    return machine


@dataclass(frozen=True, slots=True)
class Training:
    """A training to be planned: tokens per step, the most steps, tokens per evaluation and steps
    between evaluations, what is trained (`tune`, `rank`, `targets`) and how.

    `scored`: tokens of all other passes without gradients. `base_passes`: passes of the base over a
    step's tokens, unless `states`, the numbers in its states at all retained rows, are kept.
    `keeps_base`: with `tune=full` a copy of the base is kept.
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
    states: int = 0
    scored: int = 0


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
    """Return what a training costs on a machine."""
    width, lora = machine.bytes_a_weight, training.tune == "lora"
    count = shape.adapter(training.rank, training.targets) if lora else parameters
    trained = training_bytes(count, width, training.optimizer, adapter=lora)
    trained += parameters * width * training.keeps_base * (not lora)
    trained += shape.merged_bytes(training.rank, training.targets, width) * lora
    part = -(-training.tokens // training.accumulate)
    rank = training.rank if lora else 0
    held = shape.kept_bytes(part, width, rank, training.checkpointing)
    logits = min(CHUNK_ELEMENTS, part * shape.vocabulary)
    # Forward, backward to the activations, and to the weights if these are trained.
    base_states = training.states * width * (training.states * width <= KEPT_STATES)
    passes = 2 + (not lora) + training.checkpointing + training.base_passes * (not base_states)
    flops = 2.0 * parameters * training.tokens * passes * training.steps
    looks = 1 + training.steps // training.check_every
    return PhaseCost(
        training.name,
        parameters * width,
        trained,
        base_states + held + _LOGITS * logits,
        flops / machine.training_flops
        + 2.0 * parameters * (training.looked * looks + training.scored) / machine.scoring_flops
        + training.steps * passes * shape.layers * machine.layer_seconds,
    )


def pass_bytes(shape: Architecture, tokens: int, width: int) -> float:
    """Return the bytes that a pass without a backward pass holds at once: those of one layer."""
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
    """Return what completions and scores cost.

    `longest`: the most tokens that a chunk of up to `rows` prompts holds at once. `tokens`: all
    tokens that go through a model. `steps`: decoding steps of all chunks. `models`: how many are
    held at once.
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
