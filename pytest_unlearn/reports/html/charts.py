"""Drawings in SVG: escaped text, marks, axes, and the kinds of figure made of them.

Drawings are 480 units wide, which is legible on a phone and not huge on a desktop. Colours come
from the style sheet's classes, so that only the style sheet knows about light and dark.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 480
LINE = 18
Scale = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing, and the same in words and numbers.

    `lead` is the finding in a sentence, `description` what the drawing shows, for readers who
    cannot see it. `key` has pairs of a mark's class and its meaning, `table` the numbers, head
    first.
    """

    id: str
    title: str
    lead: str
    description: str
    height: float
    body: str
    key: tuple[tuple[str, str], ...]
    table: Sequence[Sequence[str]]

    def key_mark(self, mark: str) -> str:
        """Return the drawing of a mark of the key, as SVG."""
        return _KEY_MARKS[mark.partition(" ")[0]].format(mark=mark)


_KEY_MARKS = {
    "dot": '<circle class="{mark}" cx="11" cy="7" r="5"/>',
    "diamond": '<polygon class="{mark}" points="11,0 18,7 11,14 4,7"/>',
    "curve": '<line class="{mark}" x1="0" y1="7" x2="22" y2="7"/>',
    "bar": '<rect class="{mark}" x="5" y="1" width="12" height="12"/>',
    "cell": '<rect class="{mark}" x="5" y="1" width="12" height="12"/>',
}


def text(x: float, y: float, words: str, anchor: str = "start", css: str = "") -> str:
    """Return a text; `anchor` is start, middle or end."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
        + (f' class="{css}"' if css else "")
        + f">{escape(words)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """Return a straight line."""
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def dot(x: float, y: float, css: str, tip: str) -> str:
    """Return a dot; `tip` shows under a pointer."""
    title = f"<title>{escape(tip)}</title>"
    return f'<circle class="dot {css}" cx="{x:.1f}" cy="{y:.1f}" r="5">{title}</circle>'


def diamond(x: float, y: float, css: str, tip: str) -> str:
    """Return a diamond; `tip` shows under a pointer."""
    corners = " ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in ((0, -8), (8, 0), (0, 8), (-8, 0)))
    css = f"diamond {css}".rstrip()
    return f'<polygon class="{css}" points="{corners}"><title>{escape(tip)}</title></polygon>'


def bar(x: float, y: float, width: float, height: float, css: str, tip: str) -> str:
    """Return a rectangle."""
    return (
        f'<rect class="{css}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}">'
        f"<title>{escape(tip)}</title></rect>"
    )


def curve(points: Iterable[tuple[float, float]], css: str) -> str:
    """Return a line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="curve {css}" points="{path}"/>'


