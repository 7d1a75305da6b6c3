"""What a failing test may show: its own frames whole, ours without what they hold, and no value.
No warning and no error of collection or of pytest itself shows one either.

pytest prints the arguments of the first and last function of a traceback, and with `--showlocals`
the local variables of each. Inside this package, and in what it calls (a model, a library), these
are prompts, values and completions as plain text.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parents[1]
# The user's tests stand on this side: the bundled suite holds values of redacted types only.
SUITE = PACKAGE / "suite"


class Redactor:
    """Keeps values out of what a session tells; a plugin for all that is no report of a test."""

    def __init__(self, folder: Path, clean: Callable[[str], str]) -> None:
        """`folder`: the one that paths in reports are relative to. `clean` returns a text without
        values."""
        self._folder = folder
        self._clean = clean

    def redact(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        """Take arguments and variables of this package's frames, and of all below them, out of a
        report, and clean its texts."""
        found: Any = report.longrepr
        if isinstance(found, str):
            report.longrepr = self._clean(found)
        elif isinstance(found, tuple):  # of a skipped test: file, line and reason
            report.longrepr = (*found[:2], self._clean(found[2]))
        elif isinstance(message := getattr(found, "longrepr", None), str):  # of a file not read
            found.longrepr = self._clean(message)
        self.pytest_internalerror(found)
        report.sections = [(title, self._clean(text)) for title, text in report.sections]

    @pytest.hookimpl(tryfirst=True)
    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        """Take values out of a warning, before anybody shows it or sends it on."""
        text = str(warning_message.message)
        if (cleaned := self._clean(text)) != text:
            warning_message.message = UserWarning(cleaned)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Redact the error of a file that cannot be imported."""
        self.redact(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_internalerror(self, excrepr: Any) -> None:
        """Redact an exception, as pytest would show it."""
        for traceback, crash in _errors(excrepr):
            _keep_own_frames(traceback, self._folder)
            if crash is not None:
                crash.message = self._clean(crash.message)
            for entry in traceback.reprentries:
                _clean_entry(entry, self._clean)


def _errors(longrepr: Any) -> Iterator[tuple[Any, Any]]:
    """Yield traceback and message of an exception and of those that it came of."""
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
