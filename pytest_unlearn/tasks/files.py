"""A user's task files: formats told apart by their keys, every fault named by file, line, field.

Known are HumanEval, MBPP (full, sanitized, and MBPP+ as the hub has it), EvalPlus (HumanEval+ and
MBPP+), LiveCodeBench and the package's own format as JSON Lines, plain or gzip, or as one JSON
list; and a Python file that holds one task.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_unlearn.core.files import read_any_objects
from pytest_unlearn.tasks.benchmarks import evalplus_case, humaneval_case, mbpp_case
from pytest_unlearn.tasks.format import OWN_KEYS, TaskCase, TaskFileError, own_case
from pytest_unlearn.tasks.livecodebench import livecodebench_case
from pytest_unlearn.tasks.python_file import python_case

__all__ = ["TaskFileError", "load_cases"]


@dataclass(frozen=True, slots=True)
class Format:
    """One format of task files: a line with any of `keys` is in it, `case` reads a line."""

    name: str
    keys: frozenset[str]
    case: Callable[[dict[str, Any], str, str], TaskCase]


# In this order: EvalPlus's lines hold HumanEval's keys as well.
FORMATS: tuple[Format, ...] = (
    Format("the own format", frozenset({"tests", "id"}), own_case),
    Format("EvalPlus", frozenset({"base_input", "plus_input"}), evalplus_case),
    Format("MBPP", frozenset({"test_list"}), mbpp_case),
    Format("LiveCodeBench", frozenset({"public_test_cases"}), livecodebench_case),
    Format("HumanEval", frozenset({"test", "canonical_solution"}), humaneval_case),
)


def load_cases(path: Path, group: str | None = None) -> tuple[TaskCase, ...]:
    """Return the cases of the task file at `path`, in its order.

    `group` names the set in reports, the file's name without ending if left out.

    Raises:
        TaskFileError: the file is missing, unreadable, not UTF-8 or has no task, or a line is
            not a valid task or in another format than the first. The message names the path
            and, for a bad line, the line number, the field, what is wrong with it and what to
            write instead.
    """
    named = group or path.name.split(".")[0]
    if path.suffix == ".py":
        return (python_case(path, named),)
    cases: list[TaskCase] = []
    first_place: dict[str, str] = {}
    known: tuple[Format, str] | None = None
    for place, data in _objects(path):
        where = f"{path}:{place}"
        found = next((format_ for format_ in FORMATS if format_.keys & data.keys()), None)
        if known is None:
            known = (found or FORMATS[0], place)
        elif found is not None and found is not known[0]:
            raise TaskFileError(
                f"{where}: this line is in {found.name}, and line {known[1]} in {known[0].name}; "
                "write one format a file"
            )
        case = known[0].case(data, where, named)
        if case.id in first_place:
            raise TaskFileError(
                f'{where}: "id": {case.id!r} is already the id of line '
                f"{first_place[case.id]}; give each task its own id"
            )
        first_place[case.id] = place
        cases.append(case)
    if not cases:
        raise TaskFileError(f"{path}: the file has no task; write one JSON object per line")
    return tuple(cases)


def _objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each task's place in the file, a line's number, and its object."""
    listed = _listed(path)
    if listed is None:  # MBPP+ has infinite arguments
        for number, data in read_any_objects(path, TaskFileError, tuple(OWN_KEYS), constants=True):
            yield str(number), data
        return
    for number, item in enumerate(listed, start=1):
        if not isinstance(item, Mapping):
            raise TaskFileError(f"{path}: item {number}: write a JSON object for each task")
        yield f"1 (item {number})", dict(item)


def _listed(path: Path) -> list[Any] | None:
    """Return the items of a file that is one JSON list, as MBPP's sanitized file; None if not."""
    if path.suffix != ".json":
        return None
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None  # read line by line, which names what is wrong
    return data if isinstance(data, list) else None
