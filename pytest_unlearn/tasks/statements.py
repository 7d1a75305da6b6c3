"""Python statements in a text that is not all Python, in time linear in its length."""

from __future__ import annotations

import ast
import re
import symtable
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# What a statement at module level may begin with that defines something.
_START = re.compile(
    r"(?:def|async|class|from|import|if|try|for|while|with)\b|@"
    r"|[^\W\d][\w.\[\], '\"]*(?::[^=]+)?[-+*/|&]?=(?!=)"
    r"|[rRbBuUfF]{0,2}(?:\"|')"
)
_GOES_ON = re.compile(r"(?:elif|else|except|finally)\b|[)\]}]")
_TOKENS = re.compile(
    r'"""|\'\'\'|"(?:[^"\\]|\\.)*"?|\'(?:[^\'\\]|\\.)*\'?|#.*|[(\[{]|[)\]}]',
)
# How often the end of one statement is cut off and the rest tried again.
_CUTS = 8
# Characters read more than once, as a multiple of the text's length.
_BUDGET = 8
_FAULTS = (SyntaxError, ValueError, RecursionError, MemoryError)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement at module level: lines `[first, last]` of a text, counted from 0.

    `complete` is False where what stood behind it had to be cut off before it parsed.
    """

    node: ast.stmt
    first: int
    last: int
    complete: bool

    def source(self, lines: Sequence[str]) -> str:
        """Return the statement's lines."""
        return "\n".join(lines[self.first : self.last + 1])

    @property
    def is_future(self) -> bool:
        """Tell an import from `__future__`, which has to come first."""
        return isinstance(self.node, ast.ImportFrom) and self.node.module == "__future__"

    @property
    def binds(self) -> set[str]:
        """The module's names that the statement gives a value or changes."""
        return set(_bound(self.node))


def statements(lines: Sequence[str]) -> list[Statement]:
    """Return the statements of a text, in order; what is no Python is passed over."""
    try:
        return list(_placed(ast.parse("\n".join(lines)).body, 0, True))
    except _FAULTS:
        return list(_scattered(lines))


def global_names(source: str) -> set[str]:
    """Return the names that a statement takes from its module, also from inside its functions.

    None for a statement that does not compile (`return` outside a function, say).
    """
    try:
        waiting = [symtable.symtable(source, "<solution>", "exec")]
    except _FAULTS:
        return set()
    names: set[str] = set()
    while waiting:
        table = waiting.pop()
        waiting += table.get_children()
        top = table.get_type() == "module"
        names |= {
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_referenced() and (top or symbol.is_global())
        }
    return names


def _placed(body: Sequence[ast.stmt], offset: int, complete: bool) -> Iterator[Statement]:
    for number, node in enumerate(body, start=1):
        decorators: list[ast.expr] = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(item.lineno for item in decorators)])
        whole = complete or number < len(body)
        yield Statement(node, offset + first - 1, offset + (node.end_lineno or first) - 1, whole)


def _scattered(lines: Sequence[str]) -> Iterator[Statement]:
    """Yield the statements of a text that does not parse as a whole."""
    budget = _BUDGET * sum(len(line) + 1 for line in lines) + 10_000
    at = 0
    while at < len(lines):
        if not _START.match(lines[at]):
            at += 1
            continue
        end, cost = _end(lines, at, budget)
        body, stop, parsed = _parsed(lines, at, end, budget - cost)
        budget -= cost + parsed
        yield from _placed(body, at, complete=stop == end)
        at = max(stop, at + 1)


def _end(lines: Sequence[str], start: int, budget: int) -> tuple[int, int]:
    """Return the line after the statement that begins at `start`, and the characters read.

    It goes on over indented lines, comments, what an open bracket or triple quote holds, and the
    clauses that belong to it. Without budget only the indentation counts.
    """
    depth, quote, cost = 0, "", 0
    for at in range(start, len(lines)):
        line = lines[at]
        inside = (depth > 0 or quote) and cost < budget
        fresh = line and not line[0].isspace() and line[0] != "#"
        decorated = at > start and lines[at - 1].startswith("@")
        if at > start and fresh and not (inside or decorated or _GOES_ON.match(line)):
            return at, cost
        cost += len(line) + 1
        position = 0
        while position < len(line):
            if quote:
                found = line.find(quote, position)
                if found < 0:
                    break
                position, quote = found + 3, ""
                continue
            token = _TOKENS.search(line, position)
            if token is None:
                break
            position = token.end()
            if token[0] in ('"""', "'''"):
                quote = token[0]
            elif token[0] in "([{":
                depth += 1
            elif token[0] in ")]}":
                depth = max(0, depth - 1)
    return len(lines), cost


def _parsed(
    lines: Sequence[str], start: int, end: int, budget: int
) -> tuple[list[ast.stmt], int, int]:
    """Parse lines `[start, end)`; where that fails, what stands above the line at fault.

    Returns the statements, the line where they were cut, and the characters read.
    """
    stop, cost = end, 0
    for _ in range(_CUTS):
        source = "\n".join(lines[start:stop])
        cost += len(source)
        try:
            return ast.parse(source).body, stop, cost
        except SyntaxError as error:
            stop = start + max(0, min((error.lineno or 1) - 1, stop - start - 1))
        except _FAULTS:
            break
        if stop <= start or cost > budget:
            break
    return [], start, cost


def _bound(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
        case ast.Import() | ast.ImportFrom():
            for alias in node.names:
                yield alias.asname or alias.name.split(".")[0]
        case ast.Assign():
            for target in node.targets:
                yield from _roots(target)
        case ast.AnnAssign() | ast.AugAssign() | ast.For():
            yield from _roots(node.target)
    if isinstance(node, ast.If | ast.Try | ast.With | ast.For | ast.While) and not _is_main(node):
        for child in ast.iter_child_nodes(node):
            yield from _bound(child)
    elif isinstance(node, ast.ExceptHandler):
        for child in node.body:
            yield from _bound(child)


def _roots(target: ast.expr) -> Iterator[str]:
    """Yield the names of an assignment's target; `table[0] = 1` changes `table`."""
    while isinstance(target, ast.Subscript | ast.Attribute | ast.Starred):
        target = target.value
    if isinstance(target, ast.Name):
        yield target.id
    elif isinstance(target, ast.Tuple | ast.List):
        for item in target.elts:
            yield from _roots(item)


def _is_main(node: ast.AST) -> bool:
    """Tell `if __name__ == "__main__"`, which does not run in a module that is imported."""
    return isinstance(node, ast.If) and any(
        isinstance(name, ast.Name) and name.id == "__name__" for name in ast.walk(node.test)
    )
