"""Workflows and jobs of the how-to pages: valid YAML and shell, commands that would run."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.doc_blocks import ROOT, Scene, commands

WORKFLOW = ROOT / "docs/how-to/release-gate.yml"


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for job, content in yaml.safe_load(WORKFLOW.read_text())["jobs"].items():
        yield from ((job, step) for step in content["steps"])


def pytest_commands() -> list[tuple[str, list[str]]]:
    """Return job and arguments of each pytest command, with the workflow's flags filled in."""
    flags = yaml.safe_load(WORKFLOW.read_text())["env"]["UNLEARN_FLAGS"]
    found = []
    for job, step in steps():
        text = step.get("run", "").replace("$UNLEARN_FLAGS", flags)
        if text.startswith("pytest"):
            (command,) = commands(f"$ {text}")
            found.append((job, list(command.words[1:])))
    return found


def test_actions_are_pinned() -> None:
    """A tag such as v4 moves; a full version does not."""
    used = [step["uses"] for _, step in steps() if "uses" in step]
    assert used
    assert not [name for name in used if not re.fullmatch(r"actions/[\w-]+@v\d+\.\d+\.\d+", name)]


@pytest.mark.parametrize(
    ("job", "arguments"), pytest_commands(), ids=lambda part: part if isinstance(part, str) else ""
)
def test_commands_would_run(
    job: str,
    arguments: list[str],
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong flag, gate or profile fails here and not on the GPU."""
    Scene(pytester, monkeypatch).settings(arguments)


def test_both_jobs_give_the_same_flags() -> None:
    """The judging job finds the run of the other by them, and hands on what it wrote."""
    flags = yaml.safe_load(WORKFLOW.read_text())["env"]["UNLEARN_FLAGS"].split()
    made, judged = (
        next(words for j, words in pytest_commands() if j == job and "--unlearn-plan" not in words)
        for job in ("generate", "judge")
    )
    assert [set(flags) - set(words) for words in (made, judged)] == [set(), set()]
    assert "--unlearn-replay" in judged
    paths = [step["with"].get("path") for j, step in steps() if j == "generate" and "with" in step]
    assert shlex.split(paths[-1]) == ["store", "results.jsonl"]
    assert "--unlearn-store=store" in flags
    assert "--unlearn-report=jsonl:results.jsonl" in made


HOW_TO = ROOT / "docs/how-to"
JOB = HOW_TO / "shards-job.yml"


def shell_text(name: str) -> str:
    """Return the shell script of an example."""
    text = (HOW_TO / name).read_text()
    if not name.endswith(".yml"):
        return text
    (container,) = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
    return str(container["args"][0])


def example_command(name: str) -> list[str]:
    """Return the arguments of the pytest command of an example, its variables filled in."""
    text = shell_text(name)
    flags = dict(re.findall(r'^(flags)="(.*)"$', text, re.MULTILINE)).get("flags", "")
    line = next(line for line in text.splitlines() if line.strip().startswith("pytest "))
    values = {"$flags": flags, "$SLURM_ARRAY_TASK_ID": "3", "$SLURM_ARRAY_TASK_COUNT": "8"}
    values |= {"$((JOB_COMPLETION_INDEX + 1))": "3", "$store": "store"}
    for variable, value in values.items():
        line = line.replace(variable, value)
    assert "$" not in line
    return shlex.split(line)[1:]


@pytest.mark.parametrize("name", ["shards.sbatch", "judge.sbatch", "shards-job.yml"])
def test_jobs_would_run(
    name: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell reads them, and pytest takes their flags."""
    subprocess.run(["bash", "-n"], input=shell_text(name), text=True, check=True)
    arguments = example_command(name)
    (pair,) = Scene(pytester, monkeypatch).settings(arguments)
    if name == "judge.sbatch":
        assert pair.settings.replay
        assert pair.settings.shard is None
    else:
        assert str(pair.settings.shard) == "3/8"


def test_jobs_give_the_same_flags_and_as_many_shards() -> None:
    """What one machine measures is found by the flags of the one that judges."""
    shared = [
        word for word in example_command("judge.sbatch") if "codeqwen" in word or ".jsonl" in word
    ]
    assert len(shared) == 3
    assert set(shared) <= set(example_command("shards.sbatch"))
    assert set(shared) <= set(example_command("shards-job.yml"))
    spec = yaml.safe_load(JOB.read_text())["spec"]
    assert spec["completionMode"] == "Indexed"
    assert f"/{spec['completions']}" in shell_text("shards-job.yml")
    assert "#SBATCH --array=1-8" in shell_text("shards.sbatch")
