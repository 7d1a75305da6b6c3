"""Greedy completions in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class GenerationError(RuntimeError):
    """The model did not give usable predictions; never to be read as "forgotten"."""


class _RefuseNan(LogitsProcessor):
    """Stop at NaN: argmax over NaN gives some token, and a broken model would look clean."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if bool(torch.isnan(scores).any()):
            raise GenerationError("the model's predictions are NaN: its weights are broken")
        return scores


def complete_greedily(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
) -> list[str]:
    """Return what the model writes after each prompt, up to `max_new_tokens` tokens.

    White space at the end of a prompt is left to the model: tokenizers merge it with what
    follows, and a prompt cut inside such a token is one that the model never saw in training.
    It is part of the completion, so `prompt.rstrip() + completion` is the whole text.
    Raises GenerationError on NaN, ValueError on a prompt without text.
    """
    stripped = [prompt.rstrip() for prompt in prompts]
    if not all(stripped):
        raise ValueError("a prompt is empty or holds white space only")
    inputs: Any = tokenizer(stripped, return_tensors="pt", padding=True, padding_side="left")
    ids = inputs["input_ids"].to(model.device)
    mask = inputs["attention_mask"].to(model.device)
    generate: Any = model.generate
    settings: Any = GenerationConfig
    with torch.inference_mode():
        output = generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=settings(
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=model.generation_config.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ),
            logits_processor=LogitsProcessorList([_RefuseNan()]),
        )
    return [
        _new_text(tokenizer, row.tolist(), ids.shape[1], int(pad))
        for row, pad in zip(output, (mask == 0).sum(dim=1), strict=True)
    ]


def _new_text(tokenizer: PreTrainedTokenizerBase, row: list[int], width: int, padding: int) -> str:
    """Decode prompt and completion together and cut the prompt off.

    Decoded alone, a completion loses its first space with SentencePiece tokenizers.
    """
    prompt: Any = tokenizer.decode(row[padding:width], skip_special_tokens=True)
    text: Any = tokenizer.decode(row[padding:], skip_special_tokens=True)
    if text.startswith(prompt):
        return str(text[len(prompt) :])
    return str(tokenizer.decode(row[width:], skip_special_tokens=True))
