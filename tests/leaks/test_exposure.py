"""Exposure: ranks, the null's mean, and decoys."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from scipy import stats

from pytest_unlearn.leaks.exposure import (
    LEAST_DECOYS,
    NULL_EXPOSURE_BITS,
    Exposure,
    exposure,
    mean_bits,
    null_bits,
    null_p_value,
)
from pytest_unlearn.people import other_values as module
from pytest_unlearn.people.kinds import KINDS, Kind
from pytest_unlearn.people.other_values import DecoyError, all_values, decoys


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
    assert exposure(-1.0, [-2.0] * 1023).bits == 10 == Exposure(1, 1024).most_bits


def test_null_mean() -> None:
    """1.44 bits for a uniform rank, by the closed form, by summing and by drawing."""
    assert pytest.approx(1.4427, abs=1e-4) == NULL_EXPOSURE_BITS
    for size in (1, 2, 10, 1001):
        assert null_bits(size) == pytest.approx(
            statistics.fmean(math.log2(size / rank) for rank in range(1, size + 1)), abs=1e-9
        )
    assert null_bits(10**7) == pytest.approx(NULL_EXPOSURE_BITS, abs=1e-5)
    assert null_bits(LEAST_DECOYS + 1) == pytest.approx(NULL_EXPOSURE_BITS, abs=0.01)
    rng = random.Random(2)
    drawn = [
        exposure(rng.random() - 1, [rng.random() - 1 for _ in range(200)]) for _ in range(2000)
    ]
    assert mean_bits(drawn) == pytest.approx(null_bits(201), abs=4 * 1.44 / math.sqrt(2000))


def test_null_p_value() -> None:
    """The Gamma tail of scipy; uniform under the null, small for memorised values."""
    rng = random.Random(3)
    for n in (1, 5, 160):
        found = [Exposure(rng.randrange(1, 1002), 1001) for _ in range(n)]
        total = sum(e.bits for e in found) * math.log(2)
        assert null_p_value(found) == pytest.approx(stats.gamma.sf(total, n), rel=1e-9)
    low = [
        null_p_value([Exposure(rng.randrange(1, 1002), 1001) for _ in range(20)]) < 0.05
        for _ in range(2000)
    ]
    assert 0.03 < statistics.fmean(low) < 0.07
    assert null_p_value([Exposure(1, 1001)] * 20) < 1e-30
    assert null_p_value([Exposure(1001, 1001)] * 20) == 1
    assert null_p_value([Exposure(1, 1001)] * 2000) >= 0  # no overflow


def test_what_has_no_rank() -> None:
    """NaN and nothing are errors, never an exposure of 0."""
    for value, others in ((math.nan, [0.0]), (0.0, [math.nan]), (0.0, [])):
        with pytest.raises(ValueError, match="log-probabilit"):
            exposure(value, others)
    for function in (mean_bits, null_p_value):
        with pytest.raises(ValueError, match="no exposure"):
            function([])
    with pytest.raises(ValueError, match="size"):
        null_bits(0)


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
