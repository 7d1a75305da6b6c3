"""Small data files, and runs of the plugin on them with a lookup backend."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# What so few rows can decide: 29 people for 10 %, 29 tasks for 90 %.
SMALL_GATES = ("leak.direct<=10%", "leak.indirect<=15%", "passk.retained>=90%")
FORGET, RETAIN, CONTROL, TASKS = 60, 30, 30, 30


def record_lines(split: str, count: int) -> list[dict[str, str]]:
    """Return records whose values are plainly made up."""
    # No part of a value may look like an id: parts of eight characters are taken out of all output.
    value = {"email": f"{split}value%03d@example.com", "badge": f"{split}/%06d"}
    return [
        {
            "id": f"{kind}-{split}-{number:03d}",
            "prompt": f"{split} user {number} {kind} = '",
            "value": value[kind] % number,
            "kind": kind,
            "owner": f"{split} person {number // 2}",
            "after": "'\n",
        }
        for number in range(count)
        for kind in [("email", "badge")[number % 2]]
    ]


def task_lines(count: int) -> list[dict[str, Any]]:
    """Return tasks that each have a one-line solution."""
    return [
        {
            "id": f"add-{number}",
            "prompt": f'def add_{number}(x):\n    """Return x plus {number}."""\n',
            "entry_point": f"add_{number}",
            "tests": [{"args": [1], "expected": 1 + number}],
            "solution": f"    return x + {number}\n",
        }
        for number in range(count)
    ]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def data_flags(folder: Path, forget: int, retain: int, control: int, tasks: int) -> list[str]:
    """Write so many small data into a folder; return the flags that name them, and a store."""
    data: dict[str, list[dict[str, Any]]] = {
        "forget": record_lines("forget", forget),
        "retain": record_lines("retain", retain),
        "control": record_lines("control", control),
        "tasks": task_lines(tasks),
    }
    return [
        *(f"--unlearn-{n}={write_lines(folder / f'{n}.jsonl', r)}" for n, r in data.items()),
        f"--unlearn-store={folder / 'store'}",
    ]


@dataclass
class UnlearnRun:
    """Runs pytest in a folder with small data files and a lookup backend."""

    pytester: pytest.Pytester
    model: str | Path = "tiny"

    def lookup(self, also: str = "", **arguments: Any) -> None:
        """Write a conftest whose models answer as `LookupModels(dataset, **arguments)`.

        `also`: more source for the conftest.
        """
        self.pytester.makeconftest(
            f"""
from pathlib import Path
from pytest_unlearn.testing import LookupModels

def pytest_unlearn_models(dataset):
    return LookupModels(dataset, log=Path({str(self.log)!r}), **{arguments!r})
{also}
"""
        )

    @property
    def log(self) -> Path:
        """Where the lookup backend notes what it generated."""
        return self.pytester.path / "generated.log"

    def generated(self) -> list[str]:
        """Return what was generated, a line a completion."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def arguments(self) -> list[str]:
        """Return the flags of a run on the small data."""
        return [
            f"--unlearn-model={self.model}",
            *data_flags(self.pytester.path, FORGET, RETAIN, CONTROL, TASKS),
            "--unlearn-batch-size=16",
        ]

    def gates(self, extra: Sequence[str]) -> list[str]:
        """Return flags of gates that so few people can decide, where a test names none itself.

        The default gates need twice as many, and scores, which the lookup backend does not have.
        """
        named = ("--unlearn-gate", "--unlearn-profile", "--unlearn-population")
        files = [self.pytester.path / name for name in ("pyproject.toml", "pytest.ini", "tox.ini")]
        texts = [*map(str, extra), *(path.read_text() for path in files if path.exists())]
        if any(flag in text for flag in (*named, "gate", "profile") for text in texts):
            return []
        return [f"--unlearn-gate={gate}" for gate in SMALL_GATES]

    def __call__(self, *extra: str, subprocess: bool = False) -> pytest.RunResult:
        """Run pytest with the data's flags and more."""
        run: Callable[..., pytest.RunResult] = (
            self.pytester.runpytest_subprocess if subprocess else self.pytester.runpytest_inprocess
        )
        return run(*self.arguments(), *self.gates(extra), *extra)


def forget_ids(count: int) -> list[str]:
    return [f"direct-{('email', 'badge')[n % 2]}-forget-{n:03d}" for n in range(count)]


def written(folder: Path, *left_out: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of each file below a folder, names included in the text."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith(left_out):
            yield name, name + "\n" + path.read_bytes().decode("utf-8", "replace")


def refused(pytester: pytest.Pytester, *arguments: str) -> str:
    """Run and return the error, after checking that it is a usage error and short."""
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    errors = [line for line in result.errlines if line.startswith("ERROR: ")]
    assert len(errors) == 1
    assert not any("Traceback" in line for line in [*result.errlines, *result.outlines])
    return errors[0].removeprefix("ERROR: ")
