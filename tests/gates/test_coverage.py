"""Simulated runs: bounds hold at their nominal rate, and gates seldom pass what is over a limit.

People's probes are drawn with every degree of dependence, from none to all of a person's probes
coming out alike. Each run is judged as a whole, through `read` or `judge`, not by a formula.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from pytest_unlearn.gates.case_rows import ProbeRow
from pytest_unlearn.gates.estimates import Sample, change, read
from pytest_unlearn.gates.gate import Gate, parse_gate
from pytest_unlearn.gates.statistics import (
    Values,
    clopper_pearson_upper,
    gaffke_lower,
    gaffke_upper,
    net_bounds,
    values_of,
)
from pytest_unlearn.gates.verdicts import Measured, Verdict, judge
from pytest_unlearn.leaks.outcome import Outcome

RUNS = 4000
# Runs whose bounds take an integral each.
FEW = 300
# Three standard errors of an error rate of 5 % in so many runs.
SLACK = 3 * (0.05 * 0.95 / RUNS) ** 0.5
# 32 people with 5 probes each, as in the bundled data; unequal ones; a few with very many.
SIZES = {
    "alone": [1] * 60,
    "bundled": [5] * 32,
    "unequal": [1, 2, 3, 10] * 15,
    "lopsided": [1] * 54 + [40] * 6,
}
DEPENDENCE = [0.0, 0.1, 0.5, 1.0]

Counts = npt.NDArray[np.int64]


def draws(sizes: Sequence[int], rate: float, dependence: float, seed: int) -> Counts:
    """Return successes by run and person: beta-binomial with this intra-person correlation."""
    rng = np.random.default_rng(seed)
    shape = (RUNS, len(sizes))
    if dependence == 0:
        return rng.binomial(sizes, rate, size=shape)
    if dependence == 1:
        return (rng.random(shape) < rate) * np.asarray(sizes)
    spread = (1 - dependence) / dependence
    return rng.binomial(sizes, rng.beta(rate * spread, (1 - rate) * spread, size=shape))


@functools.cache
def bounds_of(values: Values, confidence: float = 0.95) -> tuple[float, float]:
    return gaffke_lower(values, confidence), gaffke_upper(values, confidence)


def errors_of_rate(events: Counts, sizes: Sequence[int], rate: float) -> tuple[float, float]:
    """Return how often the lower bound is over the true mean of means, and the upper under it."""
    means = np.round(events / np.asarray(sizes), 9)
    bounds = np.array([bounds_of(values_of(map(float, run))) for run in means])
    return float((bounds[:, 0] > rate).mean()), float((bounds[:, 1] < rate).mean())


@pytest.mark.parametrize("dependence", DEPENDENCE)
@pytest.mark.parametrize("sizes", ["alone", "bundled", "unequal"])
def test_rate_bounds_hold_for_clustered_probes(sizes: str, dependence: float) -> None:
    """Both one-sided 95 % bounds, at rates around the limits that people set."""
    for rate in (0.02, 0.1) if dependence else (0.02,):
        events = draws(SIZES[sizes], rate, dependence, seed=len(SIZES[sizes]))
        errors = errors_of_rate(events[:FEW], SIZES[sizes], rate)
        assert max(errors) <= 0.05 + 3 * (0.05 * 0.95 / FEW) ** 0.5, (rate, errors)


def kish_upper(events: int, sizes: Sequence[int]) -> float:
    """Return the bound on all rows with an effective number of people: not safe, the control."""
    units = sum(sizes) ** 2 / sum(size * size for size in sizes)
    return clopper_pearson_upper(events / sum(sizes) * units, units, confidence=0.95)


@pytest.mark.parametrize("sizes", ["unequal", "lopsided"])
@pytest.mark.parametrize("steep", [1.0, -1.0])
def test_people_with_more_records_may_leak_more(sizes: str, steep: float) -> None:
    """Rates that grow (or fall) with a person's number of records: the mean over people holds."""
    people = np.asarray(SIZES[sizes])
    weights = people.astype(float) ** steep
    rates = 0.05 * weights / weights.mean()
    rng = np.random.default_rng(2)
    leaks = (rng.random((FEW, len(people))) < rates) * people  # a person's records come out alike
    wrong = errors_of_rate(leaks, SIZES[sizes], float(rates.mean()))[1]
    assert wrong <= 0.05 + 3 * (0.05 * 0.95 / FEW) ** 0.5, wrong


