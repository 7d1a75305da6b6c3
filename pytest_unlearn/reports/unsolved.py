"""Why a task was not solved: in its item's report, and under -v in the summary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pytest_unlearn.gates.rows import TaskRow

if TYPE_CHECKING:
    import pytest

    from pytest_unlearn.completions import Completions
    from pytest_unlearn.sandbox import Verdict

# The section of an item's report, as pytest names it.
SECTION = "unlearn"
_TITLE = f"Captured {SECTION} call"


def text(completions: Completions[Verdict]) -> str:
    """Return a line for each model that did not solve the task: status, and the failing call."""
    states = (("base", completions.base), ("tested", completions.unlearned))
    return "".join(
        f"{state} model: {completion.outcome.status}: {completion.outcome.detail}\n"
        for state, completion in states
        if not completion.outcome.passed
    )


def verdicts_in(report: pytest.TestReport) -> str:
    """Return the verdicts that a report shows, in one line."""
    found = [content for title, content in report.sections if title == _TITLE]
    return "; ".join("".join(found).splitlines())


def lines(unsolved: Mapping[str, str], verbosity: int) -> Iterable[str]:
    """Yield the unsolved tasks with their verdicts; without -v, where to see them."""
    if unsolved and verbosity <= 0:
        yield f"unsolved: {len(unsolved)} tasks, by one model or both; -v says why"
    elif unsolved:
        for row, verdicts in sorted(unsolved.items()):
            yield f"unsolved: {row}: {verdicts}"


def run_again(rows: Iterable[object]) -> Iterable[str]:
    """Yield a line on the solutions that were run a second time, if any."""
    count = sum(row.run_again for row in rows if isinstance(row, TaskRow))
    if count:
        yield f"time-outs: {count} solutions had little processor time and were run again, once"
