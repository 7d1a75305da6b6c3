"""How a prompt reaches a model: through its chat template, or between fill-in-the-middle tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Prefix, suffix and middle tokens: StarCoder, Qwen2.5-Coder and CodeQwen, Code Llama, DeepSeek.
# All take prefix, suffix, middle in this order; DeepSeek's `hole` stands where the gap is.
_FILL_IN_THE_MIDDLE = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # noqa: RUF001 (the model's own letters)
)


class StyleError(ValueError):
    """The tokenizer has no chat template, or no fill-in-the-middle tokens."""


def chat_ids(tokenizer: PreTrainedTokenizerBase, message: str) -> list[int]:
    """Return the token ids of one user message, up to where the model answers.

    Raises StyleError where the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise StyleError(
            "the tokenizer has no chat template; leave chat out of --unlearn-probes for this model"
        )
    apply: Any = tokenizer.apply_chat_template
    encoded = apply(
        [{"role": "user", "content": message}], add_generation_prompt=True, return_dict=True
    )
    return list(encoded["input_ids"])


def infill_ids(tokenizer: PreTrainedTokenizerBase, prefix: str, suffix: str) -> list[int]:
    """Return the token ids that ask for the middle between `prefix` and `suffix`.

    Raises StyleError where the tokenizer knows no fill-in-the-middle tokens.
    """
    vocabulary = tokenizer.get_vocab()
    for begin, gap, end in _FILL_IN_THE_MIDDLE:
        if begin in vocabulary and gap in vocabulary and end in vocabulary:
            break
    else:
        raise StyleError(
            "the tokenizer has no fill-in-the-middle tokens; leave infill out of --unlearn-probes "
            "for this model"
        )

    def text_ids(text: str) -> Any:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    start = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    return [
        *start,
        vocabulary[begin],
        *text_ids(prefix),
        vocabulary[gap],
        *text_ids(suffix),
        vocabulary[end],
    ]
