"""From what a model wrote to the program that is judged, by the syntax tree.

The rules, each with cases in `tests/tasks/test_extraction.py`:

1. Prompt and completion are one text; prose, fences and broken lines between statements are passed
   over. Code that is only found when a fenced block is read by itself (indented in a list, or a
   bare body) is read so.
2. The last complete definition of the entry point wins, as in Python. A definition that only parses
   when its end is cut off comes after every complete one, and one without a body last of all. A
   function without `return` is as good as any.
3. Kept is what the entry point reaches: imports, helpers, classes, constants; every definition of
   a name, in order, so that Python's own rule holds. Calls at module level are not run.
4. When there is no definition at all, the text is returned as it is, and the judge says what is
   wrong with it.

The time is linear in the text's length: what is read twice is charged to a budget.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_unlearn.tasks.statements import Statement, global_names, statements

_FENCE = re.compile(r"[ \t]*(```+|~~~+)[ \t]*[\w+.#-]*[ \t]*")
_BLOCKS = 32
# How good a definition is.
_WHOLE, _CUT, _EMPTY = 2, 1, 0


@dataclass(frozen=True, slots=True)
class _Found:
    """A definition of the entry point among the statements of a text."""

    text: Sequence[str]
    statements: Sequence[Statement]
    definition: Statement
    rank: int


@dataclass(frozen=True, slots=True)
class Solution:
    """The program that is judged; `whole`: its function is complete, and not without a body."""

    source: str
    whole: bool


def solution(
    prompt: str, completion: str, entry_point: str, suffix: str = "", chat: bool = False
) -> Solution:
    """Return the program that defines `entry_point`, out of prompt, completion and suffix.

    White space at the prompt's end is the model's to write, so it is not doubled. `chat`: the
    completion is an answer and does not go on in the prompt's last line.
    """
    start = prompt.rstrip()
    text = _plain(start + ("\n" if chat else "") + completion + suffix)
    best = _definition(text, entry_point)
    if best is None or best.rank != _WHOLE:
        for block in _fenced(_plain(completion)):
            for way in (_dedented(block), block):
                other = _definition(f"{_plain(start)}\n{way}", entry_point)
                if other is not None and (best is None or other.rank > best.rank):
                    best = other
    if best is None:
        return Solution(text, whole=False)
    return Solution(_program(best, entry_point), whole=best.rank == _WHOLE)


def _plain(text: str) -> str:
    """Return a text with Python's line ends only."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _definition(text: str, entry_point: str) -> _Found | None:
    """Return the best definition of the entry point in a text: of equals, the last."""
    lines = text.split("\n")
    found = statements(lines)
    best: tuple[int, Statement] | None = None
    for statement in found:
        rank = _rank(statement, entry_point)
        if rank is not None and (best is None or rank >= best[0]):
            best = (rank, statement)
    return None if best is None else _Found(lines, found, best[1], best[0])


def _rank(statement: Statement, entry_point: str) -> int | None:
    """Return how good a definition of the entry point a statement is, None if it is none."""
    node = statement.node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        if node.name != entry_point:
            return None
        if all(map(_says_nothing, node.body)):
            return _EMPTY
    elif not _is_alias(node, entry_point):
        return None
    return _WHOLE if statement.complete else _CUT


def _says_nothing(node: ast.stmt) -> bool:
    return isinstance(node, ast.Pass) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def _is_alias(node: ast.stmt, entry_point: str) -> bool:
    """Tell `name = lambda ...` and `name = other`; `name = None` is no function."""
    return (
        isinstance(node, ast.Assign)
        and any(isinstance(t, ast.Name) and t.id == entry_point for t in node.targets)
        and isinstance(node.value, ast.Lambda | ast.Name | ast.Attribute)
    )


def _program(found: _Found, entry_point: str) -> str:
    """Return the source of a definition and of all that it reaches, in the order of the text."""
    binding: dict[str, list[Statement]] = {}
    for statement in found.statements:
        for name in statement.binds:
            binding.setdefault(name, []).append(statement)
    kept = {found.definition.first: found.definition}
    reached = {entry_point, *_always(found.statements, kept)}
    waiting = [found.definition]
    while waiting:
        for name in global_names(waiting.pop().source(found.text)):
            if name in reached:
                continue
            reached.add(name)
            whole = [item for item in binding.get(name, []) if item.complete]
            for item in whole or binding.get(name, []):
                if item.first not in kept:
                    kept[item.first] = item
                    waiting.append(item)
    ordered = sorted(kept.values(), key=lambda item: (not item.is_future, item.first))
    return "".join(f"{item.source(found.text)}\n" for item in ordered)


def _always(found: Sequence[Statement], kept: dict[int, Statement]) -> Iterator[str]:
    """Keep imports that bind names nobody can list: `from x import *`, and `__future__`."""
    for statement in found:
        node = statement.node
        if isinstance(node, ast.ImportFrom) and (
            statement.is_future or any(alias.name == "*" for alias in node.names)
        ):
            kept[statement.first] = statement
            yield from statement.binds


def _fenced(text: str) -> Iterator[str]:
    """Yield all that stands behind the first fence, then what stands between two of them.

    Of very many blocks only the last are read by themselves.
    """
    lines = text.split("\n")
    fences = [i for i, line in enumerate(lines) if _FENCE.fullmatch(line)]
    ends = [*fences[1:], len(lines)]
    blocks = ["\n".join(lines[i + 1 : end]) for i, end in zip(fences, ends, strict=False)]
    if len(blocks) > 1:
        blocks = ["\n".join(lines[fences[0] + 1 :]), *blocks[-_BLOCKS:]]
    yield from (block for block in blocks if block.strip())


def _dedented(block: str) -> str:
    """Take the first line's indentation from every line that has it."""
    first = next(line for line in block.split("\n") if line.strip())
    margin = first[: len(first) - len(first.lstrip())]
    return "\n".join(line.removeprefix(margin) for line in block.split("\n"))
