"""From scored rows to estimates: the figure of a metric, and its bounds.

Rows of one person, or wordings of one task, are not independent, and people have different numbers
of them. So the figure is the mean over people of each person's mean, and its bounds are Gaffke's on
these means. They hold for any dependence within a person, and even if the number of rows is related
to the rate; `tests/gates/test_coverage.py` simulates it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

from pytest_unlearn.gates.case_rows import Countable, Score, State, TaskRow, value_of
from pytest_unlearn.gates.metrics import GAPS, METRICS, SIDES, UPPER, Metric, Row, Type
from pytest_unlearn.gates.populations import shown
from pytest_unlearn.gates.statistics import (
    cases_needed_for_drop,
    cases_needed_for_ratio,
    gaffke_lower,
    gaffke_ratio,
    gaffke_upper,
    net_bounds,
    net_ratio,
    probes_needed,
    values_of,
)
from pytest_unlearn.leaks.membership import Auc, auc, auc_difference

# Controls that come out more often than this cannot serve as controls.
MOST_CHANCE = 0.1
# Bounds are compared with limits, and shown, with at most this many digits.
_DIGITS = 12


def percent(confidence: float) -> str:
    """Return a confidence as text: 0.95 is `95%`, 0.999 is `99.9%`."""
    return f"{100 * confidence:.6g}%"


@dataclass(frozen=True, slots=True)
class Chance:
    """What comes out of controls, matched by kind: `(kind, weight, means)`.

    `weight` is the share of the kind in what is judged (all weights add up to 1 if each kind has
    controls), and `means` has the mean score of each control person on that kind.
    """

    kinds: tuple[tuple[str, float, tuple[float, ...]], ...]

    @property
    def rate(self) -> float:
        """The share that chance alone would give."""
        return round(math.fsum(weight * _mean(means) for _, weight, means in self.kinds), _DIGITS)

    def bounds(self, confidence: float) -> tuple[float, float]:
        """Return bounds of `rate`, valid for any dependence between the kinds."""
        lower, upper = (
            math.fsum(
                weight * bound(values_of(means), confidence) for _, weight, means in self.kinds
            )
            for bound in (gaffke_lower, gaffke_upper)
        )
        return lower, upper

    def fault(self, confidence: float) -> str:
        """Return why these cannot serve as controls, or an empty text."""
        if self.rate > MOST_CHANCE:
            return f"controls come out as well: {self.rate:.1%} by chance alone"
        for kind, _, means in self.kinds:
            if gaffke_lower(values_of(means), confidence) > MOST_CHANCE:
                return f"controls come out as well: {_mean(means):.1%} of kind {kind}"
        return ""


@dataclass(frozen=True, slots=True)
class Sides:
    """Scores that distinguish people to forget from control people, and the owner of each.

    By model: `base`, `unlearned`, and `retrained` if it was scored.
    """

    members: dict[State, tuple[float, ...]]
    others: dict[State, tuple[float, ...]]
    owners: tuple[tuple[str, ...], tuple[str, ...]]

    def auc(self, state: State, confidence: float) -> Auc:
        """Return a model's AUC; each end of its interval holds with `confidence`."""
        return auc(
            self.members[state],
            self.others[state],
            owners=self.owners,
            confidence=2.0 * confidence - 1.0,
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """Scores of base and tested model on the same rows, and the person of each row.

    `had`: the base's scores of what there was to forget. `chance` and `base_chance`: what comes out
    of controls on either model, None for nothing. `retrained`: the scores of a retrained model;
    `sides`: those of both sides in each view, for the metrics that need them.
    """

    base: tuple[float, ...]
    new: tuple[float, ...]
    people: tuple[str, ...]
    had: tuple[float, ...] = ()
    chance: Chance | None = None
    base_chance: Chance | None = None
    retrained: tuple[float, ...] = ()
    sides: tuple[Sides, ...] = ()

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.new)

    @property
    def units(self) -> int:
        """Number of people or tasks."""
        return len(set(self.people))

    def means(self, scores: Sequence[float]) -> list[float]:
        """Return each person's mean of scores of the rows."""
        sums: dict[str, float] = {}
        for person, score in zip(self.people, scores, strict=True):
            sums[person] = sums.get(person, 0.0) + score
        sizes = Counter(self.people)
        return [min(1.0, sums[person] / sizes[person]) for person in sums]

    def base_leaked(self) -> Sample:
        """Return a sample of what the base had or, if there is no such score, of what it did."""
        had = self.had or self.base
        return Sample(had, had, self.people, chance=self.base_chance)

    @property
    def beyond_chance(self) -> float:
        """The share of the tested model that chance does not explain, (p - c) / (1 - c)."""
        rate = _mean(self.means(self.new))
        chance = self.chance.rate if self.chance else 0.0
        return _beyond(rate, chance) if chance < 1.0 else 0.0


