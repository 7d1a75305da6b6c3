"""Small pieces of SVG: escaped text, marks, axes, and the figure that they make up.

Drawings are 480 units wide, which is legible on a phone and not huge on a desk. Colours come from
the style sheet's classes, so that light and dark differ there alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 480
LINE = 18
Scale = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing with everything that says the same in words.

    `lead` is the finding in a sentence, `description` what the drawing shows for those who cannot
    see it, `key` pairs of a mark's class and its meaning, `table` the numbers, head first.
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
    """Return a label that fits; its table has the whole."""
    return words if len(words) <= room else words[: room - 1] + "…"
