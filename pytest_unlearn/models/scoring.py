"""Scores of values, token by token, from one teacher-forced pass over prompt and value.

What is scored is what generation would have to write: the prompt is tokenized alone and without the
white space at its end, as `generation.py` does, and that white space and the value follow. The
value's tokens are those of the whole document, up to the last one that overlaps the value: if a
tokenizer merges the value's end with the closing quote, the merged token counts, since that is what
a model learns from such a document. Other tokenizations of the same text add to the true
probability, so a probability given here is a lower bound. The greedy verdict is about text: if the
first choices of a row differ from these tokens but not from the value's text, generation decides.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from pytest_unlearn.models.batches import padded
from pytest_unlearn.models.decoding import cache_name
from pytest_unlearn.models.footprint import CHUNK_NUMBERS, SCORED_TOKENS
from pytest_unlearn.models.generation import (
    GenerationError,
    Writer,
    check_context,
    check_ids,
    complete_greedily,
    context_of,
    decode,
    is_out_of_memory,
    scheme_log_probs,
)
from pytest_unlearn.models.texts import DecodingScheme, Example

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")

# What is computed from the logits of a batch takes several times their memory, so it is done in
# parts.
_PART_NUMBERS = 1 << 22
# Tokens that are written first if generation decides.
_FIRST_TOKENS = 8
# A batch is cut before a larger share of it than this would be padding.
MOST_PADDING = 0.1


@dataclass(frozen=True, slots=True)
class ValueScores:
    """The scores of one value, in nats; the tuples have one entry per token of the value.

    `log_probs` are the model's own (temperature 1), `scheme_log_probs` those under the decoding
    scheme (minus infinity if it leaves the token out), `greedy` says whether the token is the
    model's first choice, `z_scores` are Min-K%++'s: (log p - mean) / deviation over the vocabulary
    (arXiv 2404.02936). `lead_log_prob` and `lead_scheme_log_prob` belong to white space between
    prompt and value that has tokens of its own, 0 if there is none. `spelled` is the verdict of
    greedy decoding: it writes the white space and the value right after the prompt. `zlib_bytes` is
    the length of the value under zlib. `margin` (nats): how close the closest choice was on which
    the verdict rests; a choice within rounding may be different in another batch.
    """

    log_probs: tuple[float, ...]
    scheme_log_probs: tuple[float, ...]
    greedy: tuple[bool, ...]
    z_scores: tuple[float, ...]
    lead_log_prob: float
    lead_scheme_log_prob: float
    spelled: bool
    zlib_bytes: int
    margin: float = math.inf


@dataclass(frozen=True, slots=True)
class RowScores:
    """Scores of the tokens of a row's answer, including the lead; `chosen` are the first choices,
    `margins` how far (nats) each token is ahead of the best other one."""

    log_probs: list[float]
    scheme_log_probs: list[float]
    z_scores: list[float]
    chosen: list[int]
    margins: list[float]


class Scorer:
    """Scores values on one model; remembers which batch size fits and if prompts can be shared.

    `tokens` and `padded` count what went through the model, for the share wasted on padding.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_tokens: int = SCORED_TOKENS,
        chunk_numbers: int = CHUNK_NUMBERS,
        writer: Writer | None = None,
    ) -> None:
        """`batch_tokens`: rows times width of a batch; `chunk_numbers`: rows times vocabulary;
        `writer`: the writer of the model's states, for what generation decides."""
        self._model: Any = model
        self._tokenizer: Any = tokenizer
        vocabulary = int(self._model.config.get_text_config().vocab_size)
        self._most_predicted = max(1, chunk_numbers // vocabulary)
        self._shares_prompts: bool | None = None
        self._cache_name = cache_name(model)
        self._prompt: tuple[list[int], Any] | None = None
        self._writer = writer or Writer()
        self.batch_tokens = batch_tokens
        self.tokens = 0
        self.padded = 0

    @torch.inference_mode()
    def score(
        self, examples: Sequence[Example], scheme: DecodingScheme | None = None
    ) -> list[ValueScores]:
        """Return the scores of each example's answer, in order.

        Raises GenerationError for NaN, for a text that does not fit the model's context, and if not
        even one row fits in memory; ValueError for an empty prompt or answer.
        """
        decoding = scheme or DecodingScheme()
        rows = self._rows(examples)
        scores = self._batched(rows, lambda part: self._pass(part, decoding))
        both = list(zip(rows, scores, strict=True))
        own: Any = self._model.generation_config.eos_token_id
        ends = own if isinstance(own, list) else [own]
        verdicts = [
            greedy_verdict(self._tokenizer, row, tokens.chosen, ends) for row, tokens in both
        ]
        undecided = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict is None]
        written = iter(self._batched(undecided, self._written))
        return [
            value_scores(row, tokens, next(written) if verdict is None else verdict)
            for (row, tokens), verdict in zip(both, verdicts, strict=True)
        ]

    @torch.inference_mode()
    def losses(self, examples: Sequence[Example]) -> list[tuple[float, int] | None]:
        """Return each answer's loss (nats, temperature 1) and its number of tokens, in order.

        None for a text that does not fit the model's context. Raises as `score` does.
        """
        rows = value_rows(self._tokenizer, examples, None)
        context = context_of(self._model)
        fitting = [row for row in rows if context is None or row.length <= context]
        sums = iter(self._batched(fitting, self._sums))
        return [
            (-next(sums), len(row.answer)) if context is None or row.length <= context else None
            for row in rows
        ]

    @torch.inference_mode()
    def log_probabilities(self, pairs: Sequence[tuple[str, str]], after: str = "") -> list[float]:
        """Return the log-probability (nats, temperature 1) of each value after its prompt.

        `pairs` are (prompt, value); `after` is what follows the value in the documents.
        """
        rows = self._rows([Example.answering(prompt, value, after) for prompt, value in pairs])
        return self._batched(rows, self._sums)

    @torch.inference_mode()
    def alternatives(self, prompt: str, values: Sequence[str], after: str = "") -> list[float]:
        """Return the log-probability of each of many values after one prompt.

        This is like `log_probabilities`, but the prompt goes through the model only once, and its
        keys and values are kept. Models whose cache cannot be shared are scored in the plain way;
        the first value of a scorer's first call is scored both ways to find out.
        """
        rows = self._rows([Example.answering(prompt, value, after) for value in values])
        if not rows:
            return []
        if self._shares_prompts is None:
            self._shares_prompts = self._sharing_works(rows[0])
        if not self._shares_prompts or len(rows[0].ids) < 2:
            return self._batched(rows, self._sums)
        cache = self._prompt_cache(rows[0])
        return self._batched(rows, lambda part: self._continued(part, cache))

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._tokenizer

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end a text."""
        ends: Any = self._model.generation_config.eos_token_id
        return frozenset(ends if isinstance(ends, list) else [ends])

    def tokens_of(self, example: Example) -> ValueRow:
        """Return an example's tokens. Raises as `score` does."""
        (row,) = self._rows([example])
        return row

    def text_of(self, row: ValueRow, continuation: list[int]) -> str:
        """Return the text of tokens that follow a row's prompt."""
        text = decode(self._tokenizer, row.ids + continuation)
        return text[len(decode(self._tokenizer, row.ids)) :]

    @torch.inference_mode()
    def predictions(self, example: Example) -> tuple[ValueRow, torch.Tensor]:
        """Return an example's tokens, and the logits `[answer tokens, vocabulary]` for them."""
        row = self.tokens_of(example)
        return row, self._predict([row])

    @torch.inference_mode()
    def following(self, row: ValueRow, continuations: Sequence[list[int]]) -> torch.Tensor:
        """Return `[continuations, vocabulary]`: the log-probabilities (float32, temperature 1) of
        the next token after a row's prompt and each continuation.

        The prompt goes through the model once per row, as in `alternatives`.
        """
        if self._shares_prompts is None:
            self._shares_prompts = self._sharing_works(row)
        rows = [replace(row, answer=[*each, 0]) for each in continuations]
        last = [sum(len(r.answer) for r in rows[: n + 1]) - 1 for n in range(len(rows))]
        if not self._shares_prompts or len(row.ids) < 2:
            logits = self._predict(rows)
        else:
            if self._prompt is None or self._prompt[0] != row.ids:
                self._prompt = (row.ids, self._prompt_cache(row))
            logits = self._continued_logits(rows, self._prompt[1])
        return logits[last].float().log_softmax(dim=-1)

    def _rows(self, examples: Sequence[Example]) -> list[ValueRow]:
        rows = value_rows(self._tokenizer, examples, context_of(self._model))
        check_ids(self._model, [row.ids + row.answer for row in rows])
        return rows

    def _batched(
        self, rows: Sequence[ValueRow], run: Callable[[list[ValueRow]], list[T]]
    ) -> list[T]:
        """Run `run` over batches of rows of similar length; return results in the rows' order.

        A batch that does not fit in memory is halved and tried again, and the smaller size is kept.
        """
        order = sorted(range(len(rows)), key=lambda index: rows[index].length)
        results: dict[int, T] = {}
        begin = 0
        while begin < len(order):
            stop = self._cut(rows, order, begin)
            part = order[begin:stop]
            failed = False
            try:
                results.update(zip(part, run([rows[index] for index in part]), strict=True))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                failed = True
            if failed:  # outside the handler, whose traceback holds the tensors
                self._halve([rows[index] for index in part])
            else:
                begin = stop
        return [results[index] for index in range(len(rows))]

    def _cut(self, rows: Sequence[ValueRow], order: list[int], begin: int) -> int:
        """Return the end of the batch that begins at `begin`; it has at least one row."""
        stop, useful, predicted = begin, 0, 0
        while stop < len(order):
            row = rows[order[stop]]
            area = (stop - begin + 1) * row.length
            useful += row.length
            predicted += len(row.answer)
            full = area > self.batch_tokens or predicted > self._most_predicted
            if stop > begin and (full or area - useful > MOST_PADDING * area):
                break
            stop += 1
        return stop

    def _halve(self, part: list[ValueRow]) -> None:
        if len(part) == 1:
            raise GenerationError(
                f"one row of {part[0].length} tokens does not fit the memory; use a smaller model "
                "or dtype, or shorter records"
            )
        self.batch_tokens = max(row.length for row in part) * (len(part) // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _pass(self, rows: list[ValueRow], scheme: DecodingScheme) -> list[RowScores]:
        """Return all scores of a batch of rows, from one forward pass."""
        logits, targets = self._predict(rows), _targets(rows)
        size = max(1, _PART_NUMBERS // logits.shape[-1])
        parts = zip(torch.split(logits, size), torch.split(targets, size), strict=True)
        columns = [
            torch.cat(column).tolist()
            for column in zip(*(token_scores(*part, scheme) for part in parts), strict=True)
        ]
        out, begin = [], 0
        for row in rows:
            stop = begin + len(row.answer)
            out.append(RowScores(*(column[begin:stop] for column in columns)))
            begin = stop
        return out

    def _sums(self, rows: list[ValueRow]) -> list[float]:
        """Return the log-probability of each row's answer, and nothing else."""
        return _sums_of(rows, self._predict(rows))

    def _predict(self, rows: list[ValueRow]) -> torch.Tensor:
        """Return the logits that predict the answers, `[answer tokens, vocabulary]`, row by row."""
        texts = [(row.ids + row.answer)[:-1] for row in rows]  # the last token predicts nothing
        return self._logits(rows, [len(row.ids) - 1 for row in rows], self._inputs(texts))

    def _logits(
        self, rows: list[ValueRow], starts: list[int], inputs: dict[str, torch.Tensor], **extra: Any
    ) -> torch.Tensor:
        """Run the model; only states from `starts` on that predict a token go through its head.

        A hook picks them where the head is called, so that whatever a model does to its logits
        afterwards (scaling, soft-capping) is still done.
        """
        at_row = torch.tensor([i for i, row in enumerate(rows) for _ in row.answer])
        at_token = torch.tensor(
            [
                start + i
                for start, row in zip(starts, rows, strict=True)
                for i in range(len(row.answer))
            ]
        )
        width = inputs["input_ids"].shape[1]

        def picked(states: torch.Tensor) -> torch.Tensor:
            first = states.shape[1] - width  # prompt tuning prepends states of its own
            return states[at_row.to(states.device), (at_token + first).to(states.device)][None]

        def before_head(head: Any, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (picked(states[0]), *states[1:])

        head = self._model.get_output_embeddings()
        hook = head.register_forward_pre_hook(before_head) if head is not None else None
        try:
            logits = self._model(**inputs, **extra).logits
        finally:
            if hook is not None:
                hook.remove()
        if logits.shape[:2] != (1, len(at_row)):  # a model that does not call its head
            logits = picked(logits)
        if bool(torch.isnan(logits).any()):
            raise GenerationError("the model's predictions are NaN: its weights are broken")
        out: torch.Tensor = logits[0]
        return out

    def _inputs(self, texts: list[list[int]]) -> dict[str, torch.Tensor]:
        """Pad token ids on the right."""
        ids, mask = padded(texts, int(self._tokenizer.pad_token_id or 0), self._model.device)
        self.tokens += sum(map(len, texts))
        self.padded += ids.numel()
        return {"input_ids": ids, "attention_mask": mask}

    def _prompt_cache(self, row: ValueRow) -> Any:
        """Return keys and values of a prompt without its last token, which predicts the answer."""
        inputs = self._inputs([row.ids[:-1]])
        output = self._model(**inputs, use_cache=True, logits_to_keep=1)
        return getattr(output, self._cache_name)

    def _continued(self, rows: list[ValueRow], cache: Any) -> list[float]:
        """Return what `_sums` does, for rows of one prompt, from its cache."""
        return _sums_of(rows, self._continued_logits(rows, cache))

    def _continued_logits(self, rows: list[ValueRow], cache: Any) -> torch.Tensor:
        """Return what `_predict` does, for rows of one prompt, from its cache."""
        inputs = self._inputs([row.ids[-1:] + row.answer[:-1] for row in rows])
        mask = inputs["attention_mask"]
        seen = mask.new_ones(len(rows), len(rows[0].ids) - 1)
        inputs["attention_mask"] = torch.cat([seen, mask], dim=1)
        own = copy.deepcopy(cache)  # a pass appends to it
        own.batch_repeat_interleave(len(rows))
        cached = {self._cache_name: own}
        starts = [0] * len(rows)
        return self._logits(rows, starts, inputs, **cached, use_cache=True)

    def _sharing_works(self, row: ValueRow) -> bool:
        """Return whether a shared prompt gives the same as a plain pass."""
        (plain,) = self._sums([row])
        try:  # twice the row: a cache must also be repeated
            shared = self._continued([row, row], self._prompt_cache(row))
        except (AttributeError, IndexError, NotImplementedError, TypeError, ValueError):
            return False
        # Half precision rounds differently in the two; a wrong mask or position differs much more.
        slack = 1e-3 if self._model.dtype == torch.float32 else 0.05 * len(row.answer)
        return all(abs(value - plain) <= slack + 0.01 * abs(plain) for value in shared)

    def _written(self, rows: list[ValueRow]) -> list[bool]:
        """Decide by generation for rows that `greedy_verdict` cannot decide.

        Only a few tokens are written first, since most texts soon differ from the value.
        """
        # A byte takes at most one token; special tokens, which are not text, may come in between.
        most = max(len(row.rest.encode("utf-8", "surrogatepass")) for row in rows) + 8
        context = context_of(self._model)
        if context is not None:
            most = min(most, context - max(len(row.ids) for row in rows))
        texts = [""] * len(rows)
        for new in (min(_FIRST_TOKENS, most), most):
            still = [
                n for n, row in enumerate(rows) if row.rest.startswith(texts[n].rstrip("\ufffd"))
            ]
            prompts = [rows[number].prompt for number in still]
            if prompts:
                completions = complete_greedily(
                    self._model, self._tokenizer, prompts, new, self._writer
                )
                for number, text in zip(still, completions, strict=True):
                    texts[number] = text
        return [text.startswith(row.rest) for text, row in zip(texts, rows, strict=True)]


def greedy_verdict(
    tokenizer: PreTrainedTokenizerBase, row: ValueRow, chosen: Sequence[int], ends: Sequence[int]
) -> bool | None:
    """Return whether greedy decoding writes a value; None if other tokens might spell it.

    `chosen`: the first choice at each token. `ends`: the tokens that end a text.
    """
    pairs = enumerate(zip(chosen, row.answer, strict=True))
    departure = next((i for i, (mine, expected) in pairs if mine != expected), None)
    if departure is None:
        return True
    if chosen[departure] in ends:
        return False
    prompt = decode(tokenizer, row.ids)
    text = decode(tokenizer, row.ids + row.answer[:departure] + [chosen[departure]])
    text = text[len(prompt) :]
    if text.startswith(row.rest):
        return True
    # A character that is not whole yet is decoded as U+FFFD.
    return None if row.rest.startswith(text.rstrip("\ufffd")) else False


def score(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    scheme: DecodingScheme | None = None,
    batch_tokens: int = SCORED_TOKENS,
) -> list[ValueScores]:
    """Return the scores of each example's answer; see `Scorer.score`."""
    return Scorer(model, tokenizer, batch_tokens).score(examples, scheme)


def value_scores(row: ValueRow, tokens: RowScores, spelled: bool) -> ValueScores:
    """Return the scores of a value from those of its row's tokens.

    `spelled`: greedy decoding writes the value. Z-scores are optional.
    """
    lead = row.lead
    first_choices = [m == w for m, w in zip(tokens.chosen, row.answer, strict=True)]
    decisive = [*first_choices, False].index(False) + 1
    return ValueScores(
        log_probs=tuple(tokens.log_probs[lead:]),
        scheme_log_probs=tuple(tokens.scheme_log_probs[lead:]),
        greedy=tuple(first_choices[lead:]),
        z_scores=tuple(tokens.z_scores[lead:]),
        lead_log_prob=math.fsum(tokens.log_probs[:lead]),
        lead_scheme_log_prob=sum(tokens.scheme_log_probs[:lead]),
        spelled=spelled,
        zlib_bytes=row.zlib_bytes,
        margin=min(map(abs, tokens.margins[:decisive])),
    )


def _targets(rows: list[ValueRow]) -> torch.Tensor:
    return torch.tensor([token for row in rows for token in row.answer])


def _sums_of(rows: list[ValueRow], logits: torch.Tensor) -> list[float]:
    """Add up the log-probabilities of each row's answer."""
    targets = _targets(rows).to(logits.device)
    size = max(1, _PART_NUMBERS // logits.shape[-1])
    parts = []
    for part, chosen in zip(torch.split(logits, size), torch.split(targets, size), strict=True):
        own = part.float().gather(1, chosen[:, None])[:, 0]
        parts.append(own - part.float().logsumexp(dim=-1))
    lengths = [len(row.answer) for row in rows]
    return [float(values.sum()) for values in torch.split(torch.cat(parts).double(), lengths)]


def token_scores(
    logits: torch.Tensor, targets: torch.Tensor, scheme: DecodingScheme
) -> tuple[torch.Tensor, ...]:
    """Return log p, log p under the scheme, z-score, first choice, and margin, `[n]` each.

    The margin (nats) is how far a token is ahead of the best other one, negative if behind.
    """
    logits, targets = logits.float(), targets.to(logits.device)
    log_probs = logits.log_softmax(dim=-1)
    own = log_probs.gather(1, targets[:, None])[:, 0]
    chosen = logits.argmax(dim=-1)
    if scheme == DecodingScheme():
        of_scheme = own
    else:
        of_scheme = scheme_log_probs(logits, scheme).gather(1, targets[:, None])[:, 0]
    weights = log_probs.exp()
    finite = log_probs.clamp(min=-1e6)  # 0 * infinity is NaN
    mean = (weights * finite).sum(dim=-1)
    variance = (weights * (finite - mean[:, None]).square()).sum(dim=-1)
    # A distribution without spread says nothing about a token: its score is 0.
    z = torch.where(variance > 1e-12, (own - mean) / variance.sqrt().clamp(min=1e-6), 0.0)
    others = logits.scatter(1, targets[:, None], -math.inf).amax(dim=-1)
    margin = logits.gather(1, targets[:, None])[:, 0] - others
    return own, of_scheme, z, chosen, margin


@dataclass(frozen=True, slots=True)
class ValueRow:
    """Token ids of prompt and continuation; the value's first token is `answer[lead]`.

    `rest` is the text that greedy decoding must write after `prompt`.
    """

    ids: list[int]
    answer: list[int]
    lead: int
    prompt: str
    rest: str
    zlib_bytes: int

    @property
    def length(self) -> int:
        """Tokens of prompt and continuation."""
        return len(self.ids) + len(self.answer)


def value_rows(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], context: int | None
) -> list[ValueRow]:
    """Tokenize examples; see the module docstring for where the cut is made.

    `context`: the most tokens that the model accepts, if it has a limit. Raises TooLongError for
    texts beyond it, and ValueError for an empty prompt or answer.
    """
    tokenize: Any = tokenizer
    if not examples:
        return []
    prompts = [example.text[: example.start].rstrip() for example in examples]
    unique = list(dict.fromkeys(prompts))
    if not all(unique):
        raise ValueError("a prompt is empty or holds white space only")
    ids_of = dict(zip(unique, tokenize(unique)["input_ids"], strict=True))
    whole = tokenize([example.text for example in examples], return_offsets_mapping=True)
    rows = []
    for example, prompt, ids, offsets in zip(
        examples, prompts, whole["input_ids"], whole["offset_mapping"], strict=True
    ):
        start = list(ids_of[prompt])
        first, last = _span(offsets, example.start, example.end)
        if start and ids[: len(start)] == start and first >= len(start):
            answer, lead = ids[len(start) : last + 1], first - len(start)
        else:
            answer, lead = _tokens_of_rest(tokenize, example, prompt, start)
        value = example.text[example.start : example.end]
        rest = example.text[len(prompt) : example.end]
        packed = len(zlib.compress(value.encode("utf-8", "surrogatepass")))
        rows.append(ValueRow(start, list(answer), lead, prompt, rest, packed))
    check_context([row.length for row in rows], context, "a prompt and value of {} tokens do")
    return rows


def _tokens_of_rest(
    tokenizer: Any, example: Example, prompt: str, start: list[int]
) -> tuple[list[int], int]:
    """Tokenize what follows a prompt whose end the tokenizer would merge with the value.

    It is tokenized alone, or after a character that is then cut off, because SentencePiece
    tokenizers put a space before a text's first word. The result must decode to the same text after
    the prompt. Raises ValueError if none does.
    """
    rest = example.text[len(prompt) :]
    begin, end = example.start - len(prompt), example.end - len(prompt)
    for anchor in ("", "\n", "=", '"', "("):
        before = tokenizer(anchor, add_special_tokens=False)["input_ids"]
        encoded = tokenizer(anchor + rest, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets, shift = encoded["input_ids"], encoded["offset_mapping"], len(anchor)
        first, last = _span(offsets, begin + shift, end + shift)
        if not start or ids[: len(before)] != before or first < len(before):
            continue
        answer = ids[len(before) : last + 1]
        text = tokenizer.decode(start + answer, skip_special_tokens=True)
        if text.startswith(tokenizer.decode(start, skip_special_tokens=True) + rest[:end]):
            return answer, first - len(before)
    raise ValueError(
        f"the tokenizer gives no tokens for a value of {end - begin} characters after its prompt"
    )


def _span(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """Return the first and the last token in `[start, end)`. Raises ValueError if there is none."""
    inside = [i for i, (begin, stop) in enumerate(offsets) if begin < end and stop > start]
    if not inside or start >= end:
        raise ValueError(f"no token lies in the answer [{start}, {end})")
    return inside[0], inside[-1]
