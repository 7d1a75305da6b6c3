"""What a failing test may show: its own frames whole, ours without what they hold, and no value.

pytest prints the arguments of the first and last function of a traceback, and with `--showlocals`
the local variables of each. Inside this package, and in what it calls (a model, a library), these
are prompts, values and completions as plain text.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
# The user's tests stand on this side: the bundled suite holds values of redacted types only.
SUITE = PACKAGE / "suite"


REDACTED = "<redacted>"


def without(text: str, values: frozenset[str]) -> str:
    """Return a text without any of these values, as they are or as Python or JSON escapes them."""
    for form in _forms(values):
        if form in text:
            text = text.replace(form, REDACTED)
    return text


@functools.lru_cache(maxsize=4)
def _forms(values: frozenset[str]) -> tuple[str, ...]:
    """Return how values can stand in a text; a longer one first, as another can be a part of it."""
    forms = {
        form
        for value in values
        for form in (value, repr(value)[1:-1], ascii(value)[1:-1], json.dumps(value)[1:-1])
        if form
    }
    return tuple(sorted(forms, key=len, reverse=True))


def redact(report: Any, folder: Path, clean: Callable[[str], str]) -> None:
    """Take arguments and variables of this package's frames, and of all below them, out of a test
    report, and clean its texts.

    `report` is a `pytest.TestReport`, `folder` the one that paths in it are relative to. `clean`
    returns a text without values.
    """
    _keep_own_frames(report.longrepr, folder)
    if isinstance(report.longrepr, str):
        report.longrepr = clean(report.longrepr)
    elif isinstance(report.longrepr, tuple):  # of a skipped test: file, line and reason
        report.longrepr = (*report.longrepr[:2], clean(report.longrepr[2]))
    for traceback, crash, _ in getattr(report.longrepr, "chain", ()):
        if crash is not None:
            crash.message = clean(crash.message)
        for entry in traceback.reprentries:
            _clean_entry(entry, clean)
    report.sections = [(title, clean(text)) for title, text in report.sections]


def _keep_own_frames(longrepr: Any, folder: Path) -> None:
    for traceback, *_ in getattr(longrepr, "chain", ()):
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
