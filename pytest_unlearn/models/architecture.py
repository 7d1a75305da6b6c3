"""How many weights, bytes and operations a model takes, by its `config.json` alone; no torch.

Parameters, adapters and optimizer states are exact for the architectures of the presets: a test
builds each of them on torch's `meta` device and compares. What a pass keeps for the way back was
counted from what torch saves for Llama, Qwen2 and StarCoder2 under a LoRA adapter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_unlearn.models.presets import CONTEXTS

# Kinds whose norms are LayerNorms with biases and whose MLP has two matrices, not three.
_PLAIN = frozenset(("starcoder2", "gpt2", "gpt_neox", "gpt_bigcode"))
# Kinds all of whose tensors are known here.
_EXACT = frozenset(("llama", "qwen2", "starcoder2"))
# Logits made at once in training: 64 MiB in float32.
CHUNK_ELEMENTS = 2**24
# Padded tokens of one pass that scores, to begin with; halved for good when a batch does not fit.
SCORED_TOKENS = 8192
# Numbers in the vocabulary-sized tensor of such a pass: at most 128 MiB of float32.
CHUNK_NUMBERS = 1 << 25
# Bytes of a number in float32, in which sums, moments and norms are.
_FLOAT = 4


@dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers that a model's size follows from.

    `heads_width`, `keys_width`: numbers of a token in all query heads, and in all key heads.
    `tied`: the head is the embedding. `plain`: LayerNorms and an MLP of two matrices, where others
    have RMSNorms and three. `biases`: which linear layers of a transformer layer have them.
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
        """Weights of a LoRA adapter on modules of these names; None: on all but the head."""
        shapes = self.linear
        chosen = [shapes[name] for name in shapes if targets is None or name in targets]
        return self.layers * rank * sum(rows + columns for rows, columns in chosen)

    def cache_bytes(self, tokens: int, width: int) -> int:
        """Bytes of the keys and values of so many tokens; `width`: bytes of a weight."""
        return 2 * self.layers * self.keys_width * width * tokens

    def kept_bytes(self, tokens: int, width: int, rank: int, checkpointing: bool) -> int:
        """Bytes that a pass over so many tokens keeps for the way back.

        A layer keeps the inputs of its matrices, queries, keys and values, what the MLP multiplies,
        and its norms' inputs (in float32 but for LayerNorms); with checkpointing its own input, and
        one layer at a time the rest.
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
    """Bytes that `unlearning.trainer.Trainer` holds for so many trained weights.

    Those of an adapter, master weights in float32 where the model has fewer bits, gradients in
    float32, and the optimizer's two moments, which `adamw8bit` keeps in a byte each.
    """
    moments = 2 if optimizer == "adamw8bit" else 2 * _FLOAT
    own = width if adapter else 0
    masters = _FLOAT if width < _FLOAT else 0
    return trained * (own + masters + _FLOAT + moments)
