"""Text that must not be printed: its `repr` and `str` show a kind and a keyed fingerprint."""

from __future__ import annotations

import functools
import hashlib
import hmac
import html
import json
import re
import secrets
from collections.abc import Iterable, Iterator

# New in each process unless a run sets one, so two runs cannot be linked, and a low-entropy value
# (a phone number) cannot be found by hashing all candidates, as it could with a plain digest.
_key = secrets.token_bytes(16)


def use_key(key: bytes) -> None:
    """Use this key for fingerprints from now on: the run's own, or one that several runs share."""
    global _key
    _key = key


def new_key() -> bytes:
    """Return a new random key."""
    return secrets.token_bytes(16)


def current_key() -> bytes:
    """Return the key of this process, to hand it to the workers of the same run."""
    return _key


class Secret:
    """A piece of text that only `reveal()` returns.

    It is deliberately not a `str`: pytest's assertion diffs, `--showlocals`, f-strings and log
    calls would print a `str` in full.
    """

    __slots__ = ("_kind", "_text")

    def __init__(self, text: str, kind: str) -> None:
        self._text = text
        self._kind = kind

    @property
    def kind(self) -> str:
        """What the text is, for example `email` or `prompt`."""
        return self._kind

    @property
    def fingerprint(self) -> str:
        """Eight hex digits of an HMAC-SHA-256, equal for equal texts under the same key."""
        return hmac.new(
            _key, self._text.encode("utf-8", "surrogatepass"), hashlib.sha256
        ).hexdigest()[:8]

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def __repr__(self) -> str:
        return f"<{self._kind} {self.fingerprint}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


def joined(parts: Iterable[Secret], kind: str = "prompt") -> Secret:
    """Return the text made up of its parts (lines, words)."""
    return Secret("".join(part.reveal() for part in parts), kind)


REDACTED = "<redacted>"
# A part of at least this many characters counts as a value; shorter ones occur in any text.
SHORTEST_PART = 8
# Text that every value of a format contains, and ordinary text too.
_PUBLIC = re.compile(r"^[a-z][a-z0-9+.-]{1,20}://|-{5}[A-Z0-9 ]{1,40}-{5}", re.IGNORECASE)
_WORD = re.compile(r"\w+")


def without(text: str, values: frozenset[str]) -> str:
    """Return a text without these values and without any part of them of `SHORTEST_PART` characters
    or more.

    Upper and lower case are alike, and values are also found as Python, JSON and HTML escape them,
    once or twice. A shorter value is removed if it is not part of a longer word.
    """
    return _redaction(values).clean(text) if values else text


class _Redaction:
    """The parts of values that a text must not show; built in about 5 us per value."""

    def __init__(self, values: Iterable[str]) -> None:
        # Hashes, because the parts themselves would take three times the memory.
        self._parts: set[int] = set()
        self._words: set[str] = set()
        self._others: set[str] = set()
        for form in {form for value in values for form in _forms(value) if form}:
            if len(form) < SHORTEST_PART:
                (self._words if _WORD.fullmatch(form) else self._others).add(form)
            for piece in _PUBLIC.split(_lower(form)):
                self._parts.update(map(hash, _parts_of(piece)))

    def clean(self, text: str) -> str:
        """Return a text without values."""
        pieces, copied = [], 0
        for start, end in self._stretches(text):
            pieces += [text[copied:start], REDACTED]
            copied = end
        text = "".join([*pieces, text[copied:]])
        for form in self._others:
            text = text.replace(form, REDACTED)
        if not self._words:
            return text
        return _WORD.sub(lambda m: REDACTED if m.group() in self._words else m.group(), text)

    def _stretches(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield the spans of parts of values, with neighbours joined and surrounding space left
        out."""
        known = self._parts
        places = [at for at, part in enumerate(_parts_of(_lower(text))) if hash(part) in known]
        start = end = 0
        for at in [*places, len(text) + 1]:
            if at > end and end:
                inner = text[start:end]
                yield end - len(inner.lstrip()), start + len(inner.rstrip())
            if at > end or not end:
                start = at
            end = at + SHORTEST_PART


def _parts_of(text: str) -> Iterator[str]:
    return (text[at : at + SHORTEST_PART] for at in range(len(text) - SHORTEST_PART + 1))


def _lower(text: str) -> str:
    """Return a text in lower case, with every letter at its old index."""
    lower = text.lower()
    return lower if len(lower) == len(text) else text


# One set of values per run; several only when tests run pytest within one process.
_redaction = functools.lru_cache(maxsize=4)(_Redaction)


def _forms(value: str) -> set[str]:
    """Return how a value can appear in a text: as it is, escaped once or twice, or as bytes."""
    if value.isascii() and value.isprintable() and not set("'\"\\&<>") & set(value):
        return {value}
    forms = {value, html.escape(value)}
    for _ in range(2):
        forms |= {
            form
            for text in forms
            for form in (
                repr(text)[1:-1],
                ascii(text)[1:-1],
                repr(text.encode("utf-8", "replace"))[2:-1],
                json.dumps(text)[1:-1],
            )
        }
    return forms
