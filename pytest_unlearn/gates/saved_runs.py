"""Runs saved under a name, and the change from one to the next on the same cases.

A saved run is one JSON file, `.unlearn/NAME.json`, readable only by its owner: provenance, gates
and rows (names and labels, no values). Two runs are compared case by case, so that cases that are
hard for both do not blur the change.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.text_files import replacing, unwritable
from pytest_unlearn.gates.case_rows import from_json, to_json
from pytest_unlearn.gates.estimates import Sample, change, people_of
from pytest_unlearn.gates.gate import Gate, GateError, parse_gate, plain_number
from pytest_unlearn.gates.metrics import GAPS, METRICS, SIDES, Metric, Row
from pytest_unlearn.gates.populations import shown
from pytest_unlearn.gates.verdicts import GateResult, Measured, Verdict

# Increase when the file changes so that an older reader would misread it.
SCHEMA = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CHANGE = re.compile(
    r"(?P<metric>.+):(?P<sign>[+-])(?P<amount>[0-9.]+)(?P<percent>%?)(?P<point>:point)?"
)


class BaselineError(UserError):
    """A saved run cannot be read or compared; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Change:
    """How far a metric may get worse since the saved run, in points (or bits).

    This is about the tested model's own figure: `passk.retained:-2%` means two points of pass@1.
    `point`: the change itself is judged, not its interval.
    """

    text: str
    gate: Gate
    amount: float
    point: bool = False

    @property
    def name(self) -> str:
        """Its id in reports."""
        return f"{self.gate.name} change"

    @property
    def limit_text(self) -> str:
        """The limit with its sign, as text."""
        sign = "+" if _worse(self.gate) > 0 else "-"
        return sign + _shown_as(self.gate).show_limit(self.amount)


@dataclass(frozen=True, slots=True)
class SavedRun:
    """A saved run: when, from what (`provenance.provenance`), and what was measured."""

    name: str
    saved_at: str
    provenance: Mapping[str, Mapping[str, str]]
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The tested model's figure on the same cases, then and now.

    `interval` is the two-sided interval of the change (None for a maximum). `better` and
    `worse` count people or tasks; `p_value` is McNemar's, exact, on these.
    """

    gate: Gate
    saved: float
    now: float
    n: int
    interval: tuple[float, float] | None
    better: int
    worse: int
    p_value: float

    @property
    def change(self) -> float:
        """Now minus then."""
        return self.now - self.saved


def check_name(name: str, flag: str) -> str:
    """Return a name if it can be that of a file. Raises BaselineError."""
    if not _NAME.fullmatch(name):
        raise BaselineError(f"{flag}={name}: write letters, digits, '.', '_' and '-' only")
    return name


def parse_change(text: str) -> Change:
    """Read `METRIC:+AMOUNT` or `METRIC:-AMOUNT`. Raises GateError saying what to write."""
    match = _CHANGE.fullmatch(text.strip())
    if match is None:
        raise GateError(
            f"{text!r} is not a change; write METRIC:+LIMIT or METRIC:-LIMIT, as in "
            "leak.direct:+1%, with :point at the end to judge the change itself and not its "
            "interval"
        )
    gate = subject(match["metric"])
    if gate.metric.worst:
        raise GateError(
            f"{text!r}: the worst {gate.metric.worst} may differ from run to run; name one, as in "
            "leak.direct[attack=int4]:+1%"
        )
    if gate.metric.type == "count":
        raise GateError(f"{text!r}: it counts values; write leak.direct:+1%")
    if gate.metric.type == "drop":
        raise GateError(f"{text!r}: if it rises, leaks fall; write leak.direct:+1%")
    if gate.metric.type in GAPS | SIDES:
        raise GateError(
            f"{text!r}: it compares models or people, not single cases; write it as a gate, "
            f"{gate.name}<=0.1"
        )
    worse = "+" if _worse(gate) > 0 else "-"
    if match["sign"] != worse:
        amount = match["amount"] + match["percent"]
        raise GateError(
            f"{text!r}: a change in that direction is an improvement; write "
            f"{gate.name}:{worse}{amount}"
        )
    exact = plain_number(match["amount"])
    if exact is None:
        raise GateError(f"{text!r}: {match['amount']!r} is not a number; write 1%")
    amount = float(exact / (100 if match["percent"] else 1))
    if gate.metric.type != "maximum" and amount >= 1:
        raise GateError(f"{text!r}: the limit is in points; write 1% or 0.01")
    return Change(text.strip(), gate, amount, match["point"] is not None)


def is_change(text: str) -> bool:
    """Return whether a text is a limit on a change and not a gate."""
    return _CHANGE.fullmatch(text.strip()) is not None


def subject(name: str) -> Gate:
    """Return a metric with its restrictions, written as in a gate but without a limit."""
    metric = METRICS.get(name.partition("(")[0].partition("[")[0].strip())
    operator = metric.operator if metric else "<="
    counts = metric is not None and metric.type in ("maximum", "count")
    return parse_gate(f"{name}{operator}{1 if counts else 0.6}")


def _worse(gate: Gate) -> int:
    """Return 1 if a rise of the tested model's own figure is bad, -1 if a fall is."""
    return -1 if gate.metric.type in ("floor", "ratio", "loss") else 1


