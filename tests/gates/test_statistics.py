"""The bounds hold what they promise: known values, exact sums, and simulated runs."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_unlearn.gates.statistics import (
    cases_needed_for_ratio,
    clopper_pearson_lower,
    clopper_pearson_upper,
    events_allowed,
    paired_ratio_bounds,
    paired_ratio_lower,
    probes_needed,
)

Z95 = 1.6448536269514722

# Computed once with scipy 1.17.1: beta.ppf(0.95, k + 1, n - k) and beta.ppf(0.05, k, n - k + 1).
SCIPY_UPPER = {
    (1, 100): 0.04655981145353827,
    (4, 1000): 0.00912995256387883,
    (38, 1000): 0.04951287025592399,
    (250, 1000): 0.27355363132371713,
    (97, 100): 0.9917741708923472,
    (1234, 100000): 0.01292982264462983,
}
SCIPY_LOWER = {
    (1, 100): 0.0005128014162623029,
    (4, 1000): 0.0013674362512508184,
    (250, 1000): 0.22754347967161656,
    (97, 100): 0.9242892062501704,
    (1234, 100000): 0.011771249235529104,
}


def binomial_tail(k: int, n: int, rate: float) -> Fraction:
    """P(X <= k), summed exactly."""
    p = Fraction(rate)
    return sum(
        (math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1)), start=Fraction(0)
    )


class TestClopperPearson:
    @pytest.mark.parametrize(("k", "n"), list(SCIPY_UPPER))
    def test_upper_agrees_with_scipy(self, k: int, n: int) -> None:
        assert clopper_pearson_upper(k, n) == pytest.approx(SCIPY_UPPER[k, n], abs=1e-11)

    @pytest.mark.parametrize(("k", "n"), list(SCIPY_LOWER))
    def test_lower_agrees_with_scipy(self, k: int, n: int) -> None:
        assert clopper_pearson_lower(k, n) == pytest.approx(SCIPY_LOWER[k, n], abs=1e-11)

    @pytest.mark.parametrize("confidence", [0.01, 0.5, 0.9, 0.95, 0.999])
    @pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 59), (1, 2), (3, 20), (19, 20), (30, 60)])
    def test_bounds_solve_their_defining_equations(self, k: int, n: int, confidence: float) -> None:
        upper = clopper_pearson_upper(k, n, confidence)
        assert float(binomial_tail(k, n, upper)) == pytest.approx(1 - confidence, abs=1e-10)
        lower = clopper_pearson_lower(k + 1, n, confidence)
        assert float(binomial_tail(k, n, lower)) == pytest.approx(confidence, abs=1e-10)

    def test_ends(self) -> None:
        assert clopper_pearson_upper(7, 7) == 1.0
        assert clopper_pearson_lower(0, 7) == 0.0
        assert clopper_pearson_upper(0, 0) == 1.0
        assert clopper_pearson_lower(0, 0) == 0.0
        assert clopper_pearson_upper(0, 10) == pytest.approx(1 - 0.05**0.1, abs=1e-14)
        assert clopper_pearson_lower(10, 10) == pytest.approx(0.05**0.1, abs=1e-14)

    @given(st.data())
    @settings(max_examples=50, deadline=None)
    def test_monotone_mirrored_and_around_the_rate(self, data: st.DataObject) -> None:
        n = data.draw(st.integers(1, 2000))
        k = data.draw(st.integers(0, n - 1))
        confidence = data.draw(st.floats(0.5, 0.999))
        upper = clopper_pearson_upper(k, n, confidence)
        lower = clopper_pearson_lower(k, n, confidence)
        assert lower <= k / n < upper
        assert upper < clopper_pearson_upper(k + 1, n, confidence)
        assert clopper_pearson_upper(k, n + 1, confidence) < upper
        assert upper < clopper_pearson_upper(k, n, (1 + confidence) / 2)
        assert clopper_pearson_lower(n - k, n, confidence) == pytest.approx(1 - upper, abs=1e-12)

    def test_fast_enough(self) -> None:
        def best(n: int) -> float:
            """Seconds for one bound, the best of five."""
            seconds = []
            for _ in range(5):
                start = time.perf_counter()
                clopper_pearson_upper(n // 4, n)
                seconds.append(time.perf_counter() - start)
            return min(seconds)

        # Measured at 0.16 ms and 0.36 ms; the room is for a busy machine.
        assert best(1000) < 2e-3
        assert best(100_000) < 5e-3

    @pytest.mark.parametrize("bound", [clopper_pearson_upper, clopper_pearson_lower])
    @pytest.mark.parametrize(
        ("k", "n", "confidence"),
        [
            (2, 1, 0.95),
            (-1, 1, 0.95),
            (0, -1, 0.95),
            (1, 2, 0.0),
            (1, 2, 1.0),
            (0, 0, 95.0),
            (1, 2, math.nan),
        ],
    )
    def test_bad_input(
        self, bound: Callable[[int, int, float], float], k: int, n: int, confidence: float
    ) -> None:
        with pytest.raises(ValueError, match="must be"):
            bound(k, n, confidence)


class TestCounts:
    @pytest.mark.parametrize(
        ("limit", "probes"), [(0.05, 59), (0.02, 149), (0.01, 299), (0.005, 598), (0.001, 2995)]
    )
    def test_probes_needed(self, limit: float, probes: int) -> None:
        assert probes_needed(limit) == probes

    def test_probes_needed_at_the_ends(self) -> None:
        assert probes_needed(0.0) is None
        assert probes_needed(5e-324) is None
        assert probes_needed(1.0) == 0
        assert probes_needed(0.5, 0.75) == 2

    @given(st.floats(1e-6, 0.99), st.floats(0.01, 0.999))
    @settings(max_examples=50, deadline=None)
    def test_probes_needed_is_the_smallest(self, limit: float, confidence: float) -> None:
        n = probes_needed(limit, confidence)
        assert n is not None
        assert clopper_pearson_upper(0, n, confidence) <= limit
        assert clopper_pearson_upper(0, n - 1, confidence) > limit

    @pytest.mark.parametrize(
        ("limit", "events"), [(0.05, 38), (0.02, 12), (0.01, 4), (0.005, 1), (0.001, None)]
    )
    def test_events_allowed(self, limit: float, events: int | None) -> None:
        assert events_allowed(limit, 1000) == events

    def test_events_allowed_at_the_ends(self) -> None:
        assert events_allowed(0.05, 58) is None
        assert events_allowed(0.05, 59) == 0
        assert events_allowed(0.0, 1000) is None
        assert events_allowed(1.0, 12) == 12
        assert events_allowed(0.5, 0) is None

    @given(st.floats(0.001, 0.999), st.integers(1, 500))
    @settings(max_examples=50, deadline=None)
    def test_events_allowed_is_the_largest(self, limit: float, n: int) -> None:
        k = events_allowed(limit, n)
        if k is None:
            assert clopper_pearson_upper(0, n) > limit
        else:
            assert clopper_pearson_upper(k, n) <= limit < clopper_pearson_upper(k + 1, n)

    @pytest.mark.parametrize(("limit", "cases"), [(0.9, 29), (0.95, 59), (0.98, 149), (0.99, 299)])
    def test_cases_needed_for_ratio(self, limit: float, cases: int) -> None:
        assert cases_needed_for_ratio(limit) == cases

    @given(st.floats(0.01, 0.999), st.floats(0.1, 0.99))
    @settings(max_examples=50, deadline=None)
    def test_cases_needed_is_the_smallest(self, limit: float, confidence: float) -> None:
        n = cases_needed_for_ratio(limit, confidence)
        assert paired_ratio_lower(n, 0, 0, confidence) >= limit
        assert n == 1 or paired_ratio_lower(n - 1, 0, 0, confidence) < limit

    def test_bad_input(self) -> None:
        for limit in (-0.1, 1.1, math.nan):
            with pytest.raises(ValueError, match="limit"):
                probes_needed(limit)
            with pytest.raises(ValueError, match="limit"):
                events_allowed(limit, 10)
        for limit in (0.0, 1.0, math.nan):
            with pytest.raises(ValueError, match="limit"):
                cases_needed_for_ratio(limit)
        with pytest.raises(ValueError, match="events"):
            events_allowed(0.1, -1)
        with pytest.raises(ValueError, match="confidence"):
            probes_needed(0.0, 1.0)
        with pytest.raises(ValueError, match="confidence"):
            cases_needed_for_ratio(0.9, 0.0)


@pytest.mark.parametrize(("limit", "probes"), [(0.05, 59), (0.02, 400), (0.01, 1000)])
def test_a_model_that_leaks_over_the_limit_seldom_passes(limit: float, probes: int) -> None:
    rate = limit * 1.001
    allowed = events_allowed(limit, probes)
    assert allowed is not None
    # Exactly: at most 5 %, and the next count of events would let too many through.
    assert binomial_tail(allowed, probes, rate) <= Fraction(5, 100)
    assert binomial_tail(allowed + 1, probes, limit) > Fraction(5, 100)
    # Simulated, through the bound itself. 1000 runs at 5 % have a standard error of 0.7 points.
    rng = random.Random(20240601)
    upper = lru_cache(clopper_pearson_upper)
    runs = 1000
    passed = 0
    for _ in range(runs):
        passed += upper(leaks_in(probes, rate, rng), probes) <= limit
    assert passed / runs <= 0.05 + 0.014


def leaks_in(probes: int, rate: float, rng: random.Random) -> int:
    """Draw a binomial count by the gaps between events."""
    events = -1
    position = 0
    scale = math.log1p(-rate)
    while position <= probes:
        position += 1 + int(math.log(1.0 - rng.random()) / scale)
        events += 1
    return events


def wilson(k: int, n: int, z: float) -> tuple[float, float]:
    """The score interval (Wilson 1927) of k events in n."""
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def bonett_price_lower(both: int, base_only: int, new_only: int, z: float = Z95) -> float:
    """The lower limit that the module does not use: the control of the coverage tests."""
    n = both + base_only + new_only
    new, base = both + new_only, both + base_only
    a = math.sqrt((base_only + new_only + 2) / ((new + 1) * (base + 1)))
    b = math.sqrt((1 - (new + 1) / (n + 2)) / (new + 1))
    c = math.sqrt((1 - (base + 1) / (n + 2)) / (base + 1))
    z *= a / (b + c)
    return wilson(new, n, z)[0] / wilson(base, n, z)[1]


def coverage(lower: Callable[[int, int, int], float], n: int, ratio: float, gained: float) -> float:
    """Exact probability that the lower bound is at or under the true ratio.

    ``n`` cases are passed at least once, each of them after only with the rate ``gained``.
    """
    lost = 1 - ratio * (1 - gained)
    kept = 1 - lost - gained
    covered = 0.0
    for i in range(n + 1):
        for j in range(n + 1 - i):
            weight = math.comb(n, i) * math.comb(n - i, j) * lost**i * gained**j
            weight *= kept ** (n - i - j)
            if weight > 1e-9 and (n == j or lower(n - i - j, i, j) <= ratio):
                covered += weight
    return covered


class TestPairedRatio:
    def test_the_control_is_the_published_interval(self) -> None:
        # ci.ratio.prop.ps(.05, 12, 4, 26, 6) of the R package statpsych: 1.766544.
        assert bonett_price_lower(6, 4, 26, 1.959963984540054) == pytest.approx(1.766544, abs=1e-6)

    @pytest.mark.parametrize(
        ("n", "ratio", "gained"),
        [
            (100, 0.985, 0.0),
            (100, 0.971, 0.0),
            (100, 0.98, 0.005),
            (130, 0.95, 0.02),
            (40, 0.85, 0.1),
            (40, 1.0, 0.2),
        ],
    )
    def test_exact_coverage_is_at_least_nominal(self, n: int, ratio: float, gained: float) -> None:
        assert coverage(paired_ratio_lower, n, ratio, gained) >= 0.95

    def test_exact_coverage_can_tell(self) -> None:
        def less_sure(both: int, base_only: int, new_only: int) -> float:
            return paired_ratio_lower(both, base_only, new_only, 0.93)

        assert coverage(bonett_price_lower, 100, 0.985, 0.0) < 0.8
        assert coverage(less_sure, 100, 0.971, 0.0) < 0.95

    # Rates: passed before; passed after of those; passed after of the others (the correlation).
    @pytest.mark.parametrize(
        ("n", "p_base", "kept", "found"),
        [
            (100, 0.99, 0.98, 0.5),
            (130, 0.97, 0.95, 0.3),
            (100, 1.0, 0.975, 0.0),
            (130, 0.3, 0.93, 0.01),
            (110, 0.3, 0.8, 0.08),
            (120, 0.3, 0.4, 0.2),
            (120, 0.6, 0.97, 0.0),
        ],
    )
    def test_simulated_coverage(self, n: int, p_base: float, kept: float, found: float) -> None:
        ratio = kept + found * (1 - p_base) / p_base
        weights = [p_base * kept, p_base * (1 - kept), (1 - p_base) * found]
        weights.append(1 - sum(weights))
        rng = random.Random(7)
        lower = lru_cache(paired_ratio_lower)
        runs = 1500  # a standard error of 0.6 points
        covered = 0
        for _ in range(runs):
            cells = rng.choices("blgn", weights, k=n)
            covered += lower(cells.count("b"), cells.count("l"), cells.count("g")) <= ratio
        assert covered / runs >= 0.935

    def test_without_discordant_cases_the_bound_is_exact(self) -> None:
        lower, upper = paired_ratio_bounds(100, 0, 0)
        assert lower == pytest.approx(0.05**0.01, abs=1e-12)
        assert upper == pytest.approx(1 / lower, abs=1e-12)

    def test_ends(self) -> None:
        lower, upper = paired_ratio_bounds(0, 5, 0)
        assert lower == 0.0
        assert 0.0 < upper < 1.0
        with pytest.raises(ValueError, match="no ratio"):
            paired_ratio_bounds(0, 0, 3)
        with pytest.raises(ValueError, match="no ratio"):
            paired_ratio_lower(0, 0, 0)
        with pytest.raises(ValueError, match="base_only"):
            paired_ratio_bounds(5, -1, 0)
        with pytest.raises(ValueError, match="confidence"):
            paired_ratio_bounds(5, 1, 0, 1.0)

    @given(st.integers(1, 150), st.integers(0, 60), st.integers(0, 60), st.floats(0.6, 0.99))
    @settings(max_examples=50, deadline=None)
    def test_monotone_around_the_ratio_and_mirrored(
        self, both: int, lost: int, gained: int, confidence: float
    ) -> None:
        lower, upper = paired_ratio_bounds(both, lost, gained, confidence)
        assert lower < (both + gained) / (both + lost) < upper
        assert paired_ratio_lower(both - 1, lost + 1, gained, confidence) < lower
        assert paired_ratio_lower(both, lost, gained + 1, confidence) > lower
        assert paired_ratio_lower(both, lost, gained, (1 + confidence) / 2) < lower
        mirrored = paired_ratio_bounds(both, gained, lost, confidence)
        assert mirrored == pytest.approx((1 / upper, 1 / lower))
