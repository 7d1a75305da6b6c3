"""Extensions: offered by the entry points of other packages, or given by a conftest or a notebook.

An extension has a class, such as a method or a preset, and a `name`. Functions here take `kind`,
the word for an object of the class with its article: `a preset`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from pytest_unlearn.core.errors import UserError

T = TypeVar("T")
# The objects given to this process in addition to entry points, for as long as its session lasts.
_given: list[Any] = []


def give(objects: Iterable[Any]) -> None:
    """Register these objects by their names, in place of those given before."""
    _given[:] = objects


def with_given(
    known: Mapping[str, T], kind: str, expected: Any, error: type[UserError] = UserError
) -> dict[str, T]:
    """Return the `known` objects by name, plus every given object of the class `expected`.

    Raises `error` for a name that is taken.
    """
    by_name = dict(known)
    for one in _given:
        if isinstance(one, expected):
            name: str = one.name
            if by_name.get(name, one) is not one:
                raise error(f"{name}: there is {kind} of this name already; give yours another")
            by_name[name] = one
    return by_name


def add_offered(
    known: dict[str, T], group: str, kind: str, expected: Any, error: type[UserError] = UserError
) -> None:
    """Add what the entry points of a group offer to `known`, by name.

    Raises `error` for an entry point that does not load, that is not of the class `expected`, whose
    name differs from its object's, or whose name is taken.
    """
    for point in entry_points(group=group):
        offered = _loaded(point, kind, expected, error)
        if point.name in known:
            raise error(f"{_described(point, kind)}: there is {kind} of this name already")
        known[point.name] = offered


def offered_names(group: str) -> list[str]:
    """Return the names that entry points of a group offer, sorted; nothing is loaded."""
    return sorted({point.name for point in entry_points(group=group)})


def offered_by_name(
    name: str,
    known: Mapping[str, Any],
    group: str,
    kind: str,
    expected: Any,
    error: type[UserError] = UserError,
) -> Any:
    """Return what the entry point of exactly this name offers; None if there is none.

    No other entry point is loaded, so a faulty package is an error only when it is used. Raises
    `error` if the name is one of the package's own (`known`) or is offered twice, and as
    `add_offered` does.
    """
    points = [point for point in entry_points(group=group) if point.name == name]
    if not points:
        return None
    if name in known or len(points) > 1:
        owners = [*(["pytest-unlearn"] if name in known else []), *map(_owner, points)]
        raise error(
            f"{_noun(kind)} {name!r} is offered by {' and by '.join(owners)}; uninstall one, or "
            f"rename its entry point of the group {group}"
        )
    return _loaded(points[0], kind, expected, error)


def _loaded(point: EntryPoint, kind: str, expected: Any, error: type[UserError]) -> Any:
    try:
        offered = point.load()
    except Exception as fault:  # whatever another package raises when imported
        raise error(
            f"{_described(point, kind)}: it cannot be loaded ({type(fault).__name__}: {fault}); "
            "fix or uninstall the package"
        ) from fault
    if not isinstance(offered, expected) or offered.name != point.name:
        raise error(
            f"{_described(point, kind)}: the entry point must name a "
            f"{expected.__module__}.{expected.__qualname__} whose name is {point.name!r}"
        )
    return offered


def _described(point: EntryPoint, kind: str) -> str:
    package = f" of {point.dist.name}" if point.dist else ""
    return f"the {_noun(kind)} {point.name} ({point.value}{package})"


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _noun(kind: str) -> str:
    return kind.partition(" ")[2]
