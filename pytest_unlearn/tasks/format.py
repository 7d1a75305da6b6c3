"""Programming tasks that show whether a code model can still code, in the package's own format.

The bundled tasks (``bundled.jsonl``) are training data for the bundled tiny model under their
``wordings`` and test cases under their ``unseen`` wordings. A task's tests are a list of calls, or
a program as in HumanEval and MBPP. ``files.py`` reads users' files.
"""

from __future__ import annotations

import ast
import functools
import importlib.resources
import json
import keyword
import math
import re
import textwrap
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.text_files import check_keys, checked_string, json_name, quoted
from pytest_unlearn.tasks.syntax import FAULTS, line_of, syntax_tree

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
# The parts of numpy that the programs of MBPP+ use, if it is not installed.
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
PYTHON, JAVASCRIPT, JAVA = "python", "javascript", "java"
# As they are written in prose.
NAMES = {PYTHON: "Python", JAVASCRIPT: "JavaScript", JAVA: "Java"}
# The class that holds a Java task's function.
HOLDER = re.compile(r"\bclass\s+Problem\b")
_NUMPY = re.compile(r"^import numpy as np$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CheckProgram:
    """Trusted Python source that raises when a solution is wrong.

    It is run with a stand-in for the solution's function bound to `candidate` and to the entry
    point's own name, which sends arguments to the process of the solution and returns plain values.
    `given`: the part of the tests that a solution may use, because the benchmark's own harness runs
    both in one module: imports, and what a setup defines. It contains no expected answer.
    """

    source: str
    given: str = ""


def parsed(source: str, key: str, where: str, error: type[ValueError]) -> ast.Module:
    """Return the syntax tree of test source. Raises `error`, naming `key`, if it is not Python."""
    try:
        return syntax_tree(source)
    except FAULTS as fault:
        line = line_of(fault)
        at = f" (line {line} of the text)" if line else ""
        raise error(f'{where}: "{key}": the text is not a Python program{at}; fix it') from None


def checking_program(source: str, key: str, where: str, error: type[ValueError]) -> str:
    """Return `source`, which defines `check(candidate)`, with a call of it at the end.

    For a program of unittest classes, these are run instead. Raises `error` for source without
    either, or with a check() that never uses its argument and so would pass any solution.
    """
    tree = parsed(source, key, where, error)
    if _has_unittest(tree) and not any(
        isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body
    ):
        return source + _UNITTEST
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "check"]
    if not functions or not functions[-1].args.args:
        raise error(
            f'{where}: "{key}": the text has neither a function check(candidate) nor a '
            "unittest.TestCase with a test method; add one of them"
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
    """Return a test program that uses a few lines of its own if numpy is not installed."""
    return _NUMPY.sub(_FEW_OF_NUMPY, source)


def given_by(source: str) -> str:
    """Return what a test program supplies to a solution: imports and classes.

    It excludes data, which may be the expected answers, and functions, which may be the solution.
    """
    try:
        tree = syntax_tree(source)
    except FAULTS:
        return ""
    kinds = (ast.Import, ast.ImportFrom, ast.ClassDef)
    tests = ("TestCase",)
    return "".join(
        # Only what cannot be imported is left out.
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
    """Return whether a function asserts, raises, or calls a helper that may."""
    return any(isinstance(node, ast.Assert | ast.Raise | ast.Call) for node in ast.walk(check))


def defined_before(prompt: str, entry_point: str) -> str:
    """Return what a prompt defines above its function or class: imports, and helpers that tests
    may call.

    It is empty for a prompt that is not code or does not open the function.
    """
    opened, _, method = entry_point.partition(".")
    for indent in ("    ", "        ") if method else ("    ",):
        try:
            tree = syntax_tree(f"{prompt.rstrip()}\n{indent}pass\n")
        except FAULTS:
            continue
        break
    else:
        return ""
    kinds = ast.ClassDef if method else (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in tree.body:
        if isinstance(node, kinds) and node.name == opened:
            first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
            return "".join(line + "\n" for line in prompt.split("\n")[: first - 1])
    return ""


__all__ = [
    "Call",
    "Task",
    "TaskCase",
    "TaskFileError",
    "bundled_cases",
    "bundled_tasks",
    "own_case",
]

OWN_KEYS = {
    "id": "a string that is unique in the file",
    "prompt": "the code that the model should continue",
    "entry_point": "the name of the function to call",
    "tests": 'a list of {"args": [...], "expected": ...}',
}
_OPTIONAL = ("solution", "suffix", "wrong", "timeout", "tolerance")
_CALL_KEYS = ("args", "expected")
_OPTIONAL_CALL_KEYS = ("after",)
# The entry point of a task whose solution is a program: a call's only argument is its standard
# input, and the expected answer its output.
PROGRAM = "__main__"
# Longer than any task of the public sets needs; a run must end.
MAX_TIMEOUT_S = 600.0
# EvalPlus's canonical solutions take up to 22 s on its own inputs.
SLOW_TIMEOUT_S = 30.0
# More than any model reads or writes at once.
MAX_TEXT = 2**20
_ID = re.compile(r"[A-Za-z0-9._-]+")


class TaskFileError(UserError):
    """A user's task file cannot be used; the message names file, line, field and remedy."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a task's function, the value it has to return, and how it leaves its arguments.

    ``after``: the arguments as the call must leave them; None for unchanged, "any" if that does not
    count. ``tolerance``: floats are equal if they differ by at most this, absolutely or relatively.
    """

    args: tuple[Any, ...]
    expected: Any
    after: tuple[Any, ...] | Literal["any"] | None = None
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class Task:
    """A bundled programming task with its training wordings and its test wordings.

    ``wordings`` are for training and ``unseen`` for testing; no sentence is in both.
    ``wrong`` holds plausible bodies that each fail at least one of ``tests``.
    """

    id: str
    entry_point: str
    level: int
    signature: str
    wordings: tuple[str, ...]
    unseen: tuple[str, ...]
    solution: str
    tests: tuple[Call, ...]
    wrong: tuple[str, ...]

    def prompt(self, wording: str) -> str:
        """Return the signature and the docstring `wording`, for a model to continue."""
        return f'{self.signature}\n    """{wording}"""\n'


class NotAProbe:
    """What metrics count probes by; a task has none of it."""

    __slots__ = ()
    split: ClassVar[None] = None
    attack: ClassVar[str] = ""
    family: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    carrier: ClassVar[str] = ""
    planted: ClassVar[str] = ""
    knowledge: ClassVar[str] = ""
    request: ClassVar[str] = ""
    exact: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class TaskCase(NotAProbe):
    """What is measured: one task under one wording.

    ``entry_point``: the function that is called, a ``Class.method`` of a new object, or `PROGRAM`.

    ``solution`` passes ``tests`` when it is written after ``prompt``; None if no solution is known.
    Each of ``wrong`` must fail. ``suffix`` is the code after the gap, for infilling. ``where``
    names the file and line of a user's task, ``group`` the set or file it belongs to. ``timeout``:
    seconds that all its tests together may take, None for the run's limit; ``slow``: without a
    limit from the run, it gets more time than others. ``rehearsed``: unlearning was trained on this
    task, in other words. ``cluster`` names the tasks with which it shares a prompt, empty for none.
    ``language``: one of `NAMES`; if it is not Python, a call's only argument is the code of all
    arguments, and ``stops`` are the texts that end a solution. ``lacks``: a package that its tests
    need and that is never installed, empty for none.
    """

    id: str
    task_id: str
    entry_point: str
    prompt: str
    tests: tuple[Call, ...] | CheckProgram
    solution: str | None
    suffix: str = ""
    wrong: tuple[str, ...] = ()
    where: str = field(default="bundled", compare=False)
    group: str = field(default="bundled", compare=False)
    timeout: float | None = None
    slow: bool = False
    rehearsed: bool = field(default=False, compare=False)
    cluster: str = field(default="", compare=False)
    language: str = "python"
    stops: tuple[str, ...] = ()
    lacks: str = ""

    @property
    def counted_as(self) -> str:
        """The task, or all that share a prompt and count as one."""
        return self.cluster or self.task_id

    def time_limit(self, of_the_run: float | None) -> float | None:
        """Return the seconds that its tests may take: its own limit, or the run's; None for the
        sandbox's."""
        return self.timeout or of_the_run or (SLOW_TIMEOUT_S if self.slow else None)


@functools.cache
def bundled_tasks() -> tuple[Task, ...]:
    """Return the bundled tasks in file order, read once per process."""
    source = importlib.resources.files("pytest_unlearn.tasks").joinpath("bundled.jsonl")
    with source.open(encoding="utf-8") as lines:
        return tuple(_bundled_task(json.loads(line)) for line in lines)


def bundled_cases() -> tuple[TaskCase, ...]:
    """Return every bundled task under each of its unseen wordings, by task, then wording."""
    return tuple(
        TaskCase(
            id=f"{task.id}-w{number}",
            task_id=task.id,
            entry_point=task.entry_point,
            prompt=task.prompt(wording),
            tests=task.tests,
            solution=task.solution,
        )
        for task in bundled_tasks()
        for number, wording in enumerate(task.unseen, start=1)
    )


def _bundled_task(data: dict[str, Any]) -> Task:
    return Task(
        id=data["id"],
        entry_point=data["entry_point"],
        level=data["level"],
        signature=data["signature"],
        wordings=tuple(data["wordings"]),
        unseen=tuple(data["unseen"]),
        solution=data["solution"],
        tests=tuple(Call(tuple(call["args"]), call["expected"]) for call in data["tests"]),
        wrong=tuple(data["wrong"]),
    )


def own_case(data: dict[str, Any], where: str, group: str) -> TaskCase:
    """Return the task of one line in the own format; `tasks.schema.json` describes it.

    `where` is FILE:LINE. Raises TaskFileError, naming the field.
    """
    check_keys(data, where, TaskFileError, OWN_KEYS, _OPTIONAL)
    case_id = checked_id(checked_string(data["id"], "id", where, TaskFileError), "id", where)
    solution = None if data.get("solution") is None else text(data, "solution", where)
    wrong = data.get("wrong", [])
    if not isinstance(wrong, list):
        raise TaskFileError(f'{where}: "wrong": {json_name(wrong)} is given; write a list of texts')
    return TaskCase(
        id=case_id,
        task_id=case_id,
        entry_point=entry_of(data, where),
        prompt=prompt_text(data, "prompt", where),
        tests=_calls(data["tests"], tolerance_of(data, "tolerance", where), where),
        solution=solution,
        suffix=text(data, "suffix", where) if "suffix" in data else "",
        wrong=tuple(
            checked_text(item, f"wrong[{index}]", where) for index, item in enumerate(wrong)
        ),
        where=where,
        group=group,
        timeout=timeout_of(data, where),
    )


def timeout_of(data: dict[str, Any], where: str) -> float | None:
    """Return a task's own time limit in seconds, None if it has none. Raises TaskFileError."""
    value = data.get("timeout")
    if value is None:
        return None
    seconds = _number(value)
    if seconds is None or not 0 < seconds <= MAX_TIMEOUT_S:
        raise TaskFileError(
            f'{where}: "timeout": write a number of seconds over 0 and at most {MAX_TIMEOUT_S:g}'
        )
    return seconds


def tolerance_of(data: dict[str, Any], key: str, where: str) -> float:
    """Return how far floats may be from the expected ones, 0 if a task does not say.

    Raises TaskFileError.
    """
    tolerance = _number(data.get(key, 0))
    if tolerance is None or tolerance < 0:
        raise TaskFileError(f'{where}: "{key}": write a number of at least 0, like 1e-6')
    return tolerance


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known and math.isfinite(value) else None


def checked_id(case_id: str, key: str, where: str) -> str:
    """Return a case's id, which is part of test ids. Raises TaskFileError."""
    if not _ID.fullmatch(case_id):
        raise TaskFileError(
            f'{where}: "{key}": {case_id!r} is empty or has characters other than '
            "A-Z, a-z, 0-9, '.', '_' and '-'; write an id of those, like \"sum-of-list\""
        )
    return case_id


def name(data: dict[str, Any], key: str, where: str) -> str:
    """Return the name of a function under `key`. Raises TaskFileError."""
    return checked_name(checked_string(data[key], key, where, TaskFileError), key, where)


def entry_of(data: dict[str, Any], where: str) -> str:
    """Return the function of a line, or the `Class.method`, which may be written `Class().method`.

    Raises TaskFileError.
    """
    value = checked_string(data["entry_point"], "entry_point", where, TaskFileError)
    owner, dot, method = value.partition(".")
    if not dot:
        return checked_name(value, "entry_point", where)
    owner = owner.removesuffix("()")
    return ".".join(checked_name(each, "entry_point", where) for each in (owner, method))


def checked_name(value: str, key: str, where: str) -> str:
    """Return `value`, the name of a function. Raises TaskFileError."""
    if not value.isidentifier() or keyword.iskeyword(value):
        raise TaskFileError(
            f'{where}: "{key}": {value!r} is not a Python identifier; '
            'write the name of the function to call, like "total"'
        )
    return value


def prompt_text(data: dict[str, Any], key: str, where: str) -> str:
    """Return the prompt under `key`. Raises TaskFileError."""
    return checked_prompt(text(data, key, where), key, where)


def checked_prompt(prompt: str, key: str, where: str) -> str:
    """Return a prompt, which must not be empty. Raises TaskFileError."""
    if not prompt.strip():
        raise TaskFileError(
            f'{where}: "{key}": the text is empty; write the code that the model should continue'
        )
    return prompt


def text(data: dict[str, Any], key: str, where: str) -> str:
    """Return the text under `key`. Raises TaskFileError."""
    return checked_text(data[key], key, where)


def checked_text(value: Any, key: str, where: str) -> str:
    """Return a text of code: a string that Python and a tokenizer can read.

    Raises TaskFileError for another type, half a surrogate pair, a NUL, or more than `MAX_TEXT`
    characters.
    """
    text = checked_string(value, key, where, TaskFileError)
    if "\0" in text:
        raise TaskFileError(
            f'{where}: "{key}": character {text.index(chr(0)) + 1} is a NUL, which a Python '
            "program cannot contain; leave it out"
        )
    if len(text) > MAX_TEXT:
        raise TaskFileError(
            f'{where}: "{key}": the text has {len(text)} characters; write at most {MAX_TEXT}'
        )
    return text


def _calls(value: Any, tolerance: float, where: str) -> tuple[Call, ...]:
    if not isinstance(value, list):
        raise TaskFileError(
            f'{where}: "tests": {json_name(value)} is given; '
            'write a list of {"args": [...], "expected": ...}'
        )
    if not value:
        raise TaskFileError(
            f'{where}: "tests": the list is empty; add at least one {{"args": [...], '
            '"expected": ...}'
        )
    return tuple(
        _call(item, tolerance, f'{where}: "tests[{index}]') for index, item in enumerate(value)
    )


def _call(item: Any, tolerance: float, field: str) -> Call:
    """Return the call in `item`; `field` ends inside the quoted name of the field."""
    if not isinstance(item, dict):
        raise TaskFileError(
            f'{field}": {json_name(item)} is given; write {{"args": [...], "expected": ...}}'
        )
    for key in item:
        if key not in _CALL_KEYS + _OPTIONAL_CALL_KEYS:
            raise TaskFileError(
                f'{field}.{key}": unknown key; use only {quoted(_CALL_KEYS + _OPTIONAL_CALL_KEYS)}',
            )
    for key in _CALL_KEYS:
        if key not in item:
            raise TaskFileError(
                f'{field}.{key}": the key is missing; write {{"args": [...], "expected": ...}}'
            )
    try:
        json.dumps(item, allow_nan=False)
    except (ValueError, RecursionError):
        raise TaskFileError(
            f'{field}": NaN, Infinity or too deep nesting is not plain JSON; write finite numbers'
        ) from None
    args = item["args"]
    if not isinstance(args, list):
        raise TaskFileError(
            f'{field}.args": {json_name(args)} is given; write a list of the arguments, [] for none'
        )
    after = item.get("after")
    left: tuple[Any, ...] | Literal["any"] | None = None
    if after == "any":
        left = "any"
    elif isinstance(after, list) and len(after) == len(args):
        left = tuple(after)
    elif after is not None:
        raise TaskFileError(
            f'{field}.after": write a list of all {len(args)} arguments as the call must leave '
            'them, or "any"'
        )
    return Call(tuple(args), item["expected"], left, tolerance)
