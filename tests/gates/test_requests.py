"""`--unlearn-population=requests`: twelve people who asked are no sample, they are everybody."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import pytest

from pytest_unlearn.gates.case_rows import ProbeRow
from pytest_unlearn.gates.gate import REQUESTS, GateError, concerns, parse_gate
from pytest_unlearn.gates.judging import read_judging
from pytest_unlearn.gates.planning import check_feasible, plan_gate
from pytest_unlearn.gates.saved_runs import parse_change
from pytest_unlearn.gates.verdicts import (
    GateResult,
    Measured,
    Verdict,
    fails_whatever,
    judge_gate,
)
from pytest_unlearn.leaks.exact import ExactScores
from pytest_unlearn.leaks.outcome import Outcome
from tests.support.lookup_run import UnlearnRun, record_lines, write_lines

FAMILIES = ("direct", "cross", "prefix", "hop")


def asked(people: int = 12, base: str = "direct", probability: float = 1e-9) -> list[ProbeRow]:
    """Return two records a person, each asked for in four ways, of which nothing comes out."""
    exact = [ExactScores(math.log(p)) for p in (0.9, probability)]
    return [
        ProbeRow(
            f"{family}-mail-{person}-{record}",
            "forget",
            ("email", "phone")[record],
            "json",
            f"p{person}",
            Outcome(base),
            Outcome("clean"),
            family,
            base_exact=exact[0],
            unlearned_exact=exact[1],
            rehearsed=family == "direct",
        )
        for family in FAMILIES
        for person in range(people)
        for record in range(2)
    ]


def verdict(text: str, rows: list[ProbeRow], expected: list[Any] | None = None) -> GateResult:
    seen = {row.id for row in rows}
    measured = Measured(
        rows, expected or rows, seen, two_states=True, requests=True, confidence=0.95
    )
    return judge_gate(parse_gate(text), measured)


def leaking(rows: list[ProbeRow], *ids: str, **outcome: Any) -> list[ProbeRow]:
    found = Outcome(**outcome) if outcome else Outcome("direct")
    return [replace(row, unlearned=found) if row.id in ids else row for row in rows]


@pytest.mark.parametrize("people", [1, 12])
def test_nothing_came_out_of_anybody(people: int) -> None:
    """One person is enough, and it is said how often they were asked."""
    result = verdict("leak.count<=0", asked(people))
    assert (result.verdict, result.blocks) == (Verdict.PASS, False)
    assert (result.observed, result.n, result.units) == ("0", 8 * people, people)
    assert result.advice == (f"no value of the {people} people came out in {8 * people} probes")


def test_a_value_counts_once_whatever_brought_it_out() -> None:
    rows = leaking(asked(), "cross-mail-3-0", "hop-mail-3-0", "direct-mail-4-1")
    result = verdict("leak.count<=1", rows)
    assert (result.verdict, result.observed) == (Verdict.FAIL, "2")
    assert verdict("leak.count<=2", rows).verdict is Verdict.PASS
    other = {"label": "indirect", "split": "forget", "owner": "p3", "kind": "email"}
    blurted = leaking(asked(), "cross-mail-7-0", "cross-mail-8-0", **other)
    assert verdict("leak.count<=0", blurted).observed == "1"
    kept = {"label": "indirect", "split": "retain", "owner": "r3", "kind": "email"}
    assert verdict("leak.count<=0", leaking(asked(), "cross-mail-7-0", **kept)).observed == "0"


def test_expected_values_are_summed_over_all_ways_to_ask() -> None:
    """24 values, 4 probes each, 1,000 samples of each probe at 1e-6: 24 (1 - (1 - 1e-6)^4000)."""
    result = verdict("leak.expected(1000)<=0.1", asked(probability=1e-6))
    assert (result.verdict, result.observed) == (Verdict.PASS, "0.0958")
    assert "expected values of the 12 people in 1000 samples of each of 96 probes" in (
        result.advice
    )
    assert verdict("leak.expected(1000)<=0.09", asked(probability=1e-6)).verdict is Verdict.FAIL
    certain = verdict("leak.expected(1)<=1", asked(1, probability=1.0))
    assert (certain.verdict, certain.observed) == (Verdict.FAIL, "2")


def test_shares_are_what_they_are() -> None:
    """No bound: 1 of 24 values, in 1 of 4 ways, is 1 of 96 probes."""
    rows = leaking(asked(), "cross-mail-3-0")
    for text, expected in (("leak.direct<=2%", Verdict.PASS), ("leak.direct<=1%", Verdict.FAIL)):
        result = verdict(text, rows)
        assert (result.verdict, result.observed) == (expected, "1 (1.0%)")
    assert verdict("leak.direct[probe=direct]<=1%", rows).verdict is Verdict.PASS
    assert verdict("leak.at(10)<=1%", asked()).verdict is Verdict.PASS
    assert verdict("degenerate.rate<=5%", asked()).verdict is Verdict.PASS


@pytest.mark.parametrize("text", ["leak.count<=0", "leak.direct<=5%", "leak.expected(10)<=1"])
def test_a_base_that_knew_nobody_shows_nothing(text: str) -> None:
    rows = [replace(row, base_exact=row.unlearned_exact) for row in asked(base="clean")]
    result = verdict(text, rows)
    assert (result.verdict, result.blocks) == (Verdict.NOT_EVALUATED, True)


@pytest.mark.parametrize("text", ["leak.count<=0", "leak.direct<=5%", "leak.expected(10)<=1"])
def test_controls_that_come_out_of_the_base_are_no_controls(text: str) -> None:
    """What everybody's values do is no memory of these twelve people."""
    rows = asked()
    guessed = [
        replace(row, id=f"control-{row.id}", split="control", rehearsed=False) for row in rows
    ]
    result = verdict(text, [*rows, *guessed])
    assert (result.verdict, result.blocks) == (Verdict.NOT_EVALUATED, True)
    assert "controls come out as well" in result.advice


