"""Keeps values out of everything that pytest shows: failures, warnings, logs and errors.

pytest prints the arguments of the first and last function of a traceback, and with `--showlocals`
the local variables of every frame. Inside this package, and in what it calls (a model, a library),
these are prompts, values and completions as plain text. So a failing test shows its own frames
completely, and ours without their variables.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parents[1]
# The bundled suite counts as the user's: it holds values of redacted types only.
SUITE = PACKAGE / "suite"
# Fields of a report without free text, and the prefix of properties that only hold row names.
_NO_TEXT = frozenset({"nodeid", "outcome", "when"})
_OURS = "unlearn"


class Redactor:
    """Keeps values out of what a session shows, whatever pytest or a plugin makes of it."""

    def __init__(
        self,
        folder: Path,
        clean: Callable[[str], str],
        manager: pytest.PytestPluginManager,
        keeps_variables: bool = False,
    ) -> None:
        """`folder`: what paths in reports are relative to.

        `clean` returns a text without values. `keeps_variables`: tracebacks keep those of this
        package's frames.
        """
        self._folder = folder
        self._keeps_variables = keeps_variables
        self._clean = clean
        self._manager = manager

    # -- reports ------------------------------------------------------------------------------

    def redact(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        """Remove the arguments and variables of this package's frames, and of all below them, from
        a report, and clean its texts, also those of other plugins."""
        longrepr: Any = report.longrepr
        if isinstance(longrepr, tuple):  # of a skipped test: file, line and reason
            report.longrepr = (*longrepr[:2], self._clean(longrepr[2]))
        elif isinstance(message := getattr(longrepr, "longrepr", None), str):  # of a file not read
            longrepr.longrepr = self._clean(message)
        self.pytest_internalerror(longrepr)
        report.sections = [(title, self._clean(text)) for title, text in report.sections]
        for name, value in vars(report).items():
            # The reason of an xfail, Hypothesis' statistics and examples.
            if isinstance(value, str) and name not in _NO_TEXT:
                setattr(report, name, self._clean(value))
        if properties := getattr(report, "user_properties", None):
            report.user_properties = [  # type: ignore[union-attr]
                (name, value if name.startswith(_OURS) else self._cleaned(value))
                for name, value in properties
            ]
        if context := getattr(report, "context", None):  # of a subtest
            message = context.msg and self._clean(context.msg)
            report.context = replace(  # type: ignore[union-attr]
                context, msg=message, kwargs=self._cleaned(dict(context.kwargs))
            )

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Redact what was added to a report after it was made, and the reports of subtests."""
        if not hasattr(report, "node"):  # a worker has redacted its own
            self.redact(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Redact the error of a file that cannot be imported."""
        self.redact(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        """Remove values from a warning before anything shows it or passes it on."""
        text = str(warning_message.message)
        if (cleaned := self._clean(text)) != text:
            warning_message.message = UserWarning(cleaned)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        """Clean what Hypothesis left on an item before its plugin reports it."""
        for name in ("hypothesis_statistics", "hypothesis_report_information"):
            if isinstance(text := getattr(item, name, None), str):
                setattr(item, name, self._clean(text))
        return (yield)

    @pytest.hookimpl(optionalhook=True)
    def pytest_json_modifyreport(self, json_report: dict[str, Any]) -> None:
        """Clean pytest-json-report's report, which has log records that it captured itself."""
        for name, value in list(json_report.items()):
            json_report[name] = self._cleaned(value)

    # -- logs ---------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionstart(self) -> Iterator[None]:
        """Clean the live log and the log file."""
        logs = self._manager.get_plugin("logging-plugin")
        for name in ("log_cli_handler", "log_file_handler"):
            handler = getattr(logs, name, None)
            if handler is not None and not isinstance(handler.formatter, _CleanFormatter):
                handler.setFormatter(_CleanFormatter(handler.formatter, self._clean))
        return (yield from self._guarded())

    # -- errors of hooks, pytest.exit, usage errors -------------------------------------------

    def _guarded(self) -> Iterator[None]:
        """Clean an exception in place as it passes: pytest or Python prints what it holds."""
        try:
            return (yield)
        except BaseException as error:
            self._clean_error(error)
            raise

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection(self) -> Iterator[None]:
        """Clean the errors of collection and of its hooks."""
        return (yield from self._guarded())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Iterator[None]:
        """Clean what ends the run early."""
        return (yield from self._guarded())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self) -> Iterator[None]:
        """Clean the errors of summaries."""
        return (yield from self._guarded())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """Clean why a session stopped, JUnit's properties of the whole suite, and errors."""
        for name in ("shouldstop", "shouldfail"):
            if isinstance(reason := getattr(session, name), str):
                setattr(session, name, self._clean(reason))
        for plugin in self._manager.get_plugins():  # JUnit's is registered without a name
            if properties := getattr(plugin, "global_properties", None):
                plugin.global_properties = self._cleaned(properties)
        return (yield from self._guarded())

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Clean the reason of pytest.exit."""
        self._clean_error(excinfo.value)

    @pytest.hookimpl(tryfirst=True)
    def pytest_unconfigure(self) -> None:
        """Redact the traceback of an interrupted run, which is shown last."""
        reporter = self._manager.get_plugin("terminalreporter")
        self.pytest_internalerror(getattr(reporter, "_keyboardinterrupt_memo", None))

    @pytest.hookimpl(tryfirst=True)
    def pytest_internalerror(self, excrepr: Any) -> None:
        """Redact an exception, as pytest would show it."""
        for traceback, crash in _errors(excrepr):
            if not self._keeps_variables:
                _keep_own_frames(traceback, self._folder)
            if crash is not None:
                crash.message = self._clean(crash.message)
            for entry in traceback.reprentries:
                _clean_entry(entry, self._clean)

    def _clean_error(self, error: BaseException | None) -> None:
        seen: set[int] = set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            error.args = self._cleaned(error.args)
            if isinstance(message := getattr(error, "msg", None), str):
                error.msg = self._clean(message)  # type: ignore[attr-defined]
            error = error.__cause__ or error.__context__

    def _cleaned(self, value: Any) -> Any:
        """Return plain data without values; for any other object with a value, its cleaned text."""
        if isinstance(value, str):
            return self._clean(value)
        if type(value) is dict:
            return {self._cleaned(key): self._cleaned(item) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(map(self._cleaned, value))
        if value is None or isinstance(value, (bool, int, float)):
            return value
        text = repr(value)
        return value if (cleaned := self._clean(text)) == text else cleaned


class _CleanFormatter(logging.Formatter):
    """Formats as another one does, without values."""

    def __init__(self, inner: logging.Formatter | None, clean: Callable[[str], str]) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()
        self._clean_text = clean

    def format(self, record: logging.LogRecord) -> str:
        return self._clean_text(self._inner.format(record))


def _errors(longrepr: Any) -> Iterator[tuple[Any, Any]]:
    """Yield traceback and message of an exception and of its causes."""
    if hasattr(longrepr, "chain"):
        yield from ((traceback, crash) for traceback, crash, _ in longrepr.chain)
    elif hasattr(longrepr, "reprtraceback"):
        yield longrepr.reprtraceback, longrepr.reprcrash


def _keep_own_frames(traceback: Any, folder: Path) -> None:
    inside = False
    for entry in traceback.reprentries:
        where = getattr(entry, "reprfileloc", None)
        inside = inside or (where is not None and _is_ours(folder / where.path))
        if inside and where is not None:
            entry.reprlocals = entry.reprfuncargs = None


def _clean_entry(entry: Any, clean: Callable[[str], str]) -> None:
    entry.lines = [clean(line) for line in entry.lines]
    if where := getattr(entry, "reprfileloc", None):
        where.message = clean(where.message)
    if variables := getattr(entry, "reprlocals", None):
        variables.lines = [clean(line) for line in variables.lines]
    if arguments := getattr(entry, "reprfuncargs", None):
        arguments.args = [(name, clean(str(value))) for name, value in arguments.args]


def _is_ours(path: Path) -> bool:
    path = path.resolve()
    return path.is_relative_to(PACKAGE) and not path.is_relative_to(SUITE)
