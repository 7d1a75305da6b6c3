"""Reading a user's JSON Lines file: one object a line, every fault named by file, line and field.

Values are never quoted in a message, because they may be personal data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

_JSON_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def read_objects(
    path: Path, error: type[ValueError], required: Mapping[str, str], optional: Iterable[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of each line that is not blank, one at a time.

    `required` maps each key that must be there to a hint what to write. Raises `error` for a file
    that is missing, unreadable or not UTF-8, and for a line that is no JSON object, lacks a
    required key or has an unknown one.
    """
    known = (*required, *optional)
    for number, line in _lines(path, error):
        where = f"{path}:{number}"
        data = _object(line, where, error, tuple(required))
        for key in data:
            if key not in known:
                raise error(f"{where}: {json.dumps(key)}: unknown key; use only {quoted(known)}")
        for key, hint in required.items():
            if key not in data:
                raise error(f'{where}: "{key}": the key is missing; add {hint}')
        yield number, data


def string_field(data: dict[str, Any], key: str, where: str, error: type[ValueError]) -> str:
    """Return the string under `key`; raises `error` when it is none or holds half a character."""
    value = data[key]
    if not isinstance(value, str):
        raise error(f'{where}: "{key}": {json_name(value)} is given; write a string')
    try:
        value.encode()
    except UnicodeEncodeError as fault:
        raise error(
            f'{where}: "{key}": character {fault.start + 1} is half of a surrogate pair; '
            "write the whole character"
        ) from fault
    return value


def json_name(value: Any) -> str:
    """Return the JSON type of a value with its article, for messages."""
    return _JSON_NAMES[type(value)]


def quoted(keys: Iterable[str]) -> str:
    """Return keys in quotes, separated by commas."""
    return ", ".join(f'"{key}"' for key in keys)


def _lines(path: Path, error: type[ValueError]) -> Iterator[tuple[int, str]]:
    try:
        # Bytes, so that a line that is not UTF-8 can be named: a text file decodes in blocks.
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as fault:
                    raise error(
                        f"{path}:{number}: byte {fault.start + 1} of the line is not UTF-8; "
                        "save the file with UTF-8 encoding"
                    ) from fault
                if line.strip():
                    yield number, line
    except FileNotFoundError as fault:
        raise error(f"{path}: the file does not exist; give the path of a JSONL file") from fault
    except OSError as fault:
        raise error(
            f"{path}: the file cannot be read ({fault.strerror}); "
            "give the path of a readable JSONL file"
        ) from fault


class _ConstantError(Exception):
    """NaN or Infinity, which Python's reader takes for JSON."""


def _no_constant(name: str) -> Any:
    raise _ConstantError(name)


def _object(
    line: str, where: str, error: type[ValueError], required: tuple[str, ...]
) -> dict[str, Any]:
    try:
        data = json.loads(line.rstrip("\r\n"), parse_constant=_no_constant)
    except _ConstantError as fault:
        raise error(
            f"{where}: {fault} is not a JSON value; write a finite number, a string or null"
        ) from fault
    except json.JSONDecodeError as fault:
        # Not chained: the decoder's exception carries the whole line.
        raise error(
            f"{where}: invalid JSON at column {fault.colno} ({fault.msg}); "
            "write one JSON object on one line"
        ) from None
    except (RecursionError, ValueError) as fault:
        raise error(
            f"{where}: the JSON cannot be read (nested too deeply or a number too long); "
            "write a smaller value"
        ) from fault
    if not isinstance(data, dict):
        raise error(
            f"{where}: the line is {json_name(data)}; write a JSON object with the keys "
            f"{quoted(required)}"
        )
    return data