def linear(start: float, end: float, low: float, high: float) -> Scale:
    """Return a scale from values `low`..`high` to places `start`..`end`."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def shortened(words: str, room: int) -> str:
    """Return a label that fits; the table has all of it."""
    return words if len(words) <= room else words[: room - 1] + "…"


_LEFT, _RIGHT = 150, WIDTH - 20
_STATES = ("base", "tested")


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """A label with an estimate and its interval on base and tested model."""

    label: str
    base: tuple[float, float, float]
    tested: tuple[float, float, float]


def pairs_of_dots(
    pairs: Sequence[BeforeAfter], mark: float | None, percent: bool
) -> tuple[float, str]:
    """Return height and drawing: a line per pair, values from 0 to 1. `mark`: a reference value."""
    x = linear(_LEFT, _RIGHT, 0.0, 1.0)
    bottom = 8 + 34.0 * len(pairs)
    parts = [line(x(v), 4, x(v), bottom, "grid") for v in (0.0, 0.25, 0.5, 0.75, 1.0)]
    parts += [
        text(x(v), bottom + LINE, f"{v:.0%}" if percent else f"{v:g}", "middle", "axis")
        for v in (0.0, 0.5, 1.0)
    ]
    if mark is not None:
        parts.append(line(x(mark), 4, x(mark), bottom, "mark"))
    for number, pair in enumerate(pairs):
        middle = 8 + 34.0 * number + 17
        parts.append(text(_LEFT - 14, middle + 5, shortened(pair.label, 17), "end"))
        for state, y in zip(_STATES, (middle - 7, middle + 7), strict=True):
            value, low, high = pair.base if state == "base" else pair.tested
            shown = [f"{v:.1%}" if percent else f"{v:.2f}" for v in (value, low, high)]
            parts.append(line(x(low), y, x(high), y, f"whisker {state}"))
            parts.append(
                dot(
                    x(value),
                    y,
                    state,
                    f"{pair.label}, {state}: {shown[0]} ({shown[1]} to {shown[2]})",
                )
            )
    return bottom + LINE + 8, "".join(parts)


def flow(counts: Mapping[tuple[str, str], int], order: Sequence[str]) -> tuple[float, str]:
    """Return height and drawing of a Sankey diagram: from outcomes on the left to the right."""
    total = sum(counts.values())
    left, right, width, gap, room = 118.0, WIDTH - 118.0, 12.0, 20.0, 240.0
    sides: list[dict[str, float]] = [{}, {}]
    for (before, after), count in counts.items():
        for side, label in zip(sides, (before, after), strict=True):
            side[label] = side.get(label, 0) + count
    scale = room / total
    parts = [
        text(left, LINE - 2, "base", "end", "axis"),
        text(right, LINE - 2, "tested", css="axis"),
    ]
    tops: list[dict[str, float]] = [{}, {}]
    lowest = 0.0
    for side, top, x in zip(sides, tops, (left, right - width), strict=True):
        y = LINE + 10.0
        for label in (name for name in order if name in side):
            height = side[label] * scale
            top[label] = y
            parts.append(
                bar(x, y, width, max(height, 1.5), f"o-{label}", f"{label}: {side[label]}")
            )
            end = x == left
            parts.append(
                text(
                    x - 6 if end else x + width + 6,
                    y + height / 2 + 5,
                    f"{label} {side[label]}",
                    "end" if end else "start",
                )
            )
            y += height + gap
        lowest = max(lowest, y)
    ribbons = []
    for before in order:
        for after in order:
            count = counts.get((before, after), 0)
            if not count:
                continue
            height = count * scale
            y0, y1 = tops[0][before], tops[1][after]
            tops[0][before] += height
            tops[1][after] += height
            x0, x1, middle = left + width, right - width, WIDTH / 2
            ribbons.append(
                f'<path class="ribbon o-{after}" d="M{x0:.1f},{y0:.1f} C{middle:.1f},{y0:.1f} '
                f"{middle:.1f},{y1:.1f} {x1:.1f},{y1:.1f} L{x1:.1f},{y1 + height:.1f} "
                f"C{middle:.1f},{y1 + height:.1f} {middle:.1f},{y0 + height:.1f} "
                f'{x0:.1f},{y0 + height:.1f} Z"><title>{before} to {after}: {count}</title></path>'
            )
    return lowest, "".join([*ribbons, *parts])


def log_curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> tuple[float, str]:
    """Return height and drawing of shares (0 to 1) over a number of samples, on a log scale.

    `curves`: points by the class of the line.
    """
    left, bottom = 52.0, 240.0
    decades = max(math.log10(k) for points in curves.values() for k, _ in points)
    x, y = linear(left, _RIGHT, 0.0, decades), linear(bottom, 12.0, 0.0, 1.0)
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(line(left, y(share), _RIGHT, y(share), "grid"))
        parts.append(text(left - 8, y(share) + 5, f"{share:.0%}", "end", "axis"))
    for decade in range(0, int(decades) + 1, 2):
        anchor = "end" if decade == decades else "middle"  # or the last would be cut off
        parts.append(text(x(decade), bottom + LINE + 2, f"{10**decade:,}", anchor, "axis"))
    parts.append(text((left + _RIGHT) / 2, bottom + 2 * LINE + 4, "samples k", "middle", "axis"))
    for css, points in curves.items():
        parts.append(curve([(x(math.log10(k)), y(share)) for k, share in points], css))
    return bottom + 2 * LINE + 12, "".join(parts)


def histogram(bins: Mapping[str, Sequence[float]], null: Sequence[float]) -> tuple[float, str]:
    """Return height and drawing: shares (0 to 1) of base and tested in each bin of one bit.

    `null`: the shares of values that the model never saw, drawn as steps.
    """
    left, bottom, count = 52.0, 220.0, len(null)
    highest = max(0.1, *null, *(share for shares in bins.values() for share in shares))
    top = math.ceil(highest * 10) / 10
    x, y = linear(left, _RIGHT, 0, count), linear(bottom, 12.0, 0.0, top)
    parts = []
    for share in (0.0, top / 2, top):
        parts.append(line(left, y(share), _RIGHT, y(share), "grid"))
        parts.append(text(left - 8, y(share) + 5, f"{share:.0%}", "end", "axis"))
    step = max(1, count // 6)
    parts += [
        text(x(b), bottom + LINE + 2, str(b), "middle", "axis") for b in range(0, count, step)
    ]
    parts.append(
        text((left + _RIGHT) / 2, bottom + 2 * LINE + 4, "exposure, bits", "middle", "axis")
    )
    wide = (x(1) - x(0)) * 0.4
    for place, (state, shares) in enumerate(bins.items()):
        for number, share in enumerate(shares):
            if share:
                tip = f"{number} to {number + 1} bits, {state}: {share:.1%}"
                at = x(number) + (0.1 + 0.4 * place) * (x(1) - x(0))
                parts.append(bar(at, y(share), wide, bottom - y(share), f"bar {state}", tip))
    steps = [(x(n + side), y(share)) for n, share in enumerate(null) for side in (0, 1)]
    parts.append(curve(steps, "null"))
    return bottom + 2 * LINE + 12, "".join(parts)


def strip(tasks: Sequence[tuple[str, float, float]]) -> tuple[float, str]:
    """Return height and drawing of each task's share of solved cases, base above tested.

    A cell is full if all cases are solved, empty if none is. `tasks`: name, base, tested.
    """
    left, tall, across = 62.0, 30.0, 40
    wide = (_RIGHT - left) / min(len(tasks), across)
    parts = []
    y = 4.0
    for start in range(0, len(tasks), across):
        for offset, state in enumerate(_STATES):
            parts.append(text(left - 8, y + tall * offset + tall / 2 + 5, state, "end", "axis"))
        for number, (name, *shares) in enumerate(tasks[start : start + across]):
            for offset, (state, share) in enumerate(zip(_STATES, shares, strict=True)):
                x, top = left + number * wide, y + tall * offset
                tip = f"{name}, {state}: {share:.0%}"
                parts.append(bar(x + 0.5, top + 1, wide - 1, tall - 2, "cell empty", tip))
                full = (tall - 2) * share
                if full:
                    css = f"cell {state}"
                    parts.append(bar(x + 0.5, top + tall - 1 - full, wide - 1, full, css, tip))
        y += 2 * tall + 12
    return y, "".join(parts)


_FRONT_LEFT, _FRONT_RIGHT, _FRONT_TOP, _FRONT_BOTTOM = 68.0, WIDTH - 26.0, 22.0, 270.0
# Places of a mark's number from its centre, the nearest first: right, left, above, below, corners.
_PLACES = (
    *((12.0, 5.0), (-12.0, 5.0), (0.0, -11.0), (0.0, 21.0)),
    *((11.0, -9.0), (-11.0, -9.0), (11.0, 19.0), (-11.0, 19.0), (28.0, 5.0), (-28.0, 5.0)),
)


@dataclass(frozen=True, slots=True)
class Mark:
    """Pairs at one place: their numbers in the table, their names, and leak and ability."""

    numbers: tuple[int, ...]
    labels: tuple[str, ...]
    leak: float
    ability: float
    front: bool


def front(marks: Sequence[Mark], across: str, up: str) -> tuple[float, str]:
    """Return height and drawing of leak (to the right) against ability, the front joined.

    `across` and `up` name the axes. Axes end where the marks do: pairs worth comparing lie close.
    """
    widest = max(0.05, *(mark.leak for mark in marks))
    most = max(1.0, *(mark.ability for mark in marks))
    least = min(0.95, *(mark.ability for mark in marks))
    step = _step(widest)
    right = math.ceil(widest / step - 1e-9) * step
    rise = _step(most - least)
    low, high = (math.floor(least / rise + 1e-9) * rise, math.ceil(most / rise - 1e-9) * rise)
    x, y = (
        linear(_FRONT_LEFT, _FRONT_RIGHT, 0.0, right),
        linear(_FRONT_BOTTOM, _FRONT_TOP, low, high),
    )
    parts = []
    for tick in _ticks(0.0, right, step):
        parts.append(line(x(tick), _FRONT_TOP, x(tick), _FRONT_BOTTOM, "grid"))
        parts.append(
            text(x(tick), _FRONT_BOTTOM + LINE + 2, _percent(tick, step), "middle", "axis")
        )
    for tick in _ticks(low, high, rise):
        parts.append(line(_FRONT_LEFT, y(tick), _FRONT_RIGHT, y(tick), "grid"))
        parts.append(text(_FRONT_LEFT - 14, y(tick) + 5, _percent(tick, rise), "end", "axis"))
    middle = (_FRONT_LEFT + _FRONT_RIGHT) / 2
    parts.append(text(middle, _FRONT_BOTTOM + 2 * LINE + 6, across, "middle", "axis"))
    parts.append(text(_FRONT_LEFT - 8, _FRONT_TOP - 9, up, css="axis"))
    best = [mark for mark in marks if mark.front]
    corners = [
        place
        for before, after in itertools.pairwise(best)
        for place in ((after.leak, before.ability), (after.leak, after.ability))
    ]
    joined = [(best[0].leak, best[0].ability), *corners] if best else []
    if corners:
        parts.append(curve([(x(leak), y(ability)) for leak, ability in joined], "null"))
    for mark in marks:
        tip = f"{', '.join(mark.labels)}: {mark.leak:.1%} leak, {mark.ability:.1%} retained"
        draw = diamond if mark.front else dot
        parts.append(draw(x(mark.leak), y(mark.ability), "" if mark.front else "base", tip))
    parts += _numbers(marks, x, y)
    return _FRONT_BOTTOM + 2 * LINE + 14, "".join(parts)


def _numbers(marks: Sequence[Mark], x: Scale, y: Scale) -> Iterator[str]:
    """Yield each mark's numbers, placed next to it where there is no other mark or number."""
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
            outside = not (wide / 2 < at < WIDTH - wide / 2 and LINE < base < _FRONT_BOTTOM + 4)
            choices.append((hits + 2 * outside, number, at, base))
        _, _, at, base = min(choices)
        taken.append((at, base, wide))
        yield text(at, base, words, "middle", "number")


