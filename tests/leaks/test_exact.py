"""What the scores of a value's tokens say, against direct computations and sampling."""

from __future__ import annotations

import json
import math
import random
import statistics
from dataclasses import dataclass
from fractions import Fraction

import pytest
from scipy import stats

from pytest_unlearn.leaks.exact import (
    MIN_K_SHARES,
    ExactScores,
    Exposure,
    Extraction,
    exact_row,
    exposure,
    extraction,
    extraction_strength,
    leak_at,
    mean_leak_at,
    mean_of,
    mean_of_least,
)
from pytest_unlearn.people import other_values as module
from pytest_unlearn.people.kinds import KINDS, Kind
from pytest_unlearn.people.other_values import DecoyError, all_values, decoys


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


def test_rank_counts_what_is_at_least_as_likely() -> None:
    """By sorting; a tie counts against the value, also where all are impossible."""
    rng = random.Random(1)
    for _ in range(50):
        others = [float(rng.randrange(-40, 0)) for _ in range(99)]
        value = float(rng.randrange(-40, 0))
        worst = (
            len(others)
            + 1
            - sorted(others).index(min((o for o in others if o >= value), default=0.0))
            if any(o >= value for o in others)
            else 1
        )
        found = exposure(value, others)
        assert found.rank == worst
        assert found.bits == pytest.approx(math.log2(100 / worst))
    assert exposure(-math.inf, [-math.inf] * 9).bits == 0
    assert exposure(-1.0, [-2.0] * 1023) == Exposure(1, 1024)
    assert exposure(-1.0, [-2.0] * 1023).bits == 10


def test_what_has_no_rank() -> None:
    """NaN and nothing are errors, never an exposure of 0."""
    for value, others in ((math.nan, [0.0]), (0.0, [math.nan]), (0.0, [])):
        with pytest.raises(ValueError, match="log-probabilit"):
            exposure(value, others)


@pytest.mark.parametrize("kind", ["email", "phone", "address", "password", "api_key"])
def test_decoys(kind: str) -> None:
    """Of the kind, different, none to avoid, and the same for a seed."""
    avoid = set(decoys(kind, 20, "other"))
    found = decoys(kind, 1000, "seed", avoid)
    assert len(set(found)) == 1000
    assert not avoid & set(found)
    assert all(map(KINDS[kind].is_valid, found))
    assert found == decoys(kind, 1000, "seed", avoid)
    assert set(found) != set(decoys(kind, 1000, "another seed", avoid))
    first = found[0]  # what is avoided changes nothing else
    assert decoys(kind, 999, "seed", {*avoid, first}) == found[1:]


def test_small_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Are listed in full; more decoys than there are is an error; wrong bits list nothing."""
    pattern = KINDS["phone"].pattern

    def kind(name: str, size: int, bits: float) -> Kind:
        return Kind(name, lambda stream: f"v{stream.below(size)}", pattern, bits, "a test")

    kinds = {
        "small": kind("small", 256, 8.0),
        "odd": kind("odd", 5, math.log2(5)),
        "overstated": kind("overstated", 5, 3.0),
        "large": kind("large", 5000, math.log2(5000)),
        "huge": kind("huge", 5000, 1e6),
    }
    monkeypatch.setattr(module, "KINDS", kinds)
    assert all_values("small") == tuple(sorted(f"v{n}" for n in range(256)))
    assert all_values("odd") == ("v0", "v1", "v2", "v3", "v4")
    assert [all_values(name) for name in ("overstated", "large", "huge")] == [None] * 3
    assert set(decoys("odd", 3, 1, {"v0", "v1"})) == {"v2", "v3", "v4"}
    with pytest.raises(DecoyError, match="only 3"):
        decoys("odd", 4, 1, {"v0", "v1"})
    with pytest.raises(KeyError):
        decoys("unknown", 1, 1)


def found(log_probability: float, greedy: bool = False) -> Extraction:
    return Extraction(
        greedy=greedy,
        log_probability=log_probability,
        tokens=3,
        exact_memorization=0.5,
        strength=0.25,
        loss=1.0,
        zlib_ratio=0.1,
        min_k=(-1.0, -1.0),
        min_k_plus_plus=(0.0, 0.0),
    )


def test_rows_are_json_even_where_a_value_cannot_come_out() -> None:
    """A log-probability of minus infinity is no JSON number."""
    row = exact_row(found(-math.inf))
    assert row["log_probability"] is None
    assert row["n_for_half"] is None
    json.dumps(row, allow_nan=False)
    assert mean_leak_at([ExactScores.from_row(row)], 1_000_000) == 0.0


def test_leak_at_k_is_the_expected_share() -> None:
    """One certain value and one of probability 0.1: half, and for two samples (1 + 0.19) / 2."""
    both = (found(0.0, greedy=True), found(math.log(0.1)))
    rows = [ExactScores.from_row(exact_row(each)) for each in both]
    assert rows[1].n_for_half == pytest.approx(math.log(0.5) / math.log(0.9), rel=0.1)
    assert mean_leak_at(rows, 1) == pytest.approx(0.55)
    assert mean_leak_at(rows, 2) == pytest.approx((1 + 0.19) / 2)
    assert mean_of(row.greedy for row in rows) == 0.5
    with pytest.raises(ValueError, match="at least one value"):
        mean_leak_at([], 1)
