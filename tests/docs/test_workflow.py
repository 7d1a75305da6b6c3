"""The workflow of how-to/ci.md: valid YAML, actions of fixed versions, commands that would run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.docs.test_blocks import Scene
from tests.support.doc_blocks import ROOT, commands

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
