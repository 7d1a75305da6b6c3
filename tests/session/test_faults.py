"""Faults around a run: a store or folder that fails, signals, backends that do not answer."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_unlearn.session.endings import ending_signals, remove_earlier
from tests.support.lookup_run import FORGET, UnlearnRun, forget_ids, record_lines

REPORT = "--unlearn-report=jsonl"


def usage_error(result: pytest.RunResult) -> str:
    """Return the one line of a usage error that came before any test."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line.startswith("ERROR: ")]
    assert not any("Traceback" in line for line in [*result.errlines, *result.outlines])
    return line.removeprefix("ERROR: ")


# -- the store -------------------------------------------------------------------------------


def entries(run: UnlearnRun, namespace: str) -> list[Path]:
    return sorted((run.pytester.path / "store" / namespace).rglob("*.json"))


def test_what_does_not_check_out_is_generated_again(unlearn_run: UnlearnRun) -> None:
    """A damaged completion is no answer: not of a run, and not of a replay."""
    unlearn_run.lookup(leaking=forget_ids(FORGET))
    only = ("-k", "forget", "--unlearn-gate=leak.direct<=10%")
    unlearn_run(*only)
    before = len(unlearn_run.generated())
    for path in entries(unlearn_run, "completions"):  # still JSON, and another answer
        text = path.read_text()
        path.write_text(text.replace("value0", "valve0").replace("/0000", "/0100"))
    replayed = unlearn_run("--unlearn-replay", *only)
    assert replayed.ret == pytest.ExitCode.TESTS_FAILED
    replayed.stdout.fnmatch_lines(["*is not in the store; run once without it*"])
    result = unlearn_run(*only)
    result.stdout.fnmatch_lines(["leak.direct *60 (100.0%)*FAIL"])
    assert len(unlearn_run.generated()) > before


def test_a_shared_folder_as_store_keeps_its_mode(unlearn_run: UnlearnRun) -> None:
    """What is written there goes into a private folder, and a second run finds it."""
    shared = unlearn_run.pytester.mkdir("shared")
    shared.chmod(0o777)
    unlearn_run.lookup()
    for _ in range(2):
        assert unlearn_run("--unlearn-store=shared", "-k", "forget-00").ret == pytest.ExitCode.OK
    assert stat.S_IMODE(shared.stat().st_mode) == 0o777
    (inside,) = shared.iterdir()
    assert stat.S_IMODE(inside.stat().st_mode) == 0o700
    assert len(unlearn_run.generated()) == len(set(unlearn_run.generated()))


def test_a_store_that_cannot_be_made_is_a_usage_error(unlearn_run: UnlearnRun) -> None:
    """Of the run, of its plan and of a replay."""
    unlearn_run.lookup()
    unlearn_run.pytester.path.joinpath("file").write_text("x")
    for more in ((), ("--unlearn-plan",), ("--unlearn-replay",), ("-n2",)):
        line = usage_error(unlearn_run("--unlearn-store=file", *more))
        assert line.startswith(f"--unlearn-store={unlearn_run.pytester.path / 'file'}: the store")
        assert "--unlearn-store=DIR" in line


