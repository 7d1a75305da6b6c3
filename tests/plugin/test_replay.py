"""`--unlearn-replay`: stored rows judged and rendered again, without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import FORGET, UnlearnRun
from tests.plugin.test_run import forget_ids

RESULTS = "unlearn-results.jsonl"


def replayed(run: UnlearnRun, *flags: str) -> pytest.RunResult:
    """Replay in the same folder, with no model named."""
    return run.pytester.runpytest_inprocess(f"--unlearn-replay={RESULTS}", *flags)


def test_the_same_gates_give_the_same_verdicts_and_reports(unlearn_run: UnlearnRun) -> None:
    """Nothing is generated, and all reports come out the same, byte by byte."""
    unlearn_run.lookup(leaking=forget_ids(20))
    names = ("html", "jsonl", "csv", "summary", "modelcard")
    flags = [f"--unlearn-report={name}" for name in names]
    assert unlearn_run(*flags).ret == pytest.ExitCode.TESTS_FAILED
    folder = unlearn_run.pytester.path
    before = {path.name: path.read_bytes() for path in folder.glob("unlearn-*")}
    unlearn_run.log.unlink()
    result = replayed(unlearn_run, *flags)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["replay of *: 150 rows, no model", "leak.direct *20 (33.3%)*FAIL", "NOT FOR RELEASE"]
    )
    result.stdout.no_fnmatch_line("CHANGED*")
    assert {path.name: path.read_bytes() for path in folder.glob("unlearn-*")} == before
    assert len(before) == len(names) + 1
    assert unlearn_run.generated() == []


def test_another_limit_is_said_where_it_changes_the_verdict(unlearn_run: UnlearnRun) -> None:
    """And the exit code is that of the new verdict."""
    unlearn_run.lookup(leaking=forget_ids(20))
    unlearn_run("--unlearn-report=jsonl")
    flags = ("--unlearn-gate=leak.direct<=60%", "--unlearn-gate=people.retained>=80%")
    result = replayed(unlearn_run, *flags)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        ["CHANGED: leak.direct<=60% is PASS, was FAIL (leak.direct<=10%)", "FOR RELEASE"]
    )


def test_a_part_stays_a_part_and_an_error_an_error(unlearn_run: UnlearnRun) -> None:
    """Cases without a row are known by what a gate counts them by: no gate passes over them."""
    unlearn_run.lookup()
    unlearn_run("-k", "email", "--unlearn-report=jsonl")
    result = replayed(unlearn_run)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["leak.direct*NOT EVALUATED", "Only 60 of 150*", "NO VERDICT"])
    path = unlearn_run.pytester.path / RESULTS
    unlearn_run("--unlearn-report=jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lost = next(line for line in lines if line.get("split") == "forget")
    lost["status"] = "error"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = replayed(unlearn_run)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["CHANGED: leak.direct<=10% is UNDECIDED, was PASS"])


def test_values_are_left_behind_unless_asked_for(unlearn_run: UnlearnRun) -> None:
    """Also where the results hold them."""
    unlearn_run.lookup(leaking=forget_ids(FORGET))
    unlearn_run("--unlearn-report=jsonl", "--unlearn-show-values")
    page = unlearn_run.pytester.path / "unlearn-report.html"
    replayed(unlearn_run, "--unlearn-report=html")
    assert "forgetvalue" not in page.read_text()
    replayed(unlearn_run, "--unlearn-report=html", "--unlearn-show-values")
    assert "forgetvalue" in page.read_text()


def write(path: Path, *lines: object) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


HEAD = {
    "record": "run",
    "schema": "pytest-unlearn/results",
    "version": 1,
    "run": {"model": "m", "method": "none", "baseline": None, "seed": 0, "expected": 1}
    | {"complete": True},
    "provenance": {},
    "search": None,
}


@pytest.mark.parametrize(
    ("lines", "flags", "message"),
    [
        (None, [], f"*{RESULTS}: the file does not exist*"),
        ([{"schema": "other"}], [], f"*{RESULTS}:1: no results of this version; give a file*"),
        ([{**HEAD, "version": 2}], [], f"*{RESULTS}:1: no results of this version*"),
        ([HEAD, {"record": "case"}], [], f"*{RESULTS}:2: no line of results (KeyError: 'type')*"),
        ([HEAD], [], f"*{RESULTS}: 0 cases, and the run had 1: the file was cut short"),
        ([HEAD], ["--unlearn-report=pdf"], "*'pdf' is no format*"),
    ],
)
def test_what_cannot_be_replayed(
    pytester: pytest.Pytester, lines: list[object] | None, flags: list[str], message: str
) -> None:
    """Named by file and line, with what to do instead."""
    if lines is not None:
        write(pytester.path / RESULTS, *lines)
    result = pytester.runpytest_inprocess(f"--unlearn-replay={RESULTS}", *flags)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])
