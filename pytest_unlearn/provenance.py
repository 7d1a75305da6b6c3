"""What a run was made from: its data, settings and library versions, without any value."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pytest_unlearn.people.manifest import records_digest
from pytest_unlearn.store import digest_of

if TYPE_CHECKING:
    from pytest_unlearn.dataset import Dataset
    from pytest_unlearn.options import Settings

_LIBRARIES = ("pytest-unlearn", "torch", "transformers", "tokenizers", "peft", "accelerate")
# Settings that change no result, or that the digests of the data stand for.
_LEFT_OUT = frozenset(
    (
        *("forget", "retain", "control", "tasks"),
        *("judging", "fail_on_leak", "check_tasks", "replay", "store"),
        *("reports", "show_values", "fingerprint_key"),
    )
)


def provenance(settings: Settings, dataset: Dataset) -> dict[str, dict[str, str]]:
    """Return digests of the data, settings and versions, each by name, as text."""
    return {
        "data": {
            "records": records_digest(dataset.records),
            "tasks": digest_of(
                [[c.id, c.prompt, c.entry_point, repr(c.tests)] for c in dataset.tasks]
            ),
            "probes": ",".join(settings.probes),
        },
        "settings": {
            field.name: _text(getattr(settings, field.name))
            for field in dataclasses.fields(settings)
            if field.name not in _LEFT_OUT
        },
        "versions": {"python": platform.python_version(), **installed_versions(_LIBRARIES)},
    }


def _text(value: Any) -> str:
    """Return a setting as text; a method as its name and options."""
    options = getattr(value, "options", None)
    if not dataclasses.is_dataclass(options):
        return str(getattr(value, "name", value))
    listed = ",".join(f"{key}={item}" for key, item in dataclasses.asdict(options).items())  # type: ignore[arg-type]
    return f"{value.name}:{listed}"


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each package that is installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):  # xdist is optional
            found[name] = version(name)
    return found
