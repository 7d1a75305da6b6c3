"""A model behind an OpenAI-compatible server, whose abilities are tried out and never assumed.

If no way to score a value agrees with what generation reports (`endpoint_facts`), the model can
only be sampled, and exact gates are not evaluated, with the reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_unlearn.core.errors import IncompleteError, UserError
from pytest_unlearn.models.endpoint_client import (
    Client,
    EndpointError,
    EndpointOptions,
    RefusedError,
    failures,
    parse_address,
)
from pytest_unlearn.models.endpoint_facts import (
    NO_THOUGHT,
    PLAIN,
    Choice,
    Facts,
    TooLongForEndpointError,
    chosen,
    find_out,
    forced,
    message_of,
    text_of,
)
from pytest_unlearn.models.engine import ENDPOINT, Writing, is_address, read_options
from pytest_unlearn.models.texts import Decoding, Example, cut_at

if TYPE_CHECKING:
    from pytest_unlearn.models.endpoint_tokenizer import EndpointTokenizer
    from pytest_unlearn.models.scoring import ValueRow, ValueScores
    from pytest_unlearn.models.sources import ModelSource
    from pytest_unlearn.models.texts import DecodingScheme

T = TypeVar("T")

# Increase when a change to this package changes the requests to an endpoint.
ENDPOINT_VERSION = 1
# OpenAI accepts no more; the others are applied here.
_MOST_STOPS = 4
_TOO_LONG = re.compile(r"context|too (long|large|many tokens)|max_model_len|exceed", re.IGNORECASE)
# Room for special tokens, which are not text.
_SPARE_TOKENS = 8


def _ignore(row: int, answer: Any) -> None:
    """Do nothing with an answer."""


class UnansweredError(EndpointError, IncompleteError):
    """Some of several requests failed; the others were answered."""

    def __init__(self, reasons: Mapping[int, str], answers: Sequence[Any]) -> None:
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        super().__init__(f"{next(iter(reasons.values()))}{more}")
        self.reasons = dict(reasons)
        self.rows = tuple(reasons)
        self.answers = list(answers)


class EndpointModel(Writing):
    """A model at an address; see the module's docstring. Made by `connect`."""

    def __init__(
        self,
        client: Client,
        facts: Facts,
        tokenizer: EndpointTokenizer | None,
        thinking: bool = False,
    ) -> None:
        self._client = client
        self.facts = facts
        self._tokenizer = tokenizer
        self._thinking = thinking
        # Called with the row's number and its answer, as soon as `write` or `score` has it.
        self.on_answer: Callable[[int, Any], None] = _ignore

    def __repr__(self) -> str:
        return f"<EndpointModel {self.facts.model} at {self._client.address.url}>"

    @property
    def abilities(self) -> frozenset[str]:
        """Return the abilities that were found; each text is a request of its own."""
        return self.facts.abilities | {"separate"}

    @property
    def spent(self) -> tuple[int, int]:
        """Return the requests and tokens spent so far."""
        return self._client.requests, self._client.tokens

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def context(self) -> int | None:
        """Return the most tokens of a text."""
        return self.facts.context

    # -- texts -------------------------------------------------------------------------------

    def converse(
        self, conversations: Sequence[Sequence[str]], max_new_tokens: int = 64
    ) -> list[str]:
        """Return the greedy answer to the last turn of each conversation.

        Raises UnansweredError, and EndpointError if the endpoint does not answer messages.
        """
        if not self.facts.chat:
            raise EndpointError(f"{self._client.address.url} does not accept chat prompts")
        decoding = Decoding(max_new_tokens)
        return _all(self._client.each(lambda t: self._answer(t, None, decoding), conversations))

    def write(
        self, style: str, prompts: Sequence[str], suffixes: Sequence[str], decoding: Decoding
    ) -> list[str]:
        """Return what the model writes to each prompt as `completion` or `chat`.

        Raises UnansweredError if a prompt has no answer, and EndpointError for another style.
        """
        able = {"completion": self.facts.completes, "chat": self.facts.chat}
        if not able.get(style):
            raise EndpointError(f"{self._client.address.url} does not accept {style} prompts")
        seeds = decoding.seeds or (None,) * len(prompts)
        rows = list(zip(prompts, seeds, strict=True))
        texts = self._client.each(
            lambda row: self._text(style, *row, decoding), rows, self.on_answer
        )
        return _all(texts)

    def _text(self, style: str, prompt: str, seed: int | None, decoding: Decoding) -> str:
        if not prompt.strip():
            raise ValueError("a prompt is empty or holds white space only")
        if style == "chat":
            return self._answer([prompt], seed, decoding)
        body = {**self._settings(decoding, seed), "prompt": prompt.rstrip()}
        choice = chosen(self._post("/completions", body), self.facts.model)
        return cut_at(text_of(choice), decoding.stops)

    def _answer(self, turns: Sequence[str], seed: int | None, decoding: Decoding) -> str:
        """Return the answer to the last of a conversation's turns."""
        messages = [
            {"role": "assistant" if number % 2 else "user", "content": turn}
            for number, turn in enumerate(turns)
        ]
        body = {**self._settings(decoding, seed), "messages": messages}
        body |= NO_THOUGHT if self.facts.thought and not self._thinking else {}
        choice = chosen(self._post("/chat/completions", body), self.facts.model)
        return cut_at(message_of(choice), decoding.stops)

    def _settings(self, decoding: Decoding, seed: int | None) -> dict[str, Any]:
        return {
            "model": self.facts.model,
            "max_tokens": decoding.max_new_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            **(PLAIN if self.facts.plain else {}),
            **({} if seed is None or not self.facts.seeded else {"seed": seed % (1 << 31)}),
            **({"stop": list(decoding.stops[-_MOST_STOPS:])} if decoding.stops else {}),
        }

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self._client.post(path, body)
        except RefusedError as error:
            if error.status in (400, 413, 422) and _TOO_LONG.search(str(error)):
                raise TooLongForEndpointError(str(error)) from None
            raise

    # -- scores ------------------------------------------------------------------------------

    def score(
        self, examples: Sequence[Example], scheme: DecodingScheme | None = None
    ) -> list[ValueScores]:
        """Return the scores of each example's answer, at temperature 1 and without z-scores.

        Raises UnansweredError, EndpointError for another scheme, and as `value_rows`.
        """
        from pytest_unlearn.models.texts import DecodingScheme

        if scheme not in (None, DecodingScheme()):
            raise EndpointError(
                "an endpoint gives probabilities at temperature 1 only; leave --unlearn-decoding "
                "out"
            )
        return self._of_each(examples, self._scored, done=self.on_answer)

    def losses(self, examples: Sequence[Example]) -> list[tuple[float, int] | None]:
        """Return each answer's loss (nats) and its number of tokens; None if it does not fit the
        context."""

        def loss(row: ValueRow) -> tuple[float, int] | None:
            try:
                return -math.fsum(c.log_prob for c in self._choices(row)), len(row.answer)
            except TooLongForEndpointError:
                return None

        return self._of_each(examples, loss, context=False)

    def log_probabilities(self, pairs: Sequence[tuple[str, str]], after: str = "") -> list[float]:
        """Return the log-probability (nats) of each value after its prompt."""
        examples = [Example.answering(*pair, after) for pair in pairs]
        return self._of_each(examples, lambda r: math.fsum(c.log_prob for c in self._choices(r)))

    def alternatives(self, prompt: str, values: Sequence[str], after: str = "") -> list[float]:
        """Return the log-probability (nats) of many values after one prompt."""
        return self.log_probabilities([(prompt, value) for value in values], after)

    def _of_each(
        self,
        examples: Sequence[Example],
        work: Callable[[ValueRow], T],
        context: bool = True,
        done: Callable[[int, Any], None] = _ignore,
    ) -> list[T]:
        """Return what `work` makes of each example's row. Raises UnansweredError, and EndpointError
        if values cannot be scored."""
        from pytest_unlearn.models.scoring import value_rows

        if not self.facts.scores:
            raise EndpointError(f"{self._client.address.url} cannot score values: {self.facts.why}")
        tokenizer: Any = self._tokenizer
        limit = self.facts.context if context else None

        def of_one(row: Any) -> T:
            if isinstance(row, Example):
                (row,) = value_rows(tokenizer, [row], limit)
            return work(row)

        rows: Sequence[Any]
        try:
            rows = value_rows(tokenizer, examples, limit)
        except EndpointError:  # of one text; tokenizations are cached
            rows = examples
        return _all(self._client.each(of_one, rows, done))

    def _choices(self, row: ValueRow) -> list[Choice]:
        return forced(self._post, self.facts, row.ids, row.answer)

    def _scored(self, row: ValueRow) -> ValueScores:
        from pytest_unlearn.models.scoring import RowScores, value_scores

        choices = self._choices(row)
        log_probs = [choice.log_prob for choice in choices]
        # It is only known whether a token is the first choice, not which other token is.
        chosen = [w if c.first else -1 for c, w in zip(choices, row.answer, strict=True)]
        margins = [choice.margin for choice in choices]
        tokens = RowScores(log_probs, log_probs, [], chosen, margins)
        return value_scores(row, tokens, self._spelled(row, choices))

    def _spelled(self, row: ValueRow, choices: Sequence[Choice]) -> bool:
        """Return whether greedy decoding writes the value; decide by generation if another
        tokenization of the same text may be the first choice."""
        departure = next((i for i, choice in enumerate(choices) if not choice.first), None)
        if departure is None:
            return True
        assert self._tokenizer is not None
        prompt = self._tokenizer.decode(row.ids)
        text = self._tokenizer.decode([*row.ids, *row.answer[:departure]])[len(prompt) :]
        text += choices[departure].best
        if not (text.startswith(row.rest) or row.rest.startswith(text.rstrip("\ufffd"))):
            return False
        most = len(row.rest.encode("utf-8", "surrogatepass")) + _SPARE_TOKENS
        return self._text("completion", row.prompt, None, Decoding(most)).startswith(row.rest)


