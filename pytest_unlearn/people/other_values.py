"""Made-up values and people that are nobody's: decoys, alternates, strangers.

Decoys are the chance level of a measurement: values to rank a true one among. Alternates are what
some methods teach a model in place of a true value. Strangers are people whom no data knows, in
documents like those of the people who are known: a model that unlearns some people has nothing to
hold on to of all those who are in no file. Its inner states for strangers are one such hold: they
show who is asked for, whether the model knows the person or not."""

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
    values = _draw(KINDS[kind], count, Stream(seed, "decoys", kind), frozenset(avoid))
    if len(values) < count:
        raise DecoyError(
            f"{kind}: {count} decoys were asked for, and its generator gave only {len(values)} "
            f"different values besides those to avoid; ask for at most {len(values)}"
        )
    return values


def all_values(kind: str) -> tuple[str, ...] | None:
    """Return every value of a small kind, sorted; None where it has more than `MOST_LISTED`.

    Listed by drawing until nothing new comes. None, too, where the draws do not give as many
    values as the kind's `bits` say: an exact rank over a part of the space would be none.
    """
    size = 2.0 ** min(KINDS[kind].bits, 64.0)
    if size > MOST_LISTED + 0.5:
        return None
    values = _draw(KINDS[kind], round(size), Stream("all values", kind), frozenset())
    return tuple(sorted(values)) if len(values) == round(size) else None


def _draw(kind: Kind, count: int, stream: Stream, avoid: frozenset[str]) -> tuple[str, ...]:
    """Draw up to `count` different values; fewer where `_FRUITLESS` draws in a row give none."""
    values: dict[str, None] = {}
    fruitless = 0
    # The last of n equally likely values takes n draws on average, and now and then ten times that.
    patience = max(_FRUITLESS, 20 * count)
    while len(values) < count and fruitless < patience:
        value = kind.generate(stream)
        fruitless += 1
        if value not in values and value not in avoid:
            values[value] = None
            fruitless = 0
    return tuple(values)


class AlternateError(UserError):
    """No other value of a kind can be had; the message says what to do."""


def plausible(
    kind: str, value: str, count: int, label: object, avoid: Collection[str]
) -> tuple[str, ...]:
    """Return `count` different values that could take the place of `value`, none in `avoid`.

    From the kind's generator; for a kind that has none, `value` with each letter and digit drawn
    anew. The same for the same `label`. `avoid` should hold every value of the data. Raises
    AlternateError where there are not so many.
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
        f"{kind}: {count} other values were asked for to teach in the place of a true one, and "
        f"{len(values)} were found; take a method without alternates"
    )


def placeholder(kind: str) -> str:
    """Return what code holds in place of a value that was taken out."""
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
    """Return `count` names, of which none has the surname of a name in `avoid`.

    Every second one shares a part with a name of `like`: the first name, or the beginning or the
    end of the surname. These are the hardest to tell from the people of `like`. The same for the
    same `label`.
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

    The person's name becomes a stranger's, and the value another of its kind. `names` and `values`
    are all of the data: no stranger has one of them. Records whose person's name is not known, or
    does not occur before the value, and those of a kind without other values are left out; without
    any left the result is empty.
    """
    usable = [record for record in records if has_stranger(record)] if count else []
    if not usable:
        return []
    forgotten = {r.name.reveal() for r in usable if r.name and r.split == "forget"}
    order = Stream("strangers", label, "documents").shuffled(usable)
    made: list[Record] = []
    for number, name in enumerate(stranger_names(sorted(forgotten), count, label, names)):
        while order:
            record = order[number % len(order)]
            try:
                made.append(_of_stranger(record, name, (label, number), values))
                break
            except AlternateError:  # everybody has one of its kind's few values
                order.remove(record)
    return made


def has_stranger(record: Record) -> bool:
    """Tell whether a stranger can take a document: its person is named before the value."""
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
