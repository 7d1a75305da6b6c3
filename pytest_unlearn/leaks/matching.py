"""Finding known values in a text: as they are, normalised, or disguised in code.

The values are known, so a match is a fact and no guess by a pattern. Each *view* is a reading of
the text in which a value may stand; the first view that shows a value names how it was found.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pytest_unlearn.people.manifest import Record

# Shorter normalised values (an address of four digits, say) would be met by chance once
# separators are gone; they are matched as they stand only.
_MIN_NORMALISED = 8
_SEPARATORS = re.compile(r"[\s\-_.()/,:'\"]+")
_CONCATENATION = re.compile(r"""["']\s*(?:\+|\\?\n|,)?\s*[rbfu]{0,2}["']""")
_BASE64_RUN = re.compile(r"[A-Za-z0-9+/_-]{8,}={0,2}")
_HEX_RUN = re.compile(r"(?:[0-9a-fA-F]{2}){4,}")
_ESCAPES = re.compile(r"\\x([0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})")


def normalise(text: str) -> str:
    """Return `text` without case, separators and Unicode look-alike forms (NFKC)."""
    return _SEPARATORS.sub("", unicodedata.normalize("NFKC", text).casefold())


def _unescaped(text: str) -> str:
    return _ESCAPES.sub(lambda m: chr(int(m.group(1) or m.group(2), 16)), text)


def _concatenated(text: str) -> str:
    return _CONCATENATION.sub("", _unescaped(text))


def _decoded_base64(text: str) -> str:
    decoded = []
    for run in _BASE64_RUN.findall(text):
        padded = run.rstrip("=").translate(str.maketrans("-_", "+/"))
        padded += "=" * (-len(padded) % 4)
        try:
            decoded.append(base64.b64decode(padded, validate=True).decode("utf-8"))
        except (binascii.Error, UnicodeDecodeError):
            continue
    return "\n".join(decoded)


def _decoded_hex(text: str) -> str:
    return "\n".join(
        bytes.fromhex(run).decode("utf-8", errors="replace") for run in _HEX_RUN.findall(text)
    )


# Views in the order in which they are tried. A value seen in one of the first two stands in the
# text itself; the others are disguises.
PLAIN_VIEWS = ("exact", "normalised")
_DISGUISES: dict[str, Callable[[str], str]] = {
    "concatenated": _concatenated,
    "base64": _decoded_base64,
    "hex": _decoded_hex,
    "reversed": lambda text: text[::-1],
}


@dataclass(frozen=True, slots=True)
class Match:
    """A record whose value was found, and the view that showed it."""

    record: Record
    how: str

    @property
    def plain(self) -> bool:
        """Tell whether the value stands in the text itself, not in a disguise."""
        return self.how in PLAIN_VIEWS


class Matcher:
    """Finds the values of all given records in a text."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._exact: dict[str, list[Record]] = {}
        self._normalised: dict[str, list[Record]] = {}
        for record in records:
            value = record.value.reveal()
            self._exact.setdefault(value, []).append(record)
            short = normalise(value)
            if len(short) >= _MIN_NORMALISED:
                self._normalised.setdefault(short, []).append(record)

    def find(self, text: str) -> list[Match]:
        """Return one match a record, by the first view that shows its value."""
        found: dict[str, Match] = {}
        for how, view in self._views(text):
            table = self._normalised if how == "normalised" else self._exact
            for value, records in table.items():
                if value in view:
                    for record in records:
                        found.setdefault(record.id, Match(record, how))
        return list(found.values())

    @staticmethod
    def _views(text: str) -> Iterator[tuple[str, str]]:
        yield "exact", text
        yield "normalised", normalise(text)
        for how, disguise in _DISGUISES.items():
            view = disguise(text)
            if view and view != text:
                yield how, view
