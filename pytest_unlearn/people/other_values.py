"""Values of a kind that are nobody's: decoys to rank a true one among, alternates to teach instead.

Decoys are the chance level of a measurement. Alternates are what some methods teach a model to say
in the place of a true value.
"""

from __future__ import annotations

import re
import string
from collections.abc import Collection

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.people.draws import Stream
from pytest_unlearn.people.kinds import KINDS, Kind

# A kind of at most so many values is listed in full.
MOST_LISTED = 4096
# So many draws in a row without a new value mean that a kind has no more of them.
_FRUITLESS = 2000
_ALPHABETS = (string.digits, string.ascii_lowercase, string.ascii_uppercase)


class DecoyError(UserError):
    """A kind has fewer values than decoys were asked for."""


def decoys(
    kind: str, count: int, seed: object, avoid: Collection[str] = frozenset()
) -> tuple[str, ...]:
    """Return `count` different values of a kind, none of them in `avoid`.

    They come from the kind's own generator, so that they are spread as the true values are; the
    same for the same seed. `avoid` should hold every value of the records. Raises DecoyError where
    the kind has not so many, KeyError for a kind that is not known.
    """
    found = _draw(KINDS[kind], count, Stream(seed, "decoys", kind), frozenset(avoid))
    if len(found) < count:
        raise DecoyError(
            f"{kind}: {count} decoys were asked for, and its generator gave only {len(found)} "
            f"different values besides those to avoid; ask for at most {len(found)}"
        )
    return found


def all_values(kind: str) -> tuple[str, ...] | None:
    """Return every value of a small kind, sorted; None where it has more than `MOST_LISTED`.

    Listed by drawing until nothing new comes. None, too, where the draws do not give as many
    values as the kind's `bits` say: an exact rank over a part of the space would be none.
    """
    size = 2.0 ** min(KINDS[kind].bits, 64.0)
    if size > MOST_LISTED + 0.5:
        return None
    found = _draw(KINDS[kind], round(size), Stream("all values", kind), frozenset())
    return tuple(sorted(found)) if len(found) == round(size) else None


def _draw(kind: Kind, count: int, stream: Stream, avoid: frozenset[str]) -> tuple[str, ...]:
    """Draw up to `count` different values; fewer where `_FRUITLESS` draws in a row give none."""
    found: dict[str, None] = {}
    fruitless = 0
    # The last of n equally likely values takes n draws on average, and now and then ten times that.
    patience = max(_FRUITLESS, 20 * count)
    while len(found) < count and fruitless < patience:
        value = kind.generate(stream)
        fruitless += 1
        if value not in found and value not in avoid:
            found[value] = None
            fruitless = 0
    return tuple(found)


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
    for _ in range(_FRUITLESS):
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
