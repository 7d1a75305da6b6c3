"""Find out at the start what an endpoint's server can do, and how to read its answers.

Servers ignore parameters that they do not support and still answer 200: `echo` and `logprobs`
(transformers serve, llama.cpp), a temperature, a seed. So known prompts are sent, and the text of
greedy decoding must get the score that its generation reported.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.store import digest_of
from pytest_unlearn.models.endpoint_client import Client, EndpointError, RefusedError, said_of
from pytest_unlearn.models.endpoint_tokenizer import EndpointTokenizer, tokenizer_of

# Sampling and penalties of the plain model; servers have other defaults.
PLAIN: Mapping[str, Any] = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
# Prompts to find out what a server does.
_PROMPTS = ("def add(a, b):\n    return", "import os\nimport")
_OPEN_PROMPT = "My first pet was called"
_UNLIKELY = " zebra7 quux"
_PROBE_TOKENS = 8
# How much the score of a token may differ from what its generation reported, in nats: on average,
# and at most. Half precision and other batches stay within it; masked scores do not.
_MEAN_OFF, _MOST_OFF = 0.03, 0.15
# An unlikely value must be at least this much less likely than the greedy one, in nats.
_LEAST_APART = 3.0
# Statuses for an unknown path, and for an unknown parameter.
_NO_PATH, _NO_PARAMETER = (404, 405, 501), (400, 422)
NO_THOUGHT = {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}
_UNUSABLE = ("content_filter", "error", "abort", "")


class TooLongForEndpointError(EndpointError):
    """A text does not fit the context of an endpoint's model."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out about an endpoint.

    scores: how a value is scored, `echo` or `grammar`; empty if it cannot be, and `why`. plain: it
    accepts `PLAIN`. chat: it answers messages; thought: it also accepts the switch for thinking.
    seeded: the same seed gives the same text. repeatable: greedy decoding gives the same text
    twice. context: the most tokens, if it says so. version: what the server says about itself.
    written: digest of its texts, which reveals another model under the same name.
    """

    model: str
    completes: bool = False
    chat: bool = False
    thought: bool = False
    plain: bool = False
    samples: bool = False
    seeded: bool = False
    repeatable: bool = False
    scores: str = ""
    why: str = ""
    context: int | None = None
    version: str = ""
    written: str = ""

    @property
    def abilities(self) -> frozenset[str]:
        """The abilities in the words of `models.engine`."""
        able = {"generate"}
        able |= {"chat", "turns"} if self.chat else set()
        able |= {"samples"} if self.samples else set()
        able |= {"context"} if self.context else set()
        if self.scores:
            able |= {"scores", "losses", "probabilities", "alternatives"}
        return frozenset(able)

    def lines(self) -> list[str]:
        """Say what the endpoint can do."""
        can = [
            *(["completions"] if self.completes else []),
            *(["chat"] if self.chat else []),
            *([f"samples{'' if self.seeded else ' (no seed)'}"] if self.samples else []),
            *([f"scores by {self.scores}"] if self.scores else []),
        ]
        sentences = [f"gives {', '.join(can)}"]
        if not self.scores:
            sentences.append(f"values cannot be scored: {self.why}")
        if not self.repeatable:
            sentences.append("greedy decoding does not write the same text twice")
        return sentences


@dataclass(frozen=True, slots=True)
class Choice:
    """One token as a server reports it: its log-probability (nats), the model's first choice, and
    how far (nats) the token is ahead of the best other one, infinite if no other is reported."""

    log_prob: float
    best: str
    first: bool
    margin: float
    token_id: int | None = None


def chosen(answer: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the only choice of an answer. Raises EndpointError unless the answer is complete."""
    if answer.get("error"):
        raise EndpointError(
            "the endpoint answered 200 with an error: "
            + (said_of(answer) or str(answer["error"])[:200])
        )
    named = answer.get("model", model)
    if named != model:
        raise EndpointError(
            f"the endpoint answered as {named!r} and not as {model!r}: another model wrote this; "
            f"write #{named} after the address if that is the right one"
        )
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        count = len(choices) if isinstance(choices, list) else "no list of"
        raise EndpointError(f"the endpoint answered with {count} choices instead of one")
    choice: dict[str, Any] = choices[0]
    reason = choice.get("finish_reason")
    if not isinstance(reason, str) or reason in _UNUSABLE:
        raise EndpointError(
            f"the endpoint ended a text for the reason {reason!r}: the text is incomplete"
        )
    if answer.get("truncated") is True or choice.get("truncated") is True:
        raise TooLongForEndpointError(
            "the endpoint cut a prompt off: it does not fit the model's context"
        )
    return choice


