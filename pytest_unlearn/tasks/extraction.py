"""From what a model wrote to the program that is judged: for Python, by the syntax tree.

The rules, each with cases in `tests/tasks/test_extraction.py`:

1. Prompt and completion are one text; prose, fences and broken lines between statements are
   skipped. If code shows only when a fenced block is read by itself (it is indented in a list, or a
   bare body), the block is read that way. A body without its `def`, or with a different indentation
   from the prompt's, is put below the prompt's function.
2. The last complete definition of the entry point wins, as in Python. A definition that parses only
   when its end is cut off ranks below every complete one, and one without a body last. A function
   without `return` is as good as any other.
3. What the entry point reaches is kept: imports, helpers, classes, constants, and statements that
   fill or change them while the module loads, in the order of the text, so that Python's own rules
   hold. Other calls at module level are not run, except the few that change Python's own limits.
4. If a task's solution is a complete program (entry point `__main__`), all of it is kept: of an
   answer, the last block that is Python; of other text, what comes before a fence, or else its
   statements.
5. If there is no definition at all, the text is returned as it is, and the judge says what is wrong
   with it.
6. In another language, the text is the program, up to a stop token or from a fenced block.

The time is linear in the text's length: a budget limits what is read twice.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from pytest_unlearn.tasks.format import HOLDER, JAVA, PROGRAM, PYTHON, TaskCase
from pytest_unlearn.tasks.syntax import (
    FAULTS,
    Changes,
    Statement,
    called_name,
    is_main,
    statements,
    syntax_tree,
    used_names,
)
from pytest_unlearn.tasks.task_prompts import TaskStyle, suffix_of

_FENCED = re.compile(r"```[ \t]*[\w+.#-]*[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_OPEN, _CLOSE = "([{", ")]}"
_FENCE = re.compile(r"[ \t]*(```+|~~~+)[ \t]*[\w+.#-]*[ \t]*")
# Tokens that end a text; in quotes they are a program's own.
_END = re.compile(
    r"<\|(?:endoftext|end_of_text|im_end|eot_id|eom_id|end|file_separator|fim_\w{1,20})\|>(?![\"'])"
    r"|</s>\s*\Z"
)
_NOT_PYTHON = {0xA0: " ", 0x200B: None, 0x2060: None, 0xFEFF: None}
# What Python and IPython sessions print before a typed line.
_TYPED = re.compile(r"[ \t]*(?:>>>|\.\.\.:?|In \[\d+\]:)(?:[ ]|$)")
_BLOCKS = 32
# The last few blocks of a text are tried as bodies without a `def`.
_BODIES = 4
# How good a definition is.
_WHOLE, _CUT, _MADE, _EMPTY = 3, 2, 1, 0
# Functions of modules that set something for the whole program, besides those whose names begin
# with `set`: `setrecursionlimit`, `set_int_max_str_digits`, `setlocale`, `set_printoptions`.
_SETTINGS = frozenset(
    "stack_size seed manual_seed getcontext simplefilter filterwarnings resetwarnings disable "
    "enable basicConfig register reconfigure".split()
)
# With these, a program finds names by strings.
_BY_TEXT = frozenset({"globals", "eval", "exec", "vars", "locals"})
_DEF = re.compile(r"[ \t]*(?:async[ \t]+)?def[ \t]")
# What comes after a function, not inside it; it ends a body at the margin.
_BELOW = re.compile(r"(?:def|async|class|from|import|print|assert)\b|@|if[ ]+__name__|```|~~~")
_TAB = 4


@dataclass(frozen=True, slots=True)
class _Reading:
    """A definition of the entry point among the statements of a text."""

    text: Sequence[str]
    statements: Sequence[Statement]
    definition: Statement
    rank: int


@dataclass(frozen=True, slots=True)
class Solution:
    """The program that is judged; `whole`: its function is complete and has a body."""

    source: str
    whole: bool


def solution_of(case: TaskCase, completion: str, style: TaskStyle) -> Solution:
    """Return the program that a completion makes, in the task's language."""
    if case.language != PYTHON:
        return Solution(*program_of(case, completion, style == "chat"))
    suffix = suffix_of(case, style)
    return solution(case.prompt, completion, case.entry_point, suffix, chat=style == "chat")


