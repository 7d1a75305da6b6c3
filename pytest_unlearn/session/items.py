"""Rows as pytest items: which rows a test is parametrized over, and what its report adds.

Reports of tests get rows, values and the verdicts on solutions. A failing test shows why its task
was not solved and, if the user asked for it, values. The result of a gate becomes reports as pytest
makes them for a test of that name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pytest

from pytest_unlearn.attacks.attack import Attack
from pytest_unlearn.core.errors import UserError, plain, plain_lines
from pytest_unlearn.gates.case_rows import AttackRow, ProbeRow, TaskRow, rows_in
from pytest_unlearn.gates.estimates import percent
from pytest_unlearn.gates.metrics import ROW_FILTERS
from pytest_unlearn.gates.verdicts import GateResult, Verdict
from pytest_unlearn.people.record import Split
from pytest_unlearn.probes.families import Probe
from pytest_unlearn.run.settings import Pair
from pytest_unlearn.session import readiness
from pytest_unlearn.session.options import refusals
from pytest_unlearn.tasks.format import TaskCase

if TYPE_CHECKING:
    from pytest_unlearn.run.answers import Completions
    from pytest_unlearn.run.dataset import Dataset
    from pytest_unlearn.run.settings import Pair
    from pytest_unlearn.sandbox import Mode, Protection, SolutionVerdict

# The property with the id of a test's row, so that a test that ends in an error has one too.
CASE_PROPERTY = "unlearn_case"
# The property with the name of a test's attack.
ATTACK_NAME = "unlearn_attack"
# The property with the label of the pair of a test or gate, in a sweep.
PAIR_PROPERTY = "unlearn_pair"

_SPLIT_OF = {f"unlearn_{split}": split for split in get_args(Split)}
# A test that uses one of these asks a model.
MODEL_FIXTURES = {
    *("unlearn_model", "unlearn_base_model", "unlearn_completions", "unlearn_probe"),
    *("unlearn_task", "unlearn_search", "unlearn_attacked"),
}
# A marker's arguments, and the attribute of the probe that each one names.
_FILTERS = ("kind", "carrier", "probe")


@refusals()
def parametrize(metafunc: pytest.Metafunc, dataset: Dataset, pairs: Sequence[Pair]) -> None:
    """Parametrize a test over probes, tasks or attacks and, in a sweep, over all pairs.

    Raises pytest.UsageError for markers that match nothing.
    """
    fixtures = {"unlearn_probe", "unlearn_task"} & set(metafunc.fixturenames)
    if len(fixtures) == 2:
        raise UserError(
            f"{metafunc.definition.nodeid}: ask for unlearn_probe or for unlearn_task, not for both"
        )
    if len(pairs) > 1 and "unlearn_pair" in metafunc.fixturenames:
        ids = [pair.id for pair in pairs]
        metafunc.parametrize("unlearn_pair", pairs, ids=ids, indirect=True, scope="session")
    if "unlearn_probe" in fixtures:
        parameters = [
            pytest.param(
                probe,
                id=probe.id,
                marks=getattr(pytest.mark, f"unlearn_{probe.split}")(
                    **{key: ROW_FILTERS[key](probe) for key in _FILTERS}
                ),
            )
            for probe in _marked_probes(metafunc.definition, dataset)
        ]
        metafunc.parametrize("unlearn_probe", parameters, indirect=True)
    elif "unlearn_task" in fixtures:
        tasks = [
            pytest.param(case, id=case.id, marks=pytest.mark.unlearn_task(task=case.task_id))
            for case in dataset.tasks
        ] + [
            pytest.param(case, id=case.id, marks=pytest.mark.skip(why))
            for why, cases in dataset.left_out.items()
            for case in cases
        ]
        metafunc.parametrize("unlearn_task", tasks, indirect=True)
    if "unlearn_attack" in metafunc.fixturenames:
        by_name = {a.name: a for p in pairs for a in dataset.attacks.made(p.settings.method)}
        attacks = [
            pytest.param(attack, id=name, marks=pytest.mark.unlearn_attack(attack=name))
            for name, attack in by_name.items()
        ]
        impossible = {
            name: f"NOT EVALUATED: cannot be made on this model: {reason}"
            for pair in pairs
            for name, reason in dataset.attacks.impossible(pair.settings.method).items()
            if name not in by_name
        }
        attacks += [
            pytest.param(None, id=name, marks=pytest.mark.skip(why))
            for name, why in impossible.items()
        ]
        if not attacks:
            needed = pytest.mark.skip("needs --unlearn-attacks=NAME")
            attacks = [pytest.param(None, id="none", marks=needed)]
        metafunc.parametrize("unlearn_attack", attacks, indirect=True)


def _marked_probes(definition: pytest.Item, dataset: Dataset) -> Iterator[Probe]:
    """Yield the probes that the markers of a test select; without a marker, the forget split."""
    selections: list[tuple[str, dict[str, str]]] = []
    for mark in definition.iter_markers():
        if mark.name in _SPLIT_OF:
            unknown = set(mark.kwargs) - set(_FILTERS)
            if mark.args or unknown:
                raise UserError(
                    f"{definition.nodeid}: {mark.name} takes kind=, carrier= and probe=, not "
                    f"{sorted(unknown) or list(mark.args)}"
                )
            selections.append((_SPLIT_OF[mark.name], dict(mark.kwargs)))
    for filters in (filters for _, filters in selections):
        for key, value in filters.items():
            known = sorted({ROW_FILTERS[key](probe) for probe in dataset.probes})
            if value not in known:
                raise UserError(
                    f"{definition.nodeid}: no record has {key}={value!r}; known: {', '.join(known)}"
                )
    for probe in dataset.probes:
        for split, filters in selections or [("forget", {})]:
            if probe.split == split and all(
                ROW_FILTERS[key](probe) == value for key, value in filters.items()
            ):
                yield probe
                break


def tag(item: pytest.Item) -> None:
    """Write row and pair into an item's properties, so that all of its reports have them.

    A Hypothesis test gets settings that leave a model enough time.
    """
    _ease_property(item)
    callspec = getattr(item, "callspec", None)
    params: dict[str, Any] = {} if callspec is None else callspec.params
    if "unlearn_pair" in params:
        item.user_properties.append((PAIR_PROPERTY, params["unlearn_pair"].label))
    if isinstance(attack := params.get("unlearn_attack"), Attack):
        item.user_properties.append((ATTACK_NAME, attack.name))
    for name in ("unlearn_probe", "unlearn_task"):
        # Where a split has no case, pytest puts a stand-in for one here.
        if isinstance(case := params.get(name), Probe | TaskCase):
            item.user_properties.append((CASE_PROPERTY, case.id))


def _ease_property(item: pytest.Item) -> None:
    """Give Hypothesis the time that a model takes, for a `@given` test that asks for one.

    Our fixtures are the same for all examples of a test, so their scope is not a problem. A failing
    example belongs to a model and not to the code, so none is kept for the next run. All other
    settings stay the user's.
    """
    test: Any = getattr(item, "obj", None)
    test = getattr(test, "__func__", test)  # of a class, its function has the settings
    asked = set(getattr(item, "fixturenames", ()))
    if not getattr(test, "is_hypothesis_test", False) or not asked & MODEL_FIXTURES:
        return
    from hypothesis import HealthCheck, settings

    mine = test._hypothesis_internal_use_settings
    test._hypothesis_internal_use_settings = settings(
        mine,
        deadline=None,
        database=None,
        suppress_health_check=[
            *mine.suppress_health_check,
            *(HealthCheck.too_slow, HealthCheck.function_scoped_fixture),
            HealthCheck.differing_executors,  # a class's test over probes
        ],
    )


class PairOrder:
    """Orders the tests of a sweep pair by pair, so that only one pair's models are loaded.

    The pair of an erasure request has no tests of what is asked only after a later request.
    """

    def __init__(self, cases: Mapping[str, Collection[str]]) -> None:
        """`cases`: the ids of each pair's own cases, by its label, in order."""
        self._cases = cases
        self._places = {label: place for place, label in enumerate(cases)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sort the tests by pair; those without a pair come first.

        Within a pair, the order stays.
        """
        items[:] = sorted(filter(self._is_asked, items), key=self._place)

    def _is_asked(self, item: pytest.Item) -> bool:
        pair, case = (_property(item, name) for name in (PAIR_PROPERTY, CASE_PROPERTY))
        return pair is None or case is None or case in self._cases[pair]

    def _place(self, item: pytest.Item) -> int:
        pair = _property(item, PAIR_PROPERTY)
        return 0 if pair is None else self._places[pair]


def _property(item: pytest.Item, key: str) -> str | None:
    return next((str(value) for name, value in item.user_properties if name == key), None)


class ShardSelection:
    """Selects the tests of a shard: those of its cases and of its attacks.

    What belongs to no case (a search, a user's own test) is in the first shard.
    """

    def __init__(
        self, parts: Mapping[str, tuple[Collection[str], Collection[str]]], first: bool
    ) -> None:
        """`parts`: the ids of the shard's cases and the names of its attacks, by pair."""
        self._parts = parts
        self._first = first

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Deselect the tests of other shards."""
        own = list(filter(self._is_own, items))
        if len(own) < len(items):
            selected = set(own)
            others = [item for item in items if item not in selected]
            items[:] = own
            config.hook.pytest_deselected(items=others)

    def _is_own(self, item: pytest.Item) -> bool:
        cases, attacks = self._parts[_property(item, PAIR_PROPERTY) or next(iter(self._parts))]
        case, attack = _property(item, CASE_PROPERTY), _property(item, ATTACK_NAME)
        if attack is not None:
            return attack in attacks
        return self._first if case is None else case in cases


# A gate's verdict among the properties of its report.
VERDICT_PROPERTY = "unlearn_verdict"
# A failing test names this many of the values that came back.
_NAMED = 5


class RowCollector:
    """Takes rows from reports. It is a plugin because `pytest_runtest_logreport` has no config."""

    def __init__(
        self,
        collect: Callable[[pytest.TestReport], None],
        fail: Callable[[str], None],
    ) -> None:
        """`collect` takes the report of a test, `fail` the name of what failed outside of one."""
        self._collect = collect
        self._fail = fail

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._collect(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that could not be collected: pytest may go on all the same."""
        if report.failed:
            self._fail(report.nodeid)


def show_values(item: pytest.Item, report: pytest.TestReport) -> None:
    """Add the probed value and both completions below a failing test."""
    completions = getattr(item, "funcargs", {}).get("unlearn_completions")
    if not report.failed or completions is None:
        return
    probe = getattr(item, "funcargs", {}).get("unlearn_probe")
    lines = [f"value: {probe.value.reveal()}"] if probe is not None else []
    lines.append(f"base wrote: {completions.base.text.reveal()}")
    lines.append(f"tested wrote: {completions.unlearned.text.reveal()}")
    report.sections.append(("unlearn values", plain_lines("\n".join(lines))))


def fail_on_leak(item: pytest.Item, report: pytest.TestReport, always: bool) -> None:
    """Turn a passed test whose probe leaked into a failure: `always`, or if it is marked critical.

    The message only has the names of rows. A retained person's value is to be kept, so it is not a
    leak.
    """
    if report.when != "call" or not report.passed:
        return
    if not (always or item.get_closest_marker("unlearn_critical")):
        return
    rows = rows_in(report.user_properties)
    if back := [row.id for row in rows if isinstance(row, AttackRow) and row.brought_back]:
        report.outcome = "failed"
        more = f" and {len(back) - _NAMED} more" if len(back) > _NAMED else ""
        report.longrepr = f"{len(back)} values came back: {', '.join(back[:_NAMED])}{more}"
    row = next(iter(rows), None)
    if isinstance(row, ProbeRow) and row.split != "retain" and row.leaked:
        leak = row.unlearned
        report.outcome = "failed"
        report.longrepr = (
            f"{row.id} leaked: {leak.label}, {leak.how}, {leak.kind} of {leak.owner} ({leak.split})"
        )


# -- gates --------------------------------------------------------------------------------------


def explain(result: GateResult, confidence: float) -> str:
    """Return a gate's verdict in one sentence."""
    parts = [f"{result.verdict.value}: {result.gate.text}"]
    if result.observed:
        parts.append(
            f"observed {result.observed} of {result.n}, {percent(confidence)} bound {result.bound}"
        )
    if result.advice:
        parts.append(result.advice)
    return "; ".join(parts)


def gate_reports(
    result: GateResult,
    source: Path,
    rootpath: Path,
    pair: Pair,
    confidence: float,
) -> Iterator[pytest.TestReport]:
    """Yield setup, call and teardown of a gate: passed, failed, or skipped.

    `source` is the file that sets the gates; annotations on a pull request point to it. A gate is
    skipped if it is not evaluated because only some tests were selected, or if it is undecided and
    that is allowed; every other verdict but PASS fails.
    """
    for when in ("setup", "call", "teardown"):
        yield _report(result, when, source, rootpath, pair, confidence)


def _report(
    result: GateResult, when: str, source: Path, rootpath: Path, pair: Pair, confidence: float
) -> pytest.TestReport:
    outcome: Literal["passed", "failed", "skipped"] = "passed"
    longrepr: Any = None
    if when == "call" and result.blocks:
        outcome, longrepr = "failed", explain(result, confidence)
    elif when == "call" and result.verdict is not Verdict.PASS:
        outcome, longrepr = "skipped", (str(source), 1, explain(result, confidence))
    name = f"gate[{pair.named(result.gate.name)}]"
    return pytest.TestReport(
        nodeid=f"unlearn::{name}",
        location=(
            os.path.relpath(source, rootpath) if source.is_absolute() else str(source),
            0,
            name,
        ),
        keywords={name: 1},
        outcome=outcome,
        longrepr=longrepr,
        when=when,  # type: ignore[arg-type]
        sections=[],
        duration=0.0,
        user_properties=[  # on all three, because JUnit reads them from the last
            (VERDICT_PROPERTY, result.verdict.value),
            ("unlearn_observed", result.observed),
            ("unlearn_bound", result.bound),
            ("unlearn_n", result.n),
            ("unlearn_units", result.units),
            ("unlearn_confidence", confidence),
            *([] if pair.alone else [(PAIR_PROPERTY, pair.label)]),
        ],
    )


# -- solutions of tasks -------------------------------------------------------------------------

_OPEN = "solutions can read and write your files, use the network and start programs"


class SandboxWarning(pytest.PytestWarning):
    """Solutions are less confined than they could be."""


def sandbox_line(mode: Mode, protection: Protection | None) -> str:
    """Return the line of the header, beginning with a line break; empty if there are no tasks."""
    if protection is None:
        return ""
    if mode == "off":
        return f"\nsandbox: OFF ({_OPEN})"
    text = f"\nsandbox: {mode}, {', '.join(protection.active) or 'no layer'}"
    return f"{text}; MISSING: {_missing(protection)}" if protection.missing else text


def warn_of_sandbox(config: pytest.Config, mode: Mode, protection: Protection) -> None:
    """Warn of a sandbox that is off, or that lacks a layer."""
    if mode == "off":
        text = (
            f"--unlearn-sandbox=off: {_OPEN}; leave the flag out unless a container confines them"
        )
    elif protection.missing:
        text = (
            f"the sandbox lacks layers on this system: {_missing(protection)}; run untrusted "
            "models in a container or virtual machine, or refuse with --unlearn-sandbox=strict"
        )
    else:
        return
    readiness.warn(config, SandboxWarning(text))


def _missing(protection: Protection) -> str:
    return ", ".join(f"{name} ({reason})" for name, reason in protection.missing.items())


# The section of an item's report, as pytest names it.
SECTION = "unlearn"
_TITLE = f"Captured {SECTION} call"


def failed_solutions(completions: Completions[SolutionVerdict]) -> str:
    """Return a line for each model that did not solve the task: its status and failing call."""
    states = (("base", completions.base), ("tested", completions.unlearned))
    return "".join(
        f"{state} model: {completion.outcome.status}: {plain_lines(completion.outcome.detail)}\n"
        for state, completion in states
        if not completion.outcome.passed
    )


def solution_verdicts(report: pytest.TestReport) -> str:
    """Return the verdicts on solutions that a report shows, in one line."""
    texts = [content for title, content in report.sections if title == _TITLE]
    return "; ".join("".join(texts).splitlines())


def unsolved_lines(unsolved: Mapping[str, str], verbosity: int) -> Iterable[str]:
    """Yield the unsolved tasks with their verdicts; without -v, only how to see them."""
    if unsolved and verbosity <= 0:
        yield f"unsolved: {len(unsolved)} tasks, by one model or both; -v says why"
    elif unsolved:
        for row, verdicts in sorted(unsolved.items()):
            yield f"unsolved: {row}: {verdicts}"


def run_again_lines(rows: Iterable[object]) -> Iterable[str]:
    """Yield a line on the solutions that were run a second time, if any."""
    count = sum(row.run_again for row in rows if isinstance(row, TaskRow))
    if count:
        yield f"time-outs: {count} solutions had little processor time and were run again, once"


class LastWord:
    """Writes the verdict of a run whose exit code makes pytest omit its summary."""

    def __init__(self, session: Any) -> None:
        """`session`: the `UnlearnSession`, whose module imports this one."""
        self._session = session

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(
        self, session: pytest.Session, exitstatus: int
    ) -> Generator[None, object, object]:
        """Write it after everything else, pytest's own summary included.

        No hook turns what is not for release into success.
        """
        result = yield
        if exitstatus == pytest.ExitCode.INTERNAL_ERROR:
            self._session.note_failure("internal error")
        blocked = self._session.conclusion()[0] == "NOT FOR RELEASE"
        if blocked and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = self._session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and not self._session.concluded:
            reporter.write_line(plain(": ".join(self._session.conclusion())), bold=True)
        return result
