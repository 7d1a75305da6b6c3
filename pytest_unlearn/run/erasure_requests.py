"""Erasure requests: which people asked to be forgotten together, and in which order.

Requests (`--unlearn-requests`, `--unlearn-forget=NAME:FILE`) are unlearned one after the other.
After each request there is a new model, unlearned from the previous one, and everything requested
before is probed again (sustainability, MUSE, arXiv 2407.06460). Each such model is a pair of the
grid, whose settings hold the requests and how many of them are done.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.people.record import Record, by_owner
from pytest_unlearn.people.record_files import request_name

if TYPE_CHECKING:
    from pytest_unlearn.core.option import Given

_APART = ":apart"
_ENDING = ".jsonl"
_ENDINGS = (_ENDING, f"{_ENDING}.gz")
# Names of files that may be next to the requests.
_BESIDE = (".", "README", "manifest.json")
# How requests are named one by one.
NAMED = "--unlearn-forget=NAME:FILE"
# On Windows, a letter, a colon and a slash begin a path.
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
# A request's name becomes part of ids of tests and of `[request=NAME]` in gates.
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_MISNAMED = (
    "names a request, and test ids contain the name; use only A-Z, a-z, 0-9, '.', '_' and '-', "
    "as in"
)


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests in their order, of which the first `done` are unlearned.

    `apart`: each is unlearned on the original model, so only the newest is unlearned. `given`: the
    names that the user gave them; empty for those of the files.
    """

    files: tuple[Path, ...]
    done: int
    apart: bool = False
    given: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The requests' names: those given, or those of their files, without the ending."""
        return self.given or tuple(map(request_name, self.files))

    @property
    def flag(self) -> str:
        """The flag that named them, for messages."""
        return NAMED if self.given else "--unlearn-requests"

    @property
    def newest(self) -> str:
        """The request that was unlearned last."""
        return self.names[self.done - 1]

    @property
    def erased(self) -> tuple[str, ...]:
        """The requests whose people the model must have forgotten."""
        return (self.newest,) if self.apart else self.names[: self.done]

    @property
    def before(self) -> Requests | None:
        """The requests of the model on which the newest is unlearned; None for the first."""
        return None if self.apart or self.done == 1 else replace(self, done=self.done - 1)

    @property
    def stages(self) -> tuple[Requests, ...]:
        """The state after each request."""
        return tuple(replace(self, done=number) for number in range(1, len(self.files) + 1))

    @property
    def complete(self) -> Requests:
        """All requests, done one after the other."""
        return replace(self, done=len(self.files), apart=False)

    @property
    def name(self) -> str:
        """The requests that make a model, as text without the path of their files."""
        return ",".join(self.erased)


def read_requests(given: Given) -> Requests:
    """Return the requests in a folder, the last one done. Raises UserError."""
    text = str(given.value)
    apart = text.endswith(_APART)
    folder = given.folder / text.removesuffix(_APART)
    where = f"{given.flag}={text}"
    if not folder.is_dir():
        if (given.folder / text.rpartition(":")[0]).is_dir() and ":" in text:
            raise UserError(
                f"{where}: after the colon write {_APART[1:]}, or name a folder without a colon"
            )
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(
            f"{where}: {folder} {what}; name a folder with one *{_ENDING} for each request"
        )
    paths = [path for path in folder.iterdir() if not path.name.startswith(_BESIDE)]
    files = sorted((path for path in paths if path.name.endswith(_ENDINGS)), key=_in_order)
    if others := sorted(path.name for path in paths if path not in files):
        raise UserError(
            f"{where}: {others[0]} is not a request, and whoever asked in it would be left out; "
            f"name it *{_ENDING} (or *{_ENDING}.gz), or take it out of the folder"
        )
    if not files:
        raise UserError(f"{where}: no *{_ENDING} in {folder}; write the people of each request")
    names = list(map(request_name, files))
    for path, name in zip(files, names, strict=True):
        if names.count(name) > 1:
            raise UserError(f"{where}: two files are request {name}; rename one, or remove it")
        if not _NAME.fullmatch(name):
            raise UserError(f"{where}: {path.name} {_MISNAMED} 2026-01-15.jsonl")
    return Requests(tuple(files), len(files), apart)


def split_name(text: str, folder: Path) -> tuple[str, Path] | None:
    """Return name and file of `NAME:FILE`, or None for a path: of an existing file, of a folder
    with a colon, or on a drive."""
    name, colon, file = text.partition(":")
    if not colon or "/" in name or (folder / text).exists() or _DRIVE.match(text):
        return None
    return name, folder / file


def named_requests(given: Given) -> Requests | None:
    """Return the requests that are given as `NAME:FILE`, the last one done; None if no file has a
    name. Raises UserError."""
    texts = list(map(str, given.value))
    named = [split_name(text, given.folder) for text in texts]
    requests = [each for each in named if each is not None]
    if not requests:
        return None
    for text, request in zip(texts, named, strict=True):
        where = f"{given.flag}={text}"
        if request is None:
            other = texts[next(i for i, each in enumerate(named) if each is not None)]
            raise UserError(
                f"{where} has no name, and {given.flag}={other} has: the people of a file without "
                "one would be in no request; write NAME:FILE for every file, or for none"
            )
        name, path = request
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise UserError(
                f"{where}: there is no file of this name, and as NAME:FILE it is request {name!r} "
                f"with {path}, which {what}"
            )
        if not _NAME.fullmatch(name):
            raise UserError(f"{where}: {name!r} {_MISNAMED} 2026-01:forget.jsonl")
    names, files = zip(*requests, strict=True)
    same = [path.resolve() for path in files]
    for text, name, path in zip(texts, names, same, strict=True):
        if names.count(name) > 1:
            raise UserError(
                f"{given.flag}={text}: two files are request {name}; give one another name, or "
                "write the people of both into one file"
            )
        if same.count(path) > 1:
            raise UserError(
                f"{given.flag}={text}: the file is in two requests; its people are forgotten once, "
                "so leave one of them out"
            )
    return Requests(files, len(files), given=names)


def _in_order(path: Path) -> list[tuple[bool, int, str]]:
    """Return a key that sorts numbers by value: `2` comes before `10`."""
    parts = re.split(r"([0-9]+)", path.name)
    return [
        (number % 2 == 1, int(part) if number % 2 else 0, part) for number, part in enumerate(parts)
    ]


def staged(records: Sequence[Record], requests: Requests) -> tuple[Record, ...]:
    """Return the records as they are after the requests that are done.

    People of later requests have not asked yet, and are retained. Raises UserError for a person in
    two requests.
    """
    for own in by_owner(record for record in records if record.request).values():
        first, *others = dict.fromkeys(record.request for record in own)
        if others:
            raise UserError(
                f"{requests.flag}: one person (owner {own[0].owner}) is in {first} and in "
                f"{others[0]}; write everything of a person that is to be forgotten into the first"
            )
    return tuple(
        replace(record, split="retain")
        if record.request and record.request not in requests.erased
        else record
        for record in records
    )
