"""What an attacker gets, and how far the tested model is from a retrained one.

The figures of each attack, including those on hidden states, as tables, JSON and sentences. The
goal is a model that was never trained on the people to forget. A figure beyond it (a value that is
less likely than in such a model) shows where something was removed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from pytest_unlearn.attacks.attack import attacks
from pytest_unlearn.gates.case_rows import MEMBERSHIP, AttackRow, ProbeRow, Row, State, TaskRow
from pytest_unlearn.gates.estimates import Sample, Share, percent, read, sample_of, scored, share
from pytest_unlearn.gates.metrics import GAPS, METRICS, SIDES, Metric
from pytest_unlearn.gates.populations import shown
from pytest_unlearn.leaks.exact import mean_leak_at
from pytest_unlearn.reports.tables import Table
from pytest_unlearn.run.result import RunFacts

# Sample sizes for which expected leaks under attack are shown.
SAMPLES = (1_000, 1_000_000)
_HALF = 0.5


@dataclass(frozen=True, slots=True)
class AttackFigures:
    """What came out under an attack; `attack` is empty for the tested model without one.

    `direct` and `control` are the shares of values that greedy decoding gives, for people to be
    forgotten and for control people (None without any). `bound` is what a gate on
    `leak.direct[attack=NAME]` would be judged on. `leak_at` and `control_leak_at` are the expected
    shares of values that this many samples bring out, empty for models without scores. `retrained`
    is the share that a retrained model gives under the same attack, None where it was not asked.
    """

    attack: str
    n: int
    direct: float
    bound: str
    control: float | None
    leak_at: dict[str, float]
    control_leak_at: dict[str, float]
    shown: str
    retrained: float | None = None


def attack_figures(rows: Sequence[Row], confidence: float) -> list[AttackFigures]:
    """Return the figures of each attack, after those of the same documents without an attack."""
    attacked = [row for row in rows if isinstance(row, AttackRow)]
    names = dict.fromkeys(row.attack for row in attacked)
    if not names:
        return []
    family = attacked[0].family
    figures = []
    for name in ("", *names):
        part: list[AttackRow | ProbeRow] = [row for row in attacked if row.attack == name]
        if not name:
            part = [row for row in rows if isinstance(row, ProbeRow) and row.family == family]
        filters = {"probe": family, **({"attack": name} if name else {})}
        if direct := share(METRICS["leak.direct"], part, filters, confidence):
            figures.append(_figures(name, direct, part))
    return figures


def _figures(name: str, direct: Share, rows: Sequence[AttackRow | ProbeRow]) -> AttackFigures:
    controls = [row for row in rows if row.split == "control"]
    own = sum(row.unlearned.label == "direct" for row in controls)
    return AttackFigures(
        attack=name,
        n=direct.n,
        direct=direct.rate("tested"),
        bound=direct.bound,
        control=own / len(controls) if controls else None,
        leak_at=_leaks([row for row in rows if row.split == "forget"]),
        control_leak_at=_leaks(controls),
        shown=direct.shown("tested"),
        retrained=_of_retrained([row for row in rows if row.split == "forget"]),
    )


def _of_retrained(rows: Sequence[AttackRow | ProbeRow]) -> float | None:
    greedy = [float(bool(row.retrained_exact.greedy)) for row in rows if row.retrained_exact]
    return math.fsum(greedy) / len(greedy) if greedy else None


def _leaks(rows: Sequence[AttackRow | ProbeRow]) -> dict[str, float]:
    exact = [row.unlearned_exact for row in rows if row.unlearned_exact is not None]
    return {str(k): mean_leak_at(exact, k) for k in SAMPLES} if exact else {}


def attack_table(rows: Sequence[Row], confidence: float) -> Table:
    """Return the attacks as a table, empty without any; see `AttackFigures`."""
    figures = attack_figures(rows, confidence)
    if not figures:
        return []
    leaks = (f"leak@{k:,}" for k in SAMPLES)
    head = ["under attack", "n", "direct", f"{percent(confidence)} bound", "control", *leaks]
    head.append(f"control @{SAMPLES[-1]:,}")
    compared = any(one.retrained is not None for one in figures)
    if not compared:
        return [head, *map(_cells, figures)]
    shares = ("-" if one.retrained is None else f"{one.retrained:.1%}" for one in figures)
    return [
        [*head, "retrained"],
        *([*_cells(one), share] for one, share in zip(figures, shares, strict=True)),
    ]


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


@dataclass(frozen=True, slots=True)
class InsideFigures:
    """What hidden states give away at one depth: `attack` is `lens@D` or `linear-probe@D`.

    For the lens, the figures are the share of value tokens that are a layer's first choice; for the
    probe, the AUC that tells people to forget from control people. `chance` is the control people's
    figure, or 0.5. `bound` is what a gate on `metric` would be judged on.
    """

    attack: str
    metric: str
    n: int
    base: float | None
    tested: float
    retrained: float | None
    chance: float
    bound: str


def inside_figures(rows: Sequence[Row], confidence: float) -> list[InsideFigures]:
    """Return what hidden states give away, by attack."""
    figures = []
    names = dict.fromkeys(row.attack for row in rows if isinstance(row, AttackRow))
    for name in names:
        for metric in (METRICS["lens.share"], METRICS["states.auc"]):
            if metric.attack == name.partition("@")[0]:
                figures += _inside(metric, name, rows, confidence)
    return figures


def _inside(
    metric: Metric, name: str, rows: Sequence[Row], confidence: float
) -> list[InsideFigures]:
    filters = {"attack": name}
    counted = scored(metric, metric.rows(rows, filters))
    if not counted:
        return []
    controls = metric.chance_rows(rows, filters)
    measured = sample_of(metric, counted, controls)
    estimate = read(metric.type, measured, confidence)
    if estimate is None:
        return []
    if metric.type == "auc":
        (sides,) = measured.sides
        figures = {state: sides.auc(state, confidence).estimate for state in sides.members}
        chance = 0.5
    else:
        scores: dict[State, list[float | None]] = {
            state: [metric.score(row, state, 0) for row in counted]
            for state in ("base", "unlearned", "retrained")
        }
        figures = {
            state: fmean(measured.means([score for score in part if score is not None]))
            for state, part in scores.items()
            if None not in part
        }
        own = [
            score for row in controls if (score := metric.score(row, "unlearned", 0)) is not None
        ]
        chance = fmean(own) if own else 0.0
    return [
        InsideFigures(
            attack=name,
            metric=metric.name,
            n=len(counted),
            base=figures.get("base"),
            tested=figures["unlearned"],
            retrained=figures.get("retrained"),
            chance=chance,
            bound=f"<={metric.show_bound(estimate.upper, True)}",
        )
    ]


def inside_table(rows: Sequence[Row], confidence: float) -> Table:
    """Return what hidden states give away as a table, empty without; see `InsideFigures`."""
    figures = inside_figures(rows, confidence)
    if not figures:
        return []
    head = ["hidden states", "n", "base", "tested", "retrained", "control or chance"]
    return [
        [*head, f"{percent(confidence)} bound"],
        *(
            [
                f"{one.attack} ({one.metric})",
                str(one.n),
                *(
                    "-" if figure is None else METRICS[one.metric].show(figure)
                    for figure in (one.base, one.tested, one.retrained, one.chance)
                ),
                one.bound,
            ]
            for one in figures
        ),
    ]


def attack_tables(rows: Sequence[Row], confidence: float) -> list[Table]:
    """Return all tables of what an attacker gets that are not empty, the retrained model's last."""
    tables = (attack_table, inside_table, way_table)
    return [table for make in tables if (table := make(rows, confidence))]


