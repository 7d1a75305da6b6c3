"""Exact extraction as rows: infinities have a place, and sums are expectations."""

from __future__ import annotations

import json
import math

import pytest

from pytest_unlearn.leaks.exact_rows import exact_row, mean_leak_at, mean_of
from pytest_unlearn.leaks.extraction import Extraction


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
    assert mean_leak_at([row], 1_000_000) == 0.0


def test_leak_at_k_is_the_expected_share() -> None:
    """One certain value and one of probability 0.1: half, and for two samples (1 + 0.19) / 2."""
    rows = [exact_row(found(0.0, greedy=True)), exact_row(found(math.log(0.1)))]
    assert rows[1]["n_for_half"] == pytest.approx(math.log(0.5) / math.log(0.9), rel=0.1)
    assert mean_leak_at(rows, 1) == pytest.approx(0.55)
    assert mean_leak_at(rows, 2) == pytest.approx((1 + 0.19) / 2)
    assert mean_of(rows, "greedy") == 0.5
    with pytest.raises(ValueError, match="no value"):
        mean_leak_at([], 1)
