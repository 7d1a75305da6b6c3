"""Finds Python statements in a text that is not all Python, and what they use, bind and change.

The time is linear in a text's length, nothing recurses on its depth, and the text itself causes no
warnings: an invalid escape in a model's answer must not end a run under `-W error`.
"""

from __future__ import annotations

import ast
import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

# How a statement at module level that defines or changes something may begin.
_START = re.compile(
    r"(?:def|async|class|from|import|if|try|for|while|with|match|del)\b|@"
    r"|[^\W\d*][\w.\[\], '\"*]*(?::[^=]+)?[-+*/|&]?=(?!=)"
    r"|[^\W\d][\w.]*[(\[]|[(\[{]"
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
# What `ast.parse` may raise on any text.
FAULTS = (SyntaxError, ValueError, RecursionError, MemoryError)

_Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_OWN_SCOPES = (*_DEFINITIONS, ast.Lambda, *_COMPREHENSIONS)
# Functions of the standard library that change their first argument.
_CHANGING = frozenset(
    "heappush heappop heapify heapreplace heappushpop insort insort_left insort_right shuffle "
    "setattr delattr setitem delitem iadd".split()
)
# Methods that change a container even if they are only named, as in `map(table.append, xs)`.
_MUTATORS = frozenset(
    "append appendleft extend extendleft insert pop popleft popitem remove discard add update "
    "setdefault clear sort reverse rotate subtract __setitem__".split()
)
_CONTAINERS = frozenset("list dict set bytearray deque Counter OrderedDict defaultdict".split())

_quiet = threading.Lock()


def line_of(fault: Exception) -> int | None:
    """Return the line of one of `FAULTS`, if it has one."""
    return fault.lineno if isinstance(fault, SyntaxError) else None


def called_name(call: ast.Call) -> str:
    """Return the name of what is called, as in `f(x)`; empty for anything but a plain name."""
    return call.func.id if isinstance(call.func, ast.Name) else ""


def syntax_tree(source: str) -> ast.Module:
    """Return the syntax tree of a program, without warnings from parsing.

    Raises one of `FAULTS` for a text that is not a program.
    """
    # Filters belong to the process: one thread must not restore another's.
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement at module level: lines `[first, last]` of a text, counted from 0.

    Statements that share a line, with semicolons, have the lines of all of them. `complete` is
    False if the text after it had to be cut off to make it parse.
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
        """Return whether this is an import from `__future__`, which has to come first."""
        return isinstance(self.node, ast.ImportFrom) and self.node.module == "__future__"


def statements(lines: Sequence[str]) -> list[Statement]:
    """Return the statements of a text, in order; what is not Python is skipped."""
    try:
        return list(_placed(syntax_tree("\n".join(lines)).body, 0, True))
    except FAULTS:
        return list(_scattered(lines))


def _placed(body: Sequence[ast.stmt], offset: int, complete: bool) -> Iterator[Statement]:
    places: list[list[int]] = []  # lines of statements, the same for those that share one
    for node in body:
        decorators = node.decorator_list if isinstance(node, _DEFINITIONS) else []
        first = min([node.lineno, *(item.lineno for item in decorators)])
        last = node.end_lineno or first
        if places and first <= places[-1][1]:
            places[-1][1] = max(places[-1][1], last)
            places.append(places[-1])
        else:
            places.append([first, last])
    for number, (node, (first, last)) in enumerate(zip(body, places, strict=True), start=1):
        finished = complete or number < len(body)
        yield Statement(node, offset + first - 1, offset + last - 1, finished)


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
        while not body and at < end and lines[at - 1].startswith("@"):
            at += 1  # Decorators that decorate nothing are not tried again.


def _end(lines: Sequence[str], start: int, budget: int) -> tuple[int, int]:
    """Return the line after the statement that begins at `start`, and the characters read.

    It continues over indented lines, comments, the content of an open bracket or triple quote, and
    the clauses that belong to it. Without budget only the indentation counts.
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
                closing = line.find(quote, position)
                if closing < 0:
                    break
                position, quote = closing + 3, ""
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
    """Parse lines `[start, end)` or, if that fails, what is above the faulty line.

    Returns the statements, the line where they were cut, and the characters read.
    """
    stop, cost = end, 0
    for _ in range(_CUTS):
        source = "\n".join(lines[start:stop])
        cost += len(source)
        try:
            return syntax_tree(source).body, stop, cost
        except SyntaxError as error:
            stop = start + max(0, min((error.lineno or 1) - 1, stop - start - 1))
        except FAULTS:
            break
        if stop <= start or cost > budget:
            break
    return [], start, cost


# -- names -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Scope:
    """A function, class or comprehension, and the names in it; the module has no parent."""

    parent: _Scope | None = None
    is_class: bool = False
    is_comprehension: bool = False
    bound: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    declared: set[str] = field(default_factory=set)  # by `global`
    outer: set[str] = field(default_factory=set)  # by `nonlocal`

    def takes_from_module(self, name: str) -> bool:
        """Return whether a name that is used here belongs to the module."""
        scope: _Scope | None = self
        while scope is not None and scope.parent is not None:
            if name in scope.declared:
                return True
            visible = scope is self or not scope.is_class
            if visible and name in scope.bound and name not in scope.outer:
                return False
            scope = scope.parent
        return True


def used_names(node: ast.AST) -> set[str]:
    """Return the names that a statement takes from its module, including inside its functions."""
    return {name for scope in _scopes(node) for name in scope.used if scope.takes_from_module(name)}


def bound_names(node: ast.AST) -> set[str]:
    """Return the names of the module that a statement binds.

    `table[0] = 1` and `function.limit = 3` change the value of a name: see `Changes`.
    """
    return {name for item in _run_with(node, inner=False) for name in _binding(item)}


def _scopes(node: ast.AST) -> list[_Scope]:
    """Return the scopes of a statement, the module's first."""
    module = _Scope()
    scopes = [module]
    waiting: list[tuple[ast.AST, _Scope]] = [(node, module)]

    def inner(scope: _Scope, is_class: bool = False, is_comprehension: bool = False) -> _Scope:
        scopes.append(_Scope(scope, is_class, is_comprehension))
        return scopes[-1]

    while waiting:
        item, scope = waiting.pop()
        scope.bound.update(_binding(item))
        children: Iterable[ast.AST] = ast.iter_child_nodes(item)
        if isinstance(item, ast.Name):
            if isinstance(item.ctx, ast.Load):
                scope.used.add(item.id)
        elif isinstance(item, ast.AugAssign) and isinstance(item.target, ast.Name):
            scope.used.add(item.target.id)
        elif isinstance(item, ast.Global):
            scope.declared.update(item.names)
            scope.used.update(item.names)
        elif isinstance(item, ast.Nonlocal):
            scope.outer.update(item.names)
        elif isinstance(item, ast.NamedExpr):
            around = scope
            while around.is_comprehension and around.parent is not None:
                around = around.parent
            around.bound.update(_binding(item.target))
            children = [item.value]
        elif isinstance(item, (*_FUNCTIONS, ast.Lambda)):
            own = inner(scope)
            arguments = item.args
            own.bound.update(argument.arg for argument in _arguments(arguments))
            own_body = item.body if isinstance(item.body, list) else [item.body]
            waiting += [(child, own) for child in own_body]
            outside = {id(child) for child in own_body}
            children = [c for c in ast.iter_child_nodes(item) if id(c) not in outside]
        elif isinstance(item, ast.ClassDef):
            own = inner(scope, is_class=True)
            waiting += [(child, own) for child in item.body]
            children = [*item.bases, *item.keywords, *item.decorator_list]
        elif isinstance(item, _COMPREHENSIONS):
            own = inner(scope, is_comprehension=True)
            first = item.generators[0].iter
            waiting += [(child, own) for child in ast.iter_child_nodes(item) if child is not first]
            waiting.append((first, scope))
            children = ()
        waiting += [(child, scope) for child in children]
    return scopes


def _arguments(arguments: ast.arguments) -> Iterator[ast.arg]:
    yield from (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    yield from (item for item in (arguments.vararg, arguments.kwarg) if item is not None)


def _binding(node: ast.AST) -> Iterator[str]:
    """Yield the names that a node itself binds."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
        case ast.Import() | ast.ImportFrom():
            for alias in node.names:
                yield alias.asname or alias.name.split(".")[0]
        case ast.Name(ctx=ast.Store()):
            yield node.id
        case ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar() if node.name:
            yield node.name
        case ast.MatchMapping() if node.rest:
            yield node.rest


def _run_with(node: ast.AST, inner: bool = True) -> list[ast.AST]:
    """Return the nodes that run with a statement, without those inside its functions and classes.

    `inner`: include the content of comprehensions, whose names are their own, and of lambdas that
    are passed on. `if __name__ == "__main__"` does not run in an imported module.
    """
    nodes = []
    waiting = [node]
    while waiting:
        item = waiting.pop()
        nodes.append(item)
        if isinstance(item, _OWN_SCOPES):
            if isinstance(item, _DEFINITIONS):
                waiting += item.decorator_list
                continue
            if not inner:
                continue
        elif isinstance(item, ast.If) and is_main(item):
            continue
        waiting += _children(item)
    return nodes


def _children(node: ast.AST) -> list[ast.AST]:
    """Return a node's children, without load and store contexts."""
    children: list[ast.AST] = []
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, list):
            children += [item for item in value if isinstance(item, ast.AST)]
        elif isinstance(value, ast.AST) and not isinstance(value, ast.expr_context):
            children.append(value)
    return children


def is_main(node: ast.AST) -> bool:
    """Recognize `if __name__ == "__main__"`."""
    return isinstance(node, ast.If) and any(
        isinstance(name, ast.Name) and name.id == "__name__" for name in ast.walk(node.test)
    )


# -- what statements change in place ---------------------------------------------------------------


class Changes:
    """What the statements of a program bind (`bound`, by node) and what they change (`of`).

    Examples of changes without a new binding are a table that a loop fills, a function that gets an
    attribute, and a registry that a decorator writes to. What a call changes is read from the
    called function, if the text has it. `entry_point`: calls of it, as in examples of its use,
    count as changing nothing.
    """

    # How long a chain of functions that call each other is followed.
    _ROUNDS = 4

    def __init__(self, program: Iterable[Statement], entry_point: str) -> None:
        self._entry_point = entry_point
        # By name: the parameters, and what calling it changes, parameters included.
        self._functions: dict[str, tuple[list[str], set[str]]] = {}
        nodes = [statement.node for statement in program]
        lambdas = {
            target.id: node.value
            for node in nodes
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        self._run = {node: _run_with(node) for node in nodes}
        self.bound = {node: bound_names(node) for node in nodes}
        self._variables = {
            name
            for node in nodes
            if not isinstance(node, (*_FUNCTIONS, ast.Import, ast.ImportFrom))
            for name in self.bound[node]
            if name not in lambdas
        }
        # `put = table.append`, `put = partial(list.append, table)`: calling it changes the table.
        self._methods: dict[str, set[str]] = {}
        for node in nodes:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute | ast.Call):
                behind = {_root(node.value)}
                if isinstance(node.value, ast.Call):
                    behind = _given(node.value)
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        self._methods[target.id] = behind & self._variables - {target.id}
        self._aliases = _aliases(item for items in self._run.values() for item in items)
        self._subclasses_count = any(map(_looks_at_subclasses, nodes))
        definitions = [(node.name, node) for node in nodes if isinstance(node, _DEFINITIONS)]
        self._follow([*definitions, *lambdas.items()])

    def _follow(self, definitions: Iterable[tuple[str, _Definition | ast.Lambda]]) -> None:
        """Find what each function changes, and what the functions that it calls do."""
        inside = []
        for name, node in definitions:
            parameters: list[str] = []
            if not isinstance(node, ast.ClassDef):
                parameters = [item.arg for item in (*node.args.posonlyargs, *node.args.args)]
            self._functions[name] = (parameters, set())
            items = list(ast.walk(node))
            inside.append((name, items, _aliases(items), used_names(node) | {*parameters}))
        for _ in range(self._ROUNDS):
            grown = False
            for name, items, aliases, visible in inside:
                if name != self._entry_point:
                    known = self._functions[name][1]
                    new = (_followed(self._changed(items), aliases) & visible) - known
                    known |= new
                    grown = grown or bool(new)
            if not grown:
                break

    def of(self, node: ast.stmt) -> set[str]:
        """Return the names whose values a statement changes when it runs."""
        if isinstance(node, _DEFINITIONS):
            changed = self._by_decorators(node.decorator_list)
            if isinstance(node, ast.ClassDef) and self._subclasses_count:
                changed |= {base.id for base in node.bases if isinstance(base, ast.Name)}
            return changed
        if isinstance(node, ast.Assert):
            return set()
        changed = _followed(self._changed(self._run[node]), self._aliases)
        for name in changed & self._functions.keys():  # `Thread(target=fill).start()`
            changed |= self._functions[name][1]
        return changed

    def _by_decorators(self, decorators: Iterable[ast.expr]) -> set[str]:
        """Return what decorators change: `@table.register`, `@op("add")`."""
        changed: set[str] = set()
        for decorator in decorators:
            function = decorator.func if isinstance(decorator, ast.Call) else decorator
            if isinstance(function, ast.Attribute):
                root = _root(function)
                if root in self._variables or root in self._functions:
                    changed.add(root)
            elif isinstance(function, ast.Name) and function.id in self._functions:
                changed |= self._functions[function.id][1]
        return changed

    def _changed(self, nodes: Iterable[ast.AST]) -> set[str]:
        changed: set[str] = set()
        for node in nodes:
            match node:
                case ast.Attribute() | ast.Subscript() if not isinstance(node.ctx, ast.Load):
                    changed.add(_root(node))
                case ast.Attribute() if node.attr in _MUTATORS:
                    changed.add(_root(node))
                case ast.Global():
                    changed.update(node.names)
                case ast.Expr(value=ast.Call(func=ast.Attribute() as method) as call):
                    # Its result is not used, so it is called for what it changes.
                    changed |= ({_root(method)} | _given(call)) & self._variables
                case ast.Call():
                    changed |= self._by_call(node)
        return changed - {""}

    def _by_call(self, call: ast.Call) -> set[str]:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if name in _MUTATORS and _root(call.func) in _CONTAINERS and call.args:
            return {_root(call.args[0])}  # `list.append(table, 1)`
        if isinstance(call.func, ast.Name):
            name = call.func.id
            if name == self._entry_point:
                return set()
            if name in self._functions:
                parameters, changes = self._functions[name]
                given = {
                    argument.id
                    for place, argument in enumerate(call.args)
                    if isinstance(argument, ast.Name)
                    and (place >= len(parameters) or parameters[place] in changes)
                }
                return (changes - set(parameters)) | (given & self._variables)
            if name in self._methods:
                return self._methods[name]
        return {_root(call.args[0])} if name in _CHANGING and call.args else set()


def _aliases(nodes: Iterable[ast.AST]) -> dict[str, set[str]]:
    """Return the names behind others: `row = table[0]`, `for row in table`."""
    behind_names: dict[str, set[str]] = {}
    for node in nodes:
        match node:
            case ast.Assign():
                targets, values = node.targets, [node.value]
            case ast.AnnAssign(value=ast.expr() as value) | ast.NamedExpr(value=value):
                targets, values = [node.target], [value]
            case ast.For() | ast.AsyncFor() | ast.comprehension():
                targets, values = [node.target], [node.iter]
            case _:
                continue
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr):
            value = values[0]
            parts = value.elts if isinstance(value, ast.Tuple | ast.List) else [value]
            behind = {_root(part) for part in parts} - {""}
            if isinstance(value, ast.Call):  # `partial(table.append, 1)`, `Thread(target=fill)`
                behind |= _given(value)
        else:
            behind = {item.id for item in ast.walk(values[0]) if isinstance(item, ast.Name)}
        for target in targets:
            for item in ast.walk(target):
                if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store):
                    behind_names.setdefault(item.id, set()).update(behind - {item.id})
    return behind_names


def _given(call: ast.Call) -> set[str]:
    """Return the names that a call gets as arguments, in whole or in part."""
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    return {_root(argument) for argument in values} - {""}


def _followed(names: set[str], aliases: dict[str, set[str]]) -> set[str]:
    """Return the names, and those that they are aliases of."""
    followed = set(names)
    waiting = list(names)
    while waiting:
        for name in aliases.get(waiting.pop(), set()) - followed:
            followed.add(name)
            waiting.append(name)
    return followed


def _looks_at_subclasses(node: ast.AST) -> bool:
    """Return whether a program asks a class for its subclasses, or is notified of them."""
    return any(
        (isinstance(item, ast.Attribute) and item.attr == "__subclasses__")
        or (isinstance(item, ast.FunctionDef) and item.name == "__init_subclass__")
        for item in ast.walk(node)
    )


def _root(node: ast.AST) -> str:
    """Return the name at the start of `name.a[b].c(...)`, empty if there is none.

    `f(x).sort()` changes the result of `f`, not `f`.
    """
    while True:
        if isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
            node = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            node = node.func
        else:
            return node.id if isinstance(node, ast.Name) else ""
