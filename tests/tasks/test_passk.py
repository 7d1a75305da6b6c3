"""pass@k: against exact fractions, and the ratio's bound."""

from __future__ import annotations

import random
from fractions import Fraction
from math import comb

import pytest

from pytest_unlearn.tasks.passk import pass_at_k, retained


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


def one_each(values: list[float]) -> dict[str, list[float]]:
    return {f"t{i}": [value] for i, value in enumerate(values)}


def test_retained_by_hand() -> None:
    """Paired log-delta: the variance of log(b/a) from the tasks' own covariance."""
    kept = retained(one_each([1.0, 0.5, 1.0, 0.5]), one_each([0.5, 0.5, 1.0, 0.5]))
    assert kept is not None
    ratio, bound = kept
    assert ratio == pytest.approx(0.625 / 0.75)
    # a = 3/4, b = 5/8, var a = 1/12, var b = 1/16, cov = 1/24 (n - 1); of means a quarter each.
    variance = (1 / 16 / 0.625**2 + 1 / 12 / 0.75**2 - 2 / 24 / (0.625 * 0.75)) / 4
    wanted = ratio * 2.718281828459045 ** (-1.6448536269514722 * variance**0.5)
    assert bound == pytest.approx(min(wanted, ratio * 0.05**0.25))


def test_no_change_is_no_certainty() -> None:
    """With no change at all the log-delta bound has no width; 5 tasks still show little."""
    same = one_each([1.0] * 5)
    assert retained(same, same) == (1.0, pytest.approx(0.05 ** (1 / 5)))


def test_no_ratio_to_a_base_near_nothing() -> None:
    assert retained(one_each([0.0, 0.0]), one_each([0.0, 1.0])) is None
    assert retained(one_each([0.1] + [0.0] * 9), one_each([0.0] * 10)) is None
    assert retained(one_each([1.0]), one_each([1.0])) is None
    assert retained(one_each([1.0, 0.9, 1.0]), one_each([0.0] * 3)) == (0.0, 0.0)


def test_wordings_of_a_task_count_as_one() -> None:
    """Twice the same rows show no more than once."""
    base, tested = {"a": [1.0], "b": [0.5], "c": [1.0]}, {"a": [0.5], "b": [0.5], "c": [1.0]}
    doubled = [{task: values * 2 for task, values in state.items()} for state in (base, tested)]
    assert retained(*doubled) == retained(base, tested)


def test_the_bound_holds_as_often_as_it_says() -> None:
    """100 tasks of 5 samples, pass rates from 0 to 1, a true ratio of 0.9: 95 %, give or take."""
    draw = random.Random(7)
    missed, runs = 0, 300
    for _ in range(runs):
        rates = [draw.betavariate(0.4, 0.5) for _ in range(100)]
        states = [
            {
                f"t{i}": [pass_at_k(5, sum(draw.random() < rate * kept for _ in range(5)), 1)]
                for i, rate in enumerate(rates)
            }
            for kept in (1.0, 0.9)
        ]
        found = retained(states[0], states[1])
        assert found is not None
        missed += found[1] > 0.9
    assert missed / runs <= 0.08
