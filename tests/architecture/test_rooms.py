"""The flow has one direction: a room imports only from rooms to its left, and few know pytest."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest_unlearn

PACKAGE = Path(pytest_unlearn.__file__).parent

# What each room may import of this package, besides itself and the two shared tools.
SHARED = {"store", "jsonl"}
MAY_IMPORT = {
    "people": set(),
    "probes": {"people"},
    "tasks": set(),
    "leaks": {"people", "probes"},
    "sandbox": {"tasks"},
    "models": set(),
    "unlearning": {"models"},
    "gates": {"tasks", "leaks"},
    "searching": {"people", "probes", "leaks"},
    "strategies": {"people", "probes", "leaks"},
    "dataset": {"people", "probes", "tasks", "models", "options"},
    "plan": {"gates", "models", "dataset", "options", "grid"},
    "flags": {"gates"},
    "options": {"flags", "gates", "probes", "leaks", "models", "sandbox", "tasks", "unlearning"},
    "grid": {"unlearning", "options"},
    "training_checks": {"people", "models", "unlearning", "options", "dataset"},
    "plantings": {"models", "unlearning", "options", "dataset"},
    "recorded": {"models", "options", "dataset", "plantings", "run_models", "provenance"},
}
# The tiny model's recipe trains on the bundled people and tasks.
EXEMPT = {"models/tiny/recipe.py"}
KNOW_PYTEST = {
    "plugin.py",
    "session.py",
    "fixtures.py",
    "cases.py",
    "workers.py",
    "train.py",
    "flags.py",
    "options.py",
    "grid.py",
    "hookspecs.py",
    "replaying.py",
    "suite/test_leakage.py",
    "reports/terminal.py",
    "reports/gate_reports.py",
    "reports/protection.py",
    "reports/unsolved.py",
    "reports/planned.py",
    "reports/redaction.py",
}
MAX_LINES = 400
# The sandbox's child loads these by path, beside itself.
SANDBOX_FILES = {
    "codec",
    "child",
    "checker",
    "kernel",
    "layers",
    "processes",
    "seccomp",
    "zygote",
}


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        yield name, name.removesuffix(".py").split("/")[0], ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_rooms_import_leftwards_only() -> None:
    """No cycle, and nothing from a room further down the flow."""
    wrong = [
        (name, module)
        for name, room, tree in modules()
        if room in MAY_IMPORT and name not in EXEMPT
        for module in imported(tree)
        if module.startswith("pytest_unlearn.")
        and module.split(".")[1] not in MAY_IMPORT[room] | SHARED | {room}
    ]
    assert not wrong


def test_few_modules_know_pytest() -> None:
    """The rest is a library that a notebook can use."""
    knowing = {name for name, _, tree in modules() if "pytest" in imported(tree)}
    assert knowing <= KNOW_PYTEST


def test_everything_imported_is_declared() -> None:
    """What the package imports stands in its metadata, and not only in that of its dependencies."""
    declared = {
        requirement.split(">")[0].replace("-", "_")
        for requirement in requires("pytest-unlearn") or []
        if "extra == 'dev'" not in requirement
    }
    roots = {module.split(".")[0] for _, _, tree in modules() for module in imported(tree)}
    assert roots - set(sys.stdlib_module_names) - {"pytest_unlearn"} - SANDBOX_FILES <= declared


def test_modules_stay_small() -> None:
    """A module has one subject; the plugin holds hooks only."""
    for path in PACKAGE.rglob("*.py"):
        lines = len(path.read_text().splitlines())
        assert lines <= (200 if path.name == "plugin.py" else MAX_LINES), path
