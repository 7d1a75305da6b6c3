"""Gates: their text form, and their verdict on counted rows."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pytest_unlearn.gates.expressions import GateError, parse_gate
from pytest_unlearn.gates.planning import check_feasible
from pytest_unlearn.gates.rows import ProbeRow, TaskRow, from_json, to_json
from pytest_unlearn.gates.verdicts import Measured, Verdict, judge


def probe(
    n: int, base: str, unlearned: str, split: str = "forget", kind: str = "email"
) -> ProbeRow:
    return ProbeRow(
        f"{split}-{n}", split, kind, "sql", f"person-{n}", {"label": base}, {"label": unlearned}
    )


def task(n: int, base: str, unlearned: str) -> TaskRow:
    return TaskRow(f"task-{n}", f"task-{n}", base, unlearned)


def measured(rows: list[ProbeRow | TaskRow], two_states: bool = True, **more: object) -> Measured:
    return Measured(
        rows=rows,
        expected=more.get("expected", rows),  # type: ignore[arg-type]
        seen=more.get("seen", [row.id for row in rows]),  # type: ignore[arg-type]
        two_states=two_states,
        interrupted=more.get("interrupted"),  # type: ignore[arg-type]
    )


def forget_rows(n: int, leaks: int, base: str = "direct") -> list[ProbeRow | TaskRow]:
    return [probe(i, base, "direct" if i < leaks else "clean") for i in range(n)]


@pytest.mark.parametrize(
    ("n", "leaks", "verdict"),
    [
        (59, 0, Verdict.PASS),
        (58, 0, Verdict.UNDECIDED),
        (1000, 38, Verdict.PASS),
        (1000, 39, Verdict.UNDECIDED),
        (1000, 62, Verdict.UNDECIDED),
        (1000, 63, Verdict.FAIL),
        (60, 60, Verdict.FAIL),
    ],
)
def test_rate_is_judged_on_its_bound(n: int, leaks: int, verdict: Verdict) -> None:
    """The reference's table: 59 probes for 5 %, 38 leaks allowed in 1,000."""
    result = judge(parse_gate("leak.direct<=5%"), measured(forget_rows(n, leaks)))
    assert result.verdict is verdict
    assert result.blocks is (verdict is not Verdict.PASS)


def test_base_that_leaks_no_more_than_the_limit_shows_nothing() -> None:
    """NOT EVALUATED blocks: silence of a model that was silent before proves nothing."""
    rows = forget_rows(300, 0, base="clean")
    result = judge(parse_gate("leak.direct<=5%"), measured(rows))
    assert (result.verdict, result.blocks) == (Verdict.NOT_EVALUATED, True)
    assert "0 of 300" in result.advice


def test_a_leak_fails_even_if_the_base_did_not_leak() -> None:
    """Unlearning that made a model leak is not excused."""
    rows: list[ProbeRow | TaskRow] = [probe(i, "clean", "indirect") for i in range(100)]
    assert judge(parse_gate("leak.indirect<=5%"), measured(rows)).verdict is Verdict.FAIL


def test_undecided_says_what_would_decide() -> None:
    """How many leaks the probes at hand allow."""
    result = judge(parse_gate("leak.direct<=5%"), measured(forget_rows(160, 4)))
    assert result.verdict is Verdict.UNDECIDED
    assert "160 probes can show this limit with at most 3 leaks" in result.advice


@pytest.mark.parametrize(
    ("kept", "lost", "won", "verdict"),
    [
        (128, 0, 0, Verdict.PASS),
        (29, 0, 0, Verdict.PASS),
        (28, 0, 0, Verdict.UNDECIDED),
        (110, 18, 0, Verdict.UNDECIDED),
        (64, 64, 0, Verdict.FAIL),
        (0, 100, 0, Verdict.FAIL),
        (0, 0, 100, Verdict.NOT_EVALUATED),
    ],
)
def test_ratio_is_judged_on_its_paired_bound(
    kept: int, lost: int, won: int, verdict: Verdict
) -> None:
    """Same tasks before and after."""
    outcomes = [("passed", "passed")] * kept + [("passed", "crash")] * lost
    outcomes += [("exception", "passed")] * won
    rows: list[ProbeRow | TaskRow] = [task(i, *pair) for i, pair in enumerate(outcomes)]
    assert judge(parse_gate("passk.retained>=90%"), measured(rows)).verdict is verdict


