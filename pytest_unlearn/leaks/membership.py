"""Membership inference: six attacks, how well each separates members from others, and PrivLeak.

For all of them, **the higher the score, the more a record looks like training data**, and an AUC of
1 means that every member (forget record) scores above every non-member (control record).
open-unlearning uses the opposite sign for its scores and swaps the labels, so its AUC is the same.
The attacks work on scores of exact extraction (`leaks/exact.py`); this module is arithmetic only.

There are two traps. Members and non-members must come from the same distribution, or an attack
measures the difference between the texts: the AUC of a retrained model shows how large that is. And
a low AUC is not a success in itself: one far below the retrained model's gives members away again,
because they are too unlikely.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import NormalDist
from typing import Literal, TypeVar

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.leaks.exact import MIN_K_SHARES, ExactScores

# The share of the least likely tokens that min-k and min-k++ use here, as in MUSE.
_SHARE = MIN_K_SHARES.index(0.4)
# Two equal models can have an interval without width; rounding must not put it on one side of 0.
_ROUNDING = 1e-6

Verdict = Literal["under-unlearned", "over-unlearned", "indistinguishable"]


class MembershipError(UserError):
    """Attacks are named wrongly; the message says what to write instead."""


@dataclass(frozen=True, slots=True)
class MembershipAttack:
    """A named attack. `score` takes a value's exact scores; the higher, the more likely a member.

    `about`: one line with the source. `cost`: what the attack needs beyond the pass that is made
    anyway (empty: nothing).
    """

    name: str
    about: str
    score: Callable[[ExactScores], float]
    cost: str = ""


_Score = TypeVar("_Score")


def _measured(score: _Score | None, name: str) -> _Score:
    if score is None:
        raise KeyError(name)
    return score


ATTACKS: dict[str, MembershipAttack] = {
    attack.name: attack
    for attack in (
        MembershipAttack(
            "loss", "mean loss (Yeom et al., CSF 2018)", lambda s: -_measured(s.loss, "loss")
        ),
        MembershipAttack(
            "zlib",
            "loss by zlib size (arXiv 2012.07805)",
            lambda s: -_measured(s.zlib_ratio, "zlib_ratio"),
        ),
        MembershipAttack(
            "min_k",
            "the least likely tokens (arXiv 2310.16789)",
            lambda s: _measured(s.min_k, "min_k")[_SHARE],
        ),
        MembershipAttack(
            "min_k++",
            "the same, standardized (arXiv 2404.02936)",
            lambda s: _measured(s.min_k_plus_plus, "min_k_plus_plus")[_SHARE],
        ),
        MembershipAttack(
            "gradnorm",
            "norm of the gradient (arXiv 2402.17012)",
            lambda s: -_measured(s.gradient_norm, "gradient_norm"),
            cost="a backward pass a record",
        ),
        MembershipAttack(
            "reference",
            "loss against another model's (arXiv 2012.07805)",
            lambda s: _measured(s.reference_loss, "reference_loss") - _measured(s.loss, "loss"),
            cost="--unlearn-retrained",
        ),
    )
}


def parse_attacks(text: str, has_reference: bool) -> tuple[str, ...]:
    """Read `loss,zlib,...`, `all` or `none`; without a text, all attacks without an extra cost.

    `has_reference`: there is a model that never saw the records, which one attack needs. Raises
    MembershipError.
    """
    possible = [n for n in ATTACKS if n != "reference" or has_reference]
    if not text:
        return tuple(name for name in possible if name != "gradnorm")
    if text == "none":
        return ()
    names = possible if text == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in ATTACKS:
            raise MembershipError(
                f"{name!r} is not an attack: write some of {', '.join(ATTACKS)}, or all"
            )
        if name not in possible:
            raise MembershipError(
                "reference compares with a model that never saw the forget records: name one with "
                "--unlearn-retrained"
            )
    return tuple(dict.fromkeys(names))


def attack_score(name: str, scores: ExactScores) -> float:
    """Return a record's score under one of `ATTACKS`; a higher score means more likely a member.

    Raises ValueError for NaN and for scores that lack what the attack needs, since a score of 0
    would give such a record a rank.
    """
    try:
        score = ATTACKS[name].score(scores)
    except KeyError as missing:
        raise ValueError(f"attack {name!r} needs {missing}, which was not measured") from None
    if math.isnan(score):
        raise ValueError(f"the score of attack {name!r} is NaN: the model's predictions are broken")
    return score


@dataclass(frozen=True, slots=True)
class Auc:
    """The chance that a member scores above a non-member; ties count half.

    `low` and `high` are the ends of a two-sided interval of `confidence`; `members` and
    `nonmembers` are counts of records. `influence` has an entry for each person (each record, if no
    owners were given): the sum of its squares is the variance of `estimate`, and the sum of its
    products with another model's, over the same records, is the covariance of the two.
    """

    estimate: float
    low: float
    high: float
    members: int
    nonmembers: int
    confidence: float
    influence: tuple[float, ...] = field(default=(), repr=False)

    @property
    def variance(self) -> float:
        """The variance of `estimate`."""
        return math.fsum(part * part for part in self.influence)


def auc(
    members: Sequence[float],
    nonmembers: Sequence[float],
    *,
    owners: tuple[Sequence[str], Sequence[str]] | None = None,
    confidence: float,
    resamples: int = 0,
    seed: int = 0,
) -> Auc:
    """Return how well scores separate members from non-members: Mann and Whitney's statistic.

    The interval is DeLong's (Biometrics 44, 1988), built on the logit scale so that it stays in
    [0, 1]. Records of one person are not independent: with `owners` (of the members, of the
    non-members) the variance is summed by person, as Obuchowski does (Biometrics 53, 1997).
    With `resamples` the interval is a percentile bootstrap instead, which draws people (records,
    without owners) from both sides; `seed` makes it repeatable.

    If the data show no variance, both would give an interval without width. With k the number of
    people (records) on the smaller side, perfect separation then has the exact bound
    `((1 - confidence) / 2) ** (1 / k)`, because k disjoint pairs are all in the right order with a
    probability of at most AUC ** k. Any other estimate (all scores equal) has Hoeffding's bound for
    U-statistics (JASA 58, 1963), as does a side with a single person.

    Raises ValueError for an empty side, NaN, owners that do not match the scores or are on both
    sides, and a confidence outside (0, 1).
    """
    if not members or not nonmembers:
        raise ValueError(f"no AUC of {len(members)} members and {len(nonmembers)} non-members")
    if any(map(math.isnan, members)) or any(map(math.isnan, nonmembers)):
        raise ValueError("a score is NaN")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be over 0 and under 1, not {confidence!r}")
    groups = _groups(len(members), 0, None if owners is None else owners[0])
    others = _groups(len(nonmembers), 1, None if owners is None else owners[1])
    if owners is not None and set(owners[0]) & set(owners[1]):
        raise ValueError("a person is both member and non-member")
    below, above = _placements(members, nonmembers)
    estimate = math.fsum(below) / len(members)
    influence = _influence(below, groups, estimate) + _influence(above, others, estimate)
    fewest, alpha = min(len(groups), len(others)), 1.0 - confidence
    variance = math.fsum(part * part for part in influence)
    if estimate in (0.0, 1.0):
        bound = (alpha / 2) ** (1.0 / fewest)
        low, high = (bound, 1.0) if estimate else (0.0, 1.0 - bound)
    elif fewest < 2 or variance < 1e-18:  # what rounding leaves of zero
        reach = math.sqrt(math.log(2.0 / alpha) / (2.0 * fewest))
        low, high = max(0.0, estimate - reach), min(1.0, estimate + reach)
    elif resamples:
        low, high = _bootstrap(members, nonmembers, groups, others, alpha, resamples, seed)
    else:
        middle = math.log(estimate / (1.0 - estimate))
        deviation = math.sqrt(variance) / (estimate * (1.0 - estimate))
        reach = NormalDist().inv_cdf(1.0 - alpha / 2) * deviation
        low, high = _logistic(middle - reach), _logistic(middle + reach)
    return Auc(estimate, low, high, len(members), len(nonmembers), confidence, influence)


def _logistic(x: float) -> float:
    return 0.5 * (1.0 + math.tanh(x / 2.0))


def _groups(count: int, side: int, owners: Sequence[str] | None) -> list[list[int]]:
    """Return the positions of each person's records, in order of appearance."""
    if owners is None:
        return [[position] for position in range(count)]
    if len(owners) != count:
        name = ("members", "non-members")[side]
        raise ValueError(f"{len(owners)} owners do not belong to {count} {name}")
    positions: dict[str, list[int]] = {}
    for position, owner in enumerate(owners):
        positions.setdefault(owner, []).append(position)
    return list(positions.values())


