"""Programming tasks that tell whether a code model can still code.

The bundled tasks (``bundled.jsonl``) are training data for the bundled tiny model under their
``wordings`` and test cases under their ``unseen`` wordings. A user's own task file is read by
:func:`load_cases`, which raises :class:`TaskFileError` for every line it cannot use.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import keyword
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_unlearn.jsonl import json_name, quoted, read_objects, string_field

__all__ = [
    "Call",
    "Task",
    "TaskCase",
    "TaskFileError",
    "bundled_cases",
    "bundled_tasks",
    "load_cases",
]

_REQUIRED = {
    "id": "a string that is unique in the file",
    "prompt": "the code that the model is to go on from",
    "entry_point": "the name of the function to call",
    "tests": 'a list of {"args": [...], "expected": ...}',
}
_OPTIONAL = ("solution",)
_CALL_KEYS = ("args", "expected")
_ID = re.compile(r"[A-Za-z0-9._-]+")


class TaskFileError(ValueError):
    """A user's task file cannot be used; the message names file, line, field and remedy."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a task's function and the value it has to return."""

    args: tuple[Any, ...]
    expected: Any


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
        """Return the signature and the docstring `wording`, for a model to go on from."""
        return f'{self.signature}\n    """{wording}"""\n'


@dataclass(frozen=True, slots=True)
class TaskCase:
    """What is measured: one task under one wording.

    ``solution`` is a function body that passes ``tests``, or None where none is known.
    """

    id: str
    task_id: str
    entry_point: str
    prompt: str
    tests: tuple[Call, ...]
    solution: str | None


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


def load_cases(path: Path) -> tuple[TaskCase, ...]:
    """Return the cases of the JSONL task file at `path`, in file order.

    Each line is an object with "id", "prompt", "entry_point", "tests" (a non-empty list of
    {"args": [...], "expected": ...}) and optionally "solution". Blank lines are skipped.

    Raises:
        TaskFileError: the file is missing, unreadable, not UTF-8 or has no task, or a line is
            not a valid task. The message names the path and, for a bad line, the line number,
            the field, what is wrong with it and what to write instead.
    """
    cases: list[TaskCase] = []
    first_line: dict[str, int] = {}
    for number, data in read_objects(path, TaskFileError, _REQUIRED, _OPTIONAL):
        case = _case(data, f"{path}:{number}")
        if case.id in first_line:
            raise TaskFileError(
                f'{path}:{number}: "id": {case.id!r} is already the id of line '
                f"{first_line[case.id]}; give each task its own id"
            )
        first_line[case.id] = number
        cases.append(case)
    if not cases:
        raise TaskFileError(f"{path}: the file has no task; write one JSON object per line")
    return tuple(cases)


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


def _case(data: dict[str, Any], where: str) -> TaskCase:
    case_id = string_field(data, "id", where, TaskFileError)
    if not _ID.fullmatch(case_id):
        raise TaskFileError(
            f'{where}: "id": {case_id!r} is empty or has other characters than '
            "A-Z, a-z, 0-9, '.', '_' and '-'; write an id of those, like \"sum-of-list\""
        )
    prompt = string_field(data, "prompt", where, TaskFileError)
    if not prompt.strip():
        raise TaskFileError(
            f'{where}: "prompt": the text is empty; write the code that the model is to go on from'
        )
    entry_point = string_field(data, "entry_point", where, TaskFileError)
    if not entry_point.isidentifier() or keyword.iskeyword(entry_point):
        raise TaskFileError(
            f'{where}: "entry_point": {entry_point!r} is not a Python identifier; '
            'write the name of the function to call, like "total"'
        )
    solution = (
        None
        if data.get("solution") is None
        else string_field(data, "solution", where, TaskFileError)
    )
    return TaskCase(
        id=case_id,
        task_id=case_id,
        entry_point=entry_point,
        prompt=prompt,
        tests=_calls(data["tests"], where),
        solution=solution,
    )


def _calls(value: Any, where: str) -> tuple[Call, ...]:
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
    return tuple(_call(item, f'{where}: "tests[{index}]') for index, item in enumerate(value))


def _call(item: Any, field: str) -> Call:
    """Return the call in `item`; `field` ends inside the quoted name of the field."""
    if not isinstance(item, dict):
        raise TaskFileError(
            f'{field}": {json_name(item)} is given; write {{"args": [...], "expected": ...}}'
        )
    for key in item:
        if key not in _CALL_KEYS:
            raise TaskFileError(
                f'{field}.{key}": unknown key; use only {quoted(_CALL_KEYS)}',
            )
    for key in _CALL_KEYS:
        if key not in item:
            raise TaskFileError(
                f'{field}.{key}": the key is missing; write {{"args": [...], "expected": ...}}'
            )
    args = item["args"]
    if not isinstance(args, list):
        raise TaskFileError(
            f'{field}.args": {json_name(args)} is given; write a list of the arguments, [] for none'
        )
    return Call(args=tuple(args), expected=item["expected"])
