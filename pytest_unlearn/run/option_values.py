"""How single options are parsed, and the defaults that cost an import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.option import Given, Option, one_of, paths, whole_number

if TYPE_CHECKING:
    from pytest_unlearn.gates.judging import Judging
    from pytest_unlearn.models.texts import DecodingScheme
    from pytest_unlearn.people.generate import PeopleOptions
    from pytest_unlearn.run.erasure_requests import Requests
    from pytest_unlearn.tasks.task_prompts import Sampling
    from pytest_unlearn.unlearning.method import PlantOptions
    from pytest_unlearn.unlearning.methods import MethodChoice

# A key in the environment shows up in no process list.
FINGERPRINT_KEY_VARIABLE = "UNLEARN_FINGERPRINT_KEY"
_SHORTEST_KEY = 16
# The share of retained people and tasks that unlearning never sees.
DEFAULT_SHARE = 0.5
# How solutions are sampled; `session.options` reads these together.
SAMPLING_OPTIONS = (
    Option("unlearn_k", "K,...", "measure pass@k for each k; gates judge the first (default: 1)"),
    Option("unlearn_samples", "N", "solutions sampled for each task (default: 1, greedy)"),
    Option(
        "unlearn_temperature",
        "T",
        "temperature of the samples (default: 0, greedy, for one sample; 0.8 for more)",
    ),
    Option(
        "unlearn_top_p",
        "P",
        "sample from the likeliest tokens that have this share of the probability (default: 0.95 "
        "at a temperature above 0)",
    ),
    Option(
        "unlearn_task_style",
        "STYLE",
        "how tasks are prompted: completion, chat (through the chat template) or infill "
        "(default: the preset's style, or completion)",
    ),
    Option(
        "unlearn_task_tokens",
        "N",
        "maximum number of tokens of a solution (default: 128, or what the canonical solution "
        "needs)",
    ),
)

CONFIRM = Option(
    "unlearn_confirm",
    "SEED",
    "forget other people, drawn from the retained ones, and hold out others, to confirm a method "
    "that was chosen on the first ones",
    read=whole_number(least=0),
)
KEPT_CODE = Option(
    "unlearn_keep_code",
    "FILE",
    "your own source code for unlearning to keep, besides the bundled tasks; repeatable",
    many=True,
    read=paths,
)


def leaks_fail(given: Given) -> bool:
    return one_of("record", "fail")(given) == "fail"


def device(given: Given) -> str:
    value = str(given.value)
    kind, colon, index = value.partition(":")
    known = value in ("auto", "cpu", "cuda", "map") or (
        kind == "cuda" and colon and index.isdigit()
    )
    if not known:
        raise UserError(f"{given.flag}={value}: write auto, cpu, cuda, cuda:N or map")
    return value


def engine(given: Given) -> str:
    from pytest_unlearn.models.engine import engine_named

    engine_named(str(given.value))
    return str(given.value)


def fingerprint_key(given: Given) -> str:
    key = str(given.value)
    if len(key) < _SHORTEST_KEY:  # the message does not repeat it
        raise UserError(
            f"{given.flag}: write {_SHORTEST_KEY} characters or more; anyone who guesses "
            "the key can find short values (phone numbers) by their fingerprints"
        )
    return key


def share(given: Given) -> float:
    try:
        share = float(given.value)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise UserError(
            f"{given.flag}={given.value}: write a share of at least 0 and under 1, as in "
            f"{DEFAULT_SHARE}"
        )
    return share


def task_timeout(given: Given) -> float:
    from pytest_unlearn.tasks.format import MAX_TIMEOUT_S

    try:
        seconds = float(given.value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise UserError(
            f"{given.flag}={given.value}: write a number of seconds over 0 and at most "
            f"{MAX_TIMEOUT_S:g}, as in 10"
        )
    return seconds


def planting(given: Given) -> PlantOptions:
    from pytest_unlearn.unlearning.method import parse_planting

    return parse_planting(given.value)


def requests(given: Given) -> Requests:
    from pytest_unlearn.run.erasure_requests import read_requests

    return read_requests(given)


def people(given: Given) -> PeopleOptions:
    from pytest_unlearn.people.generate import parse_people

    return parse_people(str(given.value))


def families(given: Given) -> tuple[str, ...]:
    from pytest_unlearn.probes.families import parse_families

    return parse_families(given.value)


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` (from 1) of `count`."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `3/8`. Raises UserError."""
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal()):
            raise UserError(f"--unlearn-shard={text}: write which part of how many, as in 3/8")
        shard = cls(int(number), int(count))
        if not 1 <= shard.number <= shard.count:
            raise UserError(
                f"--unlearn-shard={text}: parts are numbered from 1 to {shard.count}; write "
                f"--unlearn-shard=1/{max(1, shard.count)} and so on"
            )
        return shard


def shard(given: Given) -> Shard:
    return Shard.parse(str(given.value))


def attacks(given: Given) -> tuple[str, ...]:
    from pytest_unlearn.attacks.attack import parse_attacks

    return parse_attacks(str(given.value))


def decoding(given: Given) -> DecodingScheme:
    from pytest_unlearn.models.texts import parse_scheme

    return parse_scheme(given.value)


# -- defaults that cost an import ---------------------------------------------------------------


def default_method() -> MethodChoice:
    from pytest_unlearn.unlearning.methods import DEFAULT, parse_method

    return parse_method(DEFAULT)


def default_decoding() -> DecodingScheme:
    from pytest_unlearn.models.texts import DecodingScheme

    return DecodingScheme()


def default_membership() -> tuple[str, ...]:
    from pytest_unlearn.leaks.membership import parse_attacks

    return parse_attacks("", has_reference=False)


def default_sampling() -> Sampling:
    from pytest_unlearn.tasks.task_prompts import Sampling

    return Sampling()


def default_judging() -> Judging:
    from pytest_unlearn.gates.judging import read_judging

    return read_judging(lambda name: None)
