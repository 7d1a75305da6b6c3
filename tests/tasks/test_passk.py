"""pass@k: against exact fractions, and the ratio's bound."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest

from pytest_unlearn.tasks.passk import pass_at_k


def test_against_exact_fractions() -> None:
    """Relative error below 1e-13 for every n up to 40, and at n = 10,000."""
    cases = [(n, c, k) for n in range(1, 41) for c in range(n + 1) for k in range(1, n + 1)]
    cases += [(10_000, c, k) for c in (0, 1, 5, 9_999) for k in (1, 10, 5_000, 10_000)]
    for n, c, k in cases:
        exact = 1 - Fraction(comb(n - c, k), comb(n, k))
        assert pass_at_k(n, c, k) == pytest.approx(float(exact), rel=1e-13, abs=0), (n, c, k)


def test_one_sample_is_solved_or_not() -> None:
    assert pass_at_k(1, 1, 1) == 1.0
    assert pass_at_k(1, 0, 1) == 0.0
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)


@pytest.mark.parametrize(("n", "c", "k"), [(1, 2, 1), (1, -1, 1), (3, 1, 4), (3, 1, 0), (0, 0, 1)])
def test_counts_that_cannot_be(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="no pass@"):
        pass_at_k(n, c, k)
