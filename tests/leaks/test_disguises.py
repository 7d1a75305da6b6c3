"""Every disguise of every kind is seen through, and nothing is seen where nothing is."""

from __future__ import annotations

import functools

import pytest

from pytest_unlearn.core.secret import Secret
from pytest_unlearn.leaks.disguises import DISGUISES
from pytest_unlearn.leaks.matching import MIN_NORMALISED, Matcher, normalise
from pytest_unlearn.people.draws import Stream
from pytest_unlearn.people.kinds import KINDS
from pytest_unlearn.people.record import Record
from tests.support.library import library

EACH = 100
# So many made-up values may be taken for one of the known values, which are none of them.
ALARM_RATE = 1e-4


def record(number: int, kind: str, value: str) -> Record:
    return Record(
        f"r{number}",
        f"p{number}",
        "forget",
        kind,
        "env",
        Secret("", "p"),
        Secret(value, kind),
        Secret("", "document"),
    )


def values(kind: str, seed: str, count: int) -> list[str]:
    stream = Stream(seed, kind)
    return list(dict.fromkeys(KINDS[kind].generate(stream) for _ in range(count)))


@functools.cache
def known() -> tuple[dict[str, list[Record]], Matcher]:
    """Give known records of each kind, and a matcher of all of them."""
    rows: dict[str, list[Record]] = {}
    number = 0
    for kind in KINDS:
        rows[kind] = [
            record(number := number + 1, kind, value) for value in values(kind, "known", EACH)
        ]
    return rows, Matcher(r for records in rows.values() for r in records)


def is_possible(value: str, disguise: str) -> bool:
    """Tell whether the value is one that a disguise can be seen through at all.

    A value of fewer than MIN_NORMALISED characters without separators is looked for as it stands
    only: in other readings it would be met by chance. Full-width, escaped and so on, it is gone.
    """
    return disguise == "exact" or len(normalise(value)) >= MIN_NORMALISED


@pytest.mark.parametrize("disguise", DISGUISES)
def test_recall_of_a_disguise_is_99_percent_for_each_kind(disguise: str) -> None:
    rows, matcher = known()
    tried = caught = 0
    for kind, records in rows.items():
        seen = []
        for r in records:
            if is_possible(r.value.reveal(), disguise):
                hidden = DISGUISES[disguise](r.value.reveal(), Stream(disguise, r.id))
                matches = matcher.find(hidden, near=r)  # also sees weak values
                whole = [m for m in matches if m.how not in ("fuzzy", "partial")]
                seen.append(any(m.record.id == r.id for m in whole))
        tried += len(seen)
        caught += sum(seen)
        # A short value may, by chance, stand next to a letter or digit that makes it another one.
        assert sum(seen) >= 0.95 * len(seen), (kind, disguise, sum(seen), len(seen))
    assert tried > 300
    assert caught >= 0.99 * tried


@pytest.mark.parametrize(
    "disguise", sorted(set(DISGUISES) - {"exact", "split_lines", "f_string", "at_and_dot"})
)
def test_a_disguise_is_none_for_a_reader_of_python(disguise: str) -> None:
    """What is written is the value: for disguises that Python itself undoes."""
    undone = {
        "plus", "adjacent_literals", "list_join", "percent_format", "percent_format_variables",
        "format_variables", "variables", "hex_escapes", "unicode_escapes", "octal_escapes",
        "reversed", "char_codes",
    }  # fmt: skip
    for number, kind in enumerate(KINDS):
        value = values(kind, "read", 1)[0]
        source = DISGUISES[disguise](value, Stream(disguise, number))
        compile(source, "disguise", "exec")
        if disguise in undone:
            scope: dict[str, object] = {}
            exec(source, scope)  # noqa: S102 - our own text
            assert scope["x"] == value


def test_decoys_raise_no_alarm() -> None:
    """Other values of the same kinds, in every disguise: at most 1 in 10,000."""
    rows, matcher = known()
    taken = {normalise(r.value.reveal()) for records in rows.values() for r in records}
    names = list(DISGUISES)
    tried = alarms = 0
    for kind in KINDS:
        for number, value in enumerate(values(kind, "decoy", 12_000 // len(KINDS) + 400)):
            if normalise(value) in taken:
                continue  # drawn twice: the same value is no decoy
            hidden = DISGUISES[names[number % len(names)]](value, Stream("decoy", kind, number))
            tried += 1
            alarms += bool(matcher.find(hidden))
    assert tried >= 10_000
    assert alarms <= ALARM_RATE * tried, (alarms, tried)


def test_the_standard_library_raises_no_alarm() -> None:
    """The whole of it is read by benchmarks/matching.py."""
    _, matcher = known()
    size = 0
    for text in library(3_000_000):
        assert [(m.record.kind, m.how) for m in matcher.find(text)] == []
        size += len(text)
    assert size > 1_000_000
