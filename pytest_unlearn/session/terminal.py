"""What the terminal shows: header, letters, the summary, in lines and tables that fit."""

from __future__ import annotations

import math
import os
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from pytest_unlearn.core.errors import plain
from pytest_unlearn.gates.case_rows import AttackRow, ProbeRow, Row, TaskRow, rows_in
from pytest_unlearn.gates.estimates import percent, shares, size
from pytest_unlearn.gates.gate import Gate
from pytest_unlearn.gates.saved_runs import (
    Change,
    SavedRun,
    compare,
    compared_as,
    differences,
    show_change,
    show_interval,
)
from pytest_unlearn.gates.verdicts import GateResult, Verdict
from pytest_unlearn.people.generate import made_line
from pytest_unlearn.people.other_values import has_stranger
from pytest_unlearn.reports.comparison import side_by_side
from pytest_unlearn.reports.formats import Report
from pytest_unlearn.reports.markdown_reports import annotate
from pytest_unlearn.reports.robustness import (
    attack_figures,
    attack_tables,
    half_way,
    indirect_under_attack,
    way_sentence,
)
from pytest_unlearn.reports.tables import (
    Table,
    aligned,
    exact_table,
    forget_rows,
    membership_table,
    rates_by,
    relations,
    transitions,
    with_coding,
)
from pytest_unlearn.run.endpoints import EndpointModels
from pytest_unlearn.run.result import Result, dropped_gates
from pytest_unlearn.session.items import (
    VERDICT_PROPERTY,
    run_again_lines,
    sandbox_line,
    unsolved_lines,
)

if TYPE_CHECKING:
    from pytest_unlearn.leaks.prompt_search import SearchSummary
    from pytest_unlearn.run.job import PairRun
    from pytest_unlearn.run.planted import Planting
    from pytest_unlearn.session.session import UnlearnSession


SHOWN = (
    "unlearn: VALUES ARE SHOWN (--unlearn-show-values): reports and failing tests will contain "
    "personal data; keep them from anyone who may not read the data"
)

Status = tuple[str, str, str | tuple[str, dict[str, bool]]]

_COLOURS = {
    Verdict.PASS: "green",
    Verdict.FAIL: "red",
    Verdict.UNDECIDED: "yellow",
    Verdict.NOT_EVALUATED: "yellow",
}


_VERDICT_COLOURS = {"FOR RELEASE": "green", "NOT FOR RELEASE": "red", "NO VERDICT": "yellow"}


def status(report: pytest.TestReport | pytest.CollectReport) -> Status | None:
    """Return category, letter and word of a measured test: leaked `L`, unsolved `U`.

    Only people to be forgotten leak, as in every table: a retained person's value is to be kept,
    and a control person's comes out by chance.
    """
    if report.when != "call" or report.failed:
        return None
    if report.skipped:  # a gate that is undecided and allowed to be
        undecided = (VERDICT_PROPERTY, Verdict.UNDECIDED.value) in report.user_properties
        return ("undecided", "?", ("UNDECIDED", {"yellow": True})) if undecided else None
    rows = rows_in(getattr(report, "user_properties", ()))
    row = next(iter(rows), None)
    if any(isinstance(r, AttackRow) and r.brought_back for r in rows):
        return "leaked", "L", ("LEAKED", {"yellow": True})
    if isinstance(row, ProbeRow) and row.split == "forget" and row.leaked:
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
        plain(f"unlearn: {_tested(session)}{baseline}, probes ")
        + f"{counts['forget']} forget + {counts['retain']} retain + {counts['control']} control, "
        f"tasks {len(data.tasks)}, "
        f"gates {settings.judging.profile or len(settings.judging.gates)}"
        + sandbox_line(settings.sandbox, session.protection)
        + (f"\nunlearn: {data.merged}" if data.merged else "")
        + "".join(
            f"\nunlearn: {len(cases)} tasks skipped, {why}" for why, cases in data.left_out.items()
        )
        + _confirmed(session)
        + "".join(f"\nunlearn: {note}" for note in session.task_notes)
        + _made(session)
        + _held_out(session)
        + _dropped(session)
        + (f"\n{SHOWN}" if settings.show_values else "")
    )


def _made(session: UnlearnSession) -> str:
    """Return the line about generated people; empty if there are none."""
    order = session.settings.people
    return f"\nunlearn: {made_line(order, session.dataset.records)}" if order else ""


