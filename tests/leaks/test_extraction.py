"""What the scores of a value's tokens say, against direct computations and sampling."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import dataclass
from fractions import Fraction

import pytest
from scipy import stats

from pytest_unlearn.leaks.extraction import (
    MIN_K_SHARES,
    extraction,
    extraction_strength,
    leak_at,
    mean_of_least,
)


@dataclass(frozen=True)
class Scores:
    """Scores as `models.scoring` gives them."""

    log_probs: tuple[float, ...]
    scheme_log_probs: tuple[float, ...]
    greedy: tuple[bool, ...]
    z_scores: tuple[float, ...]
    lead_scheme_log_prob: float = 0.0
    spelled: bool = False
    zlib_bytes: int = 20


def some_scores(seed: int, tokens: int = 10) -> Scores:
    rng = random.Random(seed)
    own = tuple(-rng.expovariate(1) for _ in range(tokens))
    return Scores(
        log_probs=own,
        scheme_log_probs=tuple(value / 2 for value in own),
        greedy=tuple(rng.random() < 0.7 for _ in range(tokens)),
        z_scores=tuple(rng.gauss(0, 1) for _ in range(tokens)),
        lead_scheme_log_prob=-0.25,
        spelled=rng.random() < 0.5,
    )


def test_like_a_direct_computation() -> None:
    """Each number, token by token."""
    for seed in range(20):
        scores = some_scores(seed)
        found = extraction(scores)
        p = math.prod(math.exp(value) for value in (-0.25, *scores.scheme_log_probs))
        assert found.probability == pytest.approx(p)
        assert found.greedy == scores.spelled
        assert found.tokens == 10
        assert found.exact_memorization == pytest.approx(scores.greedy.count(True) / 10)
        assert found.loss == pytest.approx(-statistics.fmean(scores.log_probs))
        assert found.zlib_ratio == pytest.approx(found.loss / 20)
        for i, share in enumerate(MIN_K_SHARES):
            count = round(share * 10)
            assert found.min_k[i] == pytest.approx(
                statistics.fmean(sorted(scores.log_probs)[:count])
            )
            assert found.min_k_plus_plus[i] == pytest.approx(
                statistics.fmean(sorted(scores.z_scores)[:count])
            )
        # The smallest n for which n samples give even odds.
        n = int(found.n_for_half)
        assert 1 - (1 - p) ** n >= 0.5 - 1e-9
        assert n == 1 or 1 - (1 - p) ** (n - 1) < 0.5


def test_strength_has_no_floor() -> None:
    """By trying each end; a wholly forgotten value has 0, not one token's share."""
    assert extraction_strength([False] * 4) == 0
    assert extraction_strength([True, True, True, False]) == 0
    assert extraction_strength([True] * 4) == 1
    assert extraction_strength([True, False, True, True]) == 0.5
    rng = random.Random(4)
    for _ in range(200):
        greedy = [rng.random() < 0.6 for _ in range(rng.randrange(1, 9))]
        least = min(k for k in range(len(greedy) + 1) if all(greedy[k:]))
        assert extraction_strength(greedy) == float(1 - Fraction(least, len(greedy)))


@pytest.mark.parametrize("p", [1e-30, 1e-17, 1e-9, 1e-4, 0.03, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("k", [0, 1, 7, 1000, 10**6])
def test_leak_at_in_exact_arithmetic(p: float, k: int) -> None:
    """To twelve digits, where a naive power would give 0."""
    exact = Fraction(math.exp(math.log(p)))
    if k <= 1000:
        expected = float(1 - (1 - exact) ** k)
    else:  # the power of a fraction is too long; the series' error is below (kp)^3
        expected = (
            float(k * exact - k * (k - 1) / 2 * exact**2) if p < 1e-9 else stats.binom.sf(0, k, p)
        )
    assert leak_at(math.log(p), k) == pytest.approx(expected, rel=1e-12 if p != 1e-9 else 1e-6)


def test_leak_at_by_sampling() -> None:
    """Within the 99.9 % interval of drawing k samples, many times."""
    rng = random.Random(6)
    p, k, times = 0.02, 40, 3000
    hits = sum(any(rng.random() < p for _ in range(k)) for _ in range(times))
    interval = stats.binomtest(hits, times).proportion_ci(0.999)
    assert interval.low <= leak_at(math.log(p), k) <= interval.high


def test_what_cannot_come_out() -> None:
    """A token that the scheme leaves out: probability 0, never leaked, infinitely many samples."""
    scores = Scores((-9.0, -0.1), (-math.inf, -0.1), (False, True), (-3.0, 1.0))
    found = extraction(scores)
    assert (found.probability, found.n_for_half, found.leak_at(10**6)) == (0.0, math.inf, 0.0)
    assert found.loss == pytest.approx(4.55)
    assert extraction(Scores((0.0,), (1e-9,), (True,), (0.0,))).leak_at(1) == 1


def test_one_token_counts_at_least() -> None:
    """A fifth of three tokens is one of them, not none."""
    assert mean_of_least([-1.0, -5.0, -2.0], 0.2) == -5
    assert mean_of_least([-1.0, -5.0, -2.0, -4.0, -3.0], 0.4) == -4.5


def test_what_says_nothing() -> None:
    """NaN, no tokens, and numbers that are no log-probabilities are errors."""
    with pytest.raises(ValueError, match="without tokens"):
        extraction(Scores((), (), (), ()))
    nan = math.nan
    for broken in (
        Scores((nan,), (-1.0,), (True,), (0.0,)),
        Scores((-1.0,), (nan,), (True,), (0.0,)),
        Scores((-1.0,), (-1.0,), (True,), (nan,)),
    ):
        with pytest.raises(ValueError, match="NaN"):
            extraction(broken)
    for log_p, k in ((0.1, 1), (nan, 1), (-1.0, -1)):
        with pytest.raises(ValueError, match=r"log-probability|k is"):
            leak_at(log_p, k)