def test_the_effective_number_would_not_do() -> None:
    """That is what gates did: all rows together, as many as an effective number of people."""
    sizes = [1] * 1000 + [10] * 30
    rates = np.where(np.asarray(sizes) > 1, 0.2, 0.0)
    leaks = (np.random.default_rng(2).random((RUNS, len(sizes))) < rates) * np.asarray(sizes)
    true = float((rates * sizes).sum() / sum(sizes))
    known = functools.cache(lambda k: kish_upper(k, sizes))
    assert np.mean([known(int(k)) < true for k in leaks.sum(axis=1)]) > 0.1


def test_the_simulation_can_tell() -> None:
    """Probes taken for independent although they are not: the bound is wrong in many runs."""
    events = draws(SIZES["bundled"], 0.05, 1.0, seed=32).sum(axis=1)
    alone = np.array([clopper_pearson_upper(int(k), 160, confidence=0.95) for k in events])
    assert (alone < 0.05).mean() > 0.15


@pytest.mark.parametrize("people", [32, 64, 100])
@pytest.mark.parametrize("part", [0.2, 0.5, 0.8, 1.0])
def test_no_distribution_of_people_breaks_the_bound(people: int, part: float) -> None:
    """Worst cases are two-valued: so many people with this part of their records, exactly summed.

    The model is at 1.001 times the limit, which is what it would pass at most.
    """
    limit = 0.05
    rate = 1.001 * limit / part
    passed = math.fsum(
        math.comb(people, k) * rate**k * (1 - rate) ** (people - k)
        for k in range(people + 1)
        if gaffke_upper(values_of([part] * k + [0.0] * (people - k)), confidence=0.95) <= limit
    )
    assert passed <= 0.05


def test_a_good_model_passes_more_often() -> None:
    """True rate 1 %, limit 5 %, 100 people with 5 records each, which come out by themselves."""
    sizes = [5] * 100
    runs = draws(sizes, 0.01, 0.0, seed=5)[:FEW]
    passes = np.mean([bounds_of(values_of(map(float, run / 5)))[1] <= 0.05 for run in runs])
    by_people = np.mean([kish_upper(int(k), sizes) <= 0.05 for k in runs.sum(axis=1)])
    assert passes > 0.9 > 0.8 > by_people


