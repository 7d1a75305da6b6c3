"""The summary at the end of a run, and the letters while it runs."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_unlearn.gates.baselines import (
    Change,
    SavedRun,
    compare,
    differences,
    show_change,
    show_interval,
)
from pytest_unlearn.gates.expressions import Gate
from pytest_unlearn.gates.metrics import METRICS, UPPER, Metric
from pytest_unlearn.gates.readings import read, sample
from pytest_unlearn.gates.rows import ProbeRow, TaskRow, row_in
from pytest_unlearn.gates.verdicts import GateResult, Verdict
from pytest_unlearn.reports import protection, unsolved
from pytest_unlearn.reports.breakdown import (
    Table,
    aligned,
    exact_table,
    forget_rows,
    rates_by,
    relations,
    transitions,
)
from pytest_unlearn.reports.coding import with_coding
from pytest_unlearn.reports.footer import SHOWN, annotation_lines, cost_lines, written_lines
from pytest_unlearn.reports.membership import membership_table

if TYPE_CHECKING:
    from pytest_unlearn.plantings import Planting
    from pytest_unlearn.searching import SearchSummary
    from pytest_unlearn.session import UnlearnSession

Status = tuple[str, str, str | tuple[str, dict[str, bool]]]

_COLOURS = {
    Verdict.PASS: "green",
    Verdict.FAIL: "red",
    Verdict.UNDECIDED: "yellow",
    Verdict.NOT_EVALUATED: "yellow",
}


def status(report: pytest.TestReport | pytest.CollectReport) -> Status | None:
    """Return category, letter and word of a measured test: leaked `L`, unsolved `U`.

    A retained person's value that comes out is no leak: it was to be kept.
    """
    if report.when != "call" or not report.passed:
        return None
    row = row_in(getattr(report, "user_properties", ()))
    if isinstance(row, ProbeRow) and row.split != "retain" and row.leaked:
        return "leaked", "L", ("LEAKED", {"yellow": True})
    if isinstance(row, TaskRow) and not row.solved:
        return "unsolved", "U", ("UNSOLVED", {"yellow": True})
    return None


def header(session: UnlearnSession) -> str:
    """Return the lines under pytest's own header."""
    settings, data = session.settings, session.dataset
    counts = Counter(probe.split for probe in data.probes)
    baseline = f", baseline {settings.baseline}" if settings.baseline else ""
    if settings.plant:
        baseline = f", planted to {settings.plant.target:.0%}"
    if settings.adapter is not None:
        baseline = f", adapter {settings.adapter}{baseline}"
    return (
        f"unlearn: model {settings.model}, method {settings.method.name}{baseline}, probes "
        f"{counts['forget']} forget + {counts['retain']} retain + {counts['control']} control, "
        f"tasks {len(data.tasks)}, "
        f"gates {settings.judging.profile or len(settings.judging.gates)}"
        + protection.line(settings.sandbox, session.protection)
        + (f"\n{SHOWN}" if settings.show_values else "")
    )


def summary(session: UnlearnSession, reporter: pytest.TerminalReporter) -> None:
    """Write the section `unlearning`: what was measured, the gates, and last the verdict."""
    if not session.results:
        return
    rows = list(session.rows.values())
    reporter.section("unlearning")
    reporter.write_line(_run_line(session, len(rows)))
    if planting := session.engine.models.stored_planting():
        reporter.write_line(planting_line(planting))
    reporter.write_line("")
    _write_table(reporter, _gate_table(session.results), [r.verdict for r in session.results])
    two_states = session.settings.compares_two_states
    beside = with_coding(_beside(session, rows), rows, two_states)
    if beside:
        reporter.write_line("")
        _write_table(reporter, beside)
    if session.compared:
        reporter.write_line("")
        for line in comparison_lines(session, session.compared, rows):
            reporter.write_line(line)
    for table in _taken_apart(session, reporter, rows):
        reporter.write_line("")
        _write_table(reporter, table)
    whole = [shift(rows), relations(forget_rows(rows)), *_details(reporter, rows)]
    whole += unsolved.lines(session.unsolved, reporter.config.get_verbosity())
    whole += unsolved.run_again(rows)
    for line in whole:
        if line:
            reporter.write_line(line)
    if session.search:
        for line in search_lines(session.search):
            reporter.write_line(line)
    for result in session.results:
        if result.advice:
            reporter.write_line(f"{result.gate.name}: {result.advice}")
    if session.saved:
        reporter.write_line(session.saved)
    for line in _about_the_run(session):
        reporter.write_line(line)
    text, colour = conclusion(session.results)
    reporter.write_line(text, bold=True, **{colour: True})


