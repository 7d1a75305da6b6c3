"""MultiPL-E tasks (arXiv 2208.08227) in JavaScript and Java: `name, language, prompt, tests,
stop_tokens`.

The tests are a program that contains the expected answers, which a solution in the same process
could read. So they are taken apart here: each assert becomes a call, whose arguments are code in
the task's language, and a value, which never gets near the solution.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from typing import Any

from pytest_unlearn.tasks.format import (
    HOLDER,
    JAVA,
    JAVASCRIPT,
    Call,
    TaskCase,
    TaskFileError,
    checked_text,
    prompt_text,
    text,
    timeout_of,
)

KEYS = frozenset({"stop_tokens"})
_LANGUAGES = {"js": JAVASCRIPT, "javascript": JAVASCRIPT, "java": JAVA}
_ODD = re.compile(r"[^A-Za-z0-9._-]+")
_CALLED = re.compile(r"\s*([A-Za-z_$][\w$]*(?:\.[A-Za-z_$][\w$]*)*)\s*\(")
# Classes of a package that is not part of any JDK.
_ABSENT = re.compile(r"\b(?:Pair|Unit|Triplet|Quartet|Quintet)\s*(?:\.|<)")
_ASSERTS = {JAVASCRIPT: "assert.deepEqual(", JAVA: "assert("}


def multipl_e_case(data: dict[str, Any], where: str, group: str) -> TaskCase:
    """Return the task of a MultiPL-E line. `where` is FILE:LINE. Raises TaskFileError."""
    for key in ("name", "language", "prompt", "tests", "stop_tokens"):
        if key not in data:
            raise TaskFileError(f'{where}: "{key}": the key is missing; MultiPL-E has it')
    language = _LANGUAGES.get(str(data["language"]))
    if language is None:
        raise TaskFileError(
            f'{where}: "language": {data["language"]!r} is not run here; give tasks in js or java'
        )
    stops = data["stop_tokens"]
    if not isinstance(stops, list) or not all(isinstance(s, str) and s for s in stops):
        raise TaskFileError(f'{where}: "stop_tokens": write a list of texts, not {stops!r}')
    if language == JAVA and not HOLDER.search(str(data["prompt"])):
        raise TaskFileError(f'{where}: "prompt": it has no class Problem, as in MultiPL-E; add it')
    name = _ODD.sub("-", text(data, "name", where)).strip("-")
    if not name:
        raise TaskFileError(f'{where}: "name": {data["name"]!r} has neither letters nor digits')
    tests = text(data, "tests", where)
    lacks = "org.javatuples" if language == JAVA and _ABSENT.search(tests) else ""
    entry_point, calls = ("", ()) if lacks else _tests(tests, language, where)
    solution = data.get("canonical_solution", data.get("solution"))
    return TaskCase(
        id=name,
        task_id=name,
        entry_point=entry_point,
        prompt=prompt_text(data, "prompt", where),
        tests=calls,
        solution=None if solution is None else checked_text(solution, "solution", where),
        where=where,
        group=group,
        timeout=timeout_of(data, where),
        language=language,
        stops=tuple(stops),
        lacks=lacks,
    )


def _tests(source: str, language: str, where: str) -> tuple[str, tuple[Call, ...]]:
    """Return the function that the asserts call, and each call with its expected value."""
    calls: list[tuple[str, Call]] = []
    for number, inner in enumerate(_inside(source, _ASSERTS[language], where)):
        at = f'{where}: "tests": assert {number + 1}'
        try:
            calls.append((_of_javascript if language == JAVASCRIPT else _of_java)(inner))
        except (ValueError, IndexError, RecursionError) as error:
            raise TaskFileError(
                f"{at}: {error}; write the call of one function, compared with one value"
            ) from None
    names = list(dict.fromkeys(name for name, _ in calls))
    if len(names) != 1:
        raise TaskFileError(
            f'{where}: "tests": '
            + (
                f"they call {', '.join(names)}"
                if names
                else f"they have no {_ASSERTS[language]}...)"
            )
            + "; compare results of one function"
        )
    (name,) = names
    if language == JAVASCRIPT and name == "candidate":
        match = re.search(r"\bcandidate\s*=\s*([A-Za-z_$][\w$]*)", source)
        if match is None:
            raise TaskFileError(f'{where}: "tests": they have no `let candidate = NAME;`; add it')
        name = match[1]
    return name, tuple(call for _, call in calls)


def _inside(source: str, opening: str, where: str) -> Iterator[str]:
    """Yield what is in the parentheses of each call that begins with `opening`."""
    at = source.find(opening)
    while at >= 0:
        start = at + len(opening)
        try:
            end = _closing(source, start)
        except ValueError as error:
            raise TaskFileError(f'{where}: "tests": {error}') from None
        yield source[start:end]
        at = source.find(opening, end)


def _closing(source: str, start: int) -> int:
    """Return where the bracket that opened just before `start` closes, skipping strings."""
    depth, at = 1, start
    while at < len(source):
        letter = source[at]
        if letter in "\"'`":
            at = _text_end(source, at)
            continue
        depth += (letter in "([{") - (letter in ")]}")
        if not depth:
            return at
        at += 1
    raise ValueError("a bracket is not closed")


def _text_end(source: str, at: int) -> int:
    """Return the place after the string that begins at `at`."""
    end = at + 1
    while source[end : end + 1] != source[at]:
        if end >= len(source):
            raise ValueError("a text is not closed")
        end += 2 if source[end] == "\\" else 1
    return end + 1


def _called(inner: str) -> tuple[str, str, int]:
    """Return the function that a text calls, its arguments, and where the call ends."""
    match = _CALLED.match(inner)
    if match is None:
        raise ValueError("it does not begin with a call")
    end = _closing(inner, match.end())
    return match[1], inner[match.end() : end].strip(), end + 1


def _of_javascript(inner: str) -> tuple[str, Call]:
    name, arguments, end = _called(inner)
    rest = inner[end:].lstrip()
    if not rest.startswith(","):
        raise ValueError("no comma after the call")
    return name, Call((arguments,), _Literal(rest[1:]).whole())


def _of_java(inner: str) -> tuple[str, Call]:
    name, arguments, end = _called(inner)
    rest = inner[end:].strip()
    if rest.startswith("=="):
        value = rest[2:]
    elif rest.startswith(".equals(") and _closing(rest, 8) == len(rest) - 1:
        value = rest[8:-1]
    else:
        raise ValueError("neither == nor .equals() after the call")
    return name, Call((arguments,), _Literal(value).whole())


_NUMBER = re.compile(r"-?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+)([lLfFdD]?)")
_CAST = re.compile(r"\(\s*(?:long|int|float|double|short|byte|char)\s*\)")
_WORD = re.compile(r"[A-Za-z_$][\w$]*(?:\s*\.\s*[A-Za-z_$][\w$]*)*")
_WORDS = {"true": True, "false": False, "null": None, "undefined": None}
_LISTS = ("Arrays.asList", "List.of", "Set.of")


class _Literal:
    """Reads the value of a JavaScript or Java literal, as MultiPL-E writes them.

    Lists become lists, objects and maps dictionaries, a Java `Optional` a tuple of zero or one
    item.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0

    def whole(self) -> Any:
        """Return the value of the whole text. Raises ValueError for anything else."""
        value = self._value()
        self._take(",")
        if self._rest():
            raise ValueError(f"{self._rest()[:30]!r} is more than a value")
        return value

    def _rest(self) -> str:
        while self._source[self._at : self._at + 1].isspace():
            self._at += 1
        return self._source[self._at :]

    def _take(self, mark: str) -> bool:
        if not self._rest().startswith(mark):
            return False
        self._at += len(mark)
        return True

    def _expect(self, mark: str) -> None:
        if not self._take(mark):
            raise ValueError(f"{mark!r} is missing before {self._rest()[:30]!r}")

    def _value(self) -> Any:
        rest = self._rest()
        if cast := _CAST.match(rest):
            self._at += cast.end()
            value = self._value()
            return single(value) if "float" in cast[0] else value
        if self._take("("):
            value = self._value()
            self._expect(")")
            return value
        if self._take("["):
            return self._items("]")
        if self._take("{"):
            return self._object()
        if rest[:1] in ('"', "'"):
            return self._text()
        if number := _NUMBER.match(rest):
            self._at += number.end()
            return _number(number)
        return self._named()

    def _items(self, end: str) -> list[Any]:
        items: list[Any] = []
        while not self._take(end):
            if items:
                self._expect(",")
                if self._take(end):
                    break
            items.append(self._value())
        return items

    def _object(self) -> dict[Any, Any]:
        entries: dict[Any, Any] = {}
        while not self._take("}"):
            if entries:
                self._expect(",")
                if self._take("}"):
                    break
            key = self._text() if self._rest()[:1] in ('"', "'") else self._name()
            self._expect(":")
            entries[key] = self._value()
        return entries

    def _text(self) -> str:
        self._rest()
        end = _text_end(self._source, self._at)
        inner = self._source[self._at + 1 : end - 1]
        if self._source[self._at] == "'":
            inner = inner.replace("\\'", "'").replace('"', '\\"')
        self._at = end
        value: str = json.loads(f'"{inner}"', strict=False)
        return value

    def _name(self) -> str:
        match = _WORD.match(self._rest())
        if match is None:
            raise ValueError(f"{self._rest()[:30]!r} is not a value")
        self._at += match.end()
        return re.sub(r"\s", "", match[0])

    def _named(self) -> Any:
        """Return the value of a word: true, or what a Java constructor or method makes."""
        name = self._name()
        if name in _WORDS:
            return _WORDS[name]
        if name == "new":
            name = self._name()
            if self._take("<"):
                self._at = self._source.index(">(", self._at) + 1
            self._expect("(")
            items = self._items(")")
            empty: Any = {} if "Map" in name else []
            return items[0] if items else empty
        if name in _LISTS and self._take("("):
            return self._items(")")
        if name == "Map.of" and self._take("("):
            pairs = self._items(")")
            return dict(zip(pairs[::2], pairs[1::2], strict=True))
        if name in ("Optional.of", "Optional.empty") and self._take("("):
            return tuple(self._items(")"))
        raise ValueError(f"{name} is not a known value")


def _number(match: re.Match[str]) -> int | float:
    digits = match[0].rstrip("lLfFdD")
    if match[1] in ("f", "F"):
        value: float = single(float(digits))
        return value
    return float(digits) if match[1] in ("d", "D") or set(digits) & set(".eE") else int(digits)


def single(value: Any) -> Any:
    """Return a number rounded to single precision."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return struct.unpack("f", struct.pack("f", value))[0]
    return value
