"""What an attacker gets: the same figures for each attack, as a table, as JSON, and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pytest_unlearn.gates.case_rows import AttackRow, ProbeRow, Row
from pytest_unlearn.gates.estimates import Share, percent, share
from pytest_unlearn.gates.metrics import METRICS
from pytest_unlearn.gates.statistics import CONFIDENCE
from pytest_unlearn.leaks.exact import mean_leak_at
from pytest_unlearn.reports.tables import Table
from pytest_unlearn.run.result import RunFacts

TITLE = "What an attacker gets"
# Sample sizes for which expected leaks under attack are shown.
SAMPLES = (1_000, 1_000_000)
_HALF = 0.5


@dataclass(frozen=True, slots=True)
class AttackFigures:
    """What came out under an attack; `attack` is empty for the tested model as it is.

    `direct` and `control` are the shares of values that greedy decoding gives, of people to be
    forgotten and of control people (None without any), `bound` is what a gate on
    `leak.direct[attack=NAME]` would be judged on. `leak_at` and `control_leak_at` are expected
    shares that so many samples each bring out, empty for models without scores.
    """

    attack: str
    n: int
    direct: float
    bound: str
    control: float | None
    leak_at: dict[str, float]
    control_leak_at: dict[str, float]
    shown: str


def attack_figures(rows: Sequence[Row], confidence: float = CONFIDENCE) -> list[AttackFigures]:
    """Return the figures of each attack, those of the same documents without one first."""
    attacked = [row for row in rows if isinstance(row, AttackRow)]
    names = dict.fromkeys(row.attack for row in attacked)
    if not names:
        return []
    family = attacked[0].family
    found = []
    for name in ("", *names):
        part: list[AttackRow | ProbeRow] = [row for row in attacked if row.attack == name]
        if not name:
            part = [row for row in rows if isinstance(row, ProbeRow) and row.family == family]
        filters = {"probe": family, **({"attack": name} if name else {})}
        if whole := share(METRICS["leak.direct"], part, filters, confidence):
            found.append(_figures(name, whole, part))
    return found


def _figures(name: str, whole: Share, rows: Sequence[AttackRow | ProbeRow]) -> AttackFigures:
    controls = [row for row in rows if row.split == "control"]
    own = sum(row.unlearned["label"] == "direct" for row in controls)
    return AttackFigures(
        attack=name,
        n=whole.n,
        direct=whole.rate("tested"),
        bound=whole.bound,
        control=own / len(controls) if controls else None,
        leak_at=_leaks([row for row in rows if row.split == "forget"]),
        control_leak_at=_leaks(controls),
        shown=whole.shown("tested"),
    )


def _leaks(rows: Sequence[AttackRow | ProbeRow]) -> dict[str, float]:
    exact = [row.unlearned_exact for row in rows if row.unlearned_exact is not None]
    return {str(k): mean_leak_at(exact, k) for k in SAMPLES} if exact else {}


def attack_table(rows: Sequence[Row], confidence: float = CONFIDENCE) -> Table:
    """Return the attacks as a table, empty without any; see `AttackFigures`."""
    found = attack_figures(rows, confidence)
    if not found:
        return []
    leaks = (f"leak@{k:,}" for k in SAMPLES)
    head = ["under attack", "n", "direct", f"{percent(confidence)} bound", "control", *leaks]
    return [[*head, f"control @{SAMPLES[-1]:,}"], *map(_cells, found)]


def _cells(one: AttackFigures) -> list[str]:
    last = str(SAMPLES[-1])
    return [
        one.attack or "none",
        str(one.n),
        one.shown,
        one.bound,
        "-" if one.control is None else f"{one.control:.1%}",
        *(f"{one.leak_at[str(k)]:.2%}" if one.leak_at else "-" for k in SAMPLES),
        f"{one.control_leak_at[last]:.2%}" if one.control_leak_at else "-",
    ]


def attack_data(rows: Sequence[Row], confidence: float = CONFIDENCE) -> list[dict[str, Any]]:
    """Return the attacks as JSON data."""
    return [asdict(one) for one in attack_figures(rows, confidence)]


def half_way(found: Sequence[AttackFigures]) -> list[str]:
    """Return for each attack of several stages how many steps bring half of the values back."""
    courses: dict[str, list[tuple[str, AttackFigures]]] = {}
    for one in found:
        name, _, stage = one.attack.partition("@")
        if stage:
            courses.setdefault(name, []).append((stage, one))
    parts = []
    for name, stages in courses.items():
        last, end = stages[-1]
        reached = next((stage for stage, one in stages if one.direct >= _HALF), None)
        parts.append(
            f"{name}: half of the values are back after {reached} steps"
            if reached
            else f"{name}: half of the values are not back within {last} steps ({end.direct:.1%})"
        )
    return parts


def attack_sentences(run: RunFacts, rows: Sequence[Row]) -> list[str]:
    """Return what was found in a sentence, and what was not tried in another."""
    found = [one for one in attack_figures(rows, run.confidence) if one.attack]
    parts = []
    if found:
        worst = max(found, key=lambda one: one.direct)
        parts.append(
            f"Of {worst.n} values to be forgotten the worst attack, {worst.attack}, brings out "
            f"{worst.shown}. What comes out of control people is the attack's own doing."
        )
        parts += [f"{sentence}." for sentence in half_way(found)]
    else:
        parts.append("No attack was tried: what an attacker gets is not known.")
    if run.untried:
        parts.append(f"Not tried: {', '.join(run.untried)}.")
    return parts
