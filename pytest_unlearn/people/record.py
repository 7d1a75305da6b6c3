"""A record: one attribute value of one person in one carrier, and the digest of many."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pytest_unlearn.core.secret import Secret, joined

Split = Literal["forget", "retain", "control"]
SPLITS: tuple[Split, ...] = ("forget", "retain", "control")


@dataclass(frozen=True, slots=True)
class Record:
    """One attribute value of one person in one carrier.

    `before + value + after` is the document that a model may have been trained on. `owner` names
    the person by row, never by name; `name` is the person's name where it is known, for probes
    that ask in other words than the document's. `person` is what the user's file calls the person,
    where `owner` is only a number in the order of the lines.
    """

    id: str
    owner: str
    split: Split
    kind: str
    carrier: str
    before: Secret
    value: Secret
    after: Secret  # may hold the person's other attributes
    name: Secret | None = None
    person: Secret | None = None

    @property
    def document(self) -> Secret:
        """The whole snippet."""
        return joined((self.before, self.value, self.after), "document")


_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_HANGUL = re.compile("[\uac00-\ud7a3]")


def weight(value: str) -> int:
    """Return a value's length in letters of an alphabet: a Han character tells as much as three of
    them, a Hangul syllable as two."""
    if value.isascii():
        return len(value)
    return len(value) + 2 * len(_HAN.findall(value)) + len(_HANGUL.findall(value))


def by_owner(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Return the records of each person, in order."""
    people: dict[str, list[Record]] = {}
    for record in records:
        people.setdefault(record.owner, []).append(record)
    return people


def records_digest(records: Iterable[Record]) -> str:
    """Return a SHA-256 over all documents, owners and splits, in order."""
    rows = [
        [
            r.id,
            r.owner,
            r.split,
            r.kind,
            r.carrier,
            r.before.reveal(),
            r.value.reveal(),
            r.after.reveal(),
        ]
        for r in records
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
