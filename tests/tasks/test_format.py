"""The bundled tasks are sound and a bad line of a user's task file is named precisely."""

from __future__ import annotations

import ast
import copy
import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pytest_unlearn.tasks.files import load_cases
from pytest_unlearn.tasks.format import (
    Call,
    Task,
    TaskCase,
    TaskFileError,
    bundled_cases,
    bundled_tasks,
)
from tests.support.task_lines import BAD_LINES, VALID

BY_TASK = pytest.mark.parametrize("task", bundled_tasks(), ids=lambda task: task.id)


def failures(task: Task, body: str) -> list[str]:
    """Run `body` as the body of the task's function and return what went wrong."""
    scope: dict[str, Any] = {}
    exec(f"{task.signature}\n{body}", scope)  # noqa: S102 - the project's own code
    found = []
    for call in task.tests:
        args = copy.deepcopy(call.args)
        try:
            result = scope[task.entry_point](*args)
        except Exception as error:
            found.append(f"{call}: {error!r}")
            continue
        if result != call.expected or type(result) is not type(call.expected):
            found.append(f"{call}: returned {result!r}")
        if args != call.args:
            found.append(f"{call}: changed its arguments")
    return found


@BY_TASK
def test_solution_passes_every_test(task: Task) -> None:
    assert failures(task, task.solution) == []


@BY_TASK
def test_each_wrong_body_returns_a_wrong_value_or_raises(task: Task) -> None:
    for body in task.wrong:
        scope: dict[str, Any] = {}
        exec(f"{task.signature}\n{body}", scope)  # noqa: S102 - the project's own code

        def passes(call: Call, scope: dict[str, Any] = scope) -> bool:
            try:
                result = scope[task.entry_point](*copy.deepcopy(call.args))
            except Exception:
                return False
            return bool(result == call.expected)

        assert not all(passes(call) for call in task.tests), body


@BY_TASK
def test_task_is_complete_and_well_formed(task: Task) -> None:
    assert len(task.wordings) == 6
    assert len(task.unseen) == 2
    assert len(task.wrong) == len(set(task.wrong)) == 3
    assert task.solution not in task.wrong
    assert len(task.tests) >= 6
    assert task.signature.startswith(f"def {task.entry_point}(")
    assert task.signature.endswith("):")
    for body in (task.solution, *task.wrong):
        assert body.endswith("\n")
        assert body.isascii()
        assert "#" not in body
        assert "import" not in body
        lines = body.splitlines()
        assert 1 <= len(lines) <= 6
        assert all(line.startswith("    ") and line.strip() for line in lines)
        assert all((len(line) - len(line.lstrip())) % 4 == 0 for line in lines)
    for wording in (*task.wordings, *task.unseen):
        assert wording.isascii()
        assert wording.endswith(".")
        assert 3 <= len(wording.split()) <= 12
        assert not set(wording) & set("'\"\\\n")
        function = ast.parse(task.prompt(wording)).body[0]
        assert isinstance(function, ast.FunctionDef)
        assert ast.get_docstring(function) == wording


def test_there_are_sixty_four_tasks_in_three_levels() -> None:
    tasks = bundled_tasks()
    assert len(tasks) == 64
    assert Counter(task.level for task in tasks) == {1: 24, 2: 24, 3: 16}
    assert sum(task.id.startswith("pii-") for task in tasks) == 8
    assert bundled_tasks() is tasks


def test_ids_entry_points_and_solutions_are_unique() -> None:
    tasks = bundled_tasks()
    assert len({task.id for task in tasks}) == len(tasks)
    assert len({task.entry_point for task in tasks}) == len(tasks)
    assert len({task.solution for task in tasks}) == len(tasks)


def test_no_wording_occurs_twice_and_no_test_wording_is_trained_on() -> None:
    def plain(wording: str) -> str:
        return "".join(c for c in wording.lower() if c.isalnum())

    trained = [plain(wording) for task in bundled_tasks() for wording in task.wordings]
    tested = [plain(wording) for task in bundled_tasks() for wording in task.unseen]
    assert len(set(trained)) == len(trained)
    assert len(set(tested)) == len(tested)
    assert not set(trained) & set(tested)


def test_words_of_the_test_wordings_are_known_from_training() -> None:
    def words(wordings: tuple[str, ...]) -> set[str]:
        return {word.strip(".,").lower() for wording in wordings for word in wording.split()}

    known = set().union(*(words(task.wordings) for task in bundled_tasks()))
    assert set().union(*(words(task.unseen) for task in bundled_tasks())) <= known


def test_bundled_cases_are_each_task_under_its_unseen_wordings() -> None:
    cases = bundled_cases()
    first = bundled_tasks()[0]
    assert len(cases) == 128
    assert [case.id for case in cases[:3]] == [
        "sum-of-list-w1",
        "sum-of-list-w2",
        f"{bundled_tasks()[1].id}-w1",
    ]
    assert cases[1] == TaskCase(
        id="sum-of-list-w2",
        task_id="sum-of-list",
        entry_point="total",
        prompt=f'def total(xs):\n    """{first.unseen[1]}"""\n',
        tests=first.tests,
        solution=first.solution,
    )


def test_load_cases_reads_lines_and_skips_blank_ones(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    other = {**VALID, "id": "A.b_2", "solution": "    return sum(xs)\n"}
    path.write_text(f"\n{json.dumps(VALID)}\n  \n{json.dumps(other)}", encoding="utf-8-sig")
    first = TaskCase(
        id="sum-of-list",
        task_id="sum-of-list",
        entry_point="total",
        prompt="def total(xs):\n",
        tests=(Call(args=([1, 2],), expected=3),),
        solution=None,
    )
    second = dataclasses.replace(
        first, id="A.b_2", task_id="A.b_2", solution="    return sum(xs)\n"
    )
    assert load_cases(path) == (first, second)


def test_a_task_says_its_time_its_tolerance_and_what_becomes_of_arguments(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    tests = [{"args": [[2, 1]], "expected": None, "after": [[1, 2]]}, {"args": [[]], "expected": 0}]
    path.write_text(json.dumps({**VALID, "tests": tests, "timeout": 20, "tolerance": 1e-6}))
    (case,) = load_cases(path)
    assert case.timeout == 20.0
    assert case.tests == (
        Call(([2, 1],), None, ([1, 2],), 1e-6),
        Call(([],), 0, None, 1e-6),
    )


@pytest.mark.parametrize(("line", "message"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_bad_line_is_named_with_its_field_and_remedy(
    tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(f"{json.dumps(VALID)}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(TaskFileError) as caught:
        load_cases(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert message in str(caught.value)


def test_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(json.dumps(VALID).encode() + b'\n{"id": "\xff"}\n')
    with pytest.raises(TaskFileError) as caught:
        load_cases(path)
    assert str(caught.value) == (
        f"{path}:2: byte 9 of the line is not UTF-8; save the file with UTF-8 encoding"
    )


@pytest.mark.parametrize("text", ["", "\n \n"], ids=["empty", "blank"])
def test_file_without_tasks_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TaskFileError) as caught:
        load_cases(path)
    assert str(caught.value) == f"{path}: the file has no task; write one JSON object per line"


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "none.jsonl"
    with pytest.raises(TaskFileError) as caught:
        load_cases(path)
    assert str(caught.value) == (f"{path}: the file does not exist; give the path of a JSONL file")


def test_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TaskFileError) as caught:
        load_cases(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: the file cannot be read (")
