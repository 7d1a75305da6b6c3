"""One option of the command line and of the ini file: what it is called, and how it is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pytest_unlearn.core.errors import UserError

# As people write it, which is less than Python accepts: no `1_000`, no digits of other scripts, no
# hundreds of digits.
_WHOLE = re.compile(r"-?[0-9]{1,18}")
# What a setting affects: the models that are made, the data, what is measured on them, how the
# measurements are judged, or only what else is done and shown.
Role = Literal["model", "data", "measure", "judge", "show"]


@dataclass(frozen=True, slots=True)
class Given:
    """A value that the user gave for an option; relative paths start at `folder`."""

    flag: str
    value: Any
    folder: Path


@dataclass(frozen=True, slots=True)
class Option:
    """A flag and the ini key of the same name.

    `many`: repeatable. `switch`: takes no value. `bare`: what the flag means without a value, if it
    may have none. `ini_only`: there is an ini key but no flag. `read` turns the given value into
    the setting, or raises UserError; None if several options make up one setting.
    """

    name: str
    metavar: str
    help: str
    many: bool = False
    switch: bool = False
    bare: str | None = None
    ini_only: bool = False
    read: Callable[[Given], Any] | None = None

    @property
    def flag(self) -> str:
        """Return the name as it is written on the command line."""
        return flag_of(self.name)


def setting(
    *options: Option,
    role: Role,
    default: Any = MISSING,
    factory: Callable[[], Any] | None = None,
) -> Any:
    """Return a field of `Settings` that these options make."""
    metadata = {"options": options, "role": role}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def flag_of(name: str) -> str:
    """Return an option's name as it is written on the command line."""
    return "--" + name.replace("_", "-")


def text(given: Given) -> str:
    """Return the text as it was written."""
    return str(given.value)


def texts(given: Given) -> tuple[str, ...]:
    """Return all texts that were given."""
    return tuple(given.value)


def switch(given: Given) -> bool:
    """Return whether the switch is on."""
    return bool(given.value)


def a_path(given: Given) -> Path:
    """Return a path, relative to where the option was written."""
    return given.folder / str(given.value)


def paths(given: Given) -> tuple[Path, ...]:
    """Return all paths that were given."""
    return tuple(given.folder / path for path in given.value)


def one_of(*choices: str) -> Callable[[Given], str]:
    """Return a parser of one of these words."""

    def read(given: Given) -> str:
        if given.value not in choices:
            raise UserError(f"{given.flag}={given.value}: write one of {', '.join(choices)}")
        return str(given.value)

    return read


def whole_number(least: int) -> Callable[[Given], int]:
    """Return a parser of a whole number of at least `least`."""

    def read(given: Given) -> int:
        if not _WHOLE.fullmatch(str(given.value)):
            raise UserError(f"{given.flag}={given.value}: write a whole number")
        number = int(given.value)
        if number < least:
            raise UserError(f"{given.flag}={given.value}: write a whole number of at least {least}")
        return number

    return read
