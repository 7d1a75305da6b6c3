"""Completions in batches: greedy, or drawn with a seed for each row."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pytest_unlearn.core.errors import IncompleteError
from pytest_unlearn.models.batches import padded
from pytest_unlearn.models.decoding import LoopError, fits, written
from pytest_unlearn.models.presets import CONTEXTS
from pytest_unlearn.models.prompt_formats import Infill, chat_ids, infill_ids, infill_style
from pytest_unlearn.models.texts import Decoding, DecodingScheme, cut_at

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


# The most places in a batch per token in it.
MOST_CELLS = 2


class GenerationError(RuntimeError):
    """The model did not give usable predictions; this never counts as "forgotten"."""


class TooLongError(GenerationError, IncompleteError):
    """Some texts do not fit the model's context; `rows` are their indices."""

    def __init__(self, message: str, rows: Sequence[int]) -> None:
        super().__init__(message)
        self.rows = tuple(rows)


def context_of(model: PreTrainedModel | PeftModel) -> int | None:
    """Return the most tokens that a model accepts, None for a model without a limit."""
    config: Any = model.config
    for part in (config.get_text_config(), config):  # that of a multimodal model is inside
        for name in CONTEXTS:
            limit = getattr(part, name, None)
            if isinstance(limit, int) and limit > 0:
                return limit
    return None


def check_context(lengths: Sequence[int], context: int | None, what: str) -> None:
    """Raise TooLongError if texts of `lengths` tokens do not fit a context.

    A value that is cut off would look forgotten. `what`: the start of the message, with `{}` for
    the length.
    """
    long = [row for row, length in enumerate(lengths) if context is not None and length > context]
    if long:
        raise TooLongError(
            f"{what.format(max(lengths))} not fit the model's context of {context} tokens; leave "
            "out records whose prompt or value is so long",
            long,
        )


def check_ids(model: Any, rows: Sequence[Sequence[int]]) -> None:
    """Raise GenerationError if a row has a token id beyond the model's vocabulary."""
    size = int(model.get_input_embeddings().weight.shape[0])
    highest = max((max(row) for row in rows if row), default=0)
    if highest >= size:
        raise GenerationError(
            f"the tokenizer gave the token id {highest}, and the model's vocabulary has {size} "
            f"(0 to {size - 1}): the tokenizer belongs to another model"
        )


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error is a lack of memory, which has no class of its own on a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _refuse_nan(logits: torch.Tensor) -> None:
    """Stop at NaN: argmax over NaN gives some token, and a broken model would look clean."""
    if bool(torch.isnan(logits).any()):
        raise GenerationError("the model's predictions are NaN: its weights are broken")


class _RefuseNan(LogitsProcessor):
    """Stop `generate` at NaN."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        _refuse_nan(scores)
        return scores


class _Draw(LogitsProcessor):
    """Leave one token per row, drawn by the row's own random numbers.

    This is inverse transform sampling with one uniform number per token, drawn on the CPU from the
    row's seed, so it does not depend on the batch, the device, or the progress of other rows.
    """

    def __init__(self, decoding: Decoding) -> None:
        self._scheme = DecodingScheme(decoding.temperature, None, decoding.top_p)
        self._draws = torch.stack(
            [
                torch.rand(
                    decoding.max_new_tokens,
                    generator=torch.Generator().manual_seed(seed),
                    dtype=torch.float64,
                )
                for seed in decoding.seeds
            ]
        )
        self._step = 0

    def tokens(self, logits: torch.Tensor, rows: Sequence[int], step: int) -> torch.Tensor:
        """Return the token of each row in a step, `[n]`, given its logits `[n, vocabulary]`."""
        cumulative = scheme_log_probs(logits.double(), self._scheme).exp().cumsum(dim=-1)
        # A little below the sum, which rounding may leave below 1.
        most = cumulative[:, -1:] * (1 - 1e-12)
        draws = self._draws[list(rows), step, None].to(logits.device) * most
        return torch.searchsorted(cumulative, draws, right=True)[:, 0]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        chosen = self.tokens(scores, range(len(scores)), self._step)[:, None]
        self._step += 1
        only: Any = torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)
        return only  # type: ignore[no-any-return]


class _AtStop(StoppingCriteria):
    """End each row once it has written a stop.

    This is not transformers' `stop_strings`, which also ends a row at a stop that begins in its
    prompt.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str], width: int
    ) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._width = width
        # A token has at least a byte.
        self._tail = max(len(stop.encode()) for stop in stops) + 1

    def __call__(
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any
    ) -> torch.BoolTensor:
        start = max(self._width, input_ids.shape[1] - self._tail)
        texts: Any = self._tokenizer.batch_decode(input_ids[:, start:])
        done: Any = torch.tensor(
            [any(stop in text for stop in self._stops) for text in texts], device=input_ids.device
        )
        return done  # type: ignore[no-any-return]