@pytest.mark.parametrize("dependence", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sizes", [[1] * 60, [5] * 60, [1, 2, 3, 10] * 25])
def test_a_model_just_over_a_limit_seldom_passes(sizes: list[int], dependence: float) -> None:
    """Whole gates on rows: at 1.02 times the limit, at most 5 % of the runs pass."""
    limit = 0.1
    gate = parse_gate(f"leak.direct<={limit}")

    def passed(rate: float, seed: int) -> float:
        runs = draws(sizes, rate, dependence, seed)[:300]
        verdicts = [judged(gate, sizes, tuple(map(int, run))) for run in runs]
        return verdicts.count(Verdict.PASS) / len(verdicts)

    assert passed(1.02 * limit, 3) <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5
    assert passed(limit / 20, 4) > 0.4


def judged(gate: Gate, sizes: Sequence[int], leaks: tuple[int, ...]) -> Verdict:
    rows = [
        probe(1000 * owner + i, owner, i < out)
        for owner, (size, out) in enumerate(zip(sizes, leaks, strict=True))
        for i in range(size)
    ]
    return judge(
        gate, Measured(rows, rows, [row.id for row in rows], two_states=True, confidence=0.95)
    ).verdict


def probe(number: int, owner: int, leaks: bool) -> ProbeRow:
    label = "direct" if leaks else "clean"
    return ProbeRow(
        f"p{number}", "forget", "email", "sql", f"o{owner}", Outcome("direct"), Outcome(label)
    )


def paired(
    sizes: Sequence[int], rates: tuple[float, float, float], dependence: float
) -> npt.NDArray[np.float64]:
    """Return lower and upper bounds of ratio and of loss in each run: of paired outcomes."""
    base_rate, kept, found = rates
    rng = random.Random(5)
    seed = functools.partial(rng.randrange, 2**32)
    size = np.asarray(sizes)
    base = draws(sizes, base_rate, dependence, seed())[:FEW]
    # Of what the base passes, some is kept; of the rest, some is found; both by person as well.
    new = np.stack(
        [
            _part(base[:, n], kept, dependence, seed())
            + _part(size[n] - base[:, n], found, dependence, seed())
            for n in range(len(sizes))
        ],
        axis=1,
    )
    people = tuple(f"{n}" for n in range(len(sizes)))
    results = []
    for before, after in zip(base / size, new / size, strict=True):
        run = Sample(tuple(map(float, before)), tuple(map(float, after)), people)
        ratio, loss = read("ratio", run, confidence=0.95), read("loss", run, confidence=0.95)
        assert ratio
        assert loss
        results.append((ratio.lower, ratio.upper, loss.lower, loss.upper))
    return np.array(results)


def _part(counts: Counts, rate: float, dependence: float, seed: int) -> Counts:
    rng = np.random.default_rng(seed)
    if dependence == 0:
        return rng.binomial(counts, rate)
    return counts * (rng.random(len(counts)) < rate)


PAIRED = [
    ([2] * 64, (0.98, 0.93, 0.1), 1.0),
    ([2] * 64, (0.6, 0.9, 0.02), 1.0),
    ([2] * 64, (0.6, 0.9, 0.02), 0.0),
    ([1] * 100, (1.0, 0.96, 0.0), 0.0),
    ([1, 3] * 40, (0.9, 0.85, 0.1), 1.0),
]


@pytest.mark.parametrize(("sizes", "rates", "dependence"), PAIRED)
def test_paired_bounds_hold_for_clustered_tasks(
    sizes: list[int], rates: tuple[float, float, float], dependence: float
) -> None:
    """Ratio and difference of pass rates before and after, wordings of a task alike or not."""
    base, kept, found = rates
    new = base * kept + (1 - base) * found
    bounds = paired(sizes, rates, dependence)
    for column, true in ((0, new / base), (2, base - new)):
        wrong = (bounds[:, column] > true).mean(), (bounds[:, column + 1] < true).mean()
        assert max(wrong) <= 0.05 + 3 * (0.05 * 0.95 / FEW) ** 0.5, (column, wrong)


def test_a_difference_without_discordant_cases_keeps_a_width() -> None:
    """Half of the cases pass, before and after: that is no proof that nothing was lost."""
    means = [1.0] * 50 + [0.0] * 49
    found = change(means, means, 0.95)
    assert found.upper == pytest.approx(1 - 0.05 ** (1 / 99), abs=1e-8)
    assert found.lower == pytest.approx(-found.upper, abs=1e-8)


@pytest.mark.parametrize(
    ("n", "controls", "chance", "share"),
    [(100, 50, 0.02, 0.05), (300, 100, 0.05, 0.01), (60, 30, 0.02, 0.08), (150, 30, 0.1, 0.02)],
)
def test_chance_is_taken_off_conservatively(
    n: int, controls: int, chance: float, share: float
) -> None:
    """The memorized share lies within its bounds, however few the controls are."""
    rng = np.random.default_rng(11)

    @functools.cache
    def bounds(out: int, by_chance: int) -> tuple[float, float]:
        sides = []
        for k, of in ((out, n), (by_chance, controls)):
            sides.append(
                (
                    k / of,
                    1 - clopper_pearson_upper(of - k, of, confidence=0.95),
                    clopper_pearson_upper(k, of, confidence=0.95),
                )
            )
        return net_bounds(sides[0], sides[1])

    out = rng.binomial(n, chance + (1 - chance) * share, RUNS)
    by_chance = rng.binomial(controls, chance, RUNS)
    found = np.array([bounds(int(k), int(c)) for k, c in zip(out, by_chance, strict=True)])
    assert (found[:, 0] > share).mean() <= 0.05 + SLACK
    assert (found[:, 1] < share).mean() <= 0.05 + SLACK