def people_of(cases: Iterable[Countable], each_alone: bool) -> list[str]:
    """Return the person or task that each case depends on; `each_alone`: only itself."""
    return [f"{n}" if each_alone else case.counted_as for n, case in enumerate(cases)]


def sample_of(
    metric: Metric,
    rows: Sequence[Row],
    controls: Sequence[Row] = (),
    argument: int = 0,
    each_alone: bool = False,
    tested: State = "unlearned",
) -> Sample:
    """Return the scores of rows that all have one; see `Metric` for the arguments.

    `tested`: the model to read as the tested one.
    """
    people = people_of(rows, each_alone)
    if metric.type in SIDES:
        own = tuple([0.0] * len(rows))  # only their number matters
        return Sample(own, own, tuple(people), sides=_sides(metric, rows, controls, each_alone))
    if metric.type == "gap":
        base, new, other = (
            _scores(metric.score, rows, state, argument) for state in ("base", tested, "retrained")
        )
        return Sample(base, new, tuple(people), retrained=other)
    if metric.type == "count":
        states: tuple[State, State] = ("base", tested)
        base, new = (_by_value(metric, rows, state, argument) for state in states)
        by_chance, gives_away = (
            _chance(metric, rows, people, controls, argument, each_alone, state) for state in states
        )
        alone = tuple(map(str, range(len(new))))
        return Sample(base, new, alone, had=base, chance=gives_away, base_chance=by_chance)
    return Sample(
        base=_scores(metric.score, rows, "base", argument),
        new=_scores(metric.score, rows, tested, argument),
        people=tuple(people),
        had=_scores(metric.had, rows, "base", argument) if metric.had else (),
        chance=_chance(metric, rows, people, controls, argument, each_alone, tested),
        base_chance=_chance(metric, rows, people, controls, argument, each_alone, "base"),
    )


def scored(metric: Metric, rows: Iterable[Row], argument: int = 0) -> list[Row]:
    """Return the rows that have a score on each model; a figure counts no others."""
    states: list[State] = ["base", "unlearned"]
    if metric.type in GAPS:
        states.append("retrained")
    return [row for row in rows if _all_valid(metric, row, states, argument)]


def _all_valid(metric: Metric, row: Row, states: Sequence[State], argument: int) -> bool:
    return all(metric.valid(metric.score(row, state, argument)) for state in states)


def _sides(
    metric: Metric, rows: Sequence[Row], controls: Sequence[Row], each_alone: bool
) -> tuple[Sides, ...]:
    """Return the scores of either side, in each view that all rows have."""
    others = scored(metric, controls)
    owners = tuple(
        tuple(f"{side} {who}" for who in people_of(part, each_alone))
        for side, part in (("forget", rows), ("control", others))
    )
    views = []
    for view in range(metric.views):
        states: list[State] = [
            state
            for state in ("base", "unlearned", "retrained")
            if all(_all_valid(metric, row, (state,), view) for row in (*rows, *others))
        ]
        if rows and others and "unlearned" in states:
            members, nonmembers = (
                {state: _scores(metric.score, part, state, view) for state in states}
                for part in (rows, others)
            )
            views.append(Sides(members, nonmembers, (owners[0], owners[1])))
    return tuple(views)


def _scores(score: Score, rows: Iterable[Row], state: State, argument: int) -> tuple[float, ...]:
    scores = (score(row, state, argument) for row in rows)
    return tuple(value for value in scores if value is not None)


