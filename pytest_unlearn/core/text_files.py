"""Files: a user's JSON Lines, read with every fault named, and files that are replaced atomically.

Plain or gzip (RFC 1952), one line in memory at a time. Values are never quoted in a message,
because they may be personal data.
"""

from __future__ import annotations

import dataclasses
import fcntl
import glob
import gzip
import io
import json
import math
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# More than any document that a model reads at once. Without a limit, a file that is not JSONL, or a
# few KB of gzip, could fill the memory with a single line.
MAX_LINE_BYTES = 16 * 2**20

_GZIP_MAGIC = b"\x1f\x8b"
# A key that looks like a word is quoted; any other could be a value that was put in its place.
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")

_JSON_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}


@contextmanager
def replacing(path: Path, sweeping: bool = True) -> Iterator[Path]:
    """Yield an empty file beside `path` that takes its place when the block ends without an error.

    A reader sees the old file or the new one, never half of it, and an error leaves nothing behind.
    Only its owner can read it. With `sweeping`, what killed processes left of the same file is
    removed. Raises OSError if the folder cannot be written.
    """
    start = f".writing-{path.name[:100]}-"
    if sweeping:
        sweep(path.parent.glob(f"{glob.escape(start)}*"))

    def make() -> Path:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=start)
        os.close(descriptor)
        return Path(name)

    temporary, handle = held(make)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        os.close(handle)


def unwritable(path: Path) -> str | None:
    """Return why a file cannot be written at a path, None if it can; nothing is written."""
    above = path.parent
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        return f"{above} is a file, not a folder"
    if not os.access(path if path.exists() else above, os.W_OK):
        return "no permission to write there"
    return None


