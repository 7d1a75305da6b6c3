"""Scores by hand, AUC against a slow count, and intervals that hold as often as they say."""

from __future__ import annotations

import math
from random import Random
from statistics import NormalDist
from typing import Any

import pytest

from pytest_unlearn.leaks.exact import ExactScores, exact_row, extraction
from pytest_unlearn.leaks.membership import (
    ATTACKS,
    Auc,
    MembershipError,
    attack_score,
    auc,
    parse_attacks,
    privleak,
)
from pytest_unlearn.models.scoring import ValueScores


def row_of(
    log_probs: tuple[float, ...], z_scores: tuple[float, ...], zlib_bytes: int = 21, **more: float
) -> ExactScores:
    """Return the exact scores of a value with these scores a token."""
    greedy = (False,) * len(log_probs)
    scores = ValueScores(log_probs, log_probs, greedy, z_scores, 0.0, 0.0, False, zlib_bytes)
    return ExactScores.from_row({**exact_row(extraction(scores)), **more})


FULL = row_of(
    (-1.0, -4.0, -2.0, -3.0, -0.5),
    (0.5, -2.0, -0.5, -1.5, 1.0),
    gradient_norm=7.5,
    reference_loss=3.0,
)


def slow_auc(members: list[float], nonmembers: list[float]) -> float:
    """Compare each member with each non-member."""
    wins = sum((a > b) + (a == b) / 2 for a in members for b in nonmembers)
    return wins / len(members) / len(nonmembers)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("loss", -2.1),  # -10.5 / 5
        ("zlib", -0.1),  # -2.1 / 21
        ("min_k", -3.5),  # the lowest 2 of 5: -4 and -3
        ("min_k++", -1.75),  # -2 and -1.5
        ("gradnorm", -7.5),
        ("reference", 0.9),  # -2.1 + 3
    ],
)
def test_scores_by_hand(name: str, expected: float) -> None:
    """Each attack by its paper's formula, signed so that members are high."""
    assert attack_score(name, FULL) == pytest.approx(expected)


def test_six_attacks() -> None:
    """The six of open-unlearning, and every one named in this file's golden values."""
    assert set(ATTACKS) == {"loss", "zlib", "min_k", "min_k++", "gradnorm", "reference"}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_was_learnt_scores_higher(name: str) -> None:
    """A record that is likelier, with a smaller gradient, is a member to every attack."""
    learnt = row_of((-0.1, -0.2), (1.0, 2.0), 20, gradient_norm=1.0, reference_loss=3.0)
    unseen = row_of((-3.0, -5.0), (-1.0, -2.0), 20, gradient_norm=9.0, reference_loss=3.0)
    assert attack_score(name, learnt) > attack_score(name, unseen)


def test_zlib_and_reference_correct_for_easy_texts() -> None:
    """Of two texts of the same loss, the richer one and the one harder for others is a member."""
    rich = row_of((-1.0,), (0.0,), 40, reference_loss=6.0)
    poor = row_of((-1.0,), (0.0,), 12, reference_loss=1.0)
    for name in ("zlib", "reference"):
        assert attack_score(name, rich) > attack_score(name, poor)


@pytest.mark.parametrize("name", ["gradnorm", "reference"])
def test_no_score_from_nothing(name: str) -> None:
    """What was not measured is an error, and no score of 0 (open-unlearning gives one)."""
    with pytest.raises(ValueError, match=r"which was not measured"):
        attack_score(name, row_of((-1.0,), (0.0,)))
    with pytest.raises(ValueError, match="NaN"):
        attack_score("reference", ExactScores(0.0, loss=math.inf, reference_loss=math.inf))


