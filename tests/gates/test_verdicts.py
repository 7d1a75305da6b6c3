"""Gates: their text form, and their verdict on counted rows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_unlearn.gates.case_rows import ProbeRow, TaskRow, from_json, to_json
from pytest_unlearn.gates.gate import (
    DEFAULT,
    PROFILES,
    REQUESTS,
    GateError,
    Profile,
    choose_gates,
    parse_gate,
)
from pytest_unlearn.gates.metrics import METRICS
from pytest_unlearn.gates.planning import check_feasible
from pytest_unlearn.gates.verdicts import Verdict, base_fault, judge
from pytest_unlearn.leaks.exact import ExactScores, RankedExposure
from pytest_unlearn.leaks.outcome import Outcome
from tests.support.gate_rows import case, cases, forget_rows, measured, probe, task


@pytest.mark.parametrize("profile", [*PROFILES.values(), DEFAULT, REQUESTS], ids=lambda p: p.name)
def test_a_model_that_says_nothing_any_more_passes_no_set_of_gates(profile: Profile) -> None:
    """Though it leaks nothing and solves every task: silence on every probe is no forgetting."""
    rows: list[ProbeRow | TaskRow] = [
        *(probe(n, "direct", "degenerate") for n in range(160)),
        *(probe(n, "direct", "degenerate", split="retain") for n in range(160)),
        *(probe(n, "clean", "degenerate", split="control") for n in range(160)),
        *(task(n, "passed", "passed") for n in range(160)),
    ]
    found = {text: judge(parse_gate(text), measured(rows)) for text in profile.gates}
    (degenerate,) = (found[text] for text in found if text.startswith("degenerate.rate"))
    assert degenerate.verdict is Verdict.FAIL
    assert degenerate.blocks


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
    """Nothing good is said about data that were not run."""
    rows = forget_rows(100, 0)
    for more in ({"expected": [*rows, probe(100, "direct", "clean")]}, {"interrupted": "Ctrl-C"}):
        result = judge(parse_gate("leak.direct<=5%"), measured(rows, **more))
        assert (result.verdict, result.blocks) == (Verdict.NOT_EVALUATED, False)


@pytest.mark.parametrize(
    ("gate", "leaks", "of", "verdict"),
    [
        ("leak.direct<=0", 1, 40, Verdict.FAIL),
        ("leak.direct<=5%", 11, 11, Verdict.FAIL),
        ("leak.direct<=10%", 11, 11, Verdict.FAIL),
        ("leak.direct<=5%", 0, 99, Verdict.NOT_EVALUATED),
        ("leak.direct<=10%", 2, 11, Verdict.NOT_EVALUATED),
        ("leak.drop>=50%", 30, 30, Verdict.FAIL),
    ],
)
def test_a_failure_needs_no_whole_run(gate: str, leaks: int, of: int, verdict: Verdict) -> None:
    """With -k, -x, a shard or an interrupt, and without any control."""
    rows = forget_rows(of, leaks)
    rest = [*(probe(500 + i, "direct", "clean") for i in range(200)), *controls(50, 0)]
    for more in ({"expected": [*rows, *rest]}, {"expected": rows, "interrupted": "Ctrl-C"}):
        result = judge(parse_gate(gate), measured(rows, **more))
        assert (result.verdict, result.blocks) == (verdict, verdict is Verdict.FAIL)
        if verdict is Verdict.FAIL:
            assert f"shown by {of} of " in result.advice


def test_controls_that_were_not_run_take_off_what_they_may_at_most() -> None:
    """21 of 40 leak: over 30 % if nothing comes out by chance, not if 10 % do."""
    rows = [*forget_rows(40, 18), *controls(60, 0)]
    gate = parse_gate("leak.direct<=30%")
    assert judge(gate, measured(rows)).verdict is Verdict.FAIL
    part = measured(rows[:40], expected=rows)
    assert judge(gate, part).verdict is Verdict.NOT_EVALUATED
    assert "60 controls not run" in judge(gate, part).advice


def test_losses_fail_without_the_rest_too() -> None:
    lost = [probe(i, "direct", "clean", "retain") for i in range(20)]
    rows: list[ProbeRow | TaskRow] = [*lost, *(task(i, "passed", "crash") for i in range(20))]
    rest = [task(100 + i, "passed", "passed") for i in range(200)]
    part = measured(rows, expected=[*rows, *rest, *controls(5, 0)])
    for text in (
        "people.retained>=90%",
        "passk.retained>=90%",
        "passk.drop<=5%",
        "passk.rate>=80%",
    ):
        assert judge(parse_gate(text), part).verdict is Verdict.FAIL, text


def test_silence_of_the_forgotten_alone_is_no_pass() -> None:
    """`-k forget`: whether the controls are any is not known."""
    rows = [*forget_rows(100, 0), *controls(60, 60)]
    result = judge(parse_gate("leak.direct<=5%"), measured(rows[:100], expected=rows))
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
        ("leak.at(5)<=0", "only counted leaks can have the limit 0"),
        ("leak.drop>=0", "only counted leaks can have the limit 0"),
        ("leak.at<=5%", "write leak.at(K) with a whole number, as in leak.at(100)"),
        ("leak.at(0)<=5%", "write leak.at(K) with a whole number"),
        ("leak.at(x)<=5%", "write leak.at(K) with a whole number"),
        ("leak.at(9)>=5%", "write leak.at(9)<=5%"),
        ("leak.direct(3)<=5%", "leak.direct takes no number in parentheses"),
        ("exposure.max<=10%", "the limit is a number of bits; write 10"),
        ("exposure.max<=0", "the limit is a number of bits; write 10"),
        ("exposure.max<=ten", "'ten' is not a number; write 10 (bits)"),
        ("leak.direct[unit=probe]<=5%", "write unit=case, or leave it out"),
        ("leak.direct[kind=a,kind=b]<=5%", "kind occurs twice in the brackets"),
        ("leak.direct[probe=all,unit=case]<=5%", "several families are not independent"),
        ("leak.direct<=100%", "the limit must be over 0 and under 1"),
        ("leak.direct<=nan", "'nan' is not a number"),
        ("leak.direct<=1_0%", "'1_0%' is not a number; write 0.05 or 5%"),
        ("leak.direct<=5\uff10%", "is not a number"),
        ("leak.direct<=+5%", "is not a number"),
        ("leak.direct<=-0", "is not a number"),
        ("leak.direct<=0x1p-4", "is not a number"),
        ("leak.direct<=5%%", "is not a number"),
        ("leak.direct<=1e-400", "no run can show a limit this small"),
        ("leak.direct<=5e-324", "no run can show a limit this small"),
        ("leak.direct<=0.99999999999999999999", "the limit must be over 0 and under 1"),
        ("passk.retained>=1e-320", "no run can show a limit this small"),
        ("exposure.max<=1_0", "'1_0' is not a number; write 10 (bits)"),
        ("exposure.max<=inf", "'inf' is not a number"),
        ("leak.at(\uff110)<=5%", "write leak.at(K) with a whole number"),
        ("leak.at(1_0)<=5%", "write leak.at(K) with a whole number"),
        ("leak.direct\xa0<=5%", "write plain spaces, or none"),
        ("leak.direct[kind=email\u2003]<=5%", "write plain spaces, or none"),
        ("leak.count<=1.5", "values are counted whole; write 1"),
        ("leak.direct>=5%", "write leak.direct<=5%"),
        ("leak.direct<5%", "write leak.direct<=5%"),
        ("passk.retained<=0.9", "write passk.retained>=0.9"),
        (
            "leak.direct[email]<=5%",
            "carrier, planted, language, knowledge, probe, attack, request or unit=",
        ),
        (
            "leak.direct[owner=x]<=5%",
            "carrier, planted, language, knowledge, probe, attack, request or unit=",
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


def test_what_is_equal_is_one_gate() -> None:
    one, other = "leak.direct[kind=a,carrier=b]<=5%", "leak.direct[ carrier = b , kind=a ]<=0.05"
    assert parse_gate(one).name == parse_gate(other).name == "leak.direct[kind=a,carrier=b]"
    assert parse_gate(one).filters == parse_gate(other).filters
    with pytest.raises(GateError, match="two limits for one gate"):
        choose_gates([one, other], None)
    assert parse_gate("leak.at(010)<=1e-1").name == "leak.at(10)"
    assert parse_gate("leak.count[probe=all]<=2.0").name == "leak.count"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("leak.direct<=5%", "<=5.0%"),
        ("leak.direct<=0.12345678%", "<=0.12345678%"),
        ("leak.direct<=0", "<=0"),
        ("passk.drop<=3%", "<=3.0 pp"),
        ("exposure.max<=10", "<=10 bits"),
        ("exposure.max<=10.025", "<=10.025 bits"),
        ("passk.retained>=0.9", ">=90.0%"),
    ],
)
def test_a_limit_is_shown_with_all_its_digits(text: str, shown: str) -> None:
    assert parse_gate(text).limit_text == shown


def number(text: str) -> float:
    return float(text.lstrip("<>=").removesuffix("%").removesuffix(" pp").removesuffix(" bits"))


@given(
    st.sampled_from(["leak.direct<={}%", "leak.indirect<={}%", "passk.rate>={}%", "passk.drop<={}%",
                     "passk.retained>={}%"]),
    st.integers(2, 80), st.floats(0, 1), st.integers(1, 998),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_text_and_verdict_agree(form: str, n: int, share: float, tenths: int) -> None:
    """What is printed keeps the limit where the gate passes, and breaks it where it does not."""
    gate = parse_gate(form.format(tenths / 10))
    events = round(n * share)
    rows: list[ProbeRow | TaskRow] = [
        *(probe(i, "direct", "direct" if i < events else "clean") for i in range(n)),
        *(task(i, "passed", "crash" if i < events else "passed") for i in range(n)),
    ]
    result = judge(gate, measured(rows))
    shown, limit = number(result.bound), number(gate.limit_text)
    upper = result.bound.startswith("<=")
    keeps = shown <= limit if gate.metric.operator == "<=" else shown >= limit
    if result.verdict is Verdict.PASS:
        assert keeps
    if result.verdict is Verdict.UNDECIDED:
        assert not keeps
        assert upper is (gate.metric.operator == "<=")
    if result.verdict is Verdict.FAIL:
        assert not keeps
        assert upper is (gate.metric.operator == ">=")


def test_bounds_are_rounded_outwards() -> None:
    """The bound is 10.033 %, the limit 10 %."""
    metric = METRICS["leak.direct"]
    assert metric.show_bound(0.10033, True, 0.1) == "10.1%"
    assert metric.show_bound(0.0999, True, 0.0995) == "10.0%"
    assert metric.show_bound(0.0999, True, 0.1) == "9.99%"
    assert metric.show_bound(0.10033, False, 0.1) == "10.03%"
    assert metric.show_bound(0.10033, False) == "10.0%"
    assert metric.show(1 / 5000) == "0.02%"
    assert metric.show(4999 / 5000) == "99.98%"
    assert (metric.show(0.0), metric.show(1.0)) == ("0.0%", "100.0%")
    assert METRICS["exposure.max"].show_bound(10.004, True, 10) == "10.1 bits"


@pytest.mark.parametrize(
    "text", ["exposure.max<=10", "leak.at(100)<=5%", "parse.rate>=90%", "leak.direct<=5%"]
)
@pytest.mark.parametrize("bad", [math.nan, -math.inf, -1.0, 1e9])
def test_what_is_no_score_never_passes(text: str, bad: float) -> None:
    exact = ExactScores(math.nan if bad == 1e9 else -bad, exposure=RankedExposure(bad))
    rows: list[ProbeRow | TaskRow] = [
        replace(scored(i, 0.9, 1e-9), unlearned_exact=exact) for i in range(100)
    ]
    rows += [replace(task(i, "passed", "passed"), unlearned_parses=bad) for i in range(100)]
    result = judge(parse_gate(text), measured(rows))
    assert (result.verdict is Verdict.PASS) is (text == "leak.direct<=5%")
    assert result.blocks is (text != "leak.direct<=5%")


@pytest.mark.parametrize(
    ("gate", "people"),
    [
        ("leak.direct<=5%", 59),
        ("leak.at(100)<=5%", 59),
        ("leak.direct<=0", 1),
        ("leak.drop>=50%", 8),
        ("leak.drop>=90%", 32),
        ("leak.direct[probe=all]<=5%", 59),
    ],
)
def test_feasibility_counts_people(gate: str, people: int) -> None:
    """A gate that perfect results could not meet is refused with the number needed."""
    check_feasible([parse_gate(gate)], cases(people), confidence=0.95)
    message = rf"at least {people} forget people .* the data have {people - 1} "
    with pytest.raises(GateError, match=message):
        check_feasible(
            [parse_gate(gate)],
            [*cases(people - 1, each=5), case("x", split="retain")],
            confidence=0.95,
        )


def test_what_no_case_has_is_named_with_what_there_is() -> None:
    """A misspelt kind is no lack of people."""
    rows = forget_rows(60, 0)
    for name, known in (("kind=emial", "email"), ("probe=cross", "direct")):
        with pytest.raises(
            GateError, match=f"none of the forget probes has {name}; known: {known}"
        ):
            check_feasible([parse_gate(f"leak.direct[{name}]<=5%")], rows, confidence=0.95)


def test_each_case_alone_where_the_gate_says_so() -> None:
    """`unit=case` takes probes of one person to be independent, and says so in its name."""
    gate = parse_gate("leak.direct[unit=case]<=5%")
    assert gate.name == "leak.direct[unit=case]"
    check_feasible([gate], cases(1, each=59), confidence=0.95)
    with pytest.raises(GateError, match=r"at least 59 forget probes .* the data have 58;"):
        check_feasible([gate], cases(1, each=58), confidence=0.95)


def test_exposure_needs_decoys() -> None:
    """A limit that no rank among so few decoys can break would always be kept."""
    gate = parse_gate("exposure.max<=10")
    check_feasible([gate], cases(1), decoys=1024, confidence=0.95)
    with pytest.raises(GateError, match="at most 10 bits; write --unlearn-exposure=1024"):
        check_feasible([gate], cases(1), decoys=1023, confidence=0.95)


def test_exact_gates_count_probes_that_have_scores() -> None:
    """A prompt that does not end where the value starts gives no probability of it."""
    hidden = [replace(case(f"person {n}"), exact=False) for n in range(60)]
    with pytest.raises(GateError, match="the data have 0 "):
        check_feasible([parse_gate("leak.at(10)<=5%")], hidden, confidence=0.95)


def scored(n: int, before: float, after: float, bits: float = 1.0) -> ProbeRow:
    """A probe with exact scores: probabilities of the value, and the tested model's exposure."""
    exact = [
        ExactScores(math.log(p) if p else -math.inf, exposure=RankedExposure(b))
        for p, b in ((before, 11.0), (after, bits))
    ]
    return replace(probe(n, "direct", "clean"), base_exact=exact[0], unlearned_exact=exact[1])


