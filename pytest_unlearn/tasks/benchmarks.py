"""Lines of the public benchmarks: HumanEval (arXiv 2107.03374), MBPP (2108.07732), EvalPlus
(2305.01210), LiveCodeBench (2403.07974). Keys that this package does not need are ignored, because
releases differ in them.

A LiveCodeBench solution is a program that reads standard input or, if the line has starter code, a
method of a class `Solution`. Its tests are JSON in a string; private ones may be packed as the
benchmark's own loader expects: base64, zlib, pickle. Only a string is read from that pickle, and
nothing is ever run.
"""

from __future__ import annotations

import ast
import base64
import binascii
import json
import pickletools
import sys
import zlib
from collections.abc import Sequence
from typing import Any

from pytest_unlearn.core.text_files import json_name
from pytest_unlearn.tasks.format import (
    PROGRAM,
    Call,
    CheckProgram,
    TaskCase,
    TaskFileError,
    checked_id,
    checked_name,
    checked_prompt,
    checked_text,
    checking_program,
    defined_before,
    entry_of,
    given_by,
    name,
    parsed,
    prompt_text,
    text,
    timeout_of,
    without_numpy,
)
from pytest_unlearn.tasks.syntax import FAULTS, called_name, syntax_tree

_HUMANEVAL = {
    "task_id": 'the task\'s id, like "HumanEval/0"',
    "prompt": "the code that the model is to go on from",
    "entry_point": "the name of the function to call",
    "test": "Python source that defines check(candidate)",
}
_MBPP = {
    "task_id": "the task's number",
    "code": "the canonical solution",
    "test_list": "a list of assert statements",
}
_EVALPLUS = {
    "task_id": 'the task\'s id, like "HumanEval/0"',
    "prompt": "the code that the model is to go on from",
    "entry_point": "the name of the function to call",
    "canonical_solution": "the body that passes, from which expected answers are made",
    "base_input": "a list of lists of arguments",
    "plus_input": "a list of lists of arguments",
}

# Tasks for which EvalPlus requires less than equality: order and repetition do not count, or any
# answer except None counts as True.
_AS_SETS = frozenset(
    "similar_elements find_char_long common_in_nested_lists extract_singly larg_nnum "
    "intersection_array find_dissimilar Diff".split()
)
_NOT_NONE = frozenset({"check_str", "text_match_three", "text_starta_endb"})
# EvalPlus's tolerance for floats if a task names none.
_FLOAT_ATOL = 1e-6

# Run on the trusted side. Tolerance belongs to one input: an earlier one's floats do not loosen
# what comes after.
_EVALPLUS_PROGRAM = """

import copy as _copy
import math as _math
from math import inf, nan  # as the inputs spell them

_reference = {entry_point}
_inputs = {inputs}


def _floats(value):
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def _close(expected, got, atol):
    if isinstance(expected, (list, tuple)):
        return (
            type(expected) is type(got)
            and len(expected) == len(got)
            and all(_close(e, g, atol) for e, g in zip(expected, got))
        )
    if isinstance(expected, (int, float)) and isinstance(got, (int, float)):
        return _math.isclose(expected, got, rel_tol=1e-07, abs_tol=atol) or (
            _math.isnan(expected) and _math.isnan(got)
        )
    return expected == got


def _right(arguments, expected, got):
    {special}
    if expected == got:
        return True
    atol = {atol}
    if atol == 0 and _floats(expected):
        atol = {float_atol}
    return atol != 0 and _close(expected, got, atol)


for _number, _arguments in enumerate(_inputs):
    _left = _copy.deepcopy(_arguments)
    _expected = _reference(*_left)
    # A reference may also change what it is given by the way, while it computes an answer.
    _given = None
    if _expected is not None and _left != _arguments:
        _given = _copy.deepcopy(_arguments)
    _got = candidate(*_arguments)
    assert (
        _arguments == _left or _arguments == _given or _close(_left, _arguments, {float_atol})
    ), f"input {{_number}}: changes its arguments in another way than the reference"
    assert _right(_arguments, _expected, _got), f"input {{_number}}"
"""