def test_attacks_as_written() -> None:
    """Free ones by default, the reference where there is one, and a clear word otherwise."""
    free = ("loss", "zlib", "min_k", "min_k++")
    assert parse_attacks("", has_reference=False) == free
    assert parse_attacks("", has_reference=True) == (*free, "reference")
    assert parse_attacks("all", has_reference=False) == (*free, "gradnorm")
    assert parse_attacks("gradnorm, loss,loss", has_reference=False) == ("gradnorm", "loss")
    assert parse_attacks("none", has_reference=True) == ()
    with pytest.raises(
        MembershipError, match="'min_kk' is not an attack: write some of loss, zlib"
    ):
        parse_attacks("min_kk", has_reference=True)
    with pytest.raises(MembershipError, match="--unlearn-retrained"):
        parse_attacks("reference", has_reference=False)


def test_auc_is_the_slow_count() -> None:
    """On scores with many ties, of unequal numbers."""
    random = Random(5)
    for _ in range(60):
        members = [float(random.randrange(6)) for _ in range(random.randrange(1, 15))]
        others = [float(random.randrange(5)) for _ in range(random.randrange(1, 15))]
        found = auc(members, others, confidence=0.95)
        assert found.estimate == pytest.approx(slow_auc(members, others), abs=1e-12)
        assert 0 <= found.low <= found.estimate <= found.high <= 1
        back = auc(others, members, confidence=0.95)
        assert (back.low, back.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-9)


def test_infinite_scores_are_ranked() -> None:
    """A token of probability 0 makes a record the least likely member."""
    assert auc([1.0, 2.0, 3.0], [-math.inf, 1.5], confidence=0.95).estimate == pytest.approx(5 / 6)


def test_delong_by_hand() -> None:
    """V10 = (1, 1/2, 1), V01 = (1, 2/3): S10 / 3 + S01 / 2 = 1/36 + 1/36."""
    found = auc([3.0, 1.0, 4.0], [0.0, 2.0], confidence=0.95)
    assert found.estimate == pytest.approx(5 / 6)
    assert found.variance == pytest.approx(2 / 36)
    reach = 1.959964 * math.sqrt(2 / 36) / (5 / 36)
    assert found.low == pytest.approx(1 / (1 + math.exp(reach - math.log(5))), abs=1e-6)
    assert found.high == pytest.approx(1 / (1 + math.exp(-reach - math.log(5))), abs=1e-6)


def test_perfect_separation_is_not_certainty() -> None:
    """Of 8 disjoint pairs all came out right: Clopper and Pearson's bound for 8 of 8."""
    found = auc([float(x) for x in range(10, 18)], [float(x) for x in range(9)], confidence=0.95)
    assert (found.estimate, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025 ** (1 / 8))
    turned = auc([float(x) for x in range(9)], [float(x) for x in range(10, 18)], confidence=0.95)
    assert (turned.low, turned.estimate) == (0.0, 0.0)
    assert turned.high == pytest.approx(1 - 0.025 ** (1 / 8))
    by_person = auc(
        [1.0, 2.0, 3.0, 4.0], [0.0] * 4, owners=(list("aabb"), list("cdef")), confidence=0.95
    )
    assert by_person.low == pytest.approx(0.025 ** (1 / 2))


def test_equal_scores_are_not_certainty() -> None:
    """A model that scores everything alike gives .5, with an interval that says how little."""
    found = auc([2.0] * 50, [2.0] * 60, confidence=0.95)
    reach = math.sqrt(math.log(40) / 100)
    assert (found.low, found.estimate, found.high) == pytest.approx((0.5 - reach, 0.5, 0.5 + reach))
    single = auc([2.0], [1.0, 3.0], confidence=0.95)
    assert (single.low, single.high) == (0.0, 1.0)


@pytest.mark.parametrize(("size", "truth"), [(20, 0.5), (20, 0.8), (30, 0.95)])
def test_the_interval_holds(size: int, truth: float) -> None:
    """Of normal scores; 400 runs of a 95 % interval miss at most 33 times (0.1 % by chance)."""
    random = Random(11)
    shift = NormalDist().inv_cdf(truth) * math.sqrt(2)
    missed = 0
    for _ in range(400):
        found = auc(
            [random.gauss(shift, 1) for _ in range(size)],
            [random.gauss() for _ in range(size)],
            confidence=0.95,
        )
        missed += not found.low <= truth <= found.high
    assert missed <= 33


