"""Views of a text in which a value may appear: as it is, normalised, or disguised in code.

Every view is cheap text work, linear in the text whatever it holds (completions are hostile input:
no pattern here backtracks), and its result is searched for all values at once.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import re
import string
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from html.entities import html5
from itertools import product
from typing import Literal

from pytest_unlearn.leaks.literals import pieces_of_literals
from pytest_unlearn.leaks.spellings import counted, leet_lines, punctuated, spelled

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
# Accents and vowel points (Latin, Greek, Cyrillic, Hebrew, Arabic), which people leave out, and
# letters with a stroke or of two letters, which Unicode does not decompose.
_MARKS = re.compile(
    "[\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"
    "\u0610-\u061a\u064b-\u065f\u0670\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+"
)
_PLAIN_LETTERS: dict[str, str] = {
    "\u00f8": "o", "\u0142": "l", "\u0111": "d", "\u00f0": "d", "\u0127": "h", "\u00e6": "ae",
    "\u0153": "oe", "\u00fe": "th",
}  # fmt: skip
# Small letters of Greek and Cyrillic that look like a Latin one, or whose capitals do. Values are
# read in the same way, so names of these scripts are still found.
_PLAIN = str.maketrans(_PLAIN_LETTERS) | str.maketrans(
    "\u03b1\u03b2\u03b5\u03b7\u03b9\u03ba\u03bd\u03bf\u03c1\u03c4\u03c5\u03c7"
    "\u0430\u0432\u0435\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445\u0455\u0456\u0458"
    "\u04bb\u04cf\u0501\u051b\u051d",
    "abehikvoptyxabekmhopctyxsijhldqw",
)


def _fold_line(line: str) -> str:
    if line.isascii():
        return line.lower()
    line = unicodedata.normalize("NFKC", line)
    if _IS_ALIKE.search(line):
        line = line.translate(_ALIKE)
    line = _MARKS.sub("", unicodedata.normalize("NFKD", line.casefold()))
    return unicodedata.normalize("NFKC", line).translate(_PLAIN)


def fold(text: str) -> str:
    """Return `text` without case, accents and look-alike letters and forms, separators kept."""
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
    """Return `text` without case, accents, separators, and look-alike letters and forms."""
    return squeeze(fold(text))


def kept_positions(text: str) -> list[int]:
    """Return the place in a folded text of each character of `squeeze(text)`."""
    return [i for i, c in enumerate(text) if c not in _SEPARATOR_SET]


@dataclass(frozen=True, slots=True)
class View:
    """One view of a text: folded, separators kept.

    `joints` are offsets at which two pieces were joined: a value may start or end there, whatever
    its neighbour. `alike`: number words are digits, or digits letters (leet), in the values too.
    `parts`: views that show more precisely how a value appears in this one.
    """

    how: str
    text: str
    joints: frozenset[int] = frozenset()
    alike: Literal["", "digits", "leet"] = ""
    parts: Callable[[], list[View]] | None = None


# --- escapes ---------------------------------------------------------------------------------

# Each pattern starts with a fixed character, which the regex engine finds quickly. Literals inside
# literals double the backslash.
_ESCAPES = re.compile(
    r"\\(?<!\\\\)\\*+(?:(x[0-9a-fA-F]{2}(?:\\++x[0-9a-fA-F]{2})*+)"
    r"|([0-3][0-7]{2}(?:\\++[0-3][0-7]{2})++)|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})"
    r"|u\{([0-9a-fA-F]{1,6})\}|([0-3][0-7]{2}|[0-7]{1,2})|N\{([A-Za-z0-9 -]{1,80})\})"
)
_NUMBERED_WORDS = ("chr", "CHR", "char(", "CHAR(", "CharCode", "charcode", "odePoint", "odepoint")
_NUMBERED = re.compile(
    r"\b(?:chrw?|char|string\.from(?:charcode|codepoint))\(\s*+(0x[0-9a-f]{1,6}|[0-9]{1,7})\s*+\)",
    re.IGNORECASE,
)
# Escapes of white space, at any nesting of literals, and of characters that end a literal. They
# become blanks, so that the limits of lines and literals stay the same, and so do separators that a
# regular expression escapes. Only the first backslash of a run starts an escape, which keeps the
# time linear.
_BLANK_ESCAPES = re.compile(r"""\\(?<!\\\\)(?:\\*+[nrtfv]|[-"'/ .()])""")
_ENTITY = re.compile(r"&(?:#(?:([0-9]{1,7})|[xX]([0-9a-fA-F]{1,6}))|([A-Za-z][A-Za-z0-9]{1,30}));")
_BASES = (16, 16, 16, 8)
_PERCENT = re.compile(r"%[0-9a-fA-F]{2}(?:%[0-9a-fA-F]{2})*+")


def _text_of(data: bytes) -> str:
    if 3 * data.count(0) > len(data):  # UTF-16, as Windows encodes text
        return data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16-le", "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _character(code: int, instead: str) -> str:
    # A surrogate or a number beyond Unicode is not a character, and is left alone.
    return chr(code) if code < 0xD800 or 0xDFFF < code <= 0x10FFFF else instead


# CSS: up to six digits, and a blank that ends them. Two in a row at least.
_CSS_ESCAPES = re.compile(r"\\[0-9a-fA-F]{2,6}[ \t]?(?:\\[0-9a-fA-F]{2,6}[ \t]?)++")


def _css_character(match: re.Match[str]) -> str:
    codes = match.group().replace("\\", " ").split()
    return "".join(_character(int(code, 16), " ") for code in codes)


def _unescape(match: re.Match[str]) -> str:
    run, octal, *codes, name = match.groups()
    escape = match.group()
    if run:
        return _text_of(bytes.fromhex(run.replace("\\", "").replace("x", "")))
    if octal:
        return _text_of(bytes(int(code, 8) for code in octal.split("\\") if code))
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


def _numbered_character(match: re.Match[str]) -> str:
    number = match.group(1).lower()
    return _character(int(number, 16 if "x" in number else 10), " ")


def _numbered(match: re.Match[str]) -> str:
    character = _numbered_character(match)
    return f'"{character}"' if character not in "\"'\\\n" else '" "'


def unescaped(text: str) -> str:
    r"""Return `text` with escapes undone: `\x41`, `\u0041`, octal, `\N{...}`, `&#65;`, `&commat;`.

    Escaped white space and quotes (`\n`, `\"`) become spaces, and `chr(65)` a literal.
    """
    if "\\" in text:
        text = _ESCAPES.sub(_unescape, _blanked(text))
    if any(word in text for word in _NUMBERED_WORDS):
        text = _NUMBERED.sub(_numbered, text)
    return _ENTITY.sub(_entity, text) if "&" in text else text


# A plus sign in a query is a blank. Quoted-printable text has at least two codes in a row.
_QUERY = re.compile(r"[?&][\w.-]{0,64}=[^\s\"'<>&?+]{0,512}\+[^\s\"'<>&]{0,2048}")
_QUOTED_PRINTABLE = re.compile(r"=[0-9A-F]{2}(?:=[0-9A-F]{2})++")
_MOST_LAYERS = 3


def _percent_decoded(text: str) -> list[str]:
    """Return what percent escapes give, layer by layer: in a password, "%ca" is literal."""
    layers = [text]
    if "+" in text and ("?" in text or "&" in text):
        text = _QUERY.sub(lambda m: m.group().replace("+", " "), text)
    if "=" in text:
        text = _QUOTED_PRINTABLE.sub(_bytes_in_hex, text)
    layers.append(text)
    while "%" in text and len(layers) < 2 + _MOST_LAYERS:
        text = _PERCENT.sub(_bytes_in_hex, text)
        layers.append(text)
    return [layer for last, layer in itertools.pairwise(layers) if layer != last]


def _bytes_in_hex(match: re.Match[str]) -> str:
    return _text_of(bytes.fromhex(match.group().replace(match.group()[0], "")))


# --- pieces ----------------------------------------------------------------------------------

# Between two literals: nothing, or an operator that concatenates in some language.
_CONCATENATION = re.compile(r"""["']\s*+(?:[+,&\\]|\.\.?|\|\|)?+\s*+[rbfuRBFU]{0,2}+["']""")
_LINE_BREAK = re.compile(r"\\\n[ \t]*+|(?<=\S)=\n(?=\S)|\n[ \t]*+(?:#|//|\*|--|;)++[ \t]*+")


def _concatenated(text: str) -> str:
    return _CONCATENATION.sub("", text)


def _unwrapped(folded: str) -> str:
    return _LINE_BREAK.sub("", folded)


def _joined(pieces: list[str]) -> View:
    joints = frozenset(itertools.accumulate(map(len, pieces), initial=0))
    return View("joined", _blanked("".join(pieces)), joints)


# --- encodings ---------------------------------------------------------------------------------

# Eight characters make eleven, without padding.
_BASE64_RUN = re.compile(r"[A-Za-z0-9+/_-]{11,}+")
_HEX_RUN = re.compile(r"[0-9a-f]{16,}+")
_BYTE_LIST = re.compile(r"0x[0-9a-f]{2}(?:[\s,]*+0x[0-9a-f]{2}){7,}+")
_BYTE = re.compile("[0-9a-f]{2}")
# All but the first byte, so that the pattern starts with what the regex engine finds quickly.
_BYTE_DUMP = re.compile(r"[ :][0-9a-f]{2}(?:[ :][0-9a-f]{2}){6,}+")
_STANDARD = str.maketrans("-_", "+/")
# Long lines of base64 and hex go on in the next line (RFC 2045 and PEM break after 76 and 64).
_WRAPPED = re.compile(r"\n(?<=[A-Za-z0-9+/]{60}\n)[ \t]*+(?=[A-Za-z0-9+/])")
_BASE32_RUN = re.compile(r"[A-Z2-7]{13,}+")
_LONG_LITERAL = re.compile(r"""(["'])([!-~]{10,4096}?)\1""")
# Adobe's frame, and text that is not a word, path, address or format: capitals, small letters,
# digits and signs of both alphabets without a blank.
_FRAMED_85 = re.compile(r"<~[!-uz\s]{8,4096}?~>")
_LIKE_85 = re.compile(
    r"(?=[^A-Z]{0,64}[A-Z])(?=[^a-z]{0,64}[a-z])(?=[^0-9]{0,64}[0-9])"
    r"(?=(?:[^!#$%&*+;<=>?@^`|~]{0,64}[!#$%&*+;<=>?@^`|~]){2})[!-~]{12,}+"
)
# Lines of `xxd` and `hexdump -C`: an offset, and bytes alone or in pairs.
_DUMPED_LINE = re.compile(
    r"^[ \t]*+[0-9a-f]{4,8}:?[ \t]++((?:[0-9a-f]{2}){1,2}(?:[ ]{1,2}(?:[0-9a-f]{2}){1,2})*+)",
    re.MULTILINE,
)
_CODES = re.compile(r"[,;]\s*+[0-9]{2,7}(?:\s*+[,;]\s*+[0-9]{2,7}){6,}+")
_BINARY = re.compile(r"[01]{7,8}(?:[\s,]*+(?:0b)?[01]{7,8}){7,}+")
_NUMBER = re.compile(r"\d+")


_PRINTABLE = bytes(range(0x20, 0x7F)) + b"\t\n\r"


def _is_text(data: bytes) -> bool:
    """Return whether bytes may be text: words of code rarely decode to such bytes."""
    if 2 * len(data.translate(None, _PRINTABLE)) <= len(data) or 3 * data.count(0) > len(data):
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# The first bytes of gzip and zlib data; text may begin with `x^` as well.
_COMPRESSED = (b"\x1f\x8b\x08", b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")
# Bytes of all compressed data in a text: a few characters can hold this much, again and again.
_MOST_INFLATED = 1 << 16


def _inflated(data: bytes, most: int) -> str:
    """Return compressed text, at most `most` bytes of it; nothing for other data."""
    if most > 0 and data.startswith(_COMPRESSED):
        with suppress(zlib.error):
            text = zlib.decompressobj(wbits=47).decompress(data, most)  # 47: of either kind
            return _text_of(text) if _is_text(text) else ""
    return ""


def _decoded_base64(text: str, layers: int = _MOST_LAYERS) -> str:
    """Return what base64 (base32 too, and base85 where code names it) decodes to, by layers."""
    if "\n" in text:
        text = _WRAPPED.sub("", text)
    decoded, left = _decoded_base32(text) + _decoded_base85(text), _MOST_INFLATED
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
            if inflated := _inflated(data, left):
                decoded.append(inflated)
                left -= len(inflated)
            elif data.isascii() or _is_text(data):
                decoded.append(_text_of(data))
    inner = "\n".join(decoded)
    if layers > 1 and _BASE64_RUN.search(inner):
        inner += "\n" + _decoded_base64(inner, layers - 1)
    return inner


def _decoded_base32(text: str) -> list[str]:
    decoded = []
    for run in _BASE32_RUN.findall(text):
        digits = run[: len(run) - (len(run) % 8 in (1, 3, 6))]
        data = base64.b32decode(digits + "=" * (-len(digits) % 8))
        if ("32" in text or not run.isalpha()) and _is_text(data):  # no words in capitals
            decoded.append(_text_of(data))
    return decoded


def _decoded_base85(text: str) -> list[str]:
    decoded = []
    if "<~" in text:
        for framed in _FRAMED_85.findall(text):
            with suppress(ValueError):
                decoded.append(_text_of(base64.a85decode(framed, adobe=True)))
    named = "85" in text
    for (_, literal), decode in product(
        _LONG_LITERAL.findall(text), (base64.b85decode, base64.a85decode)
    ):
        if named or _LIKE_85.fullmatch(literal):
            with suppress(ValueError):
                data = decode(literal)
                if named or data.isascii():
                    decoded.append(_text_of(data))
    return decoded


def _decoded_numbers(folded: str) -> str:
    """Return the texts of lists of character codes, and of bytes written in binary."""
    decoded = []
    for match in _CODES.finditer(folded):
        before = folded[max(0, match.start() - 8) : match.start()].rstrip()
        first = before[len(before.rstrip(string.digits)) :]
        codes = [int(code) for code in _NUMBER.findall(first + match.group())]
        if 0x7F < max(codes) < 0x100:
            decoded.append(_text_of(bytes(codes)))  # bytes of UTF-8
        decoded.append("".join(_character(code, " ") for code in codes))
    if any(word in folded for word in _NUMBERED_WORDS):
        decoded.append("".join(map(_numbered_character, _NUMBERED.finditer(folded))))
    for match in _BINARY.finditer(folded):
        digits = match.group().replace("0b", " ")
        groups = digits.split() if re.search(r"[\s,]", digits) else re.findall("[01]{8}", digits)
        decoded.append(_text_of(bytes(int(group.strip(",") or "0", 2) & 0xFF for group in groups)))
    return "\n".join(filter(None, decoded))


def _decoded_hex(folded: str) -> str:
    decoded, left = [], _MOST_INFLATED
    if "\n" in folded:
        folded = _WRAPPED.sub("", folded)
    for run in _HEX_RUN.findall(folded):
        for start in range(2):
            part = run[start:]
            data = bytes.fromhex(part[: len(part) // 2 * 2])
            inflated = _inflated(data, left)
            left -= len(inflated)
            decoded.append(inflated or _text_of(data))
    runs = _BYTE_LIST.findall(folded)
    for match in _BYTE_DUMP.finditer(folded):
        first = folded[max(0, match.start() - 2) : match.start()]
        runs.append((first if _BYTE.fullmatch(first) else "") + match.group())
    decoded += [_text_of(bytes.fromhex(re.sub(r"0x|[\s,:]", "", run))) for run in runs]
    dumped = "".join(_DUMPED_LINE.findall(folded)) if "0000" in folded else ""
    if dumped:
        decoded.append(_text_of(bytes.fromhex(dumped.replace(" ", ""))))
    return "\n".join(decoded)


# --- edits and markup ----------------------------------------------------------------------------

# `replace("#", "")` and `split("#")` take a text out of another; `[::2]` takes each second letter.
_REMOVED = re.compile(r"""(?:replace(?:all)?|split|sub)\(\s*+r?["'/]([^"'/\n]{1,8})["'/]""")
_STEPPED = re.compile(r"""(["'])([^"'\n]{8,4096}+)\1\[(\d?):-?\d{0,4}:([2-9])\]""")
_TAG = re.compile(r"</?[a-z][^<>\n]{0,120}+>|<!--(?:(?!-->)[^\n]){0,120}+-->")
_ROT13 = str.maketrans(
    string.ascii_letters,
    "".join(
        letters[13:] + letters[:13] for letters in (string.ascii_lowercase, string.ascii_uppercase)
    ),
)


def _edited(folded: str) -> str:
    """Return what code makes of its own literals by taking characters out."""
    results = []
    if "replace" in folded or "split(" in folded or "sub(" in folded:
        removed = dict.fromkeys(_REMOVED.findall(folded))
        results += [folded.replace(text, "") for text in list(removed)[:4]]
    if "::" in folded:
        steps = _STEPPED.findall(folded)
        results += [literal[int(start or 0) :: int(step)] for _, literal, start, step in steps]
    return "\n".join(results)


# --- all of them -------------------------------------------------------------------------------

PLAIN_VIEWS = ("exact", "normalised")


def views(text: str) -> Iterator[View]:
    """Yield the readings of a text, the plainest first; those after `PLAIN_VIEWS` are disguises."""
    text = text.replace("\r\n", "\n")
    folded = fold(text)
    yield View("normalised", folded)
    plain = folded if (free := unescaped(text)) == text else fold(free)
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
    for url in _percent_decoded(free):
        yield View("escaped", fold(unescaped(url)))
    if "\\" in text and (css := _CSS_ESCAPES.sub(_css_character, text)) != text:
        yield View("escaped", fold(css))
    if joined := pieces_of_literals(plain):
        yield _joined(joined)
    yield View("base64", fold(unescaped(_decoded_base64(pieces))))
    yield View("hex", fold(unescaped(_decoded_hex(together))))
    if (signs := punctuated(folded)) != folded:
        yield View("at_and_dot", signs)
    if (words := spelled(folded)) != folded:
        yield View("digits_in_words", words, alike="digits")
    if (digits := counted(folded)) != folded:
        yield View("digits_in_words", digits)
    if letters := leet_lines(folded):
        yield View("leet", letters, alike="leet")
    if codes := _decoded_numbers(folded):
        yield View("char_codes", fold(codes))
    if edited := _edited(plain):
        yield View("edited", edited)
    unmarked = plain.replace("**", "").replace("`", "")
    if "</" in plain or "<!--" in plain:
        unmarked = _TAG.sub("", unmarked)
    if unmarked != plain:
        yield View("markup", unmarked)
    yield View("reversed", folded[::-1])
    yield View("rot13", fold(text.translate(_ROT13)))