def humaneval_case(data: dict[str, Any], where: str, group: str) -> TaskCase:
    """Return the task of a line of HumanEval, or of a set in its format.

    The tests can use helpers that the prompt defines, because some do. `test` defines
    check(candidate), or unittest classes (arXiv 2406.15877). Raises TaskFileError.
    """
    if "prompt" not in data and "complete_prompt" in data:  # BigCodeBench
        data = {**data, "prompt": data["complete_prompt"]}
    _require(data, _HUMANEVAL, where)
    case_id = _id(data, where, "")
    entry_point = entry_of(data, where)
    prompt = prompt_text(data, "prompt", where)
    test = checked_string_of_tests(data, where)
    program = checking_program(test, "test", where, TaskFileError)
    return TaskCase(
        id=case_id,
        task_id=case_id,
        entry_point=entry_point,
        prompt=prompt,
        tests=CheckProgram(
            defined_before(prompt, entry_point) + without_numpy(program), given_by(test)
        ),
        solution=_optional(data, "canonical_solution", where),
        suffix=_optional(data, "suffix", where) or "",
        where=where,
        group=group,
        timeout=timeout_of(data, where),
    )


def leetcode_case(data: dict[str, Any], where: str, group: str) -> TaskCase:
    """Return the task of a line of LeetCodeDataset (arXiv 2504.14655): HumanEval's keys, and the
    problem and the class to complete apart. Raises TaskFileError."""
    if "starter_code" not in data:
        raise TaskFileError(f'{where}: "starter_code": the key is missing; add the class to begin')
    starter = prompt_text(data, "starter_code", where)
    about = checked_prompt(text(data, "problem_description", where), "problem_description", where)
    given = text(data, "prompt", where) if data.get("prompt") else ""
    asked = "".join(f"# {line}".rstrip() + "\n" for line in about.strip().split("\n"))
    prompt = f"{given.rstrip()}\n\n{asked}# {_ASKED[1]}\n{starter.rstrip()}\n".lstrip("\n")
    return humaneval_case({**data, "prompt": prompt}, where, group)


def mbpp_case(data: dict[str, Any], where: str, group: str) -> TaskCase:
    """Return the task of a line of MBPP: the full set's keys, or the sanitized one's.

    The prompt is a docstring of the description and the tests, as in the harnesses. Lines of MBPP+
    on the hub have a program with more inputs in `test`, which is used instead. Raises
    TaskFileError.
    """
    _require(data, _MBPP, where)
    if "text" not in data and "prompt" not in data:
        raise TaskFileError(f'{where}: "prompt": the key is missing; add what the function does')
    about = prompt_text(data, "text" if "text" in data else "prompt", where).strip()
    tests = _statements(data["test_list"], "test_list", where)
    if not tests:
        raise TaskFileError(f'{where}: "test_list": the list is empty; add at least one assert')
    code = text(data, "code", where)
    setup = _optional(data, "test_setup_code", where) or ""
    imports = _statements(data.get("test_imports", []), "test_imports", where)
    own = _imports_of(code)
    more = checked_string_of_tests(data, where) if data.get("test") is not None else ""
    parsed(more, "test", where, TaskFileError)
    case_id = _id(data, where, "mbpp-")
    listed = "\n".join(tests)
    return TaskCase(
        id=case_id,
        task_id=case_id,
        entry_point=_called(code, tests, where),
        prompt=f'"""\n{about}\n{listed}\n"""\n',
        tests=CheckProgram(
            "\n".join([setup, *imports, *own, *([] if more else tests), without_numpy(more), ""]),
            given_by("\n".join([*imports, more])) + setup,
        ),
        solution=code,
        where=where,
        group=group,
        timeout=timeout_of(data, where),
    )


def _imports_of(code: str) -> list[str]:
    """Return the canonical solution's imports of the standard library: one test relies on them."""
    imports = []
    try:
        tree = syntax_tree(code)
    except FAULTS:
        return []
    for node in tree.body:
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            continue
        if all(module.split(".")[0] in sys.stdlib_module_names for module in modules):
            imports.append(ast.unparse(node))
    return imports


