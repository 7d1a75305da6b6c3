"""A small model of each architecture, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}


# What each architecture does to its logits beyond the head, and in a size that shows.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "starcoder2": {},
    "gemma2": {"final_logit_softcapping": 0.5},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 3.0},
    "gpt2": {},
    "opt": {"ffn_dim": 32},
    "hyperclovax": {"logits_scaling": 3.0},
    "falcon_h1": {
        "lm_head_multiplier": 0.3,
        "mamba_d_ssm": 16,
        "mamba_n_heads": 2,
        "mamba_d_head": 8,
        "mamba_n_groups": 1,
    },
    "recurrent_gemma": {"logits_soft_cap": 0.5, "lru_width": 16, "attention_window_size": 8},
    "modernbert-decoder": {},
    "mixtral": {},
    "gpt_oss": {"num_local_experts": 4},
    "falcon": {},
    "mamba": {"state_size": 4},
}


def random_model(architecture: str) -> Any:
    torch.manual_seed(0)
    sizes = SIZES
    if architecture == "gpt2":
        sizes = {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}
    if architecture == "falcon":
        sizes = {name: size for name, size in SIZES.items() if name != "head_dim"}
    config = CONFIG_MAPPING[architecture](**sizes, **ARCHITECTURES[architecture])
    model: Any = AutoModelForCausalLM
    return model.from_config(config).eval()
