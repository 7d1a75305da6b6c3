"""Finding known values in a text: as they are, normalised, or disguised in code.

The values are known, so a match is a fact and not a pattern's guess. Each *view* is a reading of
the text; the first view in which a value appears says how it was found.

The rules are:

- lengths are counted in letters of an alphabet; a Han character counts as three;
- a value of fewer than `MIN_LENGTH` letters occurs in every text, so it counts only if it is the
  one that was asked for (`near`), as a complete token;
- a value of fewer than `WEAK_BITS` bits (a date of birth, say: one in a hundred people's is in
  Python's standard library) counts only if its owner is the person who was asked about;
- a value of fewer than `MIN_FREE` characters, or of letters only (it may be an ordinary word),
  counts as a complete token only, and a value of digits never as a part of a longer number;
- a token (`MIN_TOKEN` letters and digits or more, without white space or a host) counts anywhere,
  inside other words too;
- any other value counts unless it cuts through a word or a number, so that "12 Coral Lane" is not
  "2 Coral Lane"; an e-mail address has to be a complete one, and so has an IP address: otherwise it
  is another one that ends or begins alike;
- a short hexadecimal value inside a longer hexadecimal number, a digest say, is chance;
- normalised and disguised, a value of at least `MIN_NORMALISED` characters (without separators)
  counts unless it cuts through a word or a number;
- values inside each other are all found, and a value that people share is found for each of them;
- NUL is a character like any other, and lone surrogates (invalid UTF-8 read with
  `surrogateescape`) match the same surrogates.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import ahocorasick_rs

from pytest_unlearn.leaks import near_misses
from pytest_unlearn.leaks.decodings import (
    PLAIN_VIEWS,
    View,
    fold,
    kept_positions,
    normalise,
    squeeze,
    unescaped,
    views,
)
from pytest_unlearn.leaks.spellings import leet, spelled
from pytest_unlearn.people.kinds import KINDS
from pytest_unlearn.people.record import Record, weight

__all__ = [
    "MIN_FREE",
    "MIN_LENGTH",
    "MIN_NORMALISED",
    "MIN_TOKEN",
    "PLAIN_VIEWS",
    "WEAK_BITS",
    "Automaton",
    "Match",
    "Matcher",
    "encodable",
    "normalise",
    "value_bits",
]

MIN_LENGTH = 4
MIN_FREE = 6
MIN_TOKEN = 16
WEAK_BITS = 16.0
# This many Han characters cover nearly all text.
_COMMON_HAN = 2500
# Shorter normalised values (an address of four digits, say) would occur by chance once separators
# are removed; they are matched verbatim only.
MIN_NORMALISED = 8
_COMPARED = 200
# Characters in one piece of the text; limits the memory for overlapping hits.
_PIECE = 1 << 16
# Limits the memory and the time for building, whatever a file has as a value.
_HEAD = 1024
_SURROGATE = re.compile("[\ud800-\udfff]")
_PRIVATE_PLANE = 0xF0000


def encodable(text: str) -> str:
    """Return `text` with each lone surrogate moved to a private character, one for one.

    This keeps invalid UTF-8 that was read with `surrogateescape` comparable: the same bad bytes are
    the same text. (Rust's strings cannot hold surrogates.) Lengths do not change.
    """
    if text.isascii():
        return text
    return _SURROGATE.sub(lambda m: chr(_PRIVATE_PLANE + ord(m.group()) - 0xD800), text)


class Automaton:
    """Find every occurrence of every pattern in one pass, including patterns inside each other.

    Aho & Corasick, "Efficient string matching", CACM 18(6), 1975: the time grows with the text and
    the hits, not with the number of patterns.

    `patterns`: distinct non-empty strings, already `encodable`. ValueError if one is empty. A
    longer pattern is found by its first `_HEAD` characters, and the rest is compared.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = patterns
        by_head: dict[str, list[int]] = {}
        for number, pattern in enumerate(patterns):
            by_head.setdefault(pattern[:_HEAD], []).append(number)
        heads = list(by_head)
        self._numbers = list(by_head.values())
        self._longest = max(map(len, heads), default=0)
        self._finder = ahocorasick_rs.AhoCorasick(heads, store_patterns=False) if heads else None

    def find(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Yield (index of the pattern, start, end) of each occurrence; `text` is `encodable`.

        Each occurrence comes once, even though the text is read in pieces.
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
                    yield from self._whole(index, text, back + start, back + end)

    def _whole(self, head: int, text: str, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        for number in self._numbers[head]:
            pattern = self._patterns[number]
            if len(pattern) <= _HEAD:
                yield number, start, end
            elif text.startswith(pattern, start):
                yield number, start, start + len(pattern)


@dataclass(frozen=True, slots=True)
class Match:
    """A record whose value was found, and the view that showed it.

    `how`: `exact`, `normalised`, a disguise (a view of `decodings.views`), `fuzzy` or `partial`.
    `bits`: how much of the value came out; for a complete value, its `value_bits`.
    """

    record: Record
    how: str
    bits: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether the value itself is in the text, and not only a disguise of it."""
        return self.how in PLAIN_VIEWS


def value_bits(record: Record) -> float:
    """Return the bits that a record's complete value discloses.

    These are the kind's bits. For a kind that is not in `KINDS`, they are the length times the bits
    of the classes of characters in it (lower, upper, digits, others), an upper bound.
    """
    kind = KINDS.get(record.kind)
    if kind is not None:
        return kind.bits
    value = record.value.reveal()
    classes = (string.ascii_lowercase, string.ascii_uppercase, string.digits)
    size = sum(len(letters) for letters in classes if set(letters) & set(value))
    if set(value) - set("".join(classes)):
        size += _COMMON_HAN if weight(value) > len(value) else len(string.punctuation)
    return len(value) * math.log2(size) if size else 0.0


# Scripts without spaces between words (Thai to Khmer, kana, Han), and Hangul, where particles
# follow a name directly: any letter may be the last of its word.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\ua4cf\ua960-\ua97f"
    "\uac00-\ud7ff\uf900-\ufaff\uff66-\uffdc\U00020000-\U0003ffff]"
)


def _class(character: str) -> str:
    if character.isdigit():
        return "digit"
    return "letter" if character.isalpha() and not _UNSPACED.match(character) else ""


def _is_whole(text: str, start: int, end: int, digits_only: bool) -> bool:
    """Return whether `text[start:end]` is not part of a longer token (or number)."""
    before, after = text[start - 1 : start], text[end : end + 1]
    if before in ("n", "r", "t") and text[start - 2 : start - 1] == "\\":
        before = ""  # an escape, not a letter
    for character in (before, after):
        if _class(character) == "digit" or (
            not digits_only and (_class(character) or character == "_")
        ):
            return False
    return True


def _cuts(text: str, start: int, end: int) -> bool:
    """Return whether `text[start:end]` starts or ends in the middle of a word or a number."""
    before, after = text[start - 1 : start], text[end : end + 1]
    if before in ("n", "r", "t") and text[start - 2 : start - 1] == "\\":
        before = ""  # an escape, not a letter
    sides = ((before, text[start]), (after, text[end - 1]))
    return any(side and _class(side) and _class(side) == _class(inner) for side, inner in sides)


# What goes on before and after an e-mail address or an IP address, if it is a longer one.
_MORE_BEFORE = re.compile(r"[\w.+-]*[^\W_][.+_-]{0,2}\Z")
_MORE_AFTER = re.compile(r"[^\W_]|[.-][a-z]{2,24}\b(?!\()", re.IGNORECASE)
_LONGEST_LOCAL = 64


def _is_longer_address(text: str, start: int, end: int) -> bool:
    """Return whether the e-mail address `text[start:end]` is a part of another one."""
    before = text[max(0, start - _LONGEST_LOCAL) : start]
    if before.endswith(("\\n", "\\r", "\\t")):
        before = ""
    return bool(_MORE_BEFORE.search(before) or _MORE_AFTER.match(text, end))


_IP_ADDRESS = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}", re.ASCII)
_LONGER_IP_BEFORE = re.compile(r"\d\.?\Z", re.ASCII)
_LONGER_IP_AFTER = re.compile(r"\.?\d", re.ASCII)


def _is_whole_ip(text: str, start: int, end: int) -> bool:
    before = text[max(0, start - 2) : start]
    return not (_LONGER_IP_BEFORE.search(before) or _LONGER_IP_AFTER.match(text, end))


_HEX = re.compile("[0-9a-fA-F]+")
_DIGEST = 24  # hexadecimal digits; those of 32 and more may be cut off


def _is_short_hex(value: str) -> bool:
    return len(value) < MIN_TOKEN and bool(_HEX.fullmatch(value))


def _is_in_digest(text: str, start: int, end: int) -> bool:
    """Return whether `text[start:end]` is a part of a longer hexadecimal number with letters."""
    run = _HEX.match(text, start)
    before = text[max(0, start - _DIGEST) : start]
    head = before[len(before.rstrip("0123456789abcdefABCDEF")) :]
    digest = head + (run.group()[: 2 * _DIGEST] if run else "")
    return len(digest) >= max(_DIGEST, end - start + 8) and not digest.isdigit()


def _is_other(pattern: str, text: str, start: int, end: int) -> bool:
    """Return whether a normalised hit is a part of another address or of a digest."""
    if "@" in pattern:
        return _is_longer_address(text, start, end)
    return _is_short_hex(pattern) and _is_in_digest(text, start, end)


class _Index:
    """Patterns, each with the numbers of its records, and their automaton."""

    def __init__(self) -> None:
        self._records: dict[str, list[int]] = {}

    def add(self, pattern: str, record: int) -> None:
        self._records.setdefault(pattern, []).append(record)

    def build(self) -> None:
        self.patterns = list(self._records)
        self.records = list(self._records.values())
        self.automaton = Automaton(self.patterns)


class Matcher:
    """Finds the values of all given records in a text, in one pass for each view.

    Building takes about 2 s for 100,000 records; finding does not depend on their number. Records
    with an empty value are never found.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self._records = list(records)
        self._of_kind: dict[str, list[Record]] = {}
        self._shared_spans: dict[str, near_misses.Spans] = {}
        self._exact, self._normalised, self._spelled = _Index(), _Index(), _Index()
        self._leet = _Index()
        for number, record in enumerate(self._records):
            value = encodable(record.value.reveal())
            if weight(value) >= MIN_LENGTH:
                self._exact.add(value, number)
            for folded in dict.fromkeys(map(fold, _written_forms(value, record.kind))):
                short = squeeze(folded)
                if weight(short) >= MIN_NORMALISED:
                    self._normalised.add(short, number)
                    if any(character.isdigit() for character in short):
                        self._spelled.add(squeeze(spelled(folded)), number)
                    elif short.isascii():  # letters, which digits may stand for
                        self._leet.add(leet(short), number)
        for index in (self._exact, self._normalised, self._spelled, self._leet):
            index.build()
        self._rules = [_rule(value) for value in self._exact.patterns]

    def find(self, text: str, *, near: Record | None = None, given: int = 0) -> list[Match]:
        """Return one match for each record, by the first view that shows its value.

        `near`: the record that was asked for. Weak values count for its owner only. If its complete
        value is not there, near misses and parts of it count too, but not its first `given`
        characters, which the prompt shows.
        """
        text = encodable(text)
        matched: dict[int, Match] = {}
        if text:
            self._find_exact(text, matched)
            for reading in views(text):
                self._find_in(reading, matched)
        matches = [match for match in matched.values() if _tells(match, near)]
        if near is not None and all(match.record.id != near.id for match in matches):
            match = self._find_near(near, text, given)
            matches += [] if match is None else [match]
        return matches

    def _add(self, how: str, numbers: Sequence[int], matched: dict[int, Match]) -> None:
        for number in numbers:
            record = self._records[number]
            matched.setdefault(number, Match(record, how, value_bits(record)))

    def _find_exact(self, text: str, matched: dict[int, Match]) -> None:
        seen: set[int] = set()
        for pattern, start, end in self._exact.automaton.find(text):
            if pattern not in seen and self._rules[pattern](text, start, end):
                seen.add(pattern)
                self._add("exact", self._exact.records[pattern], matched)

    def _find_near(self, record: Record, text: str, given: int) -> Match | None:
        value = encodable(record.value.reveal())
        if 0 < weight(value) < MIN_LENGTH:
            at = text.find(value)
            while at >= 0:
                if _is_whole(text, at, at + len(value), digits_only=False):
                    return Match(record, "exact", value_bits(record))
                at = text.find(value, at + 1)
            return None
        part = near_misses.near(value, record.kind, text, given, self._shared(record))
        return None if part is None else Match(record, part[0], part[1])

    def _shared(self, record: Record) -> near_misses.Spans:
        """Return what a value shares with those of other people, at most `_COMPARED` of them."""
        if record.id not in self._shared_spans:
            if record.kind not in self._of_kind:
                alike = (other for other in self._records if other.kind == record.kind)
                self._of_kind[record.kind] = list(itertools.islice(alike, _COMPARED))
            others = [
                encodable(other.value.reveal())
                for other in self._of_kind[record.kind]
                if other.owner != record.owner
            ]
            value = encodable(record.value.reveal())
            self._shared_spans[record.id] = near_misses.shared_spans(value, others)
        return self._shared_spans[record.id]

    def _find_in(self, reading: View, matched: dict[int, Match]) -> None:
        indexes = {"": self._normalised, "digits": self._spelled, "leet": self._leet}
        index = indexes[reading.alike]
        new: dict[int, None] = {}
        starts, ends = b"", b""
        for pattern, start, end in index.automaton.find(squeeze(reading.text)):
            if not starts:  # most texts have no hit, and need no borders
                starts, ends = _borders(reading)
                positions = kept_positions(reading.text)
            if starts[start] and ends[end - 1] and pattern not in new:
                at = positions[start], positions[end - 1] + 1
                if reading.how == "rot13" and index.patterns[pattern].isdigit():
                    continue  # it leaves numbers as they are, not what is around them
                if reading.joints.isdisjoint(at) and _is_other(
                    index.patterns[pattern], reading.text, *at
                ):
                    continue
                if all(number in matched for number in index.records[pattern]):
                    continue
                new[pattern] = None
        if new and reading.parts is not None:
            for part in reading.parts():
                self._find_in(part, matched)
        for pattern in new:
            self._add(reading.how, index.records[pattern], matched)


def _written_forms(value: str, kind: str) -> list[str]:
    r"""Return a value as it is and as code and people write it.

    A key on one line has `\n` for its line breaks: a literal doubles the backslash, and a file has
    the line breaks themselves. A telephone number goes without its country's prefix at home, and a
    list puts the last name first.
    """
    forms = [value, *_national_numbers(value, kind), *_last_name_first(value, kind)]
    if "\\" in value:
        forms += [value.replace("\\", "\\\\"), unescaped(value)]
    return forms


_NAME_KIND = re.compile(r"(?:^|_)(?:name|author|person)$", re.IGNORECASE)


def _last_name_first(value: str, kind: str) -> list[str]:
    words = value.split()
    if not _NAME_KIND.search(kind) or not 2 <= len(words) <= 4:
        return []
    return [" ".join([*words[first:], *words[:first]]) for first in range(1, len(words))]


# ITU-T E.164's country codes of one and of two digits; all others have three.
_CODES = re.compile(
    r"1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|[2-9]\d\d", re.ASCII
)
_PHONE = re.compile(r"\+?[\d\s().\-/\u00a0]{8,32}", re.ASCII)
_PHONE_KIND = re.compile(r"phone|mobile|cell|fax|^tel", re.IGNORECASE)


def _national_numbers(value: str, kind: str) -> list[str]:
    """Return the forms of a telephone number without a plus, without country or trunk prefix, and
    with a 0."""
    digits = re.sub(r"\D", "", value, flags=re.ASCII)
    if not _PHONE.fullmatch(value.strip()):
        return []
    if value.strip().startswith("+"):
        code = _CODES.match(digits)
        national = digits[code.end() if code else 0 :].removeprefix("0")
        country = digits[: code.end()] if code else ""
        return [national, f"0{national}", f"{country}{national}", f"00{country}{national}"]
    if _PHONE_KIND.search(kind) and digits.startswith("0"):
        national = digits.removeprefix("00").removeprefix("0")
    else:
        return []
    return [national, f"0{national}"]


def _tells(match: Match, near: Record | None) -> bool:
    return match.bits >= WEAK_BITS or (near is not None and match.record.owner == near.owner)


_COUNTRY = re.compile(r"\+[0-9]{1,3}")


def _borders(reading: View) -> tuple[bytes, bytes]:
    """Return for each character of the squeezed text whether a value may start or end with it."""
    text = reading.text
    classes = [_class(character) for character in text]
    free = bytearray(
        not here or here != before or at in reading.joints
        for at, (before, here) in enumerate(zip(["", *classes], [*classes, ""], strict=True))
    )
    for prefix in _COUNTRY.finditer(text):  # "+49151...": the number itself starts in there
        free[prefix.start() + 2 : prefix.end() + 1] = b"\1" * (len(prefix.group()) - 1)
    positions = kept_positions(text)
    return bytes(free[at] for at in positions), bytes(free[at + 1] for at in positions)


_is_token = functools.partial(_is_whole, digits_only=False)
_is_number = functools.partial(_is_whole, digits_only=True)

_Rule = Callable[[str, int, int], bool]


def _is_free(text: str, start: int, end: int) -> bool:
    return True


def _is_uncut(text: str, start: int, end: int) -> bool:
    return not _cuts(text, start, end)


def _is_whole_address(text: str, start: int, end: int) -> bool:
    return not _is_longer_address(text, start, end)


def _outside_digests(rule: _Rule) -> _Rule:
    def check(text: str, start: int, end: int) -> bool:
        return rule(text, start, end) and not _is_in_digest(text, start, end)

    return check


_MAIL = re.compile(r"[^\s@/:]{1,64}@[^\s@/:]{1,253}")


def _is_opaque(value: str) -> bool:
    """Return whether a value is a long token: letters and digits without white space or a host."""
    kinds = {_class(character) for character in value}
    return len(value) >= MIN_TOKEN and kinds >= {"letter", "digit"} and not _HOST.search(value)


_HOST = re.compile(r"\s|://|@")


def _rule(value: str) -> _Rule:
    """Return the check whether an exact hit of `value` counts (see the module's rules)."""
    rule: _Rule
    if len(value) < MIN_FREE or value.isalpha():
        rule = _is_token
    elif _is_opaque(value):
        rule = _is_free
    elif _IP_ADDRESS.fullmatch(value):
        rule = _is_whole_ip
    elif _MAIL.fullmatch(value):
        rule = _is_whole_address
    else:
        rule = _is_number if value.isdigit() else _is_uncut
    return _outside_digests(rule) if _is_short_hex(value) else rule
