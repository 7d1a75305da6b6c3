"""Erasure requests, one after the other: `--unlearn-requests`.

After each request there is a model of its own, unlearned from the one before it, and all that was
asked before is asked again (sustainability, MUSE, arXiv 2407.06460). Such a model is a pair of the
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

if TYPE_CHECKING:
    from pytest_unlearn.core.option import Given

_APART = ":apart"
_ENDING = ".jsonl"
# A request's name becomes part of ids of tests and of `[request=NAME]` in gates.
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests in their order, of which the first `done` are unlearned.

    `apart`: each on the model as it was, so that only the newest is.
    """

    files: tuple[Path, ...]
    done: int
    apart: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The requests' names: their files', without the ending."""
        return tuple(path.stem for path in self.files)

    @property
    def newest(self) -> str:
        """The request that is unlearned last."""
        return self.names[self.done - 1]

    @property
    def erased(self) -> tuple[str, ...]:
        """The requests whose people the model must have forgotten."""
        return (self.newest,) if self.apart else self.names[: self.done]

    @property
    def before(self) -> Requests | None:
        """The requests of the model from which the newest is unlearned; None for the first."""
        return None if self.apart or self.done == 1 else replace(self, done=self.done - 1)

    @property
    def stages(self) -> tuple[Requests, ...]:
        """What is done after each request."""
        return tuple(replace(self, done=number) for number in range(1, len(self.files) + 1))

    @property
    def whole(self) -> Requests:
        """All requests, done one after the other."""
        return replace(self, done=len(self.files), apart=False)

    @property
    def name(self) -> str:
        """What makes a model, as text: never where the files are."""
        return ",".join(self.erased)


def read_requests(given: Given) -> Requests:
    """Return the requests in a folder, the last one done. Raises UserError."""
    text = str(given.value)
    apart = text.endswith(_APART)
    folder = given.folder / text.removesuffix(_APART)
    where = f"{given.flag}={text}"
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{where}: {folder} {what}; name a folder with one *{_ENDING} a request")
    files = sorted(folder.glob(f"*{_ENDING}"), key=_in_order)
    if not files:
        raise UserError(f"{where}: no *{_ENDING} in {folder}; write the people of each request")
    for path in files:
        if not _NAME.fullmatch(path.stem):
            raise UserError(
                f"{where}: {path.name} is a request's name, and part of tests' names; write it "
                "with A-Z, a-z, 0-9, '.', '_' and '-' alone, as in 2026-01-15.jsonl"
            )
    return Requests(tuple(files), len(files), apart)


def _in_order(path: Path) -> list[tuple[bool, int, str]]:
    """Return what sorts names as people count: `2` comes before `10`."""
    parts = re.split(r"(\d+)", path.stem)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def staged(records: Sequence[Record], requests: Requests) -> tuple[Record, ...]:
    """Return the records as they are after the requests that are done: people of the others did
    not ask, and are retained. Raises UserError for a person in two requests."""
    for own in by_owner(record for record in records if record.request).values():
        first, *others = dict.fromkeys(record.request for record in own)
        if others:
            raise UserError(
                f"--unlearn-requests: one person (owner {own[0].owner}) is in {first} and in "
                f"{others[0]}; write all that is to be forgotten of a person into the first"
            )
    return tuple(
        replace(record, split="retain")
        if record.request and record.request not in requests.erased
        else record
        for record in records
    )
