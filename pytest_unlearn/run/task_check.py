"""`--unlearn-check-tasks`: do a task's own solutions pass its tests, and do wrong ones fail?"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pytest_unlearn.sandbox import SolutionVerdict
from pytest_unlearn.tasks.format import PROGRAM, CheckProgram, TaskCase, TaskFileError
from pytest_unlearn.tasks.languages import PYTHON

# The verdict on a text written after a case's prompt.
Judge = Callable[[TaskCase, str], SolutionVerdict]
# So many faults are named; the others are counted.
_NAMED = 10
# What a function that does nothing may give.
_STUBS = ("None", "True", "False", "0", "1", "''", "[]", "arguments[0]")


def check_tasks(cases: Iterable[TaskCase], judge: Judge) -> list[str]:
    """Judge every canonical and every wrong solution, and stubs: bodies of one constant.

    Returns what is worth knowing, a line each: how many cases have no solution, and which ones a
    stub passes (public benchmarks have a few). `judge(case, text)` is the verdict on a text written
    after the case's prompt. Raises TaskFileError, naming file and line, where tests fail or hang on
    the canonical solution or pass a wrong one.
    """
    faults: list[str] = []
    stubs: list[str] = []
    unchecked = 0
    for case in cases:
        if case.solution is None:
            unchecked += 1
        else:
            faults += _fault_of_solution(case, judge)
        faults += _blind_spots(case, judge)
        stubs += _passing_stub(case, judge)
    if faults:
        more = f"\n... and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise TaskFileError("--unlearn-check-tasks:\n" + "\n".join(faults[:_NAMED]) + more)
    notes = [f"{unchecked} tasks have no solution to check"] if unchecked else []
    if stubs:
        more = f"; and {len(stubs) - _NAMED} more" if len(stubs) > _NAMED else ""
        notes.append(
            f"{len(stubs)} tasks cannot tell a stub from a solution; add tests that it fails: "
            + "; ".join(stubs[:_NAMED])
            + more
        )
    return notes


def _fault_of_solution(case: TaskCase, judge: Judge) -> list[str]:
    try:
        verdict = judge(case, f"\n{case.solution}")
    except RuntimeError as error:
        reason = str(error)
    else:
        if verdict.passed:
            return []
        call = "" if verdict.call is None else f", in test {verdict.call + 1}"
        reason = f"{verdict.status} ({verdict.detail}{call})"
    return [
        f'{case.where}: "solution": the canonical solution of {case.id} does not pass the tests: '
        f"{reason}; fix one of them"
    ]


def _blind_spots(case: TaskCase, judge: Judge) -> list[str]:
    found = []
    for index, wrong in enumerate(case.wrong):
        if judge(case, f"\n{wrong}").passed:
            found.append(
                f'{case.where}: "wrong[{index}]": this passes all tests of {case.id}; add a test '
                "that it fails"
            )
    return found


def _passing_stub(case: TaskCase, judge: Judge) -> list[str]:
    if "." in case.entry_point or case.entry_point == PROGRAM or case.language != PYTHON:
        return []
    stubs = list(_STUBS)
    if not isinstance(case.tests, CheckProgram):  # an answer that all tests share
        stubs.append(repr(case.tests[0].expected))
    for stub in stubs:
        text = f"\n\ndef {case.entry_point}(*arguments, **_):\n    return {stub}\n"
        try:
            passed = judge(case, text).passed
        except RuntimeError:  # cannot be judged
            passed = False
        if passed:
            return [f'{case.where}: "return {stub}" passes all tests of {case.id}']
    return []