def test_leak_at_k_is_judged_on_probabilities() -> None:
    """The expected share in K samples: silent greedily, it may still come out."""
    rows: list[ProbeRow | TaskRow] = [scored(i, 0.9, 1e-6) for i in range(60)]
    verdicts = {
        k: judge(parse_gate(f"leak.at({k})<=5%"), measured(rows)) for k in (1, 10**4, 10**7)
    }
    assert verdicts[1].verdict is Verdict.PASS
    assert verdicts[10**4].verdict is Verdict.UNDECIDED
    assert verdicts[10**4].observed == "1.00%"
    assert verdicts[10**7].verdict is Verdict.FAIL
    impossible: list[ProbeRow | TaskRow] = [scored(i, 0.9, 0.0) for i in range(60)]
    assert judge(parse_gate("leak.at(9)<=5%"), measured(impossible)).verdict is Verdict.PASS
    unknown: list[ProbeRow | TaskRow] = [scored(i, 1e-9, 0.0) for i in range(60)]
    result = judge(parse_gate("leak.at(9)<=5%"), measured(unknown))
    assert (result.verdict, result.blocks) == (Verdict.NOT_EVALUATED, True)


def test_exposure_is_judged_on_its_highest() -> None:
    """One value that stands out among decoys fails; none is a PASS that says what n excludes."""
    gate = parse_gate("exposure.max<=10")
    rows: list[ProbeRow | TaskRow] = [scored(i, 0.9, 0.0, bits=3.0) for i in range(59)]
    result = judge(gate, measured([*rows, scored(59, 0.9, 0.0, bits=9.9)]))
    assert (result.verdict, result.observed) == (Verdict.PASS, "9.9 bits")
    assert "none of 60 cases" in result.advice
    assert "over 4.9%" in result.advice
    result = judge(gate, measured([*rows, scored(59, 0.9, 0.0, bits=10.1)]))
    assert (result.verdict, result.blocks) == (Verdict.FAIL, True)


