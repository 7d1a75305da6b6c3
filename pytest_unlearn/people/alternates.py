"""Other values in the place of a true one, for methods that teach a model what to say instead."""

from __future__ import annotations

import re
import string
from collections.abc import Collection

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.people.kinds import KINDS
from pytest_unlearn.people.stream import Stream

# So many draws without a new value mean that there is none.
_MOST_DRAWS = 2000
_ALPHABETS = (string.digits, string.ascii_lowercase, string.ascii_uppercase)


class AlternateError(UserError):
    """No other value of a kind can be had; the message says what to do."""


def plausible(
    kind: str, value: str, count: int, label: object, avoid: Collection[str]
) -> tuple[str, ...]:
    """Return `count` different values that could stand in the place of `value`, none in `avoid`.

    From the kind's generator; for a kind that has none, `value` with each letter and digit drawn
    anew. The same for the same `label`. `avoid` should hold every value of the data. Raises
    AlternateError where there are not so many.
    """
    stream = Stream("alternates", kind, label)
    found: dict[str, None] = {}
    for _ in range(_MOST_DRAWS):
        other = KINDS[kind].generate(stream) if kind in KINDS else _reshaped(value, stream)
        if other != value and other not in avoid:
            found[other] = None
        if len(found) == count:
            return tuple(found)
    raise AlternateError(
        f"{kind}: {count} other values were asked for to teach in the place of a true one, and "
        f"{len(found)} were found; take a method without alternates"
    )


def placeholder(kind: str) -> str:
    """Return what stands in code in the place of a value that was taken out."""
    name = kind.replace("_", "-")
    return f"<redacted-{name}>" if re.fullmatch("[a-z-]+", name) else "<redacted>"


def _reshaped(value: str, stream: Stream) -> str:
    def other(character: str) -> str:
        for alphabet in _ALPHABETS:
            if character in alphabet:
                return stream.choice(alphabet)
        return character

    return "".join(map(other, value))
