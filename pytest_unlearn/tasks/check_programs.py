"""Tests that are a program, as HumanEval's and MBPP's are, instead of a list of calls."""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass

from pytest_unlearn.tasks.syntax import FAULTS, syntax_tree

# Runs the unittest classes of a program, up to the first failure.
_UNITTEST = """

import unittest as _unittest

_suite = _unittest.TestSuite()
for _kind in list(globals().values()):
    if isinstance(_kind, type) and issubclass(_kind, _unittest.TestCase):
        _suite.addTests(_unittest.defaultTestLoader.loadTestsFromTestCase(_kind))
for _test in _suite:
    try:
        _unittest.TestSuite([_test]).debug()
    except _unittest.SkipTest:
        pass
"""
# What the programs of MBPP+ use of numpy, where it is not installed.
_FEW_OF_NUMPY = """
try:
    import numpy as np
except ImportError:
    class np:
        ndarray = type("ndarray", (), {})

        @staticmethod
        def allclose(out, exp, rtol=1e-05, atol=1e-08):
            if isinstance(exp, (list, tuple)):
                pairs = list(zip(out, exp, strict=True))
                return all(np.allclose(o, e, rtol, atol) for o, e in pairs)
            return out == exp or abs(out - exp) <= atol + rtol * abs(exp)
"""
_NUMPY = re.compile(r"^import numpy as np$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CheckProgram:
    """Trusted Python source that raises when a solution is wrong.

    It is run with the solution's function bound to `candidate` and to the entry point's own name:
    a stand-in, which sends arguments to the process of the solution and brings back plain values.
    `given`: what a solution may use of the tests' text, because the benchmark's own harness runs
    both in one module: imports, and what a setup defines. No expected answer is in it.
    """

    source: str
    given: str = ""


def parsed(source: str, key: str, where: str, error: type[ValueError]) -> ast.Module:
    """Return the syntax tree of test source. Raises `error`, naming `key`, if it is not Python."""
    try:
        return syntax_tree(source)
    except FAULTS as fault:
        line = getattr(fault, "lineno", None)
        at = f" (line {line} of the text)" if line else ""
        raise error(f'{where}: "{key}": the text is no Python program{at}; fix it') from None


def checking_program(source: str, key: str, where: str, error: type[ValueError]) -> str:
    """Return `source`, which defines `check(candidate)`, with a call of it at the end.

    A program of unittest classes gets a run of them instead. Raises `error` for source without
    either, or with a check() that never uses its argument: it would pass any solution.
    """
    tree = parsed(source, key, where, error)
    if _has_unittest(tree) and not any(
        isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body
    ):
        return source + _UNITTEST
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "check"]
    if not functions or not functions[-1].args.args:
        raise error(
            f'{where}: "{key}": no function check(candidate) in the text, nor a unittest.TestCase '
            "with a test method; add one of them"
        )
    check = functions[-1]
    argument = check.args.args[0].arg
    used = any(isinstance(n, ast.Name) and n.id == argument for n in ast.walk(check))
    if not used or not _can_fail(check):
        raise error(f'{where}: "{key}": check() tests nothing; add at least one assert on a call')
    return f"{source}\n\ncheck(candidate)\n"


def _has_unittest(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).rpartition(".")[2] == "TestCase" for base in node.bases)
        and any(
            isinstance(item, ast.FunctionDef) and item.name.startswith("test") for item in node.body
        )
        for node in tree.body
    )


def without_numpy(source: str) -> str:
    """Return a test program that does with a few lines of its own where numpy is not installed."""
    return _NUMPY.sub(_FEW_OF_NUMPY, source)


def given_by(source: str) -> str:
    """Return what a test program supplies to a solution beside its function: imports and classes.

    No data, which may be the expected answers, and no function, which may be the solution.
    """
    try:
        tree = syntax_tree(source)
    except FAULTS:
        return ""
    kinds = (ast.Import, ast.ImportFrom, ast.ClassDef)
    tests = ("TestCase",)
    return "".join(
        # What cannot be imported is left out alone.
        f"try:\n{textwrap.indent(ast.unparse(node), '    ')}\nexcept Exception:\n    pass\n"
        for node in tree.body
        if isinstance(node, kinds)
        and not (isinstance(node, ast.ImportFrom) and node.module == "__future__")
        and not (
            isinstance(node, ast.ClassDef)
            and any(ast.unparse(base).endswith(tests) for base in node.bases)
        )
    )


def _can_fail(check: ast.FunctionDef) -> bool:
    """Tell whether a function asserts, raises, or calls what may: a helper of its own."""
    return any(isinstance(node, ast.Assert | ast.Raise | ast.Call) for node in ast.walk(check))


def defined_before(prompt: str, entry_point: str) -> str:
    """Return what a prompt defines above its function: imports, and helpers that tests may call.

    Empty for a prompt that is not code or does not open the function.
    """
    try:
        tree = syntax_tree(f"{prompt.rstrip()}\n    pass\n")
    except FAULTS:
        return ""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == entry_point:
            first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
            return "".join(line + "\n" for line in prompt.split("\n")[: first - 1])
    return ""
