"""Strangers: people whom no data knows, in documents like those of the people who are known.

A model that unlearns some people has nothing to hold on to of all those who are in no file. Its
inner states for strangers are one: they carry who is asked for, whether the model knows the person
or not, and there are as many strangers as are wanted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pytest_unlearn.core.secret import Secret
from pytest_unlearn.people import words
from pytest_unlearn.people.draws import Stream
from pytest_unlearn.people.other_values import AlternateError, plausible
from pytest_unlearn.people.record import Record


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
        first = stream.choice(words.FIRST_NAMES)
        surname = stream.choice(words.SURNAME_HEADS) + stream.choice(words.SURNAME_TAILS)
        if like and stream.below(2):
            other = stream.choice(like).split() or [first]
            half = len(other[-1]) // 2
            part = stream.below(3)
            if part == 0:
                first = other[0]
            elif part == 1:
                surname = other[-1][:half] + stream.choice(words.SURNAME_TAILS)
            else:
                surname = stream.choice(words.SURNAME_HEADS) + other[-1][half:]
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