def attack_data(rows: Sequence[Row], confidence: float) -> list[dict[str, Any]]:
    """Return the attacks as JSON data."""
    return [asdict(one) for one in attack_figures(rows, confidence)]


def courses(figures: Sequence[AttackFigures]) -> dict[str, list[tuple[str, AttackFigures]]]:
    """Return the figures of each attack that trains, by its name, with the numbers of steps."""
    by_attack: dict[str, list[tuple[str, AttackFigures]]] = {}
    for one in figures:
        name, _, steps = one.attack.partition("@")
        attack = attacks().get(name)
        if steps and attack is not None and attack.trains and attack.changes_weights:
            by_attack.setdefault(name, []).append((steps, one))
    return by_attack


def half_way(figures: Sequence[AttackFigures]) -> list[str]:
    """Return, for each attack that trains, how many steps bring half of the values back."""
    parts = []
    for name, stages in courses(figures).items():
        last, end = stages[-1]
        reached = next((steps for steps, one in stages if one.direct >= _HALF), None)
        parts.append(
            f"{name}: half of the values are back after {reached} steps"
            if reached
            else f"{name}: half of the values are not back within {last} steps ({end.direct:.1%})"
        )
    return parts


def indirect_under_attack(rows: Sequence[Row]) -> list[str]:
    """Return, for each attack whose answers are judged as texts, how many give another real value,
    or the value in disguise: no gate counts these, since an attack's own clues come out so."""
    attacked = [row for row in rows if isinstance(row, AttackRow)]
    answers = Counter((row.attack, row.split) for row in attacked)
    indirect = Counter(
        (row.attack, row.split) for row in attacked if row.unlearned.label == "indirect"
    )

    def share_of(attack: str, split: str) -> str:
        return f"{indirect[attack, split]} of {answers[attack, split]}"

    return [
        f"{name}: {share_of(name, 'forget')} answers give a part of the value, the value in "
        f"disguise, or another real value (control people: {share_of(name, 'control')}); no gate "
        "counts these"
        for name in dict.fromkeys(name for name, _ in indirect)
    ]


