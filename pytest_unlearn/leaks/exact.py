"""Exact extraction: what a value's token scores say about getting it out of the model.

This is arithmetic on the scores of one teacher-forced pass (`models/scoring.py`); nothing is
sampled.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from pytest_unlearn.core.text_files import known_fields
from pytest_unlearn.leaks.shrinking import tries_for
from pytest_unlearn.people.kinds import KINDS
from pytest_unlearn.people.other_values import all_values, decoys
from pytest_unlearn.probes.families import Probe

# The shares of the least likely tokens that Min-K% uses.
MIN_K_SHARES = (0.2, 0.4)


class TokenScores(Protocol):
    """The scores of one value in nats, one per token; `models.scoring.ValueScores` has them."""

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
    """How easily a value can be extracted from a model with one prompt.

    `greedy`: greedy decoding writes the value. `log_probability`: of writing the value right after
    the prompt, under the decoding scheme, in nats. `exact_memorization`: share of tokens that are
    the model's first choice after the true tokens before them (MA in arXiv 2210.01504). `strength`:
    the longest end of the value that is all first choices, as a share of its tokens (extraction
    strength, arXiv 2407.10817). It is 0 if not even the last token is one; an implementation whose
    loop ends too early gives one token's share instead. `loss`: mean negative log-likelihood of a
    token. `zlib_ratio`: loss per byte of the zlib-compressed value (arXiv 2012.07805), small if the
    value is likelier than its entropy explains. `min_k` and `min_k_plus_plus`: means over the least
    likely tokens, by the shares of `MIN_K_SHARES` (arXiv 2310.16789, 2404.02936); higher values
    look more like training data.
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
        """The chance that one sample is the value; 0 if it is below 1e-308."""
        return math.exp(self.log_probability)

    @property
    def n_for_half(self) -> float:
        """Samples needed to get the value with even odds; infinite if that cannot happen.

        (n, p)-discoverable extraction, arXiv 2410.19482, for p = 0.5.
        """
        return tries_for(self.log_probability)

    def leak_at(self, k: int) -> float:
        """Return leak@k: the chance that at least one of `k` samples is the value."""
        return leak_at(self.log_probability, k)


def leak_at(log_probability: float, k: int) -> float:
    """Return 1 - (1 - p)^k for p = exp(`log_probability`), without cancellation.

    A naive power gives 0 for p below 1e-16 at any k. Raises ValueError for k < 0 and for a number
    that is not a log-probability.
    """
    if k < 0:
        raise ValueError(f"k is {k}: it must be 0 or more")
    if math.isnan(log_probability) or log_probability > 0:
        raise ValueError(f"{log_probability} is not a log-probability")
    if k == 0:
        return 0.0
    p = math.exp(log_probability)
    if p >= 1:
        return 1.0
    return -math.expm1(k * math.log1p(-p))


def extraction(scores: TokenScores) -> Extraction:
    """Return what a value's scores say. Raises ValueError for NaN and without tokens."""
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
        min_k_plus_plus=tuple(
            mean_of_least(scores.z_scores, share) for share in MIN_K_SHARES if scores.z_scores
        ),
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
    """Return the mean of the lowest `share` of values, at least one of them."""
    least = sorted(values)[: max(1, int(len(values) * share))]
    return math.fsum(least) / len(least)


@dataclass(frozen=True, slots=True)
class Exposure:
    """The rank of a value, 1 for the likeliest, among `size` values including itself.

    `exact`: these are all values of the kind, not a sample. A value that ties with a decoy ranks
    behind it.
    """

    rank: int
    size: int
    exact: bool = False

    @property
    def bits(self) -> float:
        """log2 size - log2 rank; a value that no model saw has 1.44 on average, 1 / ln 2."""
        return math.log2(self.size) - math.log2(self.rank)


def exposure(value: float, decoys: Sequence[float], exact: bool = False) -> Exposure:
    """Return the exposure of a value, from its log-probability and those of the decoys.

    With N = decoys + 1: log2 N - log2(1 + decoys at least as likely). `exact`: the decoys are all
    other values of the kind. Raises ValueError for NaN and without decoys.
    """
    if not decoys:
        raise ValueError("exposure needs decoys: give the log-probabilities of at least one")
    if math.isnan(value) or any(map(math.isnan, decoys)):
        raise ValueError("a log-probability is NaN, so a rank means nothing")
    return Exposure(1 + sum(decoy >= value for decoy in decoys), len(decoys) + 1, exact)


# The sample sizes for which expected leaks are shown.
SAMPLES = (1, 100, 10_000, 1_000_000)


