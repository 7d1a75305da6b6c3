"""The figures of a result and of a sweep: which drawing shows what, and what it says in words."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from pytest_unlearn.gates.case_rows import State, TaskRow
from pytest_unlearn.gates.estimates import Share, percent, share
from pytest_unlearn.gates.metrics import METRICS
from pytest_unlearn.leaks.exact import mean_leak_at
from pytest_unlearn.leaks.outcome import LABELS
from pytest_unlearn.reports.comparison import (
    ABILITY,
    LEAK,
    Stage,
    Standing,
    front_sentence,
    percent_of,
    stage_sentence,
)
from pytest_unlearn.reports.html import charts
from pytest_unlearn.reports.html.charts import BeforeAfter, Figure, Mark, Series
from pytest_unlearn.reports.robustness import attack_figures, courses, half_way
from pytest_unlearn.reports.tables import (
    PAIR,
    exact_scores,
    forget_rows,
    membership_aucs,
    membership_table,
    transitions,
)
from pytest_unlearn.run.result import Result

_DOTS = (("dot base", "base"), ("dot tested", "tested"))
# Four points a decade up to a million samples.
_SAMPLES = tuple(round(10 ** (step / 4)) for step in range(25))


def figures(result: Result) -> Iterator[Figure]:
    """Yield the figures that the result has data for."""
    for make in _FIGURES:
        figure = make(result)
        if figure is not None:
            yield figure


def _pair(measured: Share, label: str) -> BeforeAfter:
    return BeforeAfter(
        label,
        (measured.rate("base"), *_drawn(measured.interval("base"))),
        (measured.rate("tested"), *_drawn(measured.interval("tested"))),
    )


def _drawn(ends: tuple[float, float]) -> tuple[float, float]:
    """Keep bounds on the scale: what is left after chance can be negative."""
    low, high = ends
    return max(0.0, low), max(0.0, high)


def _share_head(result: Result) -> list[str]:
    ends = f"{result.run.bound_head}s"
    return ["base", ends, "tested", ends, "n", result.run.bound_head]


def _share_cells(measured: Share) -> list[str]:
    """Return the cells of every report, plus the bounds that are drawn."""
    base, tested, n, bound = measured.cells
    return [
        base,
        measured.interval_text("base"),
        tested,
        measured.interval_text("tested"),
        n,
        bound,
    ]


def _ends(result: Result) -> str:
    return f"one-sided {percent(result.run.confidence)} bounds"


def _kinds(result: Result) -> Figure | None:
    rows = forget_rows(result.rows, "direct")
    kinds = sorted({row.kind for row in rows})
    if not kinds:
        return None
    groups: list[tuple[str, dict[str, str]]] = [("all", {})]
    if len(kinds) > 1:
        groups += [(kind, {"kind": kind}) for kind in kinds]
    parts = [
        (name, part)
        for name, filters in groups
        if (part := share(METRICS["leak.direct"], result.rows, filters, result.run.confidence))
    ]
    height, body = charts.pairs_of_dots([_pair(part, name) for name, part in parts], None, True)
    everyone = parts[0][1]
    lead = (
        f"Of {everyone.n} probes of people to be forgotten, the base gave away "
        f"{everyone.shown('base')}, the tested model {everyone.shown('tested')}."
    )
    return Figure(
        "leaks-by-kind",
        "Direct leaks by kind, before and after",
        lead,
        "A line for each kind of value. Two dots on it are the leak rates of base and tested "
        f"model from 0 to 100 %, each between its {_ends(result)}. {lead}",
        height,
        body,
        _DOTS,
        [["kind", *_share_head(result)], *([name, *_share_cells(part)] for name, part in parts)],
    )


def _flow(result: Result) -> Figure | None:
    rows = forget_rows(result.rows, "direct")
    if not rows:
        return None
    counts: Counter[tuple[str, str]] = Counter(
        (row.base.label, row.unlearned.label) for row in rows
    )
    height, body = charts.flow(counts, LABELS)
    moved = counts["direct", "indirect"]
    still = counts["direct", "direct"]
    direct = sum(count for (before, _), count in counts.items() if before == "direct")
    lead = (
        f"Of {direct} direct leaks of the base, {still} are still direct and {moved} became "
        "indirect: another real value, or the same one in disguise, comes out instead."
    )
    return Figure(
        "flow",
        "What became of each outcome",
        lead,
        "A flow from the outcomes on the base, on the left, to those on the tested model, on the "
        "right; the wider a ribbon, the more probes. " + lead,
        height,
        body,
        (),
        transitions(rows),
    )


_CURVES: tuple[tuple[str, str, State, str], ...] = (
    ("base", "forget", "base", "people to be forgotten, base"),
    ("tested", "forget", "unlearned", "people to be forgotten, tested"),
    ("null", "control", "unlearned", "people never seen, tested"),
)


def _leak_at(result: Result) -> Figure | None:
    curves, key = {}, []
    for css, split, state, name in _CURVES:
        scored = exact_scores(result.rows, split, state)
        if scored:
            curves[css] = [(k, mean_leak_at(scored, k)) for k in _SAMPLES]
            key.append((f"curve {css}", name))
    if not {"base", "tested"} <= set(curves):
        return None
    height, body = charts.log_curves(curves)
    once, million = (dict(curves["tested"])[k] for k in (1, _SAMPLES[-1]))
    lead = (
        f"A single sample brings out {once:.2%} of the values from the tested model, a million "
        f"samples {million:.2%} (in expectation, by exact probabilities)."
    )
    shown = _SAMPLES[::4]
    return Figure(
        "leak-at-k",
        "Leaks by number of samples (leak@k)",
        lead,
        "Curves over 1 to 1,000,000 samples: the expected share of values that this many samples "
        "bring out, from 0 to 100 %. " + lead,
        height,
        body,
        tuple(key),
        [
            ["model", *(f"k = {k:,}" for k in shown)],
            *(
                [name, *(f"{dict(curves[css])[k]:.3%}" for k in shown)]
                for css, _, _, name in _CURVES
                if css in curves
            ),
        ],
    )


def _exposure(result: Result) -> Figure | None:
    by_state = {
        name: [s.exposure for s in exact_scores(result.rows, "forget", state) if s.exposure]
        for state, name in PAIR
    }
    if not all(by_state.values()):
        return None
    everything = [exposure for exposures in by_state.values() for exposure in exposures]
    count = max(1, math.ceil(max(math.log2(e.size) for e in everything)))
    bins = {
        state: [
            sum(min(int(e.bits), count - 1) == number for e in exposures) / len(exposures)
            for number in range(count)
        ]
        for state, exposures in by_state.items()
    }
    # With uniform ranks, the share with b to b + 1 bits is 2^-b - 2^-(b + 1); the last bin has the
    # rest.
    null = [2.0**-b - (2.0 ** -(b + 1) if b < count - 1 else 0.0) for b in range(count)]
    height, body = charts.histogram(bins, null)
    means = {state: sum(e.bits for e in es) / len(es) for state, es in by_state.items()}
    lead = (
        f"Mean exposure was {means['base']:.1f} bits on the base and is {means['tested']:.1f} on "
        "the tested model; values that a model never saw have 1.4."
    )
    return Figure(
        "exposure",
        "Exposure against chance",
        lead,
        "A histogram of exposure, the rank of the true value among decoys in bits, for base and "
        "tested model, with steps for what values never seen would show. " + lead,
        height,
        body,
        (("bar base", "base"), ("bar tested", "tested"), ("curve null", "never seen (chance)")),
        [
            ["bits", "base", "tested", "chance"],
            *(
                [f"{b} to {b + 1}", *(f"{bins[s][b]:.1%}" for s in bins), f"{null[b]:.1%}"]
                for b in range(count)
            ),
        ],
    )


def _tasks(result: Result) -> Figure | None:
    groups: dict[str, list[TaskRow]] = {}
    for row in result.rows:
        if isinstance(row, TaskRow):
            groups.setdefault(row.task, []).append(row)
    if not groups:
        return None
    tasks = sorted(
        (
            (
                name,
                sum(row.pass_at("base") for row in rows) / len(rows),
                sum(row.pass_at("unlearned") for row in rows) / len(rows),
            )
            for name, rows in groups.items()
        ),
        key=lambda task: (task[2] - task[1], -task[1], task[0]),  # the worst losses first
    )
    k = next(iter(groups.values()))[0].ks[0]
    height, body = charts.strip(tasks)
    lost = sum(after < before for _, before, after in tasks)
    won = sum(after > before for _, before, after in tasks)
    lead = (
        f"Of {len(tasks)} tasks, {lost} are solved less often than by the base and {won} more "
        "often; the worst losses come first."
    )
    return Figure(
        "tasks",
        f"pass@{k} of each task, before and after",
        lead,
        "A column for each task with two cells, base above tested model, filled by the share of "
        "its cases that are solved. " + lead,
        height,
        body,
        (("cell base", "solved, base"), ("cell tested", "solved, tested"), ("cell empty", "not")),
        [
            ["task", "cases", "base", "tested"],
            *([n, str(len(groups[n])), f"{b:.0%}", f"{t:.0%}"] for n, b, t in tasks),
        ],
    )


def _membership(result: Result) -> Figure | None:
    by_attack = membership_aucs(result.rows, result.run.attacks, result.run.confidence)
    if not by_attack:
        return None
    pairs = [
        BeforeAfter(
            attack,
            *((auc.estimate, auc.low, auc.high) for auc in (aucs["base"], aucs["unlearned"])),
        )
        for attack, aucs in by_attack.items()
    ]
    height, body = charts.pairs_of_dots(pairs, 0.5, False)
    best = max(pairs, key=lambda pair: pair.tested[0])
    lead = (
        f"The best attack on the tested model is {best.label}: it ranks a person to be forgotten "
        f"above one never seen in {best.tested[0]:.0%} of pairs (chance: 50 %)."
    )
    return Figure(
        "membership",
        "Membership inference (AUC)",
        lead,
        "A line for each attack with the AUC on base and tested model from 0 to 1, each with its "
        f"{percent(result.run.confidence)} interval; 0.5 is chance. {lead}",
        height,
        body,
        _DOTS,
        membership_table(result.rows, result.run.attacks, result.run.confidence),
    )


def _shares(result: Result) -> Figure | None:
    if not result.metrics:
        return None
    pairs: Sequence[BeforeAfter] = [_pair(measured, measured.name) for measured in result.metrics]
    height, body = charts.pairs_of_dots(pairs, None, True)
    ability = next((s for s in result.metrics if s.name.startswith("passk.")), None)
    lead = "What was measured on base and tested model."
    if ability:
        lead = (
            f"The tested model solves {ability.rate('tested'):.1%} of the task cases "
            f"({ability.interval_text('tested')}), the base {ability.rate('base'):.1%}."
        )
    return Figure(
        "shares",
        "Before and after",
        lead,
        "A line for each measured share, with a dot for base and tested model from 0 to 100 % and "
        f"its {_ends(result)}. {lead}",
        height,
        body,
        _DOTS,
        [
            ["measured", "what it is", *_share_head(result)],
            *(
                [measured.name, measured.about, *_share_cells(measured)]
                for measured in result.metrics
            ),
        ],
    )


# Curves of how training brings values back: the mark, the class of its line, and whose values they
# are.
_RELEARNT = (
    ("diamond", "tested", "people to be forgotten"),
    ("dot", "null", "control people, who were never seen"),
    ("dot base", "base", "people to be forgotten, by a retrained model"),
)


def _relearning(result: Result) -> Figure | None:
    """Show the first attack that trains as curves over its steps, and all of them as a table."""
    figures = attack_figures(result.rows, result.run.confidence)
    followed = courses(figures)
    if not followed:
        return None
    name, stages = next(iter(followed.items()))
    steps = [int(number) for number, _ in stages]
    values = [
        [getattr(one, which) for _, one in stages] for which in ("direct", "control", "retrained")
    ]
    shown = [
        Series(mark, css, what, shares)
        for (mark, css, what), shares in zip(_RELEARNT, values, strict=True)
        if any(share is not None for share in shares)
    ]
    names = [str(number) for number in steps]
    labels = [f"{name}, {number} steps" for number in steps]
    height, body = charts.curves(shown, steps, names, labels, "steps of training")
    lead = "; ".join(half_way(figures)) + "."
    return Figure(
        "relearning",
        "What training brings back",
        lead,
        f"The horizontal axis shows the training steps of {name}, the vertical axis the share of "
        f"values that greedy decoding then gives. Nobody whom it trained on was probed. {lead}",
        height,
        body,
        tuple((one.mark, one.what) for one in shown),
        [
            ["after training", "steps", *(what for _, _, what in _RELEARNT)],
            *(
                [
                    each,
                    number,
                    *map(percent_of, (one.direct, one.control, one.retrained)),
                ]
                for each, course in followed.items()
                for number, one in course
            ),
        ],
    )


_FIGURES: tuple[Callable[[Result], Figure | None], ...] = (
    _shares,
    _kinds,
    _flow,
    _leak_at,
    _exposure,
    _tasks,
    _membership,
    _relearning,
)


_FRONT = {True: "yes", False: "no"}


def pareto(standings: Sequence[Standing]) -> Figure | None:
    """Return the figure, or None if no pair has both leak and ability."""
    marks = list(_marks(standings))
    if not marks:
        return None
    lead = f"{front_sentence(standings)}."
    missing = sum(one.leak is None for one in standings)
    if missing:
        total = len(standings)
        lead += f" {missing} of {total} pairs were not run completely and are in the table only."
    height, body = charts.front(marks, f"share of {LEAK}", ABILITY)
    return Figure(
        "pareto",
        "Leak against ability",
        lead,
        "A mark with a number for each pair of model and method. The horizontal axis shows the "
        f"share of {LEAK}, the vertical axis {ABILITY}; the upper left is best. Filled diamonds, "
        "joined by a line, are on the Pareto front; hollow circles are not, because another pair "
        "leaks less and is at least as able, or is more able and leaks no more. " + lead,
        height,
        body,
        tuple(
            ("diamond" if one.front else "dot base", f"{number} {one.label}")
            for number, one in enumerate(standings, 1)
            if one.leak is not None
        ),
        [
            ["number", "pair", "leak", "ability", "Pareto front"],
            *(
                [
                    str(number),
                    one.label,
                    *map(percent_of, (one.leak, one.ability)),
                    _FRONT[one.front],
                ]
                for number, one in enumerate(standings, 1)
            ),
        ],
    )


def _marks(standings: Sequence[Standing]) -> Iterator[Mark]:
    """Yield a mark for each place with one or more pairs, by increasing leak."""
    placed = [
        (one.leak, one.ability, number, one)
        for number, one in enumerate(standings, 1)
        if one.leak is not None and one.ability is not None
    ]
    placed.sort(key=lambda item: item[:3])
    for (leak, ability), group in itertools.groupby(placed, key=lambda item: item[:2]):
        members = list(group)
        yield Mark(
            tuple(number for _, _, number, _ in members),
            tuple(one.label for *_, one in members),
            leak,
            ability,
            members[0][3].front,
        )


# By measure: its mark, the class of its line, and what it is.
# What is measured after each request, with the mark, class and name of its line.
_MEASURES: tuple[tuple[Callable[[Stage], float | None], str, str, str], ...] = (
    (lambda stage: stage.leak, "diamond", "tested", "people who leak"),
    (lambda stage: stage.ability, "dot base", "base", "pass@k relative to the base"),
    (lambda stage: stage.retained, "dot", "null", "retained values relative to the base"),
)
_MEASURE_KEY = tuple((mark, name) for _, mark, _, name in _MEASURES)


def request_figures(stages: Sequence[Stage]) -> Iterator[Figure]:
    """Yield the figures: over requests that follow each other, and over the sizes of requests."""
    followed = [one for one in stages if not one.apart]
    if len(followed) > 1:
        yield _request_figure(
            "requests",
            "Over the requests",
            followed,
            list(range(len(followed))),
            [one.request for one in followed],
            "request after request",
        )
    sized = sorted(stages, key=lambda one: one.people)
    if len({one.people for one in sized}) > 1:
        yield _request_figure(
            "request-sizes",
            "Over the size of a request",
            sized,
            [one.people for one in sized],
            [str(one.people) for one in sized],
            "people in the request",
        )


def _request_figure(
    name: str,
    title: str,
    stages: Sequence[Stage],
    places: Sequence[int],
    names: Sequence[str],
    axis: str,
) -> Figure:
    lead = f"{stage_sentence(stages)}."
    series = [
        Series(mark, css, what, [measure(stage) for stage in stages])
        for measure, mark, css, what in _MEASURES
    ]
    labels = [f"after {one.label}" for one in stages]
    height, body = charts.curves(series, places, names, labels, axis)
    return Figure(
        name,
        title,
        lead,
        f"The horizontal axis shows {axis}, the vertical axis shares. Diamonds are the share of "
        "people of all requests so far of whom a value came out, hollow circles are pass@k and "
        f"filled ones the retained people's values that come out, relative to the base. {lead}",
        height,
        body,
        _MEASURE_KEY,
        [
            ["after request", "people", *(what for *_, what in _MEASURES)],
            *(
                [
                    one.label,
                    str(one.people),
                    *(percent_of(measure(one)) for measure, *_ in _MEASURES),
                ]
                for one in stages
            ),
        ],
    )
