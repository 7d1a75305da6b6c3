"""What others bring: by entry points of their packages, or given by a conftest or a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from pytest_unlearn.core.errors import UserError

T = TypeVar("T")
# What this process was given beside the entry points, as long as it is `extended`.
_given: list[Any] = []


def give(objects: Iterable[Any]) -> None:
    """Know these objects by their names from now on, instead of those that were given before."""
    _given[:] = objects


def with_given(
    known: Mapping[str, T], kind: str, wanted: Any, error: type[UserError] = UserError
) -> dict[str, T]:
    """Return what is `known` by name, and what was given of the class `wanted`.

    `kind`: as in `add_offered`. Raises `error` for a name that is taken.
    """
    found = dict(known)
    for one in _given:
        if isinstance(one, wanted):
            name: str = one.name
            if found.get(name, one) is not one:
                raise error(f"{name}: there is {kind} of this name already; give yours another")
            found[name] = one
    return found


def add_offered(
    known: dict[str, T], group: str, kind: str, wanted: Any, error: type[UserError] = UserError
) -> None:
    """Add what the entry points of a group offer to what is `known` by name.

    `kind`: what one is called, with its article: `a preset`. `wanted`: its class, whose objects
    have a `name`, that of the entry point. Raises `error` for one that does not load, is of another
    class or name, or takes a name twice.
    """
    noun = kind.partition(" ")[2]
    for point in entry_points(group=group):
        start = f"the {noun} {point.name} ({point.value})"
        try:
            offered = point.load()
        except Exception as fault:  # another package's code
            raise error(f"{start}: {fault}") from fault
        if not isinstance(offered, wanted) or offered.name != point.name:
            raise error(
                f"{start}: the entry point must name a {wanted.__module__}.{wanted.__qualname__} "
                f"whose name is {point.name!r}"
            )
        if point.name in known:
            raise error(f"{start}: there is {kind} of this name already")
        known[point.name] = offered
