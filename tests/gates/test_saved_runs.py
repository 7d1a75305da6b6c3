"""Saved runs, and the change since then: read, refused, compared, judged."""

from __future__ import annotations

import hashlib
import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_unlearn.gates.case_rows import ProbeRow, TaskRow
from pytest_unlearn.gates.gate import GateError, parse_gate
from pytest_unlearn.gates.saved_runs import (
    BaselineError,
    check_same_data,
    compare,
    differences,
    judge_change,
    load,
    mcnemar,
    parse_change,
    save,
    subject,
)
from pytest_unlearn.gates.verdicts import Measured, Verdict, judge
from tests.support.gate_rows import PROVENANCE, forget_rows, measured, probe, run, task
from tests.support.lookup_run import UnlearnRun, forget_ids


def test_a_run_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    """For its owner alone, in a folder of its own; a second save replaces the first."""
    rows = [*forget_rows(3, 1), task(1, "passed", "timeout")]
    folder = tmp_path / ".unlearn"
    save(folder, run(forget_rows(9, 9)), [])
    path = save(folder, run(rows), [judge(parse_gate("leak.direct<=90%"), measured(rows))])
    assert load(folder, "main") == run(rows)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [p.name for p in folder.iterdir()] == ["main.json"]
    assert json.loads(path.read_text())["gates"][0]["gate"] == "leak.direct<=90%"


def test_files_that_are_no_saved_run_are_refused(tmp_path: Path) -> None:
    """Each error says what to do."""
    with pytest.raises(BaselineError, match=r"no such run .*there: none yet.*--unlearn-save=main"):
        load(tmp_path, "main")
    path = save(tmp_path, run(forget_rows(3, 1)), [])
    content = json.loads(path.read_text())
    for wrong, message in (
        ("{", "is not JSON"),
        ("[]", "does not have the schema 1"),
        (json.dumps({**content, "schema": 2}), "does not have the schema 1"),
        (json.dumps({**content, "rows": [{"row": "ProbeRow", "x": 1}]}), "is damaged"),
        (json.dumps({k: v for k, v in content.items() if k != "data"}), "is damaged"),
    ):
        path.write_text(wrong)
        with pytest.raises(BaselineError, match=message):
            load(tmp_path, "main")
    with pytest.raises(BaselineError, match="write letters, digits"):
        load(tmp_path, "../main")


def test_a_saved_run_that_was_changed_is_refused(tmp_path: Path) -> None:
    """A slip would hide what got worse: only cases of both runs are compared."""
    path = save(tmp_path, run(forget_rows(3, 1)), [])
    content = json.loads(path.read_text())
    for changed in (
        {**content, "rows": content["rows"][1:]},
        {**content, "rows": [*content["rows"][1:], content["rows"][1]]},
        {key: value for key, value in content.items() if key != "sha256"},
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(BaselineError, match=r"main\.json is not as --unlearn-save wrote it"):
            load(tmp_path, "main")


def test_other_data_are_refused_and_other_settings_named() -> None:
    """Cases of other data cannot be paired; other settings or versions are said."""
    saved = run([])
    check_same_data(saved, PROVENANCE)
    assert differences(saved, PROVENANCE) == []
    with pytest.raises(BaselineError, match="measured on other records; compare runs on the same"):
        check_same_data(saved, {**PROVENANCE, "data": {"records": "x", "tasks": "b"}})
    now = {**PROVENANCE, "settings": {"seed": "1", "new": "2"}, "versions": {"torch": "2.14"}}
    expected = ["seed 0 -> 1", "new unknown -> 2", "torch 2.13 -> 2.14"]
    assert differences(saved, now) == expected


def test_comparison_is_paired() -> None:
    """Of 100 probes 10 leak now and did not, 4 the other way; the interval is that of 14 moved."""
    then = [probe(i, "direct", "direct" if i < 4 else "clean") for i in range(100)]
    now = [probe(i, "direct", "direct" if 4 <= i < 14 else "clean") for i in range(100)]
    found = compare(subject("leak.direct"), then, now, confidence=0.95)
    assert found is not None
    assert (found.saved, found.now, found.n) == (0.04, 0.1, 100)
    assert (found.worse, found.better) == (10, 4)
    assert found.p_value == pytest.approx(0.1795654)  # binom.test(4, 14) of R
    assert found.interval is not None
    assert found.change == pytest.approx(0.06)
    assert found.interval[0] < 0 < 0.06 < found.interval[1] < 0.16
    assert (
        compare(subject("leak.direct"), then, [task(1, "passed", "passed")], confidence=0.95)
        is None
    )


def test_comparison_counts_people() -> None:
    """All five probes of one person change together: that is one change, not five."""
    then: list[ProbeRow | TaskRow] = [
        replace(probe(i, "direct", "clean"), owner=f"p{i // 5}") for i in range(50)
    ]
    now: list[ProbeRow | TaskRow] = [
        replace(probe(i, "direct", "direct" if i < 10 else "clean"), owner=f"p{i // 5}")
        for i in range(50)
    ]
    people = compare(subject("leak.direct"), then, now, confidence=0.95)
    alone = compare(subject("leak.direct[unit=case]"), then, now, confidence=0.95)
    assert people is not None
    assert alone is not None
    assert (people.worse, alone.worse) == (2, 10)
    assert people.interval is not None
    assert alone.interval is not None
    assert people.interval[1] > alone.interval[1]


def test_mcnemar_is_exact() -> None:
    """Twice the smaller binomial tail, at most 1."""
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(0, 5) == mcnemar(5, 0) == pytest.approx(2 / 32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("leak.direct", "write METRIC:.LIMIT or METRIC:-LIMIT"),
        ("leak.direct:1%", "write METRIC:.LIMIT"),
        (
            "leak.direct:-1%",
            r"a change in that direction is an improvement; write leak.direct:\+1%",
        ),
        ("leak.drop:+1%", r"if it rises, leaks fall; write leak.direct:\+1%"),
        (
            "passk.retained:+2%",
            "a change in that direction is an improvement; write passk.retained:-2%",
        ),
        ("leak.dirct:+1%", "unknown metric 'leak.dirct'"),
        ("leak.direct:+1.2.3", "'1.2.3' is not a number"),
        ("leak.direct:+5", "the limit is in points; write 1% or 0.01"),
        ("leak.at:+1%", r"write leak.at\(K\)"),
    ],
)
def test_changes_that_do_not_parse(text: str, message: str) -> None:
    with pytest.raises(GateError, match=message):
        parse_change(text)


