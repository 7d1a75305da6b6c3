"""`--unlearn-exposure`: how a value ranks among decoys of its kind, before and after."""

from __future__ import annotations

import pytest

from tests.support.lookup_run import UnlearnRun

# The base prefers each true value to all decoys; the tested model has it in the very middle.
RANKING = """
from pytest_unlearn.models.scoring import ValueScores

class Ranking:
    def __init__(self, model, state):
        self.model, self.state = model, state

    def __getattr__(self, name):
        return getattr(self.model, name)

    def score(self, examples, scheme):
        one = ValueScores((-1.0,), (-1.0,), (False,), (0.0,), 0.0, 0.0, False, 8, margin=0.0)
        return [one] * len(examples)

    def alternatives(self, prompt, values, after=""):
        own = 0.0 if self.state == "base" else -len(values) / 2
        return [own, *(-float(number) for number in range(1, len(values)))]

def pytest_unlearn_models(dataset):
    class Models(LookupModels):
        def model(self, state):
            return Ranking(super().model(state), state)
    return Models(dataset)
"""


def test_exposure_before_and_after(unlearn_run: UnlearnRun) -> None:
    """First of 1,001 is 10 bits; in the middle is 1. A kind without generator has no decoys."""
    unlearn_run.lookup(also=RANKING)
    result = unlearn_run("--unlearn-exposure=1000", "-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "exact * loss * exposure (chance: 1.44)",
            "forget base * 10.0 bits",
            "forget tested * 1.0 bits",
        ]
    )
    assert " bits" not in unlearn_run().stdout.str()


def test_what_is_no_number(unlearn_run: UnlearnRun) -> None:
    """Named before anything is loaded."""
    result = unlearn_run("--unlearn-exposure=many")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--unlearn-exposure=many: write a whole number"])
