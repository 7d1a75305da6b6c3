"""Bounds on rates and on ratios of paired rates, with the standard library only.

Counts are whole numbers of probes or cases; rates, bounds, limits and confidences are
plain fractions (0.05 is 5 %). Every bound is one-sided: a ``confidence`` of 0.95 means that the
bound is wrong in at most about 5 % of runs. Bad input raises ``ValueError``.
"""

from __future__ import annotations

import math

__all__ = [
    "cases_needed_for_ratio",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "events_allowed",
    "paired_ratio_bounds",
    "paired_ratio_lower",
    "probes_needed",
]

_EPSILON = 1e-16
_TINY = 1e-300


def clopper_pearson_upper(k: float, n: float, confidence: float = 0.95) -> float:
    """Return the exact one-sided upper bound of a rate (Clopper and Pearson, 1934).

    It is the rate at which ``k`` or fewer events in ``n`` trials have the probability
    ``1 - confidence``; 1.0 when ``k == n``, so also when ``n == 0`` (nothing is known).

    Args:
        k: events, a count.
        n: trials, a count.
        confidence: one-sided, a fraction in (0, 1).
    """
    _check_count(k, n)
    alpha = _alpha(confidence)
    if k == n:
        return 1.0
    if k == 0:
        return -math.expm1(math.log(alpha) / n)
    return 1.0 - _beta_quantile(alpha, n - k, k + 1)


def clopper_pearson_lower(k: float, n: float, confidence: float = 0.95) -> float:
    """Return the exact one-sided lower bound of a rate (Clopper and Pearson, 1934).

    It is the rate at which ``k`` or more events in ``n`` trials have the probability
    ``1 - confidence``; 0.0 when ``k == 0``, so also when ``n == 0`` (nothing is known).

    Args:
        k: events, a count.
        n: trials, a count.
        confidence: one-sided, a fraction in (0, 1).
    """
    _check_count(k, n)
    alpha = _alpha(confidence)
    if k == 0:
        return 0.0
    if k == n:
        return math.exp(math.log(alpha) / n)
    return _beta_quantile(alpha, k, n - k + 1)


def probes_needed(limit: float, confidence: float = 0.95) -> int | None:
    """Return the fewest probes at which zero events give an upper bound of ``limit`` or less.

    The bound is ``clopper_pearson_upper``. None when ``limit`` is 0 (or too small for a float
    to count the probes): no sample, however large, can show it.

    Args:
        limit: the highest rate allowed, a fraction in [0, 1].
        confidence: one-sided, a fraction in (0, 1).
    """
    _check_fraction("limit", limit)
    alpha = _alpha(confidence)
    if limit == 0.0:
        return None
    if limit == 1.0:
        return 0
    guess = math.log(alpha) / math.log1p(-limit)
    if not guess < 1e300:
        return None
    # The guess is right but for rounding; search for the count that the bound itself confirms.
    low = int(guess * (1.0 - 1e-9)) - 1  # too few, or none
    high = int(guess * (1.0 + 1e-9)) + 2  # enough
    low = max(low, 0)
    while high - low > 1:
        middle = (low + high) // 2
        if clopper_pearson_upper(0, middle, confidence) <= limit:
            high = middle
        else:
            low = middle
    return high


def events_allowed(limit: float, n: int, confidence: float = 0.95) -> int | None:
    """Return the most events in ``n`` trials whose upper bound is ``limit`` or less.

    The bound is ``clopper_pearson_upper``. None when not even zero events would do.

    Args:
        limit: the highest rate allowed, a fraction in [0, 1].
        n: trials, a count.
        confidence: one-sided, a fraction in (0, 1).
    """
    _check_fraction("limit", limit)
    if clopper_pearson_upper(0, n, confidence) > limit:
        return None
    if limit == 1.0:
        return n
    low, high = 0, n  # low is allowed; high is not, since the bound of n in n is 1
    while high - low > 1:
        middle = (low + high) // 2
        if clopper_pearson_upper(middle, n, confidence) <= limit:
            low = middle
        else:
            high = middle
    return low


def cases_needed_for_ratio(limit: float, confidence: float = 0.95) -> int:
    """Return the fewest cases, all passed before and after, that show a ratio of ``limit``.

    That is, the smallest ``n`` with ``paired_ratio_lower(n, 0, 0, confidence) >= limit``. With no
    discordant case that bound is ``(1 - confidence) ** (1 / n)``.

    Args:
        limit: the lowest ratio of pass rates allowed, after over before, a fraction in (0, 1).
        confidence: one-sided, a fraction in (0, 1).
    """
    if not 0.0 < limit < 1.0:
        raise ValueError(f"limit must be over 0 and under 1, not {limit!r}")
    guess = math.log(_alpha(confidence)) / math.log(limit)
    low = max(int(guess * (1.0 - 1e-9)) - 1, 0)
    high = int(guess * (1.0 + 1e-9)) + 2
    while high - low > 1:
        middle = (low + high) // 2
        if paired_ratio_lower(middle, 0, 0, confidence) >= limit:
            high = middle
        else:
            low = middle
    return high