def _step(size: float) -> float:
    """Return a round distance between axis labels, so that at most five fit."""
    least = size / 5
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= least - 1e-12)


def _ticks(low: float, high: float, step: float) -> list[float]:
    return [low + number * step for number in range(round((high - low) / step) + 1)]


def _percent(share: float, step: float) -> str:
    even = abs(step * 100 - round(step * 100)) < 1e-9
    return f"{share:.0%}" if even else f"{share:.1%}"


_CURVES_LEFT, _CURVES_RIGHT, _CURVES_TOP, _CURVES_BOTTOM = 56.0, WIDTH - 26.0, 22.0, 250.0
# How many names fit under the axis.
_NAMED = 6


@dataclass(frozen=True, slots=True)
class Series:
    """A curve: the mark of its points as in a key, the class of its line, what it is, and a value
    or None for each place."""

    mark: str
    css: str
    what: str
    values: Sequence[float | None]


def curves(
    series: Sequence[Series],
    places: Sequence[int],
    names: Sequence[str],
    labels: Sequence[str],
    axis: str,
) -> tuple[float, str]:
    """Return height and drawing of shares over places on the axis.

    `names` are written under the axis, `labels` show under a pointer.
    """
    left, right, bottom = _CURVES_LEFT, _CURVES_RIGHT, _CURVES_BOTTOM
    top = max(1.0, *(value for one in series for value in one.values if value is not None), 0.0)
    x = linear(left + 16, right - 16, min(places), max(places))
    y = linear(bottom, _CURVES_TOP, 0.0, top)
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(line(left, y(tick), right, y(tick), "grid"))
        parts.append(text(left - 8, y(tick) + 5, f"{tick:.0%}", "end", "axis"))
    step = -(-len(places) // _NAMED)
    for place, name in list(zip(places, names, strict=True))[::step]:
        parts.append(text(x(place), bottom + LINE + 2, shortened(name, 11), "middle", "axis"))
    parts.append(text((left + right) / 2, bottom + 2 * LINE + 6, axis, "middle", "axis"))
    for one in series:
        points = [
            (x(place), y(value), label, value)
            for place, label, value in zip(places, labels, one.values, strict=True)
            if value is not None
        ]
        parts.append(curve([(across, up) for across, up, _, _ in points], one.css))
        for across, up, label, value in points:
            tip = f"{label}: {one.what} {value:.1%}"
            if one.mark == "diamond":
                parts.append(diamond(across, up, "", tip))
            else:
                parts.append(dot(across, up, one.mark.removeprefix("dot").strip() or "tested", tip))
    return bottom + 2 * LINE + 14, "".join(parts)