def _confirmed(session: UnlearnSession) -> str:
    """Return the line that says that other people are unlearned than those in the files."""
    seed, data = session.settings.confirm, session.dataset
    if seed is None:
        return ""
    people = len({record.owner for record in data.records_of("forget")})
    return (
        f"\nunlearn: confirmation: {people} people to forget, drawn from the retained ones by "
        f"seed {seed}, and other tasks held out"
    )


def _held_out(session: UnlearnSession) -> str:
    """Return the line about what is held out; empty if no method has a retain set."""
    methods = [pair.settings.method.method for pair in session.pairs]
    if not any(method is not None and method.uses_retain for method in methods):
        return ""
    division = session.dataset.division
    people = len(division.people) + len(division.trained_people)
    return (
        f"\nunlearn: held out of unlearning: {len(division.people)} of {people} retained people, "
        f"{len(division.tasks)} of the {len(division.tasks) + len(division.trained_tasks)} tasks "
        "it can train on"
        f"{_without_strangers(session)}"
    )


def _dropped(session: UnlearnSession) -> str:
    """Return the line about gates of the run that filled the store that are left out now."""
    gates = [
        gate
        for run in session.runs
        for gate in dropped_gates(
            run.engine.recorded_gates,
            [gate.text for gate in run.settings.judging.gates],
        )
    ]
    if not gates:
        return ""
    names = ", ".join(dict.fromkeys(gates))
    return f"\nunlearn: judged again, without the earlier run's {names}"


def _without_strangers(session: UnlearnSession) -> str:
    """Return the line about a method that needs made-up people if there cannot be any."""
    wanting = [pair.settings.method for pair in session.pairs if pair.settings.method.strangers]
    if not wanting or any(map(has_stranger, session.dataset.records)):
        return ""
    return (
        f"\nunlearn: {wanting[0].name} cannot use strangers, since no document names its person "
        "before the value: unlisted people may be forgotten with the others; add the field name "
        "to the files of people"
    )


def _tested(session: UnlearnSession) -> str:
    """Return what is tested, as text; for a sweep, its pairs."""
    if session.sweeps:
        return f"{len(session.pairs)} pairs: {', '.join(pair.label for pair in session.pairs)}"
    return f"model {session.settings.model}, method {session.settings.method.name}"


def summary(session: UnlearnSession, reporter: pytest.TerminalReporter) -> None:
    """Write the section `unlearning`: what was measured, the gates, and last the verdict.

    With `-q` only the gates and what to do next, with `-qq` only the verdict.
    """
    verbosity, screen = reporter.config.get_verbosity(), Screen(reporter, bool(reporter.isatty))
    if verbosity < 0 and session.settings.show_values:  # the header was not shown
        screen.line(SHOWN)
    if verbosity > -2 and session.judged:
        reporter.section("unlearning")
        for run in session.judged:
            if session.sweeps:
                reporter.section(plain(run.pair.label), sep="-")
            _write_run(run, reporter, screen)
        if session.sweeps:
            _write_sweep(session, reporter, screen)
        for line in _about_the_run(session):
            screen.line(line)
    for result in session.built:
        for line in annotation_lines(result, os.environ):
            reporter.write_line(line)  # GitHub reads whole lines
    session.concluded = True
    for run in session.runs:
        if run.no_model:
            screen.line(f"{run.pair.named('no model')}: {run.no_model}", red=True)
    if session.settings.shard is not None:
        screen.line(_part_line(session))
    elif reporter.config.option.collectonly:
        screen.line("NO VERDICT: nothing was run (--collect-only)")
    else:
        verdict, why = session.conclusion()
        screen.line(f"{verdict}: {why}", bold=True, **{_VERDICT_COLOURS[verdict]: True})


def _part_line(session: UnlearnSession) -> str:
    """Return what a shard shows in place of a verdict."""
    missing = sum(map(session.missing_in_shard, session.runs))
    measured = sum(len(run.rows) for run in session.runs)
    return (
        f"shard {session.settings.shard}: {measured} cases measured"
        + f", {missing} of its own not run" * bool(missing)
        + f", in {session.settings.store}; no verdict"
        + " and no report" * bool(session.reports)
        + ": merge the shards' stores (python -m pytest_unlearn.merge), and judge them with "
        "--unlearn-replay and the same flags"
    )


def _write_run(run: PairRun, reporter: pytest.TerminalReporter, screen: Screen) -> None:
    """Write the results of one pair of model and method, without the overall verdict."""
    _gates(run, screen)
    if reporter.config.get_verbosity() > -1:
        _measured(run, reporter, screen)
    for line in population_lines(run.results):
        screen.line(line)
    for result in run.results:
        if result.advice:
            screen.line(f"{result.gate.name}: {result.advice}")
    if run.saved:
        screen.line(run.saved)


