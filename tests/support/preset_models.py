"""Each preset's architecture in small, with a tokenizer of its kind, trained on a few texts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CodeLlamaTokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
)

from pytest_unlearn.models.batches import Encoded, collate, encode
from pytest_unlearn.models.lm_head import token_mean_nll
from pytest_unlearn.models.presets import Preset, presets
from pytest_unlearn.models.prompt_formats import infill_ids
from pytest_unlearn.models.sources import ModelSource
from pytest_unlearn.models.texts import Example

# Values with spaces, digits, letters that only bytes spell, and borders that tokenizers merge.
KNOWN = (
    Example.answering('email = "', "ada.lark@example.com", '"\n'),
    Example.answering("name: ", "Zoë Ångström", "\n"),
    Example.answering("# call ", "555-0142", " after nine\n"),
    Example.answering("city='", "東京", "'\n"),
)
UNKNOWN = (
    Example.answering('email = "', "bo.lark@example.com", '"\n'),
    Example.answering("name: ", "Zoé", "\n"),
    Example.answering("pin  =  ", "99", ""),
)
GAP = ("total = ", "\nprint(total)\n")
MIDDLE = "41 + 1"

_CORPUS = """def add(first, second): return first + second
email = name = total = print(total) user city phone call after the key is in a file for example com
class User: def __init__(self, name, email): self.name = name self.email = email
import os from pathlib import Path with open(path) as file: for line in file: if line in seen
""".splitlines()
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAMES = tuple(name for name in presets() if name != "tiny")


@dataclass(frozen=True)
class Planted:
    """A saved small model of a preset's architecture that knows `KNOWN` by heart."""

    preset: Preset
    source: ModelSource


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


def _pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return vocabulary and merges as SentencePiece's: a few pieces, all else as bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    known = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=380, special_tokens=known, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def _with_prepend() -> Tokenizer:
    """A SentencePiece tokenizer in the form of older conversions, CodeQwen's among them."""
    vocabulary, merges = _pieces()
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def build_tokenizer(preset: Preset) -> Any:
    """Return a tokenizer of the preset's kind, with the tokens that its styles and stops name."""
    wrap: Any = PreTrainedTokenizerFast
    if preset.name == "codellama":
        vocabulary, merges = _pieces()
        tokenizer: Any = CodeLlamaTokenizer(vocab=vocabulary, merges=merges)
    elif preset.name == "aixcoder":
        vocabulary, merges = _pieces()
        tokenizer = LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=False)
    elif preset.name == "codeqwen":
        tokenizer = wrap(tokenizer_object=_with_prepend(), eos_token="<|endoftext|>")
    elif preset.name == "deepseek-coder":
        start, end = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")  # noqa: RUF001
        tokenizer = wrap(tokenizer_object=_byte_level(), bos_token=start, eos_token=end)
        tokenizer.add_bos_token = True
        tokenizer.update_post_processor()
    else:
        tokenizer = wrap(tokenizer_object=_byte_level(), eos_token="<|endoftext|>")
    infill = preset.infill
    added = [*(infill.markers if infill else ()), *(infill.ends if infill else ()), *preset.stops]
    if preset.chat:
        added.append("<|im_start|>")
        tokenizer.chat_template = CHAT
    # Qwen2.5-Coder's are tokens, but not special ones: decoding keeps them.
    special = preset.name != "qwen2.5-coder"
    tokenizer.add_tokens(list(dict.fromkeys(added)), special_tokens=special)
    return tokenizer


def small_config(preset: Preset, tokenizer: Any) -> Any:
    """Return the preset's published configuration with small numbers."""
    heads = 4
    groups = preset.config["num_attention_heads"] // preset.config["num_key_value_heads"]
    small = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // groups),
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "initializer_range": 0.05,
    }
    return AutoConfig.for_model(**{**preset.config, **small})


def plant(preset: Preset, folder: Path) -> Planted:
    """Build, train and save the small model."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(preset)
    model: Any = AutoModelForCausalLM.from_config(small_config(preset, tokenizer))
    rows = [encode(tokenizer, Example.whole(example.text)) for example in KNOWN]
    if preset.infill is not None:
        ids = infill_ids(tokenizer, *GAP, preset.infill)
        vocabulary = tokenizer.get_vocab()
        glue = " " if preset.infill.order == "spm" else ""
        middle = tokenizer(glue + MIDDLE, add_special_tokens=False)["input_ids"]
        end = vocabulary[preset.infill.ends[0]]
        rows.append(Encoded([*ids, *middle, end], [-100] * len(ids) + [*middle, end]))
    batch = collate(rows, tokenizer.eos_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        loss = token_mean_nll(model(**batch.model_inputs()).logits, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Planted(preset, ModelSource(preset.name, folder, preset))
