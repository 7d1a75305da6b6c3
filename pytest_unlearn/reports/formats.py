"""The registry of report formats, how `--unlearn-report` is read, and how files are written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_unlearn.core.errors import UserError, naming
from pytest_unlearn.core.extensions import offered_by_name, with_given
from pytest_unlearn.core.text_files import replacing, unwritable
from pytest_unlearn.reports import data_reports, markdown_reports
from pytest_unlearn.reports.html import page
from pytest_unlearn.run.result import Result, verdict_of_all

# An installed package adds a format by an entry point of this group, a `ReportFormat`.
ENTRY_POINTS = "pytest_unlearn.reports"
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


class ReportError(UserError):
    """A report cannot be written as asked; the message says what to write instead."""


@dataclass(frozen=True, slots=True)
class ReportFormat:
    """A kind of file. `render` returns its text, `path` is its default place.

    `render_sweep` returns the text for all pairs of a sweep; a format without it is for one pair.
    `manifest_beside`: the format has no room for the manifest, which gets its own file next to it.
    """

    name: str
    path: str
    render: Callable[[Result], str]
    manifest_beside: bool = False
    render_sweep: Callable[[Sequence[Result]], str] | None = None


FORMATS: dict[str, ReportFormat] = {
    fmt.name: fmt
    for fmt in (
        ReportFormat("html", "unlearn-report.html", page.render, render_sweep=page.render_sweep),
        ReportFormat(
            "jsonl",
            "unlearn-results.jsonl",
            data_reports.render_jsonl,
            render_sweep=data_reports.render_jsonl_sweep,
        ),
        ReportFormat(
            "csv",
            "unlearn-results.csv",
            data_reports.render_csv,
            True,
            data_reports.render_csv_sweep,
        ),
        ReportFormat(
            "summary",
            "unlearn-summary.json",
            data_reports.render_json,
            render_sweep=data_reports.render_json_sweep,
        ),
        ReportFormat(
            "github",
            "unlearn-summary.md",
            markdown_reports.render_summary,
            render_sweep=markdown_reports.render_summary_sweep,
        ),
        ReportFormat("modelcard", "unlearn-model-card.md", markdown_reports.render_card),
    )
}


@dataclass(frozen=True, slots=True)
class Report:
    """A report to be written. `append`: to an existing file (GitHub's job summary)."""

    format: ReportFormat
    path: Path
    append: bool = False

    @property
    def flag(self) -> str:
        """Return the flag as the user would write it."""
        return f"--unlearn-report={self.format.name}:{self.path}"


def choose_reports(
    requests: Sequence[str], folder: Path, environment: Mapping[str, str], sweeps: bool = False
) -> tuple[Report, ...]:
    """Read `FORMAT[:PATH]` texts, paths relative to `folder`; add GitHub's job summary, if any.

    Raises ReportError for an unknown format, for one that cannot hold a sweep if this is one, and
    for a path that cannot be written or is taken by another report.
    """
    reports = [_parse(text, folder) for text in requests]
    step_summary = environment.get(STEP_SUMMARY)
    if step_summary:
        reports.append(Report(FORMATS["github"], Path(step_summary), append=True))
    taken: dict[Path, Report] = {}
    for report in reports:
        if sweeps and report.format.render_sweep is None:
            fitting = ", ".join(name for name, fmt in FORMATS.items() if fmt.render_sweep)
            raise ReportError(
                f"{report.flag}: this format is for one model and one method, and the run has "
                f"several; write one of {fitting}"
            )
        _check_writable(report)
        for path in _paths(report):
            if path in taken:
                raise ReportError(
                    f"{report.flag}: {taken[path].flag} writes to the same file; give each its own"
                )
            taken[path] = report
    return tuple(reports)


def _parse(text: str, folder: Path) -> Report:
    name, _, path = text.partition(":")
    known = with_given(FORMATS, "a format", ReportFormat, ReportError)
    fmt: ReportFormat | None = known.get(name)
    if fmt is None:
        with naming(f"--unlearn-report={name}"):
            fmt = offered_by_name(
                name, known, ENTRY_POINTS, "a report format", ReportFormat, ReportError
            )
    if fmt is None:
        raise ReportError(
            f"--unlearn-report={text}: {name!r} is not a report format; write FORMAT or "
            f"FORMAT:PATH with one of {', '.join(known)}"
        )
    return Report(fmt, folder / (path or fmt.path))


def _paths(report: Report) -> list[Path]:
    beside = [_manifest_path(report)] if report.format.manifest_beside else []
    return [report.path, *beside]


def _manifest_path(report: Report) -> Path:
    return report.path.with_name(f"{report.path.name}.manifest.json")


def _check_writable(report: Report) -> None:
    if report.path.is_dir():
        raise ReportError(f"{report.flag}: this is a folder; write FORMAT:FILE")
    if reason := unwritable(report.path):
        raise ReportError(f"{report.flag}: {reason}; choose another path")


def write_reports(reports: Sequence[Report], *results: Result) -> list[str]:
    """Write all reports of a run or a sweep; return a line for each that could not be written.

    A run without a requested report is not for release, and the reports that can be written say so
    too: they are written again. What is appended cannot be rewritten, so it comes last.
    """
    files = [report for report in reports if not report.append]
    failures = _tried(files, results)
    failures += _tried([report for report in reports if report.append], not_for(failures, results))
    if failures:
        _tried(files, not_for(failures, results))
    return failures


def not_for(failures: Sequence[str], results: Sequence[Result]) -> list[Result]:
    """Return results of which something could not be written, by the lines that say so."""
    names = tuple(map(not_written, failures))
    return [
        replace(one, run=replace(one.run, failures=(*one.run.failures, *names))) for one in results
    ]


def not_written(line: str) -> str:
    """Return the part of a line about something unwritten that reports may show: without why."""
    return line.partition(": not ")[0] + " not written"


def _tried(reports: Iterable[Report], results: Sequence[Result]) -> list[str]:
    """Write reports; return a line for each that could not be written."""
    failures = []
    for report in reports:
        try:
            _write(report, results)
        except OSError as error:
            failures.append(f"{report.flag}: not written: {error.strerror or error}")
        except Exception as error:  # an error in one format must not affect the others
            failures.append(f"{report.flag}: not written: {type(error).__name__}: {error}")
    return failures


def _write(report: Report, results: Sequence[Result]) -> None:
    report.path.parent.mkdir(parents=True, exist_ok=True)
    first = results[0]
    manifest = first.provenance
    if first.pair is None:
        text = report.format.render(first)
    else:
        assert report.format.render_sweep is not None  # else it was refused
        text = report.format.render_sweep(results)
        manifest = {result.label: result.provenance for result in results}
    if report.append:
        with report.path.open("a", encoding="utf-8") as file:
            file.write(text)
        return
    _replace(report.path, text, private=first.run.values_shown)
    if report.format.manifest_beside:
        _replace(_manifest_path(report), data_reports.as_json(manifest), private=False)


def _replace(path: Path, text: str, private: bool) -> None:
    """Put a complete file in place; a reader sees the old one or the new one.

    `private`: readable by the owner only, whatever the umask.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
        if not private:  # as it is made
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)


def add_manifest(plugins: Iterable[Any], *results: Result) -> None:
    """Add the manifest to the suite of each JUnit report that this process writes.

    For a sweep, add the overall verdict, and those of each pair under its name.

    `record_testsuite_property` is lost under pytest-xdist (pytest#7767), because only the
    controller writes the file; so this asks the writers among its plugins directly.
    """
    for plugin in plugins:
        add = getattr(plugin, "add_global_property", None)
        if callable(add):
            add("unlearn.verdict", verdict_of_all(results))
            for result in results:
                at = f"unlearn.{result.label}" if result.pair else "unlearn"
                if result.pair:
                    add(f"{at}.verdict", result.verdict)
                for name, value in _flat(at, result.provenance):
                    add(name, value)


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{name}.{key}", item)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _flat(f"{name}.{number}", item)
    elif value is not None:
        yield name, str(value)