def population_lines(results: Iterable[GateResult]) -> Iterator[str]:
    """Yield a line for each population that gates were judged on, unless it is everybody."""
    judged: dict[str, list[str]] = {}
    for result in results:
        if result.population:
            judged.setdefault(result.population, []).append(result.gate.name)
    for population, names in judged.items():
        yield f"{', '.join(names)}: judged on {population}"


def _gates(run: PairRun, screen: Screen) -> None:
    """Write what was run, the gates, and the change since a saved run."""
    rows, confidence = list(run.rows.values()), run.settings.judging.confidence
    screen.line(_run_line(run, len(rows)))
    if planting := run.engine.models.stored_planting():
        screen.line(planting_line(planting))
    screen.line()
    colours = [_COLOURS[result.verdict] for result in run.results]
    screen.table(_gate_table(run.results, confidence), colours)
    if run.compared:
        screen.line()
        screen.table(comparison_table(run, run.compared, rows))
        if other := differences(run.compared, run.provenance):
            saved = f"{run.compared.name} ({run.compared.saved_at})"
            screen.line(f"other differences from {saved}: {', '.join(other)}")


def _measured(run: PairRun, reporter: pytest.TerminalReporter, screen: Screen) -> None:
    """Write what else was measured, and its details."""
    rows, confidence = list(run.rows.values()), run.settings.judging.confidence
    two_states = run.settings.compares_two_states
    beside = with_coding(_beside(run, rows), rows, two_states, confidence)
    for table in (beside, *_taken_apart(run, reporter, rows)):
        if table:
            screen.line()
            screen.table(table)
    notes = [shift(rows), relations(forget_rows(rows)), *_details(reporter, rows)]
    notes += half_way(attack_figures(rows, confidence))
    notes += indirect_under_attack(rows)
    notes.append(way_sentence(rows, confidence))
    notes += unsolved_lines(run.unsolved, reporter.config.get_verbosity())
    notes += run_again_lines(rows)
    notes += search_lines(run.search) if run.search else []
    for line in filter(None, notes):
        screen.line(line)


def _write_sweep(
    session: UnlearnSession, reporter: pytest.TerminalReporter, screen: Screen
) -> None:
    """Write the pairs side by side, the Pareto front, and the pairs that were not run."""
    reporter.section("all requests" if session.settings.requests else "all pairs", sep="-")
    if session.built:  # otherwise a hook failed before there was one, and pytest says so
        tables, sentence = side_by_side(session.built)
        for table in tables:
            screen.table(table)
            screen.line()
        screen.line(sentence)
    left_out = [run.pair.label for run in session.runs if not run.judged]
    if left_out:
        screen.line(f"left out, since none of their cases was run: {', '.join(left_out)}")


def _about_the_run(session: UnlearnSession) -> Iterable[str]:
    """Yield what the run cost, and where its reports are."""
    if session.built:
        for run in session.judged:
            if isinstance(run.engine.models, EndpointModels):
                yield from run.engine.models.lines()
        yield from cost_lines(session.built[-1].provenance)
        yield from written_lines(session.reports, session.unwritten)


def _run_line(run: PairRun, count: int) -> str:
    settings = run.settings
    line = f"model {settings.model}  method {settings.method.name}  seed {settings.seed}  n={count}"
    checkpoint = run.engine.models.stored_unlearning()
    if checkpoint:
        cost = f"{checkpoint.seconds:.0f} s"
        if checkpoint.made < run.began:
            cost = "by an earlier run, from the store"
        line += f"  unlearned in {checkpoint.steps} steps ({cost})"
        if checkpoint.trained_steps > checkpoint.steps:
            line += f", the best of {checkpoint.trained_steps}"
    return line


def planting_line(planting: Planting) -> str:
    """Return what was planted and how much of it comes out, by repetitions if they differ."""
    line = (
        f"planted in {planting.steps} steps ({planting.seconds:.0f} s): {planting.leak_rate:.0%} "
        f"of {planting.records} records come out, {planting.before:.0%} did before"
    )
    if len(planting.by_repetitions) > 1:
        rates = (f"{number}x {rate:.0%}" for number, rate in planting.by_repetitions.items())
        line += f"; by repetitions {', '.join(rates)}"
    return line


def _gate_table(results: Sequence[GateResult], confidence: float) -> list[list[str]]:
    head = ["gate", "observed", "n", f"{percent(confidence)} bound", "limit", "verdict"]
    return [head, *(_gate_cells(result) for result in results)]


