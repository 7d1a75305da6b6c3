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
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from html.entities import html5
from itertools import product

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
    its neighbour. `spelled`: number words are digits, in the values too. `parts`: views that show
    more precisely how a value appears in this one.
    """

    how: str
    text: str
    joints: frozenset[int] = frozenset()
    spelled: bool = False
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
# become blanks, so that the limits of lines and literals stay the same, and so do separators that
# a regular expression escapes. Only the first backslash of
# a run starts an escape, which keeps the time linear.
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


# --- literals and variables --------------------------------------------------------------------

_LITERAL = r"""(?:"(?:[^"\\\n]|\\.)*+"?|'(?:[^'\\\n]|\\.)*+'?)"""
# Starts with a quote, which the regex engine finds quickly.
_QUOTED = re.compile(
    r"""["'](?:(?<=")(?:[^"\\\n]|\\.)*+"?|(?<=')(?:[^'\\\n]|\\.)*+'?)""", re.DOTALL
)
_TARGET = re.compile(r"(\w{1,64})[\"']?\s{0,8}[=:]\s{0,8}[rbfu]{0,2}$")
_TERMS = re.compile(
    rf"(?:[rbfu]{{0,2}}+{_LITERAL}|\w++)(?>(?:\s*+[+,]\s*+(?:[rbfu]{{0,2}}+{_LITERAL}|\w++))+)",
    re.DOTALL,
)
_TERM = re.compile(rf"[rbfu]{{0,2}}+({_LITERAL})|(\w++)", re.DOTALL)
# `{name:>8}` of Python, `${name}` and `$name` of JavaScript and shells, `%(name)s`.
_FIELD = re.compile(r"\$?\{(\w{1,64})[^{}\"']{0,16}+\}|\$(\w{1,64})|%\((\w{1,64})\)[-\w.]{1,4}")
_HAS_FIELD = re.compile(r"[{$(]\w")
_TEMPLATE = re.compile(r"`[^`]{1,4096}+`")
_FORMAT_CALL = re.compile(r"\s{0,8}\.\s{0,8}format\(")
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
    arguments, number = 0, 0  # where those of the last call of `format` end, and how many they are
    for match in _QUOTED.finditer(folded):
        literal, start = match.group(), match.start()
        content = literal[1:].rstrip(literal[0])
        pieces.append(content)
        before = folded[max(0, start - 3) : start]
        if ("=" in before or ":" in before) and len(content) <= _LONGEST_PIECE:
            target = _TARGET.search(folded, max(0, start - 80), start)
            if target:
                variables[target.group(1)] = content
        if start < arguments and len(content) <= _LONGEST_PIECE:
            variables.setdefault(str(number), content)
            number += 1
        if ("{" in content or "$" in content or "%(" in content) and _HAS_FIELD.search(content):
            formats.append(content)
            if call := _FORMAT_CALL.match(folded, match.end()):
                end = folded.find(")", call.end(), call.end() + _LONGEST_SUM)
                arguments, number = (end if end >= 0 else len(folded)), 0
    if "${" in folded:
        formats += [template.group()[1:-1] for template in _TEMPLATE.finditer(folded)]
    if len(pieces) < 2 and not (pieces and formats):
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
        content = content[:_LONGEST_SUM]
        expanded, at, known = [], 0, False
        for field in _FIELD.finditer(content):
            name = next(filter(None, field.groups()))
            known = known or name in variables
            expanded += [content[at : field.start()], variables.get(name, "")]
            at = field.end()
        if known:
            yield [*expanded, content[at:]]
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
# Long lines of base64 and hex go on in the next line (RFC 2045 and PEM break after 76 and 64).
_WRAPPED = re.compile(r"\n(?<=[A-Za-z0-9+/]{60}\n)[ \t]*+(?=[A-Za-z0-9+/])")
_BASE32_RUN = re.compile(r"[A-Z2-7]{13,}+")
_LONG_LITERAL = re.compile(r"""(["'])([!-~]{10,4096}?)\1""")
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
    """Tell whether bytes may be text: words of code rarely decode to such bytes."""
    if 2 * len(data.translate(None, _PRINTABLE)) <= len(data) or 3 * data.count(0) > len(data):
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decoded_base64(text: str, layers: int = _MOST_LAYERS) -> str:
    """Return what base64 (base32 too, and base85 where code names it) decodes to, by layers."""
    if "\n" in text:
        text = _WRAPPED.sub("", text)
    decoded = _decoded_base32(text)
    if "85" in text:
        decoded += _decoded_base85(text)
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
    for (_, literal), decode in product(
        _LONG_LITERAL.findall(text), (base64.b85decode, base64.a85decode)
    ):
        with suppress(ValueError):
            decoded.append(_text_of(decode(literal)))
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
    decoded = []
    if "\n" in folded:
        folded = _WRAPPED.sub("", folded)
    for run in _HEX_RUN.findall(folded):
        for start in range(2):
            part = run[start:]
            decoded.append(_text_of(bytes.fromhex(part[: len(part) // 2 * 2])))
    runs = _BYTE_LIST.findall(folded)
    for match in _BYTE_DUMP.finditer(folded):
        first = folded[max(0, match.start() - 2) : match.start()]
        runs.append((first if _BYTE.fullmatch(first) else "") + match.group())
    decoded += [_text_of(bytes.fromhex(re.sub(r"0x|[\s,:]", "", run))) for run in runs]
    dumped = "".join(_DUMPED_LINE.findall(folded)) if "0000" in folded else ""
    if dumped:
        decoded.append(_text_of(bytes.fromhex(dumped.replace(" ", ""))))
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
    if joined := _joined(plain):
        yield joined
    yield View("base64", fold(unescaped(_decoded_base64(pieces))))
    yield View("hex", fold(unescaped(_decoded_hex(together))))
    if (signs := _punctuated(folded)) != folded:
        yield View("at_and_dot", signs)
    if (words := spelled(folded)) != folded:
        yield View("digits_in_words", words, spelled=True)
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
