"""Which files a solution may read to import installed packages: theirs and their requirements'."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import PurePath

from pytest_unlearn.core.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9._-]+")


class ImportNotFoundError(UserError):
    """A package that solutions were to import is not installed."""

    flag = "unlearn_sandbox_imports"


@dataclass(frozen=True, slots=True)
class Packages:
    """Modules at the top level, the folders they are in, and the paths to be readable."""

    modules: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


def find_packages(names: Sequence[str]) -> Packages:
    """Return what importing the modules `names` takes, with the packages they require.

    Raises ImportNotFoundError for a module that no installed package has.
    """
    if not names:
        return Packages()
    providers = metadata.packages_distributions()
    distributions: dict[str, metadata.Distribution] = {}
    for name in names:
        if name not in providers:
            raise ImportNotFoundError(f"{name}: no installed package has this module")
        for provider in providers[name]:
            _add(provider, distributions)
    modules, folders, paths = set(names), set(), set()
    for distribution in distributions.values():
        root = str(distribution.locate_file(""))
        folders.add(root)
        tops = {_top(file) for file in distribution.files or ()} - {""}
        paths |= {f"{root}/{top}" for top in tops}
        modules |= {name for name, owners in providers.items() if distribution.name in owners}
    return Packages(tuple(sorted(modules)), tuple(sorted(folders)), tuple(sorted(paths)))


def _add(name: str, found: dict[str, metadata.Distribution]) -> None:
    """Add a distribution and, where installed, those that it requires without extras."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in found:
        return
    try:
        found[key] = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return
    for requirement in found[key].requires or ():
        match = _NAME.match(requirement)
        if match and "extra ==" not in requirement:
            _add(match[0], found)


def _top(file: PurePath) -> str:
    """Return a file's place at the top of its folder; scripts are elsewhere, and not needed."""
    return "" if file.parts[0] == ".." else file.parts[0]
