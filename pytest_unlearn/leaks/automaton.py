"""All occurrences of many strings in a text, in one pass (Aho-Corasick).

Aho & Corasick, "Efficient string matching", CACM 18(6), 1975: the time grows with the text and the
hits, and not with the number of strings. The library is `ahocorasick-rs` (Rust, Apache 2.0).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import ahocorasick_rs

# Characters in one piece of the text: bounds the memory that overlapping hits take.
_PIECE = 1 << 16
_SURROGATE = re.compile("[\ud800-\udfff]")
_PRIVATE_PLANE = 0xF0000


def encodable(text: str) -> str:
    """Return `text` with each lone surrogate moved to a private character, one for one.

    Invalid UTF-8 that was read with `surrogateescape` stays comparable in this way: the same bad
    bytes are still the same text. (Rust's strings hold no surrogates.) Lengths do not change.
    """
    if text.isascii():
        return text
    return _SURROGATE.sub(lambda m: chr(_PRIVATE_PLANE + ord(m.group()) - 0xD800), text)


class Automaton:
    """Finds every occurrence of every pattern; patterns inside each other are all found.

    `patterns`: distinct non-empty strings, already `encodable`. ValueError if one is empty.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._longest = max(map(len, patterns), default=0)
        self._finder = (
            ahocorasick_rs.AhoCorasick(patterns, store_patterns=False) if patterns else None
        )

    def find(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Yield (index of the pattern, start, end) of each occurrence; `text` is `encodable`.

        Each occurrence comes once, whatever pieces the text is read in.
        """
        if self._finder is None:
            return
        piece = max(_PIECE, 4 * self._longest)
        for begin in range(0, len(text), piece):
            # Read back far enough to see a pattern that ends just after the seam.
            back = max(0, begin - self._longest + 1)
            part = text[back : begin + piece]
            for index, start, end in self._finder.find_matches_as_indexes(part, overlapping=True):
                if back + end > begin:
                    yield index, back + start, back + end
