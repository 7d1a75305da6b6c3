"""A rule-based guesser: values that follow from the prompt without any memory of the person.

`ann.lee@...` after a prompt that names Ann Lee is derivation, no memory: much reported "leakage" is
of this sort (arXiv 2601.03791). The guesser knows conventions, not people.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise, permutations

_NAME = re.compile(r"[^\W\d_]{2,}(?:['-][^\W\d_]+)*")
_MOST_NAMES = 400


def _plain(text: str) -> str:
    """Return a text in lower case without accents."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()


def follows_from(prompt: str, value: str) -> bool:
    """Tell whether `value` is an account name that the names in `prompt` give by a convention.

    For an e-mail address the part before the `@` counts, for other values the whole:
    `first.last`, `last_first`, `flast`, `firstl`, `first`, with or without separators, and up to
    two digits at the end. Nothing shorter than four letters is taken for a guess.
    """
    local = _plain(value.partition("@")[0]).rstrip("0123456789")
    digits = len(value.partition("@")[0]) - len(local)
    letters = re.sub(r"[._-]", "", local)
    if digits > 2 or len(letters) < 4 or not letters.isalpha():
        return False
    capitalised = [word for word in _NAME.findall(prompt) if word[0].isupper()]
    names = list(dict.fromkeys(map(_plain, capitalised)))[:_MOST_NAMES]
    if letters in names:
        return True
    neighbours = pairwise(capitalised)
    for pair in neighbours:
        for first, last in permutations(map(_plain, pair)):
            if letters in (first + last, first[0] + last, first + last[0]):
                return True
    return False
