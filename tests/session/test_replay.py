"""`--unlearn-replay`: stored rows judged and rendered again, without a model."""

from __future__ import annotations

import hashlib
import html
import json
from pathlib import Path

import pytest

from pytest_unlearn.gates.gate import PROFILES
from tests.support.lookup_run import FORGET, UnlearnRun, forget_ids

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
    flags = ("--unlearn-gate=leak.direct<=60%", "--unlearn-gate=people.retained>=60%")
    result = replayed(unlearn_run, *flags)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "CHANGED: leak.direct<=60% is PASS, was FAIL (leak.direct<=10%)",
            "FOR RELEASE: every gate passed (*no gate on *degenerate answers*",
        ]
    )


def test_a_profile_of_now_replaces_the_gates(unlearn_run: UnlearnRun) -> None:
    """Each gate that is new, changed or gone is named, with the profile they came from; the
    reports say by which rules they were made."""
    unlearn_run.lookup(leaking=forget_ids(20))
    unlearn_run("--unlearn-report=jsonl")
    result = replayed(unlearn_run, "--unlearn-profile=paper", "--unlearn-report=summary")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "gates of --unlearn-profile=paper, confidence 95%",
            "leak.drop * 60 to 20 (66.7% less) * >=50.0% *",
            "NEW: leak.drop>=50% is *",
            "LEFT OUT: leak.direct<=10% was FAIL",
            "LEFT OUT: leak.indirect<=15% was PASS",
        ]
    )
    data = json.loads((unlearn_run.pytester.path / "unlearn-summary.json").read_text())
    told = data["provenance"]["replayed"]
    assert told["gates"] == list(PROFILES["paper"].gates)
    assert told["dropped"] == ["leak.direct<=10%", "leak.indirect<=15%"]
    beside = replayed(unlearn_run, "--unlearn-profile=strict", "--unlearn-gate=leak.indirect<=40%")
    beside.stdout.fnmatch_lines(["gates of --unlearn-profile=strict and --unlearn-gate*"])
    beside.stdout.fnmatch_lines(["leak.indirect * <=40.0% *PASS", "leak.at(100)*NOT EVALUATED"])


FEWER = "without the earlier run's leak.indirect<=15%, passk.retained>=90%"


@pytest.mark.parametrize("way", [f"--unlearn-replay={RESULTS}", "--unlearn-replay"])
def test_gates_that_are_dropped_are_named_in_the_head(unlearn_run: UnlearnRun, way: str) -> None:
    """On the screen and in each report, which may stand where the run's own stood."""
    unlearn_run.lookup()
    names = ("html", "github", "modelcard", "summary")
    reports = [f"--unlearn-report={name}:{name}" for name in names]
    unlearn_run(*reports, "--unlearn-report=jsonl")
    flags = ("--unlearn-gate=leak.direct<=20%", *reports)
    result = replayed(unlearn_run, *flags) if "=" in way else unlearn_run(way, *flags)
    result.stdout.fnmatch_lines([f"*udged again, {FEWER}*", "*FOR RELEASE*"])
    if "=" in way:
        result.stdout.fnmatch_lines(["replaced existing reports: *html, *modelcard*"])
    for name in names:
        text = (unlearn_run.pytester.path / name).read_text()
        assert FEWER.split()[-1] in html.unescape(text).replace("\\", ""), name
    same = replayed(unlearn_run) if "=" in way else unlearn_run(way)
    same.stdout.no_fnmatch_line("*udged again*")


