"""Tests that are a program, as HumanEval's and MBPP's are, instead of a list of calls."""

from __future__ import annotations

import ast
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CheckProgram:
    """Trusted Python source that raises when a solution is wrong.

    It is run with the solution's function bound to `candidate` and to the entry point's own name:
    a stand-in, which sends arguments to the process of the solution and brings back plain values.
    """

    source: str


def parsed(source: str, key: str, where: str, error: type[ValueError]) -> ast.Module:
    """Return the syntax tree of test source; raises `error`, naming `key`, when it is no Python."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as fault:
        line = getattr(fault, "lineno", None)
        at = f" (line {line} of the text)" if line else ""
        raise error(f'{where}: "{key}": the text is no Python program{at}; mend it') from None


def checking_program(source: str, key: str, where: str, error: type[ValueError]) -> str:
    """Return `source`, which defines `check(candidate)`, with a call of it at the end.

    Raises `error` for source without such a function, or with one that never uses its argument: it
    would pass any solution.
    """
    tree = parsed(source, key, where, error)
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "check"]
    if not functions or not functions[-1].args.args:
        raise error(f'{where}: "{key}": no function check(candidate) in the text; add it')
    check = functions[-1]
    argument = check.args.args[0].arg
    used = any(isinstance(n, ast.Name) and n.id == argument for n in ast.walk(check))
    if not used or not _can_fail(check):
        raise error(f'{where}: "{key}": check() tests nothing; add at least one assert on a call')
    return f"{source}\n\ncheck(candidate)\n"


def _can_fail(check: ast.FunctionDef) -> bool:
    """Tell whether a function asserts, raises, or calls what may: a helper of its own."""
    return any(isinstance(node, ast.Assert | ast.Raise | ast.Call) for node in ast.walk(check))


def defined_before(prompt: str, entry_point: str) -> str:
    """Return what a prompt defines above its function: imports, and helpers that tests may call.

    Empty for a prompt that is no code or does not open the function.
    """
    try:
        tree = ast.parse(f"{prompt.rstrip()}\n    pass\n")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == entry_point:
            first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
            return "".join(line + "\n" for line in prompt.split("\n")[: first - 1])
    return ""