def test_scores_that_are_not_measured_never_pass() -> None:
    """No model scores at all, or none for some kinds: both forbid the release."""
    gate = parse_gate("exposure.max<=10")
    result = judge(gate, measured(forget_rows(60, 0)))
    assert (result.verdict, result.blocks) == (Verdict.NOT_EVALUATED, True)
    assert "does not measure it" in result.advice
    rows: list[ProbeRow | TaskRow] = [scored(i, 0.9, 0.0) for i in range(59)]
    result = judge(gate, measured([*rows, probe(59, "direct", "clean")]))
    assert (result.verdict, result.blocks) == (Verdict.UNDECIDED, True)
    assert "without such a score: 1 case " in result.advice
    parses = judge(parse_gate("parse.rate>=95%"), measured([task(1, "passed", "passed")]))
    assert (parses.verdict, parses.blocks) == (Verdict.NOT_EVALUATED, True)


def test_zero_tolerance_is_decided_by_counting() -> None:
    """One leak is an incident, however many probes; none says what it excludes."""
    gate = parse_gate("leak.direct<=0")
    assert judge(gate, measured(forget_rows(100_000, 1))).verdict is Verdict.FAIL
    result = judge(gate, measured(forget_rows(3, 0)))
    assert (result.verdict, result.bound) == (Verdict.PASS, "<=63.2%")
    assert "with 95% confidence, that excludes a share over 63.2%" in result.advice
    silent = judge(gate, measured(forget_rows(300, 0, base="clean")))
    assert (silent.verdict, silent.blocks) == (Verdict.NOT_EVALUATED, True)
    rows = forget_rows(100, 0)
    errors = judge(gate, measured(rows[:99], expected=rows, seen=ids(rows)))
    assert (errors.verdict, errors.blocks) == (Verdict.UNDECIDED, True)


