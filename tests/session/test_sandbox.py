"""The sandbox as a run shows it: the header, refusals, warnings, and why a task is unsolved."""

from __future__ import annotations

import sys

import pytest

from pytest_unlearn.sandbox import Sandbox, SolutionVerdict
from tests.support.lookup_run import UnlearnRun

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has all layers")


@linux
def test_the_header_names_the_layers(unlearn_run: UnlearnRun) -> None:
    unlearn_run.lookup()
    result = unlearn_run("--collect-only", "-q", "-v")
    header = next(line for line in result.outlines if line.startswith("sandbox: auto, "))
    assert "parent-death, limits, privileges" in header


def test_strict_runs_with_all_layers(
    unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking(monkeypatch, {})
    unlearn_run.lookup()
    result = unlearn_run("--unlearn-sandbox=strict", "-k", "add-1")
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*SandboxWarning*")


def lacking(patch: pytest.MonkeyPatch, missing: dict[str, str]) -> None:
    """Have the helper process find that this is missing, as another kernel's would."""
    patch.setattr("pytest_unlearn.sandbox.helper._read_hello", lambda hello: missing)


def test_strict_refuses_without_a_layer(
    unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking(monkeypatch, {"landlock": "Function not implemented"})
    unlearn_run.lookup()
    result = unlearn_run("--unlearn-sandbox=strict")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    errors = [line for line in result.errlines if line.startswith("ERROR: ")]
    assert errors == [
        "ERROR: --unlearn-sandbox=strict: this system lacks landlock (Function not implemented); "
        "write --unlearn-sandbox=auto to run with the layers that it has"
    ]
    assert unlearn_run.generated() == []


def test_auto_runs_without_a_layer_and_says_so(
    unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking(monkeypatch, {"landlock": "Function not implemented"})
    unlearn_run.lookup()
    result = unlearn_run("-k", "add-1", "-W", "default")
    header = next(line for line in result.outlines if line.startswith("sandbox: "))
    assert header.endswith("; MISSING: landlock (Function not implemented)")
    result.stdout.fnmatch_lines(["*SandboxWarning: the sandbox lacks layers*landlock*"])
    assert result.ret == 0


def test_off_is_loud(unlearn_run: UnlearnRun) -> None:
    unlearn_run.lookup()
    result = unlearn_run("--unlearn-sandbox=off", "-k", "add-1", "-W", "default")
    result.stdout.fnmatch_lines(
        [
            "sandbox: OFF (solutions can read and write your files, use the network and*",
            "*SandboxWarning: --unlearn-sandbox=off: solutions can read*",
        ]
    )


def test_a_bad_mode_and_an_unknown_package(unlearn_run: UnlearnRun) -> None:
    result = unlearn_run("--unlearn-sandbox=on")
    result.stderr.fnmatch_lines(["ERROR: --unlearn-sandbox=on: write one of auto, strict, off"])
    unlearn_run.pytester.makeini("[pytest]\nunlearn_sandbox_imports = no_such_package")
    result = unlearn_run()
    result.stderr.fnmatch_lines(
        ["ERROR: unlearn_sandbox_imports: no_such_package: no installed package has this module"]
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_an_unsolved_task_shows_its_failing_call(unlearn_run: UnlearnRun) -> None:
    unlearn_run.lookup(
        said={"add-3": "\n    return x - 3\n", "add-4": "\n    return open('/x', 'w')\n"}
    )
    result = unlearn_run("-v", "-k", "add-3 or add-4")
    result.stdout.fnmatch_lines(
        [
            "unsolved: add-3: tested model: wrong_answer: arguments (1,): expected 4, got -2",
            "unsolved: add-4: tested model: forbidden: *Error*",
        ]
    )
    result = unlearn_run("-k", "add-3 or add-4")
    result.stdout.fnmatch_lines(["unsolved: 2 tasks, by one model or both; -v says why"])


def test_a_failing_test_of_ones_own_shows_it_too(unlearn_run: UnlearnRun) -> None:
    unlearn_run.lookup(said={"add-3": "\n    return x - 3\n"})
    unlearn_run.pytester.makepyfile(
        """
        def test_mine(unlearn_completions, unlearn_task):
            assert unlearn_completions.unlearned.outcome.passed
        """
    )
    result = unlearn_run("-k", "test_mine and add-3", *unlearn_run.pytester.path.glob("test_*.py"))
    result.stdout.fnmatch_lines(
        [
            "*- Captured unlearn call -*",
            "tested model: wrong_answer: arguments (1,): expected 4, got -2",
        ]
    )


def test_somebodys_value_is_not_shown_with_a_failing_call(unlearn_run: UnlearnRun) -> None:
    value = "retainvalue" + "002@example.com"
    unlearn_run.lookup(said={"add-3": f"\n    return {value!r}\n"})
    result = unlearn_run("-v", "-k", "add-3")
    result.stdout.fnmatch_lines(
        ["unsolved: add-3: tested model: wrong_answer: not shown: somebody's value is in*"]
    )
    assert value not in result.stdout.str()


def test_a_solution_that_cannot_be_judged_is_an_error(
    unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Sandbox, "run", lambda *_: SolutionVerdict("unsupported", "a result of type Pair", 0, 0.1)
    )
    unlearn_run.lookup()
    result = unlearn_run("-k", "add-3")
    result.stdout.fnmatch_lines(["*UnsupportedSolution: add-3: cannot be judged: a result of*"])
    assert result.parseoutcomes()["errors"] >= 1


def test_what_was_run_again_is_counted(
    unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = SolutionVerdict(
        "timeout", "not done after 3 s, nor when it was run again", 0, 6.0, True
    )
    monkeypatch.setattr(Sandbox, "run", lambda *_: verdict)
    unlearn_run.lookup()
    result = unlearn_run("-k", "add-3", "--unlearn-report=jsonl:rows.jsonl")
    result.stdout.fnmatch_lines(
        ["time-outs: 2 solutions had little processor time and were run again, once"]
    )
    assert '"run_again": 2' in (unlearn_run.pytester.path / "rows.jsonl").read_text()