def evalplus_case(data: dict[str, Any], where: str, group: str) -> TaskCase:
    """Return the task of a line of HumanEval+ or MBPP+, tested on its base and plus inputs.

    When a solution is judged, the expected answers come from the canonical solution, and so does
    the state in which a call may leave its arguments, which EvalPlus's own harness does not check.
    JSON has no tuples and no sets, so arguments get the types in `assertion`, if there is one.
    Raises TaskFileError.
    """
    _require(data, _EVALPLUS, where)
    case_id = _id(data, where, "")
    entry_point = name(data, "entry_point", where)
    prompt = prompt_text(data, "prompt", where)
    solution = text(data, "canonical_solution", where)
    types = _argument_types(_optional(data, "assertion", where) or "", entry_point)
    inputs = [
        typed
        for key in ("base_input", "plus_input")
        for typed in _inputs(data[key], key, types, where)
    ]
    if not inputs:
        raise TaskFileError(f'{where}: "base_input": there is no input; add a list of arguments')
    atol = data.get("atol", 0)
    if isinstance(atol, bool) or not isinstance(atol, int | float) or atol < 0:
        raise TaskFileError(f'{where}: "atol": write a number of at least 0')
    reference = prompt.rstrip() + "\n" + solution
    parsed(reference, "canonical_solution", where, TaskFileError)
    return TaskCase(
        id=case_id,
        task_id=case_id,
        entry_point=entry_point,
        prompt=prompt,
        tests=CheckProgram(
            reference
            + _EVALPLUS_PROGRAM.format(
                entry_point=entry_point,
                inputs=repr(inputs),
                special=_special(entry_point),
                atol=float(atol),
                float_atol=_FLOAT_ATOL,
            )
        ),
        solution=solution,
        where=where,
        group=group,
        timeout=timeout_of(data, where),
        slow=True,
    )


def _require(data: dict[str, Any], keys: dict[str, str], where: str) -> None:
    for key, hint in keys.items():
        if key not in data:
            raise TaskFileError(f'{where}: "{key}": the key is missing; add {hint}')


def _id(data: dict[str, Any], where: str, prefix: str) -> str:
    """Return a task's id for test ids, in which a slash would be a folder's."""
    value = data["task_id"]
    if isinstance(value, int) and not isinstance(value, bool):
        value = f"{prefix or 'task-'}{value}"
    if not isinstance(value, str):
        raise TaskFileError(f'{where}: "task_id": {json_name(value)} is given; write a string')
    return checked_id(value.replace("/", "-"), "task_id", where)


def checked_string_of_tests(data: dict[str, Any], where: str) -> str:
    """Return HumanEval's test source, which in EvalPlus's releases is longer than other texts."""
    value = data["test"]
    if isinstance(value, str) and "\0" not in value:
        return value
    return checked_text(value, "test", where)


def _optional(data: dict[str, Any], key: str, where: str) -> str | None:
    return None if data.get(key) is None else text(data, key, where)


def _statements(value: Any, key: str, where: str) -> list[str]:
    if not isinstance(value, list):
        raise TaskFileError(
            f'{where}: "{key}": {json_name(value)} is given; write a list of statements'
        )
    statements = [checked_text(item, f"{key}[{index}]", where) for index, item in enumerate(value)]
    for index, statement in enumerate(statements):
        parsed(statement, f"{key}[{index}]", where, TaskFileError)
    return statements


def _called(code: str, tests: Sequence[str], where: str) -> str:
    """Return the function of the canonical solution that the tests call first."""
    defined = {
        node.name
        for node in parsed(code, "code", where, TaskFileError).body
        if isinstance(node, ast.FunctionDef)
    }
    for test in tests:
        for node in ast.walk(syntax_tree(test)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in defined
            ):
                return node.func.id
    raise TaskFileError(
        f'{where}: "test_list": no test calls a function that "code" defines; add an assert on one'
    )


def _inputs(value: Any, key: str, types: Sequence[Any] | None, where: str) -> list[list[Any]]:
    value = value or []  # one line of MBPP+ has an empty object
    if not isinstance(value, list) or not all(isinstance(item, list) for item in value):
        raise TaskFileError(f'{where}: "{key}": write a list of lists of arguments')
    if types is None:
        return list(value)
    types = [
        complex(like)
        if isinstance(like, int | float) and all(_is_number(a[i : i + 1]) for a in value)
        else like
        for i, like in enumerate(types)
    ]
    return [
        [_typed(a, types[min(i, len(types) - 1)]) for i, a in enumerate(arguments)]
        for arguments in value
    ]


def _is_number(argument: list[Any]) -> bool:
    """Return whether an argument is a number written as a text, as MBPP+ has complex ones."""
    try:
        return bool(argument) and isinstance(argument[0], str) and complex(argument[0]) is not None
    except ValueError:
        return False