def attack_sentences(run: RunFacts, rows: Sequence[Row]) -> list[str]:
    """Return sentences about what each kind of attack found, and about what was not tried."""
    figures = [one for one in attack_figures(rows, run.confidence) if one.attack]
    parts = []
    if figures:
        worst = max(figures, key=lambda one: one.direct)
        chance = ""
        if worst.control is not None:
            chance = f", and {worst.control:.1%} of control people's, which is chance"
        parts.append(
            f"The worst attack, {worst.attack}, brings out {worst.shown} of {worst.n} values to be "
            f"forgotten{chance}."
        )
        parts += [f"{sentence}." for sentence in (*half_way(figures), *indirect_under_attack(rows))]
        if not _relearned(figures):
            parts.append(
                "Values that come out only after a secret word would not have been found: no "
                "attack guesses one. Training on other people brings them back, and relearn was "
                "not made."
            )
    else:
        parts.append("No attack was tried, so it is unknown what an attacker gets.")
    parts += _inside_sentences(rows, run.confidence)
    parts += filter(None, [way_sentence(rows, run.confidence)])
    if run.untried:
        parts.append(f"Not tried: {', '.join(run.untried)}.")
    if run.impossible:
        parts.append(f"Cannot be made on this model: {', '.join(run.impossible)}.")
    return parts


def _relearned(figures: Sequence[AttackFigures]) -> bool:
    """Return whether an attack trained on people to be forgotten."""
    known = [attacks().get(one.attack.partition("@")[0]) for one in figures]
    return any(attack and attack.trains == "people" and attack.changes_weights for attack in known)


def attack_legend(rows: Sequence[Row]) -> Table:
    """Return what was done in each attack, for readers who do not know the names; empty without."""
    states = dict.fromkeys(row.attack for row in rows if isinstance(row, AttackRow))
    names = dict.fromkeys(state.partition("@")[0] for state in states)
    if not names:
        return []
    known = attacks()
    lines = [[name, known[name].about if name in known else "-"] for name in names]
    return [["attack", "what is done"], *lines]


def _inside_sentences(rows: Sequence[Row], confidence: float) -> list[str]:
    """Return what the worst layer gives away, a sentence for each attack on hidden states."""
    figures = inside_figures(rows, confidence)
    parts = []
    for metric, does in (
        ("lens.share", "of a value's tokens can be read off a middle layer"),
        (
            "states.auc",
            "is the AUC at which hidden states distinguish forgotten people from others",
        ),
    ):
        several = [one for one in figures if one.metric == metric]
        if several:
            worst = max(several, key=lambda one: one.tested)
            show = METRICS[metric].show
            base = "" if worst.base is None else f"base {show(worst.base)}, "
            parts.append(
                f"{show(worst.tested)} {does} ({worst.attack}; {base}"
                f"{'control people' if metric == 'lens.share' else 'chance'} {show(worst.chance)})."
            )
    return parts


# The number of samples for which leaks are compared.
_WAY_SAMPLES = 1_000
# If base and retrained model are closer than this (in shares, or AUC), there is no distance to
# cover.
_LEAST_WAY = 0.02
_OTHER_VIEWS = ("leak.worst", "leak.worst.at", "passk.retained")
_STATES: tuple[State, ...] = ("base", "unlearned", "retrained")


