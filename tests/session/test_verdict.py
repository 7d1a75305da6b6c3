"""With a model named there is one verdict line; without one, nothing that wants a verdict runs."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from tests.support.lookup_run import UnlearnRun


@pytest.mark.parametrize(
    ("test", "arguments", "line", "code"),
    [
        ("def test_own(): assert False", [], "NOT FOR RELEASE: 1 test failed (*::test_own)", 1),
        ("def test_own(): pass", [], "NO VERDICT: no case was run", 0),
        ("def test_own(unlearn_pair): pass", ["--setup-only"], "NO VERDICT: no case was run", 0),
        (
            "import pytest\n\n@pytest.fixture\ndef late():\n    yield\n    raise OSError\n\n"
            "def test_own(late): pass",
            [],
            "NOT FOR RELEASE: 1 test failed (*::test_own)",
            1,
        ),
        (
            "import pytest\n\n@pytest.fixture\ndef leave(): pytest.exit('bye', returncode=0)\n\n"
            "def test_own(leave): pass",
            [],
            "NO VERDICT: no case was run",
            2,
        ),
        ("import missing", [], "NOT FOR RELEASE: 1 test failed (*.py)", 2),
        ("def test_own(): pass", ["--collect-only"], "NO VERDICT: nothing was run (*)", 0),
    ],
)
def test_always_one_verdict_line(
    pytester: pytest.Pytester, test: str, arguments: Sequence[str], line: str, code: int
) -> None:
    path = pytester.makepyfile(test)
    result = pytester.runpytest_subprocess(
        path, "--unlearn-model=tiny", "--unlearn-method=none", *arguments
    )
    assert result.ret == code
    result.stdout.fnmatch_lines([line])
    result.stdout.no_fnmatch_line("FOR RELEASE*")


COUNTING = """
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session):
    done = yield
    session.testsfailed += 1
    return done
"""


@pytest.mark.parametrize(
    ("test", "flags", "also", "why", "code"),
    [
        ("import missing", ["--continue-on-collection-errors"], "", "test_own.py", 1),
        ("def test_own(): pass", [], COUNTING, "1 counted by a plugin", 1),
        (
            "import warnings\n\ndef test_own(): warnings.warn('x')",
            ["--max-warnings=0", "-Wdefault"],
            "",
            "more warnings than --max-warnings",
            6,
        ),
    ],
)
def test_what_fails_in_no_test_is_not_for_release(
    unlearn_run: UnlearnRun, test: str, flags: Sequence[str], also: str, why: str, code: int
) -> None:
    """All gates pass, and pytest's exit code says that something failed: so does the verdict."""
    unlearn_run.lookup(also)
    unlearn_run.pytester.makepyfile(test_own=test)
    result = unlearn_run(
        "--pyargs", "pytest_unlearn.suite", "test_own.py", "--unlearn-report=summary", *flags
    )
    assert result.ret == code
    result.stdout.fnmatch_lines([f"NOT FOR RELEASE: 1 test failed ({why})"])
    summary = json.loads((unlearn_run.pytester.path / "unlearn-summary.json").read_text())
    assert summary["verdict"] == "NOT FOR RELEASE"


@pytest.mark.parametrize(
    ("arguments", "ini", "named"),
    [
        (["--unlearn-gate=leak.direct<=5%"], "", "--unlearn-gate"),
        (["--unlearn-profile=release"], "", "--unlearn-profile"),
        (["--unlearn-report=html"], "", "--unlearn-report"),
        (["--unlearn-require-complete"], "", "--unlearn-require-complete"),
        (["--unlearn-model="], "", "--unlearn-model="),
        ([], "unlearn_require_model = true", "unlearn_require_model"),
    ],
)
def test_a_verdict_without_a_model(
    pytester: pytest.Pytester, arguments: Sequence[str], ini: str, named: str
) -> None:
    pytester.makeini(f"[pytest]\n{ini}\n")
    pytester.makepyfile("def test_own(): pass")
    result = pytester.runpytest(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{named} asks for a verdict, but no model is named*"])


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("unlearn_gates", "unlearn_gate"),
        ("unlearn-gate", "unlearn_gate"),
        ("unlern_modle", "unlearn_model"),
        ("unlearn_holiday", "docs/reference/flags.md has them all"),
    ],
)
def test_a_misspelt_key(pytester: pytest.Pytester, key: str, advice: str) -> None:
    """Refused with the key that was meant, also where it should have named the model."""
    pytester.makeini(f"[pytest]\n{key} = x\n")
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: tox.ini: unknown key {key}; *{advice}"])


def test_a_report_of_no_case(unlearn_run: UnlearnRun) -> None:
    """Written where it was asked for; what to leave out is what was written."""
    unlearn_run.lookup()
    unlearn_run.pytester.makepyfile(test_own="def test_own(): pass")
    result = unlearn_run("test_own.py", "--unlearn-report=summary")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        ["leak.direct: partial selection: 0 of 60 run; leave out the paths", "NO VERDICT*"]
    )
    summary = json.loads((unlearn_run.pytester.path / "unlearn-summary.json").read_text())
    assert (summary["verdict"], summary["measured"]) == ("NO VERDICT", 0)


def test_nothing_asked_nothing_refused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_own(): pass")
    assert pytester.runpytest().ret == pytest.ExitCode.OK


EXITS = """
import pytest

def pytest_unlearn_judged(results):
    pytest.exit("told", returncode=0)
"""
RAISES = """
def pytest_unlearn_judged(results):
    raise ValueError("told")
"""
SUCCEEDS = """
import pytest

@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    session.exitstatus = 0
"""


@pytest.mark.parametrize(
    ("also", "paths", "why", "code"),
    [
        (EXITS, [], "1 test failed (Exit after the tests)", 2),
        (RAISES, [], "1 test failed (internal error)", 3),
        (SUCCEEDS, ["test_own.py"], "1 test failed (test_own.py::test_own)", 1),
    ],
)
def test_no_hook_turns_a_failure_into_success(
    unlearn_run: UnlearnRun, also: str, paths: Sequence[str], why: str, code: int
) -> None:
    """What ends a run after the verdict leaves no FOR RELEASE, and no exit code 0 without one."""
    unlearn_run.lookup(also)
    unlearn_run.pytester.makepyfile(test_own="def test_own(): assert False")
    result = unlearn_run(*paths)
    assert result.ret == code
    result.stdout.fnmatch_lines([f"NOT FOR RELEASE: {why}"])
    result.stdout.no_fnmatch_line("FOR RELEASE*")