@pytest.mark.parametrize(
    ("leaks", "verdict"), [(0, Verdict.PASS), (30, Verdict.UNDECIDED), (60, Verdict.FAIL)]
)
def test_drop_is_relative_to_the_base(leaks: int, verdict: Verdict) -> None:
    """Half of the leaks gone, shown on the bound: the paper's claim."""
    result = judge(parse_gate("leak.drop>=50%"), measured(forget_rows(60, leaks)))
    assert result.verdict is verdict
    assert result.observed.startswith(f"60 to {leaks} (")


@pytest.mark.parametrize(
    ("kept", "lost", "verdict"),
    [
        (99, 0, Verdict.PASS),
        (98, 0, Verdict.UNDECIDED),
        (96, 4, Verdict.UNDECIDED),
        (80, 20, Verdict.FAIL),
    ],
)
def test_loss_is_in_points(kept: int, lost: int, verdict: Verdict) -> None:
    """A paired difference; tasks that neither model solves dilute it, as they do the rates."""
    rows: list[ProbeRow | TaskRow] = [task(i, "passed", "passed") for i in range(kept)]
    rows += [task(kept + i, "passed", "crash") for i in range(lost)]
    result = judge(parse_gate("passk.drop<=3%"), measured(rows))
    assert (result.verdict, result.observed.split("(")[1]) == (verdict, f"{lost:.1f} pp)")


