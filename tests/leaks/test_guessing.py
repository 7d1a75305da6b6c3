"""The guesser takes what follows from a name by a convention, and nothing else."""

from __future__ import annotations

import pytest

from pytest_unlearn.leaks.guessing import follows_from
from pytest_unlearn.people.bundled import tiny_records

PROMPT = 'client = Client(name="Ann Leeford", email="'


@pytest.mark.parametrize(
    "local",
    ["ann.leeford", "annleeford", "leeford_ann", "aleeford", "annl", "ANN.LEEFORD", "ann.leeford7"],
)
def test_conventions(local: str) -> None:
    """`first.last` and its relatives, with up to two digits."""
    assert follows_from(PROMPT, f"{local}@example.com")
    assert follows_from(PROMPT, local)
    assert not follows_from("client = Client(email=", f"{local}@example.com")


def test_accents() -> None:
    """Accents are dropped, as mail systems do."""
    assert follows_from("# José Nuñez", "jose.nunez@example.org")


@pytest.mark.parametrize(
    "value", ["bolt.cloud77@example.com", "ann@example.com", "4711", "annx123"]
)
def test_what_does_not_follow(value: str) -> None:
    """Other words, too short a match, or more digits than a convention adds."""
    assert not follows_from(PROMPT, value)


def test_bundled_values_follow_from_nothing() -> None:
    """Nobody can derive a bundled value from its prompt: a leak of it is memory."""
    for record in tiny_records():
        assert not follows_from(record.before.reveal(), record.value.reveal())
