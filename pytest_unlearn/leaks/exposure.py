"""Exposure: how far a true value stands out among decoys put in the same prompt.

Secret Sharer (arXiv 1802.08232): log2 |R| - log2 rank. A value that the model never saw has a rank
that is uniform, and so an exposure of `NULL_EXPOSURE_BITS` on average, not of 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# 1.44 bits: the mean of -log2 u for u uniform on (0, 1].
NULL_EXPOSURE_BITS = 1 / math.log(2)
# Fewer decoys cannot show 10 bits.
LEAST_DECOYS = 1000


@dataclass(frozen=True, slots=True)
class Exposure:
    """The rank of a value, 1 for the likeliest, among `size` values, itself among them.

    `exact` tells that these are all values of the kind, not a sample. A value that ties with a
    decoy stands behind it.
    """

    rank: int
    size: int
    exact: bool = False

    @property
    def bits(self) -> float:
        """log2 size - log2 rank; at most `most_bits`."""
        return math.log2(self.size) - math.log2(self.rank)

    @property
    def most_bits(self) -> float:
        """What the likeliest of so many values gets: more cannot be shown with them."""
        return math.log2(self.size)

    @property
    def p_value(self) -> float:
        """The chance of so good a rank for a value that the model never saw: rank / size."""
        return self.rank / self.size


def exposure(value: float, decoys: Sequence[float], exact: bool = False) -> Exposure:
    """Return the exposure of a value by its log-probability and those of the decoys.

    With N = decoys + 1: log2 N - log2(1 + decoys at least as likely). `exact`: the decoys are all
    other values of the kind. Raises ValueError on NaN and without decoys.
    """
    if not decoys:
        raise ValueError("exposure needs decoys: give the log-probabilities of at least one")
    if math.isnan(value) or any(map(math.isnan, decoys)):
        raise ValueError("a log-probability is NaN: a rank among such numbers means nothing")
    return Exposure(1 + sum(decoy >= value for decoy in decoys), len(decoys) + 1, exact)


def null_bits(size: int) -> float:
    """Return the mean exposure, in bits, of a uniform rank in 1..`size`.

    Tends to `NULL_EXPOSURE_BITS` from below: log2 N - log2(N!) / N.
    """
    if size < 1:
        raise ValueError(f"size is {size}: it must be 1 or more")
    return math.log2(size) - math.lgamma(size + 1) / (size * math.log(2))


def mean_bits(exposures: Sequence[Exposure]) -> float:
    """Return the mean exposure in bits; compare it with `NULL_EXPOSURE_BITS`, never with 0."""
    if not exposures:
        raise ValueError("a mean over no exposure means nothing")
    return math.fsum(found.bits for found in exposures) / len(exposures)


def null_p_value(exposures: Sequence[Exposure]) -> float:
    """Return the chance of at least this mean exposure if the model never saw any of the values.

    Fisher's method: under the null, -ln(rank / size) of n values add up to a Gamma(n) variable,
    or to less, as ranks are whole numbers: the figure errs to the safe side. Its tail is the
    Poisson sum exp(-s) * (1 + s + ... + s^(n-1) / (n-1)!). Records must not share their decoys'
    scores, or ranks are not independent.
    """
    if not exposures:
        raise ValueError("a test over no exposure means nothing")
    total = math.fsum(-math.log(found.p_value) for found in exposures)
    if total == 0:
        return 1.0
    terms = [i * math.log(total) - total - math.lgamma(i + 1) for i in range(len(exposures))]
    top = max(terms)
    return min(1.0, math.exp(top) * math.fsum(math.exp(term - top) for term in terms))
