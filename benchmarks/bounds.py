"""Which upper bound on people's mean leak share is the sharpest that keeps its 5 %?

    python benchmarks/bounds.py [--runs N]

Simulates people with records each, whose leaks depend on each other in every degree, and prints for
each bound how often a model at the limit of 5 % is passed (at most 5 % of runs may be) and how
often a good one, at 1 %. Then it looks for people on whom Gaffke's bound fails, by exact sums over
distributions of three values.

The bounds take each person's share of records that leaked:

- records: Clopper and Pearson's of all records, as if they were independent (not valid);
- any leak: theirs of the people of whom anything leaked;
- Hoeffding (1963) and Bentkus (2004), the better of both (Bates et al. 2021, arXiv 2101.02703);
- empirical Bernstein (Maurer and Pontil 2009, arXiv 0907.3740);
- betting: the hedged capital of Waudby-Smith and Ramdas (arXiv 2010.09686), one side of it;
- Gaffke: the one that gates use.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pytest_unlearn.gates.statistics import (
    clopper_pearson_upper,
    gaffke_upper,
    values_of,
)

ALPHA = 0.05
LIMIT, GOOD = 0.05, 0.01
# (people, records of each)
SIZES = ((64, 5), (128, 2), (128, 5), (256, 2))
# Correlation of two records of a person: independent, some, all alike.
DEPENDENCE = (0.0, 0.3, 1.0)

Shares = npt.NDArray[np.float64]


def shares(
    rng: np.random.Generator, people: int, records: int, rate: float, dependence: float
) -> Shares:
    """Return people's shares of leaked records, in a random order: beta-binomial."""
    if dependence == 1.0:
        return (rng.random(people) < rate).astype(float)
    rates: Shares | float = rate
    if dependence:
        spread = (1.0 - dependence) / dependence
        rates = rng.beta(rate * spread, (1.0 - rate) * spread, size=people)
    return rng.binomial(records, rates, size=people) / records


def of_records(z: Shares, records: int) -> float:
    """Not valid: a person's records are not independent."""
    return _clopper_pearson(round(float(z.sum()) * records), len(z) * records)


def of_any(z: Shares, records: int) -> float:
    """Whoever leaks anything counts as if everything had leaked."""
    return _clopper_pearson(int((z > 0).sum()), len(z))


@functools.cache
def _clopper_pearson(k: int, n: int) -> float:
    return clopper_pearson_upper(k, n, 1.0 - ALPHA)


def hoeffding_bentkus(z: Shares, records: int) -> float:
    """The mean at which the smaller of both tail bounds is alpha."""
    return _hoeffding_bentkus(round(float(z.mean()), 12), len(z))


@functools.cache
def _hoeffding_bentkus(mean: float, n: int) -> float:
    def tail(mu: float) -> float:
        kl = (1 - mean) * math.log((1 - mean) / (1 - mu)) if mean < 1 else 0.0
        kl += mean * math.log(mean / mu) if mean else 0.0
        # P(a binomial is at most k) is at most alpha where its Clopper-Pearson bound is at most mu.
        k = math.ceil(n * mean - 1e-9)
        below = math.fsum(math.comb(n, j) * mu**j * (1 - mu) ** (n - j) for j in range(k + 1))
        return min(math.exp(-n * kl), math.e * below)

    low, high = mean, 1.0 - 1e-12
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if middle <= 0 or tail(middle) > ALPHA else (low, middle)
    return high


def empirical_bernstein(z: Shares, records: int) -> float:
    """From the sample's variance."""
    n, log = len(z), math.log(2.0 / ALPHA)
    return min(
        1.0,
        float(z.mean()) + math.sqrt(2 * z.var(ddof=1) * log / n) + 7 * log / (3 * (n - 1)),
    )


def betting(z: Shares, records: int) -> float:
    """The smallest mean that a bettor against it, who never sees ahead, ends 20 times as rich."""
    n = len(z)
    numbers = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(z)) / (numbers + 1)
    variances = (0.25 + np.cumsum((z - means) ** 2)) / (numbers + 1)
    before = np.concatenate(([0.25], variances[:-1]))
    bets = np.sqrt(2 * math.log(1 / ALPHA) / (n * before))
    low, high = 0.0, 1.0
    for _ in range(40):  # the capital against a mean grows with the mean
        mu = (low + high) / 2
        stakes = np.minimum(bets, 0.75 / (1.0 - mu))
        capital = np.cumsum(np.log1p(stakes * (mu - z)))
        low, high = (low, mu) if capital.max() >= math.log(1 / ALPHA) else (mu, high)
    return high


def gaffke(z: Shares, records: int) -> float:
    """The one that gates use."""
    return _gaffke(values_of(round(float(x), 9) for x in z))


@functools.cache
def _gaffke(values: tuple[tuple[float, int], ...]) -> float:
    return gaffke_upper(values, 1.0 - ALPHA)


BOUNDS: dict[str, Callable[[Shares, int], float]] = {
    "records": of_records,
    "any leak": of_any,
    "Hoeffding-Bentkus": hoeffding_bentkus,
    "empirical Bernstein": empirical_bernstein,
    "betting": betting,
    "Gaffke": gaffke,
}


def passes(people: int, records: int, rate: float, dependence: float, runs: int) -> list[float]:
    """Return for each bound the share of runs in which a model of a rate is passed."""
    rng = np.random.default_rng(0)
    drawn = [shares(rng, people, records, rate, dependence) for _ in range(runs)]
    return [float(np.mean([b(z, records) <= LIMIT for z in drawn])) for b in BOUNDS.values()]


def worst(people: int) -> tuple[float, str]:
    """Return how often Gaffke's bound is under the true mean at worst, and for whom.

    Over distributions of 0 and two other values of a grid, for upper bounds at every mean that
    they can have: the mean is fixed by the probabilities, and all samples are summed exactly.
    """
    highest, where = 0.0, ""
    parts = (0.1, 0.25, 0.5, 0.75, 1.0)
    for a, b in itertools.combinations(parts, 2):
        bound = {
            (i, j): gaffke_upper(
                values_of([a] * i + [b] * j + [0.0] * (people - i - j)), 1.0 - ALPHA
            )
            for i in range(people + 1)
            for j in range(people + 1 - i)
        }
        for p, q in itertools.product(np.linspace(0.0, 0.5, 11), repeat=2):
            mean = p * a + q * b
            wrong = math.fsum(
                math.comb(people, i)
                * math.comb(people - i, j)
                * p**i
                * q**j
                * (1 - p - q) ** (people - i - j)
                for (i, j), upper in bound.items()
                if upper < mean - 1e-9
            )
            if wrong > highest:
                highest, where = wrong, f"{a:g} with {p:.2f}, {b:g} with {q:.2f}, else 0"
    return highest, where


def main() -> int:
    """Print the tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    runs = parser.parse_args().runs
    for rate in (LIMIT, GOOD):
        print(f"\nPassed at a true rate of {rate:.0%}, limit {LIMIT:.0%}, {runs} runs:\n")
        print(f"| people x records | correlation | {' | '.join(BOUNDS)} |")
        print("|---" * (len(BOUNDS) + 2) + "|")
        for (people, records), dependence in itertools.product(SIZES, DEPENDENCE):
            cells = passes(people, records, rate, dependence, runs)
            shown = " | ".join(f"{100 * cell:.1f} %" for cell in cells)
            print(f"| {people} x {records} | {dependence:g} | {shown} |", flush=True)
    print()
    for people in (10, 20, 32):
        highest, where = worst(people)
        print(f"- {people} people: wrong in at most {100 * highest:.2f} %: {where}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
