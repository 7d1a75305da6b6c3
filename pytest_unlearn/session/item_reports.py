"""What we add to the reports of tests: rows, values and the verdicts on solutions; and gates.

A failing test shows why its task was not solved and, if the user asked for it, values. The result
of a gate becomes reports as pytest makes them for a test of that name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from pytest_unlearn.core.errors import plain, plain_lines
from pytest_unlearn.gates.case_rows import AttackRow, ProbeRow, TaskRow, rows_in
from pytest_unlearn.gates.estimates import percent
from pytest_unlearn.gates.verdicts import GateResult, Verdict
from pytest_unlearn.run.settings import Pair
from pytest_unlearn.session import readiness
from pytest_unlearn.session.collection import PAIR_PROPERTY

if TYPE_CHECKING:
    from pytest_unlearn.run.measuring import Completions
    from pytest_unlearn.sandbox import Mode, Protection, SolutionVerdict

# A gate's verdict among the properties of its report.
VERDICT_PROPERTY = "unlearn_verdict"
# A failing test names this many of the values that came back.
_NAMED = 5


class RowCollector:
    """Takes rows from reports. It is a plugin because `pytest_runtest_logreport` has no config."""

    def __init__(
        self,
        collect: Callable[[pytest.TestReport], None],
        fail: Callable[[str], None],
    ) -> None:
        """`collect` takes the report of a test, `fail` the name of what failed outside of one."""
        self._collect = collect
        self._fail = fail

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._collect(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that could not be collected: pytest may go on all the same."""
        if report.failed:
            self._fail(report.nodeid)


def show_values(item: pytest.Item, report: pytest.TestReport) -> None:
    """Add the probed value and both completions below a failing test."""
    completions = getattr(item, "funcargs", {}).get("unlearn_completions")
    if not report.failed or completions is None:
        return
    probe = getattr(item, "funcargs", {}).get("unlearn_probe")
    lines = [f"value: {probe.value.reveal()}"] if probe is not None else []
    lines.append(f"base wrote: {completions.base.text.reveal()}")
    lines.append(f"tested wrote: {completions.unlearned.text.reveal()}")
    report.sections.append(("unlearn values", plain_lines("\n".join(lines))))


def fail_on_leak(item: pytest.Item, report: pytest.TestReport, always: bool) -> None:
    """Turn a passed test whose probe leaked into a failure: `always`, or if it is marked critical.

    The message only has the names of rows. A retained person's value is to be kept, so it is not a
    leak.
    """
    if report.when != "call" or not report.passed:
        return
    if not (always or item.get_closest_marker("unlearn_critical")):
        return
    rows = rows_in(report.user_properties)
    if back := [row.id for row in rows if isinstance(row, AttackRow) and _brought_back(row)]:
        report.outcome = "failed"
        more = f" and {len(back) - _NAMED} more" if len(back) > _NAMED else ""
        report.longrepr = f"{len(back)} values came back: {', '.join(back[:_NAMED])}{more}"
    row = next(iter(rows), None)
    if isinstance(row, ProbeRow) and row.split != "retain" and row.leaked:
        how = row.unlearned
        report.outcome = "failed"
        report.longrepr = (
            f"{row.id} leaked: {how['label']}, {how.get('how')}, {how.get('kind')} of "
            f"{how.get('owner')} ({how.get('split')})"
        )


def _brought_back(row: AttackRow) -> bool:
    return row.split == "forget" and row.leaked


# -- gates --------------------------------------------------------------------------------------


def explain(result: GateResult, confidence: float) -> str:
    """Return a gate's verdict in one sentence."""
    parts = [f"{result.verdict.value}: {result.gate.text}"]
    if result.observed:
        parts.append(
            f"observed {result.observed} of {result.n}, {percent(confidence)} bound {result.bound}"
        )
    if result.advice:
        parts.append(result.advice)
    return "; ".join(parts)


def gate_reports(
    result: GateResult,
    source: Path,
    rootpath: Path,
    pair: Pair,
    confidence: float,
) -> Iterator[pytest.TestReport]:
    """Yield setup, call and teardown of a gate: passed, failed, or skipped.

    `source` is the file that sets the gates; annotations on a pull request point to it. A gate is
    skipped if it is not evaluated because only some tests were selected, or if it is undecided and
    that is allowed; every other verdict but PASS fails.
    """
    for when in ("setup", "call", "teardown"):
        yield _report(result, when, source, rootpath, pair, confidence)