@pytest.mark.parametrize(
    ("leaks", "verdict"), [(1, Verdict.PASS), (3, Verdict.PASS), (4, Verdict.FAIL)]
)
def test_the_point_is_judged_where_it_is_asked_for(leaks: int, verdict: Verdict) -> None:
    """From 2 to 3 leaks of 100 is one point."""
    saved, change = run(forget_rows(100, 2)), parse_change("leak.direct:+1%:point")
    result = judge_change(change, saved, measured(forget_rows(100, leaks)))
    assert (result.verdict, result.blocks) == (verdict, verdict is Verdict.FAIL)
    assert result.observed == f"{leaks - 2:+.1f} pp"


@pytest.mark.parametrize(
    ("n", "leaks", "verdict"),
    [
        (100, 2, Verdict.UNDECIDED),  # none got worse: up to 3.7 points are not excluded
        (100, 6, Verdict.UNDECIDED),
        (100, 12, Verdict.FAIL),
        (400, 2, Verdict.PASS),
    ],
)
def test_the_interval_of_a_change_is_judged(n: int, leaks: int, verdict: Verdict) -> None:
    saved, change = run(forget_rows(n, 2)), parse_change("leak.direct:+1%")
    result = judge_change(change, saved, measured(forget_rows(n, leaks)))
    assert (result.verdict, result.blocks) == (verdict, verdict is not Verdict.PASS)
    assert change.limit_text == "+1.0 pp"
    least, most = (float(end.removesuffix(" pp")) for end in result.bound.split(" to "))
    assert (most <= 1.0) is (verdict is Verdict.PASS)
    assert (least > 1.0) is (verdict is Verdict.FAIL)
    if verdict is Verdict.UNDECIDED:
        assert "leak.direct:+1%:point" in result.advice
        through = replace(measured(forget_rows(n, leaks)), undecided_blocks=False)
        assert not judge_change(change, saved, through).blocks


def test_a_change_for_the_worse_fails_without_the_rest() -> None:
    rows = forget_rows(100, 40)
    part = Measured(rows[:60], rows, [row.id for row in rows[:60]], True, confidence=0.95)
    for text, verdict in (("", Verdict.FAIL), (":point", Verdict.NOT_EVALUATED)):
        change = parse_change(f"leak.direct:+5%{text}")
        assert judge_change(change, run(forget_rows(100, 0)), part).verdict is verdict


def test_a_fall_of_ability_is_a_change_for_the_worse() -> None:
    """`passk.retained` compares the tested models' pass@1 itself."""
    then: list[ProbeRow | TaskRow] = [task(i, "passed", "passed") for i in range(100)]
    now: list[ProbeRow | TaskRow] = [
        task(i, "passed", "crash" if i < 3 else "passed") for i in range(100)
    ]
    for text, verdict in (
        ("passk.retained:-2%:point", Verdict.FAIL),
        ("passk.drop:-3%:point", Verdict.PASS),
        ("passk.drop:-3%", Verdict.UNDECIDED),
    ):
        result = judge_change(parse_change(text), run(then), measured(now))
        assert (result.verdict, result.observed) == (verdict, "-3.0 pp")