def compared_as(gate: Gate) -> str:
    """Return the name of a metric's figures in a comparison.

    They are of the tested model alone: the rise of a drop from the base would be confusing.
    """
    levels = {"drop": "leaks behind", "loss": "solved behind"}
    return f"{levels[gate.metric.type]} {gate.name}" if gate.metric.type in levels else gate.name


def _shown_as(gate: Gate) -> Metric:
    """Return the metric that formats changes: points, or bits."""
    return gate.metric if gate.metric.type == "maximum" else METRICS["passk.drop"]


def show_change(gate: Gate, change: float) -> str:
    """Return a change as text, with its sign."""
    return _signed(_shown_as(gate).show(change))


def _signed(text: str) -> str:
    return text if text.startswith("-") else f"+{text}"


# -- saved runs ------------------------------------------------------------------------------


def check_writable(folder: Path, name: str) -> None:
    """Raise BaselineError if no run can be saved under this name; writes nothing."""
    if reason := unwritable(folder / f"{name}.json"):
        raise BaselineError(
            f"--unlearn-save={name}: {folder} cannot be written: {reason}; start pytest in a "
            "folder that you can write to (--rootdir=DIR), or leave the flag out"
        )


def save(folder: Path, run: SavedRun, gates: Sequence[GateResult]) -> Path:
    """Write a run into a folder atomically; replaces one of the same name."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = {
        "schema": SCHEMA,
        "name": run.name,
        "saved_at": run.saved_at,
        **run.provenance,
        "gates": [
            {"gate": r.gate.text, "verdict": r.verdict.value, "observed": r.observed, "n": r.n}
            for r in gates
        ],
        "rows": [json.loads(to_json(row)) for row in run.rows],
    }
    content["sha256"] = _digest(content)
    path = folder / f"{run.name}.json"
    with replacing(path) as temporary, temporary.open("w", encoding="ascii") as file:
        json.dump(content, file, indent=1)
    return path


def _digest(content: Mapping[str, Any]) -> str:
    """Return the digest of a file's content, which detects accidents and not forgery."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load(folder: Path, name: str) -> SavedRun:
    """Read a saved run. Raises BaselineError."""
    path = folder / f"{check_name(name, '--unlearn-compare')}.json"
    flag = f"--unlearn-compare={name}"
    try:
        content: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in folder.glob("*.json"))) or "none yet"
        raise BaselineError(
            f"{flag}: no such run in {folder} (there: {known}); make it with --unlearn-save={name}"
        ) from None
    except ValueError:
        raise BaselineError(f"{flag}: {path} is not JSON; save the run again") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise BaselineError(
            f"{flag}: {path} does not have the schema {SCHEMA} of this version; save the run again"
        )
    digest = content.pop("sha256", None)
    try:
        run = SavedRun(
            name=name,
            saved_at=str(content["saved_at"]),
            provenance={key: dict(content[key]) for key in ("data", "settings", "versions")},
            rows=[from_json(json.dumps(row)) for row in content["rows"]],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BaselineError(f"{flag}: {path} is damaged ({error}); save the run again") from error
    if digest != _digest(content):
        raise BaselineError(
            f"{flag}: {path} is not as --unlearn-save wrote it, it was changed since; save the run "
            "again"
        )
    return run


def check_same_data(saved: SavedRun, now: Mapping[str, Mapping[str, str]]) -> None:
    """Raise BaselineError if a saved run was measured on other data: then nothing is paired."""
    then, current = saved.provenance["data"], now["data"]
    other = [key for key in current if then.get(key) != current[key]]
    if other:
        origin = (
            f" ({then.get('people')} there, {current['people']} now)" if "people" in other else ""
        )
        raise BaselineError(
            f"--unlearn-compare={saved.name}: it was measured on other {' and '.join(other)}"
            f"{origin}; compare runs on the same data, or save this one under another name"
        )


def differences(saved: SavedRun, now: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return which settings and library versions differ, as `name then -> now`."""
    return [
        f"{key} {saved.provenance[part].get(key, 'unknown')} -> {value}"
        for part in ("settings", "versions")
        for key, value in now[part].items()
        if saved.provenance[part].get(key) != value
    ]


# -- comparing -------------------------------------------------------------------------------


def compare(
    gate: Gate, saved: Iterable[Row], now: Iterable[Row], confidence: float
) -> Comparison | None:
    """Compare the tested model's scores on the cases that both runs measured.

    The interval, two-sided with `confidence`, is Gaffke's on the changes of people's means. The
    p-value is that of McNemar's exact test (1947) on the people (or tasks) that got worse and
    better, so that a person's probes do not count as independent. None if no case has both scores.
    """
    if gate.metric.type in GAPS | SIDES | {"count"}:  # figures without scores of single rows
        return None
    then = {row.id: row for row in saved}
    rows = list(now)
    part = dict(shown(gate.metric, dict(gate.filters), rows))
    pairs: list[tuple[Row, float, float]] = [
        (row, before, after)
        for row in gate.metric.rows(rows, part)
        if row.id in then
        and (before := gate.metric.score(then[row.id], "unlearned", gate.argument)) is not None
        and (after := gate.metric.score(row, "unlearned", gate.argument)) is not None
    ]
    if not pairs:
        return None
    befores = tuple(before for _, before, _ in pairs)
    afters = tuple(after for *_, after in pairs)
    people = people_of([row for row, _, _ in pairs], gate.each_alone)
    sample = Sample(befores, afters, tuple(people))
    then_means, now_means = sample.means(befores), sample.means(afters)
    moved = [(b - a) * _worse(gate) for a, b in zip(then_means, now_means, strict=True)]
    worse, better = sum(by > 0 for by in moved), sum(by < 0 for by in moved)
    n, p_value = len(pairs), mcnemar(better, worse)
    if gate.metric.type == "maximum":
        return Comparison(gate, max(befores), max(afters), n, None, better, worse, p_value)
    then_mean, now_mean = (math.fsum(means) / len(means) for means in (then_means, now_means))
    estimate = change(then_means, now_means, (1 + confidence) / 2)
    interval = (estimate.lower, estimate.upper)
    return Comparison(gate, then_mean, now_mean, n, interval, better, worse, p_value)


def mcnemar(better: int, worse: int) -> float:
    """Return the exact two-sided p-value that as many changed one way as the other."""
    n = better + worse
    tail = sum(math.comb(n, i) for i in range(min(better, worse) + 1))
    return float(min(1.0, 2 * tail / 2**n))


def judge_change(change: Change, saved: SavedRun, measured: Measured) -> GateResult:
    """Return the verdict on a change: PASS within the limit, FAIL beyond it.

    The interval of the change decides, and it is UNDECIDED if the limit is inside; for a maximum,
    and if the user asked for the point, the change on these very cases decides. A run with missing
    cases is FAIL or not evaluated, and one with errors is never a PASS.
    """
    gate = change.gate
    part = shown(gate.metric, dict(gate.filters), measured.rows)
    expected = {case.id for case in measured.expected if gate.metric.concerns(case, part)}
    comparison = compare(gate, saved.rows, measured.rows, measured.confidence)
    n = comparison.n if comparison else 0
    missing = len(expected - set(measured.seen))
    result = _judged(change, comparison, measured) if comparison else None
    failed = result is not None and result.verdict is Verdict.FAIL
    if missing or measured.interrupted:
        if result and failed and not change.point:
            return result
        reason = measured.interrupted or f"{missing} of {len(expected)} cases were not run"
        reason += "; run all of them"
        return GateResult(
            change, Verdict.NOT_EVALUATED, n, advice=reason, blocks=measured.require_complete
        )
    if result is None or (n < len(expected) and not failed):
        advice = (
            f"{len(expected) - n} of {len(expected)} cases have no score in one of the runs; fix "
            "the errors, and save and compare with the same flags"
        )
        return GateResult(change, Verdict.UNDECIDED, n, advice=advice)
    return result


def _judged(change: Change, comparison: Comparison, measured: Measured) -> GateResult:
    """Return the verdict on a change as if nothing were missing."""
    sign = _worse(change.gate)
    harm = comparison.change * sign
    least = most = harm
    if comparison.interval and not change.point:
        least, most = sorted(end * sign for end in comparison.interval)
    verdict = Verdict.UNDECIDED
    if most <= change.amount + 1e-12:
        verdict = Verdict.PASS
    elif least > change.amount + 1e-12:
        verdict = Verdict.FAIL
    moved = f"{comparison.worse} got worse and {comparison.better} better"
    advice = {
        Verdict.PASS: "",
        Verdict.FAIL: f"{moved}{_SINCE}",
        Verdict.UNDECIDED: f"{moved} since then: too few to tell; take more people or tasks, allow "
        f"more, or judge the change on these alone ({change.text}:point)",
    }[verdict]
    return GateResult(
        change,
        verdict,
        comparison.n,
        observed=show_change(change.gate, comparison.change),
        bound=show_interval(comparison, None if change.point else sign * change.amount),
        advice=advice,
        blocks=verdict is Verdict.FAIL
        or (verdict is Verdict.UNDECIDED and measured.undecided_blocks),
    )


_SINCE = (
    " since then; see which in --unlearn-report=csv of both runs, and keep the earlier model or "
    "allow more"
)


def show_interval(comparison: Comparison, limit: float | None = None) -> str:
    """Return the interval of a change as text, its ends rounded outwards.

    `limit`: the allowed change, with its sign; the text meets or breaks it exactly if the ends do.
    """
    if comparison.interval is None:
        return "-"
    metric = _shown_as(comparison.gate)
    ends = (
        metric.show_bound(end, upper, limit)
        for end, upper in zip(comparison.interval, (False, True), strict=True)
    )
    return " to ".join(map(_signed, ends))
