"""Equality between an expected answer and what a solution returned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

RELATIVE_TOLERANCE = 1e-9


def same(expected: object, got: object) -> bool:
    """Whether `got` is the expected answer.

    Types count: `True` is not 1, 1.0 is not 1, a `frozenset` is not a `set`. There are two
    exceptions. Where a float is expected an int of that value will do; floats match within a
    relative tolerance of 1e-9 (so nothing but zero matches zero) and nan matches nan. Where a list
    is expected a tuple will do, because tests are stored as JSON, which has no tuples.

    Raises TypeError when the expected answer is not plain data.
    """
    kind = type(expected)
    if expected is None:
        return got is None
    if kind in (bool, int, str, bytes):
        return type(got) is kind and got == expected
    if isinstance(expected, float) and kind is float:
        return type(got) in (int, float) and _close(expected, got)  # type: ignore[arg-type]
    if isinstance(expected, complex) and kind is complex:
        return (
            isinstance(got, complex)
            and _close(expected.real, got.real)
            and _close(expected.imag, got.imag)
        )
    if isinstance(expected, list) and kind is list:
        return isinstance(got, (list, tuple)) and _all_same(expected, got)
    if isinstance(expected, tuple) and kind is tuple:
        return isinstance(got, tuple) and _all_same(expected, got)
    if isinstance(expected, dict) and kind is dict:
        return isinstance(got, dict) and _same_dict(expected, got)
    if isinstance(expected, (set, frozenset)) and kind in (set, frozenset):
        return type(got) is kind and _same_set(expected, got)
    raise TypeError(f"an expected answer of type {kind.__name__} is not plain data")


def _close(expected: float, got: float) -> bool:
    try:
        value = float(got)
    except OverflowError:
        return False
    if math.isnan(expected) or math.isnan(value):
        return math.isnan(expected) and math.isnan(value)
    return math.isclose(expected, value, rel_tol=RELATIVE_TOLERANCE)


def _all_same(expected: Sequence[object], got: Sequence[object]) -> bool:
    return len(expected) == len(got) and all(map(same, expected, got))


def _same_dict(expected: dict[object, object], got: dict[object, object]) -> bool:
    if len(expected) != len(got):
        return False
    rest = _Keys(got)
    for key, value in expected.items():
        match = rest.take(key)
        if not match or not same(value, got[match[0]]):
            return False
    return True


def _same_set(
    expected: set[object] | frozenset[object], got: set[object] | frozenset[object]
) -> bool:
    if len(expected) != len(got):
        return False
    rest = _Keys(got)
    return all(rest.take(item) for item in expected)


class _Keys:
    """The keys of a dict or the items of a set that have not found their counterpart yet."""

    def __init__(self, keys: Iterable[object]) -> None:
        # To get from a key to the key as it is spelled here: 1, 1.0 and True find each other.
        self._spelled = {key: key for key in keys}

    def take(self, key: object) -> list[object]:
        """Remove and return the counterpart, alone in a list; an empty list if there is none."""
        if key in self._spelled and same(key, self._spelled[key]):
            return [self._spelled.pop(key)]
        # nan, and floats within the tolerance, have other hashes and must be searched for.
        for other in self._spelled:
            if same(key, other):
                return [self._spelled.pop(other)]
        return []
