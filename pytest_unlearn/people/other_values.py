"""Made-up values and people that belong to nobody: decoys, alternates, strangers.

Decoys set the chance level of a measurement: the true value is ranked among them. Some methods
teach a model alternates in place of a true value. Strangers are people who are in no data, in
documents like those of known people. Methods keep a model's hidden states for strangers as they
were, because unlearning some people has nothing else to preserve the many people who are in no
file.
"""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Sequence

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.secret import Secret
from pytest_unlearn.people import draws
from pytest_unlearn.people.draws import Stream
from pytest_unlearn.people.kinds import KINDS, Kind
from pytest_unlearn.people.record import Record

# A kind with at most this many values is listed in full.
MOST_LISTED = 4096
# After this many draws in a row without a new value, a kind is taken to have no more.
_FRUITLESS = 2000
_ALPHABETS = (string.digits, string.ascii_lowercase, string.ascii_uppercase)


class DecoyError(UserError):
    """A kind has fewer values than the requested decoys."""


def decoys(
    kind: str, count: int, seed: object, avoid: Collection[str] = frozenset()
) -> tuple[str, ...]:
    """Return `count` different values of a kind, none of them in `avoid`.

    They come from the kind's own generator, so they have the same distribution as the true values;
    the same seed gives the same decoys. `avoid` should hold every value of the records. Raises
    DecoyError if the kind does not have that many, KeyError for an unknown kind.
    """
    values = _draw(KINDS[kind], count, Stream(seed, "decoys", kind), frozenset(avoid))
    if len(values) < count:
        raise DecoyError(
            f"{kind}: {count} decoys were asked for, and its generator gave only {len(values)} "
            f"different values that are not in the data; ask for at most {len(values)}"
        )
    return values


def all_values(kind: str) -> tuple[str, ...] | None:
    """Return every value of a small kind, sorted; None if it has more than `MOST_LISTED`.

    Values are listed by drawing until nothing new comes. Also None if the draws do not give as many
    values as the kind's `bits` say: a rank among some of the values would not be exact.
    """
    size = 2.0 ** min(KINDS[kind].bits, 64.0)
    if size > MOST_LISTED + 0.5:
        return None
    values = _draw(KINDS[kind], round(size), Stream("all values", kind), frozenset())
    return tuple(sorted(values)) if len(values) == round(size) else None


def _draw(kind: Kind, count: int, stream: Stream, avoid: frozenset[str]) -> tuple[str, ...]:
    """Draw up to `count` different values; fewer if `_FRUITLESS` draws in a row give none."""
    values: dict[str, None] = {}
    fruitless = 0
    # The last of n equally likely values takes n draws on average, and sometimes ten times that.
    patience = max(_FRUITLESS, 20 * count)
    while len(values) < count and fruitless < patience:
        value = kind.generate(stream)
        fruitless += 1
        if value not in values and value not in avoid:
            values[value] = None
            fruitless = 0
    return tuple(values)


class AlternateError(UserError):
    """A kind has no other values; the message says what to do."""


def plausible(
    kind: str, value: str, count: int, label: object, avoid: Collection[str]
) -> tuple[str, ...]:
    """Return `count` different values that could take the place of `value`, none in `avoid`.

    They come from the kind's generator; for a kind without one, they are `value` with new letters
    and digits. The same `label` gives the same values. `avoid` should hold every value of the data.
    Raises AlternateError if there are not that many.
    """
    stream = Stream("alternates", kind, label)
    values: dict[str, None] = {}
    for _ in range(_FRUITLESS):
        other = KINDS[kind].generate(stream) if kind in KINDS else _reshaped(value, stream)
        if other != value and other not in avoid:
            values[other] = None
        if len(values) == count:
            return tuple(values)
    raise AlternateError(
        f"{kind}: the method needs {count} other values to teach in place of a true one, and there "
        f"are {len(values)}; choose a method without alternates"
    )


def placeholder(kind: str) -> str:
    """Return what code contains in place of a removed value."""
    name = kind.replace("_", "-")
    return f"<redacted-{name}>" if re.fullmatch("[a-z-]+", name) else "<redacted>"


def _reshaped(value: str, stream: Stream) -> str:
    def other(character: str) -> str:
        for alphabet in _ALPHABETS:
            if character in alphabet:
                return stream.choice(alphabet)
        return character

    return "".join(map(other, value))


def stranger_names(
    like: Sequence[str], count: int, label: object, avoid: Collection[str]
) -> list[str]:
    """Return `count` names, none with the surname of a name in `avoid`.

    About half of them share a part with a name of `like`: the first name, or the beginning or the
    end of the surname. These are the hardest to tell from the people of `like`. The same `label`
    gives the same names.
    """
    stream = Stream("strangers", label)
    known = {name.split()[-1] for name in avoid if name.split()}
    names: list[str] = []
    while len(names) < count:
        first = stream.choice(draws.FIRST_NAMES)
        surname = stream.choice(draws.SURNAME_HEADS) + stream.choice(draws.SURNAME_TAILS)
        if like and stream.below(2):
            other = stream.choice(like).split() or [first]
            half = len(other[-1]) // 2
            part = stream.below(3)
            if part == 0:
                first = other[0]
            elif part == 1:
                surname = other[-1][:half] + stream.choice(draws.SURNAME_TAILS)
            else:
                surname = stream.choice(draws.SURNAME_HEADS) + other[-1][half:]
        if surname not in known:
            names.append(f"{first} {surname}")
    return names


def stranger_records(
    records: Sequence[Record],
    count: int,
    label: object,
    names: Collection[str],
    values: Collection[str],
) -> list[Record]:
    """Return `count` records of strangers, each in the document of one of `records` in turn.

    The person's name becomes a stranger's, and the value another one of its kind. `names` and
    `values` are all those in the data: no stranger has one of them. Records are left out if their
    person's name is not known or does not occur before the value, or if their kind has no other
    values; if none remain, the result is empty.
    """
    usable = [record for record in records if has_stranger(record)] if count else []
    if not usable:
        return []
    forgotten = {r.name.reveal() for r in usable if r.name and r.split == "forget"}
    order = Stream("strangers", label, "documents").shuffled(usable)
    strangers: list[Record] = []
    for number, name in enumerate(stranger_names(sorted(forgotten), count, label, names)):
        while order:
            record = order[number % len(order)]
            try:
                strangers.append(_of_stranger(record, name, (label, number), values))
                break
            except AlternateError:  # the kind's few values are all in use
                order.remove(record)
    return strangers


def has_stranger(record: Record) -> bool:
    """Return whether a stranger can take a document: its person is named before the value."""
    return record.name is not None and record.name.reveal() in record.before.reveal()


def _of_stranger(record: Record, name: str, label: object, values: Collection[str]) -> Record:
    assert record.name is not None
    own = record.name.reveal()
    (value,) = plausible(record.kind, record.value.reveal(), 1, label, values)
    return Record(
        id=record.id,
        owner="stranger",
        split="retain",
        kind=record.kind,
        carrier=record.carrier,
        before=Secret(record.before.reveal().replace(own, name), "prompt"),
        value=Secret(value, record.kind),
        after=Secret(record.after.reveal().replace(own, name), "document"),
        name=Secret(name, "name"),
    )
