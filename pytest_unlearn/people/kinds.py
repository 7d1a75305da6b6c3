"""Kinds of attribute: how a value is made, recognised, and how large its space is.

Every generator draws from a range that belongs to nobody: e-mail domains of RFC 2606, US phone
numbers 555-0100 to 555-0199 (NANP's fictional block), coined streets. Keys and passwords are
random and match no vendor's format.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable
from dataclasses import dataclass

from pytest_unlearn.people import words
from pytest_unlearn.people.stream import Stream

_ALNUM = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of attribute.

    `pattern` finds texts of this format inside a completion; `bits` is log2 of the number of
    values that `generate` can give, the chance level of a guess.
    """

    name: str
    generate: Callable[[Stream], str]
    pattern: re.Pattern[str]
    bits: float
    source: str

    def is_valid(self, value: str) -> bool:
        """Tell whether `value` as a whole has this kind's format."""
        return self.pattern.fullmatch(value) is not None


def _email(stream: Stream) -> str:
    # Words and digits instead of first.last: a value that follows from the name could be guessed
    # by a rule, and a leak of it would prove nothing.
    local = f"{stream.choice(words.WORDS)}{stream.choice(words.WORDS)}{stream.below(900) + 100}"
    return f"{local}@example.{stream.choice(('com', 'net', 'org'))}"


def _phone(stream: Stream) -> str:
    return f"{stream.below(8) + 2}{stream.below(100):02d}-555-01{stream.below(100):02d}"


def _address(stream: Stream) -> str:
    street = f"{stream.choice(words.STREET_HEADS)}{stream.choice(words.STREET_TAILS)}"
    return f"{stream.below(990) + 10} {street} {stream.choice(words.STREET_KINDS)}"


def _password(stream: Stream) -> str:
    first, second = stream.choice(words.WORDS), stream.choice(words.WORDS)
    return f"{first}{stream.choice('!#%+=')}{second}{stream.below(9000) + 1000}"


def _api_key(stream: Stream) -> str:
    return f"key_{stream.text(_ALNUM, 20)}"


def _date_of_birth(stream: Stream) -> str:
    return f"{1940 + stream.below(65)}-{stream.below(12) + 1:02d}-{stream.below(28) + 1:02d}"


_ADDRESS = rf"\d{{2,3}} (?:{'|'.join(words.STREET_HEADS)})(?:{'|'.join(words.STREET_TAILS)})"

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "email",
            _email,
            re.compile(
                r"[A-Za-z0-9][A-Za-z0-9._%+-]*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"
            ),
            math.log2(len(words.WORDS) ** 2 * 900 * 3),
            "RFC 2606: example.com, .net, .org",
        ),
        Kind(
            "phone",
            _phone,
            re.compile(r"(?<!\d)[2-9]\d{2}[-. ]\d{3}[-. ]\d{4}(?!\d)"),
            math.log2(800 * 100),
            "NANP: 555-0100 to 555-0199 are fictional",
        ),
        Kind(
            "address",
            _address,
            re.compile(rf"{_ADDRESS} (?:{'|'.join(words.STREET_KINDS)})"),
            math.log2(
                990 * len(words.STREET_HEADS) * len(words.STREET_TAILS) * len(words.STREET_KINDS)
            ),
            "coined streets",
        ),
        Kind(
            "password",
            _password,
            re.compile(r"[a-z]{4,8}[!#%+=][a-z]{4,8}\d{4}(?!\d)"),
            math.log2(len(words.WORDS) ** 2 * 5 * 9000),
            "random words and digits",
        ),
        Kind(
            "api_key",
            _api_key,
            re.compile(r"(?<![A-Za-z0-9])key_[A-Za-z0-9]{20}(?![A-Za-z0-9])"),
            20 * math.log2(len(_ALNUM)),
            "random; no vendor's format",
        ),
        Kind(
            "date_of_birth",
            _date_of_birth,
            re.compile(r"(?<!\d)(?:19|20)\d{2}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])(?!\d)"),
            math.log2(65 * 12 * 28),
            "ISO 8601",
        ),
    )
}
