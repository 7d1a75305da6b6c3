"""Records from a user's JSON Lines files, plain or gzip.

A line is a bare row (`prompt`, `value`, `kind`, `owner`, and optionally `after`, `carrier`, `id`
and `name`), or a person (`owner`, `attributes`, and optionally `name` and `documents`); see
`people_rows.py` and `records.schema.json`.

A person is who has the same `owner` within the files of one split. In two splits the same owner
is two people, since a split is a property of a person. Records of several owners may have the
same value: met in a completion, it is the first one's, in the order forget, retain, control, then
file, then line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pytest_unlearn.core.files import read_any_objects
from pytest_unlearn.core.secret import Secret
from pytest_unlearn.people.manifest import SPLITS, Record, Split
from pytest_unlearn.people.people_rows import RecordFileError, Row, rows_of

__all__ = ["RecordFileError", "load_files", "load_records", "record_schema"]

# What a line that is no object should have been; a person's keys are in the schema.
_KEYS = ("prompt", "value", "kind", "owner")
# Where each id was met: file and line.
_Ids = dict[str, tuple[Path, int]]


def record_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of one line of a data file."""
    text = files(__package__).joinpath("records.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def load_records(path: Path, split: Split, file_number: int = 1) -> tuple[Record, ...]:
    """Read the records of one file, in the order of its lines.

    An owner is printed as a number, because it is often a name or an address. A record without an
    id gets one from its kind, split, line and, after the first file of a split, the file's number;
    the second and later ones of a kind in a line also get their number.
    Raises RecordFileError.
    """
    return tuple(_Reader(split, {}).read(path, file_number))


def load_files(paths: Mapping[Split, Sequence[Path]]) -> tuple[Record, ...]:
    """Read the records of all files: forget, then retain, then control, file by file.

    Ids are unique over all of them; otherwise as `load_records`. Raises RecordFileError.
    """
    ids: _Ids = {}
    return tuple(
        record
        for split in SPLITS
        for reader in [_Reader(split, ids)]
        for number, path in enumerate(paths.get(split, ()), start=1)
        for record in reader.read(path, number)
    )


class _Reader:
    """Reads the files of one split; keeps who its owners are, and where each id was met."""

    def __init__(self, split: Split, ids: _Ids) -> None:
        self._split = split
        self._ids = ids
        self._owners: dict[str, str] = {}

    def read(self, path: Path, file_number: int) -> Iterator[Record]:
        """Yield the records of a file. Raises RecordFileError, for a file without any, too."""
        group = self._split if file_number == 1 else f"{self._split}{file_number}"
        known = len(self._owners)
        turn = -1
        for turn, (number, data) in enumerate(read_any_objects(path, RecordFileError, _KEYS)):
            place = (path, number)
            count: dict[str, int] = {}
            for row in rows_of(data, f"{path}:{number}", turn):
                count[row.kind] = count.get(row.kind, 0) + 1
                row_id = row.id or f"{row.kind}-{group}-{number:04d}"
                if count[row.kind] > 1:
                    row_id += f"-{count[row.kind]}"
                if self._ids.setdefault(row_id, place) is not place:
                    raise _id_error(row_id, self._ids[row_id], place)
                owner = self._owners.setdefault(
                    data["owner"], f"{group}-owner-{len(self._owners) - known + 1:03d}"
                )
                yield self._record(row, row_id, owner, Secret(data["owner"], "owner"))
        if turn < 0:
            raise RecordFileError(f"{path}: the file has no record; write one JSON object per line")

    def _record(self, row: Row, row_id: str, owner: str, person: Secret) -> Record:
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


def _id_error(row_id: str, first: tuple[Path, int], place: tuple[Path, int]) -> RecordFileError:
    """Return the error for an id that was met before, in the same file or in another."""
    where = f"{place[0]}:{place[1]}"
    if first[0] == place[0]:
        taken = f'"id": {row_id!r} is already the id of line {first[1]}'
    else:
        taken = f"id {row_id!r} occurs in two files; {first[0]}:{first[1]} has it already"
    return RecordFileError(
        f"{where}: {taken}; give each record its own id (left out, it is made from kind, split "
        "and line)"
    )
