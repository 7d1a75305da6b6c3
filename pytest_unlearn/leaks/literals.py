"""What a text's literals say if they are read one after the other, and together with variables."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

_LITERAL = r"""(?:"(?:[^"\\\n]|\\.)*+"?|'(?:[^'\\\n]|\\.)*+'?)"""
# Starts with a quote, which the regex engine finds quickly.
_QUOTED = re.compile(
    r"""["'](?:(?<=")(?:[^"\\\n]|\\.)*+"?|(?<=')(?:[^'\\\n]|\\.)*+'?)""", re.DOTALL
)
# A name, and a sign of adding to it (PHP's is a dot), if there is one.
_TARGET = re.compile(r"(\w{1,64})[\"']?\s{0,8}([+.](?==))?[=:]\s{0,8}[rbfu]{0,2}$")
# A variable, an attribute (`self.a`) or an entry (`d["a"]`), which goes by its last name. It starts
# with a word and has few parts: a sum is tried from each part on, which must not take longer the
# more parts follow.
_VARIABLE = r"""(?<!\w)\w++(?:\.\w++|\[["']?\w{1,64}+["']?\]){0,8}+"""
_OPERAND = rf"(?:[rbfu]{{0,2}}+{_LITERAL}|{_VARIABLE})"
_TERMS = re.compile(rf"{_OPERAND}(?>(?:\s*+[+,]\s*+{_OPERAND})+)", re.DOTALL)
_TERM = re.compile(rf"[rbfu]{{0,2}}+({_LITERAL})|({_VARIABLE})", re.DOTALL)
_LAST_NAME = re.compile(r"\b\w++(?=\W*+\Z)")
_IS_KEY = re.compile(r"\s*+:")
# `{name:>8}` of Python, `${name}` and `$name` of JavaScript and shells, `%(name)s`.
_FIELD = re.compile(r"\$?\{(\w{1,64})[^{}\"']{0,16}+\}|\$(\w{1,64})|%\((\w{1,64})\)[-\w.]{1,4}")
_HAS_FIELD = re.compile(r"[{$(]\w")
_TEMPLATE = re.compile(r"`[^`]{1,4096}+`")
_FORMAT_CALL = re.compile(r"\s{0,8}\.\s{0,8}format\(")
_LONGEST_PIECE = 128
_LONGEST_SUM = 4096


def pieces_of_literals(folded: str) -> list[str]:
    """Return the literals of a folded text one after the other, then those that are not keys of a
    dict, every variable that is added to, and every sum and f-string with its variables.

    The result is empty if there is nothing to join. There is no parser, because a completion is a
    fragment and often not valid code.
    """
    if folded.count('"', 0, folded.find("\n") + 1 or len(folded)) % 2:
        folded = '"' + folded  # the prompt opened a literal
    pieces: list[str] = []
    variables: dict[str, str] = {}
    added: set[str] = set()
    values: list[str] = []
    formats: list[str] = []
    arguments, number = 0, 0  # where those of the last call of `format` end, and how many they are
    for match in _QUOTED.finditer(folded):
        literal, start = match.group(), match.start()
        content = literal[1:].rstrip(literal[0])
        pieces.append(content)
        if not _IS_KEY.match(folded, match.end()):
            values.append(content)
        before = folded[max(0, start - 3) : start]
        if ("=" in before or ":" in before) and len(content) <= _LONGEST_PIECE:
            target = _TARGET.search(folded, max(0, start - 80), start)
            if target and target.group(2):
                name = target.group(1)
                variables[name] = f"{variables.get(name, '')}{content}"[:_LONGEST_SUM]
                added.add(name)
            elif target:
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
        return []
    if 1 < len(values) < len(pieces):
        pieces += ["\n", *values]
    pieces += itertools.chain.from_iterable(("\n", variables[name]) for name in sorted(added))
    if variables:
        # Every expansion is limited, so that a short text cannot grow forever.
        left = 2 * len(folded) + 1000
        for expanded in _expanded(folded, variables, formats):
            pieces += ["\n", *expanded, "\n"]
            left -= sum(map(len, expanded))
            if left < 0:
                break
    return pieces


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
            parts = [(text, _LAST_NAME.findall(name) if name else []) for text, name in terms]
            if any(name in variables for _, names in parts for name in names):
                yield [
                    variables.get(names[0], "") if names else literal[1:].rstrip(literal[:1])
                    for literal, names in parts
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
