"""`--unlearn-membership` and `--unlearn-retrained`: six attacks, and forgetting in both senses."""

from __future__ import annotations

import pytest

from tests.support.lookup_run import UnlearnRun

# Mean log-probability of a value by model and split; a digit of its text spreads the records.
SCORING = """
from pytest_unlearn.models.scoring import ValueScores

LEVELS = {levels!r}

class Scoring:
    def __init__(self, model, state):
        self.model, self.state = model, state

    def __getattr__(self, name):
        return getattr(self.model, name)

    def _level(self, example):
        spread = sum(map(ord, example.text)) % 7
        return LEVELS[self.state]["forget" in example.text] - spread

    def score(self, examples, scheme):
        assert scheme.top_k == 5
        return [
            ValueScores((p,), (p,), (False,), (p,), 0.0, 0.0, False, 8, margin=0.0)
            for p in map(self._level, examples)
        ]

    def gradient_norms(self, examples):
        return [-self._level(example) for example in examples]

def pytest_unlearn_models(dataset):
    class Models(LookupModels):
        def model(self, state):
            return Scoring(super().model(state), state)
    return Models(dataset)
"""


def scoring(base: int, unlearned: int, retrained: int = -9) -> str:
    """Return a conftest in which control records have the level -9, and forget records these."""
    levels = {"base": base, "unlearned": unlearned, "retrained": retrained}
    return SCORING.format(levels={state: [-9, level] for state, level in levels.items()})


ASKED = ("--unlearn-membership=all", "--unlearn-retrained=tiny", "--unlearn-decoding=top_k=5")


@pytest.mark.parametrize(
    ("unlearned", "verdict"),
    [(-1, "under-unlearned"), (-17, "over-unlearned"), (-9, "indistinguishable")],
)
def test_forgotten_too_little_too_much_and_rightly(
    unlearn_run: UnlearnRun, unlearned: int, verdict: str
) -> None:
    """Six attacks on three models; silence that gives members away again is told as well."""
    unlearn_run.lookup(also=scoring(-1, unlearned))
    result = unlearn_run(*ASKED)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["membership AUC * n * base * tested * retrained * PrivLeak"])
    text = result.stdout.str()
    for attack in ("loss", "zlib", "min_k", "min_k++", "gradnorm"):
        (line,) = [x for x in text.splitlines() if x.startswith(f"{attack} ")]
        assert line.endswith(f": {verdict}"), line
        assert " 60+30 " in line
        assert "1.00 (0." in line  # the base's, with an interval


def test_free_attacks_are_shown_when_asked_for_details(unlearn_run: UnlearnRun) -> None:
    """Four attacks cost nothing; they stand under -v, and `none` leaves them out."""
    unlearn_run.lookup(also=scoring(-1, -9))
    decoding = "--unlearn-decoding=top_k=5"
    assert "membership" not in unlearn_run(decoding).stdout.str()
    result = unlearn_run(decoding, "-v")
    result.stdout.fnmatch_lines(["membership AUC * base * tested", "loss * 60+30 *", "min_k++ *"])
    assert "gradnorm" not in result.stdout.str()
    assert "membership" not in unlearn_run(decoding, "-v", "--unlearn-membership=none").stdout.str()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--unlearn-membership=los"],
            "--unlearn-membership: 'los' is not an attack: write some of*",
        ),
        (["--unlearn-membership=reference"], "*never saw the forget records*--unlearn-retrained"),
        (["--unlearn-retrained=tinny"], "--unlearn-retrained=tinny: neither a preset*"),
        (["--unlearn-decoding=top=5"], "--unlearn-decoding: 'top=5': write NAME=NUMBER with*"),
        (["--unlearn-decoding=top_k=1.5"], "*top_k=1.5: write a whole number"),
        (["--unlearn-decoding=top_p=2"], "*top_p is 2.0: it must be in (0, 1]"),
        (["--unlearn-decoding=top_k=2,top_k=3"], "*top_k is given twice"),
    ],
)
def test_wrong_words(unlearn_run: UnlearnRun, flags: list[str], message: str) -> None:
    """Named before anything is loaded."""
    result = unlearn_run(*flags)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{message}"])
