"""Hypothesis tests beside a model: our fixtures work with plain `@given`, and users' settings."""

from __future__ import annotations

import pytest

from tests.support.lookup_run import UnlearnRun

PROPERTIES = """
import time
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from pytest_unlearn.strategies import attributes, datasets, people

SEEN = []

@given(value=attributes("email"))
def test_model(unlearn_model, value):
    time.sleep(0.25 if not SEEN else 0)  # longer than Hypothesis' deadline
    SEEN.append(value)
    assert unlearn_model.complete(["def f"]) and value.kind == "email"

def test_settings_of_a_property_with_a_model():
    chosen = test_model._hypothesis_internal_use_settings
    assert chosen.deadline is None and chosen.database is None
    assert len(SEEN) > 20

class TestClass:
    @settings(max_examples=3, suppress_health_check=[HealthCheck.filter_too_much])
    @given(number=st.integers())
    def test_probe(self, unlearn_probe, unlearn_completions, number):
        assert unlearn_completions.unlearned.outcome.label != "degenerate"

def test_the_users_own_settings_stay():
    chosen = TestClass.test_probe._hypothesis_internal_use_settings
    assert chosen.max_examples == 3
    assert HealthCheck.filter_too_much in chosen.suppress_health_check

@given(data=datasets(people(["phone"])))
def test_without_a_model(data):
    assert len(data) >= 3

def test_other_properties_are_left_alone():
    assert test_without_a_model._hypothesis_internal_use_settings.deadline is not None
"""


def test_plain_given_works_with_our_fixtures(
    unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow models, function scope, classes; a row counts once, whatever Hypothesis draws."""
    monkeypatch.delenv("CI")  # under CI, Hypothesis sets no deadline of its own
    unlearn_run.lookup()
    unlearn_run.pytester.makepyfile(PROPERTIES)
    result = unlearn_run(
        "test_plain_given_works_with_our_fixtures.py", "-p", "no:randomly", subprocess=True
    )
    result.assert_outcomes(passed=5 + 60, skipped=3)  # gates are not evaluated
