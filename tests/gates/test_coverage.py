"""Simulated runs: bounds hold at their nominal rate, and gates seldom pass what is over a limit.

People's probes are drawn with every degree of dependence, from none to all of a person's probes
coming out alike. Each run is judged as a whole, through `read` or `judge`, not by a formula.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from pytest_unlearn.gates.case_rows import ProbeRow
from pytest_unlearn.gates.differences import excess_bounds, paired_difference_bounds
from pytest_unlearn.gates.estimates import Sample, read
from pytest_unlearn.gates.gate import parse_gate
from pytest_unlearn.gates.statistics import effective_number, paired_ratio_bounds
from pytest_unlearn.gates.verdicts import Measured, Verdict, judge

RUNS = 4000
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
def rate_bounds(events: int, n: int, units: float) -> tuple[float, float]:
    reading = read("rate", Sample((0.0,) * n, (1.0,) * events + (0.0,) * (n - events), units))
    assert reading is not None
    return reading.lower, reading.upper


def errors_of_rate(
    sizes: Sequence[int], rate: float, dependence: float, units: float
) -> tuple[float, float]:
    """Return how often the lower bound is over the true rate, and the upper one under it."""
    events = draws(sizes, rate, dependence, seed=len(sizes)).sum(axis=1)
    bounds = np.array([rate_bounds(int(k), sum(sizes), units) for k in events])
    return float((bounds[:, 0] > rate).mean()), float((bounds[:, 1] < rate).mean())


@pytest.mark.parametrize("dependence", DEPENDENCE)
@pytest.mark.parametrize("sizes", SIZES)
def test_rate_bounds_hold_for_clustered_probes(sizes: str, dependence: float) -> None:
    """Both one-sided 95 % bounds, at rates around the limits that people set."""
    for rate in (0.02, 0.05, 0.1, 0.4):
        errors = errors_of_rate(SIZES[sizes], rate, dependence, effective_number(SIZES[sizes]))
        assert max(errors) <= 0.05 + SLACK, (rate, errors)


def test_the_simulation_can_tell() -> None:
    """Probes taken for independent although they are not: the bound is wrong in many runs."""
    assert errors_of_rate(SIZES["bundled"], 0.05, 1.0, units=160)[1] > 0.15
    assert errors_of_rate(SIZES["lopsided"], 0.1, 1.0, units=60)[1] > 0.08


@pytest.mark.parametrize("dependence", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sizes", [[1] * 60, [5] * 60, [1, 2, 3, 10] * 25])
def test_a_model_just_over_a_limit_seldom_passes(sizes: list[int], dependence: float) -> None:
    """Whole gates on rows: at 1.02 times the limit, at most 5 % of the runs pass."""
    limit, runs = 0.1, 300
    gate = parse_gate(f"leak.direct<={limit}")
    owners = [owner for owner, size in enumerate(sizes) for _ in range(size)]
    verdict: dict[int, Verdict] = {}

    def judged(leaks: int) -> Verdict:
        if leaks not in verdict:
            rows = [probe(i, owner, i < leaks) for i, owner in enumerate(owners)]
            measured = Measured(rows, rows, [row.id for row in rows], two_states=True)
            verdict[leaks] = judge(gate, measured).verdict
        return verdict[leaks]

    leaks = draws(sizes, 1.02 * limit, dependence, seed=3).sum(axis=1)
    passed = sum(judged(int(count)) is Verdict.PASS for count in leaks)
    assert passed / RUNS <= 0.05 + SLACK
    harmless = draws(sizes, limit / 20, dependence, seed=4).sum(axis=1)[:runs]
    assert sum(judged(int(count)) is Verdict.PASS for count in harmless) > 0.4 * runs


def probe(number: int, owner: int, leaks: bool) -> ProbeRow:
    label = "direct" if leaks else "clean"
    return ProbeRow(
        f"p{number}", "forget", "email", "sql", f"o{owner}", {"label": "direct"}, {"label": label}
    )


def paired(
    bounds: Callable[[float, float, float], tuple[float, float]],
    true: float,
    sizes: Sequence[int],
    rates: tuple[float, float, float],
    dependence: float,
) -> tuple[float, float]:
    """Return error rates of bounds on (both, lost, gained) effective rows of paired outcomes."""
    base_rate, kept, found = rates
    rng = random.Random(5)
    seed = functools.partial(rng.randrange, 2**32)
    total, weight = sum(sizes), effective_number(sizes) / sum(sizes)
    base = draws(sizes, base_rate, dependence, seed())
    cells = np.zeros((RUNS, 3))
    # Of what the base passes, some is kept; of the rest, some is found; both by person as well.
    for person in range(len(sizes)):
        passed = base[:, person]
        both = _part(passed, kept, dependence, seed())
        gained = _part(sizes[person] - passed, found, dependence, seed())
        cells += np.stack([both, passed - both, gained], axis=1)
    assert cells.sum(axis=1).max() <= total
    known = functools.cache(bounds)
    found_bounds = np.array([known(*(float(c) for c in row * weight)) for row in cells])
    return float((found_bounds[:, 0] > true).mean()), float((found_bounds[:, 1] < true).mean())


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
    units = effective_number(sizes)
    new = base * kept + (1 - base) * found

    def loss(both: float, lost: float, gained: float) -> tuple[float, float]:
        return paired_difference_bounds(lost, gained, units)

    assert max(paired(paired_ratio_bounds, new / base, sizes, rates, dependence)) <= 0.05 + SLACK
    assert max(paired(loss, base - new, sizes, rates, dependence)) <= 0.05 + SLACK


def test_a_difference_without_discordant_cases_keeps_a_width() -> None:
    """Half of the cases pass, before and after: that is no proof that nothing was lost."""
    assert paired_difference_bounds(0, 0, 99)[1] == pytest.approx(1 - 0.05 ** (1 / 99))
    assert paired_difference_bounds(100, 0, 100)[1] == 1.0
    # Lost and gained cases exclude each other: their difference varies more than of two samples.
    apart = excess_bounds(30, 100, 30, 100)
    lower, upper = paired_difference_bounds(30, 30, 100)
    assert lower < apart[0] < 0 < apart[1] < upper
    for lost, gained, n in ((-1, 0, 10), (0, -1, 10), (6, 5, 10), (0, 0, 0)):
        with pytest.raises(ValueError, match="lost and gained"):
            paired_difference_bounds(lost, gained, n)


@pytest.mark.parametrize(
    ("n", "controls", "chance", "excess"),
    [(100, 50, 0.02, 0.05), (300, 100, 0.05, 0.01), (60, 30, 0.02, 0.08), (150, 30, 0.1, 0.02)],
)
def test_chance_is_taken_off_conservatively(
    n: int, controls: int, chance: float, excess: float
) -> None:
    """The excess over chance lies within its bounds, however few the controls are."""
    rng = np.random.default_rng(11)
    bounds = functools.cache(excess_bounds)
    found = np.array(
        [
            bounds(int(k), n, int(c), controls)
            for k, c in zip(
                rng.binomial(n, chance + excess, RUNS),
                rng.binomial(controls, chance, RUNS),
                strict=True,
            )
        ]
    )
    assert (found[:, 0] > excess).mean() <= 0.05 + SLACK
    assert (found[:, 1] < excess).mean() <= 0.05 + SLACK


def test_controls_without_a_hit_take_nothing_off() -> None:
    """Few controls that stay silent are no licence to leak."""
    for events in (0, 3, 20):
        with_controls = excess_bounds(events, 60, 0, 5)
        assert with_controls[1] == pytest.approx(rate_bounds(events, 60, 60.0)[1])
