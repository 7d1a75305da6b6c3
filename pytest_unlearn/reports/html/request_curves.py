"""The curves of a run of erasure requests: over the requests, and over their sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_unlearn.reports.html.charts import (
    LINE,
    WIDTH,
    Figure,
    curve,
    diamond,
    dot,
    line,
    linear,
    shortened,
    text,
)
from pytest_unlearn.reports.sustainability import Stage, percent_of, stage_sentence

_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, WIDTH - 26.0, 22.0, 250.0
# As many names of requests fit under the axis.
_NAMED = 6
# Measure: its mark, its line, and what it is.
_MEASURES = {
    "leak": ("diamond", "tested", "people who leak"),
    "ability": ("dot base", "base", "pass@k, of the base's"),
    "retained": ("dot", "null", "retained values, of the base's"),
}
_KEY = tuple((mark, what) for mark, _, what in _MEASURES.values())


def request_figures(found: Sequence[Stage]) -> Iterator[Figure]:
    """Yield the figures: over the requests where each follows the last, and over their sizes."""
    followed = [one for one in found if not one.apart]
    if len(followed) > 1:
        yield _figure(
            "requests",
            "Over the requests",
            followed,
            list(range(len(followed))),
            [one.request for one in followed],
            "request after request",
        )
    sized = sorted(found, key=lambda one: one.people)
    if len({one.people for one in sized}) > 1:
        yield _figure(
            "request-sizes",
            "Over the size of a request",
            sized,
            [one.people for one in sized],
            [str(one.people) for one in sized],
            "people in the request",
        )


def _figure(
    name: str,
    title: str,
    found: Sequence[Stage],
    places: Sequence[int],
    names: Sequence[str],
    axis: str,
) -> Figure:
    lead = f"{stage_sentence(found)}."
    return Figure(
        name,
        title,
        lead,
        f"To the right, {axis}; upwards, shares. Diamonds are the share of people of all requests "
        "so far of whom a value came out, hollow circles pass@k and filled ones the retained "
        f"people's values that come out, both of the base's. {lead}",
        _BOTTOM + 2 * LINE + 14,
        _drawing(found, places, names, axis),
        _KEY,
        [
            ["after request", "people", *(what for _, _, what in _MEASURES.values())],
            *(
                [one.label, str(one.people), *(percent_of(getattr(one, m)) for m in _MEASURES)]
                for one in found
            ),
        ],
    )


def _drawing(found: Sequence[Stage], places: Sequence[int], names: Sequence[str], axis: str) -> str:
    values = [v for one in found for m in _MEASURES if (v := getattr(one, m)) is not None]
    top = max(1.0, *values, 0.0)
    x = linear(_LEFT + 16, _RIGHT - 16, min(places), max(places))
    y = linear(_BOTTOM, _TOP, 0.0, top)
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(line(_LEFT, y(tick), _RIGHT, y(tick), "grid"))
        parts.append(text(_LEFT - 8, y(tick) + 5, f"{tick:.0%}", "end", "axis"))
    step = -(-len(places) // _NAMED)
    for place, name in list(zip(places, names, strict=True))[::step]:
        parts.append(text(x(place), _BOTTOM + LINE + 2, shortened(name, 11), "middle", "axis"))
    parts.append(text((_LEFT + _RIGHT) / 2, _BOTTOM + 2 * LINE + 6, axis, "middle", "axis"))
    for measure, (mark, css, what) in _MEASURES.items():
        points = [
            (x(place), y(value), one, value)
            for one, place in zip(found, places, strict=True)
            if (value := getattr(one, measure)) is not None
        ]
        parts.append(curve([(across, up) for across, up, _, _ in points], css))
        for across, up, one, value in points:
            tip = f"after {one.label}: {what} {value:.1%}"
            if mark == "diamond":
                parts.append(diamond(across, up, "", tip))
            else:
                parts.append(dot(across, up, mark.removeprefix("dot").strip() or "tested", tip))
    return "".join(parts)