def test_table_and_confidence_of_this_project_count(unlearn_run: UnlearnRun) -> None:
    """The table of the folder in which is replayed; a wrong one is named as in a run."""
    unlearn_run.lookup(leaking=forget_ids(2))
    flags = ("--unlearn-confidence=0.9", "--unlearn-gate=leak.direct<=13%")
    unlearn_run(*flags, "--unlearn-report=jsonl")
    same = replayed(unlearn_run)
    same.stdout.fnmatch_lines(
        ["gates of the earlier run, confidence 90%", "gate * 90% bound *", "leak.direct*PASS"]
    )
    sure = replayed(unlearn_run, "--unlearn-confidence=0.99")
    assert sure.ret == pytest.ExitCode.TESTS_FAILED
    sure.stdout.fnmatch_lines(
        ["gate * 99% bound *", "CHANGED: leak.direct<=13% is UNDECIDED, was PASS", "NOT FOR*"]
    )
    let = replayed(unlearn_run, "--unlearn-confidence=0.99", "--unlearn-undecided=warn")
    assert let.ret == pytest.ExitCode.OK
    let.stdout.fnmatch_lines(["NO VERDICT"])
    table = "[tool.pytest-unlearn]\nconfidence = 0.8\n[tool.pytest-unlearn.gates]\n"
    unlearn_run.pytester.makepyprojecttoml(table + "leak.direct = '30%'\n")
    other = replayed(unlearn_run)
    other.stdout.fnmatch_lines(["gates of pyproject.toml, confidence 80%", "FOR RELEASE: *"])
    unlearn_run.pytester.makepyprojecttoml("[tool.pytest-unlearn]\ngate = 1\n")
    wrong = replayed(unlearn_run)
    assert wrong.ret == pytest.ExitCode.USAGE_ERROR
    wrong.stderr.fnmatch_lines(["ERROR: pyproject.toml: *unknown key gate*"])
    unlearn_run.pytester.makepyprojecttoml("")
    none = replayed(unlearn_run, "--unlearn-gate=exposure.max<=10")
    assert none.ret == pytest.ExitCode.USAGE_ERROR
    none.stderr.fnmatch_lines(["*0 decoys can show at most 0 bits*"])


def test_rules_and_changes_of_the_run_stay(unlearn_run: UnlearnRun) -> None:
    """What was required then is required now; a limit on a change keeps its verdict; what was
    curtailed is still settled."""
    unlearn_run.lookup()
    unlearn_run("--unlearn-save=first")
    unlearn_run.lookup(leaking=forget_ids(2))
    worse = ("--unlearn-compare=first", "--unlearn-compare-fail=leak.direct:+1%:point")
    unlearn_run(*worse, "--unlearn-report=jsonl")
    result = replayed(unlearn_run, "--unlearn-gate=leak.direct<=30%")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["leak.direct change *+3.3 pp*FAIL", "NOT FOR RELEASE"])
    unlearn_run("-k", "email", "--unlearn-require-complete", "--unlearn-report=jsonl")
    part = replayed(unlearn_run)
    assert part.ret == pytest.ExitCode.TESTS_FAILED
    part.stdout.no_fnmatch_line("CHANGED*")
    unlearn_run.lookup(leaking=forget_ids(60))
    gates = ("--unlearn-gate=leak.drop>=50%", "--unlearn-stop=curtail")
    assert unlearn_run(*gates, "--unlearn-report=jsonl").ret == pytest.ExitCode.TESTS_FAILED
    early = replayed(unlearn_run)
    assert early.ret == pytest.ExitCode.TESTS_FAILED
    early.stdout.fnmatch_lines(["leak.drop *FAIL", "leak.drop: *shown by *"])


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
    rest = "".join(json.dumps(line) + "\n" for line in lines[1:])
    path.write_text(json.dumps(lines[0]) + "\n" + rest)
    assert replayed(unlearn_run).ret == pytest.ExitCode.USAGE_ERROR  # changed by hand
    lines[0]["sha256"] = hashlib.sha256(rest.encode()).hexdigest()
    path.write_text(json.dumps(lines[0]) + "\n" + rest)
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
        ([{"schema": "other"}], [], f"*{RESULTS}:1: not results of this version; give a file*"),
        ([{**HEAD, "version": 2}], [], f"*{RESULTS}:1: not results of this version*"),
        (
            [HEAD, {"record": "case"}],
            [],
            f"*{RESULTS}:2: not a line of results (KeyError: 'type')*",
        ),
        (
            [HEAD],
            [],
            f"*{RESULTS}: it has 0 of the run's 1 cases; it was cut off, give the complete file",
        ),
        ([HEAD], ["--unlearn-report=pdf"], "*'pdf' is not a report format*"),
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