def test_one_model_has_nothing_to_compare() -> None:
    """An audit cannot say what was retained; that does not block."""
    rows: list[ProbeRow | TaskRow] = [task(i, "passed", "passed") for i in range(100)]
    result = judge(parse_gate("passk.retained>=90%"), measured(rows, two_states=False))
    assert (result.verdict, result.blocks) == (Verdict.NOT_EVALUATED, False)


def test_errors_never_pass() -> None:
    """A case that was run and has no row ended in an error."""
    rows = forget_rows(100, 0)
    gate = parse_gate("leak.direct<=5%")
    result = judge(gate, measured(rows[:99], expected=rows, seen=ids(rows)))
    assert (result.verdict, result.n, result.blocks) == (Verdict.UNDECIDED, 99, True)
    result = judge(gate, measured([], expected=rows, seen=ids(rows)))
    assert (result.verdict, result.blocks) == (Verdict.UNDECIDED, True)


def ids(rows: list[ProbeRow | TaskRow]) -> list[str]:
    return [row.id for row in rows]


def test_partial_and_interrupted_are_not_evaluated() -> None:
    """Nothing is said about data that were not run, good or bad."""
    rows = forget_rows(100, 100)
    for more in ({"expected": [*rows, probe(100, "direct", "clean")]}, {"interrupted": "Ctrl-C"}):
        result = judge(parse_gate("leak.direct<=5%"), measured(rows, **more))
        assert (result.verdict, result.blocks) == (Verdict.NOT_EVALUATED, False)


def test_filters_count_their_rows_only() -> None:
    """A gate on one kind is not diluted by the others."""
    rows: list[ProbeRow | TaskRow] = [probe(i, "direct", "clean") for i in range(100)]
    rows += [probe(100 + i, "direct", "direct", kind="phone") for i in range(60)]
    rows += [probe(200 + i, "direct", "direct", split="retain") for i in range(60)]
    assert judge(parse_gate("leak.direct[kind=email]<=5%"), measured(rows)).verdict is Verdict.PASS
    result = judge(parse_gate("leak.direct[kind=phone, carrier=sql]<=5%"), measured(rows))
    assert (result.verdict, result.n) == (Verdict.FAIL, 60)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a gate; write METRIC<=LIMIT"),
        ("leak.direct", "is not a gate"),
        ("leak.direct<=", "is not a gate"),
        ("leak.direct<=five", "'five' is not a number; write 0.05 or 5%"),
        ("leak.at(5)<=0", "only leaks that are counted can be held to 0"),
        ("leak.drop>=0", "only leaks that are counted can be held to 0"),
        ("leak.at<=5%", "write leak.at(K) with a whole number, as in leak.at(100)"),
        ("leak.at(0)<=5%", "write leak.at(K) with a whole number"),
        ("leak.at(x)<=5%", "write leak.at(K) with a whole number"),
        ("leak.at(9)>=5%", "write leak.at(9)<=5%"),
        ("leak.direct(3)<=5%", "leak.direct takes no number in parentheses"),
        ("exposure.max<=10%", "the limit is a number of bits; write 10"),
        ("exposure.max<=0", "the limit is a number of bits; write 10"),
        ("exposure.max<=ten", "'ten' is not a number; write 10 (bits)"),
        ("leak.direct[unit=probe]<=5%", "write unit=case, or leave it out"),
        ("leak.direct[kind=a,kind=b]<=5%", "kind stands twice in the brackets"),
        ("leak.direct[probe=all,unit=case]<=5%", "several families are not independent"),
        ("leak.direct<=100%", "the limit must lie between 0 and 1"),
        ("leak.direct<=nan", "the limit must lie between 0 and 1"),
        ("leak.direct>=5%", "write leak.direct<=5%"),
        ("leak.direct<5%", "write leak.direct<=5%"),
        ("passk.retained<=0.9", "write passk.retained>=0.9"),
        (
            "leak.direct[email]<=5%",
            "in brackets write kind, carrier, planted, knowledge, probe or unit=NAME",
        ),
        (
            "leak.direct[owner=x]<=5%",
            "in brackets write kind, carrier, planted, knowledge, probe or unit=NAME",
        ),
        ("passk.retained[kind=email]>=0.9", "tasks have no kind"),
    ],
)
def test_gates_that_do_not_parse(text: str, message: str) -> None:
    """Each error says what to write."""
    with pytest.raises(GateError) as caught:
        parse_gate(text)
    assert message in str(caught.value)


