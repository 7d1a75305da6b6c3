"""Lines of LiveCodeBench (arXiv 2403.07974): problems of programming contests.

A solution is a program that reads standard input, or a method of a class `Solution` where the line
has starter code. Tests are JSON in a text; private ones may be packed as the benchmark's own loader
expects them: base64, zlib, pickle, of which only a text is read and nothing is ever run.
"""

from __future__ import annotations

import base64
import binascii
import json
import pickletools
import zlib
from typing import Any

from pytest_unlearn.core.text_files import json_name
from pytest_unlearn.tasks.format import (
    PROGRAM,
    Call,
    TaskCase,
    TaskFileError,
    checked_id,
    checked_name,
    checked_prompt,
    text,
    timeout_of,
)

# More than the tests of one problem take; what unpacks to more is refused.
MAX_TESTS = 1 << 28
_ASKED = (
    "Read from standard input and write to standard output; write the whole program.",
    "Complete the class.",
)
# What the benchmark's own harness puts in front of a solution, as far as solutions rely on it.
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


def _tests(value: Any, key: str, where: str) -> list[dict[str, Any]]:
    if value in (None, ""):
        return []
    found = _json(value, key, where) if isinstance(value, str) else value
    if isinstance(found, list) and all(
        isinstance(item, dict) and isinstance(item.get(part), str)
        for item in found
        for part in ("input", "output")
    ):
        return found
    raise TaskFileError(
        f'{where}: "{key}": {json_name(found)} is given; write a list of {{"input": "...", '
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