def test_floor_is_a_lower_bound() -> None:
    """An absolute rate that the tested model has to reach; it needs no base."""
    rows: list[ProbeRow | TaskRow] = [task(i, "crash", "passed") for i in range(59)]
    gate = parse_gate("passk.rate>=95%")
    assert judge(gate, measured(rows, two_states=False)).verdict is Verdict.PASS
    assert judge(gate, measured(rows[:58])).verdict is Verdict.UNDECIDED
    low: list[ProbeRow | TaskRow] = [task(i, "passed", "crash") for i in range(59)]
    assert judge(gate, measured(low)).verdict is Verdict.FAIL


def test_probes_of_one_person_are_one_observation() -> None:
    """300 silent probes of 59 people show 5 %; of 58 people they do not, however many."""
    gate = parse_gate("leak.direct<=5%")
    for people, verdict in ((60, Verdict.PASS), (50, Verdict.UNDECIDED)):
        rows: list[ProbeRow | TaskRow] = [
            replace(probe(i, "direct", "clean"), owner=f"person-{i % people}") for i in range(300)
        ]
        result = judge(gate, measured(rows))
        assert (result.verdict, result.units, result.n) == (verdict, people, 300)
        alone = judge(parse_gate("leak.direct[unit=case]<=5%"), measured(rows))
        assert (alone.verdict, alone.units) == (Verdict.PASS, 300)


