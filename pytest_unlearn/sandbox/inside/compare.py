"""Equality between an expected answer and what a solution returned, and the verdict on answers.

The sandbox's processes load this file by its path: it must import nothing but the standard library.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

RELATIVE_TOLERANCE = 1e-9
MAX_REPR = 200
_LENGTH = struct.Struct(">I")
# Compared as Python does, without a tolerance, with one another and with builtin numbers.
_STANDARD = (bytearray, deque, range, date, datetime, time, timedelta)


def same(expected: object, got: object, tolerance: float = 0.0) -> bool:
    """Return whether `got` is the expected answer.

    Equality is Python's, but builtin types count: `True` is not 1, 1.0 is not 1, a `frozenset` is
    not a `set`. There are two exceptions. If a float is expected, an int of that value will do;
    floats match within a relative tolerance of 1e-9 (so only zero matches zero), or within
    `tolerance`, relative or absolute, if that is more, and nan matches nan. If a list is expected,
    a tuple will do, because tests are stored as JSON, which has no tuples.

    Raises TypeError if the expected answer is not plain data.
    """
    kind = type(expected)
    if expected is None:
        return got is None
    if kind is int and type(got) in (Decimal, Fraction):
        return _equal(expected, got)
    if kind in (bool, int, str):
        return type(got) is kind and got == expected
    if kind is bytes:
        return type(got) in (bytes, bytearray) and got == expected
    if isinstance(expected, float) and kind is float:
        known = type(got) in (int, float, Decimal, Fraction)
        return known and _close(expected, got, tolerance)  # type: ignore[arg-type]
    if isinstance(expected, complex) and kind is complex:
        return (
            isinstance(got, complex)
            and _close(expected.real, got.real, tolerance)
            and _close(expected.imag, got.imag, tolerance)
        )
    if isinstance(expected, list) and kind is list:
        return isinstance(got, (list, tuple)) and _all_same(expected, got, tolerance)
    if isinstance(expected, tuple) and kind is tuple:
        return isinstance(got, tuple) and _all_same(expected, got, tolerance)
    if isinstance(expected, dict) and kind is dict:
        return isinstance(got, dict) and _same_dict(expected, got, tolerance)
    if isinstance(expected, (set, frozenset)) and kind in (set, frozenset):
        return type(got) is kind and _same_set(expected, got, tolerance)
    if kind in (Decimal, Fraction):
        return type(got) in (int, float, Decimal, Fraction) and _equal(expected, got)
    if kind in _STANDARD:
        return type(got) in (*_STANDARD, bytes) and _equal(expected, got)
    raise TypeError(f"an expected answer of type {kind.__name__} is not plain data")


def _equal(expected: object, got: object) -> bool:
    try:
        return bool(expected == got)
    except (ArithmeticError, TypeError):  # a signaling nan
        return False


def _close(expected: float, got: float, tolerance: float) -> bool:
    try:
        value = float(got)
    except (OverflowError, ValueError):
        return False
    if math.isnan(expected) or math.isnan(value):
        return math.isnan(expected) and math.isnan(value)
    relative = max(RELATIVE_TOLERANCE, tolerance)
    return math.isclose(expected, value, rel_tol=relative, abs_tol=tolerance)


def _all_same(expected: Sequence[object], got: Sequence[object], tolerance: float) -> bool:
    return len(expected) == len(got) and all(
        same(e, g, tolerance) for e, g in zip(expected, got, strict=True)
    )


def _same_dict(expected: dict[object, object], got: dict[object, object], tolerance: float) -> bool:
    if len(expected) != len(got):
        return False
    rest = _Keys(got, tolerance)
    for key, value in expected.items():
        match = rest.take(key)
        if not match or not same(value, got[match[0]], tolerance):
            return False
    return True


def _same_set(
    expected: set[object] | frozenset[object],
    got: set[object] | frozenset[object],
    tolerance: float,
) -> bool:
    if len(expected) != len(got):
        return False
    rest = _Keys(got, tolerance)
    return all(rest.take(item) for item in expected)


class _Keys:
    """The keys of a dict or the items of a set that have no counterpart yet."""

    def __init__(self, keys: Iterable[object], tolerance: float) -> None:
        self._tolerance = tolerance
        # To get from a key to the key as it is spelled here: 1, 1.0 and True find each other.
        self._spelled = {key: key for key in keys}

    def take(self, key: object) -> list[object]:
        """Remove and return the counterpart, alone in a list; an empty list if there is none."""
        if key in self._spelled and same(key, self._spelled[key], self._tolerance):
            return [self._spelled.pop(key)]
        # nan, and floats within the tolerance, have other hashes and must be searched for.
        for other in self._spelled:
            if same(key, other, self._tolerance):
                return [self._spelled.pop(other)]
        return []


# -- the verdict on a sample's reports -------------------------------------------------------------


class BrokenReport(Exception):
    """The child wrote something that its own code never writes."""


# What each call must give: arguments, expected answer, arguments as they must be left (None: as
# they were given; "any"; "output": the answer is a text that a program prints), tolerance.
Expected = tuple[tuple[Any, ...], Any, Any, float]


def verdict_on(output: bytes, tests: Sequence[Expected], codec: Any) -> tuple[str, str, int | None]:
    """Return status, detail and failing call; the status is empty if the process ended before it
    reported everything. `codec`: the module."""
    call: int | None = None
    left: tuple[Any, ...] | None = None
    try:
        for kind, body in _reports(output):
            if kind == b"L" and call is None:
                call = 0
            elif kind == b"A" and call is not None and left is None:
                left = _arguments(body, codec)
            elif kind == b"R" and call is not None:
                problem = _wrong(tests[call], codec.decode(body, max_bytes=len(body)), left)
                if problem:
                    return "wrong_answer", problem, call
                call, left = call + 1, None
                if call == len(tests):
                    return "passed", "", None
            else:
                return *_stopped(kind, body, codec), call
    except codec.TooLarge as error:
        return "wrong_answer", f"result {error}", call
    except (BrokenReport, codec.CodecError, RecursionError) as error:
        return "crash", shown(f"broke its result channel ({error})"), call
    return "", "", call


def _reports(output: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The complete reports; the process may have been stopped inside the last one."""
    position = 0
    while position + 5 <= len(output):
        (size,) = _LENGTH.unpack_from(output, position + 1)
        end = position + 5 + size
        kind = output[position : position + 1]
        if kind not in b"LAREMXNUB":
            raise BrokenReport(f"unknown report {kind!r}")
        if end > len(output):
            return
        yield kind, output[position + 5 : end]
        position = end


