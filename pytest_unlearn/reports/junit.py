"""The manifest as properties of JUnit's test suite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pytest_unlearn.run.result import Result, verdict_of_all


def add_manifest(plugins: Iterable[Any], *results: Result) -> None:
    """Add the manifest to the suite of each JUnit report that this process writes.

    Of a sweep, the verdict of all, and those of each pair under its name.

    `record_testsuite_property` is lost under pytest-xdist (pytest#7767), because only the
    controller writes the file; so the writers among its plugins are asked themselves.
    """
    for plugin in plugins:
        add = getattr(plugin, "add_global_property", None)
        if callable(add):
            add("unlearn.verdict", verdict_of_all(results))
            for result in results:
                at = f"unlearn.{result.label}" if result.pair else "unlearn"
                if result.pair:
                    add(f"{at}.verdict", result.verdict)
                for name, value in _flat(at, result.provenance):
                    add(name, value)


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{name}.{key}", item)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _flat(f"{name}.{number}", item)
    elif value is not None:
        yield name, str(value)