def test_a_folder_that_cannot_be_written(
    unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pytest's cache, where the store is by default, and the place of saved runs are told before
    any test; neither matters where it is not used."""

    def refuse(*arguments: object) -> None:
        raise OSError(30, "Read-only file system")

    unlearn_run.lookup()
    own = [a for a in unlearn_run.arguments() if not a.startswith("--unlearn-store")]
    monkeypatch.setattr("_pytest.cacheprovider.Cache.mkdir", refuse)
    line = usage_error(unlearn_run.pytester.runpytest_inprocess(*own))
    assert line.startswith("--unlearn-store: pytest's cache folder")
    assert "(Read-only file system); write --unlearn-store=DIR" in line
    assert unlearn_run("-k", "forget-00").ret == pytest.ExitCode.OK
    unlearn_run.pytester.path.joinpath(".unlearn").write_text("no folder")
    line = usage_error(unlearn_run("--unlearn-save=last"))
    assert line.startswith("--unlearn-save=last: ")
    assert "is a file, not a folder" in line


def test_a_run_that_cannot_be_saved_at_its_end_says_so(unlearn_run: UnlearnRun) -> None:
    """As a report that cannot be written: its gates stand, and the exit code is 4."""
    unlearn_run.lookup(
        also="""
import shutil
def pytest_unlearn_judged(config):
    shutil.rmtree(config.rootpath / ".unlearn", ignore_errors=True)
    (config.rootpath / ".unlearn").write_text("no folder")
"""
    )
    result = unlearn_run("--unlearn-save=last")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["leak.direct*PASS", "--unlearn-save=last: not saved: *"])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_leftovers_of_a_killed_run_are_swept(unlearn_run: UnlearnRun) -> None:
    """Half-written entries and notes of gates; the store's own files stay."""
    unlearn_run.lookup()
    unlearn_run("-k", "forget-00")
    store = unlearn_run.pytester.path / "store"
    left = [store / "settled-1.json", next((store / "completions").iterdir()) / ".writing-1"]
    for path in left:
        path.write_text("half")
    before = len(unlearn_run.generated())
    assert unlearn_run("-k", "forget-00").ret == pytest.ExitCode.OK
    assert not any(path.exists() for path in left)
    assert len(unlearn_run.generated()) == before


# -- signals ---------------------------------------------------------------------------------

SLOW = """
import time
class LookupModels(LookupModels):
    def answers(self, state, prompts, style):
        if prompts[0].startswith("def add_"):
            Path("started").write_text("x")
            time.sleep(60)
        return super().answers(state, prompts, style)
"""


def test_a_signal_leaves_the_report_of_what_was_measured(unlearn_run: UnlearnRun) -> None:
    """Whoever ends a run, a person, a scheduler or a closed terminal."""
    unlearn_run.lookup(also=SLOW)
    command = [sys.executable, "-m", "pytest", *unlearn_run.arguments(), *unlearn_run.gates([])]
    started = unlearn_run.pytester.path / "started"
    with subprocess.Popen(
        [*command, REPORT], cwd=unlearn_run.pytester.path, stdout=subprocess.PIPE, text=True
    ) as process:
        while not started.exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        shown, _ = process.communicate(timeout=50)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert "NO VERDICT" in shown
    head, *rows = map(
        json.loads, (unlearn_run.pytester.path / "unlearn-results.jsonl").read_text().splitlines()
    )
    assert head["run"]["interrupted"] == "SIGTERM"
    assert sum(row.get("status") == "measured" for row in rows) >= FORGET


def test_signals_are_left_as_they_were() -> None:
    """Handled inside the block only; one that somebody ignores stays ignored."""
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_signals(True) as ignore:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
                signal.raise_signal(signal.SIGTERM)
            ignore()
            signal.raise_signal(signal.SIGTERM)
        with ending_signals(False):
            assert signal.getsignal(signal.SIGTERM) is before
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


# -- a process that ends without a word -------------------------------------------------------

LEAVES = """
import os

def test_leaves():
    os._exit({code})
"""


@pytest.mark.parametrize("workers", [(), ("-n1",)])
def test_a_test_that_ends_the_process_is_no_pass(
    unlearn_run: UnlearnRun, workers: tuple[str, ...]
) -> None:
    """With code 0, which pytest would hand on; and no report of an earlier run is left."""
    unlearn_run.lookup()
    report = unlearn_run.pytester.path / "unlearn-results.jsonl"
    report.write_text("FOR RELEASE, said last week")
    path = unlearn_run.pytester.makepyfile(test_leaving=LEAVES.format(code=0))
    flags = (path, "--unlearn-report=jsonl", *workers)
    result = unlearn_run(*map(str, flags), subprocess=True)
    assert result.ret == (pytest.ExitCode.TESTS_FAILED if workers else pytest.ExitCode.INTERRUPTED)
    if workers:
        result.stdout.fnmatch_lines(["NOT FOR RELEASE: *"])
        assert "FOR RELEASE, said" not in report.read_text()
    else:
        result.stdout.fnmatch_lines(["NO VERDICT: *os._exit(0)*test_leaving.py::test_leaves*"])
        assert not report.exists()


def test_a_status_that_the_system_cuts_to_zero_is_no_pass(unlearn_run: UnlearnRun) -> None:
    """And the id of the test that ends the process shows nobody's value."""
    unlearn_run.lookup()
    value = record_lines("forget", 1)[0]["value"]
    source = f"import os\nimport pytest\n\n@pytest.mark.parametrize('v', [{value!r}])\n"
    source += "def test_leaves(v):\n    os._exit(256)\n"
    path = unlearn_run.pytester.makepyfile(test_leaving=source)
    result = unlearn_run(str(path), "-q", subprocess=True)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["NO VERDICT: *os._exit(256)*test_leaving.py::test_leaves*"])
    assert value not in result.stdout.str()