def _about_the_run(session: UnlearnSession) -> Iterable[str]:
    """Yield what the run cost, where its reports stand, and annotations for GitHub."""
    if session.result is not None:
        yield from cost_lines(session.result.provenance)
        yield from written_lines(session.reports, session.unwritten)
        yield from annotation_lines(session.result.gates, os.environ)


def _run_line(session: UnlearnSession, count: int) -> str:
    settings = session.settings
    line = f"model {settings.model}  method {settings.method.name}  seed {settings.seed}  n={count}"
    checkpoint = session.engine.models.stored_checkpoint()
    if checkpoint:
        line += f"  unlearned in {checkpoint.steps} steps ({checkpoint.seconds:.0f} s)"
        if checkpoint.trained_steps > checkpoint.steps:
            line += f", the best of {checkpoint.trained_steps}"
    return line


def planting_line(planting: Planting) -> str:
    """Return what was planted, and how much of it comes out, by repetitions where they differ."""
    line = (
        f"planted in {planting.steps} steps ({planting.seconds:.0f} s): {planting.leak_rate:.0%} "
        f"of {planting.records} records come out, {planting.before:.0%} did before"
    )
    if len(planting.by_repetitions) > 1:
        rates = (f"{number}x {rate:.0%}" for number, rate in planting.by_repetitions.items())
        line += f"; by repetitions {', '.join(rates)}"
    return line


def _gate_table(results: Sequence[GateResult]) -> list[list[str]]:
    head = ["gate", "observed", "n", "95% bound", "limit", "verdict"]
    return [head, *(_gate_cells(result) for result in results)]


def _gate_cells(result: GateResult) -> list[str]:
    return [
        result.gate.name,
        result.observed or "-",
        _size(result.n, result.units),
        result.bound or "-",
        result.gate.limit_text,
        result.verdict.value,
    ]


def _size(n: int, units: float) -> str:
    """Return the number of cases, and what they are worth in people or tasks where that is less."""
    return f"{n} ({units:.4g})" if 0 < units < n else str(n)


def _beside(session: UnlearnSession, rows: Sequence[ProbeRow | TaskRow]) -> list[list[str]]:
    """Return what is shown beside the gates: every metric of counts that no gate already judges,
    and that is not another view of one that is shown."""
    shown = {result.gate.name.partition("[")[0] for result in session.results}
    if shown & {"passk.retained", "passk.drop"}:
        shown |= {"passk.retained", "passk.rate"}
    table = [["also measured", "base", "tested", "n", "95% bound"]]
    for metric in METRICS.values():
        if metric.name in shown or metric.type not in ("rate", "floor", "ratio"):
            continue
        cells = _metric_cells(metric, rows, session.settings.compares_two_states)
        if cells:
            table.append([metric.name, *cells])
    return table if len(table) > 1 else []


def _metric_cells(
    metric: Metric, rows: Sequence[ProbeRow | TaskRow], two_states: bool
) -> list[str]:
    """Return base, tested, n and bound of a metric, or nothing where it is not measured."""
    if metric.argument:
        return []
    scored = [row for row in metric.rows(rows, {}) if metric.score(row, "unlearned", 0) is not None]
    if not scored:
        return []
    found = sample(metric, scored)
    reading = read(metric.type, found)
    bound = "-"
    if metric.type in UPPER and reading:
        bound = f"<={metric.show(reading.upper)}"
    elif reading and metric.type == "ratio" and two_states:
        bound = f">={metric.show(reading.lower)} of base"
    elif reading and metric.type == "floor":
        bound = f">={metric.show(reading.lower)}"
    counts = [f"{sum(x):g} ({sum(x) / found.n:.1%})" for x in (found.base, found.new)]
    return [*counts, _size(found.n, found.units), bound]


def comparison_lines(
    session: UnlearnSession, saved: SavedRun, rows: Sequence[ProbeRow | TaskRow]
) -> Iterable[str]:
    """Yield the change of each judged metric since a saved run, and what else differs."""
    judged = [result.gate for result in session.results]
    subjects = {gate.name: gate for gate in judged if isinstance(gate, Gate)}
    subjects |= {item.gate.name: item.gate for item in judged if isinstance(item, Change)}
    head = f"since {saved.name}"
    table = [[head, "then", "now", "change", "95% interval", "n", "worse", "better", "p"]]
    for gate in subjects.values():
        found = compare(gate, saved.rows, rows)
        if found:
            level = "{:.2f} bits" if gate.metric.type == "maximum" else "{:.1%}"
            figures = [level.format(figure) for figure in (found.saved, found.now)]
            change = [show_change(gate, found.change), show_interval(found)]
            counts = [str(count) for count in (found.n, found.worse, found.better)]
            table.append([gate.name, *figures, *change, *counts, f"{found.p_value:.2g}"])
    yield from aligned(table)
    other = differences(saved, session.provenance)
    if other:
        yield f"not all else is equal to {saved.name} ({saved.saved_at}): {', '.join(other)}"


