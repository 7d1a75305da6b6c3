"""Ways to hide a value in code, the counterpart of `decodings`, for tests and for search.

Each disguise takes a value and a source of choices and returns Python source (one or a few lines)
from which a reader, or the program itself, gets the value. A disguise that cannot hide a value
(number words without a digit, separators without any) writes it plainly.
"""

from __future__ import annotations

import base64
import codecs
import gzip
import re
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_unlearn.leaks.spellings import NUMBER_WORDS

if TYPE_CHECKING:
    from pytest_unlearn.people.draws import Choices

Disguise = Callable[[str, "Choices"], str]

_NAMES = ("a", "b", "first", "second", "head", "tail", "part_one", "part_two", "lhs", "rhs")
_QUOTES = ('"', "'")


def _literal(text: str, choices: Choices) -> str:
    quote = choices.choice(_QUOTES)
    body = text.replace("\\", "\\\\").replace(quote, "\\" + quote).replace("\n", "\\n")
    return f"{quote}{body}{quote}"


def _halves(value: str, choices: Choices) -> tuple[str, str]:
    """Cut a value somewhere inside; a single character is all first half."""
    if len(value) < 2:
        return value, ""
    at = 1 + choices.below(len(value) - 1)
    return value[:at], value[at:]


def _pieces(value: str, choices: Choices) -> list[str]:
    head, tail = _halves(value, choices)
    middle, end = _halves(tail, choices) if tail else ("", "")
    return [piece for piece in (head, middle, end) if piece]


def _names(choices: Choices, count: int) -> list[str]:
    start = choices.below(len(_NAMES))
    return [_NAMES[(start + step) % len(_NAMES)] for step in range(count)]


def _exact(value: str, choices: Choices) -> str:
    return f"x = {_literal(value, choices)}\n"


def _case(value: str, choices: Choices) -> str:
    change = choices.choice((str.upper, str.lower, str.title, str.swapcase))
    return _exact(change(value), choices)


def _separators(value: str, choices: Choices) -> str:
    if not re.search(r"[-_. ()/]", value):
        # There are no separators to change, so digits and letters are grouped instead.
        size, gap = 3 + choices.below(3), choices.choice((" ", "-"))
        groups = [value[at : at + size] for at in range(0, len(value), size)]
        return _exact(gap.join(groups), choices)
    instead = choices.choice(("", " ", "-", ".", "_", " - "))
    return _exact(re.sub(r"[-_. ()/]+", instead, value), choices)


def _full_width(value: str, choices: Choices) -> str:
    wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in value)
    return _exact(wide, choices)


def _plus(value: str, choices: Choices) -> str:
    gap = choices.choice((" + ", "+", " + \\\n    ", " +\n    "))
    return "x = (" + gap.join(_literal(p, choices) for p in _pieces(value, choices)) + ")\n"


def _adjacent(value: str, choices: Choices) -> str:
    gap = choices.choice((" ", "\n     "))
    return "x = (" + gap.join(_literal(p, choices) for p in _pieces(value, choices)) + ")\n"


def _list_join(value: str, choices: Choices) -> str:
    pieces = list(value) if choices.below(2) else _pieces(value, choices)
    return 'x = "".join([' + ", ".join(_literal(p, choices) for p in pieces) + "])\n"


def _assigned(value: str, choices: Choices) -> tuple[list[str], str]:
    """Return names and the lines that assign a value's pieces to them, in any order."""
    pieces = _pieces(value, choices)
    names = _names(choices, len(pieces))
    lines = [f"{name} = {_literal(p, choices)}\n" for name, p in zip(names, pieces, strict=True)]
    if choices.below(2):
        lines.reverse()
    return names, "".join(lines)


def _percent(value: str, choices: Choices) -> str:
    pieces = _pieces(value, choices)
    form = '"' + "%s" * len(pieces) + '"'
    return f"x = {form} % ({', '.join(_literal(p, choices) for p in pieces)},)\n"


def _percent_names(value: str, choices: Choices) -> str:
    names, lines = _assigned(value, choices)
    return f'{lines}x = "{"%s" * len(names)}" % ({", ".join(names)},)\n'


def _format_names(value: str, choices: Choices) -> str:
    names, lines = _assigned(value, choices)
    return f'{lines}x = "{"{}" * len(names)}".format({", ".join(names)},)\n'


def _f_string(value: str, choices: Choices) -> str:
    names, lines = _assigned(value, choices)
    return lines + 'x = f"' + "".join(f"{{{name}}}" for name in names) + '"\n'


def _variables(value: str, choices: Choices) -> str:
    names, lines = _assigned(value, choices)
    return lines + "x = " + " + ".join(names) + "\n"


def _hex_escapes(value: str, choices: Choices) -> str:
    return 'x = "' + "".join(f"\\x{b:02x}" for b in value.encode("utf-8", "replace")) + '"\n'


def _unicode_escapes(value: str, choices: Choices) -> str:
    return (
        'x = "'
        + "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}" for c in value)
        + '"\n'
    )


def _octal_escapes(value: str, choices: Choices) -> str:
    return 'x = "' + "".join(f"\\{ord(c):03o}" if ord(c) < 0x100 else c for c in value) + '"\n'


def _percent_escapes(value: str, choices: Choices) -> str:
    coded = "".join(f"%{b:02X}" for b in value.encode("utf-8", "replace"))
    return f'x = unquote("{coded}")\n'