def write(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    style: str,
    prompts: Sequence[str],
    suffixes: Sequence[str],
    decoding: Decoding,
    infill: Infill | None = None,
    halved: Callable[[int], None] = lambda rows: None,
    thinking: bool = False,
    writer: Writer | None = None,
) -> list[str]:
    """Return what the model writes to each prompt in a style: completion, chat or infill.

    `suffixes` follow the gap of an infill, whose prompt has the form `infill` (None: with the
    tokenizer's own tokens). `halved` is called with the number of rows of a batch that did not fit
    in memory. `thinking`: a chat model may think first. `writer`: the writer of the model's states.
    Raises as `complete_greedily` does, and StyleError if the tokenizer does not know the style.
    """
    rows, ends = prompt_rows(tokenizer, style, prompts, suffixes, infill, thinking)
    return _continue(model, tokenizer, rows, decoding, writer or Writer(), ends, halved)


def converse(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[str]],
    max_new_tokens: int,
    halved: Callable[[int], None] = lambda rows: None,
    thinking: bool = False,
    writer: Writer | None = None,
) -> list[str]:
    """Return the greedy answer to the last turn of each conversation; see `write`."""
    rows = [chat_ids(tokenizer, turns, thinking) for turns in conversations]
    decoding = Decoding(max_new_tokens)
    return _continue(model, tokenizer, rows, decoding, writer or Writer(), halved=halved)


def prompt_rows(
    tokenizer: PreTrainedTokenizerBase,
    style: str,
    prompts: Sequence[str],
    suffixes: Sequence[str],
    infill: Infill | None = None,
    thinking: bool = False,
) -> tuple[list[list[int]], list[int]]:
    """Return the token ids of each prompt as `write` builds them, and the tokens that end an
    infill.

    Raises as `write` does.
    """
    if style == "chat":
        return [chat_ids(tokenizer, prompt, thinking) for prompt in prompts], []
    if style == "infill":
        return _infill_rows(tokenizer, zip(prompts, suffixes, strict=True), infill)
    return _prompt_ids(tokenizer, prompts), []


def complete_greedily(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    writer: Writer | None = None,
) -> list[str]:
    """Return what the model writes after each prompt, up to `max_new_tokens` tokens.

    White space at the end of a prompt is left to the model: tokenizers merge it with what
    follows, and a prompt cut inside such a token is one that the model never saw in training.
    It is part of the completion, so `prompt.rstrip() + completion` is the whole text.
    Raises GenerationError on NaN, ValueError on a prompt without text.
    """
    encoded = _prompt_ids(tokenizer, prompts)
    return _continue(model, tokenizer, encoded, Decoding(max_new_tokens), writer or Writer())


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    stripped = [prompt.rstrip() for prompt in prompts]
    if not all(stripped):
        raise ValueError("a prompt is empty or holds white space only")
    encoded: Any = tokenizer(stripped)["input_ids"]
    return list(encoded)