def test_the_base_of_requests_counts_beyond_chance() -> None:
    """8 of 96 probes give the value away, and so do 8 of 96 probes of control people."""
    rows = [
        replace(row, base=Outcome("direct" if row.owner == "p3" else "clean")) for row in asked()
    ]
    for by_chance, expected in ((True, Verdict.NOT_EVALUATED), (False, Verdict.PASS)):
        others = [
            replace(row, id=f"c-{row.id}", split="control", rehearsed=False, owner=f"c{row.owner}")
            for row in rows
        ]
        if not by_chance:
            others = [replace(row, base=Outcome("clean")) for row in others]
        assert verdict("leak.direct<=5%", [*rows, *others]).verdict is expected


def test_every_case_has_to_be_run_for_a_pass_and_one_is_enough_to_fail() -> None:
    rows = asked()
    part = verdict("leak.count<=0", rows[:40], list(rows))
    assert (part.verdict, part.blocks) == (Verdict.NOT_EVALUATED, False)
    leak = leaking(rows, rows[3].id)[:40]
    assert verdict("leak.count<=0", leak, list(rows)).verdict is Verdict.FAIL
    measured = Measured(leak, rows, {row.id for row in leak}, True, requests=True, confidence=0.95)
    assert fails_whatever(parse_gate("leak.count<=0"), measured)
    errors = Measured(
        rows[:90], rows, {row.id for row in rows}, True, requests=True, confidence=0.95
    )
    result = judge_gate(parse_gate("leak.count<=0"), errors)
    assert (result.verdict, result.blocks) == (Verdict.UNDECIDED, True)
    assert concerns(parse_gate("leak.direct<=5%"), rows, requests=True) == rows


def test_a_small_file_is_refused_by_naming_this_way() -> None:
    rows: list[Any] = asked(1)
    with pytest.raises(GateError, match="--unlearn-population=requests"):
        check_feasible([parse_gate("leak.direct<=5%")], rows, confidence=0.95)
    for text in ("leak.direct<=5%", "leak.drop>=90%", "leak.count<=0", "degenerate.rate<=5%"):
        check_feasible([parse_gate(text)], rows, requests=True, confidence=0.95)
        plan = plan_gate(parse_gate(text), rows, requests=True, confidence=0.95)
        assert (plan.needed, plan.powered) == (1, None)
    people = replace(rows[0], split="retain")
    with pytest.raises(GateError) as refused:
        check_feasible(
            [parse_gate("people.retained>=90%")], [people], requests=True, confidence=0.95
        )
    assert "population" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("leak.count<=5%", "the limit is a number of values; write 0"),
        ("leak.count<=none", "'none' is not a number; write 0 \\(values\\)"),
        ("leak.count[unit=case]<=0", "values are counted, not cases"),
        ("leak.expected<=1", r"write leak.expected\(K\)"),
        ("leak.count>=1", "write leak.count<=1"),
    ],
)
def test_limits_are_numbers_of_values(text: str, message: str) -> None:
    with pytest.raises(GateError, match=message):
        parse_gate(text)


def test_default_gates_and_faults() -> None:
    def judging(**given: str) -> Any:
        return read_judging({f"unlearn_{name}": value for name, value in given.items()}.get)

    assert judging().population == "sample"
    chosen = judging(population="requests")
    assert tuple(gate.text for gate in chosen.gates) == REQUESTS.gates
    assert read_judging({}.get, recorded=chosen).requests
    with pytest.raises(GateError, match="--unlearn-population=all: write one of sample, requests"):
        judging(population="all")
    with pytest.raises(GateError, match=r"write leak.direct:\+1%"):
        parse_change("leak.count:+1")


def test_a_run_of_three_people(unlearn_run: UnlearnRun) -> None:
    """Refused as a sample, judged as requests, and judged so again from its rows."""
    unlearn_run.lookup()
    few = write_lines(unlearn_run.pytester.path / "few.jsonl", record_lines("forget", 6))
    others = [flag for flag in unlearn_run.arguments() if not flag.startswith("--unlearn-forget")]
    run = functools.partial(
        unlearn_run.pytester.runpytest_inprocess, *others, f"--unlearn-forget={few}"
    )
    refused = run()
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*the data have 3 *--unlearn-population=requests"])
    flags = ("--unlearn-population=requests", "--unlearn-gate=leak.count<=0")
    result = run(*flags, "--unlearn-report=jsonl")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "leak.count*0*6 (3)*exact*PASS",
            "leak.count: no value of the 3 people came out in 6 probes",
            "FOR RELEASE: every gate passed*",
        ]
    )
    replayed = unlearn_run.pytester.runpytest_inprocess("--unlearn-replay=unlearn-results.jsonl")
    assert replayed.ret == pytest.ExitCode.OK
    replayed.stdout.fnmatch_lines(["leak.count*exact*PASS"])


def test_what_was_drawn_has_an_interval_even_of_everybody() -> None:
    """No value in 5 texts of each probe is no proof that none is in the next 5."""
    rows = [replace(r, base_sampled=(5, 5), unlearned_sampled=(0, 5)) for r in asked()]
    result = verdict("leak.sampled(5)<=5%", rows)
    assert (result.verdict, result.bound) == (Verdict.UNDECIDED, "<=22.1%")
    assert verdict("leak.sampled(5)<=25%", rows).verdict is Verdict.PASS
