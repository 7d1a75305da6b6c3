"""Bounds on differences: a rate over chance, a paired loss, a relative drop.

Counts and confidences are those of ``gates.statistics``; so are the limits of single rates that
are combined here. Bad input raises ``ValueError``.
"""

from __future__ import annotations

import math

from pytest_unlearn.gates.statistics import (
    clopper_pearson_lower,
    clopper_pearson_upper,
    paired_ratio_bounds,
)

__all__ = ["cases_needed_for_drop", "excess_bounds", "paired_difference_bounds"]


def cases_needed_for_drop(limit: float, confidence: float = 0.95) -> int:
    """Return the fewest cases, all given away before and none after, that show a drop.

    That is, the smallest ``n`` at which the upper bound of ``paired_ratio_bounds(0, n, 0)`` is
    ``1 - limit`` or less.

    Args:
        limit: the least relative drop, a fraction in (0, 1).
        confidence: one-sided, a fraction in (0, 1).
    """
    if not 0.0 < limit < 1.0:
        raise ValueError(f"limit must be over 0 and under 1, not {limit!r}")
    low, high = 0, 1
    while paired_ratio_bounds(0, high, 0, confidence)[1] > 1.0 - limit:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if paired_ratio_bounds(0, middle, 0, confidence)[1] <= 1.0 - limit:
            high = middle
        else:
            low = middle
    return high


def excess_bounds(
    events: float, n: float, chance: float, chance_n: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Return one-sided lower and upper bounds of a rate minus the rate that chance alone gives.

    Two independent samples: ``events`` of ``n`` rows, and ``chance`` events of ``chance_n``
    controls. The exact limits of the two rates (Clopper and Pearson, 1934) are combined by the
    MOVER method (Newcombe, 1998, method 10; Donner and Zou, 2012). Controls without an event take
    nothing off the upper bound.
    """
    rate, by_chance = events / n, chance / chance_n
    return _mover_difference(
        rate,
        (
            clopper_pearson_lower(events, n, confidence),
            clopper_pearson_upper(events, n, confidence),
        ),
        by_chance,
        (
            clopper_pearson_lower(chance, chance_n, confidence),
            clopper_pearson_upper(chance, chance_n, confidence),
        ),
        0.0,
    )


def paired_difference_bounds(
    lost: float, gained: float, n: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Return one-sided lower and upper bounds for p_base - p_new of two paired pass rates.

    The difference is that of the rates of lost and of gained cases. Their exact limits are
    combined by the MOVER method, with the (negative) correlation of two cells of a multinomial.
    Newcombe's paired interval on the marginal rates is not used: with no discordant case its
    width is 0 where half of the cases pass.

    Args:
        lost: cases passed before only, a count.
        gained: cases passed after only, a count.
        n: all cases, also those that both or neither pass.
        confidence: of each bound, a fraction in (0, 1).
    """
    if min(lost, gained) < 0 or lost + gained > n or n <= 0:
        raise ValueError(f"lost and gained must be counts among {n!r}, not {lost!r} and {gained!r}")
    p_lost, p_gained = lost / n, gained / n
    spread = (1.0 - p_lost) * (1.0 - p_gained)
    correlation = -math.sqrt(p_lost * p_gained / spread) if spread else 0.0
    return _mover_difference(
        p_lost,
        (clopper_pearson_lower(lost, n, confidence), clopper_pearson_upper(lost, n, confidence)),
        p_gained,
        (
            clopper_pearson_lower(gained, n, confidence),
            clopper_pearson_upper(gained, n, confidence),
        ),
        max(-1.0, correlation),
    )


def _mover_difference(
    first: float,
    first_limits: tuple[float, float],
    second: float,
    second_limits: tuple[float, float],
    correlation: float,
) -> tuple[float, float]:
    """Return limits of ``first - second`` from the limits of each (Donner and Zou, 2012)."""

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a + b * b - 2.0 * correlation * a * b))

    (low_1, high_1), (low_2, high_2) = first_limits, second_limits
    return (
        max(-1.0, first - second - reach(first - low_1, high_2 - second)),
        min(1.0, first - second + reach(high_1 - first, second - low_2)),
    )