def solution(
    prompt: str, completion: str, entry_point: str, suffix: str = "", chat: bool = False
) -> Solution:
    """Return the program that defines `entry_point`, out of prompt, completion and suffix.

    White space at the prompt's end is left to the model, so it is not doubled. `chat`: the
    completion is an answer and does not continue the prompt's last line. `entry_point` may be a
    `Class.method`, or `__main__`.
    """
    start = _plain(prompt.rstrip())
    written = _plain(completion)
    if entry_point == PROGRAM:
        return _whole_program(written + suffix, chat)
    entry_point = entry_point.partition(".")[0]
    text = start + ("\n" if chat else "") + written + suffix
    best = _definition(text, entry_point)
    others = _other_readings(start, written, suffix)
    for cleaned in _cleaned(written):
        others = chain(others, [start + cleaned], _other_readings(start, cleaned, suffix))
    for other_text in others:
        if best is not None and best.rank == _WHOLE:
            break
        other = _definition(other_text, entry_point)
        if other is not None and (best is None or other.rank > best.rank):
            best = other
    if best is None:
        return Solution(text, whole=False)
    return Solution(_program(best, entry_point), whole=best.rank in (_WHOLE, _MADE))


def _whole_program(written: str, chat: bool) -> Solution:
    """Return a completion as a program; `whole`: all of it is Python, and it does something."""
    blocks = list(_fenced(written))
    if chat or _FENCE.match(written.lstrip()):
        pieces = [*reversed(blocks[-_BODIES:]), written]
    else:
        lines = written.split("\n")
        end = next((i for i, line in enumerate(lines) if _FENCE.fullmatch(line)), len(lines))
        pieces = ["\n".join(lines[:end]), *blocks[:1]]
    for piece in map(textwrap.dedent, chain(pieces, _cleaned(written))):
        try:
            body = syntax_tree(piece).body
        except FAULTS:
            continue
        if not all(map(_is_filling, body)):
            return Solution(piece, whole=True)
    lines = (pieces[0] if pieces else written).split("\n")
    return Solution("".join(f"{item.source(lines)}\n" for item in statements(lines)), whole=False)