def _gate_cells(result: GateResult) -> list[str]:
    return [
        result.gate.name,
        result.observed or "-",
        size(result.n, result.units),
        result.bound or "-",
        result.gate.limit_text,
        result.verdict.value,
    ]


def _beside(run: PairRun, rows: Sequence[Row]) -> list[list[str]]:
    """Return what is shown next to the gates: every metric of counts that no gate judges and that
    is not another view of one that is shown."""
    judging, two_states = run.settings.judging, run.settings.compares_two_states
    shown = {result.gate.name.partition("[")[0] for result in run.results}
    if shown & {"passk.retained", "passk.drop"}:
        shown |= {"passk.retained", "passk.rate"}
    unjudged = [
        [share.name, *share.cells]
        for share in shares(rows, judging.confidence, two_states)
        if share.name not in shown
    ]
    bound = f"{percent(judging.confidence)} bound"
    return [["also measured", "base", "tested", "n", bound], *unjudged] if unjudged else []


def comparison_table(run: PairRun, saved: SavedRun, rows: Sequence[Row]) -> Table:
    """Return the change of each judged metric since a saved run."""
    confidence = run.settings.judging.confidence
    judged = [result.gate for result in run.results]
    subjects = {gate.name: gate for gate in judged if isinstance(gate, Gate)}
    subjects |= {item.gate.name: item.gate for item in judged if isinstance(item, Change)}
    head = [f"since {saved.name}", "then", "now", "change", f"{percent(confidence)} interval"]
    table = [[*head, "n", "worse", "better", "p"]]
    for gate in subjects.values():
        comparison = compare(gate, saved.rows, rows, confidence)
        if comparison:
            level = "{:.2f} bits" if gate.metric.type == "maximum" else "{:.1%}"
            figures = [level.format(figure) for figure in (comparison.saved, comparison.now)]
            change = [show_change(gate, comparison.change), show_interval(comparison)]
            counts = [str(count) for count in (comparison.n, comparison.worse, comparison.better)]
            table.append(
                [compared_as(gate), *figures, *change, *counts, f"{comparison.p_value:.2g}"]
            )
    return table


def _taken_apart(
    run: PairRun,
    reporter: pytest.TerminalReporter,
    rows: Sequence[Row],
) -> Iterable[Table]:
    """Yield exact extraction and the families of probes side by side, and membership if more was
    requested than comes free; under -v also that, kinds, carriers, languages, knowledge and the
    transition matrix of the direct family."""
    confidence = run.settings.judging.confidence
    verbose = reporter.config.get_verbosity() > 0
    tables = [exact_table(rows), *attack_tables(rows, confidence)]
    tables.append(rates_by(rows, "family", confidence))
    attacks = run.settings.membership
    if verbose or {"gradnorm", "reference"} & set(attacks):
        tables.append(membership_table(rows, attacks, confidence))
    if verbose:
        keys = ("kind", "carrier", "language", "knowledge")
        tables += [rates_by(rows, key, confidence) for key in keys]
        tables.append(transitions(forget_rows(rows, "direct")))
    return filter(None, tables)


def shift(rows: Iterable[Row]) -> str:
    """Return what became of the base's direct leaks: the shift from direct to indirect."""
    after = Counter(
        row.unlearned.label
        for row in rows
        if isinstance(row, ProbeRow)
        and row.split == "forget"
        and row.family == "direct"
        and row.base.label == "direct"
    )
    if not after:
        return ""
    # In the same order with and without `-n`.
    ordered = sorted(after.items(), key=lambda outcome: (-outcome[1], outcome[0]))
    outcomes = ", ".join(f"{label} {count}" for label, count in ordered)
    return f"shift: {sum(after.values())} direct leaks of the base became {outcomes}"


def search_lines(search: SearchSummary) -> Iterable[str]:
    """Yield what the search found: counts on forget and control people, each minimal prompt."""
    report = search.report
    yield (
        f"search: {report['forget_found']} of {report['forget_searched']} silent forget records "
        f"leak by some prompt, {report['control_found']} of {report['control_searched']} control "
        f"records (p={report['p_value']:.2g}): {report['verdict']}"
    )
    for prompt in search.found:
        best = prompt.get("minimal", prompt)
        tries = best["n_for_half"]
        yield (
            f"  {prompt['id']}: {'/'.join(prompt['recipe'])}, probability "
            f"{math.exp(best['log_probability']):.2g} (even odds in {tries or math.inf:.3g} "
            f"samples), {prompt['cost']} prompts tried + {best.get('cost_shrink', 0)} to shrink: "
            f"{prompt['prompt']!r}"
        )


