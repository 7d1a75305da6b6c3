"""How a prompt reaches a model: through its chat template, or between fill-in-the-middle tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pytest_unlearn.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class StyleError(UserError):
    """The model has no chat template, or no fill-in-the-middle tokens."""

    flag = "--unlearn-probes"


@dataclass(frozen=True, slots=True)
class Infill:
    """How a family of models was trained to fill in the middle.

    prefix, suffix, middle: the strings before each part. order: `psm` ends with the middle's token,
    after which the model starts a new text; `spm` ends with the prefix, which the model continues
    (arXiv 2207.14255). ends: tokens with which the model ends a middle. apart: each part is
    tokenized on its own, and the suffix without the space that SentencePiece puts before a text;
    otherwise prompt and markers are one text, so markers may be tokens or ordinary strings.
    prefix_space: the prefix keeps that space. starts: the format itself begins with the
    start-of-text token, whether or not the tokenizer adds it.
    """

    name: str
    prefix: str
    suffix: str
    middle: str
    order: Literal["psm", "spm"] = "psm"
    ends: tuple[str, ...] = ()
    apart: bool = False
    prefix_space: bool = False
    starts: bool = False

    @property
    def markers(self) -> tuple[str, str, str]:
        """The three strings."""
        return self.prefix, self.suffix, self.middle


# Sources: the model cards of StarCoder2, CodeQwen1.5, Qwen2.5-Coder and DeepSeek-Coder (one text
# with tokens in it); Code Llama's `infilling_prompt_tokens`; aiXcoder-7B's `input_wrapper`.
INFILLS: dict[str, Infill] = {
    style.name: style
    for style in (
        Infill("starcoder", "<fim_prefix>", "<fim_suffix>", "<fim_middle>", ends=("<file_sep>",)),
        Infill(
            "qwen",
            "<|fim_prefix|>",
            "<|fim_suffix|>",
            "<|fim_middle|>",
            ends=("<|fim_pad|>", "<|file_sep|>", "<|repo_name|>", "<|im_end|>"),
        ),
        Infill(
            "codellama",
            "▁<PRE>",
            "▁<SUF>",
            "▁<MID>",
            ends=("▁<EOT>",),
            apart=True,
            prefix_space=True,
        ),
        Infill(
            "aixcoder",
            "▁<AIX-SPAN-PRE>",
            "▁<AIX-SPAN-POST>",
            "▁<AIX-SPAN-MIDDLE>",
            order="spm",
            ends=("▁<AIX-SPAN-PRE>", "▁<AIX-SPAN-POST>", "▁<AIX-SPAN-MIDDLE>"),
            apart=True,
            starts=True,
        ),
        Infill(
            "deepseek",
            "<｜fim▁begin｜>",  # noqa: RUF001 (the model's own letters)
            "<｜fim▁hole｜>",  # noqa: RUF001
            "<｜fim▁end｜>",  # noqa: RUF001
            ends=("<|EOT|>",),
        ),
    )
}


def chat_ids(
    tokenizer: PreTrainedTokenizerBase, message: str | Sequence[str], thinking: bool = False
) -> list[int]:
    """Return the token ids of one user message, up to where the model answers.

    For a conversation, the messages are its turns: the user's first and last, with the model's
    answers in between. `thinking`: a reasoning model may think first; otherwise it has to answer at
    once, by the template's own switch or by closing the thought that the template opens. Raises
    StyleError if the tokenizer has no chat template, or none that shows the message to the model.
    """
    text = chat_text(tokenizer, message, thinking)
    tokenize: Any = tokenizer
    return list(tokenize(text, add_special_tokens=False)["input_ids"])


def chat_text(
    tokenizer: PreTrainedTokenizerBase, message: str | Sequence[str], thinking: bool = False
) -> str:
    """Return what `chat_ids` tokenizes.

    Templates differ in what they accept: some refuse a conversation without a system message, some
    want the content in parts. The first form that keeps the user's messages is used.
    """
    turns = (message,) if isinstance(message, str) else tuple(message)
    template = _chat_template(tokenizer)
    apply: Any = tokenizer.apply_chat_template
    failure: Exception | None = None
    for in_parts in (False, True):
        chat = list(_messages(turns, in_parts))
        for messages in (chat, [{"role": "system", "content": _SYSTEM}, *chat]):
            try:
                text = str(
                    apply(
                        messages,
                        chat_template=template,
                        add_generation_prompt=True,
                        tokenize=False,
                        enable_thinking=thinking,
                        thinking=thinking,
                    )
                )
            except Exception as error:  # templates raise errors of their own
                failure = failure or error
                continue
            if all(turn.strip() in text for turn in turns[::2]):
                opened = not thinking and text.rstrip().endswith(_THINK)
                return f"{text.rstrip()}\n\n</think>\n\n" if opened else text
    reason = f"cannot be used ({failure})" if failure else "leaves out the user's message"
    raise StyleError(
        f"the tokenizer's chat template {reason}; leave chat out of --unlearn-probes and "
        "--unlearn-task-style for this model, or correct its template"
    )


def _messages(turns: Sequence[str], in_parts: bool) -> Iterator[dict[str, Any]]:
    for number, turn in enumerate(turns):
        content = [{"type": "text", "text": turn}] if in_parts else turn
        yield {"role": "assistant" if number % 2 else "user", "content": content}


_SYSTEM = "You are a helpful assistant."
_THINK = "<think>"


def _chat_template(tokenizer: Any) -> str:
    """Return a tokenizer's chat template, the default one of several. Raises StyleError."""
    template = tokenizer.chat_template
    if isinstance(template, list):
        template = {each["name"]: each["template"] for each in template}
    if isinstance(template, dict):
        if "default" not in template and len(template) > 1:
            raise StyleError(
                f"the tokenizer has the chat templates {', '.join(sorted(template))}, and none is "
                "called default; leave chat out of --unlearn-probes for this model"
            )
        template = template.get("default") or next(iter(template.values()), None)
    if not template:
        raise StyleError(
            "the tokenizer has no chat template; leave chat out of --unlearn-probes for this model"
        )
    return str(template)