def _chance(
    metric: Metric,
    rows: Sequence[Row],
    people: Sequence[str],
    controls: Sequence[Row],
    argument: int,
    each_alone: bool,
    state: State,
) -> Chance | None:
    if metric.chance is None:
        return None
    by_kind: dict[str, list[tuple[Row, float]]] = {}
    for row in controls:
        value = metric.chance(row, state, argument)
        if value is not None and metric.valid(value):
            by_kind.setdefault(row.kind, []).append((row, value))
    if not any(value for pairs in by_kind.values() for _, value in pairs):
        return None
    sizes = Counter(people)
    weights: dict[str, float] = {}
    for row, person in zip(rows, people, strict=True):
        weights[row.kind] = weights.get(row.kind, 0.0) + 1.0 / (sizes[person] * len(sizes))
    kinds = []
    for kind, pairs in by_kind.items():
        if kind in weights:
            asked, scores = zip(*pairs, strict=True)
            own = Sample(scores, scores, tuple(people_of(asked, each_alone)))
            kinds.append((kind, weights[kind], tuple(own.means(scores))))
    return Chance(tuple(kinds)) if any(any(means) for *_, means in kinds) else None


def _by_value(
    metric: Metric, rows: Sequence[Row], state: State, argument: int
) -> tuple[float, ...]:
    """Return for each value to forget how likely any of its probes brings it out."""
    silent: dict[str, float] = {}
    for row in rows:
        value = value_of(row, state if metric.counted else None)
        score = metric.score(row, state, argument)
        silent[value] = silent.get(value, 1.0) * (1.0 - (score or 0.0))
    return tuple(1.0 - chance for chance in silent.values())


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its one-sided bounds; for `maximum` and `count` both are the figure."""

    figure: float
    lower: float
    upper: float


def read(type_: Type, sample: Sample, confidence: float) -> Estimate | None:
    """Return the figure of a sample with its bounds, each of which holds with `confidence`.

    The figure of a rate or ratio is what came out; its bounds are those of the share beyond chance,
    (p - c) / (1 - c), or of the ratio of these shares. None for a ratio or drop if the base never
    succeeds. Raises ValueError for an empty sample.
    """
    if not sample.n:
        raise ValueError("a sample without rows has no figure")
    if type_ == "maximum":
        highest = max(sample.new)
        return Estimate(highest, highest, highest)
    if type_ == "count":
        total = math.fsum(sample.new)
        return Estimate(total, total, total)
    if type_ in SIDES:
        return _worst_view(type_, sample, "unlearned", confidence)
    if type_ == "gap":
        return _distance(sample.means(sample.retrained), sample.means(sample.new), confidence)
    new = sample.means(sample.new)
    if type_ in ("rate", "floor"):
        values = values_of(new)
        lower, upper = gaffke_lower(values, confidence), gaffke_upper(values, confidence)
        if type_ == "rate" and sample.chance is not None:
            lower, upper = net_bounds(
                (_mean(new), lower, upper), (sample.chance.rate, *sample.chance.bounds(confidence))
            )
            lower, upper = max(0.0, lower), max(0.0, upper)  # a share, as it is shown
        return _estimate(_mean(new), lower, upper)
    base = sample.means(sample.base)
    if type_ == "loss":
        return change(new, base, confidence)
    if not any(base):
        return None
    counted = Counter(zip(base, new, strict=True))
    pairs = tuple(sorted((*pair, count) for pair, count in counted.items()))
    ratio = math.fsum(new) / math.fsum(base)
    if type_ == "ratio":
        chances = [
            (chance.rate, *chance.bounds(confidence)) if chance else None
            for chance in (sample.base_chance, sample.chance)
        ]
        return _estimate(ratio, *net_ratio(pairs, chances[0], chances[1], confidence))
    lower, upper = gaffke_ratio(pairs, confidence)
    return _estimate(1.0 - ratio, 1.0 - upper, 1.0 - lower)


def assuming(type_: Type, estimate: Estimate, sample: Sample, chance: float) -> Estimate:
    """Return the bounds that are left for a FAIL if chance is as high as this on either model."""
    if type_ == "rate":
        return replace(estimate, lower=_beyond(estimate.lower, chance))
    if type_ == "ratio":  # at best the base gave that much by chance, and the tested model nothing
        known = _beyond(_mean(sample.means(sample.base)), chance)
        share = known / _mean(sample.means(sample.base))
        return replace(estimate, upper=estimate.upper / share if share > 0.0 else math.inf)
    return estimate


def _beyond(rate: float, chance: float) -> float:
    return (rate - chance) / (1.0 - chance)


def read_base(type_: Type, sample: Sample, confidence: float) -> Estimate | None:
    """Return the base's estimate for a metric that compares people or models; see `read`."""
    if type_ in SIDES:
        return _worst_view(type_, sample, "base", confidence)
    return _distance(sample.means(sample.retrained), sample.means(sample.base), confidence)