def _argument_types(assertion: str, entry_point: str) -> list[Any] | None:
    """Return the literal arguments of the first call of the function in `assertion`."""
    try:
        tree = syntax_tree(assertion)
    except FAULTS:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called_name(node) == entry_point:
            try:
                return [ast.literal_eval(argument) for argument in node.args] or None
            except ValueError:
                return None
    return None


def _typed(value: Any, like: Any) -> Any:
    """Return a JSON value in the types of an example: tuples, sets, complex numbers as text.

    Containers inside a container are like its first one, or where it has none, like itself.
    """
    if isinstance(value, str) and isinstance(like, complex):
        return complex(value)
    if isinstance(value, dict) and isinstance(like, dict) and like:
        example = next(iter(like.values()))
        return {key: _typed(item, example) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    items = list(like) if isinstance(like, list | tuple | set) else []
    inner = next((item for item in items if isinstance(item, list | tuple | set | dict)), like)
    flat = next((item for item in items if not isinstance(item, list | tuple | set | dict)), None)
    typed = [_typed(item, inner if isinstance(item, list | dict) else flat) for item in value]
    if isinstance(like, tuple):
        return tuple(typed)
    return set(typed) if isinstance(like, set) else typed


def _special(entry_point: str) -> str:
    """Return the line that judges a task whose answers are not compared for equality."""
    if entry_point == "find_zero":  # any root will do
        return "return abs(poly(arguments[0], got)) <= 1e-4"
    if entry_point in _AS_SETS:
        return "return set(expected) == set(got)"
    if entry_point in _NOT_NONE:
        return "return bool(expected) == (got if isinstance(got, bool) else got is not None)"
    return "pass"


# More than the tests of one problem take; anything that unpacks to more is refused.
MAX_TESTS = 1 << 28
_ASKED = (
    "Read from standard input and write to standard output; write the whole program.",
    "Complete the class.",
)
# The part of the benchmark's own preamble that solutions rely on.
_IMPORTS = """from typing import *
from collections import *
from itertools import *
from functools import *
from heapq import *
from bisect import *
from string import *
import math, sys, re, random, copy, string, collections, itertools, functools, heapq, bisect
"""


def livecodebench_case(data: dict[str, Any], where: str, group: str) -> TaskCase:
    """Return the task of a line. Raises TaskFileError, naming the field."""
    for key in ("question_id", "question_content"):
        if key not in data:
            raise TaskFileError(f'{where}: "{key}": the key is missing; add the text')
    case_id = checked_id(str(data["question_id"]).replace("/", "-"), "question_id", where)
    about = checked_prompt(text(data, "question_content", where), "question_content", where)
    starter = text(data, "starter_code", where) if data.get("starter_code") else ""
    tests: list[dict[str, Any]] = []
    for key in ("public_test_cases", "private_test_cases"):
        tests += _tests(data.get(key), key, where)
    if not tests:
        raise TaskFileError(f'{where}: "public_test_cases": the list is empty; add a test')
    asked = "".join(f"# {line}".rstrip() + "\n" for line in about.strip().split("\n"))
    entry_point, prompt = PROGRAM, f"{asked}# {_ASKED[0]}\n"
    if starter:
        metadata = _json(data.get("metadata") or "{}", "metadata", where)
        name = metadata.get("func_name") if isinstance(metadata, dict) else None
        if not isinstance(name, str):
            raise TaskFileError(
                f'{where}: "metadata": no "func_name", though there is starter code; add the name '
                "of the method to call"
            )
        checked_name(name, "metadata", where)
        entry_point = f"Solution.{name}" if "class Solution" in starter else name
        prompt = f"{_IMPORTS}\n{asked}# {_ASKED[1]}\n{starter.rstrip()}\n"
    return TaskCase(
        id=case_id,
        task_id=case_id,
        entry_point=entry_point,
        prompt=prompt,
        tests=tuple(
            _call(test, entry_point == PROGRAM, f"{where}: test {number}")
            for number, test in enumerate(tests, start=1)
        ),
        solution=text(data, "code", where) if data.get("code") else None,
        where=where,
        group=group,
        timeout=timeout_of(data, where),
        slow=True,
    )


def apps_case(data: dict[str, Any], where: str, group: str) -> TaskCase:
    """Return the task of a line of APPS (Hendrycks et al., arXiv 2105.09938): a program, or a
    function where `input_output` has its name. Raises TaskFileError, naming the field.
    """
    if "problem_id" not in data:
        raise TaskFileError(f'{where}: "problem_id": the key is missing; add the number')
    about = checked_prompt(text(data, "question", where), "question", where)
    starter = text(data, "starter_code", where) if data.get("starter_code") else ""
    held = data["input_output"]
    given = _json(held, "input_output", where) if isinstance(held, str) and held else held
    inputs, outputs = (
        given.get(key) if isinstance(given, dict) else None for key in ("inputs", "outputs")
    )
    if not isinstance(inputs, list) or not isinstance(outputs, list) or not inputs:
        raise TaskFileError(
            f'{where}: "input_output": no tests in it; write {{"inputs": [...], '
            '"outputs": [...]}, or leave the line out'
        )
    if len(inputs) != len(outputs):
        raise TaskFileError(
            f'{where}: "input_output": {len(inputs)} inputs and {len(outputs)} outputs; write one '
            "output for each input"
        )
    asked = "".join(f"# {line}".rstrip() + "\n" for line in about.strip().split("\n"))
    entry_point, prompt = PROGRAM, f"{asked}# {_ASKED[0]}\n"
    if name := given.get("fn_name"):
        checked_name(name, "input_output", where)
        entry_point = f"Solution.{name}" if "class Solution" in starter else name
        prompt = f"{_IMPORTS}\n{asked}{starter.rstrip() or f'def {name}'}\n"
    return TaskCase(
        id=(case_id := checked_id(str(data["problem_id"]), "problem_id", where)),
        task_id=case_id,
        entry_point=entry_point,
        prompt=prompt,
        solution=_first_solution(data.get("solutions"), where),
        tests=tuple(
            _apps_call(inputs[i], outputs[i], entry_point == PROGRAM, f"{where}: test {i + 1}")
            for i in range(len(inputs))
        ),
        where=where,
        group=group,
        timeout=timeout_of(data, where),
        slow=True,
    )


def _first_solution(value: Any, where: str) -> str | None:
    listed = _json(value, "solutions", where) if isinstance(value, str) and value else value
    first = listed[0] if isinstance(listed, list) and listed else None
    return None if first is None else checked_text(first, "solutions", where)


def _apps_call(given: Any, expected: Any, is_program: bool, where: str) -> Call:
    """Return one test; a program's lines may be a list, a function's result a list of one."""
    if not is_program:
        if not isinstance(given, list):
            raise TaskFileError(f"{where}: write the list of arguments")
        result = expected[0] if isinstance(expected, list) and len(expected) == 1 else expected
        return Call(tuple(given), result, "any")
    lines = ["\n".join(item) if isinstance(item, list) else item for item in (given, expected)]
    if not all(isinstance(item, str) for item in lines):
        raise TaskFileError(f"{where}: write input and output as texts")
    return Call((lines[0],), lines[1])


def _tests(value: Any, key: str, where: str) -> list[dict[str, Any]]:
    if value in (None, ""):
        return []
    tests = _json(value, key, where) if isinstance(value, str) else value
    if isinstance(tests, list) and all(
        isinstance(item, dict) and isinstance(item.get(part), str)
        for item in tests
        for part in ("input", "output")
    ):
        return tests
    raise TaskFileError(
        f'{where}: "{key}": {json_name(tests)} is given; write a list of {{"input": "...", '
        '"output": "..."}}, or that as a text'
    )


def _json(value: str, key: str, where: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(_unpacked(value))
    except (ValueError, RecursionError, binascii.Error, zlib.error):
        raise TaskFileError(
            f'{where}: "{key}": the text is neither JSON nor packed as LiveCodeBench packs it; '
            "write JSON"
        ) from None


def _unpacked(value: str) -> str:
    """Return the one text in a packed pickle, by reading its parts: nothing is loaded."""
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(base64.b64decode(value, validate=True), MAX_TESTS)
    if unpacker.unconsumed_tail:
        raise ValueError("too large")
    texts = [part for _, part, _ in pickletools.genops(data) if isinstance(part, str)]
    if len(texts) != 1:
        raise ValueError("not one text")
    return texts[0]


def _call(test: dict[str, Any], is_program: bool, where: str) -> Call:
    if is_program:
        return Call((test["input"],), test["output"])
    try:
        arguments = tuple(json.loads(line) for line in test["input"].split("\n") if line.strip())
        return Call(arguments, json.loads(test["output"]), "any")
    except (ValueError, RecursionError):
        raise TaskFileError(
            f'{where}: "input" and "output" of a function hold JSON, one argument a line; fix them'
        ) from None
