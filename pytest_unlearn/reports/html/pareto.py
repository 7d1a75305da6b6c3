"""The plot of a sweep: a mark a pair, leak to the right and ability upwards, the front joined."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_unlearn.reports.comparison import ABILITY, LEAK, Standing, front_sentence
from pytest_unlearn.reports.html.svg import (
    LINE,
    WIDTH,
    Figure,
    Scale,
    curve,
    diamond,
    dot,
    line,
    linear,
    text,
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
        lead += f" {missing} of {len(found)} pairs were not run whole and stand in the table only."
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
