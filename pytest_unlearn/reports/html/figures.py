"""The figures of a result: which drawing shows what, and what it says in words."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pytest_unlearn.gates.case_rows import TaskRow
from pytest_unlearn.gates.estimates import Share, percent, share
from pytest_unlearn.gates.metrics import METRICS
from pytest_unlearn.leaks.exact import mean_leak_at
from pytest_unlearn.leaks.outcome import LABELS
from pytest_unlearn.reports.comparison import ABILITY, LEAK, Standing, front_sentence
from pytest_unlearn.reports.html import charts
from pytest_unlearn.reports.html.charts import (
    LINE,
    WIDTH,
    BeforeAfter,
    Figure,
    Scale,
    curve,
    diamond,
    dot,
    line,
    linear,
    text,
)
from pytest_unlearn.reports.tables import (
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


def _pair(found: Share, label: str) -> BeforeAfter:
    return BeforeAfter(
        label,
        (found.rate("base"), *_drawn(found.interval("base"))),
        (found.rate("tested"), *_drawn(found.interval("tested"))),
    )


def _drawn(ends: tuple[float, float]) -> tuple[float, float]:
    """Keep bounds on the scale: what is left after chance can be less than nothing."""
    low, high = ends
    return max(0.0, low), max(0.0, high)


def _share_head(result: Result) -> list[str]:
    ends = f"{result.run.bound_head}s"
    return ["base", ends, "tested", ends, "n", result.run.bound_head]


def _share_cells(found: Share) -> list[str]:
    """Return the cells of every report, with the bounds that are drawn beside the figures."""
    base, tested, n, bound = found.cells
    return [base, found.interval_text("base"), tested, found.interval_text("tested"), n, bound]


def _ends(result: Result) -> str:
    return f"bounds, each of which holds with {percent(result.run.confidence)} confidence"


def _kinds(result: Result) -> Figure | None:
    rows = forget_rows(result.rows, "direct")
    kinds = sorted({row.kind for row in rows})
    if not kinds:
        return None
    groups: list[tuple[str, dict[str, str]]] = [("all", {})]
    if len(kinds) > 1:
        groups += [(kind, {"kind": kind}) for kind in kinds]
    found = [
        (name, part)
        for name, filters in groups
        if (part := share(METRICS["leak.direct"], result.rows, filters, result.run.confidence))
    ]
    height, body = charts.pairs_of_dots([_pair(part, name) for name, part in found], None, True)
    whole = found[0][1]
    lead = (
        f"Of {whole.n} probes of people to be forgotten, the base gave away "
        f"{whole.shown('base')}, the tested model {whole.shown('tested')}."
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
        [["kind", *_share_head(result)], *([name, *_share_cells(part)] for name, part in found)],
    )


def _flow(result: Result) -> Figure | None:
    rows = forget_rows(result.rows, "direct")
    if not rows:
        return None
    counts = Counter((row.base["label"], row.unlearned["label"]) for row in rows)
    height, body = charts.flow(counts, LABELS)
    moved = counts["direct", "indirect"]
    kept = counts["direct", "direct"]
    direct = sum(count for (before, _), count in counts.items() if before == "direct")
    lead = (
        f"Of {direct} direct leaks of the base, {kept} are still direct and {moved} became "
        "indirect: another real value, or the same in disguise, comes out instead."
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


_CURVES = (
    ("base", "forget", "base_exact", "people to be forgotten, base"),
    ("tested", "forget", "unlearned_exact", "people to be forgotten, tested"),
    ("null", "control", "unlearned_exact", "people never seen, tested"),
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
        "Curves over 1 to 1,000,000 samples: the expected share of values that so many samples "
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
    found = {
        state: [
            s["exposure"] for s in exact_scores(result.rows, "forget", key) if s.get("exposure")
        ]
        for state, key in (("base", "base_exact"), ("tested", "unlearned_exact"))
        for scored in [exact_scores(result.rows, "forget", key)]
    }
    if not all(found.values()):
        return None
    everything = [exposure for exposures in found.values() for exposure in exposures]
    count = max(1, math.ceil(max(math.log2(e["size"]) for e in everything)))
    bins = {
        state: [
            sum(min(int(e["bits"]), count - 1) == number for e in exposures) / len(exposures)
            for number in range(count)
        ]
        for state, exposures in found.items()
    }
    # Of a uniform rank, the share with b to b + 1 bits is 2^-b - 2^-(b + 1); the last bin has the
    # rest.
    null = [2.0**-b - (2.0 ** -(b + 1) if b < count - 1 else 0.0) for b in range(count)]
    height, body = charts.histogram(bins, null)
    means = {state: sum(e["bits"] for e in es) / len(es) for state, es in found.items()}
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
    found = membership_aucs(result.rows, result.run.attacks, result.run.confidence)
    if not found:
        return None
    pairs = [
        BeforeAfter(
            attack,
            *((auc.estimate, auc.low, auc.high) for auc in (aucs["base"], aucs["unlearned"])),
        )
        for attack, aucs in found.items()
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
    pairs: Sequence[BeforeAfter] = [_pair(found, found.name) for found in result.metrics]
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
            *([found.name, found.about, *_share_cells(found)] for found in result.metrics),
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
)


_LEFT, _RIGHT, _TOP, _BOTTOM = 68.0, WIDTH - 26.0, 22.0, 270.0
_FRONT = {True: "yes", False: "no"}
# Places of a mark's number from its centre, the nearest first: right, left, above, below, corners.
_PLACES = (
    *((12.0, 5.0), (-12.0, 5.0), (0.0, -11.0), (0.0, 21.0)),
    *((11.0, -9.0), (-11.0, -9.0), (11.0, 19.0), (-11.0, 19.0), (28.0, 5.0), (-28.0, 5.0)),
)


@dataclass(frozen=True, slots=True)
class _Mark:
    """Pairs at one place: their numbers in the table, their names, and leak and ability."""

    numbers: tuple[int, ...]
    labels: tuple[str, ...]
    leak: float
    ability: float
    front: bool


def pareto(found: Sequence[Standing]) -> Figure | None:
    """Return the figure, or None where no pair has both figures."""
    marks = list(_marks(found))
    if not marks:
        return None
    lead = f"{front_sentence(found)}."
    missing = sum(one.leak is None for one in found)
    if missing:
        lead += (
            f" {missing} of {len(found)} pairs were not run completely and are in the table only."
        )
    height, body = _drawing(marks)
    return Figure(
        "pareto",
        "Leak against ability",
        lead,
        "A mark with a number for each pair of model and method. To the right, the share of "
        f"{LEAK}; upwards, {ABILITY}. Upper left is best. Filled diamonds, joined by a line, are "
        "on the Pareto front, hollow circles are not: another pair leaks less and is no less "
        "able, or is abler and leaks no more. " + lead,
        height,
        body,
        tuple(
            ("diamond" if one.front else "dot base", f"{number} {one.label}")
            for number, one in enumerate(found, 1)
            if one.leak is not None
        ),
        [
            ["number", "pair", "leak", "ability", "Pareto front"],
            *(
                [str(number), one.label, *map(_share, (one.leak, one.ability)), _FRONT[one.front]]
                for number, one in enumerate(found, 1)
            ),
        ],
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _marks(found: Sequence[Standing]) -> Iterator[_Mark]:
    """Yield a mark for each place at which there are pairs, from the least leak on."""
    placed = [
        (one.leak, one.ability, number, one)
        for number, one in enumerate(found, 1)
        if one.leak is not None and one.ability is not None
    ]
    placed.sort(key=lambda item: item[:3])
    for (leak, ability), group in itertools.groupby(placed, key=lambda item: item[:2]):
        members = list(group)
        yield _Mark(
            tuple(number for _, _, number, _ in members),
            tuple(one.label for *_, one in members),
            leak,
            ability,
            members[0][3].front,
        )


def _drawing(marks: Sequence[_Mark]) -> tuple[float, str]:
    """Return height and drawing. Axes end where the marks do: pairs worth comparing lie close."""
    widest = max(0.05, *(mark.leak for mark in marks))
    most = max(1.0, *(mark.ability for mark in marks))
    least = min(0.95, *(mark.ability for mark in marks))
    step = _step(widest)
    right = math.ceil(widest / step - 1e-9) * step
    rise = _step(most - least)
    low, high = (math.floor(least / rise + 1e-9) * rise, math.ceil(most / rise - 1e-9) * rise)
    x, y = linear(_LEFT, _RIGHT, 0.0, right), linear(_BOTTOM, _TOP, low, high)
    parts = []
    for tick in _ticks(0.0, right, step):
        parts.append(line(x(tick), _TOP, x(tick), _BOTTOM, "grid"))
        parts.append(text(x(tick), _BOTTOM + LINE + 2, _percent(tick, step), "middle", "axis"))
    for tick in _ticks(low, high, rise):
        parts.append(line(_LEFT, y(tick), _RIGHT, y(tick), "grid"))
        parts.append(text(_LEFT - 14, y(tick) + 5, _percent(tick, rise), "end", "axis"))
    middle = (_LEFT + _RIGHT) / 2
    parts.append(text(middle, _BOTTOM + 2 * LINE + 6, f"share of {LEAK}", "middle", "axis"))
    parts.append(text(_LEFT - 8, _TOP - 9, ABILITY, css="axis"))
    front = [mark for mark in marks if mark.front]
    corners = [
        place
        for before, after in itertools.pairwise(front)
        for place in ((after.leak, before.ability), (after.leak, after.ability))
    ]
    joined = [(front[0].leak, front[0].ability), *corners] if front else []
    if corners:
        parts.append(curve([(x(leak), y(ability)) for leak, ability in joined], "null"))
    for mark in marks:
        tip = f"{', '.join(mark.labels)}: {mark.leak:.1%} leak, {mark.ability:.1%} retained"
        draw = diamond if mark.front else dot
        parts.append(draw(x(mark.leak), y(mark.ability), "" if mark.front else "base", tip))
    parts += _numbers(marks, x, y)
    return _BOTTOM + 2 * LINE + 14, "".join(parts)


def _numbers(marks: Sequence[_Mark], x: Scale, y: Scale) -> Iterator[str]:
    """Yield each mark's numbers, beside it where neither a mark nor a number is already."""
    taken = [(x(mark.leak), y(mark.ability) + 5, 12.0) for mark in marks]
    for mark in marks:
        words = ", ".join(map(str, mark.numbers))
        wide = 9.0 * len(words)
        choices = []
        for number, (right, down) in enumerate(_PLACES):
            at = x(mark.leak) + right + math.copysign(wide / 2, right) * (right != 0)
            base = y(mark.ability) + down
            hits = sum(
                abs(at - other) < (wide + width) / 2 and abs(base - under) < LINE - 2
                for other, under, width in taken
            )
            outside = not (wide / 2 < at < WIDTH - wide / 2 and LINE < base < _BOTTOM + 4)
            choices.append((hits + 2 * outside, number, at, base))
        _, _, at, base = min(choices)
        taken.append((at, base, wide))
        yield text(at, base, words, "middle", "number")


def _step(size: float) -> float:
    """Return a round distance of axis labels, of which up to five fit."""
    least = size / 5
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= least - 1e-12)


def _ticks(low: float, high: float, step: float) -> list[float]:
    return [low + number * step for number in range(round((high - low) / step) + 1)]


def _percent(share: float, step: float) -> str:
    whole = abs(step * 100 - round(step * 100)) < 1e-9
    return f"{share:.0%}" if whole else f"{share:.1%}"
