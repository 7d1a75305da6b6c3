"""Errors: refusals that the user can fix, and failures while a run trains or writes.

Messages hold names from outside (a model, a file): `plain` and `plain_lines` make them harmless,
here and wherever else such text is shown.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

# What GitHub Actions would treat as a command: at the start of a line, and the old form anywhere.
_COMMAND = re.compile(r"^\s*::|##\[")


def plain(text: str) -> str:
    """Return a text as one line, with control characters spelled out."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def plain_lines(text: str) -> str:
    """Return a text of several lines without control characters or workflow commands."""
    return "\n".join(
        _COMMAND.sub(lambda m: m.group()[:-1] + "\\" + m.group()[-1], plain(line))
        for line in text.split("\n")
    )


class UserError(ValueError):
    """A refusal: the message names the flag, or file and line, and says what to write instead.

    Every refusal in the package is one of these, so a session or a notebook needs one `except`.
    `flag` is put in front of a message that does not begin with a flag.
    """

    flag = ""

    def __str__(self) -> str:
        message = plain_lines(super().__str__())
        return message if not self.flag or message.startswith("--") else f"{self.flag}: {message}"


@contextlib.contextmanager
def naming(flag: str) -> Iterator[None]:
    """Put a flag in front of any refusal raised in the block that does not name one."""
    try:
        yield
    except UserError as error:
        error.flag = error.flag or flag
        raise


def nearest(name: str, known: Iterable[str], likeness: float = 0.75) -> str:
    """Return the known name closest to a misspelt one; empty if none is close enough.

    `likeness` is difflib's ratio, from 0 to 1.
    """
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=likeness)
    return matches[0] if matches else ""


class UnlearningError(RuntimeError):
    """Training went wrong (NaN, collapse, an adapter that did not move); the message advises."""


class IncompleteError(RuntimeError):
    """A model could not answer some of several texts.

    `rows` are their indices, `reasons` say why, by index, if each has its own reason. `answers` has
    the answers to the other texts, and None at the indices in `rows`; it is None if the model
    answered nothing, and can be asked again for the others alone.
    """

    rows: tuple[int, ...] = ()
    answers: Sequence[Any] | None = None
    reasons: Mapping[int, str] = MappingProxyType({})

    def reason(self, row: int) -> str:
        """Return what is wrong with one of the texts."""
        return self.reasons.get(row, str(self))


# How a write reports a full disk: by number or, from safetensors' Rust code, in words.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_WORDS = ("No space left", "File too large", "quota exceeded")


@contextlib.contextmanager
def room_for(
    what: str, folder: Path, then: str = "training goes on from its last look"
) -> Iterator[None]:
    """Turn a disk that fills up while `what` is written below `folder` into an UnlearningError.

    `then`: what the next run does. The writers themselves leave nothing half-written: each writes
    beside its target and renames.
    """
    try:
        yield
    except Exception as error:  # safetensors raises a type of its own
        full = isinstance(error, OSError) and error.errno in _FULL
        if not (full or any(words in str(error) for words in _FULL_WORDS)):
            raise
        raise UnlearningError(
            f"no room for {what}: the disk of {folder} is full. Nothing half-written is left, and "
            "what was stored before is intact. Free some space or give --unlearn-store=DIR on "
            f"another disk, and run again: {then}"
        ) from error