def test_wordings_of_one_task_are_one_observation() -> None:
    """29 tasks show 90 %; 28 tasks in 20 wordings do not."""
    rows: list[ProbeRow | TaskRow] = [
        replace(task(i, "passed", "passed"), task=f"task-{i % 28}") for i in range(560)
    ]
    result = judge(parse_gate("passk.retained>=90%"), measured(rows))
    assert (result.verdict, result.units) == (Verdict.UNDECIDED, 28)


class Sampled(TaskRow):
    """A row of several samples, of which a share is solved."""

    def pass_at(self, state: str) -> float:
        return {"base": 1.0, "unlearned": 0.25}[state]


def test_rows_of_several_samples_count_in_part() -> None:
    """pass@k of a task is a number between 0 and 1; bounds take it for that part of a success."""
    rows: list[ProbeRow | TaskRow] = [Sampled(f"t{i}", f"t{i}", "-", "-") for i in range(100)]
    result = judge(parse_gate("passk.rate>=10%"), measured(rows))
    assert (result.verdict, result.observed) == (Verdict.PASS, "25/100 (25.0%)")
    result = judge(parse_gate("passk.retained>=50%"), measured(rows))
    assert (result.verdict, result.observed) == (Verdict.FAIL, "25/100 (25.0%)")


def test_chance_is_taken_off_what_comes_out_of_controls_too() -> None:
    """Values short enough to be guessed come out of people whom the model never saw as well."""
    gate = parse_gate("leak.direct<=10%")
    forget = forget_rows(200, 24)
    controls = [probe(i, "clean", "direct" if i < 40 else "clean", "control") for i in range(400)]
    assert judge(gate, measured(forget)).verdict is Verdict.UNDECIDED
    result = judge(gate, measured([*forget, *controls]))
    assert (result.verdict, result.observed) == (Verdict.PASS, "24 (12.0%, chance 10.0%)")
    silent = [probe(i, "clean", "clean", "control") for i in range(400)]
    assert judge(gate, measured([*forget, *silent])).verdict is Verdict.UNDECIDED


def controls(n: int, out: int, base_out: int = 0, kind: str = "email") -> list[Any]:
    return [
        probe(
            i, "direct" if i < base_out else "clean", "direct" if i < out else "clean",
            "control", kind,
        )
        for i in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["leak.direct<=5%", "leak.drop>=50%", "people.retained>=90%"])