def _plain(text: str) -> str:
    """Return a text with Python's line ends only."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _definition(text: str, entry_point: str) -> _Reading | None:
    """Return the best definition of the entry point in a text; of equal ones, the last."""
    lines = text.split("\n")
    parts = statements(lines)
    best: tuple[int, Statement] | None = None
    for statement in parts:
        rank = _rank(statement, entry_point)
        if rank is not None and (best is None or rank >= best[0]):
            best = (rank, statement)
    return None if best is None else _Reading(lines, parts, best[1], best[0])


def _rank(statement: Statement, entry_point: str) -> int | None:
    """Return how good a definition of the entry point a statement is, None if it is not one."""
    node = statement.node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        if node.name != entry_point:
            return None
        if _says_nothing(node):
            return _EMPTY
    elif isinstance(node, ast.If | ast.Try | ast.With):
        if is_main(node) or not _defines_inside(node, entry_point):
            return None
    elif not _is_alias(node, entry_point):
        return None
    elif isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
        return _MADE
    return _WHOLE if statement.complete else _CUT


def _says_nothing(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Return whether this is a function without a body, or a class with only such functions."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
            if not isinstance(node, ast.ClassDef) or not _says_nothing(item):
                return False
        elif not _is_filling(item):
            return False
    return True


def _is_filling(node: ast.stmt) -> bool:
    return isinstance(node, ast.Pass) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def _defines_inside(node: ast.AST, entry_point: str) -> bool:
    """Return whether a compound statement contains a definition: `try: ... except: def ...`."""
    waiting = list(ast.iter_child_nodes(node))
    while waiting:
        item = waiting.pop()
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if item.name == entry_point and not _says_nothing(item):
                return True
        elif isinstance(item, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            waiting += ast.iter_child_nodes(item)
    return False


def _is_alias(node: ast.stmt, entry_point: str) -> bool:
    """Recognize `name = lambda ...`, `name = other` and `name = made(...)`, which is less certain.

    `name = None` is not a function, and `name = name(3)` is a result of it.
    """
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    else:
        return False
    if not any(isinstance(target, ast.Name) and target.id == entry_point for target in targets):
        return False
    if isinstance(node.value, ast.Call):
        return entry_point not in used_names(node.value)
    return isinstance(node.value, ast.Lambda | ast.Name | ast.Attribute)


def _program(reading: _Reading, entry_point: str) -> str:
    """Return the source of a definition and of everything it reaches, in the order of the text."""
    touching: dict[str, list[Statement]] = {}
    changes = Changes(reading.statements, entry_point)
    imported: set[str] = set()
    for statement in reading.statements:
        bound = changes.bound[statement.node]
        if _is_of_standard_library(statement.node):
            imported |= bound
        if entry_point in bound and not _wraps(statement, reading.definition, entry_point):
            # Another definition: the chosen one replaces all.
            bound = bound - {entry_point}
        changed = changes.of(statement.node)
        if statement.first <= reading.definition.first:
            changed = changed - {entry_point}
        for name in bound | changed:
            touching.setdefault(name, []).append(statement)
    beside: dict[int, list[Statement]] = {}  # on one line
    for statement in reading.statements:
        beside.setdefault(statement.first, []).append(statement)
    chosen: dict[int, Statement] = {}
    reached: set[str] = set()
    waiting = [reading.definition, *filter(_binds_unknown_names, reading.statements)]
    waiting += _settings(reading.statements, imported)

    def reach(names: set[str]) -> None:
        for name in names - reached:
            reached.add(name)
            complete = [item for item in touching.get(name, []) if item.complete]
            waiting.extend(complete or touching.get(name, []))

    def keep() -> None:
        while waiting:
            statement = waiting.pop()
            if statement.first in chosen:
                continue
            chosen[statement.first] = statement
            for neighbour in beside[statement.first]:
                names = used_names(neighbour.node)
                reach(names)
                if names & _BY_TEXT:
                    plain = (name for name, items in touching.items() if any(map(_is_plain, items)))
                    reach({*plain})

    reach({entry_point})
    keep()
    for statement in list(chosen.values()):
        if isinstance(statement.node, ast.Import | ast.ImportFrom):
            imported |= changes.bound[statement.node]
    waiting += _settings(reading.statements, imported)
    keep()
    if any(name not in touching and not hasattr(builtins, name) for name in reached):
        # A name that no statement binds may be bound by a string or a module: `exec`, `globals()`.
        waiting += filter(_binds_by_text, reading.statements)
        keep()
    ordered = sorted(chosen.values(), key=lambda item: (not item.is_future, item.first))
    return "".join(f"{item.source(reading.text)}\n" for item in ordered)


def _binds_by_text(statement: Statement) -> bool:
    """Return whether a statement may bind names of the module without spelling them as names."""
    node = statement.node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or is_main(node):
        return False
    return statement.complete and any(
        (isinstance(item, ast.Name) and item.id in _BY_TEXT)
        or (isinstance(item, ast.Attribute) and item.attr == "modules")
        for item in ast.walk(node)
    )


def _wraps(statement: Statement, definition: Statement, entry_point: str) -> bool:
    """Recognize `name = cache(name)` after its definition; `name = name(3)` is a result."""
    node = statement.node
    return (
        statement.first > definition.first
        and statement.complete
        and isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and entry_point not in used_names(node.value.func)
        and [item.id for item in node.value.args if isinstance(item, ast.Name)] == [entry_point]
        and called_name(node.value) not in ("print", "repr", "str", "type", "callable")
    )


def _is_plain(statement: Statement) -> bool:
    """Return whether a definition can always be kept: of a function, a class or a constant."""
    node = statement.node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return True
    return isinstance(node, ast.Assign) and not any(
        isinstance(item, ast.Call) for item in ast.walk(node)
    )


def _is_of_standard_library(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return not node.level and (node.module or "").split(".")[0] in sys.stdlib_module_names
    return isinstance(node, ast.Import) and all(
        alias.name.split(".")[0] in sys.stdlib_module_names for alias in node.names
    )


def _binds_unknown_names(statement: Statement) -> bool:
    """Recognize an import of names that cannot be listed: `from x import *`, `__future__`."""
    node = statement.node
    return isinstance(node, ast.ImportFrom) and (
        statement.is_future or any(alias.name == "*" for alias in node.names)
    )


def _settings(parts: Sequence[Statement], imported: set[str]) -> Iterator[Statement]:
    """Yield calls of imported modules that set something for the whole program."""
    for statement in parts:
        if statement.complete and _is_setting(statement.node, imported):
            yield statement


def _is_setting(node: ast.stmt, imported: set[str]) -> bool:
    if isinstance(node, ast.Try | ast.If) and not is_main(node):
        return bool(node.body) and all(_is_setting(item, imported) for item in node.body)
    if not isinstance(node, ast.Expr | ast.Assign):
        return False
    target = node.value if isinstance(node, ast.Expr) else node.targets[0]
    while isinstance(target, ast.Attribute):
        target = target.value
    if not isinstance(target, ast.Call):
        return False
    named = target.func.attr if isinstance(target.func, ast.Attribute) else ""
    named = target.func.id if isinstance(target.func, ast.Name) else named
    sets = named in _SETTINGS or named.startswith("set")
    return sets and bool(used_names(target.func) & imported)


# -- other readings of a completion ----------------------------------------------------------------


def _other_readings(start: str, written: str, suffix: str) -> Iterator[str]:
    """Yield other ways to read prompt and completion, the likeliest first."""
    yield f"{start}\n{written}{suffix}"  # where the prompt's line end was counted as its own
    blocks = list(_fenced(written))
    for block in blocks:
        for way in (_dedented(block), block):
            yield f"{start}\n{way}"
    margin = _open_margin(start)
    if margin is None:
        return
    for piece in (written, *blocks[-_BODIES:]):
        for body in _bodies(piece, margin):
            yield f"{start}\n{body}{suffix}"


def _cleaned(written: str) -> Iterator[str]:
    """Yield a text without what is not code, if it has any: what a tokenizer adds at the end and
    what comes after it, blanks and marks that Python does not know, prompts of a session and its
    output."""
    text = _END.split(written, maxsplit=1)[0].translate(_NOT_PYTHON)
    lines = text.split("\n")
    typed = [line[prompt.end() :] for line in lines if (prompt := _TYPED.match(line))]
    if typed:
        text = "\n".join(typed)
    if text != written:
        yield text


def _fenced(text: str) -> Iterator[str]:
    """Yield everything after the first fence, then what is between two of them.

    If there are very many blocks, only the last ones are read by themselves.
    """
    lines = text.split("\n")
    fences = [i for i, line in enumerate(lines) if _FENCE.fullmatch(line)]
    ends = [*fences[1:], len(lines)]
    blocks = ["\n".join(lines[i + 1 : end]) for i, end in zip(fences, ends, strict=False)]
    if len(blocks) > 1:
        blocks = ["\n".join(lines[fences[0] + 1 :]), *blocks[-_BLOCKS:]]
    yield from (block for block in blocks if block.strip())


def _dedented(block: str) -> str:
    """Remove the first line's indentation from every line that has it."""
    first = next(line for line in block.split("\n") if line.strip())
    margin = _indentation(first)
    return "\n".join(line.removeprefix(margin) for line in block.split("\n"))