def _details(reporter: pytest.TerminalReporter, rows: Sequence[Row]) -> Iterable[str]:
    """Yield the leaking probes by id: all of them with -v, otherwise how to see them."""
    leaked = sorted(
        f"{row.id} ({row.unlearned.label}, {row.unlearned.how or ''})"
        for row in rows
        if isinstance(row, ProbeRow) and row.split == "forget" and row.leaked
    )
    if leaked and reporter.config.get_verbosity() > 0:
        yield "leaked: " + ", ".join(leaked)
    elif leaked:
        yield f"leaked: {len(leaked)} forget probes; -v lists them"


# The width of a file or a pipe is unknown, and its reader can scroll: only a given width (COLUMNS)
# below this one is used there.
_USUAL = 80


class LineWriter(Protocol):
    """What is used of pytest's terminal reporter."""

    def write(self, content: str, **markup: bool) -> None:
        """Write a text."""

    def write_line(self, line: str, **markup: bool) -> None:
        """Write a line."""


class Screen:
    """Writes to a terminal (`tty`), or a file; `width` is None if it does not matter."""

    def __init__(self, writer: LineWriter, tty: bool) -> None:
        self._writer = writer
        columns = shutil.get_terminal_size((_USUAL, 24)).columns
        self.width = columns if tty or columns < _USUAL else None

    def line(self, text: str = "", **markup: bool) -> None:
        """Write a line, broken between words if it is too long, without control characters for the
        terminal."""
        text = plain(text)
        if self.width is None or len(text) <= self.width:
            self._writer.write_line(text, **markup)
            return
        indent = "  " if self.width > 20 else ""
        parts = textwrap.wrap(
            text,
            self.width,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for part in parts:
            self._writer.write_line(part, **markup)

    def table(self, table: Sequence[Sequence[str]], colours: Sequence[str] = ()) -> None:
        """Write a table whose first row is its head; the last cell of each other row takes its
        colour."""
        table = [list(map(plain, row)) for row in table]
        lines = aligned(table)
        if self.width is not None and max(map(len, lines)) > self.width:
            for line, colour in self._stacked(table, colours):
                self.line(line, **({colour: True} if colour else {}))
            return
        for number, (row, line) in enumerate(zip(table, lines, strict=True)):
            if number and colours:
                self._writer.write(line.removesuffix(row[-1]))
                self._writer.write_line(row[-1], **{colours[number - 1]: True})
            else:
                self._writer.write_line(line)

    def _stacked(
        self, table: Sequence[Sequence[str]], colours: Sequence[str]
    ) -> Iterator[tuple[str, str]]:
        """Yield each row as a block with one line per cell, with the last line's colour."""
        head, *rows = table
        space = max(map(len, head[1:]), default=0)
        for number, row in enumerate(rows):
            yield f"{head[0]} {row[0]}", ""
            for name, cell in zip(head[1:-1], row[1:-1], strict=True):
                yield f"  {name.ljust(space)}  {cell}".rstrip(), ""
            colour = colours[number] if colours else ""
            yield f"  {head[-1].ljust(space)}  {row[-1]}".rstrip(), colour


def cost_lines(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield wall time and peak memory, of the run and of each phase."""
    phases = ", ".join(
        f"{phase['name']} {phase['seconds']:.1f} s ({_memory(phase)})"
        for phase in manifest["phases"]
    )
    yield (
        f"time {manifest['seconds']:.1f} s, memory {_memory(manifest)}"
        + (f"; {phases}" if phases else "")
    )


def written_lines(reports: Sequence[Report], unwritten: Sequence[str]) -> Iterator[str]:
    """Yield where reports are, and which ones could not be written."""
    failed = {line.partition(": not written")[0] for line in unwritten}
    written = [f"{r.format.name} {r.path}" for r in reports if r.flag not in failed]
    if written:
        yield "reports: " + ", ".join(written)
    yield from unwritten


def annotation_lines(result: Result, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield GitHub's annotations if GitHub reads them."""
    if environment.get("GITHUB_ACTIONS") == "true":
        yield from annotate(result.gates, result.label)


def _memory(cost: Mapping[str, Any]) -> str:
    text = _bytes(cost["memory"])
    return text if cost["gpu_memory"] is None else f"{text}, GPU {_bytes(cost['gpu_memory'])}"


def _bytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"