@dataclass(frozen=True, slots=True)
class Way:
    """One metric on three models, and how far the tested one went from base to retrained."""

    name: str
    base: float
    tested: float
    retrained: float
    auc: bool = False

    @property
    def share(self) -> float | None:
        """The share of the way, over 1 beyond the goal; None if base and retrained are alike."""
        distance = self.base - self.retrained
        return None if abs(distance) < _LEAST_WAY else (self.base - self.tested) / distance

    @property
    def cells(self) -> list[str]:
        """The figures, as a table shows them."""
        form = "{:.2f}" if self.auc else "{:.1%}"
        went = "-" if self.share is None else f"{self.share:.0%}"
        return [self.name, *(form.format(n) for n in self._figures), went]

    @property
    def _figures(self) -> tuple[float, float, float]:
        return self.base, self.tested, self.retrained


def ways(rows: Sequence[Row], confidence: float) -> list[Way]:
    """Return each metric that was also measured on a retrained model; see `Way`.

    A metric with several views or states is given in the one in which tested and retrained model
    differ most.
    """
    chosen: list[Way] = []
    if not any(_asked_of_retrained(row) for row in rows):
        return chosen
    for metric in METRICS.values():
        if metric.split == "control" or metric.type in ("maximum", "count", "drop", "loss"):
            continue
        if metric.rehearsed is not None or metric.name in _OTHER_VIEWS:
            continue  # another view of a metric that is included
        if metric.type in GAPS and metric.name not in ("gap.exposure", "gap.relearn"):
            continue
        several = list(_ways(metric, rows, confidence))
        if several:
            chosen.append(max(several, key=lambda way: abs(way.tested - way.retrained)))
    return chosen


def _asked_of_retrained(row: Row) -> bool:
    """Return whether a row has anything from a retrained model."""
    if isinstance(row, TaskRow):
        return row.retrained is not None
    return row.retrained is not None or row.retrained_exact is not None


def _ways(metric: Metric, rows: Sequence[Row], confidence: float) -> Iterator[Way]:
    states = dict.fromkeys(row.attack for row in rows)
    named = [name for name in states if name and name.partition("@")[0] == metric.attack]
    for filters in [{"attack": name} for name in named] if metric.worst else [{}]:
        part = shown(metric, filters, rows)
        argument = _WAY_SAMPLES if metric.argument else 0
        compared = replace(metric, type="auc gap" if metric.type in SIDES else "gap")
        counted = scored(compared, metric.rows(rows, part), argument)
        if not counted:
            continue
        controls = compared.chance_rows(rows, part)
        measured = sample_of(compared, counted, controls, argument)
        name = metric.name.removeprefix("gap.")
        name += f"({_WAY_SAMPLES:,})" * (metric.argument is not None)
        yield from _of_sample(name, measured, filters.get("attack", ""), confidence)


def _of_sample(name: str, measured: Sample, attack: str, confidence: float) -> Iterator[Way]:
    if measured.retrained:
        base, tested, retrained = (
            math.fsum(means) / len(means)
            for means in map(measured.means, (measured.base, measured.new, measured.retrained))
        )
        yield Way(f"{name} ({attack})" if attack else name, base, tested, retrained)
    for view, sides in enumerate(measured.sides):
        if set(_STATES) <= set(sides.members):
            by = attack or MEMBERSHIP[view]
            base, tested, retrained = (sides.auc(state, confidence).estimate for state in _STATES)
            yield Way(f"{name} ({by})", base, tested, retrained, auc=True)


def way_table(rows: Sequence[Row], confidence: float) -> Table:
    """Return the three models side by side; empty without a retrained one."""
    compared = ways(rows, confidence)
    if not compared:
        return []
    return [
        ["against retrained", "base", "tested", "retrained", "progress"],
        *(way.cells for way in compared),
    ]


def way_sentence(rows: Sequence[Row], confidence: float) -> str:
    """Return how far the tested model went towards the retrained one, by metric, as a sentence."""
    gone = [(way.name, way.share) for way in ways(rows, confidence) if way.share is not None]
    if not gone:
        return ""
    listed = ", ".join(f"{name} {share:.0%}" for name, share in gone)
    return f"Progress of the tested model from base to retrained: {listed}."
