"""Simulated runs of whole gates, at two confidences: how often a wrong model is passed.

`test_coverage.py` looks at the bounds; here each run is judged as rows, by `judge` or `compare`,
for every kind of estimate. The model is just over the limit, which is the hardest case.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from pytest_unlearn.gates.case_rows import ProbeRow, TaskRow
from pytest_unlearn.gates.estimates import Sample, read
from pytest_unlearn.gates.gate import parse_gate
from pytest_unlearn.gates.saved_runs import compare, mcnemar
from pytest_unlearn.gates.statistics import clopper_pearson_upper
from pytest_unlearn.gates.verdicts import Measured, Verdict, judge
from pytest_unlearn.leaks.exact import ExactScores, RankedExposure
from pytest_unlearn.leaks.outcome import Outcome

RUNS = 1500
CONFIDENCES = (0.95, 0.99)
# Rows of one person, or wordings of one task; all of them come out alike, the worst case.
EACH = 2
PEOPLE = tuple(map(str, range(100)))


def allowed(confidence: float) -> float:
    """Return the error rate that a confidence allows, and three standard errors of it."""
    alpha = 1 - confidence
    return alpha + 3 * float(np.sqrt(alpha * confidence / RUNS))


def probes(split: str, cells: Sequence[tuple[str, str, int]]) -> list[ProbeRow]:
    """Return `EACH` probes of as many people as stand behind each pair of outcomes."""
    labels = [(base, tested) for base, tested, count in cells for _ in range(count)]
    return [
        ProbeRow(
            f"{split}{person}-{number}",
            split,
            "email",
            "sql",
            f"{split}{person}",
            Outcome(base),
            Outcome(tested),
        )
        for person, (base, tested) in enumerate(labels)
        for number in range(EACH)
    ]


def tasks(cells: Sequence[tuple[str, str, int]]) -> list[TaskRow]:
    statuses = [(base, tested) for base, tested, count in cells for _ in range(count)]
    return [
        TaskRow(f"t{task}-{number}", f"t{task}", base, tested)
        for task, (base, tested) in enumerate(statuses)
        for number in range(EACH)
    ]


def rate(leaks: int, chance: int) -> list[Any]:
    """120 people to be forgotten, 60 controls."""
    return [
        *probes("forget", [("direct", "direct", leaks), ("direct", "clean", 120 - leaks)]),
        *probes("control", [("clean", "direct", chance), ("clean", "clean", 60 - chance)]),
    ]


def paired(split: str | None, both: int, lost: int, gained: int, neither: int) -> list[Any]:
    yes, no = ("passed", "crash") if split is None else ("direct", "clean")
    cells = [(yes, yes, both), (yes, no, lost), (no, yes, gained), (no, no, neither)]
    return list(tasks(cells) if split is None else probes(split, cells))


# A gate, the rows of a run from its counts, and how these are drawn: people or tasks, with the
# probability of each pair of outcomes. The true figure is 2 % of the limit on its wrong side.
GATES: dict[str, tuple[Callable[..., list[Any]], int, tuple[float, ...]]] = {
    # both, lost, gained, neither
    "passk.retained>=0.9": (functools.partial(paired, None), 60, (0.8, 0.118, 0.01, 0.072)),
    "passk.drop<=0.1": (functools.partial(paired, None), 60, (0.7, 0.122, 0.02, 0.158)),
    "people.retained>=0.8": (functools.partial(paired, "retain"), 50, (0.7, 0.2, 0.0056, 0.0944)),
    "leak.drop>=0.5": (functools.partial(paired, "forget"), 50, (0.4, 0.39, 0.0029, 0.2071)),
    "passk.rate>=0.8": (functools.partial(paired, None), 60, (0.78, 0.2, 0.004, 0.016)),
}


@pytest.mark.parametrize("confidence", CONFIDENCES)
@pytest.mark.parametrize("text", GATES)
def test_paired_gates_seldom_pass_what_is_over_their_limit(text: str, confidence: float) -> None:
    """Ratios, drops, losses and floors, over tasks and over people."""
    rows_of, n, chances = GATES[text]
    gate = parse_gate(text)
    assert sum(chances) == pytest.approx(1)
    both, lost, gained, _ = chances
    figure = {
        "ratio": (both + gained) / (both + lost),
        "drop": 1 - (both + gained) / (both + lost),
        "loss": lost - gained,
        "floor": both + gained,
    }[gate.metric.type]
    over = figure / gate.limit if gate.metric.operator == "<=" else gate.limit / figure
    assert 1.01 < over < 1.03

    @functools.cache
    def passes(*counts: int) -> bool:
        rows = rows_of(*counts)
        run = Measured(rows, rows, [row.id for row in rows], True, confidence=confidence)
        return judge(gate, run).verdict is Verdict.PASS

    drawn = np.random.default_rng(n).multinomial(n, chances, RUNS)
    assert np.mean([passes(*map(int, counts)) for counts in drawn]) <= allowed(confidence)
    # It is no gate that never passes: a model that loses (or leaves) next to nothing does.
    upright = (both + lost + gained, 0, 0, n) if gate.metric.type != "drop" else (0, 1, 0, n)
    fine = [round(n * part) if part < n else 0 for part in upright]
    fine[3] = n - sum(fine[:3])
    assert passes(*fine)


@pytest.mark.parametrize("confidence", CONFIDENCES)
@pytest.mark.parametrize("by_chance", [0.0, 0.03, 0.1])
def test_chance_passes_no_more(by_chance: float, confidence: float) -> None:
    """Controls leak too: what is over the limit beyond that seldom passes, however much it is."""
    limit = 0.1
    assert passed_by(f"leak.direct<={limit}", limit, by_chance, confidence) <= allowed(confidence)
    # The simulation can tell: alike rows that are taken for independent are passed too often.
    if not by_chance:
        alone = f"leak.direct[unit=case]<={limit}"
        assert passed_by(alone, limit, by_chance, confidence) > 1.5 * allowed(confidence)


def passed_by(text: str, limit: float, by_chance: float, confidence: float) -> float:
    """Return the share of runs in which a gate passes a model 2 % over its limit, over chance."""
    gate = parse_gate(text)

    @functools.cache
    def passes(leaks: int, chance: int) -> bool:
        rows = rate(leaks, chance)
        run = Measured(rows, rows, [row.id for row in rows], True, confidence=confidence)
        return judge(gate, run).verdict is Verdict.PASS

    rng = np.random.default_rng(3)
    leaks = rng.binomial(120, by_chance + 1.02 * limit, RUNS)
    chance = rng.binomial(60, by_chance, RUNS)
    assert passes(0, 0)
    return float(np.mean([passes(int(k), int(c)) for k, c in zip(leaks, chance, strict=True)]))


@pytest.mark.parametrize("confidence", CONFIDENCES)
@pytest.mark.parametrize("text", ["leak.direct<=0", "exposure.max<=10"])
def test_what_no_event_excludes(text: str, confidence: float) -> None:
    """A gate that counts says which share `n` silent people exclude: a model with that share shows
    none in at most 5 % (or 1 %) of runs, and one event fails the gate."""
    gate, people = parse_gate(text), 60
    bits = {
        known: ExactScores(-1.0, exposure=RankedExposure(11.0 if known else 1.0))
        for known in (True, False)
    }

    def run(events: int) -> Any:
        rows = [
            ProbeRow(
                f"p{n}",
                "forget",
                "email",
                "sql",
                f"o{n // EACH}",
                Outcome("direct"),
                Outcome("direct" if n < events else "clean"),
                base_exact=bits[True],
                unlearned_exact=bits[n < events],
            )
            for n in range(EACH * people)
        ]
        facts = Measured(rows, rows, [row.id for row in rows], True, confidence=confidence)
        return judge(gate, facts)

    excluded = clopper_pearson_upper(0, people, confidence)
    assert f"a share over {excluded:.1%}" in run(0).advice
    assert run(1).verdict is Verdict.FAIL
    silent = np.random.default_rng(8).binomial(people, excluded, RUNS) == 0
    assert silent.mean() == pytest.approx(1 - confidence, abs=allowed(confidence) + confidence - 1)


@pytest.mark.parametrize("confidence", CONFIDENCES)
def test_expected_shares_that_are_no_counts(confidence: float) -> None:
    """leak@k gives each value a probability: the bounds hold for any spread of them."""
    rng = np.random.default_rng(5)
    for mean, spread in ((0.05, 0.2), (0.05, 5.0), (0.3, 1.0)):
        scores = rng.beta(mean * spread, (1 - mean) * spread, size=(100, 100)).round(3)
        wrong = [0, 0]
        for run in scores:
            found = read("rate", Sample((1.0,) * 100, tuple(map(float, run)), PEOPLE), confidence)
            assert found is not None
            wrong[0] += found.lower > mean
            wrong[1] += found.upper < mean
        assert max(wrong) / len(scores) <= allowed(confidence) + 0.005, (mean, spread, wrong)


@pytest.mark.parametrize("confidence", CONFIDENCES)
def test_intervals_of_a_change_hold(confidence: float) -> None:
    """Of paired runs: the two-sided interval misses on either side in half of what is left."""
    gate = parse_gate("leak.direct<=50%")
    # Leaks then and now, only then, only now, never; the true change is -7 points.
    chances, people = (0.1, 0.1, 0.03, 0.77), 80

    @functools.cache
    def ends(*counts: int) -> tuple[float, float]:
        rows = paired("forget", *counts)
        then = [ProbeRow(r.id, r.split, r.kind, r.carrier, r.owner, r.base, r.base) for r in rows]
        found = compare(gate, then, rows, confidence)
        assert found is not None
        assert found.interval is not None
        return found.interval

    drawn = np.random.default_rng(6).multinomial(people, chances, RUNS // 2)
    found = np.array([ends(*map(int, counts)) for counts in drawn])
    half = (1 - confidence) / 2
    slack = 3 * float(np.sqrt(half * (1 - half) / len(found)))
    assert (found[:, 0] > -0.07).mean() <= half + slack
    assert (found[:, 1] < -0.07).mean() <= half + slack


def test_mcnemar_seldom_sees_a_change_where_there_is_none() -> None:
    """Exact: at most 5 % of p-values are 0.05 or less, 1 % 0.01, at any number of changes."""
    rng = np.random.default_rng(7)
    for changes in (4, 15, 60):
        better = rng.binomial(changes, 0.5, RUNS)
        known = functools.cache(lambda b, n=changes: mcnemar(b, n - b))
        p = np.array([known(int(b)) for b in better])
        for confidence in CONFIDENCES:
            assert (p <= 1 - confidence).mean() <= allowed(confidence)
    assert mcnemar(0, 15) < 0.001