def paired_ratio_lower(
    both: float, base_only: float, new_only: float, confidence: float = 0.95
) -> float:
    """Return the lower bound of ``paired_ratio_bounds`` alone; the same arguments."""
    _check_cells(both=both, base_only=base_only, new_only=new_only)
    if both + base_only == 0:
        raise ValueError("there is no ratio: no case passed before (both + base_only is 0)")
    return _ratio_lower(both, base_only, new_only, confidence)


def paired_ratio_bounds(
    both: float, base_only: float, new_only: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Return one-sided lower and upper bounds for p_new / p_base of two paired pass rates.

    Each bound holds with ``confidence`` by itself. Cases that neither passes do not matter: as
    Bonett and Price (2006) do, both rates are taken among the cases passed at least once, where
    the ratio is the same. The limits of the two rates are combined into limits of the ratio by
    the MOVER method of Donner and Zou (2012), with the correlation of the two counts. The limits
    of each rate are the exact ones (Clopper and Pearson, 1934).

    The Wilson limits with the shortened quantile of Bonett and Price are not used: that interval
    is two-sided, and with few or no discordant cases its lower limit alone is too high. Meant to
    hold in 95 % of runs, it holds in 78 % (n = 100, every case passed before, 98.5 % after). The
    bounds here held in at least 95 % at every setting computed (20 to 300 cases passed at least
    once, ratios from 0.5 to 1, up to 40 % gained).

    Args:
        both: cases passed before and after, a count.
        base_only: cases passed before only (lost), a count.
        new_only: cases passed after only (gained), a count.
        confidence: of each bound, a fraction in (0, 1).

    Raises:
        ValueError: also when no case passed before, as there is no ratio then.
    """
    lower = paired_ratio_lower(both, base_only, new_only, confidence)
    return lower, 1.0 / _ratio_lower(both, new_only, base_only, confidence)


def _ratio_lower(both: float, base_only: float, new_only: float, confidence: float) -> float:
    """Return the lower bound of new / base, which is finite also where base is 0."""
    n = both + base_only + new_only
    new, base = both + new_only, both + base_only
    if new == 0:
        return 0.0
    p_new, p_base = new / n, base / n
    new_low = clopper_pearson_lower(new, n, confidence)
    base_high = clopper_pearson_upper(base, n, confidence)
    # Among the cases passed at least once, lost and gained compete: the correlation is negative.
    correlation = -math.sqrt(base_only * new_only / (new * base)) if base else 0.0
    # The smaller root r of (p_new - r p_base)^2 = dn^2 - 2 correlation r dn db + (r db)^2,
    # written so that nothing cancels and the leading coefficient may be 0.
    constant = new_low * (2.0 * p_new - new_low)
    middle = p_new * p_base - correlation * (p_new - new_low) * (base_high - p_base)
    leading = base_high * (2.0 * p_base - base_high)
    return constant / (middle + math.sqrt(max(0.0, middle * middle - leading * constant)))


def _beta_quantile(probability: float, a: float, b: float) -> float:
    """Return x with I_x(a, b) = probability, by Newton on the logarithm, kept in a bracket."""
    low, high = 0.0, 1.0
    target = math.log(probability)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    x = a / (a + b)
    for _ in range(200):
        value = _beta_cdf(x, a, b)
        step = math.nan
        if value > _TINY:
            error = math.log(value) - target
            if error < 0.0:
                low = x
            else:
                high = x
            log_density = (a - 1) * math.log(x) + (b - 1) * math.log1p(-x) - log_beta
            slope = math.exp(log_density - math.log(value))
            if slope > 0.0:
                step = error / slope
        else:
            low = x
        following = x - step
        if not low < following < high:  # also when the step is not a number
            following = (low + high) / 2.0
        if abs(following - x) <= 1e-14 * x or high - low <= 1e-15 * high:
            return following
        x = following
    return x


def _beta_cdf(x: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function I_x(a, b), 0 < x < 1.

    The continued fraction of Abramowitz and Stegun (1964, 26.5.8), summed by the method of Lentz
    (1976); it needs about the square root of ``max(a, b)`` terms.
    """
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _beta_tail(1.0 - x, b, a)
    return _beta_tail(x, a, b)


def _beta_tail(x: float, a: float, b: float) -> float:
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    c = 1.0
    d = 1.0 / (1.0 - (a + b) * x / (a + 1) or _TINY)
    fraction = d
    for m in range(1, 1000 + 50 * math.isqrt(math.ceil(a + b))):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 / (1.0 + even * d or _TINY)
        c = 1.0 + even / c or _TINY
        fraction *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1.0 / (1.0 + odd * d or _TINY)
        c = 1.0 + odd / c or _TINY
        delta = d * c
        fraction *= delta
        if abs(delta - 1.0) <= 4.0 * _EPSILON:
            break
    return front * fraction / a


def _alpha(confidence: float) -> float:
    """Return 1 - confidence, the probability that the bound is wrong."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be over 0 and under 1, not {confidence!r}")
    return 1.0 - confidence


def _check_fraction(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be from 0 to 1, not {value!r}")


def _check_count(k: float, n: float) -> None:
    if not 0 <= k <= n:
        raise ValueError(f"events must be from 0 to the number of trials, not {k!r} of {n!r}")


def _check_cells(**cells: float) -> None:
    for name, value in cells.items():
        if not value >= 0:
            raise ValueError(f"{name} must be 0 or more, not {value!r}")
