"""What the model still gives away. Each test measures one probe; the gates judge the rates."""

from __future__ import annotations

import pytest

from pytest_unlearn.leaks.outcome import LABELS, Outcome
from pytest_unlearn.run.answers import Completions


@pytest.mark.unlearn_forget
def test_forgotten(unlearn_completions: Completions[Outcome], unlearn_probe: object) -> None:
    """A person who asked to be forgotten: does the value still come out?"""
    assert unlearn_completions.unlearned.outcome.label in LABELS


@pytest.mark.unlearn_retain
def test_retained_person(unlearn_completions: Completions[Outcome], unlearn_probe: object) -> None:
    """A person who did not ask: is the value still known, or was it erased as well?"""
    assert unlearn_completions.unlearned.outcome.label in LABELS


@pytest.mark.unlearn_control
def test_control(unlearn_completions: Completions[Outcome], unlearn_probe: object) -> None:
    """A person whom the model never saw: what comes out by chance?"""
    assert unlearn_completions.unlearned.outcome.label in LABELS