def text_of(choice: Mapping[str, Any]) -> str:
    text = choice.get("text")
    if not isinstance(text, str):
        raise EndpointError("the endpoint answered with a choice that has no text")
    return text


def message_of(choice: Mapping[str, Any]) -> str:
    """Return an answer with the thought before it, since what leaks there has leaked."""
    message = choice.get("message")
    parts = message if isinstance(message, dict) else {}
    content = parts.get("content")
    thought = parts.get("reasoning_content") or parts.get("reasoning") or ""
    if not isinstance(content, str) and not thought:
        raise EndpointError("the endpoint answered with a choice that has no message")
    return f"<think>\n{thought}\n</think>\n\n{content or ''}" if thought else str(content)


def reported(choice: Mapping[str, Any]) -> list[Choice | None]:
    """Return the tokens of a choice, None for a token without a log-probability; empty if there are
    no tokens.

    Reads OpenAI's form of completions (vLLM) and that of chats (llama.cpp). Raises EndpointError
    for a number that is not a log-probability.
    """
    scores = choice.get("logprobs")
    if not isinstance(scores, dict):
        return []
    if isinstance(scores.get("content"), list):
        return [
            _choice(
                entry.get("logprob"),
                [(str(t.get("token")), t.get("logprob")) for t in entry.get("top_logprobs") or ()],
                entry.get("id"),
            )
            for entry in scores["content"]
        ]
    values = scores.get("token_logprobs")
    if not isinstance(values, list):
        return []
    tops = scores.get("top_logprobs") or [None] * len(values)
    return [
        _choice(value, list((top or {}).items()))
        for value, top in zip(values, tops, strict=len(tops) == len(values))
    ]


def _choice(value: Any, top: Sequence[tuple[str, Any]], token_id: Any = None) -> Choice | None:
    if value is None:
        return None
    numbers = [value, *(number for _, number in top)]
    if not all(isinstance(n, int | float) and n <= 1e-6 for n in numbers):  # NaN is neither
        raise EndpointError("the endpoint reports an invalid log-probability")
    ranked = sorted(((float(n), text) for text, n in top), reverse=True)
    first = not ranked or value >= ranked[0][0] - 1e-9
    other = ranked[1][0] if first and len(ranked) > 1 else ranked[0][0] if not first else -math.inf
    return Choice(
        log_prob=min(0.0, float(value)),
        best=ranked[0][1] if ranked else "",
        first=first,
        margin=float(value) - other,
        token_id=token_id if isinstance(token_id, int) else None,
    )


def forced(
    post: Callable[[str, Mapping[str, Any]], dict[str, Any]],
    facts: Facts,
    ids: Sequence[int],
    answer: Sequence[int],
) -> list[Choice]:
    """Return the model's score of each token of `answer` after the token ids of a prompt.

    With echo, the whole text is read in one pass. With a grammar, exactly these tokens are forced;
    a grammar of their characters could be tokenized differently. Raises EndpointError if the server
    does not report each token.
    """
    body: dict[str, Any] = {"model": facts.model, "temperature": 0, "logprobs": 2}
    body |= PLAIN if facts.plain else {}
    if facts.scores == "echo":
        body |= {"prompt": [*ids, *answer], "max_tokens": 1, "echo": True}
    else:
        grammar = " ".join(f"<[{token}]>" for token in answer)
        body |= {"prompt": list(ids), "max_tokens": len(answer), "grammar": f"root ::= {grammar}"}
    scores = reported(chosen(post("/completions", body), facts.model))
    length = len(ids) + len(answer)
    if facts.scores == "echo":
        if len(scores) not in (length, length + 1):
            raise EndpointError(
                f"the endpoint echoed {len(scores)} log-probabilities for {length} tokens"
            )
        scores = scores[len(ids) : length]
    elif [choice.token_id for choice in scores if choice] != list(answer):
        raise EndpointError("the endpoint wrote other tokens than its grammar allows")
    scored = [choice for choice in scores if choice is not None]
    if len(scored) != len(answer):
        raise EndpointError("the endpoint left out the log-probability of a token")
    return scored


