"""Strangers: nobody of the data, in the documents of the data."""

from __future__ import annotations

from dataclasses import replace

from pytest_unlearn.core.secret import Secret
from pytest_unlearn.people.generate import tiny_records
from pytest_unlearn.people.other_values import stranger_names, stranger_records

RECORDS = [record for record in tiny_records() if record.split != "control"]
NAMES = frozenset(record.name.reveal() for record in tiny_records() if record.name)
VALUES = frozenset(record.value.reveal() for record in tiny_records())


def test_no_stranger_is_in_the_data() -> None:
    """Neither by surname nor by value; the name is in the document, and the person's own is not."""
    strangers = stranger_records(RECORDS, 400, 0, NAMES, VALUES)
    assert len(strangers) == 400
    surnames = {name.split()[-1] for name in NAMES}
    for stranger in strangers:
        assert stranger.name is not None
        name, document = stranger.name.reveal(), stranger.document.reveal()
        assert name.split()[-1] not in surnames
        assert name in stranger.before.reveal()
        assert stranger.value.reveal() not in VALUES
        assert not any(known in document for known in NAMES)


def test_documents_are_those_of_the_data() -> None:
    """Each carrier and kind comes about as often as in the records."""
    strangers = stranger_records(RECORDS, len(RECORDS), "label", NAMES, VALUES)
    for attribute in ("kind", "carrier"):
        assert sorted(getattr(r, attribute) for r in strangers) == sorted(
            getattr(r, attribute) for r in RECORDS
        )


def test_the_label_decides() -> None:
    """The same strangers for the same label, others for another."""
    first, again, other = (
        [r.document.reveal() for r in stranger_records(RECORDS, 20, label, NAMES, VALUES)]
        for label in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_half_of_the_names_resemble() -> None:
    """They share a first name, or the beginning or the end of the surname."""
    names = stranger_names(["Xaver Querzmund"], 400, 0, ["Xaver Querzmund"])
    alike = [
        name
        for name in names
        if name.startswith("Xaver ") or name.split()[1].startswith("Quer") or "zmund" in name
    ]
    assert 150 <= len(alike) <= 250
    assert all(not name.endswith("Querzmund") for name in names)


def test_names_that_are_not_there_cannot_be_replaced() -> None:
    """A record without a name, or with one that is not before the value, has no stranger."""
    unnamed = replace(RECORDS[0], name=None)
    elsewhere = replace(RECORDS[1], name=Secret("Somebody Else", "name"))
    assert stranger_records([unnamed, elsewhere], 5, 0, NAMES, VALUES) == []
    found = stranger_records([unnamed, elsewhere, RECORDS[2]], 5, 0, NAMES, VALUES)
    assert {record.carrier for record in found} == {RECORDS[2].carrier}


def test_a_kind_without_other_values_is_left_out() -> None:
    """Its documents go to nobody; the others make up for it."""
    named = replace(RECORDS[2], name=Secret("Somebody Else", "name"))
    few = replace(
        named,
        kind="slot",
        value=Secret("3", "slot"),
        before=Secret("Somebody Else slot=", "prompt"),
    )
    other = replace(named, before=Secret("Somebody Else = ", "prompt"))
    digits = frozenset(map(str, range(10)))
    found = stranger_records([few, other], 6, 0, ["Somebody Else"], digits)
    assert [record.kind for record in found] == [other.kind] * 6
    assert stranger_records([few], 6, 0, ["Somebody Else"], digits) == []
