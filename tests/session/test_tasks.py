"""Tasks from the command line: sets, samples, styles, and their own solutions checked first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_unlearn.models.presets import PresetError, presets
from pytest_unlearn.run import dataset
from pytest_unlearn.sandbox import SolutionVerdict, sandbox
from tests.support.lookup_run import TASKS, UnlearnRun, task_lines, write_lines
from tests.support.multipl_e import JAVA, JS, JS_SOLUTION


def task_file(folder: Path, **changes: dict[str, Any]) -> Path:
    """Write three tasks, changed by entry point."""
    rows = [{**row, **changes.get(row["entry_point"], {})} for row in task_lines(3)]
    rows = [{**row, "id": f"mine-{number}"} for number, row in enumerate(rows)]
    return write_lines(folder / "mine.jsonl", rows)


def test_samples_are_shown_as_pass_at_k(unlearn_run: UnlearnRun) -> None:
    """And gates judge the first k; parse and degeneration stand beside."""
    unlearn_run.lookup(lost=["add-0", "add-1"])
    result = unlearn_run("--unlearn-samples=2", "--unlearn-k=2,1", "-k", "test_solved")
    result.stdout.fnmatch_lines(
        [
            f"passk.retained  {TASKS - 2}/{TASKS}*",
            "also measured *",
            "parse.rate * 30 (100.0%) * 28 (93.3%) *",
            f"pass@2 * (100.0%) * (93.3%) * {TASKS} * >=80.4% of base",
            "pass@1 * (100.0%) * (93.3%) * >=80.4% of base",
            "solutions: degenerate * 0.0% * 0.0% *",
        ]
    )
    assert len(unlearn_run.generated()) == 2 * 2 * TASKS


def test_a_style_reaches_the_model(unlearn_run: UnlearnRun) -> None:
    """The lookup backend knows a task by what its style asks."""
    unlearn_run.lookup()
    result = unlearn_run("--unlearn-task-style=chat", "-k", "test_solved")
    result.stdout.fnmatch_lines([f"passk.retained  {TASKS}/{TASKS} (100.0%)*"])


@pytest.mark.parametrize(
    ("model", "flags", "style"),
    [
        ("tiny", [], "completion"),
        ("smollm2", [], "chat"),
        ("smollm2", ["--unlearn-task-style=completion"], "completion"),
        ("of/nobody", [], "completion"),
    ],
)
def test_the_preset_says_how_tasks_are_asked(
    unlearn_run: UnlearnRun, model: str, flags: list[str], style: str
) -> None:
    unlearn_run.model = model
    unlearn_run.lookup(
        also=f"""
models_of = pytest_unlearn_models

def pytest_unlearn_models(dataset):
    assert dataset.sampling.style == {style!r}
    return models_of(dataset)