def _infill_rows(
    tokenizer: PreTrainedTokenizerBase, prompts: Iterable[tuple[str, str]], style: Infill | None
) -> tuple[list[list[int]], list[int]]:
    """Return the token ids of the prompt for each middle, and the tokens that end one."""
    style = style or infill_style(tokenizer)
    vocabulary = tokenizer.get_vocab()
    ends = [vocabulary[end] for end in style.ends if end in vocabulary]
    return [infill_ids(tokenizer, *pair, style) for pair in prompts], ends


def _continue(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[list[int]],
    decoding: Decoding,
    writer: Writer,
    ends: Sequence[int] = (),
    halved: Callable[[int], None] = lambda rows: None,
) -> list[str]:
    """Decode after rows of token ids.

    `ends`: tokens that end a text, besides the model's own. A batch that does not fit in memory is
    halved and tried again; `halved` is called with its number of rows. Raises TooLongError if
    prompt and completion do not fit the model's context, and GenerationError for a token id that
    the model does not know or if not even one row fits in memory.
    """
    new = decoding.max_new_tokens
    check_context(
        [len(ids) + new for ids in encoded],
        context_of(model),
        f"a prompt and a completion of up to {new} tokens, {{}} together, do",
    )
    check_ids(model, encoded)
    parts = alike([len(ids) + new for ids in encoded])
    if len(parts) > 1:
        answers: dict[int, str] = {}
        for numbers in parts:
            seeds = tuple(decoding.seeds[row] for row in numbers if decoding.seeds)
            rows = [encoded[row] for row in numbers]
            own = replace(decoding, seeds=seeds)
            texts_of = _continue(model, tokenizer, rows, own, writer, ends, halved)
            answers |= zip(numbers, texts_of, strict=True)
        return [answers[row] for row in range(len(encoded))]
    texts: list[str] | None = None
    try:
        texts = _decoded(model, tokenizer, encoded, decoding, writer, ends)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    if texts is not None:
        return texts
    # Outside the handler, whose traceback holds the tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(encoded) == 1:
        raise GenerationError(
            f"one prompt of {len(encoded[0])} tokens and {new} new ones do not fit in memory next "
            "to the model, so a smaller --unlearn-batch-size does not help; use a smaller model "
            "or dtype (--unlearn-dtype), or shorter records"
        )
    halved(len(encoded))
    middle = len(encoded) // 2
    out: list[str] = []
    for part in (slice(None, middle), slice(middle, None)):
        seeded = replace(decoding, seeds=decoding.seeds[part])
        out += _continue(model, tokenizer, encoded[part], seeded, writer, ends, halved)
    return out


def alike(lengths: Sequence[int]) -> list[list[int]]:
    """Cut rows of these lengths into parts of which at most half is padding; return their indices.

    Otherwise, a row of thousands of tokens would give each row of its batch as many keys and
    values. Rows that are one part stay in their order.
    """
    parts: list[list[int]] = []
    useful = 0
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        useful += lengths[row]
        if parts and (len(parts[-1]) + 1) * lengths[row] <= MOST_CELLS * useful:
            parts[-1].append(row)
        else:
            parts.append([row])
            useful = lengths[row]
    return parts if len(parts) > 1 else [list(range(len(lengths)))]


def _decoded(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[list[int]],
    decoding: Decoding,
    writer: Writer,
    ends: Sequence[int],
) -> list[str]:
    """Decode a batch."""
    own: Any = model.generation_config.eos_token_id
    every = [*(own if isinstance(own, list) else [own] * (own is not None)), *ends]
    rows = writer.written(model, tokenizer, encoded, decoding, every)
    return [
        cut_at(new_text(tokenizer, prompt + until(row, 0, every), len(prompt), 0), decoding.stops)
        for row, prompt in zip(rows, encoded, strict=True)
    ]