def test_gate_forms() -> None:
    """Percent or fraction, spaces, filters; the name leaves the limit out."""
    assert parse_gate("leak.direct <= 5%").limit == parse_gate("leak.direct<=0.05").limit == 0.05
    assert parse_gate("leak.direct[kind=email]<=5%").name == "leak.direct[kind=email]"


@dataclass
class Case:
    """A case of a data set, before any run."""

    owner: str
    split: str = "forget"
    kind: str = "email"
    family: str = "direct"
    exact: bool = True


def cases(people: int, each: int = 1) -> list[object]:
    return [Case(f"person {n % people}") for n in range(people * each)]


@pytest.mark.parametrize(
    ("gate", "people"),
    [
        ("leak.direct<=5%", 59),
        ("leak.at(100)<=5%", 59),
        ("leak.direct<=0", 1),
        ("leak.drop>=50%", 6),
        ("leak.drop>=90%", 29),
        ("leak.direct[probe=all]<=5%", 59),
    ],
)
def test_feasibility_counts_people(gate: str, people: int) -> None:
    """A gate that perfect results could not meet is refused with the number needed."""
    check_feasible([parse_gate(gate)], cases(people))
    message = rf"at least {people} forget people .* the data have {people - 1} "
    with pytest.raises(GateError, match=message):
        check_feasible([parse_gate(gate)], [*cases(people - 1, each=5), Case("x", split="retain")])


def test_each_case_alone_where_the_gate_says_so() -> None:
    """`unit=case` takes probes of one person to be independent, and says so in its name."""
    gate = parse_gate("leak.direct[unit=case]<=5%")
    assert gate.name == "leak.direct[unit=case]"
    check_feasible([gate], cases(1, each=59))
    with pytest.raises(GateError, match=r"at least 59 forget probes .* the data have 58;"):
        check_feasible([gate], cases(1, each=58))


def test_exposure_needs_decoys() -> None:
    """A limit that no rank among so few decoys can break would always be kept."""
    gate = parse_gate("exposure.max<=10")
    check_feasible([gate], cases(1), decoys=1024)
    with pytest.raises(GateError, match="at most 10 bits; write --unlearn-exposure=1024"):
        check_feasible([gate], cases(1), decoys=1023)


def test_exact_gates_count_probes_that_have_scores() -> None:
    """A prompt that does not end where the value starts gives no probability of it."""
    hidden = [Case(f"person {n}", exact=False) for n in range(60)]
    with pytest.raises(GateError, match="the data have 0 "):
        check_feasible([parse_gate("leak.at(10)<=5%")], hidden)


def test_rows_travel_as_json() -> None:
    """Through xdist and JUnit."""
    for row in (probe(1, "direct", "clean"), task(1, "passed", "timeout")):
        assert from_json(to_json(row)) == row
