"""Kinds of attribute: how a value is made, recognised, and how large its space is.

`KINDS` holds all of them by name: the six of the tiny model here, the rest in `personal_kinds` (a
person's papers) and `credential_kinds` (keys and tokens). The model was trained on values of the
six: a change to their generators, or to a word list that they draw from, makes the digest of the
bundled people another one.
"""

from __future__ import annotations

import math
import re
import string

from pytest_unlearn.people import check_digits, words
from pytest_unlearn.people.credential_kinds import VENDOR_KINDS
from pytest_unlearn.people.draws import Choices
from pytest_unlearn.people.personal_kinds import PERSONAL_KINDS, Kind, matches

__all__ = ["KINDS", "Kind"]

_ALNUM = string.ascii_letters + string.digits


def _email(choices: Choices) -> str:
    # Words and digits instead of first.last: a value that follows from the name could be guessed
    # by a rule, and a leak of it would prove nothing.
    local = f"{choices.choice(words.WORDS)}{choices.choice(words.WORDS)}{choices.below(900) + 100}"
    return f"{local}@example.{choices.choice(('com', 'net', 'org'))}"


def _phone(choices: Choices) -> str:
    return f"{choices.below(8) + 2}{choices.below(100):02d}-555-01{choices.below(100):02d}"


def _address(choices: Choices) -> str:
    street = f"{choices.choice(words.STREET_HEADS)}{choices.choice(words.STREET_TAILS)}"
    return f"{choices.below(990) + 10} {street} {choices.choice(words.STREET_KINDS)}"


def _password(choices: Choices) -> str:
    first, second = choices.choice(words.WORDS), choices.choice(words.WORDS)
    return f"{first}{choices.choice('!#%+=')}{second}{choices.below(9000) + 1000}"


def _api_key(choices: Choices) -> str:
    return f"key_{choices.text(_ALNUM, 20)}"


def _date_of_birth(choices: Choices) -> str:
    return f"{1940 + choices.below(65)}-{choices.below(12) + 1:02d}-{choices.below(28) + 1:02d}"


_ADDRESS = rf"\d{{2,3}} (?:{'|'.join(words.STREET_HEADS)})(?:{'|'.join(words.STREET_TAILS)})"

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "email",
            _email,
            re.compile(
                # RFC 5321: 64 characters at most before the @. Without a bound, a long word in a
                # completion would be read once from each of its letters.
                r"[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@"
                r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"
            ),
            math.log2(len(words.WORDS) ** 2 * 900 * 3),
            "RFC 2606: example.com, .net, .org",
            reserved=matches(r"[^@]*@example\.(?:com|net|org)"),
        ),
        Kind(
            "phone",
            _phone,
            re.compile(r"(?<!\d)[2-9]\d{2}[-. ]\d{3}[-. ]\d{4}(?!\d)"),
            math.log2(800 * 100),
            "NANP: 555-0100 to 555-0199 are fictional",
            near_misses=False,
            reserved=matches(r"[2-9]\d\d[-. ]555[-. ]01\d\d"),
        ),
        Kind(
            "address",
            _address,
            re.compile(rf"{_ADDRESS} (?:{'|'.join(words.STREET_KINDS)})"),
            math.log2(
                990 * len(words.STREET_HEADS) * len(words.STREET_TAILS) * len(words.STREET_KINDS)
            ),
            "coined streets",
            near_misses=False,
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
            public_prefix="key_",
        ),
        Kind(
            "date_of_birth",
            _date_of_birth,
            re.compile(r"(?<!\d)(?:19|20)\d{2}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])(?!\d)"),
            math.log2(65 * 12 * 28),
            "ISO 8601",
            near_misses=False,
            structure=check_digits.is_date,
        ),
        *PERSONAL_KINDS,
        *VENDOR_KINDS,
    )
}