class Writer:
    """Writes with the states of one model, in our own loop if that gives the same as `generate`.

    This is tried on the first prompts of each state. What one state wrote greedily is the draft for
    what the next one writes after the same prompt.
    """

    def __init__(self) -> None:
        self._ways: dict[type, bool | None] = {}
        self._drafts: dict[tuple[int, ...], list[int]] = {}

    def gives_up(self, model: Any) -> bool:
        """Return whether a model that has written gave up texts below `least`, as our loop does."""
        return self._ways[type(model)] is not None

    def written(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[list[int]],
        decoding: Decoding,
        ends: Sequence[int],
    ) -> list[list[int]]:
        """Return the token ids after each prompt, which may continue after one of `ends`."""
        kind = type(model)
        if kind not in self._ways:
            self._ways[kind] = _way(model, tokenizer, prompts, ends)
        tree = self._ways[kind]
        if tree is None:
            return _generated(model, tokenizer, prompts, decoding, ends)
        greedy = decoding.temperature == 0
        drafts = [self._drafts.get(tuple(prompt), []) for prompt in prompts] if greedy else []
        rows = _in_loop(model, tokenizer, prompts, decoding, ends, drafts, tree)
        if greedy:
            self._drafts |= zip(map(tuple, prompts), rows, strict=True)
        return rows


def _in_loop(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    decoding: Decoding,
    ends: Sequence[int],
    drafts: Sequence[list[int]],
    tree: bool,
) -> list[list[int]]:
    """Return token ids after each prompt, from `decoding.written`."""
    draw = _Draw(decoding).tokens if decoding.temperature > 0 else None
    # Abandoned texts end at once; the choices along a draft are not all from one text.
    least = math.log(decoding.least) if decoding.least > 0 else -math.inf
    drafts = drafts if least == -math.inf else []
    chances = torch.zeros(len(prompts), decoding.max_new_tokens)  # in nats, of each token

    def choose(logits: torch.Tensor, rows: Sequence[int], step: int) -> torch.Tensor:
        _refuse_nan(logits)
        if draw:
            return draw(logits.float(), rows, step)
        chosen = logits.argmax(dim=-1)
        if least == -math.inf:
            return chosen
        chances[list(rows), step] = logits.float().log_softmax(dim=-1).amax(dim=-1).cpu()
        likely = (chances[list(rows)].sum(dim=1) >= least).to(chosen.device)
        return chosen.where(likely, ends[0]) if ends else chosen

    def stopped(rows: list[list[int]]) -> list[bool]:
        texts: Any = tokenizer.batch_decode(rows)
        return [any(stop in text for stop in decoding.stops) for text in texts]

    pad = int(tokenizer.pad_token_id)
    stops = stopped if decoding.stops else None
    new = decoding.max_new_tokens
    texts = written(model, prompts, new, pad, ends, choose, stops, drafts, tree)
    if least == -math.inf:
        return texts
    # A text that has ended is written on while others in its batch have not ended.
    own = [float(row[: len(text)].sum()) for row, text in zip(chances, texts, strict=True)]
    return [text if own[row] >= least else [] for row, text in enumerate(texts)]


# For the comparison with `generate`: prompts, and tokens of each.
_TRIED, _TRIED_TOKENS = 3, 8


