"""pass@k, and how much of it is retained: pure functions of counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean

# One-sided.
CONFIDENCE = 0.95


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Return the unbiased estimate of pass@k: 1 - C(n-c, k) / C(n, k).

    That is the chance that k of the n samples, drawn without replacement, hold one of the c that
    passed (Chen et al., arXiv 2107.03374). Computed as -expm1(sum log1p(-k/i)) over
    i = n-c+1 ... n: no cancellation where nearly all fail, no overflow for large n. Raises
    ValueError for counts that cannot be.
    """
    if not 0 <= passed <= samples or not 1 <= k <= samples:
        raise ValueError(f"no pass@{k} of {samples} samples, {passed} of which passed")
    failed = samples - passed
    if failed < k:
        return 1.0
    return -math.expm1(math.fsum(math.log1p(-k / i) for i in range(failed + 1, samples + 1)))


def retained(
    base: Mapping[str, Sequence[float]], tested: Mapping[str, Sequence[float]]
) -> tuple[float, float] | None:
    """Return tested divided by base, and its one-sided 95 % lower bound, over the same tasks.

    The values are pass@k estimates (0 to 1) of each task's cases; a task's cases are averaged, so
    that wordings of one task count as one. The bound is the paired log-delta one and generalises
    over tasks. Where no task changed it would have no width: then a share of tasks as large as
    `0.05 ** (1 / tasks)` leaves open may still have lost all. None where the base is not above 0
    with the same confidence.
    """
    before = [fmean(values) for values in base.values()]
    after = [fmean(tested[task]) for task in base]
    count = len(before)
    if count < 2:
        return None
    a, b = fmean(before), fmean(after)
    z = NormalDist().inv_cdf(CONFIDENCE)
    if a - z * math.sqrt(_covariance(before, before) / count) <= 0:
        return None
    if b == 0:
        return 0.0, 0.0
    variance = (
        _covariance(after, after) / b**2
        + _covariance(before, before) / a**2
        - 2 * _covariance(before, after) / (a * b)
    ) / count
    ratio = b / a
    bound = ratio * math.exp(-z * math.sqrt(max(0.0, variance)))
    return ratio, min(bound, ratio * (1 - CONFIDENCE) ** (1 / count))


def _covariance(xs: Sequence[float], ys: Sequence[float]) -> float:
    x, y = fmean(xs), fmean(ys)
    return math.fsum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / (len(xs) - 1)
