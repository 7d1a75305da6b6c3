"""Lines and tables fit the terminal, whatever its width; nothing is lost on the way."""

from __future__ import annotations

import pytest

from pytest_unlearn.session.terminal import Screen
from tests.support.lookup_run import UnlearnRun, forget_ids

TABLE = [
    ["gate", "observed", "95% bound", "verdict"],
    ["leak.direct", "20 (33.3%)", ">=19.5%", "FAIL"],
    ["passk.retained", "30/30 (100.0%)", ">=90.5%", "PASS"],
]


class Paper:
    """Keeps what is written, with the colour of each line's end."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self._begun = ""

    def write(self, content: str, **markup: bool) -> None:
        self._begun += content

    def write_line(self, line: str, **markup: bool) -> None:
        self.lines.append((self._begun + line, " ".join(markup)))
        self._begun = ""


def written(columns: int, tty: bool, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    monkeypatch.setenv("COLUMNS", str(columns))
    paper = Paper()
    screen = Screen(paper, tty)
    screen.table(TABLE, ["red", "green"])
    screen.line("NOT FOR RELEASE: leak.direct FAIL, leak.indirect UNDECIDED", bold=True)
    return paper.lines


def test_beside_each_other_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = written(100, True, monkeypatch)
    assert [line for line, _ in wide] == [
        "gate            observed        95% bound  verdict",
        "leak.direct     20 (33.3%)      >=19.5%    FAIL",
        "passk.retained  30/30 (100.0%)  >=90.5%    PASS",
        "NOT FOR RELEASE: leak.direct FAIL, leak.indirect UNDECIDED",
    ]
    assert [colour for _, colour in wide] == ["", "red", "green", "bold"]
    assert written(80, False, monkeypatch) == wide  # a log, of which nobody knows the width


def test_stacked_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = written(40, False, monkeypatch)
    assert [line for line, _ in narrow[:4]] == [
        "gate leak.direct",
        "  observed   20 (33.3%)",
        "  95% bound  >=19.5%",
        "  verdict    FAIL",
    ]
    assert [colour for _, colour in narrow] == [
        "",
        "",
        "",
        "red",
        "",
        "",
        "",
        "green",
        "bold",
        "bold",
    ]
    assert narrow[-2:] == [
        ("NOT FOR RELEASE: leak.direct FAIL,", "bold"),
        ("  leak.indirect UNDECIDED", "bold"),
    ]
    assert written(40, True, monkeypatch) == narrow


def section(result: pytest.RunResult) -> list[str]:
    lines = result.outlines
    start = next(i for i, line in enumerate(lines) if line.strip("= ") == "unlearning")
    return lines[start + 1 : next(i for i, x in enumerate(lines) if "short test summary" in x)]


def test_a_run_on_forty_columns(unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is longer than the terminal but for single words; no colour is needed to read it."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)  # whose annotations are lines of their own
    unlearn_run.lookup(leaking=forget_ids(20))
    result = unlearn_run("-v", "--color=no", "--unlearn-report=csv")
    assert "\x1b" not in result.stdout.str()
    lines = section(result)
    long = [line for line in lines if len(line) > 40]
    assert [line for line in long if " " in line.strip()] == []
    result.stdout.fnmatch_lines(
        [
            "gate leak.direct",
            "  observed   20 (33.3%)",
            "  n          60 (30)",
            "  verdict    FAIL",
            "leak.direct: unlearn longer or with",
            "NOT FOR RELEASE: leak.direct FAIL*",
        ]
    )


def test_quiet(unlearn_run: UnlearnRun) -> None:
    """-q: gates, what to do next, the verdict; -qq: the verdict; the exit code is the same."""
    unlearn_run.lookup(leaking=forget_ids(20))
    quiet = unlearn_run("-q", "--unlearn-show-values")
    quiet.stdout.fnmatch_lines(
        [
            "unlearn: VALUES ARE SHOWN*",
            "leak.direct *FAIL",
            "leak.direct: unlearn longer*",
            "NOT FOR RELEASE: leak.direct FAIL",
        ]
    )
    quiet.stdout.no_fnmatch_line("also measured*")
    quiet.stdout.no_fnmatch_line("shift: *")
    silent = unlearn_run("-qq")
    assert "NOT FOR RELEASE: leak.direct FAIL" in silent.outlines
    for line in ("*= unlearning =*", "leak.direct *FAIL", "leak.direct: unlearn*", "time *"):
        silent.stdout.no_fnmatch_line(line)
    assert quiet.ret == silent.ret == pytest.ExitCode.TESTS_FAILED