def _way(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    ends: Sequence[int],
) -> bool | None:
    """Return whether our loop may read prompts as a tree, or None if only `generate` is right.

    The loop must choose what `generate` chooses after prompts of different lengths: with a right
    draft, so that a row leaves the others, with a wrong one, and with none.
    """
    if not fits(model):
        return None
    by_length = sorted(prompts, key=len)
    tried = [by_length[len(by_length) * n // _TRIED] for n in range(_TRIED)]
    decoding = Decoding(_TRIED_TOKENS)
    rows = [until(r, 0, ends) for r in _generated(model, tokenizer, tried, decoding, ends)]
    size = int(model.config.get_text_config().vocab_size)
    wrong = [*rows[1][:2], *((token + 1) % size for token in rows[1][2:])]
    for tree in (True, False):
        with contextlib.suppress(
            *(LoopError, AttributeError, IndexError, NotImplementedError, TypeError, ValueError)
        ):
            own = _in_loop(model, tokenizer, tried, decoding, ends, [rows[0], wrong, []], tree)
            if [until(row, 0, ends) for row in own] == rows:
                return tree
    return None


def _generated(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[list[int]],
    decoding: Decoding,
    ends: Sequence[int],
) -> list[list[int]]:
    """Return what `generate` writes for a batch, padded on the left."""
    width = max(map(len, encoded))
    ids, mask = padded(encoded, int(tokenizer.pad_token_id), model.device, left=True)
    settings: Any = GenerationConfig
    processors: list[LogitsProcessor] = [_RefuseNan()]
    if decoding.temperature > 0:
        processors.append(_Draw(decoding))
    stopping = [_AtStop(tokenizer, decoding.stops, width)] if decoding.stops else []
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=settings(
                do_sample=False,
                max_new_tokens=decoding.max_new_tokens,
                eos_token_id=list(ends) or None,
                pad_token_id=tokenizer.pad_token_id,
            ),
            logits_processor=LogitsProcessorList(processors),
            stopping_criteria=StoppingCriteriaList(stopping),
        )
    return [row[width:] for row in output.tolist()]


def until(row: list[int], width: int, ends: Sequence[int]) -> list[int]:
    """Cut a row at the first of `ends` after its prompt.

    Some tokenizers do not treat such a token as special, and would decode it as text.
    """
    stop = next((i for i in range(width, len(row)) if row[i] in ends), len(row))
    return row[:stop]


def new_text(tokenizer: PreTrainedTokenizerBase, row: list[int], width: int, padding: int) -> str:
    """Decode prompt and completion together, and cut off the prompt.

    Decoded alone, a completion would lose its first space with SentencePiece tokenizers.
    """
    prompt = decode(tokenizer, row[padding:width])
    text = decode(tokenizer, row[padding:])
    return text[len(prompt) :] if text.startswith(prompt) else decode(tokenizer, row[width:])


_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_BROKEN = "�"


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the text of token ids, special tokens left out; a broken character becomes U+FFFD.

    SentencePiece tokenizers spell rare characters in tokens of one byte, and their decoder turns a
    whole run of these into U+FFFD if any part of it is not UTF-8: a completion that is cut inside a
    character would lose the value before it. Here, only the invalid bytes become U+FFFD.
    """
    plain: Any = tokenizer.decode
    text = str(plain(ids, skip_special_tokens=True))
    if _BROKEN not in text:
        return text
    named: Any = tokenizer.convert_ids_to_tokens(list(ids))
    # A model's vocabulary can be larger than its tokenizer's: such ids have no name.
    matches = (_BYTE.fullmatch(name or "") for name in named)
    numbers = [int(match[1], 16) if match else None for match in matches]
    if not any(number is not None for number in numbers):
        return text
    spelled: list[int] = []
    run: list[int] = []
    for token, number in [*zip(ids, numbers, strict=True), (None, None)]:
        if number is not None:
            run.append(number)
            continue
        decoded = bytes(run).decode("utf-8", "replace").encode()
        ids_of_bytes: Any = tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in decoded])
        spelled += ids_of_bytes
        run = []
        if token is not None:
            spelled.append(token)
    return str(plain(spelled, skip_special_tokens=True))


def scheme_log_probs(logits: torch.Tensor, scheme: DecodingScheme) -> torch.Tensor:
    """Return the log-probabilities from which a scheme samples, `[n, vocabulary]`.

    They are minus infinity for tokens that transformers' logits warpers leave out.
    """
    if scheme.temperature == 0:
        out = torch.full_like(logits, -math.inf)
        return out.scatter(1, logits.argmax(dim=-1, keepdim=True), 0.0)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(float(scheme.temperature))])
    if scheme.top_k is not None:
        warpers.append(TopKLogitsWarper(scheme.top_k))
    if scheme.top_p < 1:
        warpers.append(TopPLogitsWarper(float(scheme.top_p)))
    no_ids: Any = logits.new_empty((len(logits), 0), dtype=torch.long)  # no warper reads them
    warped: Any = logits
    return warpers(no_ids, warped).log_softmax(dim=-1)