"""
    )
    result = unlearn_run("-k", "test_solved and add-1", *flags)
    assert result.ret == 0


def test_every_preset_can_do_what_it_says() -> None:
    for preset in presets().values():
        preset.check_task_style(preset.task_style)
    with pytest.raises(PresetError, match="the preset tiny was not trained for that"):
        presets()["tiny"].check_task_style("chat")


def test_a_set_can_be_retained_by_name(unlearn_run: UnlearnRun) -> None:
    """`--unlearn-retain=neighbours` adds tasks, and files are still files; all pass the check."""
    unlearn_run.lookup()
    unlearn_run.pytester.makeini("[pytest]\nunlearn_check_tasks = true\n")
    result = unlearn_run("--unlearn-retain=neighbours", "-k", "next-luhn", "-v")
    result.stdout.fnmatch_lines(["*test_solved[[]next-luhn[]] PASSED*"])
    said = result.stdout.str() + result.stderr.str()
    assert f"{TASKS} tasks cannot tell a stub from a solution; add tests that it fails: " in said
    assert 'tasks.jsonl:1: "return 1" passes all tests of add-0; ' in said
    assert f"; and {TASKS - 10} more" in said
    header = next(line for line in result.outlines if line.startswith("unlearn: model"))
    assert "30 retain" in header
    assert f"tasks {TASKS + 16}" in header


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--unlearn-k=5"], "--unlearn-k=5: pass@5 needs --unlearn-samples=5 or more"),
        (["--unlearn-samples=0"], "--unlearn-samples=0: write a whole number of at least 1"),
        (["--unlearn-task-style=x"], "--unlearn-task-style=x: write completion, chat or infill"),
        (["--unlearn-task-timeout=0"], "--unlearn-task-timeout=0: write a number of seconds over"),
        (["--unlearn-task-timeout=x"], "--unlearn-task-timeout=x: write a number of seconds over"),
        (
            ["--unlearn-tasks=bundled,none"],
            "--unlearn-tasks=bundled,none: none is neither a task set (bundled, neighbours, "
            "humaneval) nor a file; write one of these, or the path of a file",
        ),
        (["--unlearn-retain=HumanEvall"], "nor a file; did you mean humaneval?"),
        (["--unlearn-tasks=none.jsonl"], "none.jsonl: the file does not exist"),
    ],
)
def test_bad_flags(unlearn_run: UnlearnRun, flags: list[str], message: str) -> None:
    result = unlearn_run(*flags)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()


def test_solutions_that_fail_or_hang_are_named_first(unlearn_run: UnlearnRun) -> None:
    """At collection, by file, line and id; nothing is generated."""
    unlearn_run.lookup()
    path = task_file(
        unlearn_run.pytester.path,
        add_0={"solution": "    return x - 1\n"},
        add_1={"solution": "    while True:\n        pass\n"},
        add_2={"wrong": ["    return x + 2\n", "    return 0\n"]},
    )
    result = unlearn_run("--unlearn-check-tasks", f"--unlearn-tasks={path}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = result.stderr.str()
    assert f'{path}:1: "solution": the canonical solution of mine-0 does not pass' in said
    assert "wrong_answer" in said
    assert f'{path}:2: "solution": the canonical solution of mine-1 does not pass' in said
    assert "timeout" in said
    assert f'{path}:3: "wrong[0]": this passes all tests of mine-2' in said
    assert "wrong[1]" not in said
    assert unlearn_run.generated() == []


def test_replay_judges_again_without_a_model(unlearn_run: UnlearnRun) -> None:
    """From the store alone, and what is not there is an error, never a pass."""
    unlearn_run.lookup(lost=["add-0"])
    select = ("-k", "test_solved and (add-0 or add-7)")
    missing = unlearn_run("--unlearn-replay", *select)
    assert missing.ret == pytest.ExitCode.TESTS_FAILED
    missing.stdout.fnmatch_lines(["*ReplayError: --unlearn-replay: something of the base model*"])
    assert unlearn_run.generated() == []
    first = unlearn_run(*select)
    made = unlearn_run.generated()
    assert made
    again = unlearn_run("--unlearn-replay", *select)
    assert (again.ret, unlearn_run.generated()) == (first.ret, made)
    again.stdout.fnmatch_lines(["*1 passed*1 unsolved*"])


def test_replay_of_a_model_that_was_never_unlearned_trains_nothing(
    unlearn_run: UnlearnRun,
) -> None:
    result = unlearn_run("--unlearn-replay", "-k", "add-0")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*ReplayError: --unlearn-replay: *not in the store*"])
    result.stdout.no_fnmatch_line("*PASS*")


def test_a_file_of_two_formats_is_refused(unlearn_run: UnlearnRun) -> None:
    unlearn_run.lookup()
    path = unlearn_run.pytester.path / "mix.jsonl"
    mbpp = {"task_id": 1, "text": "x", "code": "def f():\n    pass", "test_list": ["f()"]}
    path.write_text(json.dumps(task_lines(1)[0]) + "\n" + json.dumps(mbpp) + "\n")
    result = unlearn_run(f"--unlearn-tasks={path}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "mix.jsonl:2: this line is in MBPP, and line 1 in the own format" in result.stderr.str()


def test_other_languages_are_judged_or_skipped_by_name(
    unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a JDK its tasks are skipped, and named with the reason; nothing is left of a file of
    such tasks alone."""
    why = "no JDK is installed (no javac)"
    monkeypatch.setattr(
        dataset, "lacking", lambda language, mode: why if language == "java" else ""
    )

    def judged(source: str, entry: str, calls: Any, language: str, *_: Any) -> SolutionVerdict:
        assert (language, entry) == ("javascript", "has_close")
        return SolutionVerdict("passed", "", None, 0.0)

    monkeypatch.setattr(sandbox, "run_calls", judged)
    unlearn_run.lookup()
    rows = [{**JS, "canonical_solution": JS_SOLUTION}, JAVA]
    path = write_lines(unlearn_run.pytester.path / "multi.jsonl", rows)
    result = unlearn_run(f"--unlearn-tasks={path}", "-rs", "-k", "test_solved")
    result.stdout.fnmatch_lines(
        [
            f"unlearn: 1 tasks skipped, Java: {why}",
            f"SKIPPED ?1? *: Java: {why}",
        ]
    )
    result.assert_outcomes(passed=TASKS + 2, skipped=1 + 2, deselected=120)
    alone = write_lines(unlearn_run.pytester.path / "alone.jsonl", [JAVA])
    flags = [flag for flag in unlearn_run.arguments() if "tasks" not in flag]
    result = unlearn_run.pytester.runpytest_inprocess(*flags, f"--unlearn-tasks={alone}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--unlearn-tasks: no task can be judged here (Java: {why}); *"])