def test_incomplete_runs_are_no_change() -> None:
    """Cases without a result never pass."""
    rows, saved = forget_rows(100, 0), run(forget_rows(100, 0))
    change = parse_change("leak.direct:+1%")
    seen = [row.id for row in rows]
    partial = Measured(rows[:50], rows, seen[:50], True, confidence=0.95)
    result = judge_change(change, saved, partial)
    assert (result.verdict, result.blocks) == (Verdict.NOT_EVALUATED, False)
    result = judge_change(change, saved, replace(partial, require_complete=True))
    assert (result.verdict, result.blocks) == (Verdict.NOT_EVALUATED, True)
    erred = judge_change(change, saved, Measured(rows[:99], rows, seen, True, confidence=0.95))
    assert (erred.verdict, erred.blocks) == (Verdict.UNDECIDED, True)
    shorter = judge_change(change, run(rows[:99]), measured(rows))
    assert (shorter.verdict, shorter.blocks) == (Verdict.UNDECIDED, True)


def test_save_and_compare_in_whole_runs(unlearn_run: UnlearnRun) -> None:
    """Save, worsen, compare: the change is shown, judged, and carried by the exit code."""
    ids = [f"direct-{('email', 'badge')[n % 2]}-forget-{n:03d}" for n in range(3)]
    unlearn_run.lookup()
    partial = unlearn_run("--unlearn-save=main", "-k", "email")
    partial.stdout.fnmatch_lines(["not saved as main: * of 150 cases have no result"])
    unlearn_run("--unlearn-save=main").stdout.fnmatch_lines(["saved as .unlearn/main.json"])
    saved = (unlearn_run.pytester.path / ".unlearn" / "main.json").read_text()
    assert "forgetvalue" not in saved
    assert "forget user" not in saved
    assert str(unlearn_run.pytester.path) not in saved
    unlearn_run.lookup(leaking=ids)
    flags = ["--unlearn-compare=main", "--unlearn-seed=7", "--unlearn-gate=leak.direct<=60%"]
    within = unlearn_run(*flags, "--unlearn-compare-fail=leak.direct:+5%:point")
    assert within.ret == pytest.ExitCode.OK
    within.stdout.fnmatch_lines(
        [
            "leak.direct change*+5.0 pp*60*+5.0 pp*PASS",
            "since main * then * now * change * 95% interval * worse * better * p",
            "leak.direct * 0.0% * 5.0% * +5.0 pp * to * 60 * 2 * 0 * 0.5",
            "other differences from main (*): seed 0 -> 7",
            "FOR RELEASE: every gate passed*",
        ]
    )
    over = unlearn_run(*flags, "--unlearn-compare-fail=leak.direct:+4%:point")
    assert over.ret == pytest.ExitCode.TESTS_FAILED
    over.stdout.fnmatch_lines(["FAILED unlearn::gate?leak.direct change? - FAIL*"])


def test_a_fall_of_leaks_reads_as_one(unlearn_run: UnlearnRun) -> None:
    """Whatever the gate is called that is judged: a drop from the base rises where leaks fall."""
    unlearn_run.lookup(leaking=forget_ids(20))
    unlearn_run("--unlearn-save=first")
    unlearn_run.lookup(leaking=forget_ids(10))
    gates = ("leak.direct<=60%", "leak.drop>=50%", "passk.drop<=10%")
    result = unlearn_run("--unlearn-compare=first", *(f"--unlearn-gate={gate}" for gate in gates))
    result.stdout.fnmatch_lines(
        [
            "leak.direct * 33.3% * 16.7% * -16.7 pp *",
            "leaks behind leak.drop * 33.3% * 16.7% * -16.7 pp *",
            "solved behind passk.drop * 100.0% * 100.0% * +0.0 pp *",
        ]
    )


def test_comparisons_that_cannot_be_made_stop_the_run(unlearn_run: UnlearnRun) -> None:
    """Before a model is loaded."""
    unlearn_run.lookup()
    unlearn_run("--unlearn-save=main")
    path = unlearn_run.pytester.path / ".unlearn" / "main.json"
    content = json.loads(path.read_text())
    content["data"]["probes"] = "direct,cross"
    del content["sha256"]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**content, "sha256": digest}))
    for flags, message in (
        (["--unlearn-compare=other"], "*--unlearn-compare=other: no such run in *there: main*"),
        (["--unlearn-save=a/b"], "*--unlearn-save=a/b: write letters, digits*"),
        (["--unlearn-compare-fail=leak.direct:+1%"], "*name a saved run with --unlearn-compare*"),
        (["--unlearn-compare=main"], "*--unlearn-compare=main: it was measured on other probes*"),
    ):
        result = unlearn_run(*flags)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"ERROR: {message}"])