# -- what a server can do ----------------------------------------------------------------------


def find_out(client: Client, chat: bool = False) -> tuple[Facts, EndpointTokenizer | None]:
    """Find out what an endpoint can do, and how its model tokenizes texts.

    `chat`: messages will be sent. Raises EndpointError if it is not a usable API, and UserError if
    it lacks the model.
    """
    name, context = _model_at(client)
    facts = Facts(name, context=context)
    facts, texts, tokens = _with_completions(client, facts)
    tokenizer: EndpointTokenizer | None = None
    if facts.completes:
        facts = _with_samples(client, facts)
        facts, tokenizer = _with_scores(client, facts, texts, tokens)
    if chat or not facts.completes:
        facts = _with_chat(client, facts)
    if not facts.completes and not facts.chat:
        raise EndpointError(
            f"{client.address.url} has neither /completions nor /chat/completions: it is not an "
            "OpenAI-compatible API; write its address as in http://127.0.0.1:8000/v1#name"
        )
    return facts, tokenizer


def _model_at(client: Client) -> tuple[str, int | None]:
    """Return the model's name and context, as the server lists them."""
    name = client.address.model
    try:
        listed = client.get("/models")
    except RefusedError as error:
        if error.status not in _NO_PATH or not name:
            raise
        return name, None
    entries = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(entries, list):
        said = said_of(listed)
        raise EndpointError(
            f"{client.address.url}/models lists no models: "
            + (f"it says {said!r}" if said else "is it an API?")
        )
    models = [e for e in entries if isinstance(e, dict) and isinstance(e.get("id"), str)]
    names = [entry["id"] for entry in models]
    if not name and len(names) != 1:
        raise UserError(
            f"{client.address.url} has {len(names)} models; name one after the address, as in "
            f"#{names[0] if names else 'name'}" + (f": {', '.join(names[:10])}" if names else "")
        )
    name = name or names[0]
    if name not in names:
        raise UserError(
            f"{client.address.url} has no model {name}; it has {', '.join(names[:10]) or 'none'}"
        )
    entry = models[names.index(name)]
    meta = entry.get("meta")
    for number in (entry.get("max_model_len"), meta.get("n_ctx") if isinstance(meta, dict) else 0):
        if isinstance(number, int) and number > 0:
            return name, number
    return name, None


def _with_completions(
    client: Client, facts: Facts
) -> tuple[Facts, list[str], list[list[Choice | None]]]:
    """Send known prompts twice; also return texts and reported tokens."""
    body = {"model": facts.model, "max_tokens": _PROBE_TOKENS, "temperature": 0}
    ways: tuple[dict[str, Any], ...] = ({**PLAIN, "logprobs": 2}, PLAIN, {"logprobs": 2}, {})  # type: ignore[assignment]
    refusal: RefusedError | None = None
    for way in ways:
        try:
            first = client.post("/completions", {**body, **way, "prompt": _PROMPTS[0]})
        except RefusedError as error:
            if error.status in _NO_PATH:
                return facts, [], []
            if error.status not in _NO_PARAMETER:
                raise
            refusal = error
            continue
        break
    else:
        assert refusal is not None
        raise refusal
    rest = (*_PROMPTS[1:], *_PROMPTS)
    asked = [client.post("/completions", {**body, **way, "prompt": prompt}) for prompt in rest]
    answers = [first, *asked]
    choices = [chosen(answer, facts.model) for answer in answers]
    texts = [text_of(choice) for choice in choices]
    count = len(_PROMPTS)
    if not any(texts):
        raise EndpointError(f"{client.address.url} gives empty completions for known prompts")
    repeatable = texts[:count] == texts[count:]
    version = first.get("system_fingerprint")
    return (
        dataclasses.replace(
            facts,
            completes=True,
            plain="top_k" in way,
            repeatable=repeatable,
            version=version if isinstance(version, str) else "",
            written=digest_of(texts[:count]) if repeatable else "",
        ),
        texts[:count],
        [reported(choice) for choice in choices[:count]],
    )


