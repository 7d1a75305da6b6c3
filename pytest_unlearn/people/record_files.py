"""Records from a user's JSON Lines files, plain or gzip.

A line is a bare row (`prompt`, `value`, `kind`, `owner`, and optionally `after`, `carrier`, `id`
and `name`), or a person (`owner`, `attributes`, and optionally `name` and `documents`).
`records.schema.json` says the same in JSON Schema, except for rules between fields.

Lines with the same `owner` in the files of one split are one person. The same owner in two splits
is two people, since a split is a property of a person. Records of several owners may have the same
value: in a completion it then counts as the first one's, in the order forget, retain, control, then
file, then line.
"""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.secret import Secret
from pytest_unlearn.core.text_files import check_keys, checked_string, json_name, read_objects
from pytest_unlearn.people.record import CARRIERS, SPLITS, Record, Split, weight


class RecordFileError(UserError):
    """A data file cannot be used; the message names file, line, field and remedy."""


# A shorter value would be found by chance in any text; `weight` gives its length.
MIN_VALUE = 4
# An armoured key of 16,384 bits has 12,800 characters. Anything longer is a document, and some
# searches for a value take time quadratic in its length.
MAX_VALUE = 16_000
# Ng and Bo are names, as are \u738b, \uc774\uc900 and \u091c\u0940; letters and vowel signs count.
MIN_NAME = 2
# Each record of a document keeps all of it, so a line's memory grows with attributes times text:
# enough for 64 attributes in a million characters, too little to fill the memory.
MAX_ROW_CHARACTERS = 64 * 2**20

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# These are printed, so they must be row names, not personal data.
_PRINTED = {
    "kind": _WORD,
    "carrier": _WORD,
    "id": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*"),
}
_BARE = {
    "prompt": 'the text before the value (or "attributes", in a row of a person)',
    "value": "the value to be forgotten",
    "kind": 'what the value is, like "email"',
    "owner": "whose value it is",
}
_BARE_OPTIONAL = ("after", "carrier", "id", "name")
_PERSON = {
    "owner": "whose data they are",
    "attributes": 'the values, like {"email": "..."} or [{"kind": "email", "value": "..."}]',
}
_PERSON_OPTIONAL = ("name", "documents")
_ATTRIBUTE = {"kind": 'what the value is, like "email"', "value": "the value to be forgotten"}
_DOCUMENT = {"text": "the document that contains the attributes"}
# The carrier of a document that does not name its own.
FILE = "file"
# The keys that a line needs, for a message about a line that is not an object; a person's keys are
# in the schema.
_KEYS = ("prompt", "value", "kind", "owner")
# The place of a line: split, file and number.
_Place = tuple[Split, Path, int]
_Places = dict[str, _Place]
_MEANING = {
    "forget": "to be forgotten",
    "retain": "to be kept",
}


def request_name(path: Path) -> str:
    """Return the name of the erasure request in a file: the file's name, without the endings."""
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


def load_files(
    paths: Mapping[Split, Sequence[Path]], requests: Sequence[str] = ()
) -> tuple[Record, ...]:
    """Read the records of all files: forget, then retain, then control, file by file.

    Ids must be unique over all files, and controls in no other split. An owner is printed as a
    number, because it is often a name or an address. A record without an id gets one made from its
    kind, split, line and, after the first file of a split, the file's number; the second and later
    records of a kind in a line also get their number. `requests`: the names of the erasure requests
    that the files to forget are. Raises RecordFileError.
    """
    ids: _Places = {}
    met: _Places = {}
    return tuple(
        replace(record, request=requests[number - 1]) if requests and split == "forget" else record
        for split in SPLITS
        for reader in [_Reader(split, ids, met)]
        for number, path in enumerate(paths.get(split, ()), start=1)
        for record in reader.read(read_objects(path, RecordFileError, _KEYS), path, number)
    )


def records_of_people(people: Mapping[Split, Iterable[Mapping[str, Any]]]) -> Iterator[Record]:
    """Yield the records of generated people, the same as from files with a line for each."""
    for split, lines in people.items():
        yield from _Reader(split, {}, {}).read(enumerate(lines, start=1), Path(f"<{split}>"), 1)