def _worst_view(type_: Type, sample: Sample, state: State, confidence: float) -> Estimate | None:
    """Return the highest estimate of all views with the highest bounds, since each view must keep
    the limit. None without a control person."""
    estimates = []
    for sides in sample.sides:
        own = sides.auc(state, confidence)
        if type_ == "auc gap":
            estimates.append(_either_way(*auc_difference(own, sides.auc("retrained", confidence))))
        else:  # scores that are too low give people away, too
            shift = _either_way(own.estimate - 0.5, own.low - 0.5, own.high - 0.5)
            ends = (shift.figure, shift.lower, shift.upper)
            estimates.append(_estimate(*(0.5 + end for end in ends)))
    if not estimates:
        return None
    return Estimate(
        max(estimate.figure for estimate in estimates),
        max(estimate.lower for estimate in estimates),
        max(estimate.upper for estimate in estimates),
    )


def _distance(one: Sequence[float], other: Sequence[float], confidence: float) -> Estimate:
    """Return how far apart two means of the same people are, in either direction."""
    estimate = change(one, other, confidence)
    return _either_way(estimate.figure, estimate.lower, estimate.upper)


def _either_way(figure: float, lower: float, upper: float) -> Estimate:
    """Return a difference without its sign; the bounds keep their confidence."""
    least = max(0.0, lower, -upper)
    return _estimate(abs(figure), least, max(abs(lower), abs(upper)))


def change(before: Sequence[float], after: Sequence[float], confidence: float) -> Estimate:
    """Return by how much people's means rose, with one-sided bounds: Gaffke's, from -1 to 1."""
    differences = [b - a for a, b in zip(before, after, strict=True)]
    values = values_of((1.0 + difference) / 2.0 for difference in differences)
    lower, upper = gaffke_lower(values, confidence), gaffke_upper(values, confidence)
    return _estimate(_mean(differences), 2.0 * lower - 1.0, 2.0 * upper - 1.0)


def _estimate(figure: float, lower: float, upper: float) -> Estimate:
    return Estimate(figure, round(lower, _DIGITS), round(upper, _DIGITS))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def units_needed(type_: Type, limit: float, confidence: float) -> int | None:
    """Return the fewest people or tasks on which a gate can pass with perfect results.

    None for a limit too small to be shown by any number.
    """
    if type_ in ("maximum", "count") or limit == 0:
        return 1
    if type_ in ("rate", "loss", "gap"):
        return probes_needed(limit, confidence)
    if type_ == "auc gap":  # two equal models have the same AUC for any number
        return 2
    if type_ == "auc":  # on each side, for an AUC of 0.5 without ties
        reach = NormalDist().inv_cdf(confidence) / (limit - 0.5)
        return math.ceil(reach * reach / 6.0)
    if type_ == "drop":
        return cases_needed_for_drop(limit, confidence)
    return cases_needed_for_ratio(limit, confidence)


def events_allowed(
    type_: Type, limit: float, people: Sequence[str], confidence: float
) -> int | None:
    """Return the most rows that may leak (or be lost) in a gate that passes, in the worst case.

    `people` are those of the rows; the base has all of them, and chance gives nothing. The worst
    case is all rows of the people with the fewest rows. None if not even 0 may leak.
    """
    sizes = Counter(people)
    ordered = sorted(people, key=lambda person: (sizes[person], person))
    upper, count = type_ in UPPER, len(ordered)

    def passes(events: int) -> bool:
        ones = events if type_ in ("rate", "drop") else count - events
        scores = [1.0] * ones + [0.0] * (count - ones)
        if type_ not in ("rate", "drop"):
            scores.reverse()
        estimate = read(type_, Sample((1.0,) * count, tuple(scores), tuple(ordered)), confidence)
        assert estimate is not None  # the base has all of them
        return estimate.upper <= limit if upper else estimate.lower >= limit

    if not count or not passes(0):
        return None
    low, high = 0, count  # no limit allows all of them
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low


# -- what tables and reports show, counted as in gates ----------------------------------------


