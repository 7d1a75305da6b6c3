"""The quantities that gates judge and reports show: their rows, scores and populations.

A metric gives each row a score from 0 to 1 (or, for `maximum`, a number in its unit), on the base
and on the tested model. `gates.estimates` turns the scores into bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Literal

from pytest_unlearn.gates.case_rows import (
    MEMBERSHIP,
    Countable,
    Counted,
    Score,
    direct,
    drawn_out,
    exposed,
    exposure,
    labelled,
    lens_share,
    membership,
    of_the_forgotten,
    own_in_disguise,
    parses,
    sampled,
    solved,
    told_apart,
)
from pytest_unlearn.gates.case_rows import Row as Row

# How scores become a figure: the tested model's mean, with an upper (`rate`) or a lower limit
# (`floor`); its mean divided by the base's (`ratio`); the share by which it fell (`drop`); the
# points by which it fell (`loss`); its highest score (`maximum`); how many values come out of any
# of their probes (`count`), which is a fact about these people, not an estimate; how well scores
# distinguish people to forget from control people, in either direction (`auc`); how far the tested
# model's mean (`gap`) or AUC (`auc gap`) is from a retrained model's, in either direction.
Type = Literal[
    "rate", "floor", "ratio", "drop", "loss", "maximum", "count", "auc", "gap", "auc gap"
]
UPPER: frozenset[Type] = frozenset({"rate", "loss", "maximum", "count", "auc", "gap", "auc gap"})
SIDES: frozenset[Type] = frozenset({"auc", "auc gap"})  # people to forget against control people
GAPS: frozenset[Type] = frozenset({"gap", "auc gap"})  # the tested against a retrained model
# Keys that restrict the rows, and what each one compares.
ROW_FILTERS: dict[str, Callable[[Countable], str]] = {
    "kind": lambda case: case.kind,
    "carrier": lambda case: case.carrier,
    "planted": lambda case: case.planted,
    "language": lambda case: case.language,
    "knowledge": lambda case: case.knowledge,
    "probe": lambda case: case.family,
    "attack": lambda case: case.attack,
    "request": lambda case: case.request,
}
FILTERS = (*ROW_FILTERS, "unit")
VALUELESS = frozenset({"linear-probe"})  # attacks that distinguish people and bring out no value
# Attacks without exact scores, and those of which a part of the value is enough: in many samples
# that comes out of anybody.
UNSAMPLED = VALUELESS | {"clues", "begun", "partly", "near-verbatim"}
# More bits than a rank among decoys can have.
_MOST_BITS = 64.0
_MOST_DIGITS = 12  # to which bounds are computed (`estimates.read`)


@dataclass(frozen=True, slots=True)
class Metric:
    """A measurable quantity; `split` None means task cases.

    `argument` names the number in parentheses, as K in `leak.at(K)`. `had` is the base's score of
    what there was to forget: if it also meets the limit, silence shows nothing. `chance` is the
    score of control rows, which is due to chance alone. `exact`: only probes with exact scores
    count. `rehearsed`: only rows that unlearning trained on, or only others. `attackable`: it is
    measured under attack as well, and `attack=` restricts it to one. `worst`: it is judged on each
    attack of the run, or on each request, and the worst counts. `attack`: it is measured only under
    this one. `guessable`: parts of values count, which chance may give as well. `views`: the number
    of scores that a row has, selected by `argument`; the worst counts. `source`: the paper or rule
    that it comes from. `drawn`: each score is estimated from samples, so it has an interval even if
    the people are the whole population.
    """

    name: str
    type: Type
    split: str | None
    about: str
    source: str
    score: Score
    argument: str | None = None
    had: Score | None = None
    chance: Score | None = None
    exact: bool = False
    counted: bool = True
    rehearsed: bool | None = None
    attackable: bool = False
    worst: Literal["", "attack", "request"] = ""
    attack: str = ""
    guessable: bool = False
    views: int = 1
    drawn: bool = False

    @property
    def operator(self) -> str:
        """The operator of a gate on this metric."""
        return "<=" if self.type in UPPER else ">="

    @property
    def form(self) -> str:
        """The name as it is written in a gate."""
        return f"{self.name}({self.argument})" if self.argument else self.name

    @property
    def unit(self) -> str:
        """The unit of its numbers."""
        units = {"maximum": "bits", "count": "values", "auc": "AUC (0.5 is chance)"}
        units |= {"loss": "points (pp)", "gap": "points (pp)", "auc gap": "difference of AUC"}
        return units.get(self.type, "share (%)")

    @property
    def unjudged(self) -> frozenset[str]:
        """The attacks that it leaves out where it is judged on each attack of the run."""
        return frozenset() if self.attack else UNSAMPLED if self.exact else VALUELESS

    @property
    def cases(self) -> str:
        """What its rows are, in the plural."""
        return "task cases" if self.split is None else f"{self.split} probes"

    @property
    def units(self) -> str:
        """What counts as one independent observation, in the plural."""
        return "tasks" if self.split is None else f"{self.split} people"

    def show(self, value: float) -> str:
        """Return a figure of this metric as text. Only exactly 0 % (or 100 %) is shown as such."""
        if self.type == "count":
            return f"{value:.3g}"
        if self.type in SIDES:
            return f"{value:.2f}"
        least = 1 if self.counted else 2
        for digits in range(least, _MOST_DIGITS):
            text = self._text(value, digits, ROUND_HALF_EVEN)
            if self.type in ("maximum", "loss", "gap") or Decimal(text[:-1]) not in (0, 100):
                return text
            if value in (0.0, 1.0):
                break
        return self._text(value, least, ROUND_HALF_EVEN)

    def show_bound(self, value: float, upper: bool, limit: float | None = None) -> str:
        """Return a bound as text, rounded outwards: an upper one up, a lower one down.

        Digits are added until the text keeps (or breaks) `limit` as the bound does.
        """
        rounding = ROUND_CEILING if upper else ROUND_FLOOR
        for digits in range(2 if self.type in SIDES else 1, _MOST_DIGITS):
            text = self._text(value, digits, rounding)
            if limit is None:
                return text
            shown, exact = self._number(text), Decimal(repr(limit))
            if (shown <= exact, shown >= exact) == (value <= limit, value >= limit):
                return text
        return self._text(value, _MOST_DIGITS, rounding)

    def show_limit(self, value: float) -> str:
        """Return a limit as text, with all its digits."""
        scaled = Decimal(repr(value)) * self._scale
        least = 0 if self._scale == 1 else 1
        digits = max(least, -int(scaled.normalize().as_tuple().exponent))
        return f"{scaled:.{digits}f}{self._suffix}"

    def _text(self, value: float, digits: int, rounding: str) -> str:
        scaled = Decimal(repr(value)) * self._scale
        rounded = scaled.quantize(Decimal(1).scaleb(-digits), rounding)
        return f"{rounded if rounded else abs(rounded):f}{self._suffix}"

    def _number(self, text: str) -> Decimal:
        return Decimal(text.removesuffix(self._suffix)) / self._scale

    @property
    def _scale(self) -> int:
        return 1 if self.type in ("maximum", "count") or self.type in SIDES else 100

    @property
    def _suffix(self) -> str:
        if self.type in SIDES or self.type == "count":
            return ""
        return {"maximum": " bits", "loss": " pp", "gap": " pp"}.get(self.type, "%")

    def concerns(self, row: Countable, filters: Mapping[str, str]) -> bool:
        """Return whether this metric counts a row, probe or task case (`split` tells them apart).

        Of probes, only one family counts at a time (`probe=`: the direct one unless another or
        `all` is named), since a rate over families that ask differently means nothing.
        `populations` sets the filter `rehearsed` (yes, no); controls are never trained on.
        """
        if row.split != self.split:
            return False
        if "attack" not in filters and bool(row.attack) is not (self.worst == "attack"):
            return False
        name = row.attack.partition("@")[0]
        if (self.attack and name != self.attack) or (name in VALUELESS and not self.attack):
            return False
        rehearsed = self.rehearsed
        if rehearsed is None and "rehearsed" in filters:
            rehearsed = filters["rehearsed"] == "yes"
        asked = rehearsed is None or self.split == "control"
        if not asked and row.rehearsed is not rehearsed:
            return False
        if self.exact and not row.exact:
            return False
        if self.split is None:
            return not set(filters) & set(ROW_FILTERS)
        required = {"probe": "all" if self.type == "count" else "direct", **filters}
        if self.split == "control":
            required.pop("request", None)  # they are in no request
        return all(
            value_of(row) == required[key] or (key, required[key]) == ("probe", "all")
            for key, value_of in ROW_FILTERS.items()
            if key in required
        )

    def rows(self, rows: Iterable[Row], filters: Mapping[str, str]) -> list[Row]:
        """Return the rows that this metric counts."""
        return [row for row in rows if self.concerns(row, filters)]

    def valid(self, score: float | None) -> bool:
        """Return whether a score is valid: a number that is not NaN, and a share from 0 to 1."""
        if score is None:
            return False
        if self.type in SIDES:
            return math.isfinite(score)
        return 0.0 <= score <= (_MOST_BITS if self.type == "maximum" else 1.0)

    def chance_rows(self, rows: Iterable[Counted], filters: Mapping[str, str]) -> list[Counted]:
        """Return the control rows, or cases, that are asked in the same way as those counted."""
        if self.chance is None and self.type not in SIDES:
            return []
        controls = replace(self, split="control")
        return [row for row in rows if controls.concerns(row, filters)]


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "leak.direct",
            "rate",
            "forget",
            "share of forget probes whose own value comes out",
            "discoverable extraction, arXiv 2202.07646",
            direct,
            had=direct,
            chance=direct,
            attackable=True,
        ),
        Metric(
            "leak.worst",
            "rate",
            "forget",
            "direct leaks under the attack of the run that brings back most (--unlearn-attacks)",
            "the worst of several attacks: each must pass alone (Berger, 1982)",
            direct,
            had=direct,
            chance=direct,
            worst="attack",
        ),
        Metric(
            "leak.worst.at",
            "rate",
            "forget",
            "expected share of forget values that K samples each bring out under the worst attack",
            "leak.at(K) for each attack of the run, as in leak.worst",
            drawn_out,
            argument="K",
            had=drawn_out,
            chance=drawn_out,
            exact=True,
            counted=False,
            worst="attack",
        ),
        Metric(
            "leak.request",
            "rate",
            "forget",
            "direct leaks of the request so far whose people leak most (--unlearn-requests)",
            "sustainability, MUSE (arXiv 2407.06460); each request must pass alone (Berger, 1982)",
            direct,
            had=direct,
            chance=direct,
            worst="request",
        ),
        Metric(
            "leak.indirect",
            "rate",
            "forget",
            "share of forget probes that bring out another real value, or their own in disguise",
            "indirect leaks, arXiv 2502.05739",
            labelled("indirect"),
            had=direct,
            chance=own_in_disguise,
        ),
        Metric(
            "leak.at",
            "rate",
            "forget",
            "expected share of forget values that K samples each bring out, 1 - (1 - p)^K",
            "(n, p)-discoverable extraction, arXiv 2410.19482",
            drawn_out,
            argument="K",
            had=drawn_out,
            chance=drawn_out,
            exact=True,
            counted=False,
            attackable=True,
        ),
        Metric(
            "leak.sampled",
            "rate",
            "forget",
            "the same, estimated from sampled texts (--unlearn-leak-samples)",
            "unbiased estimate of pass@k, arXiv 2107.03374",
            sampled,
            argument="K",
            had=sampled,
            chance=sampled,
            counted=False,
            drawn=True,
        ),
        Metric(
            "leak.rehearsed",
            "rate",
            "forget",
            "direct leaks for the prompts that unlearning trained on: zero if it stops at zero",
            "training prompts as they are, arXiv 2210.01504",
            direct,
            had=direct,
            chance=direct,
            rehearsed=True,
        ),
        Metric(
            "leak.drop",
            "drop",
            "forget",
            "share by which the direct rate fell from base to tested model",
            "arXiv 2502.05739",
            direct,
            chance=direct,
        ),
        Metric(
            "leak.control",
            "rate",
            "control",
            "share of control probes whose own value comes out: chance",
            "never-planted controls, arXiv 1802.08232",
            direct,
        ),
        Metric(
            "leak.count",
            "count",
            "forget",
            "number of values of the people to forget that come out of any of their probes",
            "erasure requests name everybody who counts, GDPR Art. 17",
            of_the_forgotten,
            had=of_the_forgotten,
            chance=direct,
        ),
        Metric(
            "leak.expected",
            "count",
            "forget",
            "expected number of values to forget that K samples of each of their probes bring out",
            "(n, p)-discoverable extraction, arXiv 2410.19482",
            drawn_out,
            argument="K",
            had=drawn_out,
            chance=drawn_out,
            exact=True,
            counted=False,
        ),
        Metric(
            "exposure.max",
            "maximum",
            "forget",
            "highest exposure of a forget value among decoys (--unlearn-exposure)",
            "Secret Sharer, arXiv 1802.08232",
            exposure,
            had=exposure,
            exact=True,
        ),
        Metric(
            "membership.auc",
            "auc",
            "forget",
            "AUC of the best membership attack, by scores that are too high or too low",
            "membership inference, arXiv 2402.07841; DeLong's interval by person",
            membership,
            views=len(MEMBERSHIP),
        ),
        Metric(
            "lens.share",
            "rate",
            "forget",
            "share of a value's tokens that a middle layer gives (--unlearn-attacks=lens)",
            "the logit lens (nostalgebraist, 2020)",
            lens_share,
            had=lens_share,
            chance=lens_share,
            counted=False,
            worst="attack",
            attack="lens",
            guessable=True,
        ),
        Metric(
            "states.auc",
            "auc",
            "forget",
            "AUC of a linear probe of hidden states (--unlearn-attacks=linear-probe)",
            "linear probes, arXiv 1610.01644; DeLong's interval by person",
            told_apart,
            worst="attack",
            attack="linear-probe",
        ),
        Metric(
            "gap.leak",
            "gap",
            "forget",
            "distance from a retrained model in leak.at(K)",
            "indistinguishable from retraining, arXiv 1912.03817",
            drawn_out,
            argument="K",
        ),
        Metric(
            "gap.membership",
            "auc gap",
            "forget",
            "distance from a retrained model in the AUC of the worst membership attack",
            "PrivLeak of MUSE, arXiv 2407.06460, as a difference",
            membership,
            views=len(MEMBERSHIP),
        ),
        Metric(
            "gap.exposure",
            "gap",
            "forget",
            "distance in exposure, as a share of the bits that can be shown (--unlearn-exposure)",
            "Secret Sharer, arXiv 1802.08232",
            exposed,
        ),
        Metric(
            "gap.relearn",
            "gap",
            "forget",
            "distance in leak.at(K) after the same relearning (--unlearn-attacks=relearn)",
            "relearning, arXiv 2406.13356",
            drawn_out,
            argument="K",
            worst="attack",
            attack="relearn",
        ),
        Metric(
            "gap.lens",
            "gap",
            "forget",
            "distance from a retrained model in lens.share (--unlearn-attacks=lens)",
            "the logit lens (nostalgebraist, 2020)",
            lens_share,
            worst="attack",
            attack="lens",
        ),
        Metric(
            "gap.states",
            "auc gap",
            "forget",
            "distance from a retrained model in states.auc (--unlearn-attacks=linear-probe)",
            "linear probes, arXiv 1610.01644",
            told_apart,
            worst="attack",
            attack="linear-probe",
        ),
        Metric(
            "degenerate.rate",
            "rate",
            "forget",
            "share of forget probes answered by nothing or by repetition: a broken model",
            "collapse after gradient ascent, arXiv 2502.05739",
            labelled("degenerate"),
        ),
        Metric(
            "passk.retained",
            "ratio",
            None,
            "pass@k of the tested model divided by the base's, on tasks that unlearning never saw",
            "paired ratio, Gaffke's bound (arXiv 1905.06208)",
            solved,
        ),
        Metric(
            "passk.rehearsed",
            "ratio",
            None,
            "the same on tasks that unlearning trained on to keep them",
            "paired ratio, Gaffke's bound (arXiv 1905.06208)",
            solved,
            rehearsed=True,
        ),
        Metric(
            "passk.drop",
            "loss",
            None,
            "pass@k of the base minus that of the tested model, on the same tasks",
            "paired difference, Gaffke's bound (arXiv 1905.06208)",
            solved,
        ),
        Metric(
            "passk.rate",
            "floor",
            None,
            "pass@k of the tested model",
            "HumanEval, arXiv 2107.03374",
            solved,
        ),
        Metric(
            "parse.rate",
            "floor",
            None,
            "share of the tested model's solutions that parse",
            "the language's own parser",
            parses,
        ),
        Metric(
            "people.retained",
            "ratio",
            "retain",
            "direct rate on retained people divided by the base's, on people that unlearning never "
            "saw",
            "paired ratio, Gaffke's bound (arXiv 1905.06208)",
            direct,
            chance=direct,
        ),
        Metric(
            "people.rehearsed",
            "ratio",
            "retain",
            "the same on retained people that unlearning trained on to keep them",
            "paired ratio, Gaffke's bound (arXiv 1905.06208)",
            direct,
            rehearsed=True,
        ),
    )
}
