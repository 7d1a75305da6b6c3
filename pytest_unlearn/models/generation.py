"""Greedy completions in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from pytest_unlearn.models.batching import padded
from pytest_unlearn.models.decoding import decode
from pytest_unlearn.models.styles import Infill, chat_ids, infill_ids, infill_style

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class GenerationError(RuntimeError):
    """The model did not give usable predictions; never to be read as "forgotten"."""


def context_of(model: PreTrainedModel | PeftModel) -> int | None:
    """Return the most tokens that a model takes, None for a model without a limit."""
    limit: int | None = getattr(model.config, "max_position_embeddings", None)
    return limit


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
    encoded: Any = tokenizer(stripped)["input_ids"]
    return _continue(model, tokenizer, encoded, max_new_tokens)


def answer_greedily(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[str],
    max_new_tokens: int,
) -> list[str]:
    """Return what the model answers to each message of a user, through its chat template.

    Raises StyleError where the tokenizer has none, GenerationError on NaN.
    """
    encoded = [chat_ids(tokenizer, message) for message in messages]
    return _continue(model, tokenizer, encoded, max_new_tokens)


def infill_greedily(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[str, str]],
    max_new_tokens: int,
    style: Infill | None = None,
) -> list[str]:
    """Return what the model writes between each prefix and suffix.

    `style`: None takes that of the tokenizer's own tokens. Raises StyleError where the tokenizer
    has no tokens for it, GenerationError on NaN.
    """
    style = style or infill_style(tokenizer)
    encoded = [infill_ids(tokenizer, prefix, suffix, style) for prefix, suffix in prompts]
    vocabulary = tokenizer.get_vocab()
    ends = [vocabulary[end] for end in style.ends if end in vocabulary]
    return _continue(model, tokenizer, encoded, max_new_tokens, ends)


def _continue(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[list[int]],
    max_new_tokens: int,
    ends: Sequence[int] = (),
) -> list[str]:
    """Decode greedily after rows of token ids, padded on the left.

    `ends`: tokens that end a text, besides the model's own.

    Raises GenerationError where prompt and completion do not fit the model's context: a value that
    is cut off there would read as forgotten.
    """
    width = max(map(len, encoded))
    context = context_of(model)
    if context is not None and width + max_new_tokens > context:
        raise GenerationError(
            f"a prompt of {width} tokens and a completion of up to {max_new_tokens} do not fit the "
            f"model's context of {context} tokens; leave out records whose prompt or value is so "
            "long"
        )
    pad = int(tokenizer.pad_token_id)
    ids, mask = padded(encoded, pad, model.device, left=True)
    generate: Any = model.generate
    own: Any = model.generation_config.eos_token_id
    every = [*(own if isinstance(own, list) else [own] * (own is not None)), *ends]
    settings: Any = GenerationConfig
    with torch.inference_mode():
        output = generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=settings(
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=every or None,
                pad_token_id=tokenizer.pad_token_id,
            ),
            logits_processor=LogitsProcessorList([_RefuseNan()]),
        )
    return [
        _new_text(tokenizer, _until(row.tolist(), width, every), width, width - len(prompt))
        for row, prompt in zip(output, encoded, strict=True)
    ]


def _until(row: list[int], width: int, ends: Sequence[int]) -> list[int]:
    """Cut a row at the first of `ends` behind its prompt.

    Some tokenizers do not call such a token special, and would give it as text.
    """
    stop = next((i for i in range(width, len(row)) if row[i] in ends), len(row))
    return row[:stop]


def _new_text(tokenizer: PreTrainedTokenizerBase, row: list[int], width: int, padding: int) -> str:
    """Decode prompt and completion together and cut the prompt off.

    Decoded alone, a completion loses its first space with SentencePiece tokenizers.
    """
    prompt = decode(tokenizer, row[padding:width])
    text = decode(tokenizer, row[padding:])
    if text.startswith(prompt):
        return text[len(prompt) :]
    return decode(tokenizer, row[width:])