def exact_row(extraction: Extraction) -> dict[str, Any]:
    """Return an extraction's fields as JSON data for the store, with the samples for even odds.

    Infinite numbers (the log of a probability of 0, and its samples) become None.
    """
    row = {**asdict(extraction), "n_for_half": extraction.n_for_half}
    if extraction.n_for_half == math.inf:
        row["n_for_half"] = None
    if extraction.log_probability == -math.inf:
        row["log_probability"] = None
    return row


@dataclass(frozen=True, slots=True)
class RankedExposure:
    """The exposure of a value as a row holds it: in bits, with the rank among `size` values."""

    bits: float
    exact: bool = False
    rank: int = 1
    size: int = 1


@dataclass(frozen=True, slots=True)
class ExactScores:
    """The exact scores of a value as a row holds them; None for what was not measured.

    The first fields are those of `Extraction`, in nats and shares; only these three are measured
    under attack. `n_for_half`: samples needed for even odds. `margin`: nats between the two
    likeliest tokens where they are closest. `gradient_norm`: of the value's loss. `ranked`:
    exposure was asked for; `exposure` is still None for a kind that has no decoys.
    `reference_loss`: the loss on a retrained model, which tables add.
    """

    log_probability: float
    greedy: bool | None = None
    exact_memorization: float | None = None
    tokens: int | None = None
    strength: float | None = None
    loss: float | None = None
    zlib_ratio: float | None = None
    min_k: tuple[float, ...] | None = None
    min_k_plus_plus: tuple[float, ...] | None = None
    n_for_half: float | None = None
    margin: float | None = None
    gradient_norm: float | None = None
    exposure: RankedExposure | None = None
    ranked: bool = False
    reference_loss: float | None = None

    def as_row(self) -> dict[str, Any]:
        """Return what was measured as JSON data; infinite numbers as in `exact_row`."""
        row = {name: value for name, value in asdict(self).items() if value is not None}
        if self.log_probability == -math.inf:
            row["log_probability"] = None
        if self.n_for_half == math.inf:
            row["n_for_half"] = None
        if row.pop("ranked"):
            row.setdefault("exposure", None)
        # Reports list the scores of an attack as they are measured, those of a probe by name.
        return row if self.tokens is None else dict(sorted(row.items()))

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ExactScores:
        """Return the scores that `as_row` or `exact_row` wrote; raises TypeError otherwise."""
        values = known_fields(cls, row)
        if row.get("log_probability", 0.0) is None:
            values["log_probability"] = -math.inf
        if row.get("n_for_half", 0.0) is None:
            values["n_for_half"] = math.inf
        for name in ("min_k", "min_k_plus_plus"):
            if row.get(name) is not None:
                values[name] = tuple(row[name])
        values["ranked"] = "exposure" in row
        if values.get("exposure") is not None:
            values["exposure"] = RankedExposure(**known_fields(RankedExposure, row["exposure"]))
        return cls(**values)


class Alternatives(Protocol):
    """A model that scores many values after one prompt, as `LanguageModel` does."""

    def alternatives(self, prompt: str, values: Sequence[str], after: str = "") -> list[float]:
        """Return the log-probability (nats) of each value after the prompt."""


def exposure_row(
    probe: Probe, model: Alternatives, known: Collection[str], count: int
) -> dict[str, Any] | None:
    """Return a value's rank among decoys of its kind, or None for a kind without a generator.

    The decoys are all other values of a small kind, or `count` values of a larger one, none of them
    in `known`. Raises DecoyError if a kind does not have that many values.
    """
    if probe.kind not in KINDS:
        return None
    value = probe.value.reveal()
    everything = all_values(probe.kind)
    if everything is None:
        others: Sequence[str] = decoys(probe.kind, count, probe.id, known)
    else:
        others = [other for other in everything if other != value]
    own, *rest = model.alternatives(probe.prompt.reveal(), [value, *others], probe.after.reveal())
    ranked = exposure(own, rest, exact=everything is not None)
    return {"bits": ranked.bits, "rank": ranked.rank, "size": ranked.size, "exact": ranked.exact}


def mean_leak_at(scores: Sequence[ExactScores], k: int) -> float:
    """Return leak@k over values: the expected share of them that `k` samples each would bring out.

    Raises ValueError without values.
    """
    if not scores:
        raise ValueError("leak@k needs at least one value")
    return math.fsum(leak_at(each.log_probability, k) for each in scores) / len(scores)


def mean_of(values: Iterable[float | None]) -> float:
    """Return the mean of numbers or verdicts. Raises ValueError if one was not measured."""
    numbers = list(values)
    if None in numbers:
        raise ValueError("a score was not measured")
    return math.fsum(number for number in numbers if number is not None) / len(numbers)
