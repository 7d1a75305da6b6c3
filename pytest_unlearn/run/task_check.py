"""`--unlearn-check-tasks`: do a task's own solutions pass its tests, and do wrong ones fail?"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pytest_unlearn.sandbox import Verdict
from pytest_unlearn.tasks.format import TaskCase, TaskFileError

# So many faults are named; the others are counted.
_NAMED = 10


def check_tasks(cases: Iterable[TaskCase], judge: Callable[[TaskCase, str], Verdict]) -> int:
    """Judge every canonical and every wrong solution; return the number of cases without one.

    `judge(case, text)` is the verdict on a text written after the case's prompt. Raises
    TaskFileError, naming file and line, where tests fail or hang on the canonical solution or
    pass a wrong one.
    """
    faults: list[str] = []
    unchecked = 0
    for case in cases:
        if case.solution is None:
            unchecked += 1
        else:
            faults += _fault_of_solution(case, judge)
        faults += _blind_spots(case, judge)
    if faults:
        more = f"\n... and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise TaskFileError("--unlearn-check-tasks:\n" + "\n".join(faults[:_NAMED]) + more)
    return unchecked


def _fault_of_solution(case: TaskCase, judge: Callable[[TaskCase, str], Verdict]) -> list[str]:
    try:
        verdict = judge(case, f"\n{case.solution}")
    except RuntimeError as error:
        said = str(error)
    else:
        if verdict.passed:
            return []
        call = "" if verdict.call is None else f", in test {verdict.call + 1}"
        said = f"{verdict.status} ({verdict.detail}{call})"
    return [
        f'{case.where}: "solution": the canonical solution of {case.id} does not pass the tests: '
        f"{said}; mend one of them"
    ]


def _blind_spots(case: TaskCase, judge: Callable[[TaskCase, str], Verdict]) -> list[str]:
    found = []
    for index, wrong in enumerate(case.wrong):
        if judge(case, f"\n{wrong}").passed:
            found.append(
                f'{case.where}: "wrong[{index}]": this passes all tests of {case.id}; add a test '
                "that it fails"
            )
    return found
