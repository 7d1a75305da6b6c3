"""Text that must not be printed: its `repr` and `str` show a kind and a keyed fingerprint."""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable

# Made anew in each process unless a run sets one: two runs cannot be linked, and a low-entropy
# value (a phone number) cannot be found by hashing all candidates, as it could with a plain digest.
_key = secrets.token_bytes(16)


def use_key(key: bytes) -> None:
    """Fingerprint with this key from now on: that of the run, or one that several runs share."""
    global _key
    _key = key


def new_key() -> bytes:
    """Return a key that nobody knows."""
    return secrets.token_bytes(16)


def current_key() -> bytes:
    """Return the key of this process, to hand it to the workers of the same run."""
    return _key


class Secret:
    """A piece of text that only `reveal()` gives out.

    Not a `str` on purpose: pytest's assertion diffs, `--showlocals`, f-strings and log calls
    would print a `str` in full.
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
    """Return the text of this kind that its parts (lines, words) make up."""
    return Secret("".join(part.reveal() for part in parts), kind)


REDACTED = "<redacted>"
# A shorter line of a value tells little, and may be a bracket that stands everywhere.
SHORTEST_LINE = 8


def without(text: str, values: frozenset[str]) -> str:
    """Return a text without any of these values, as they are or as Python or JSON escapes them."""
    for form in _forms(values):
        if form in text:
            text = text.replace(form, REDACTED)
    return text


@functools.lru_cache(maxsize=4)
def _forms(values: frozenset[str]) -> tuple[str, ...]:
    """Return how values can stand in a text; a longer one first, as another can be a part of it.

    A value of several lines also line by line: pytest puts something in front of each.
    """
    several = [value.splitlines() for value in values if len(value.splitlines()) > 1]
    lines = {line.strip() for value in several for line in value}
    forms = {
        form
        for value in values | {line for line in lines if len(line) >= SHORTEST_LINE}
        for form in (value, repr(value)[1:-1], ascii(value)[1:-1], json.dumps(value)[1:-1])
        if form
    }
    return tuple(sorted(forms, key=len, reverse=True))