def held(make: Callable[[], Path]) -> tuple[Path, int]:
    """Return the file or folder that `make` makes, locked until the descriptor is closed.

    A lock ends with its process, so `sweep` knows what a killed one left.
    """
    while True:
        path = make()
        with suppress(FileNotFoundError):  # another process removed it before it was locked
            handle = os.open(path, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks: nothing is swept there
                fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_nlink:
                return path, handle
            os.close(handle)


def sweep(paths: Iterable[Path]) -> None:
    """Remove the files and folders that no process holds (see `held`)."""
    for path in list(paths):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            finally:
                os.close(handle)


def read_objects(
    path: Path, error: type[ValueError], keys: Iterable[str], constants: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number and the object of each line that is not blank, one at a time.

    `keys` are named in the message for a line that is not an object. `constants`: NaN and Infinity,
    which are not JSON, are accepted as Python writes them. Raises `error` for a file that is
    missing, unreadable, broken gzip or not UTF-8, and for a line that is too long or not a JSON
    object.
    """
    hint = quoted(keys)
    decoder = _LENIENT if constants else _DECODER
    for number, line in _lines(path, error):
        yield number, _object(line, f"{path}:{number}", error, hint, decoder)


def check_keys(
    data: Mapping[str, Any],
    where: str,
    error: type[ValueError],
    required: Mapping[str, str],
    optional: Iterable[str] = (),
    inside: str = "",
) -> None:
    """Raise `error` for the first unknown key, or else for the first missing one.

    `where` is FILE:LINE; `inside` is the prefix of a field's name, such as `documents[0].`.
    """
    known = (*required, *optional)
    for position, key in enumerate(data, start=1):
        if key not in known:
            named = _field(inside, key, position)
            raise error(f"{where}: {named}: unknown key; use only {quoted(known)}")
    for key, hint in required.items():
        if key not in data:
            raise error(f'{where}: "{inside}{key}": the key is missing; add {hint}')


def known_fields(kind: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a JSON object that a dataclass has fields for.

    Later versions may have added more. Raises TypeError for anything but an object.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"{type(data).__name__} where an object belongs")
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in data.items() if name in names}


def checked_string(value: Any, field: str, where: str, error: type[ValueError]) -> str:
    """Return `value`; raises `error`, naming `field`, when it is not a string or not encodable."""
    if not isinstance(value, str):
        raise error(f'{where}: "{field}": {json_name(value)} is given; write a string')
    try:
        value.encode()
    except UnicodeEncodeError as fault:
        # Not chained, here and below: the exception carries the whole text.
        raise error(
            f'{where}: "{field}": character {fault.start + 1} is half of a surrogate pair; '
            "write the whole character"
        ) from None
    return value


def json_name(value: Any) -> str:
    """Return the JSON type of a value with its article, for messages."""
    return _JSON_NAMES[type(value)]


def quoted(keys: Iterable[str]) -> str:
    """Return keys in quotes, separated by commas."""
    return ", ".join(f'"{key}"' for key in keys)


def _field(inside: str, key: str, position: int) -> str:
    if _WORD.fullmatch(key):
        return f'"{inside}{key}"'
    of = f' of "{inside.rstrip(".")}"' if inside else ""
    return f"key {position}{of} (not shown, it is not a plain word)"


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """Open a plain or gzip file for reading bytes, so that a line that is not UTF-8 can be named.

    Gzip is recognized by its first bytes, whatever the file's name; a pipe works too.
    """
    with path.open("rb") as file:
        if file.peek(2)[:2] == _GZIP_MAGIC or path.suffix.lower() == ".gz":
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked
        else:
            yield file


def _lines(path: Path, error: type[ValueError]) -> Iterator[tuple[int, str]]:
    number = 1
    try:
        with _opened(path) as file:
            while raw := file.readline(MAX_LINE_BYTES + 1):
                if len(raw) > MAX_LINE_BYTES:
                    raise error(
                        f"{path}:{number}: the line is longer than {MAX_LINE_BYTES} bytes; "
                        "write one JSON object a line, and shorter texts"
                    )
                line = _decoded(raw, number, path, error)
                if line.strip():
                    yield number, line
                number += 1
    except FileNotFoundError as fault:
        raise error(f"{path}: the file does not exist; give the path of a JSONL file") from fault
    except EOFError:
        raise error(
            f"{path}:{number}: the gzip data ends too early: the file is truncated; copy it again"
        ) from None
    except (gzip.BadGzipFile, zlib.error):
        raise error(
            f"{path}:{number}: the gzip data is damaged or not gzip; compress the file again, or "
            "give a plain file a name without .gz"
        ) from None
    except OSError as fault:
        raise error(
            f"{path}: the file cannot be read ({fault.strerror or type(fault).__name__}); "
            "give the path of a readable JSONL file"
        ) from fault


def _decoded(raw: bytes, number: int, path: Path, error: type[ValueError]) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as fault:
        raise error(
            f"{path}:{number}: byte {fault.start + 1} of the line is not UTF-8; "
            "save the file with UTF-8 encoding"
        ) from None


class _ConstantError(Exception):
    """NaN or Infinity, which Python's reader takes for JSON."""


class _RepeatedKeyError(Exception):
    """A key that occurs twice in an object: Python's reader would drop the first value."""


def _no_constant(name: str) -> Any:
    raise _ConstantError(name)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        seen: set[str] = set()
        for position, (key, _) in enumerate(pairs, start=1):
            if key in seen:
                raise _RepeatedKeyError(_field("", key, position))
            seen.add(key)
    return data


# One for all lines: `json.loads` with hooks would build a decoder for each call.
_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_unique_keys)
_LENIENT = json.JSONDecoder(object_pairs_hook=_unique_keys)


def _object(
    line: str, where: str, error: type[ValueError], keys: str, decoder: json.JSONDecoder
) -> dict[str, Any]:
    try:
        data = decoder.decode(line.rstrip("\r\n"))
    except _ConstantError as fault:
        raise error(
            f"{where}: {fault} is not a JSON value; write a finite number, a string or null"
        ) from fault
    except _RepeatedKeyError as fault:
        raise error(
            f"{where}: {fault}: the key occurs twice in one object; write each key once"
        ) from fault
    except json.JSONDecodeError as fault:
        raise error(
            f"{where}: invalid JSON at column {fault.colno} ({fault.msg}); "
            "write one JSON object on one line"
        ) from None
    except (RecursionError, ValueError):
        raise error(
            f"{where}: the JSON cannot be read (nested too deeply or a number too long); "
            "write a smaller value"
        ) from None
    if not isinstance(data, dict):
        raise error(
            f"{where}: the line is {json_name(data)}; write a JSON object with the keys {keys}"
        )
    return data


def finite(data: Any) -> Any:
    """Return plain data with null for numbers that JSON does not have: infinite ones and NaN."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
