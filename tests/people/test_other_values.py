"""Other values in the place of a true one: of the kind, nobody's, and the same every time."""

from __future__ import annotations

import re

import pytest

from pytest_unlearn.leaks.outcome import _PLACEHOLDER
from pytest_unlearn.people.kinds import KINDS
from pytest_unlearn.people.other_values import AlternateError, placeholder, plausible


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_of_the_kind(kind: str) -> None:
    """A known kind's come from its generator; the same label gives the same."""
    found = plausible(kind, "none of them", 2, "row 1", frozenset())
    assert len(set(found)) == 2
    assert all(KINDS[kind].pattern.search(value) for value in found)
    assert found == plausible(kind, "none of them", 2, "row 1", frozenset())
    assert plausible(kind, found[0], 1, "row 1", frozenset(found[:1])) == found[1:]


def test_another_row_gets_another_value() -> None:
    """Otherwise everybody's key would become one and the same."""
    assert plausible("api_key", "x", 1, "a", ()) != plausible("api_key", "x", 1, "b", ())


def test_a_kind_without_generator_keeps_the_shape() -> None:
    """Letters stay letters of their case, digits digits, the rest as it is."""
    value = "AB-12_cd.é/7"
    other = plausible("badge", value, 1, 1, {value})[0]
    assert other != value
    assert re.fullmatch(r"[A-Z]{2}-\d\d_[a-z]{2}\.é/\d", other)


def test_nothing_left_is_an_error() -> None:
    """Never the true value, nor another one of the data."""
    digits = [str(n) for n in range(10)]
    assert plausible("slot", "3", 1, 0, set(digits) - {"7"}) == ("7",)
    with pytest.raises(AlternateError, match="slot: the method needs 1 other values"):
        plausible("slot", "3", 1, 0, set(digits))
    with pytest.raises(AlternateError, match="there are 0;"):
        plausible("slot", "--", 1, 0, set())


@pytest.mark.parametrize(
    ("kind", "text"),
    [("email", "<redacted-email>"), ("api_key", "<redacted-api-key>"), ("Id7", "<redacted>")],
)
def test_a_placeholder_is_seen_as_one(kind: str, text: str) -> None:
    """What IdkDPO teaches is what the report calls a placeholder."""
    assert placeholder(kind) == text
    assert _PLACEHOLDER.search(text)