def _people(random: Random, prefix: str) -> tuple[list[float], list[str]]:
    """Twenty people with six records each, which are much alike."""
    scores, owners = [], []
    for person in range(20):
        own = random.gauss()
        scores += [own + 0.3 * random.gauss() for _ in range(6)]
        owners += [f"{prefix}{person}"] * 6
    return scores, owners


def test_records_of_one_person_are_not_independent() -> None:
    """By person the interval holds; with records taken for independent it would not."""
    random = Random(3)
    missed = naive = 0
    for _ in range(200):
        (members, ours), (others, theirs) = _people(random, "m"), _people(random, "n")
        found = auc(members, others, owners=(ours, theirs), confidence=0.95)
        missed += not found.low <= 0.5 <= found.high
        plain = auc(members, others, confidence=0.95)
        naive += not plain.low <= 0.5 <= plain.high
    assert missed <= 20  # 10 expected
    assert naive > 60


def test_the_bootstrap_agrees_and_repeats() -> None:
    """Drawing people gives about the interval of the formula, and the same one for a seed."""
    random = Random(9)
    (members, ours), (others, theirs) = _people(random, "m"), _people(random, "n")
    options: dict[str, Any] = {"owners": (ours, theirs), "resamples": 400}
    found = auc(members, others, seed=1, **{"confidence": 0.95, **options})
    assert found == auc(members, others, seed=1, **{"confidence": 0.95, **options})
    assert found.low != auc(members, others, seed=2, **{"confidence": 0.95, **options}).low
    formula = auc(members, others, owners=(ours, theirs), confidence=0.95)
    assert found.estimate == formula.estimate
    assert found.low == pytest.approx(formula.low, abs=0.06)
    assert found.high == pytest.approx(formula.high, abs=0.06)
    records = auc(members, others, resamples=400, confidence=0.95)
    assert records.high - records.low < 0.7 * (found.high - found.low)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([], [1.0]), {}, "0 members"),
        (([1.0], []), {}, "0 non-members"),
        (([1.0, math.nan], [1.0]), {}, "NaN"),
        (([1.0], [1.0]), {"confidence": 1.0}, "confidence"),
        (([1.0], [1.0]), {"owners": (["a", "b"], ["c"])}, "2 owners .* 1 members"),
        (([1.0], [1.0]), {"owners": (["a"], ["a"])}, "both member and non-member"),
    ],
)
def test_bad_input(
    arguments: tuple[list[float], list[float]], options: dict[str, Any], message: str
) -> None:
    """An empty side has no AUC, least of all .5."""
    with pytest.raises(ValueError, match=message):
        auc(*arguments, **{"confidence": 0.95, **options})


def _normal(shift: float, seed: int, size: int = 60) -> Auc:
    random = Random(seed)
    return auc(
        [random.gauss(shift, 1) for _ in range(size)],
        [random.gauss() for _ in range(size)],
        confidence=0.95,
    )


def test_privleak_by_hand() -> None:
    """In MUSE's AUC: .2 against .5 is -60 %, .75 against .5 +50 %."""
    retrained = Auc(0.5, 0.4, 0.6, 50, 50, confidence=0.95)
    under = privleak(Auc(0.8, 0.7, 0.87, 50, 50, confidence=0.95), retrained)
    assert under.estimate == pytest.approx(-60.0)
    assert under.verdict == "under-unlearned"
    over = privleak(Auc(0.25, 0.2, 0.3, 50, 50, confidence=0.95), retrained)
    assert over.estimate == pytest.approx(50.0)
    assert over.verdict == "over-unlearned"
    near = privleak(Auc(0.55, 0.45, 0.65, 50, 50, confidence=0.95), retrained)
    assert near.estimate == pytest.approx(-10.0)
    assert near.low < 0 < near.high
    assert near.verdict == "indistinguishable"
    # MOVER without correlation, by its formula: B = .2 [.13, .3] over .5 [.4, .6].
    inner = 0.1**2 - 0.13 * 0.27 * 0.6 * 0.4
    assert under.low == pytest.approx(100 * ((0.1 - math.sqrt(inner)) / (0.6 * 0.4) - 1))
    inner = 0.1**2 - 0.3 * 0.1 * 0.4 * 0.6
    assert under.high == pytest.approx(100 * ((0.1 + math.sqrt(inner)) / (0.4 * 0.6) - 1))


