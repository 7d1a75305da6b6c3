"""Exact extraction: what the scores of a value's tokens say about getting it out of the model.

Plain arithmetic on the scores of one teacher-forced pass (`models/scoring.py`); nothing is sampled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pytest_unlearn.leaks.shrinking import tries_for

# Shares of the least likely tokens that Min-K% looks at.
MIN_K_SHARES = (0.2, 0.4)


class TokenScores(Protocol):
    """The scores of one value, in nats, one entry a token; `models.scoring.ValueScores` is one."""

    @property
    def log_probs(self) -> Sequence[float]:
        """Each token's log-probability at temperature 1."""

    @property
    def scheme_log_probs(self) -> Sequence[float]:
        """Each token's log-probability under the decoding scheme."""

    @property
    def greedy(self) -> Sequence[bool]:
        """Whether each token is the model's first choice."""

    @property
    def z_scores(self) -> Sequence[float]:
        """Each token's (log p - mean) / deviation over the vocabulary."""

    @property
    def lead_scheme_log_prob(self) -> float:
        """The log-probability, under the scheme, of white space before the value."""

    @property
    def spelled(self) -> bool:
        """The verdict of greedy decoding."""

    @property
    def zlib_bytes(self) -> int:
        """The value's length under zlib."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """How well a value can be got out of a model from one prompt.

    `greedy`: greedy decoding writes the value. `log_probability`: nats, under the decoding scheme,
    of writing the value right after the prompt. `exact_memorization`: share of tokens that are the
    model's first choice, the true tokens before them given (arXiv 2210.01504's MA). `strength`:
    the longest end of the value that is all first choices, as a share of its tokens
    (arXiv 2407.10817's extraction strength): 0 where not even the last token is, not one token's
    share, as in an implementation whose loop ends too early. `loss`: mean negative log-likelihood
    of a token. `zlib_ratio`: loss by byte of the zlib-packed value (arXiv 2012.07805): small for
    what is likelier than its entropy explains. `min_k` and `min_k_plus_plus`: means over the least
    likely tokens, by the shares of `MIN_K_SHARES` (arXiv 2310.16789, 2404.02936): the higher, the
    more it looks like training data.
    """

    greedy: bool
    log_probability: float
    tokens: int
    exact_memorization: float
    strength: float
    loss: float
    zlib_ratio: float
    min_k: tuple[float, ...]
    min_k_plus_plus: tuple[float, ...]

    @property
    def probability(self) -> float:
        """The chance that one sample is the value; 0 where it is below 1e-308."""
        return math.exp(self.log_probability)

    @property
    def n_for_half(self) -> float:
        """Samples needed to get the value with even odds; infinite where that cannot happen.

        (n, p)-discoverable extraction, arXiv 2410.19482, for p = 0.5.
        """
        return tries_for(self.log_probability)

    def leak_at(self, k: int) -> float:
        """Return leak@k: the chance that at least one of `k` samples is the value."""
        return leak_at(self.log_probability, k)


def leak_at(log_probability: float, k: int) -> float:
    """Return 1 - (1 - p)^k for p = exp(`log_probability`), without cancellation.

    A naive power gives 0 for p below 1e-16 at any k. Raises ValueError for k < 0 and for what is
    no log-probability.
    """
    if k < 0:
        raise ValueError(f"k is {k}: it must be 0 or more")
    if math.isnan(log_probability) or log_probability > 0:
        raise ValueError(f"{log_probability} is no log-probability")
    if k == 0:
        return 0.0
    p = math.exp(log_probability)
    if p >= 1:
        return 1.0
    return -math.expm1(k * math.log1p(-p))


def extraction(scores: TokenScores) -> Extraction:
    """Return what a value's scores say. Raises ValueError on NaN and on a value without tokens."""
    if not scores.log_probs:
        raise ValueError("a value without tokens has no scores")
    total = math.fsum((scores.lead_scheme_log_prob, *scores.scheme_log_probs))
    loss = -math.fsum(scores.log_probs) / len(scores.log_probs)
    if math.isnan(total) or math.isnan(loss) or any(map(math.isnan, scores.z_scores)):
        raise ValueError("a score is NaN: the model's predictions are broken")
    return Extraction(
        greedy=scores.spelled,
        log_probability=min(0.0, total),  # rounding may leave a sum just above 0
        tokens=len(scores.log_probs),
        exact_memorization=sum(scores.greedy) / len(scores.greedy),
        strength=extraction_strength(scores.greedy),
        loss=loss,
        zlib_ratio=loss / scores.zlib_bytes,
        min_k=tuple(mean_of_least(scores.log_probs, share) for share in MIN_K_SHARES),
        min_k_plus_plus=tuple(mean_of_least(scores.z_scores, share) for share in MIN_K_SHARES),
    )


def extraction_strength(greedy: Sequence[bool]) -> float:
    """Return the length of the all-true end of `greedy` as a share of its length."""
    length = 0
    for first_choice in reversed(greedy):
        if not first_choice:
            break
        length += 1
    return length / len(greedy)


def mean_of_least(values: Sequence[float], share: float) -> float:
    """Return the mean of the lowest `share` of values, of one at least."""
    least = sorted(values)[: max(1, int(len(values) * share))]
    return math.fsum(least) / len(least)