class _Reader:
    """Reads the lines of one split; remembers its owners, and where ids and values occurred."""

    def __init__(self, split: Split, ids: _Places, met: _Places) -> None:
        self._split = split
        self._ids = ids
        self._met = met
        self._owners: dict[str, str] = {}

    def read(
        self, lines: Iterable[tuple[int, Mapping[str, Any]]], path: Path, file_number: int
    ) -> Iterator[Record]:
        """Yield the records of a file's numbered lines. Raises RecordFileError, also for none."""
        group = self._split if file_number == 1 else f"{self._split}{file_number}"
        known = len(self._owners)
        turn = -1
        for turn, (number, data) in enumerate(lines):
            place = (self._split, path, number)
            count: dict[str, int] = {}
            for row in _rows_of(data, f"{path}:{number}", turn):
                count[row.kind] = count.get(row.kind, 0) + 1
                row_id = row.id or f"{row.kind}-{group}-{number:04d}"
                if count[row.kind] > 1:
                    row_id += f"-{count[row.kind]}"
                if self._ids.setdefault(row_id, place) is not place:
                    raise _id_error(row_id, self._ids[row_id], place)
                self._check_control(row, data["owner"], place)
                owner = self._owners.setdefault(
                    data["owner"], f"{group}-owner-{len(self._owners) - known + 1:03d}"
                )
                yield self._record(row, row_id, owner, Secret(data["owner"], "owner"))
        if turn < 0:
            raise RecordFileError(f"{path}: the file has no record; write one JSON object per line")

    def _check_control(self, row: _Row, owner: str, place: _Place) -> None:
        """Raise RecordFileError for a control whose record, or person and value, occurred before.

        A person is identified by name or by owner. Data that a model was trained on shows no chance
        level.
        """
        value = row.value.reveal()
        keys = {"prompt": row.before.reveal(), "owner": owner}
        if row.name is not None:
            keys["name"] = row.name.reveal()
        for what, text in keys.items():
            key = hashlib.sha256("\0".join((what, text, value)).encode()).hexdigest()
            first = self._met.setdefault(key, place)
            if self._split == "control" != first[0]:
                raise RecordFileError(
                    f"{place[1]}:{place[2]}: {first[1]}:{first[2]} has the same {what} and value, "
                    f"and is {_MEANING[first[0]]}; a control is somebody no model has seen. "
                    f"Remove one of them from --unlearn-{first[0]} or --unlearn-control"
                )

    def _record(self, row: _Row, row_id: str, owner: str, person: Secret) -> Record:
        return Record(
            id=row_id,
            owner=owner,
            split=self._split,
            kind=row.kind,
            carrier=row.carrier,
            before=row.before,
            value=row.value,
            after=row.after,
            name=row.name,
            person=person,
        )