@pytest.mark.parametrize(
    ("source", "hook", "leaking", "code"),
    [
        # A child that was forked ends as it likes, and so does a process after its verdict.
        ("pid = os.fork() or os._exit(0)\n    assert os.waitpid(pid, 0)[1] == 0", "pass", [], 0),
        ("pass", "os._exit(0)", [], 0),
        ("pass", "os._exit(0)", ["direct-email-forget-000", "direct-badge-forget-001"] * 9, 2),
        ("os._exit(7)", "pass", [], 7),
    ],
    ids=["fork", "after", "after a failure", "with a code"],
)
def test_other_ends_of_a_process_are_left_alone(
    unlearn_run: UnlearnRun, source: str, hook: str, leaking: list[str], code: int
) -> None:
    unlearn_run.lookup(
        leaking=leaking, also=f"import os\ndef pytest_unconfigure(config):\n    {hook}\n"
    )
    path = unlearn_run.pytester.makepyfile(test_own=f"import os\n\ndef test_own():\n    {source}\n")
    flags = ("--pyargs", "pytest_unlearn.suite.test_leakage", "--unlearn-gate=leak.direct<=10%")
    result = unlearn_run(str(path), *flags, subprocess=True)
    assert result.ret == code


def test_what_is_no_file_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    for name in ("kept", "report"):
        (tmp_path / name).touch()
    remove_earlier(tmp_path / name for name in ("folder", "link", "report", "none"))
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "link", "kept"}


# -- backends that do not answer -------------------------------------------------------------

BACKEND = """
import sys
import pytest
class Models:
    def complete(self, prompts, max_new_tokens=64):
        {answer}
def pytest_unlearn_models(dataset):
    {found}
    return Models()
"""
WAYS = {
    "skip": ("pytest.skip('no GPU')", "*the model skipped instead of answering (no GPU)*"),
    "xfail": ("pytest.xfail('no GPU')", "*the model called xfail instead of answering (no GPU)*"),
    "exit": ("sys.exit(0)", "*the model exited instead of answering (0)*"),
    "leave": ("pytest.exit('no GPU', returncode=0)", "NO VERDICT: *"),
    "leave so": ("pytest.exit('no GPU', returncode=77)", "NO VERDICT: *"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_backend_that_does_not_answer_gets_a_verdict_line(
    unlearn_run: UnlearnRun, way: str
) -> None:
    """The last line says it, and the exit code is no success."""
    answer, line = WAYS[way]
    unlearn_run.pytester.makeconftest(BACKEND.format(answer=answer, found="pass"))
    result = unlearn_run("-k", "direct-email-forget-00")
    assert result.ret == {"leave": 2, "leave so": 77}.get(way, 1)
    result.stdout.fnmatch_lines([line])
    assert sum(text.startswith(("NO VERDICT", "NOT FOR")) for text in result.outlines) == 1


@pytest.mark.parametrize("way", ["pytest.skip('no', allow_module_level=True)", "sys.exit(0)"])
def test_a_backend_that_cannot_be_had_is_a_usage_error(unlearn_run: UnlearnRun, way: str) -> None:
    """Before any test; a run without a model tests nothing."""
    unlearn_run.pytester.makeconftest(BACKEND.format(answer="pass", found=way))
    assert usage_error(unlearn_run()).startswith("pytest_unlearn_models ended with ")


def test_pytest_forked_is_refused_by_name(unlearn_run: UnlearnRun) -> None:
    """Each test would load the models anew."""
    unlearn_run.lookup(
        also="""
def pytest_addoption(parser):
    parser.addoption("--forked", action="store_true")
"""
    )
    assert usage_error(unlearn_run("--forked")).startswith("--forked: pytest-forked runs each")
