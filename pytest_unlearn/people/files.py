"""Records from a user's JSON Lines files.

A line is an object with `prompt` (what stands before the value), `value`, `kind` and `owner`, and
optionally `after` (what follows the value in the document), `carrier` and `id`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pytest_unlearn.jsonl import read_objects, string_field
from pytest_unlearn.people.manifest import Record, Split
from pytest_unlearn.people.secret import Secret

_REQUIRED = {
    "prompt": "the text before the value",
    "value": "the value to be forgotten",
    "kind": 'what the value is, like "email"',
    "owner": "whose value it is",
}
_OPTIONAL = ("after", "carrier", "id")
# These are printed, so they must be row names and no personal data.
_PRINTED = {
    "kind": re.compile(r"[A-Za-z][A-Za-z0-9_]*"),
    "carrier": re.compile(r"[A-Za-z][A-Za-z0-9_]*"),
    "id": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*"),
}
# A shorter value would be found by chance in any text.
_MIN_VALUE = 4


class RecordFileError(ValueError):
    """A data file cannot be used; the message names file, line, field and remedy."""


def load_records(path: Path, split: Split, file_number: int = 1) -> tuple[Record, ...]:
    """Read the records of one split, in file order.

    An owner is printed as a number, because it is often a name or an address. A record without an
    id gets one from its kind, split, line and, after the first file of a split, the file's number.
    Raises RecordFileError.
    """
    group = split if file_number == 1 else f"{split}{file_number}"
    records: list[Record] = []
    first_line: dict[str, int] = {}
    owners: dict[str, str] = {}
    for number, data in read_objects(path, RecordFileError, _REQUIRED, _OPTIONAL):
        where = f"{path}:{number}"
        _check(data, where)
        row_id = data.get("id", f"{data['kind']}-{group}-{number:04d}")
        if row_id in first_line:
            raise RecordFileError(
                f'{where}: "id": {row_id!r} is already the id of line {first_line[row_id]}; '
                "give each record its own id"
            )
        first_line[row_id] = number
        records.append(
            Record(
                id=row_id,
                owner=owners.setdefault(data["owner"], f"{group}-owner-{len(owners) + 1:03d}"),
                split=split,
                kind=data["kind"],
                carrier=data.get("carrier", "file"),
                before=Secret(data["prompt"], "prompt"),
                value=Secret(data["value"], data["kind"]),
                after=data.get("after", ""),
            )
        )
    if not records:
        raise RecordFileError(f"{path}: the file has no record; write one JSON object per line")
    return tuple(records)


def _check(data: dict[str, Any], where: str) -> None:
    for key in data:
        text = string_field(data, key, where, RecordFileError)
        if key != "after" and not text.strip():
            raise RecordFileError(f'{where}: "{key}": the text is empty')
        pattern = _PRINTED.get(key)
        if pattern is not None and not pattern.fullmatch(text):
            raise RecordFileError(
                f'{where}: "{key}": it is printed in reports, so it must match {pattern.pattern}'
            )
    if len(data["value"].strip()) < _MIN_VALUE:
        raise RecordFileError(
            f'{where}: "value": fewer than {_MIN_VALUE} characters; so short a value is found by '
            "chance in any text"
        )
    if data["value"] in data["prompt"]:
        raise RecordFileError(
            f'{where}: "prompt": it shows the value already; end it where the value starts, or '
            "every model would seem to have forgotten"
        )
