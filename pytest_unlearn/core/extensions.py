"""What other packages offer by entry points: loaded, and checked to be what it must be."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, TypeVar

from pytest_unlearn.core.errors import UserError

T = TypeVar("T")


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