def _base64(value: str, choices: Choices) -> str:
    around = choices.text("abcdefghijklmnop", choices.below(3))
    coded = base64.b64encode((around + ":" + value if around else value).encode()).decode()
    return f'x = b64decode("{coded}").decode()\n'


def _base64_url(value: str, choices: Choices) -> str:
    coded = base64.urlsafe_b64encode(value.encode("utf-8", "replace")).decode().rstrip("=")
    return f'x = urlsafe_b64decode("{coded}")\n'


def _hex(value: str, choices: Choices) -> str:
    coded = value.encode("utf-8", "replace").hex()
    return f'x = bytes.fromhex("{choices.choice((coded, coded.upper()))}").decode()\n'


def _reversed(value: str, choices: Choices) -> str:
    return f"x = {_literal(value[::-1], choices)}[::-1]\n"


def _digits_in_words(value: str, choices: Choices) -> str:
    gap = choices.choice(("", " ", "-"))
    words = re.sub(
        "[0-9]+", lambda m: gap.join(NUMBER_WORDS[int(digit)] for digit in m.group()), value
    )
    return _exact(words, choices)


def _at_and_dot(value: str, choices: Choices) -> str:
    if "@" not in value:
        return _exact(value, choices)
    left, right = choices.choice(((" [", "] "), ("(", ")"), (" ", " ")))
    return f"# {value.replace('@', f'{left}at{right}').replace('.', f'{left}dot{right}')}\n"


def _char_codes(value: str, choices: Choices) -> str:
    codes = [ord(character) for character in value]
    if choices.below(2):
        return f'x = "".join(map(chr, {codes}))\n'
    return "x = " + " + ".join(f"chr({code})" for code in codes) + "\n"


def _rot13(value: str, choices: Choices) -> str:
    return f"x = codecs.decode({_literal(codecs.encode(value, 'rot13'), choices)}, 'rot13')\n"


def _over_lines(value: str, choices: Choices) -> str:
    head, tail = _halves(value, choices)
    if choices.below(2):
        return f"# {head}\n# {tail}\n"
    return f'x = "{head}\\\n{tail}"\n'


def _css_escapes(value: str, choices: Choices) -> str:
    gap = choices.choice((" ", ""))
    size = 6 if not gap else 2  # without a blank, only the sixth digit ends an escape
    coded = gap.join(f"\\{ord(c):0{size}x}" for c in value)
    return f'# content: "{coded}"\n'


def _gzip_base64(value: str, choices: Choices) -> str:
    data = value.encode("utf-8", "replace")
    packed = choices.choice((gzip.compress(data), zlib.compress(data)))
    return f'x = "{base64.b64encode(packed).decode()}"\n'


def _base85(value: str, choices: Choices) -> str:
    coded = base64.b85encode(value.encode("utf-8", "replace")).decode()
    return f'x = b85decode("{coded}")\n'


def _dict_values(value: str, choices: Choices) -> str:
    pieces = _pieces(value, choices)
    names = _names(choices, len(pieces))
    pairs = zip(names, pieces, strict=True)
    return "x = {" + ", ".join(f'"{name}": {_literal(p, choices)}' for name, p in pairs) + "}\n"


def _added_to(value: str, choices: Choices) -> str:
    first, *rest = _pieces(value, choices)
    lines = "".join(f'log("step")\nx += {_literal(piece, choices)}\n' for piece in rest)
    return f"x = {_literal(first, choices)}\n{lines}"


def _attributes(value: str, choices: Choices) -> str:
    names, lines = _assigned(value, choices)
    return f"{lines}y = 1\nx = {' + '.join(f'self.{name}' for name in names)}\n"


def _leet(value: str, choices: Choices) -> str:
    """Replace letters inside words; a value with digits or other scripts is written plainly."""
    if not value.isascii() or any(map(str.isdigit, value)):
        return _exact(value, choices)
    digits = str.maketrans("oOeEaAsStTlLiI", "00334455771111")
    inner = re.compile(r"(?<=[A-Za-z])[A-Za-z]+(?=[A-Za-z])")
    return _exact(inner.sub(lambda m: m.group().translate(digits), value), choices)


_GERMAN = ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun")


def _digits_in_german(value: str, choices: Choices) -> str:
    words = re.sub(
        "(?<![^\\W_])[0-9]{4,}(?![^\\W_])",
        lambda m: " ".join(_GERMAN[int(digit)] for digit in m.group()),
        value,
    )
    return _exact(words, choices)


DISGUISES: dict[str, Disguise] = {
    "exact": _exact,
    "case": _case,
    "separators": _separators,
    "full_width": _full_width,
    "plus": _plus,
    "adjacent_literals": _adjacent,
    "list_join": _list_join,
    "percent_format": _percent,
    "percent_format_variables": _percent_names,
    "format_variables": _format_names,
    "f_string": _f_string,
    "variables": _variables,
    "hex_escapes": _hex_escapes,
    "unicode_escapes": _unicode_escapes,
    "octal_escapes": _octal_escapes,
    "percent_escapes": _percent_escapes,
    "base64": _base64,
    "base64_url": _base64_url,
    "hex": _hex,
    "reversed": _reversed,
    "char_codes": _char_codes,
    "rot13": _rot13,
    "digits_in_words": _digits_in_words,
    "split_lines": _over_lines,
    "at_and_dot": _at_and_dot,
    "css_escapes": _css_escapes,
    "gzip_base64": _gzip_base64,
    "base85": _base85,
    "dict_values": _dict_values,
    "added_to": _added_to,
    "attributes": _attributes,
    "leet": _leet,
    "digits_in_german": _digits_in_german,
}