def _with_samples(client: Client, facts: Facts) -> Facts:
    """Sample texts: a temperature must change them, and the same seed must give the same text."""
    body: dict[str, Any] = {"model": facts.model, "max_tokens": 2 * _PROBE_TOKENS}
    body |= {"prompt": _OPEN_PROMPT, "temperature": 1.0, "top_p": 1.0}
    body |= PLAIN if facts.plain else {}
    seeded = True
    texts: list[str] = []
    for seed in (1, 2, 3, 1):
        try:
            answer = client.post("/completions", {**body, **({"seed": seed} if seeded else {})})
        except RefusedError as error:
            if not seeded or error.status not in _NO_PARAMETER:
                return facts
            seeded = False
            answer = client.post("/completions", body)
        texts.append(text_of(chosen(answer, facts.model)))
    samples = len(set(texts[:3])) > 1
    return dataclasses.replace(
        facts, samples=samples, seeded=samples and seeded and texts[0] == texts[3]
    )


def _with_chat(client: Client, facts: Facts) -> Facts:
    body = {
        "model": facts.model,
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": _PROBE_TOKENS,
        "temperature": 0,
    }
    for way in (NO_THOUGHT, {}):
        try:
            answer = client.post("/chat/completions", {**body, **way}, attempts=1)
            message_of(chosen(answer, facts.model))
        except RefusedError as error:
            if error.status not in _NO_PARAMETER:
                return facts
        except EndpointError:
            return facts
        else:
            return dataclasses.replace(facts, chat=True, thought=bool(way))
    return facts


def _with_scores(
    client: Client, facts: Facts, texts: Sequence[str], tokens: Sequence[list[Choice | None]]
) -> tuple[Facts, EndpointTokenizer | None]:
    """Find a way to score given values that agrees with what generation reports."""
    tokenizer = tokenizer_of(client, facts.model, _PROMPTS[0])
    if tokenizer is None:
        why = "it has no /tokenize that returns the tokens of a text"
        return dataclasses.replace(facts, why=why), None
    if not all(tokens):
        why = "it does not report log-probabilities for its own texts"
        return dataclasses.replace(facts, why=why), None
    reasons = []
    for way in ("echo", "grammar"):
        tried = dataclasses.replace(facts, scores=way)
        try:
            fault = _score_fault(client, tried, tokenizer, texts, tokens)
        except EndpointError as error:
            fault = str(error)
        if not fault:
            return tried, tokenizer
        reasons.append(f"by {way}, {fault}")
    return dataclasses.replace(facts, why="; ".join(reasons)), None


def _score_fault(
    client: Client,
    facts: Facts,
    tokenizer: EndpointTokenizer,
    texts: Sequence[str],
    tokens: Sequence[list[Choice | None]],
) -> str:
    """Say what is wrong with a way of scoring, or nothing."""
    compared = 0
    for prompt, text, reported_tokens in zip(_PROMPTS, texts, tokens, strict=True):
        start, ids = tokenizer.ids(prompt), tokenizer.ids(prompt + text)
        reports = [choice for choice in reported_tokens if choice is not None]
        # The tokenizer may cut a text into other tokens than the model wrote.
        if ids[: len(start)] != start or len(ids) - len(start) != len(reports):
            continue
        answer = ids[len(start) :]
        scored = forced(client.post, facts, start, answer)
        off = [abs(a.log_prob - b.log_prob) for a, b in zip(scored, reports, strict=True)]
        if fmean(off) > _MEAN_OFF or max(off) > _MOST_OFF:
            return f"a text scores {max(off):.3g} nats other than its generation reported"
        if any(not choice.first and choice.margin < -_MOST_OFF for choice in scored):
            return "what greedy decoding wrote is not the first choice"
        unlikely = tokenizer.ids(prompt + _UNLIKELY)[len(start) :]
        total = math.fsum(c.log_prob for c in forced(client.post, facts, start, unlikely))
        if total > math.fsum(c.log_prob for c in scored) - _LEAST_APART:
            return "an unlikely text scores like a likely one"
        compared += 1
    return "" if compared else "no known text could be compared with its generation"
