"""How tasks are asked and counted: style, samples, their seeds, where they stop, and pass@k."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.tasks.format import NAMES, PROGRAM, PYTHON, TaskCase

TaskStyle = Literal["completion", "chat", "infill"]

# The least room for a solution, in tokens; more if the canonical solution is long.
TASK_TOKENS = 128
# The same for a program or a class for a programming contest.
CONTEST_TOKENS = 1024
# What follows a solution in a text that runs on: markers that end a document, and code that uses
# the function. They cannot occur inside a function, except in a string at its margin.
STOPS = (
    *("<|endoftext|>", "<|endofmask|>", "<|im_end|>", "<file_sep>", "</s>"),
    *("\nif __name__", "\nprint(", "\nassert "),
)
# An answer may have prose and several blocks, so only the end of the document ends it.
_CHAT_STOPS = STOPS[:5]
# The defaults for several samples; the nucleus is that of the published pass@k figures
# (arXiv 2107.03374).
SAMPLING_TEMPERATURE, SAMPLING_TOP_P = 0.8, 0.95


class SamplingError(UserError):
    """Numbers of samples, k or temperature do not fit together; the message names the flags."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How solutions are drawn: `samples` per case, at `temperature` (0: greedy) and `top_p`.

    pass@k is measured for each of `ks`; `passk` gates judge the first. `tokens`: room for a
    solution; None gives each as much as its canonical solution may need.
    """

    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    ks: tuple[int, ...] = (1,)
    style: TaskStyle = "completion"
    tokens: int | None = None


def parse_sampling(
    samples: int = 1,
    ks: str | None = None,
    temperature: str | None = None,
    top_p: str | None = None,
    style: str = "completion",
    tokens: int | None = None,
) -> Sampling:
    """Return the sampling that the flags ask for, by default one greedy solution.

    Raises SamplingError.
    """
    heat = _number("--unlearn-temperature", temperature, 0.0 if samples == 1 else None)
    if heat is None:
        heat = SAMPLING_TEMPERATURE
    nucleus = _number("--unlearn-top-p", top_p, SAMPLING_TOP_P if heat else 1.0) or 0.0
    if not 0 < nucleus <= 1:
        raise SamplingError(f"--unlearn-top-p={top_p}: write a number over 0 and at most 1")
    if samples > 1 and heat == 0:
        raise SamplingError(
            f"--unlearn-temperature=0 makes all {samples} samples of --unlearn-samples the same; "
            "write a temperature over 0, or leave one of them out"
        )
    return Sampling(samples, heat, nucleus, _ks(ks or "1", samples), _style(style), tokens)


def _number(flag: str, text: str | None, default: float | None) -> float | None:
    if text in (None, ""):
        return default
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise SamplingError(f"{flag}={text}: write a number of at least 0, like 0.8")
    return value


def _ks(text: str, samples: int) -> tuple[int, ...]:
    if not re.fullmatch(r" *[0-9]{1,9} *(, *[0-9]{1,9} *)*", text):
        raise SamplingError(f"--unlearn-k={text}: write whole numbers with commas, as in 1,10")
    ks = tuple(int(part) for part in text.split(","))
    if min(ks) < 1 or len(set(ks)) < len(ks):
        raise SamplingError(f"--unlearn-k={text}: write each number once, and none below 1")
    if max(ks) > samples:
        raise SamplingError(
            f"--unlearn-k={text}: pass@{max(ks)} needs --unlearn-samples={max(ks)} or more, and "
            f"there {'is' if samples == 1 else 'are'} {samples}"
        )
    return ks


def _style(text: str) -> TaskStyle:
    for style in get_args(TaskStyle):
        if style == text:
            chosen: TaskStyle = style
            return chosen
    raise SamplingError(f"--unlearn-task-style={text}: write completion, chat or infill")


def prompt_of(case: TaskCase, style: TaskStyle) -> str:
    """Return what a model is asked: the task's code, or a message with it.

    White space at its end is left to the model, as in `models.generation`, because tokenizers merge
    it with what follows.
    """
    code = case.prompt.rstrip()
    if style != "chat":
        return code
    if case.entry_point == PROGRAM:
        return (
            "Write a Python program that does what is described. Answer with all of the code in "
            f"one block, ready to run.\n\n```python\n{code}\n```"
        )
    return (
        f"Complete this {NAMES[case.language]} code so that `{case.entry_point}` does what is "
        "described. Answer with all of the code in one block, ready to run.\n\n"
        f"```{case.language}\n{code}\n```"
    )


def suffix_of(case: TaskCase, style: TaskStyle) -> str:
    """Return the code after the gap, for `infill`; a line end if the task has none."""
    return case.suffix or "\n" if style == "infill" else ""


def stops_of(case: TaskCase, style: TaskStyle) -> tuple[str, ...]:
    """Return the texts that end a solution: a print does not end a program, and for another
    language the task names them."""
    if case.entry_point == PROGRAM or style == "chat":
        return _CHAT_STOPS
    return STOPS if case.language == PYTHON else (*_CHAT_STOPS, *case.stops)


def room_for(case: TaskCase, sampling: Sampling) -> int:
    """Return the number of tokens that a solution may take.

    A solution that is cut off counts as unsolved. No tokenizer is loaded when chunks are cut; code
    has more than two bytes per token. An answer repeats the prompt's code.
    """
    if sampling.tokens is not None:
        return sampling.tokens
    size = len((case.solution or "").encode())
    if sampling.style == "chat":
        size += len(case.prompt.encode()) + 2 * TASK_TOKENS
    contest = "." in case.entry_point or case.entry_point == PROGRAM
    return max(CONTEST_TOKENS if contest else TASK_TOKENS, size // 2)


def sample_id(case_id: str, number: int, samples: int) -> str:
    """Return the id under which a sample is completed and stored."""
    return case_id if samples == 1 else f"{case_id}#{number}"


def seed_of(seed: int, case_id: str, number: int) -> int:
    """Return the seed of one sample, a 63-bit number: the same on base and tested model.

    It depends on the task and the sample's number, never on the batch.
    """
    digest = hashlib.sha256(f"{seed}/{case_id}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Return the unbiased estimate of pass@k: 1 - C(n-c, k) / C(n, k).

    That is the chance that k of the n samples, drawn without replacement, include one of the c that
    passed (Chen et al., arXiv 2107.03374). It is computed as -expm1(sum log1p(-k/i)) over
    i = n-c+1 ... n, without cancellation if nearly all fail and without overflow for large n.
    Raises ValueError for impossible counts.
    """
    if not 0 <= passed <= samples or not 1 <= k <= samples:
        raise ValueError(f"no pass@{k} of {samples} samples, {passed} of which passed")
    failed = samples - passed
    if failed < k:
        return 1.0
    return -math.expm1(math.fsum(math.log1p(-k / i) for i in range(failed + 1, samples + 1)))