def _placements(
    members: Sequence[float], nonmembers: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Return each member's share of non-members below it and each non-member's of members above.

    The mean of either list is the AUC; ties count half.
    """
    low, high = sorted(nonmembers), sorted(members)
    n, m = len(low), len(high)
    below = [(bisect_left(low, x) + bisect_right(low, x)) / (2 * n) for x in members]
    above = [1.0 - (bisect_left(high, x) + bisect_right(high, x)) / (2 * m) for x in nonmembers]
    return below, above


def _influence(
    placements: Sequence[float], groups: Sequence[Sequence[int]], estimate: float
) -> tuple[float, ...]:
    """Return each person's part of the estimate, scaled so that the squares sum to its variance."""
    count = len(groups)
    scale = math.sqrt(count / (count - 1)) / len(placements) if count > 1 else 0.0
    return tuple(
        scale * math.fsum(placements[position] - estimate for position in group) for group in groups
    )


def _bootstrap(
    members: Sequence[float],
    nonmembers: Sequence[float],
    groups: Sequence[Sequence[int]],
    others: Sequence[Sequence[int]],
    alpha: float,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """Return the alpha / 2 and 1 - alpha / 2 quantiles of the AUC over resampled people."""
    random = Random(seed)
    estimates = []
    for _ in range(resamples):
        drawn = [
            [scores[i] for group in random.choices(side, k=len(side)) for i in group]
            for scores, side in ((members, groups), (nonmembers, others))
        ]
        estimates.append(math.fsum(_placements(*drawn)[0]) / len(drawn[0]))
    estimates.sort()
    # Rounded outwards, so that few resamples give a wider interval, not a narrower one.
    last = resamples - 1
    return estimates[math.floor(alpha / 2 * last)], estimates[math.ceil((1.0 - alpha / 2) * last)]


@dataclass(frozen=True, slots=True)
class PrivLeak:
    """How far an unlearned model's AUC is from a retrained one's, in percent.

    Negative: members are still recognizable (under-unlearned; -100 is perfect separation).
    Positive: they are recognizable because they are less likely than in a model that never saw them
    (over-unlearned). `verdict` is one of these if the interval [low, high] is on one side of 0.
    `indistinguishable` means only that these records do not show a difference; the interval says
    how large it may be.
    """

    estimate: float
    low: float
    high: float
    verdict: Verdict


def privleak(unlearned: Auc, retrained: Auc | None, *, paired: bool = True) -> PrivLeak:
    """Return MUSE's PrivLeak (arXiv 2407.06460) with an interval and a verdict.

    MUSE's AUC is the chance that a *non-member* scores higher, 1 - AUC here. With B = 1 - AUC,
    PrivLeak is 100 * (B_unlearned - B_retrained) / B_retrained, in MUSE's sign: a model that has
    forgotten nothing is at -100 where the retrained one is at chance.

    The interval is that of the ratio of the two B by MOVER (Donner and Zou, Stat Methods Med Res
    21, 2012), from the intervals of both. `paired`: both AUCs are of the same records in the same
    order, and their correlation is taken into account (DeLong's covariance); pass False if they
    are not. In simulations (20 and 50 records on each side, AUCs from .3 to .95) the 95 % interval
    missed the truth on either side in about 4 % of runs.

    Raises ValueError without a retrained model's AUC (an assumed .5 would take a difference between
    the two sets of texts for a leak), if that AUC is 1 (it would divide by 0), and for AUCs of
    different confidence or, if paired, of different records.
    """
    if retrained is None:
        raise ValueError(
            "PrivLeak needs the AUC of a model retrained without the forget records, and has no "
            "default: score the same records with such a model, or leave PrivLeak out"
        )
    if retrained.estimate == 1.0:
        raise ValueError(
            "the retrained model separates members from non-members perfectly although it saw "
            "neither: the two sets of texts differ, so no membership attack on them means "
            "anything"
        )
    if unlearned.confidence != retrained.confidence:
        raise ValueError(
            f"AUCs of confidence {unlearned.confidence} and {retrained.confidence} do not combine"
        )
    above, under = _flipped(unlearned), _flipped(retrained)
    correlation = _correlation(unlearned, retrained) if paired else 0.0
    low = _ratio_low(above, under, correlation)
    inverse = _ratio_low(under, above, correlation)
    high = 1.0 / inverse if inverse > 0.0 else math.inf
    verdict: Verdict = "indistinguishable"
    if high < 1.0 - _ROUNDING:
        verdict = "under-unlearned"
    elif low > 1.0 + _ROUNDING:
        verdict = "over-unlearned"
    estimate = above[0] / under[0]
    return PrivLeak(100 * (estimate - 1), 100 * (low - 1), 100 * (high - 1), verdict)


def auc_difference(one: Auc, other: Auc) -> tuple[float, float, float]:
    """Return the AUC of one model minus another's, on the same records, with its interval.

    This is DeLong's test of two correlated AUCs (Biometrics 44, 1988), by person, with the
    confidence of the two or, if one of them shows no variance, MOVER from their intervals (Zou and
    Donner, Stat Med 27, 2008). Raises ValueError for AUCs of different records.
    """
    _correlation(one, other)  # checks that the records are the same
    difference = one.estimate - other.estimate
    if min(one.variance, other.variance) < 1e-18:
        down = math.hypot(one.estimate - one.low, other.high - other.estimate)
        up = math.hypot(one.high - one.estimate, other.estimate - other.low)
    else:
        pairs = zip(one.influence, other.influence, strict=True)
        deviation = math.sqrt(math.fsum((a - b) ** 2 for a, b in pairs))
        up = down = NormalDist().inv_cdf((1.0 + one.confidence) / 2.0) * deviation
    return difference, max(-1.0, difference - down), min(1.0, difference + up)


def _flipped(auc: Auc) -> tuple[float, float, float]:
    """Return estimate, low and high of MUSE's AUC."""
    return 1.0 - auc.estimate, 1.0 - auc.high, 1.0 - auc.low


def _correlation(one: Auc, other: Auc) -> float:
    """Return the correlation of two AUCs of the same records, 0 if one shows no variance."""
    if (one.members, one.nonmembers, len(one.influence)) != (
        other.members,
        other.nonmembers,
        len(other.influence),
    ):
        raise ValueError(
            f"AUCs of {one.members} and {other.members} members, {one.nonmembers} and "
            f"{other.nonmembers} non-members are not of the same records: pass paired=False"
        )
    spread = math.sqrt(one.variance * other.variance)
    if spread < 1e-18:
        return 0.0
    shared = math.fsum(a * b for a, b in zip(one.influence, other.influence, strict=True))
    return max(-1.0, min(1.0, shared / spread))


def _ratio_low(
    above: tuple[float, float, float], under: tuple[float, float, float], correlation: float
) -> float:
    """Return MOVER's lower limit of `above` / `under`, each an estimate with its limits."""
    top, low, _ = above
    bottom, _, high = under
    constant = low * (2.0 * top - low)
    middle = top * bottom - correlation * (top - low) * (high - bottom)
    leading = high * (2.0 * bottom - high)
    root = middle + math.sqrt(max(0.0, middle * middle - leading * constant))
    return constant / root if root > 0.0 else 0.0