def _taken_apart(
    session: UnlearnSession,
    reporter: pytest.TerminalReporter,
    rows: Sequence[ProbeRow | TaskRow],
) -> Iterable[Table]:
    """Yield exact extraction and the families of probes side by side, membership where more was
    asked for than comes free; under -v also that, kinds, carriers, knowledge and the transition
    matrix of the direct family."""
    forget = forget_rows(rows)
    verbose = reporter.config.get_verbosity() > 0
    tables = [exact_table(rows), rates_by(forget, "family")]
    attacks = session.settings.membership
    if verbose or {"gradnorm", "reference"} & set(attacks):
        tables.append(membership_table(rows, attacks))
    if verbose:
        direct = forget_rows(rows, "direct")
        tables += [rates_by(direct, "kind"), rates_by(direct, "carrier")]
        tables += [rates_by(forget, "knowledge"), transitions(direct)]
    return filter(None, tables)


def shift(rows: Iterable[ProbeRow | TaskRow]) -> str:
    """Return how direct leaks of the base turned out: the shift from direct to indirect."""
    after = Counter(
        row.unlearned["label"]
        for row in rows
        if isinstance(row, ProbeRow)
        and row.split == "forget"
        and row.family == "direct"
        and row.base["label"] == "direct"
    )
    if not after:
        return ""
    outcomes = ", ".join(f"{label} {count}" for label, count in after.most_common())
    return f"shift: {sum(after.values())} direct leaks of the base became {outcomes}"


def search_lines(search: SearchSummary) -> Iterable[str]:
    """Yield what the search found: counts on forget and control people, each minimal prompt."""
    report = search.report
    yield (
        f"search: {report['forget_found']} of {report['forget_searched']} silent forget records "
        f"leak by some prompt, {report['control_found']} of {report['control_searched']} control "
        f"records (p={report['p_value']:.2g}): {report['verdict']}"
    )
    for found in search.found:
        best = found.get("minimal", found)
        tries = best["n_for_half"]
        yield (
            f"  {found['id']}: {'/'.join(found['recipe'])}, probability "
            f"{math.exp(best['log_probability']):.2g} (even odds in {tries or math.inf:.3g} "
            f"samples), {found['cost']} prompts tried + {best.get('cost_shrink', 0)} to shrink: "
            f"{found['prompt']!r}"
        )


def _details(
    reporter: pytest.TerminalReporter, rows: Sequence[ProbeRow | TaskRow]
) -> Iterable[str]:
    """Yield the leaking probes by id; all under -v, else where to see them."""
    leaked = sorted(
        f"{row.id} ({row.unlearned['label']}, {row.unlearned.get('how', '')})"
        for row in rows
        if isinstance(row, ProbeRow) and row.split == "forget" and row.leaked
    )
    if leaked and reporter.config.get_verbosity() > 0:
        yield "leaked: " + ", ".join(leaked)
    elif leaked:
        yield f"leaked: {len(leaked)} forget probes; -v lists them"


def conclusion(results: Sequence[GateResult]) -> tuple[str, str]:
    """Return the last line and its colour."""
    blocking = [result for result in results if result.blocks]
    if blocking:
        names = ", ".join(f"{r.gate.name} {r.verdict.value}" for r in blocking)
        return f"NOT FOR RELEASE: {names}", "red"
    passed = [result for result in results if result.verdict is Verdict.PASS]
    if len(passed) == len(results):
        return "FOR RELEASE: every gate passed", "green"
    return (
        f"NO VERDICT: {len(results) - len(passed)} of {len(results)} gates not evaluated",
        "yellow",
    )


def _write_table(
    reporter: pytest.TerminalReporter,
    table: Sequence[Sequence[str]],
    verdicts: Sequence[Verdict] = (),
) -> None:
    """Write aligned columns; with `verdicts`, the last cell of each row takes its colour."""
    for number, (row, line) in enumerate(zip(table, aligned(table), strict=True)):
        if number and verdicts:
            reporter.write(line.removesuffix(row[-1]))
            reporter.write_line(row[-1], **{_COLOURS[verdicts[number - 1]]: True})
        else:
            reporter.write_line(line)
