"""Tasks in other languages than Python: the program out of a completion, and how they are asked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_unlearn.tasks.format import TaskCase

PYTHON, JAVASCRIPT, JAVA = "python", "javascript", "java"
# As they are written in prose.
NAMES = {PYTHON: "Python", JAVASCRIPT: "JavaScript", JAVA: "Java"}
_FENCED = re.compile(r"```[ \t]*[\w+.#-]*[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
# The class that holds a Java task's function.
HOLDER = re.compile(r"\bclass\s+Problem\b")
_OPEN, _CLOSE = "([{", ")]}"


def program_of(case: TaskCase, completion: str, chat: bool) -> tuple[str, bool]:
    """Return the program that defines a task's function, and whether it is whole: all brackets are
    closed, and the function is there.

    A completion goes on in the prompt and ends at the task's first stop token, as MultiPL-E has
    it. Of an answer (`chat`), the last fenced block with the function's name counts.
    """
    written = _block(completion, case.entry_point) if chat else None
    if written is None:
        written = completion
        for stop in case.stops:
            written = written.partition(stop)[0]
        source = case.prompt.rstrip() + ("\n" if chat else "") + written
        # The stop token closed the method; MultiPL-E's tests close it and the class.
        source += "\n    }\n}\n" if case.language == JAVA else "\n"
    elif case.language == JAVA and not HOLDER.search(written):
        head = case.prompt.partition("class ")[0]
        source = f"{head}class Problem {{\n{written}\n}}\n"
    else:
        source = written + "\n"
    return source, _balanced(source) and case.entry_point.rpartition(".")[2] in source


def _block(answer: str, name: str) -> str | None:
    blocks = [match[1] for match in _FENCED.finditer(answer)]
    return next((block for block in reversed(blocks) if name in block), None)


def _balanced(source: str) -> bool:
    """Tell whether brackets outside of texts and comments are closed in order."""
    plain = re.sub(
        r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`",
        "",
        source,
        flags=re.DOTALL,
    )
    opened: list[str] = []
    for letter in plain:
        if letter in _OPEN:
            opened.append(_CLOSE[_OPEN.index(letter)])
        elif letter in _CLOSE and (not opened or opened.pop() != letter):
            return False
    return not opened
