"""A task in a Python file of the user: `prompt`, `entry_point` and `check(candidate)`.

The file is read as a syntax tree and never run here; it is the trusted side of the judging later.
"""

from __future__ import annotations

import ast
from pathlib import Path

from pytest_unlearn.tasks.format import (
    TaskCase,
    TaskFileError,
    checked_id,
    checked_name,
    checked_prompt,
    checked_text,
)
from pytest_unlearn.tasks.programs import CheckProgram, checking_program, given_by
from pytest_unlearn.tasks.syntax import FAULTS, syntax_tree

_TEXTS = ("prompt", "entry_point", "solution", "suffix")


def python_case(path: Path, group: str) -> TaskCase:
    """Return the task of a Python file; its id is the file's name without `.py`.

    Raises TaskFileError for a file that is no Python, or that lacks a name or gives it another
    value than a text.
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
        line = getattr(error, "lineno", None) or 1
        raise TaskFileError(f"{path}:{line}: no Python program ({error}); mend it") from None
    texts: dict[str, tuple[str, str]] = {}
    check: ast.FunctionDef | None = None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "check":
            check = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name) and target.id in _TEXTS:
                    texts[target.id] = _text(node.value, target.id, f"{path}:{node.lineno}")
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


def _text(value: ast.expr | None, key: str, where: str) -> tuple[str, str]:
    if not isinstance(value, ast.Constant) or not isinstance(value.value, str):
        raise TaskFileError(f'{where}: "{key}": write the text itself, like {key} = "..."')
    return checked_text(value.value, key, where), where
