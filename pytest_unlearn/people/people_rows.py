"""One line of a user's data file: a bare row or a person, checked and cut into records.

`records.schema.json` beside this module says the same in JSON Schema, but for what one field
demands of another.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.files import check_keys, checked_string, json_name
from pytest_unlearn.core.secret import Secret
from pytest_unlearn.people.carriers import CARRIERS


class RecordFileError(UserError):
    """A data file cannot be used; the message names file, line, field and remedy."""


# A shorter value would be found by chance in any text.
MIN_VALUE = 4
# Each record of a document keeps the whole of it, so what a line takes grows with attributes
# times text: enough for 64 attributes in a million characters, too little to fill the memory.
MAX_ROW_CHARACTERS = 64 * 2**20

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# These are printed, so they must be row names and no personal data.
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
_DOCUMENT = {"text": "the document in which the attributes stand"}
# The carrier of a document that does not name its own.
_CARRIER = "file"


@dataclass(frozen=True, slots=True)
class Row:
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


def rows_of(data: Mapping[str, Any], where: str, turn: int) -> list[Row]:
    """Return the rows of one line, at least one. Raises RecordFileError.

    A line with `attributes` or `documents` is a person, any other a bare row. A person gives a
    row for the first place of each attribute in each document, by attribute, then document.
    Places after the first are no rows, for what stands before them shows the value; neither is
    one at the very start of a document, where nothing is left to ask with. An attribute without
    a place gets a bundled carrier around the person's name: number `turn` plus its own position,
    all round. A document without a place is an error: its values may be written in another way
    there, and would stay unforgotten and unmeasured.

    `where` is FILE:LINE.
    """
    if "attributes" in data or "documents" in data:
        return _person(data, where, turn)
    return [_bare(data, where)]


def _bare(data: Mapping[str, Any], where: str) -> Row:
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
    return Row(
        kind=kind,
        carrier=sys.intern(data.get("carrier", _CARRIER)),
        before=Secret(data["prompt"], "prompt"),
        value=Secret(data["value"], kind),
        after=Secret(data.get("after", ""), "document"),
        name=Secret(data["name"], "name") if "name" in data else None,
        id=data.get("id"),
    )


def _check_text(text: str, key: str, field: str, where: str) -> None:
    """Check a string by the rules of `key`; `field` is how it is called in messages."""
    if not text.strip():
        raise RecordFileError(f'{where}: "{field}": the text is empty')
    pattern = _PRINTED.get(key)
    if pattern is not None and not pattern.fullmatch(text):
        raise RecordFileError(
            f'{where}: "{field}": it is printed in reports, so it must match {pattern.pattern}'
        )
    if key in ("value", "name") and len(text.strip()) < MIN_VALUE:
        remedy = "; give the full name or leave it out" if key == "name" else ""
        raise RecordFileError(
            f'{where}: "{field}": fewer than {MIN_VALUE} characters; so short a {key} is found by '
            f"chance in any text{remedy}"
        )


def _string(value: Any, key: str, field: str, where: str) -> str:
    text = checked_string(value, field, where, RecordFileError)
    _check_text(text, key, field, where)
    return text


def _person(data: Mapping[str, Any], where: str, turn: int) -> list[Row]:
    check_keys(data, where, RecordFileError, _PERSON, _PERSON_OPTIONAL)
    _string(data["owner"], "owner", "owner", where)
    name = Secret(_string(data["name"], "name", "name", where), "name") if "name" in data else None
    attributes = _attributes(data["attributes"], where)
    documents = _documents(data.get("documents", []), where)
    size = len(attributes) * sum(len(document.text.reveal()) for document in documents)
    if size > MAX_ROW_CHARACTERS:
        raise RecordFileError(
            f'{where}: "documents": {len(attributes)} attributes in so much text would take more '
            f"than {MAX_ROW_CHARACTERS} characters; write smaller documents, or a line for each"
        )
    rows: list[Row] = []
    used: set[str] = set()
    for position, attribute in enumerate(attributes):
        found = False
        for document in documents:
            row = _placed(attribute, document, name)
            if row is not None:
                found = True
                used.add(document.field)
                rows.append(row)
        if not found:
            rows.append(_carried(attribute, name, turn + position, where))
    for document in documents:
        if document.field not in used:
            raise RecordFileError(
                f'{where}: "{document.field}": no attribute stands in it, with text before it to '
                "ask with; write the values as they stand there, or leave the document out"
            )
    return rows


def _placed(attribute: _Attribute, document: _Document, name: Secret | None) -> Row | None:
    """Return the row of an attribute in a document, None if it does not stand in it."""
    text, value = document.text.reveal(), attribute.value.reveal()
    at = text.find(value)
    if at < 0 or not text[:at].strip():
        return None
    return Row(
        kind=attribute.kind,
        carrier=document.carrier,
        before=Secret(text[:at], "prompt"),
        value=attribute.value,
        after=Secret(text[at + len(value) :], "document"),
        name=name,
    )


def _carried(attribute: _Attribute, name: Secret | None, turn: int, where: str) -> Row:
    """Return the row of an attribute in a bundled carrier."""
    if name is None:
        raise RecordFileError(
            f'{where}: "{attribute.field}": the value stands in no document, with text before it '
            'to ask with; add such a document, or the person\'s "name" for a bundled carrier'
        )
    carrier = tuple(CARRIERS.values())[turn % len(CARRIERS)]
    before = carrier.before(name.reveal(), attribute.kind)
    if attribute.value.reveal() in before:
        raise RecordFileError(
            f'{where}: "{attribute.field}": the name or the kind shows the value already, so every '
            "model would seem to have forgotten it; leave the attribute out, or add a document"
        )
    return Row(
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
        return _Document(Secret(_string(item, "text", field, where), "document"), _CARRIER, field)
    if not isinstance(item, dict):
        raise RecordFileError(
            f'{where}: "{field}": {json_name(item)} is given; write a text, or '
            '{"text": ..., "carrier": ...}'
        )
    check_keys(item, where, RecordFileError, _DOCUMENT, ("carrier",), f"{field}.")
    text = _string(item["text"], "text", f"{field}.text", where)
    carrier = _CARRIER
    if "carrier" in item:
        carrier = sys.intern(_string(item["carrier"], "carrier", f"{field}.carrier", where))
    return _Document(Secret(text, "document"), carrier, f"{field}.text")