def test_privleak_at_the_ends() -> None:
    """Nothing forgotten is -100; pushed to AUC 0 is as far over as can be."""
    retrained = _normal(0.0, 1)
    nothing = privleak(auc([2.0] * 60, [1.0] * 60, confidence=0.95), retrained)
    assert nothing.estimate == -100.0
    assert -100.0 == nothing.low < nothing.high < 0
    assert nothing.verdict == "under-unlearned"
    pushed = privleak(auc([1.0] * 60, [2.0] * 60, confidence=0.95), retrained)
    assert pushed.estimate == pytest.approx(100 * (1 / (1 - retrained.estimate) - 1))
    assert pushed.verdict == "over-unlearned"
    assert math.isfinite(pushed.high)


def test_the_retrained_model_against_itself() -> None:
    """Equal scores: no difference and, as the two are paired, next to no doubt about it."""
    retrained = _normal(0.4, 2)
    found = privleak(retrained, retrained)
    assert found.estimate == 0.0
    assert -1.0 < found.low <= 0.0 <= found.high < 1.0
    assert found.verdict == "indistinguishable"
    apart = privleak(retrained, retrained, paired=False)
    assert apart.low < -10
    assert apart.high > 10


def test_privleak_does_not_assume_chance() -> None:
    """A set of texts that any model tells apart (AUC .8 retrained) is no leak of a like model."""
    unlearned, retrained = _normal(1.2, 4), _normal(1.2, 5)
    assert unlearned.low > 0.5
    assert privleak(unlearned, retrained, paired=False).verdict == "indistinguishable"
    assert privleak(_normal(0.0, 6), retrained, paired=False).verdict == "over-unlearned"


def test_the_paired_interval_holds() -> None:
    """Correlated scores of the same records; 300 runs of 95 % miss at most 27 times."""
    random = Random(8)
    shift = NormalDist().inv_cdf(0.8) * math.sqrt(2)
    truth = 100 * (0.2 / 0.5 - 1)
    missed = 0
    paired = apart = 0.0
    for _ in range(300):
        common = [random.gauss() for _ in range(60)]
        unlearned = [x + 0.5 * random.gauss() for x in common]
        retrained = [x + 0.5 * random.gauss() for x in common]
        unlearned[:30] = [x + shift * math.sqrt(1.25) for x in unlearned[:30]]
        aucs = (
            auc(unlearned[:30], unlearned[30:], confidence=0.95),
            auc(retrained[:30], retrained[30:], confidence=0.95),
        )
        found = privleak(*aucs)
        missed += not found.low <= truth <= found.high
        paired += found.high - found.low
        wide = privleak(*aucs, paired=False)
        apart += wide.high - wide.low
    assert missed <= 27
    assert paired < 0.8 * apart


def test_privleak_refuses() -> None:
    """No default for a missing retrained model, no division by nothing, no mixed records."""
    found = _normal(0.4, 3)
    with pytest.raises(ValueError, match="retrained without the forget records"):
        privleak(found, None)
    with pytest.raises(ValueError, match="two sets of texts differ"):
        privleak(found, auc([2.0] * 60, [1.0] * 60, confidence=0.95))
    with pytest.raises(ValueError, match="not of the same records"):
        privleak(found, _normal(0.0, 1, size=50))
    with pytest.raises(ValueError, match="confidence"):
        privleak(found, auc([1.0, 3.0], [2.0, 0.0], confidence=0.9))
    other = _normal(0.0, 1, size=50)
    expected = 100 * ((1 - found.estimate) / (1 - other.estimate) - 1)
    assert privleak(found, other, paired=False).estimate == pytest.approx(expected)
