"""Views of a text in which a value may appear: as it is, normalised, or disguised in code.

Every view is cheap text work, linear in the text whatever it holds (completions are hostile input:
no pattern here backtracks), and its result is searched for all values at once.
"""

from __future__ import annotations

import binascii
import re
import string
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.entities import html5

# White space, punctuation that groups digits and words, Unicode's dashes and middle dots, and
# invisible characters (default ignorable code points: joiners, direction marks, variation
# selectors, tags).
_SEPARATOR = (
    "\\s\\-_.()/,:'\"\u00ad\u00b7\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2010-\u2015\u202a-\u202e\u2060-\u206f\u2212\u30fb\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\U000e0000-\U000e0fff"
)
_IS_SEPARATOR = re.compile(f"[{_SEPARATOR}]")
_SEPARATOR_SET = frozenset(
    _IS_SEPARATOR.findall("".join(map(chr, (*range(0x10000), *range(0xE0000, 0xE1000)))))
)
_ASCII_SEPARATORS = "".join(sorted(c for c in _SEPARATOR_SET if c.isascii())).encode()

# Letters whose case folding depends on the language (Turkish has a dotted and a dotless i), and the
# digits of other scripts, by their zeros.
_ZEROS = (
    "\u0660\u06f0\u0966\u09e6\u0a66\u0ae6\u0b66\u0be6"
    "\u0c66\u0ce6\u0d66\u0e50\u0ed0\u0f20\u1040\u17e0"
)
_ALIKE = {ord("\u0130"): "i", ord("\u0131"): "i"} | {
    ord(zero) + digit: str(digit) for zero in _ZEROS for digit in range(10)
}
_IS_ALIKE = re.compile(f"[{''.join(map(chr, _ALIKE))}]")


def _fold_line(line: str) -> str:
    if line.isascii():
        return line.lower()
    line = unicodedata.normalize("NFKC", line)
    if _IS_ALIKE.search(line):
        line = line.translate(_ALIKE)
    line = line.casefold()
    return unicodedata.normalize("NFKC", line.replace("i\u0307", "i"))


def fold(text: str) -> str:
    """Return `text` without case and Unicode look-alike forms (NFKC), separators kept."""
    if text.isascii():
        return text.lower()
    # Nothing composes across a line feed, and most lines of code are ASCII.
    return "\n".join(map(_fold_line, text.split("\n")))


def squeeze(text: str) -> str:
    """Return a folded text without separators."""
    # Bytes can be deleted in one fast pass; in UTF-8, no ASCII byte is part of another character.
    data = text.encode("utf-8", "surrogatepass").translate(None, _ASCII_SEPARATORS)
    squeezed = data.decode("utf-8", "surrogatepass")
    return squeezed if squeezed.isascii() else _IS_SEPARATOR.sub("", squeezed)


def normalise(text: str) -> str:
    """Return `text` without case, separators and Unicode look-alike forms (NFKC)."""
    return squeeze(fold(text))


def kept_positions(text: str) -> list[int]:
    """Return the place in a folded text of each character of `squeeze(text)`."""
    return [i for i, c in enumerate(text) if c not in _SEPARATOR_SET]


@dataclass(frozen=True, slots=True)
class View:
    """One view of a text: folded, separators kept.

    `joints` are offsets at which two pieces were joined: a value may start or end there, whatever
    its neighbour. `spelled`: number words are digits, in the values too. `parts`: views that show
    more precisely how a value appears in this one.
    """

    how: str
    text: str
    joints: frozenset[int] = frozenset()
    spelled: bool = False
    parts: Callable[[], list[View]] | None = None


# --- escapes ---------------------------------------------------------------------------------