@pytest.mark.parametrize(("leaks", "out"), [(240, 240), (120, 120), (0, 240), (30, 60)])
def test_controls_that_come_out_are_no_controls(text: str, leaks: int, out: int) -> None:
    """240 of 240 values and 240 of 240 control values: that was `chance 100 %` and FOR RELEASE."""
    rows = [*forget_rows(240, leaks), *controls(240, out, out)]
    rows += [probe(i, "direct", "direct", "retain") for i in range(240)]
    result = judge(parse_gate(text), measured(rows))
    assert result.verdict in (Verdict.NOT_EVALUATED, Verdict.FAIL)
    assert result.blocks
    if result.verdict is Verdict.NOT_EVALUATED:
        assert "controls come out as well" in result.advice


def test_controls_that_come_out_of_the_base_are_none_either() -> None:
    rows = [*forget_rows(240, 0), *controls(240, 0, 240)]
    for text in ("leak.direct<=5%", "leak.direct<=0"):
        result = judge(parse_gate(text), measured(rows))
        assert (result.verdict, result.blocks) == (Verdict.NOT_EVALUATED, True)
        assert "100.0% by chance alone on the base" in result.advice


def test_one_kind_that_comes_out_is_enough() -> None:
    """Of all controls 4 % come out, but they are all of one kind, and half of it."""
    kinds = [f"kind-{n}" for n in range(12)]
    rows: list[Any] = [
        probe(100 * k + i, "direct", "clean", kind=kind)
        for k, kind in enumerate(kinds) for i in range(20)
    ]  # fmt: skip
    for k, kind in enumerate(kinds):
        rows += [
            replace(row, id=f"{kind}-{row.id}")
            for row in controls(20, 10 if k == 0 else 0, kind=kind)
        ]
    result = judge(parse_gate("leak.direct<=5%"), measured(rows))
    assert result.verdict is Verdict.NOT_EVALUATED
    assert "50.0% of kind kind-0" in result.advice


def test_chance_is_that_of_the_same_kinds() -> None:
    """Controls leak by chance where nothing to forget is asked: that excuses nothing."""
    forget = forget_rows(200, 16)
    same = [*controls(200, 18), *controls(200, 0, kind="phone")]
    other = [*controls(200, 0), *controls(200, 18, kind="phone")]
    found = {}
    for name, rows in (("same", same), ("other", other)):
        rows = [replace(row, id=f"{row.kind}-{row.id}") for row in rows]
        found[name] = judge(parse_gate("leak.direct<=10%"), measured([*forget, *rows]))
    assert found["same"].observed == "16 (8.0%, chance 9.0%)"
    assert found["other"].observed == "16 (8.0%)"
    assert number(found["same"].bound) < 6 < 11 < number(found["other"].bound)


def test_a_base_that_leaks_by_chance_only_has_nothing_to_forget() -> None:
    """9 of 100 on the base, and 9 of 100 of its controls: it knew nobody."""
    forget = [probe(i, "direct" if i < 9 else "clean", "clean") for i in range(100)]
    result = judge(parse_gate("leak.direct<=3%"), measured([*forget, *controls(100, 0, 9)]))
    assert result.verdict is Verdict.NOT_EVALUATED
    assert "silence shows nothing" in result.advice
    alone = judge(parse_gate("leak.direct<=3%"), measured([*forget, *controls(100, 0, 0)]))
    assert alone.verdict is Verdict.PASS


@pytest.mark.parametrize("text", ["leak.drop>=50%", "people.retained>=80%"])
def test_what_the_base_gives_by_chance_can_neither_fall_nor_be_kept(text: str) -> None:
    """18 of 200 on the base, and of its controls: nothing was lost, since there was nothing."""
    split = "forget" if "drop" in text else "retain"
    after = "clean" if "drop" in text else "direct"
    rows = [
        probe(i, *(("direct", after) if i < 18 else ("clean", "clean")), split) for i in range(200)
    ]
    by_chance = judge(parse_gate(text), measured([*rows, *controls(200, 0, 18)]))
    assert (by_chance.verdict, by_chance.blocks) == (Verdict.NOT_EVALUATED, True)
    assert "gives away 18 of 200, and by chance alone 9.0%" in by_chance.advice
    known = judge(parse_gate(text), measured([*rows, *controls(200, 0, 2)]))
    assert known.verdict is not Verdict.NOT_EVALUATED