def _arguments(body: bytes, codec: Any) -> tuple[Any, ...]:
    left = codec.decode(body, max_bytes=len(body))
    if not isinstance(left, tuple):
        raise BrokenReport("arguments that are not a tuple")
    return left


def _wrong(test: Expected, got: object, left: tuple[Any, ...] | None) -> str:
    """Return what is wrong with one answer; empty if it is right."""
    arguments, expected, after, tolerance = test
    if after == "output":
        if isinstance(got, str) and _same_output(expected, got, tolerance):
            return ""
        return f"input {short(arguments[0])}: expected {short(expected)}, got {short(got)}"
    if not same(expected, got, tolerance):
        return f"arguments {short(arguments)}: expected {short(expected)}, got {short(got)}"
    if after == "any":
        return ""
    right = arguments if after is None else tuple(after)
    left = arguments if left is None else left
    if same(right, left, tolerance):
        return ""
    return f"arguments {short(arguments)}: left as {short(left)}, not as {short(right)}"


def _same_output(expected: str, got: str, tolerance: float) -> bool:
    """Return whether a program printed what it should: line by line and word by word, with equal
    numbers counting as the same, as in the judges of programming contests and in LiveCodeBench."""
    right, printed = expected.rstrip().split("\n"), got.rstrip().split("\n")
    return len(right) == len(printed) and all(
        r.strip() == p.strip() or _same_words(r.split(), p.split(), tolerance)
        for r, p in zip(right, printed, strict=True)
    )


def _same_words(right: list[str], printed: list[str], tolerance: float) -> bool:
    return len(right) == len(printed) and all(
        r == p or _same_number(r, p, tolerance) for r, p in zip(right, printed, strict=True)
    )


def _same_number(right: str, printed: str, tolerance: float) -> bool:
    try:
        first, second = Decimal(right), Decimal(printed)
        # Decimal reads underscores, which do not belong in an answer.
        return "_" not in printed and (
            first == second or (tolerance > 0 and _close(float(first), float(second), tolerance))
        )
    except (ArithmeticError, ValueError):
        return False


def _stopped(kind: bytes, body: bytes, codec: Any) -> tuple[str, str]:
    """Return the meaning of a report that ends a sample."""
    if kind == b"M":
        return "memory", "MemoryError"
    if kind == b"X":
        return "crash", "exited early (SystemExit)"
    if kind not in (b"E", b"N", b"U", b"B"):
        raise BrokenReport(f"report {kind!r} out of turn")
    note = codec.decode(body, max_bytes=len(body))
    if kind == b"E" and isinstance(note, tuple) and len(note) == 5:
        name, _, line, message, refused = note
        text = str(name) if message is None else f"{name}: {message}"
        where = f" (line {line})" if isinstance(line, int) else ""
        return "forbidden" if refused else "exception", shown(text) + where
    if kind != b"E" and isinstance(note, str):
        if kind == b"N":
            return "no_solution", shown(note)
        if kind == b"U":
            return "unsupported", shown(note)
        return "wrong_answer", shown(f"result {note}")
    raise BrokenReport(f"report {kind!r} with a strange body")


def short(value: object) -> str:
    """Return the value's repr, cut to MAX_REPR characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer with more digits than Python agrees to write
        text = "a value with a huge integer"
    return shown(text)


def shown(text: str, most: int = MAX_REPR) -> str:
    """Return text from untrusted code as one printable line."""
    text = text[: most + 1]
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= most else text[: most - 1] + "…"