def _indentation(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]


def _open_margin(start: str) -> str | None:
    """Return the indentation of the body that a prompt leaves open; None if it opens none."""
    lines = start.split("\n")
    opened = next((i for i in reversed(range(len(lines))) if _DEF.match(lines[i])), None)
    if opened is None:
        return None
    try:
        syntax_tree(start)  # a docstring is enough of a body
    except FAULTS:
        try:
            syntax_tree(f"{start}\n{_indentation(lines[opened])}    pass")
        except FAULTS:
            return None
    outer = _indentation(lines[opened])
    body = (i for i in range(opened, len(lines)) if lines[i].partition("#")[0].rstrip()[-1:] == ":")
    first = next((line for line in lines[next(body, opened) + 1 :] if line.strip()), "")
    inner = _indentation(first)
    if len(inner.expandtabs()) > len(outer.expandtabs()):
        return inner
    return outer + ("\t" if outer.endswith("\t") else " " * _TAB)


def _bodies(piece: str, margin: str) -> Iterator[str]:
    """Yield a text as the body of a function whose lines have the indentation `margin`.

    Either the first line alone is out of line (a decoder removed a space), or all lines are; a tab
    counts as the prompt's indentation width, or as eight spaces.
    """
    lines = piece.rstrip().split("\n")
    while lines and not lines[0].strip():
        lines.pop(0)
    if not lines:
        return
    tabs = any("\t" in _indentation(line) for line in lines)
    unit = len(margin) if margin.isspace() and "\t" not in margin and len(margin) <= 8 else _TAB
    for size in (unit, 8) if tabs else (unit,):
        column = len(margin.expandtabs(size))
        columns = [len(_indentation(line).expandtabs(size)) for line in lines]
        # At the margin, a first line whose indentation was stripped is less likely.
        for moved in (1, len(lines)) if columns[0] else (len(lines), 1):
            inside = min(moved, _end_of_body(lines, columns))
            shift = column - columns[0]
            places = [max(0, c + shift) if i < inside else c for i, c in enumerate(columns)]
            yield "\n".join(
                _of_width(place, margin, size) + line.lstrip(" \t")
                for place, line in zip(places, lines, strict=True)
            )


def _end_of_body(lines: Sequence[str], columns: Sequence[int]) -> int:
    """Return the number of a body's lines: up to a line that begins left of its first line or, at
    the margin, up to a definition or a use after its `return`."""
    returned = False
    for number, (line, column) in enumerate(zip(lines, columns, strict=True)):
        if not line.strip():
            continue
        if column < columns[0]:
            return number
        if columns[0] == 0 and column == 0:
            if returned and _BELOW.match(line):
                return number
            returned = returned or line.startswith(("return", "raise", "yield"))
    return len(lines)


def _of_width(columns: int, margin: str, size: int) -> str:
    """Return white space of that width, in tabs if the prompt uses them."""
    if "\t" not in margin:
        return " " * columns
    return "\t" * (columns // size) + " " * (columns % size)


def program_of(case: TaskCase, completion: str, chat: bool) -> tuple[str, bool]:
    """Return the program that defines a task's function, and whether it is complete: all brackets
    are closed, and the function is there.

    A completion continues the prompt and ends at the task's first stop token, as in MultiPL-E. In
    an answer (`chat`), the last fenced block with the function's name counts.
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
    """Return whether brackets outside of strings and comments are closed in order."""
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