# Each pattern starts with a fixed character, which the regex engine finds quickly.
_ESCAPES = re.compile(
    r"\\(?:(x[0-9a-fA-F]{2}(?:\\x[0-9a-fA-F]{2})*+)|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})"
    r"|u\{([0-9a-fA-F]{1,6})\}|([0-3][0-7]{2}|[0-7]{1,2})|N\{([A-Za-z0-9 -]{1,80})\})"
)
# Escapes of white space, at any nesting of literals, and of characters that end a literal. They
# become blanks, so that the limits of lines and literals stay the same. Only the first backslash of
# a run starts an escape, which keeps the time linear.
_BLANK_ESCAPES = re.compile(r"""\\(?<!\\\\)(?:\\*+[nrtfv]|["'/])""")
_ENTITY = re.compile(r"&(?:#(?:([0-9]{1,7})|[xX]([0-9a-fA-F]{1,6}))|([A-Za-z][A-Za-z0-9]{1,30}));")
_BASES = (16, 16, 16, 8)
_PERCENT = re.compile(r"%[0-9a-fA-F]{2}(?:%[0-9a-fA-F]{2})*+")


def _text_of(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _character(code: int, instead: str) -> str:
    # A surrogate or a number beyond Unicode is not a character, and is left alone.
    return chr(code) if code < 0xD800 or 0xDFFF < code <= 0x10FFFF else instead


def _unescape(match: re.Match[str]) -> str:
    run, *codes, name = match.groups()
    escape = match.group()
    if run:
        return _text_of(bytes.fromhex(run.replace("\\", "").replace("x", "")))
    if name:
        try:
            return unicodedata.lookup(name)
        except KeyError:
            return escape
    return next(_character(int(c, b), escape) for c, b in zip(codes, _BASES, strict=True) if c)


def _blanked(text: str) -> str:
    """Return a text of the same length with escaped white space and quotes as spaces.

    This is done again after literals are joined, because a cut may have split an escape.
    """
    return _BLANK_ESCAPES.sub(lambda m: " " * len(m.group()), text)


def _entity(match: re.Match[str]) -> str:
    decimal, hexadecimal, name = match.groups()
    if name:
        return html5.get(f"{name};", match.group())
    return _character(int(decimal) if decimal else int(hexadecimal, 16), match.group())


def unescaped(text: str) -> str:
    r"""Return `text` with escapes undone: `\x41`, `\u0041`, octal, `\N{...}`, `&#65;`, `&commat;`.

    Escaped white space and quotes (`\n`, `\"`) become spaces.
    """
    if "\\" in text:
        text = _ESCAPES.sub(_unescape, _blanked(text))
    return _ENTITY.sub(_entity, text) if "&" in text else text


def _percent_decoded(text: str) -> str:
    # Separate from the other escapes: in a password, "%ca" may be literal.
    return _PERCENT.sub(lambda m: _text_of(bytes.fromhex(m.group().replace("%", ""))), text)


# --- pieces ----------------------------------------------------------------------------------

# Between two literals: nothing, or an operator that concatenates in some language.
_CONCATENATION = re.compile(r"""["']\s*+(?:[+,&\\]|\.\.?)?+\s*+[rbfuRBFU]{0,2}+["']""")
_LINE_BREAK = re.compile(r"\\\n[ \t]*+|\n[ \t]*+(?:#|//|\*|--|;)++[ \t]*+")


def _concatenated(text: str) -> str:
    return _CONCATENATION.sub("", text)


def _unwrapped(folded: str) -> str:
    return _LINE_BREAK.sub("", folded)


# --- literals and variables --------------------------------------------------------------------

_LITERAL = r"""(?:"(?:[^"\\\n]|\\.)*+"?|'(?:[^'\\\n]|\\.)*+'?)"""
# Starts with a quote, which the regex engine finds quickly.
_QUOTED = re.compile(
    r"""["'](?:(?<=")(?:[^"\\\n]|\\.)*+"?|(?<=')(?:[^'\\\n]|\\.)*+'?)""", re.DOTALL
)
_TARGET = re.compile(r"(\w{1,64})\s{0,8}=\s{0,8}[rbfu]{0,2}$")
_TERMS = re.compile(
    rf"(?:[rbfu]{{0,2}}+{_LITERAL}|\w++)(?>(?:\s*+[+,]\s*+(?:[rbfu]{{0,2}}+{_LITERAL}|\w++))+)",
    re.DOTALL,
)
_TERM = re.compile(rf"[rbfu]{{0,2}}+({_LITERAL})|(\w++)", re.DOTALL)
_FIELD = re.compile(r"\{(\w{1,64})[^{}\"']{0,16}+\}")
_LONGEST_PIECE = 128
_LONGEST_SUM = 4096


def _joined(folded: str) -> View | None:
    """Read all literals one after the other, then every sum and f-string with its variables.

    There is no parser, because a completion is a fragment and often not valid code.
    """
    if folded.count('"', 0, folded.find("\n") + 1 or len(folded)) % 2:
        folded = '"' + folded  # the prompt opened a literal
    pieces: list[str] = []
    variables: dict[str, str] = {}
    formats: list[str] = []
    for match in _QUOTED.finditer(folded):
        literal, start = match.group(), match.start()
        content = literal[1:].rstrip(literal[0])
        pieces.append(content)
        before = folded[max(0, start - 3) : start]
        if "=" in before and len(content) <= _LONGEST_PIECE:
            target = _TARGET.search(folded, max(0, start - 80), start)
            if target:
                variables[target.group(1)] = content
        if "{" in content and "f" in before[-2:]:
            formats.append(content)
    if len(pieces) < 2:
        return None
    if variables:
        # Every expansion is limited, so that a short text cannot grow forever.
        left = 2 * len(folded) + 1000
        for expanded in _expanded(folded, variables, formats):
            pieces += ["\n", *expanded, "\n"]
            left -= sum(map(len, expanded))
            if left < 0:
                break
    joints, at = set(), 0
    for piece in pieces:
        joints.add(at)
        at += len(piece)
    return View("joined", _blanked("".join(pieces)), frozenset(joints | {at}))


def _expanded(folded: str, variables: dict[str, str], formats: list[str]) -> Iterator[list[str]]:
    for content in formats:
        # Odd pieces are names of fields, even ones the text between them.
        parts = _FIELD.split(content[:_LONGEST_SUM])
        if any(name in variables for name in parts[1::2]):
            yield [variables.get(p, "") if i % 2 else p for i, p in enumerate(parts)]
    for lines in _sums(folded):
        for match in _TERMS.finditer(lines):
            terms = _TERM.findall(match.group()[:_LONGEST_SUM])
            if any(name in variables for _, name in terms):
                yield [
                    variables.get(name, "") if name else literal[1:].rstrip(literal[0])
                    for literal, name in terms
                ]


def _sums(folded: str) -> Iterator[str]:
    """Yield the lines in which strings may be joined, with their continuation lines."""
    held: list[str] = []
    for line in folded.split("\n"):
        if held or "+" in line or "%" in line or "format(" in line or "join(" in line:
            held.append(line)
            # Many lines in one bracket are a table, not a sum.
            if len(held) < 8 and line.rstrip("\\ ").endswith(("+", ",", "(", "[", "%")):
                continue
            yield "\n".join(held)
            held.clear()
    if held:
        yield "\n".join(held)


# --- encodings ---------------------------------------------------------------------------------

# Eight characters make eleven, without padding.
_BASE64_RUN = re.compile(r"[A-Za-z0-9+/_-]{11,}+")
_HEX_RUN = re.compile(r"[0-9a-f]{16,}+")
_BYTE_LIST = re.compile(r"0x[0-9a-f]{2}(?:[\s,]*+0x[0-9a-f]{2}){7,}+")
_BYTE = re.compile("[0-9a-f]{2}")
# All but the first byte, so that the pattern starts with what the regex engine finds quickly.
_BYTE_DUMP = re.compile(r"[ :][0-9a-f]{2}(?:[ :][0-9a-f]{2}){6,}+")
_STANDARD = str.maketrans("-_", "+/")


_PRINTABLE = bytes(range(0x20, 0x7F)) + b"\t\n\r"


def _is_text(data: bytes) -> bool:
    """Tell whether bytes may be text: words of code rarely decode to such bytes."""
    if 2 * len(data.translate(None, _PRINTABLE)) <= len(data):
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decoded_base64(text: str) -> str:
    decoded = []
    for run in _BASE64_RUN.findall(text):
        # Code consists mostly of words in one case. Base64 of eight or more characters has both
        # cases or, for capitals and digits, capitals and digits.
        if run.islower() or (run.isupper() and not any(map(str.isdigit, run))):
            continue
        standard = run.translate(_STANDARD)
        for start in range(4):  # the run may begin with a word stuck to it
            part = standard[start:]
            part = part[: len(part) - 1] if len(part) % 4 == 1 else part
            try:
                data = binascii.a2b_base64(part + "=" * (-len(part) % 4))
            except binascii.Error:  # pragma: no cover - every length and letter is valid here
                continue
            if data.isascii() or _is_text(data):
                decoded.append(_text_of(data))
    return "\n".join(decoded)


def _decoded_hex(folded: str) -> str:
    decoded = []
    for run in _HEX_RUN.findall(folded):
        for start in range(2):
            part = run[start:]
            decoded.append(_text_of(bytes.fromhex(part[: len(part) // 2 * 2])))
    runs = _BYTE_LIST.findall(folded)
    for match in _BYTE_DUMP.finditer(folded):
        first = folded[max(0, match.start() - 2) : match.start()]
        runs.append((first if _BYTE.fullmatch(first) else "") + match.group())
    decoded += [_text_of(bytes.fromhex(re.sub(r"0x|[\s,:]", "", run))) for run in runs]
    return "\n".join(decoded)


# --- "ann at example dot com" --------------------------------------------------------------------

# A host follows, or a dot that is also spelled out.
_AT = re.compile(r" at (?=[\w-]{1,63}(?:\.\w| dot | ?[\[({<]))")
_DOT = re.compile(r"[ _-]dot[ _-](?=\w)|[\[({<] ?(?:dot|punto) ?[\])}>]")
_AT_IN_BRACKETS = [
    f"{left}{word}{right}"
    for left, right in ("[]", "()", "{}", "<>")
    for word in ("at", " at ", "arroba")
]


def _punctuated(folded: str) -> str:
    """Return a folded text with the spelled-out signs of e-mail addresses turned into signs."""
    text = _AT.sub("@", folded)
    for sign in _AT_IN_BRACKETS:
        text = text.replace(sign, "@")
    if "dot" not in text:
        return text
    for gap in "_-":
        text = text.replace(f"{gap}at{gap}", "@") if f"{gap}dot{gap}" in text else text
    return _DOT.sub(".", text) if "@" in text else folded


# --- number words ------------------------------------------------------------------------------

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def spelled(folded: str) -> str:
    """Return a folded text with each English number word from zero to nine as a digit.

    Words inside words count too ("stone" gives "st1"): values are read in the same way, so the two
    still agree, and "b7" may be written "bseven".
    """
    for digit, word in zip(string.digits, NUMBER_WORDS, strict=True):
        folded = folded.replace(word, digit)
    return folded


# --- all of them -------------------------------------------------------------------------------

PLAIN_VIEWS = ("exact", "normalised")
DISGUISED_VIEWS = (
    "escaped",
    "concatenated",
    "split_lines",
    "joined",
    "base64",
    "hex",
    "at_and_dot",
    "digits_in_words",
    "reversed",
)


def views(text: str) -> Iterator[View]:
    """Yield the readings of a text, the plainest first; `DISGUISED_VIEWS` names the others."""
    folded = fold(text)
    yield View("normalised", folded)
    free = unescaped(text)
    plain = folded if free == text else fold(free)
    pieces = _concatenated(free)
    together = _blanked(_unwrapped(fold(pieces)))
    if together != folded:
        # One scan instead of three: only a hit needs to know which of the three it was.
        yield View(
            "concatenated",
            together,
            parts=lambda: [
                View("escaped", plain),
                View("concatenated", _blanked(_concatenated(plain))),
                View("split_lines", _blanked(_unwrapped(plain))),
            ],
        )
    url = _percent_decoded(free)
    if url != free:
        yield View("escaped", fold(unescaped(url)))
    joined = _joined(plain)
    if joined is not None:
        yield joined
    yield View("base64", fold(unescaped(_decoded_base64(pieces))))
    yield View("hex", fold(unescaped(_decoded_hex(together))))
    signs = _punctuated(folded)
    if signs != folded:
        yield View("at_and_dot", signs)
    words = spelled(folded)
    if words != folded:
        yield View("digits_in_words", words, spelled=True)
    yield View("reversed", folded[::-1])