def _all(answers: Sequence[T | EndpointError]) -> list[T]:
    """Return the answers if nothing failed. Raises UnansweredError."""
    reasons = {number: str(error) for number, error in failures(answers)}
    if reasons:
        raise UnansweredError(
            reasons, [None if n in reasons else each for n, each in enumerate(answers)]
        )
    return list(answers)  # type: ignore[arg-type]


def connect(client: Client, chat: bool = False, thinking: bool = False) -> EndpointModel:
    """Find out what an endpoint can do, and return its model. `chat`: messages will be sent;
    `thinking`: the model may think before it answers.

    Raises as `find_out` does.
    """
    return EndpointModel(client, *find_out(client, chat), thinking)


class EndpointEngine:
    """Asks an OpenAI-compatible server; see the module's docstring."""

    name = ENDPOINT
    abilities = frozenset(
        {"generate", "samples", "chat", "turns", "scores", "losses", "probabilities"}
        | {"alternatives", "context", "separate"}
    )

    def __init__(self, options: EndpointOptions | None = None) -> None:
        self.options = options or EndpointOptions()

    def configured(self, text: str) -> EndpointEngine:
        """Return the engine with options; see `EndpointOptions`. Raises UserError."""
        return EndpointEngine(read_options(self.options, text))

    def key(self) -> dict[str, Any]:
        """Return everything that changes the requests to a server."""
        return {"version": ENDPOINT_VERSION}

    def check(self, source: ModelSource, flag: str) -> None:
        """Raise UserError for a name that is not an address."""
        if not is_address(source.name):
            raise UserError(
                f"{flag}: {source.name} is not an address; write "
                "--unlearn-model=http://HOST:PORT/v1#NAME"
            )
        parse_address(source.name, flag)

    def open(
        self,
        source: ModelSource,
        device: str,
        dtype: str,
        progress: Callable[[str], None],
    ) -> EndpointModel:
        """Return the model at the address that is the source's name, without a key."""
        client = Client(parse_address(source.name, "--unlearn-model"), self.options)
        model = connect(client, chat=True)
        for line in model.facts.lines():
            progress(f"{source.name}: {line}")
        return model


ENGINE = EndpointEngine()