@dataclass(frozen=True, slots=True)
class Share:
    """A metric with scores from 0 to 1, on base and tested model.

    `n` counts the cases, `units` the people or tasks. `base` and `tested` are sums of scores
    (counts, if a case scores 0 or 1), `means` the means over people on each model. The bounds are
    one-sided: each end of `base_bounds` and `tested_bounds` holds with `confidence`. As in gates,
    chance (what comes out of controls) is subtracted from them. `bound` is the bound that a gate
    would be judged on, as text; `-` if there is nothing to compare with.
    """

    name: str
    about: str
    n: int
    units: int
    base: float
    tested: float
    means: tuple[float, float]
    base_bounds: tuple[float, float]
    tested_bounds: tuple[float, float]
    bound: str
    confidence: float

    def rate(self, state: Literal["base", "tested"]) -> float:
        """Return one model's mean over people, a fraction."""
        return self.means[0] if state == "base" else self.means[1]

    def interval(self, state: Literal["base", "tested"]) -> tuple[float, float]:
        """Return one model's bounds, fractions."""
        return self.base_bounds if state == "base" else self.tested_bounds

    def interval_text(self, state: Literal["base", "tested"]) -> str:
        """Return one model's bounds as text, rounded outwards."""
        low, high = self.interval(state)
        show = METRICS["leak.direct"].show_bound
        return f"{show(low, False)} to {show(high, True)}"

    def shown(self, state: Literal["base", "tested"]) -> str:
        """Return one model's figure as text."""
        total = self.base if state == "base" else self.tested
        return f"{total:g} ({METRICS['leak.direct'].show(self.rate(state))})"

    @property
    def cells(self) -> list[str]:
        """Base, tested, n and bound, as every table shows them."""
        return [self.shown("base"), self.shown("tested"), size(self.n, self.units), self.bound]


def size(n: int, units: int) -> str:
    """Return the number of cases, and that of people or tasks if it is smaller."""
    return f"{n} ({units})" if 0 < units < n else str(n)


def share(
    metric: Metric,
    rows: Sequence[Row],
    filters: Mapping[str, str] | None,
    confidence: float,
    two_states: bool = True,
) -> Share | None:
    """Return a metric's share over the rows that a gate with these filters counts, or None.

    `two_states`: base and tested model differ, so that they can be compared.
    """
    restricted = shown(metric, filters or {}, rows)
    counted = scored(metric, metric.rows(rows, restricted))
    if not counted:
        return None
    controls = metric.chance_rows(rows, restricted)
    sample = sample_of(metric, counted, controls)
    return Share(
        name=metric.name,
        about=metric.about,
        n=sample.n,
        units=sample.units,
        base=math.fsum(sample.base),
        tested=math.fsum(sample.new),
        means=(_mean(sample.means(sample.base)), _mean(sample.means(sample.new))),
        base_bounds=_ends(metric, counted, controls, "base", confidence),
        tested_bounds=_ends(metric, counted, controls, "unlearned", confidence),
        bound=_bound(metric, read(metric.type, sample, confidence), two_states),
        confidence=confidence,
    )


def _ends(
    metric: Metric, rows: Sequence[Row], controls: Sequence[Row], state: State, confidence: float
) -> tuple[float, float]:
    """Return the bounds of one model's rate."""
    estimate = read("rate", sample_of(metric, rows, controls, tested=state), confidence)
    assert estimate is not None  # a rate always has one
    return estimate.lower, estimate.upper


def _bound(metric: Metric, estimate: Estimate | None, two_states: bool) -> str:
    if estimate is None or (metric.type == "ratio" and not two_states):
        return "-"
    if metric.type in UPPER:
        return f"<={metric.show_bound(estimate.upper, True)}"
    return f">={metric.show_bound(estimate.lower, False)}" + (
        " of base" if metric.type == "ratio" else ""
    )


def shares(rows: Sequence[Row], confidence: float, two_states: bool = True) -> tuple[Share, ...]:
    """Return the shares that every report shows: all metrics of counts that have rows.

    For pass@k, this is what is retained if two models are compared, and else the rate.
    """
    other = "passk.rate" if two_states else "passk.retained"
    candidates = (
        share(metric, rows, None, confidence, two_states)
        for metric in METRICS.values()
        if metric.type in ("rate", "floor", "ratio") and not metric.argument
        if not metric.worst  # a mean over attacks means nothing
        if metric.name != other
    )
    return tuple(item for item in candidates if item is not None)


def pass_at(
    name: str, rows: Sequence[Row], k: int, confidence: float, two_states: bool
) -> Share | None:
    """Return the share of pass@k over task cases, for any k that was sampled."""

    def score(row: Row, state: State, argument: int) -> float | None:
        return row.pass_at(state, k) if isinstance(row, TaskRow) else None

    metric = replace(METRICS["passk.retained"], name=name, score=score)
    return share(metric, rows, None, confidence, two_states)