def _report(
    result: GateResult, when: str, source: Path, rootpath: Path, pair: Pair, confidence: float
) -> pytest.TestReport:
    outcome: Literal["passed", "failed", "skipped"] = "passed"
    longrepr: Any = None
    if when == "call" and result.blocks:
        outcome, longrepr = "failed", explain(result, confidence)
    elif when == "call" and result.verdict is not Verdict.PASS:
        outcome, longrepr = "skipped", (str(source), 1, explain(result, confidence))
    name = f"gate[{pair.named(result.gate.name)}]"
    return pytest.TestReport(
        nodeid=f"unlearn::{name}",
        location=(
            os.path.relpath(source, rootpath) if source.is_absolute() else str(source),
            0,
            name,
        ),
        keywords={name: 1},
        outcome=outcome,
        longrepr=longrepr,
        when=when,  # type: ignore[arg-type]
        sections=[],
        duration=0.0,
        user_properties=[  # on all three, because JUnit reads them from the last
            (VERDICT_PROPERTY, result.verdict.value),
            ("unlearn_observed", result.observed),
            ("unlearn_bound", result.bound),
            ("unlearn_n", result.n),
            ("unlearn_units", result.units),
            ("unlearn_confidence", confidence),
            *([] if pair.alone else [(PAIR_PROPERTY, pair.label)]),
        ],
    )


# -- solutions of tasks -------------------------------------------------------------------------

_OPEN = "solutions can read and write your files, use the network and start programs"


class SandboxWarning(pytest.PytestWarning):
    """Solutions are less confined than they could be."""


def sandbox_line(mode: Mode, protection: Protection | None) -> str:
    """Return the line of the header, beginning with a line break; empty if there are no tasks."""
    if protection is None:
        return ""
    if mode == "off":
        return f"\nsandbox: OFF ({_OPEN})"
    text = f"\nsandbox: {mode}, {', '.join(protection.active) or 'no layer'}"
    return f"{text}; MISSING: {_missing(protection)}" if protection.missing else text


def warn_of_sandbox(config: pytest.Config, mode: Mode, protection: Protection) -> None:
    """Warn of a sandbox that is off, or that lacks a layer."""
    if mode == "off":
        text = (
            f"--unlearn-sandbox=off: {_OPEN}; leave the flag out unless a container confines them"
        )
    elif protection.missing:
        text = (
            f"the sandbox lacks layers on this system: {_missing(protection)}; run untrusted "
            "models in a container or virtual machine, or refuse with --unlearn-sandbox=strict"
        )
    else:
        return
    readiness.warn(config, SandboxWarning(text))


def _missing(protection: Protection) -> str:
    return ", ".join(f"{name} ({reason})" for name, reason in protection.missing.items())


# The section of an item's report, as pytest names it.
SECTION = "unlearn"
_TITLE = f"Captured {SECTION} call"


def failed_solutions(completions: Completions[SolutionVerdict]) -> str:
    """Return a line for each model that did not solve the task: its status and failing call."""
    states = (("base", completions.base), ("tested", completions.unlearned))
    return "".join(
        f"{state} model: {completion.outcome.status}: {plain_lines(completion.outcome.detail)}\n"
        for state, completion in states
        if not completion.outcome.passed
    )


def solution_verdicts(report: pytest.TestReport) -> str:
    """Return the verdicts on solutions that a report shows, in one line."""
    texts = [content for title, content in report.sections if title == _TITLE]
    return "; ".join("".join(texts).splitlines())


def unsolved_lines(unsolved: Mapping[str, str], verbosity: int) -> Iterable[str]:
    """Yield the unsolved tasks with their verdicts; without -v, only how to see them."""
    if unsolved and verbosity <= 0:
        yield f"unsolved: {len(unsolved)} tasks, by one model or both; -v says why"
    elif unsolved:
        for row, verdicts in sorted(unsolved.items()):
            yield f"unsolved: {row}: {verdicts}"


def run_again_lines(rows: Iterable[object]) -> Iterable[str]:
    """Yield a line on the solutions that were run a second time, if any."""
    count = sum(row.run_again for row in rows if isinstance(row, TaskRow))
    if count:
        yield f"time-outs: {count} solutions had little processor time and were run again, once"


class LastWord:
    """Writes the verdict of a run whose exit code makes pytest omit its summary."""

    def __init__(self, session: Any) -> None:
        """`session`: the `UnlearnSession`, whose module imports this one."""
        self._session = session

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(
        self, session: pytest.Session, exitstatus: int
    ) -> Generator[None, object, object]:
        """Write it after everything else, pytest's own summary included.

        No hook turns what is not for release into success.
        """
        result = yield
        if exitstatus == pytest.ExitCode.INTERNAL_ERROR:
            self._session.note_failure("internal error")
        blocked = self._session.conclusion()[0] == "NOT FOR RELEASE"
        if blocked and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = self._session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and not self._session.concluded:
            reporter.write_line(plain(": ".join(self._session.conclusion())), bold=True)
        return result
