"""About the solutions of tasks: what is around them, and why one did not solve its task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import pytest

from pytest_unlearn.core.errors import plain_lines
from pytest_unlearn.gates.case_rows import TaskRow
from pytest_unlearn.session import readiness

if TYPE_CHECKING:
    import pytest

    from pytest_unlearn.run.measuring import Completions
    from pytest_unlearn.sandbox import Mode, Protection, SolutionVerdict


_OPEN = "solutions can read and write your files, use the network and start programs"


class SandboxWarning(pytest.PytestWarning):
    """Solutions are less confined than they could be."""


def line(mode: Mode, protection: Protection | None) -> str:
    """Return the header's line, with the line break before it; nothing where there are no tasks."""
    if protection is None:
        return ""
    if mode == "off":
        return f"\nsandbox: OFF ({_OPEN})"
    text = f"\nsandbox: {mode}, {', '.join(protection.active) or 'no layer'}"
    return f"{text}; MISSING: {_missing(protection)}" if protection.missing else text


def warn(config: pytest.Config, mode: Mode, protection: Protection) -> None:
    """Warn of a sandbox that is off, or has not all of its layers."""
    if mode == "off":
        text = (
            f"--unlearn-sandbox=off: {_OPEN}; leave the flag out unless a container confines them"
        )
    elif protection.missing:
        text = (
            f"the sandbox lacks layers on this system: {_missing(protection)}; run untrusted "
            "models in a container or virtual machine, or refuse by --unlearn-sandbox=strict"
        )
    else:
        return
    readiness.warn(config, SandboxWarning(text))


def _missing(protection: Protection) -> str:
    return ", ".join(f"{name} ({reason})" for name, reason in protection.missing.items())


# The section of an item's report, as pytest names it.
SECTION = "unlearn"
_TITLE = f"Captured {SECTION} call"


def text(completions: Completions[SolutionVerdict]) -> str:
    """Return a line for each model that did not solve the task: status, and the failing call."""
    states = (("base", completions.base), ("tested", completions.unlearned))
    return "".join(
        f"{state} model: {completion.outcome.status}: {plain_lines(completion.outcome.detail)}\n"
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