def infill_style(tokenizer: PreTrainedTokenizerBase) -> Infill:
    """Return the style whose three markers are tokens of a tokenizer.

    Raises StyleError if there is no such style.
    """
    vocabulary = tokenizer.get_vocab()
    for style in INFILLS.values():
        if all(marker in vocabulary for marker in style.markers):
            return style
    raise StyleError(
        "the tokenizer has no fill-in-the-middle tokens; leave infill out of --unlearn-probes "
        "for this model"
    )


def infill_ids(
    tokenizer: PreTrainedTokenizerBase, prefix: str, suffix: str, style: Infill | None = None
) -> list[int]:
    """Return the token ids of a prompt for the middle between `prefix` and `suffix`.

    `style`: None means that of the tokenizer's own markers. In the order `spm`, the model continues
    the prefix, so the white space at its end is left to the model, as after any prompt. Raises
    StyleError if the tokenizer does not support a style, or not the given one.
    """
    style = style or infill_style(tokenizer)
    tokenize: Any = tokenizer
    if style.order == "spm":
        prefix = prefix.rstrip()
    if not style.apart:
        parts = {
            "psm": (style.prefix, prefix, style.suffix, suffix, style.middle),
            "spm": (style.prefix, style.suffix, suffix, style.middle, prefix),
        }
        ids: list[int] = tokenize("".join(parts[style.order]))["input_ids"]
        return list(ids)
    vocabulary = tokenizer.get_vocab()
    missing = [marker for marker in style.markers if marker not in vocabulary]
    if missing:
        raise StyleError(
            f"the tokenizer has no token {missing[0]!r} of the infilling style {style.name}; leave "
            "infill out of --unlearn-probes for this model"
        )
    before, gap, after = (vocabulary[marker] for marker in style.markers)
    start: list[int] = list(tokenize("")["input_ids"])
    if not start and style.starts and tokenizer.bos_token_id is not None:
        start = [int(tokenizer.bos_token_id)]
    head = _ids(tokenize, prefix) if style.prefix_space else _joined_ids(tokenize, prefix)
    tail = _joined_ids(tokenize, suffix)
    if style.order == "psm":
        return [*start, before, *head, gap, *tail, after]
    return [*start, before, gap, *tail, after, *head]


def _ids(tokenize: Any, text: str) -> list[int]:
    return list(tokenize(text, add_special_tokens=False)["input_ids"])


def _joined_ids(tokenize: Any, text: str) -> list[int]:
    """Tokenize a text as it follows another one, without the space before a first word.

    It is tokenized after a character that is then cut off. Raises StyleError if the tokenizer
    merges every such character with the text.
    """
    for anchor in ("☺", "\n", "="):
        before, both = _ids(tokenize, anchor), _ids(tokenize, anchor + text)
        if both[: len(before)] == before:
            return both[len(before) :]
    raise StyleError("the tokenizer merges the start of the text with whatever comes before it")
