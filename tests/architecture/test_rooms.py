"""The import contract: rooms import downwards only, no cycles, and few modules know pytest.

Every module is checked: one that is in no room of the list fails, so that nothing is added
without a place in the order.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import requires
from pathlib import Path

import pytest

import pytest_unlearn

PACKAGE = Path(pytest_unlearn.__file__).parent

# A room imports from itself and from those before it.
ROOMS = (
    *("core", "people", "probes", "tasks", "models", "unlearning", "leaks", "sandbox", "attacks"),
    *("gates", "run", "reports", "session", "suite", "plugin"),
)
# Public doors at the package's root, and the last room that each may import.
DOORS = {
    "__init__": "core",
    "strategies": "leaks",
    "testing": "run",
    "train": "session",
    "merge": "run",
}
# The rooms that may import pytest; `unlearning` and all others are a library for notebooks too.
KNOW_PYTEST = {"session", "suite", "plugin", "train"}
MAX_LINES = 600
MAX_PLUGIN_LINES = 200
# Standard-library files that the sandbox's child loads by path, as top-level modules.
SANDBOX_FILES = {
    *("checker", "child", "codec", "compare", "kernel", "layers", "seccomp", "zygote"),
}

# A module's dotted name without the package, and the modules of the package that it imports.
Imports = Mapping[str, Iterable[str]]


def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of every module of the package, by name: `gates.metrics`."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield what a module imports, also inside functions; `from a import b` gives `a.b` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def imports_of(trees: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """Return which modules of the package each module imports."""
    return {
        name: {
            module.removeprefix("pytest_unlearn.")
            for module in imported(tree)
            if module.removeprefix("pytest_unlearn.") in trees and module != name
        }
        - {name}
        for name, tree in trees.items()
    }


def room_of(name: str) -> str:
    return name.partition(".")[0]


def upward(imports: Imports) -> list[str]:
    """Return what breaks the order of rooms, a line each."""
    place = {room: number for number, room in enumerate(ROOMS)}
    faults = []
    for name, targets in imports.items():
        room = DOORS.get(name, room_of(name))
        if room not in place:
            faults.append(f"{name} is in no room")
            continue
        faults += [
            f"{name} imports {target}"
            for target in targets
            if target != "__init__" and place.get(room_of(target), len(ROOMS)) > place[room]
        ]
    return faults


def cycles(imports: Imports) -> list[set[str]]:
    """Return the groups of modules that import each other in a circle."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(imports.get(start, ()))
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += imports.get(name, ())
        return seen

    reach = {name: reached(name) for name in imports}
    groups = {
        frozenset(other for other in reach[name] if name in reach.get(other, ()))
        for name in imports
        if name in reach[name]
    }
    return [set(group) for group in groups]


def test_rooms_import_downwards_only() -> None:
    assert upward(imports_of(modules())) == []


def test_no_cycles() -> None:
    assert cycles(imports_of(modules())) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("people.record_files", "from pytest_unlearn.gates.metrics import METRICS"),
        ("models.loading", "def late():\n    from pytest_unlearn.run import settings"),
        ("testing", "import pytest_unlearn.session.session"),
        ("novel.room", ""),
        ("loose", ""),
    ],
)
def test_a_wrong_import_is_found(name: str, source: str) -> None:
    trees = modules() | {name: ast.parse(source)}
    assert upward(imports_of(trees))


def test_a_cycle_is_found() -> None:
    trees = modules() | {"core.text_files": ast.parse("from pytest_unlearn.core import store")}
    trees["core.store"] = ast.parse("from pytest_unlearn.core.text_files import x")
    assert {"core.text_files", "core.store"} in cycles(imports_of(trees))


def test_few_rooms_know_pytest() -> None:
    """The rest is a library that a notebook can use."""
    knowing = {
        name
        for name, tree in modules().items()
        if "pytest" in imported(tree) and room_of(name) not in KNOW_PYTEST
    }
    assert not knowing


def test_refusals_end_pytest_in_one_place() -> None:
    """What is refused is a UserError everywhere; `refusals` makes a usage error of it.

    The other usage error is no refusal: a report that could not be written after the tests.
    """
    raised = Counter(
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and "UsageError(" in ast.unparse(node)
    )
    assert raised == {"session.options": 1, "session.session": 1}


def test_everything_imported_is_declared() -> None:
    """What the package imports is in its metadata, and not only in that of its dependencies."""
    declared = {
        requirement.split(">")[0].replace("-", "_")
        for requirement in requires("pytest-unlearn") or []
        if "extra == 'dev'" not in requirement
    }
    roots = {module.split(".")[0] for tree in modules().values() for module in imported(tree)}
    assert roots - set(sys.stdlib_module_names) - {"pytest_unlearn"} - SANDBOX_FILES <= declared


def test_tests_share_through_support_only() -> None:
    """A helper that two test files need is in `tests/support`, where both find it."""
    tests = Path(__file__).parents[1]
    borrowed = [
        f"{path.relative_to(tests)} imports {module}"
        for path in sorted(tests.rglob("*.py"))
        for module in imported(ast.parse(path.read_text()))
        if module.startswith("tests.") and (".test_" in module or ".conftest" in module)
    ]
    assert borrowed == []


def test_modules_stay_small() -> None:
    """A module has one subject; the plugin holds hooks only."""
    for path in PACKAGE.rglob("*.py"):
        lines = len(path.read_text().splitlines())
        assert lines <= (MAX_PLUGIN_LINES if path.name == "plugin.py" else MAX_LINES), path


def test_no_two_modules_or_classes_share_a_name() -> None:
    """A name leads to one place."""
    trees = modules()
    files = Counter(name.rpartition(".")[2] for name in trees if not name.endswith("__init__"))
    classes = Counter(
        node.name for tree in trees.values() for node in tree.body if isinstance(node, ast.ClassDef)
    )
    shared = [name for name, count in (files + classes).items() if count > 1]
    assert shared == []
