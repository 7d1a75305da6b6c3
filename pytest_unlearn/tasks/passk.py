"""pass@k: a pure function of counts."""

from __future__ import annotations

import math


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