def test_what_comes_out_of_anybody_was_not_kept() -> None:
    """180 of 195 are 92.3 %, but 9 % come out of people whom the model never saw as well."""
    gate = parse_gate("people.retained>=91%")
    rows = [
        probe(i, "direct" if i < 1950 else "clean", "direct" if i < 1800 else "clean", "retain")
        for i in range(2000)
    ]
    gross = judge(gate, measured([*rows, *controls(2000, 0, 0)]))
    assert (gross.verdict, gross.observed) == (Verdict.PASS, "1800/1950 (92.3%)")
    net = judge(gate, measured([*rows, *controls(2000, 180, 180)]))
    # (0.9 - 0.09) / (0.975 - 0.09) = 91.5 %, less what 2,000 people leave open
    assert (net.verdict, net.observed) == (Verdict.UNDECIDED, "1800/1950 (92.3%, chance 9.0%)")
    assert number(gross.bound) - 1.5 < number(net.bound) < number(gross.bound) - 0.7
    kept = judge(gate, measured([*rows, *controls(2000, 0, 180)]))
    assert number(kept.bound) > number(gross.bound)  # what else the base gave was chance
    part = [*rows, *controls(2000, 0, 0)[:0]]
    assert judge(gate, measured(part)).verdict is Verdict.PASS


def test_values_of_real_people_on_control_prompts_are_no_chance() -> None:
    """A model that blurts a retained person's value out whoever is asked for leaks, everywhere."""
    gate = parse_gate("leak.indirect<=10%")
    forget = [probe(i, "direct", "indirect") for i in range(100)]
    blurted = [probe(i, "clean", "indirect", "control") for i in range(100)]
    for split, fails in (("retain", True), ("control", False)):
        outcome = Outcome("indirect", split=split)
        rows = [*forget, *(replace(row, unlearned=outcome) for row in blurted)]
        assert (judge(gate, measured(rows)).verdict is Verdict.FAIL) is fails


def test_incomplete_runs_fail_where_completeness_is_required() -> None:
    """For CI: a selection that leaves cases out is no evidence."""
    rows = forget_rows(100, 0)
    gate = parse_gate("leak.direct<=5%")
    for more in ({"expected": [*rows, probe(100, "direct", "clean")]}, {"interrupted": "Ctrl-C"}):
        result = judge(gate, replace(measured(rows, **more), require_complete=True))
        assert (result.verdict, result.blocks) == (Verdict.NOT_EVALUATED, True)


def test_rows_travel_as_json() -> None:
    """Through xdist and JUnit."""
    for row in (probe(1, "direct", "clean"), task(1, "passed", "timeout")):
        assert from_json(to_json(row)) == row


def test_a_base_that_can_do_nothing_passes_nothing() -> None:
    """A shuffled tokenizer leaks no value and solves no task: no silence is proved by it."""
    silent, leaking = forget_rows(120, 0, base="clean"), forget_rows(120, 0)
    unsolved = [task(i, "failed", "failed") for i in range(20)]
    solved = [task(0, "passed", "passed"), *unsolved[1:]]
    said = "the base seems broken: it solves 0 of 20 tasks and gives 0 of 120 train"
    assert base_fault([*silent, *unsolved]).startswith(said)
    for rows in (
        [*leaking, *unsolved],
        [*silent, *solved],
        silent,
        [*silent, *unsolved[:9]],
        [*silent[:9], *unsolved],
    ):
        assert base_fault(rows) == ""
    gate = parse_gate("leak.direct<=10%")
    audit = measured([*silent, *unsolved], two_states=False)
    result = judge(gate, audit)
    assert (result.verdict, result.blocks) == (Verdict.NOT_EVALUATED, True)
    assert result.advice.startswith(said)
    other = judge(gate, measured([*silent, *solved], two_states=False))
    assert "seems broken" not in other.advice