def _id_error(row_id: str, first: _Place, place: _Place) -> RecordFileError:
    """Return the error for an id that occurred before, in the same file or in another."""
    where = f"{place[1]}:{place[2]}"
    if first[1] == place[1]:
        taken = f'"id": {row_id!r} is already the id of line {first[2]}'
    else:
        taken = f"id {row_id!r} occurs in two files; {first[1]}:{first[2]} has it already"
    return RecordFileError(
        f"{where}: {taken}; give each record its own id, or leave it out to have one made from "
        "kind, split and line"
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """What becomes a record: `before + value + after` is a document. `id` is the user's own."""

    kind: str
    carrier: str
    before: Secret
    value: Secret
    after: Secret
    name: Secret | None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class _Attribute:
    kind: str
    value: Secret
    field: str


@dataclass(frozen=True, slots=True)
class _Document:
    text: Secret
    carrier: str
    field: str


def _rows_of(data: Mapping[str, Any], where: str, turn: int) -> list[_Row]:
    """Return the rows of one line, at least one. Raises RecordFileError.

    A line with `attributes` or `documents` is a person, any other a bare row. A person gives a row
    for the first occurrence of each attribute in each document, by attribute, then document. Later
    occurrences give no rows, because the text before them shows the value; nor does one at the very
    start of a document, where there is no text to ask with. An attribute that occurs in no document
    gets a bundled carrier around the person's name: number `turn` plus its own position, in
    rotation. A document without any attribute is an error: its values may be written in another way
    there, and would be neither forgotten nor measured.

    `where` is FILE:LINE.
    """
    if "attributes" in data or "documents" in data:
        return _person(data, where, turn)
    return [_bare(data, where)]


def _bare(data: Mapping[str, Any], where: str) -> _Row:
    check_keys(data, where, RecordFileError, _BARE, _BARE_OPTIONAL)
    for key, value in data.items():
        text = checked_string(value, key, where, RecordFileError)
        if key != "after":
            _check_text(text, key, key, where)
    if data["value"] in data["prompt"]:
        raise RecordFileError(
            f'{where}: "prompt": it shows the value already; end it where the value starts, or '
            "every model would seem to have forgotten"
        )
    kind = sys.intern(data["kind"])  # here and below: many rows have few kinds and carriers
    return _Row(
        kind=kind,
        carrier=sys.intern(data.get("carrier", FILE)),
        before=Secret(data["prompt"], "prompt"),
        value=Secret(data["value"], kind),
        after=Secret(data.get("after", ""), "document"),
        name=Secret(data["name"], "name") if "name" in data else None,
        id=data.get("id"),
    )


def _check_text(text: str, key: str, field: str, where: str) -> None:
    """Check a string by the rules of `key`; `field` is what messages call it."""
    if not text.strip():
        raise RecordFileError(f'{where}: "{field}": the text is empty')
    pattern = _PRINTED.get(key)
    if pattern is not None and not pattern.fullmatch(text):
        raise RecordFileError(
            f'{where}: "{field}": it is printed in reports, so it must match {pattern.pattern}'
        )
    if key == "value" and weight(text.strip()) < MIN_VALUE:
        raise RecordFileError(
            f'{where}: "{field}": fewer than {MIN_VALUE} characters; such a short value occurs in '
            "any text by chance"
        )
    if key == "value" and len(text) > MAX_VALUE:
        raise RecordFileError(
            f'{where}: "{field}": {len(text):,} characters, and a value may have at most '
            f"{MAX_VALUE:,}; is it a document? Write the values in it one by one"
        )
    if key == "name" and weight("".join(filter(_is_of_word, text))) < MIN_NAME:
        raise RecordFileError(
            f'{where}: "{field}": fewer than {MIN_NAME} letters; give the full name or leave it out'
        )


def _is_of_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM"


def _string(value: Any, key: str, field: str, where: str) -> str:
    text = checked_string(value, field, where, RecordFileError)
    _check_text(text, key, field, where)
    return text


def _person(data: Mapping[str, Any], where: str, turn: int) -> list[_Row]:
    check_keys(data, where, RecordFileError, _PERSON, _PERSON_OPTIONAL)
    _string(data["owner"], "owner", "owner", where)
    name = Secret(_string(data["name"], "name", "name", where), "name") if "name" in data else None
    attributes = _attributes(data["attributes"], where)
    documents = _documents(data.get("documents", []), where)
    size = len(attributes) * sum(len(document.text.reveal()) for document in documents)
    if size > MAX_ROW_CHARACTERS:
        raise RecordFileError(
            f'{where}: "documents": {len(attributes)} attributes in this much text would take more '
            f"than {MAX_ROW_CHARACTERS} characters; write smaller documents, or a line for each"
        )
    rows: list[_Row] = []
    used: set[str] = set()
    for position, attribute in enumerate(attributes):
        placed = False
        for document in documents:
            row = _placed(attribute, document, name)
            if row is not None:
                placed = True
                used.add(document.field)
                rows.append(row)
        if not placed:
            _check_form(attribute, documents, where)
            rows.append(_carried(attribute, name, turn + position, where))
    for document in documents:
        if document.field not in used:
            raise RecordFileError(
                f'{where}: "{document.field}": it contains no attribute with text before it to '
                "ask with; write the values as they are there, or leave the document out"
            )
    return rows


def _placed(attribute: _Attribute, document: _Document, name: Secret | None) -> _Row | None:
    """Return the row of an attribute in a document, None if it does not occur in it."""
    text, value = document.text.reveal(), attribute.value.reveal()
    at = text.find(value)
    if at < 0 or not text[:at].strip():
        return None
    return _Row(
        kind=attribute.kind,
        carrier=document.carrier,
        before=Secret(text[:at], "prompt"),
        value=attribute.value,
        after=Secret(text[at + len(value) :], "document"),
        name=name,
    )


def _check_form(attribute: _Attribute, documents: Sequence[_Document], where: str) -> None:
    """Raise RecordFileError if a document has the value in another form of Unicode: what the model
    was trained on would not be asked for."""
    value = attribute.value.reveal()
    for document in documents:
        text = document.text.reveal()
        if value not in text and _bare_form(value) in _bare_form(text):
            raise RecordFileError(
                f'{where}: "{attribute.field}": "{document.field}" has it with other characters '
                "that look alike (accents apart from their letters, invisible marks); write it in "
                "both as the model was trained on it"
            )


def _bare_form(text: str) -> str:
    """Return a text with its accents on their letters, and without invisible marks."""
    if text.isascii():
        return text
    visible = "".join(c for c in text if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFC", visible)


def _carried(attribute: _Attribute, name: Secret | None, turn: int, where: str) -> _Row:
    """Return the row of an attribute in a bundled carrier."""
    if name is None:
        raise RecordFileError(
            f'{where}: "{attribute.field}": no document contains the value with text before it '
            'to ask with; add such a document, or the person\'s "name" for a bundled carrier'
        )
    carrier = tuple(CARRIERS.values())[turn % len(CARRIERS)]
    before = carrier.before(name.reveal(), attribute.kind)
    if attribute.value.reveal() in before:
        raise RecordFileError(
            f'{where}: "{attribute.field}": the name or the kind shows the value already, so every '
            "model would seem to have forgotten it; leave the attribute out, or add a document"
        )
    return _Row(
        kind=attribute.kind,
        carrier=carrier.name,
        before=Secret(before, "prompt"),
        value=attribute.value,
        after=Secret(carrier.after, "document"),
        name=name,
    )


def _attributes(value: Any, where: str) -> list[_Attribute]:
    if isinstance(value, dict):
        attributes = list(_attributes_by_kind(value, where))
    elif isinstance(value, list):
        attributes = [_attribute(item, f"attributes[{i}]", where) for i, item in enumerate(value)]
    else:
        raise RecordFileError(
            f'{where}: "attributes": {json_name(value)} is given; write {_PERSON["attributes"]}'
        )
    if not attributes:
        raise RecordFileError(f'{where}: "attributes": it is empty; add at least one attribute')
    first: dict[tuple[str, Secret], str] = {}
    for attribute in attributes:
        earlier = first.setdefault((attribute.kind, attribute.value), attribute.field)
        if earlier != attribute.field:
            raise RecordFileError(
                f'{where}: "{attribute.field}": kind and value are those of "{earlier}"; '
                "leave one out"
            )
    return attributes


def _attributes_by_kind(value: Mapping[str, Any], where: str) -> list[_Attribute]:
    attributes = []
    for position, (key, text) in enumerate(value.items(), start=1):
        if not _WORD.fullmatch(key):
            raise RecordFileError(
                f'{where}: "attributes": key {position} is the kind of a value and printed in '
                f"reports, so it must match {_WORD.pattern}"
            )
        kind = sys.intern(key)
        field = f"attributes.{kind}"
        if isinstance(text, list):
            raise RecordFileError(
                f'{where}: "{field}": a list is given; for more than one of a kind write '
                '"attributes" as [{"kind": ..., "value": ...}]'
            )
        attributes.append(
            _Attribute(kind, Secret(_string(text, "value", field, where), kind), field)
        )
    return attributes


def _attribute(item: Any, field: str, where: str) -> _Attribute:
    if not isinstance(item, dict):
        raise RecordFileError(
            f'{where}: "{field}": {json_name(item)} is given; write {{"kind": ..., "value": ...}}'
        )
    check_keys(item, where, RecordFileError, _ATTRIBUTE, inside=f"{field}.")
    kind = sys.intern(_string(item["kind"], "kind", f"{field}.kind", where))
    value = _string(item["value"], "value", f"{field}.value", where)
    return _Attribute(kind, Secret(value, kind), f"{field}.value")


def _documents(value: Any, where: str) -> Sequence[_Document]:
    if not isinstance(value, list):
        raise RecordFileError(
            f'{where}: "documents": {json_name(value)} is given; write a list of texts, or of '
            '{"text": ..., "carrier": ...}'
        )
    return [_document(item, f"documents[{i}]", where) for i, item in enumerate(value)]


def _document(item: Any, field: str, where: str) -> _Document:
    if isinstance(item, str):
        return _Document(Secret(_string(item, "text", field, where), "document"), FILE, field)
    if not isinstance(item, dict):
        raise RecordFileError(
            f'{where}: "{field}": {json_name(item)} is given; write a text, or '
            '{"text": ..., "carrier": ...}'
        )
    check_keys(item, where, RecordFileError, _DOCUMENT, ("carrier",), f"{field}.")
    text = _string(item["text"], "text", f"{field}.text", where)
    carrier = FILE
    if "carrier" in item:
        carrier = sys.intern(_string(item["carrier"], "carrier", f"{field}.carrier", where))
    return _Document(Secret(text, "document"), carrier, f"{field}.text")
