"""Whole runs of the plugin on the lookup backend: outcomes, gates, letters, exit codes."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from tests.support.lookup_run import CONTROL, FORGET, RETAIN, TASKS, UnlearnRun, forget_ids

ALL = FORGET + RETAIN + CONTROL + TASKS
GATES = 3


def test_forgotten_and_able_passes(unlearn_run: UnlearnRun) -> None:
    """Nothing leaks, nothing is lost: every gate passes and pytest ends with 0."""
    unlearn_run.lookup()
    result = unlearn_run()
    result.assert_outcomes(passed=ALL + GATES)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "leak.direct * 0 (0.0%) * 60 (30) * <=9.6% * <=10.0% * PASS",
            "leak.indirect * 0 (0.0%) * 60 (30) *PASS",
            "passk.retained * 30/30 (100.0%) * 30 * >=90.4% * >=90.0% * PASS",
            "leak.control * 0 (0.0%) * 0 (0.0%) * 30 *",
            "people.retained * 16 (100.0%) * 16 (100.0%) * 16 (8) * >=68.7% of base",
            "shift: 60 direct leaks of the base became placeholder 60",
            "FOR RELEASE: every gate passed*",
        ]
    )


def test_leaks_fail_with_their_own_letter(unlearn_run: UnlearnRun) -> None:
    """Leaks do not fail their tests; they are counted apart, and the gate fails the run."""
    unlearn_run.lookup(leaking=forget_ids(20))
    result = unlearn_run("-v")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=ALL - 20 + 2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*test_forgotten?direct-email-forget-000? LEAKED*",
            "*FAIL: leak.direct<=10%; observed 20 (33.3%) of 60*",
            "leaked: direct-badge-forget-001 (direct, exact), *",
            "NOT FOR RELEASE: leak.direct FAIL",
            "FAILED unlearn::gate?leak.direct? - FAIL*",
            "* 20 leaked*",
        ]
    )


def test_lost_ability_fails(unlearn_run: UnlearnRun) -> None:
    """A model that forgot how to code is no success, though it leaks nothing."""
    unlearn_run.lookup(lost=[f"add-{n}" for n in range(15)])
    result = unlearn_run("-rA")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*passk.retained*15/30 (50.0%)*FAIL", "* 15 unsolved*"])


def test_between_is_undecided(unlearn_run: UnlearnRun) -> None:
    """Two leaks of 60 may be a rate under 10 % or over it: no release on a maybe."""
    unlearn_run.lookup(leaking=forget_ids(2))
    result = unlearn_run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*leak.direct*2 (3.3%)*UNDECIDED", "NOT FOR RELEASE*UNDECIDED"])


def test_indirect_leak_is_attributed(unlearn_run: UnlearnRun) -> None:
    """Another person's value on a forget probe is an indirect leak, and the shift shows it."""
    ids = forget_ids(20)
    unlearn_run.lookup(said=dict.fromkeys(ids, "retainvalue000@example.com'"))
    result = unlearn_run("-v")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "*leak.indirect*20 (33.3%)*FAIL",
            "shift: 60 direct leaks of the base became placeholder 40, indirect 20",
        ]
    )


def test_base_without_leaks_shows_nothing(unlearn_run: UnlearnRun) -> None:
    """A model that gave nothing away before cannot be shown to have forgotten."""
    unlearn_run.lookup(base_knows=False)
    result = unlearn_run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "leak.direct*NOT EVALUATED",
            "leak.direct: the base gives away only 0 of 60, so silence shows nothing*",
            "NOT FOR RELEASE: leak.direct NOT EVALUATED, leak.indirect NOT EVALUATED",
        ]
    )


def test_xdist_gives_the_same_and_generates_nothing_twice(unlearn_run: UnlearnRun) -> None:
    """Two workers share the store: same outcomes, same gates, each completion made once."""
    unlearn_run.lookup(leaking=forget_ids(20))
    serial = unlearn_run("-p", "no:cacheprovider")
    made = sorted(unlearn_run.generated())
    assert len(made) == 2 * ALL
    assert len(set(made)) == len(made)
    unlearn_run.log.unlink()
    parallel = unlearn_run("-n2", f"--unlearn-store={unlearn_run.pytester.path / 'other'}")
    assert sorted(unlearn_run.generated()) == made
    assert parallel.ret == serial.ret == pytest.ExitCode.TESTS_FAILED
    parallel.assert_outcomes(passed=ALL - 20 + 2, failed=1)
    parallel.stdout.fnmatch_lines(["*leak.direct*20 (33.3%)*FAIL", "* 20 leaked*"])


def test_warm_store_loads_no_model(unlearn_run: UnlearnRun) -> None:
    """A second run finds every completion in the store."""
    unlearn_run.lookup()
    unlearn_run()
    unlearn_run.log.unlink()
    assert unlearn_run().ret == pytest.ExitCode.OK
    assert unlearn_run.generated() == []


def test_one_probe_generates_its_whole_chunk_once(unlearn_run: UnlearnRun) -> None:
    """Chunks are cut from the data, not from the selection: neighbours stay the same."""
    unlearn_run.lookup()
    result = unlearn_run("-k", "direct-email-forget-002")
    assert result.ret == pytest.ExitCode.OK
    chunk = [f"{state} {probe}" for state in ("base", "unlearned") for probe in forget_ids(16)]
    assert unlearn_run.generated() == chunk


def test_partial_selection_is_not_evaluated(unlearn_run: UnlearnRun) -> None:
    """Gates do not judge a part of the data, and do not fail one either."""
    unlearn_run.lookup()
    result = unlearn_run("-k", "email")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "leak.direct*NOT EVALUATED",
            "leak.direct: partial selection: 30 of 60 run*",
            "NO VERDICT*",
        ]
    )


@pytest.mark.parametrize(
    ("expression", "count"),
    [
        ("unlearn_forget", FORGET),
        ("unlearn_retain", RETAIN),
        ("unlearn_task", TASKS),
        ("unlearn_forget(kind='email')", FORGET // 2),
        ("unlearn_control and not unlearn_control(kind='email')", CONTROL // 2),
    ],
)
def test_marks_select(unlearn_run: UnlearnRun, expression: str, count: int) -> None:
    """Kinds and splits are marks."""
    unlearn_run.lookup()
    result = unlearn_run("--collect-only", "-q", "-m", expression)
    result.stdout.fnmatch_lines([f"{count}/{ALL} tests collected*"])
    assert unlearn_run.generated() == []


def test_stop_at_first_failure_has_no_verdict(unlearn_run: UnlearnRun) -> None:
    """A run cut short by -x says so and judges nothing."""
    unlearn_run.lookup(leaking=forget_ids(60))
    result = unlearn_run("-x", "--unlearn-probe-outcome=fail")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["leak.direct*NOT EVALUATED", "*the run was interrupted*"])


def test_each_leak_fails_where_asked(unlearn_run: UnlearnRun) -> None:
    """`--unlearn-probe-outcome=fail` makes each leak a failure that names rows only."""
    unlearn_run.lookup(leaking=forget_ids(3))
    result = unlearn_run("--unlearn-probe-outcome=fail")
    result.assert_outcomes(failed=3 + 1, passed=ALL - 3 + 2)
    result.stdout.fnmatch_lines(["direct-email-forget-000 leaked: direct, exact, email of *"])
    result.stdout.no_fnmatch_line("*forgetvalue*")


def test_gates_in_junit(unlearn_run: UnlearnRun) -> None:
    """JUnit has a test case for each gate, passed or failed, with its numbers."""
    unlearn_run.lookup(leaking=forget_ids(20))
    unlearn_run("--junitxml=report.xml")
    suite = ET.parse(unlearn_run.pytester.path / "report.xml").getroot()[0]
    assert suite.get("tests") == str(ALL + GATES)
    assert suite.get("failures") == "1"
    gates = {
        case.get("name"): case
        for case in suite.iter("testcase")
        if "gate[" in str(case.get("name"))
    }
    assert set(gates) == {f"gate[{n}]" for n in ("leak.direct", "leak.indirect", "passk.retained")}
    properties = {
        p.get("name"): p.get("value") for p in gates["gate[leak.direct]"].iter("property")
    }
    assert properties["unlearn_verdict"] == "FAIL"
    assert properties["unlearn_observed"] == "20 (33.3%)"


def test_an_error_is_no_forgetting(unlearn_run: UnlearnRun) -> None:
    """A probe whose model fails is an error, leaves every denominator, and no gate passes."""
    unlearn_run.lookup(
        also="""
from pytest_unlearn.testing import LookupModel
complete = LookupModel.complete
def broken(self, prompts, max_new_tokens=64):
    if any("forget user 59" in prompt for prompt in prompts):
        raise RuntimeError("out of memory")
    return complete(self, prompts, max_new_tokens)
def pytest_configure():
    LookupModel.complete = broken
def pytest_unconfigure():
    LookupModel.complete = complete
"""
    )
    result = unlearn_run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*leak.direct*UNDECIDED", "leak.direct: 12 cases ended in an error*", "NOT FOR RELEASE*"]
    )
    # The chunk is tried once, not once a case.
    result.stdout.fnmatch_lines(["CompletionError: failed before in this run: RuntimeError: out*"])
    raised = [line for line in result.outlines if line.startswith("E ") and "memory" in line]
    assert len(raised) == 1  # one try for the whole chunk, and one traceback


def test_no_value_in_any_output(unlearn_run: UnlearnRun) -> None:
    """Not with leaks, failures, locals, JUnit, or the names of the files in the store."""
    unlearn_run.lookup(leaking=forget_ids(60))
    unlearn_run.pytester.makepyfile(
        """
        def test_mine(unlearn_probe, unlearn_completions):
            text = unlearn_completions.unlearned.text
            assert unlearn_completions.unlearned.outcome.label == "clean"
        """
    )
    result = unlearn_run(
        "-vv", "--showlocals", "-rA", "--junitxml=report.xml", "test_no_value_in_any_output.py"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    shown = "\n".join([*result.outlines, *result.errlines])
    shown += (unlearn_run.pytester.path / "report.xml").read_text()
    shown += "\n".join(str(p) for p in unlearn_run.pytester.path.rglob("*"))
    for path in (unlearn_run.pytester.path / ".pytest_cache").rglob("*"):
        shown += path.read_text() if path.is_file() else ""
    assert "test_mine" in shown
    assert "forgetvalue" not in shown
    assert "forget/0000" not in shown
    assert "forget user" not in shown
    assert "forget person" not in shown


def test_custom_gates_replace_the_default_ones(unlearn_run: UnlearnRun) -> None:
    """Gates come from the flag, repeatable, and from the ini file."""
    unlearn_run.lookup()
    result = unlearn_run("--unlearn-gate=leak.direct<=0.2", "--unlearn-gate=people.retained>=60%")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=ALL + 2)
    unlearn_run.pytester.makeini("[pytest]\nunlearn_gate =\n  leak.direct[kind=email]<=10%\n")
    result = unlearn_run()
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["leak.direct?kind=email? *0 (0.0%)*30*PASS"])


def test_judged_hook_sees_results(unlearn_run: UnlearnRun) -> None:
    """A conftest can send the verdicts elsewhere."""
    unlearn_run.lookup(
        also="""
def pytest_unlearn_judged(results, rows):
    print("judged", [result.verdict.value for result in results], len(rows))
"""
    )
    result = unlearn_run("-s")
    result.stdout.fnmatch_lines([f"*judged ?'PASS', 'PASS', 'PASS'? {ALL}*"])


def test_a_killed_run_goes_on_where_it_stopped(unlearn_run: UnlearnRun) -> None:
    """What was generated before the kill is in the store, and is not generated again."""
    unlearn_run.lookup(
        also="""
import os
from pytest_unlearn.testing import LookupModel
complete = LookupModel.complete
def dies(self, prompts, max_new_tokens=64):
    if any("retain user 20" in prompt for prompt in prompts):
        os._exit(9)
    return complete(self, prompts, max_new_tokens)
LookupModel.complete = dies
"""
    )
    assert unlearn_run(subprocess=True).ret == 9
    before = unlearn_run.generated()
    assert before
    unlearn_run.lookup()
    result = unlearn_run(subprocess=True)
    assert result.ret == pytest.ExitCode.OK
    made = unlearn_run.generated()
    assert len(made) == len(set(made)) == 2 * ALL


def test_last_failed_after_a_failed_gate_runs_everything(unlearn_run: UnlearnRun) -> None:
    """A gate is no collected test: `--lf` has nothing to narrow to and judges the whole again."""
    unlearn_run.lookup(leaking=forget_ids(20))
    assert unlearn_run().ret == pytest.ExitCode.TESTS_FAILED
    again = unlearn_run("--lf")
    assert again.ret == pytest.ExitCode.TESTS_FAILED
    again.stdout.fnmatch_lines(
        ["*leak.direct*20 (33.3%)*FAIL", "NOT FOR RELEASE: leak.direct FAIL"]
    )


def test_tests_of_others_are_left_alone(unlearn_run: UnlearnRun) -> None:
    """With a model named but no probe selected, no gate is judged and nothing is printed."""
    unlearn_run.lookup()
    unlearn_run.pytester.makepyfile(test_other="def test_a(): pass\ndef test_b(): assert 0\n")
    for flags in ([], ["-x"]):
        result = unlearn_run("test_other.py", *flags)
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.no_fnmatch_line("*= unlearning =*")


def test_without_names_nobody_else_is_held(unlearn_run: UnlearnRun) -> None:
    """The default method then holds nobody whom it does not list, and the head says so."""
    unlearn_run.lookup()
    unlearn_run("--unlearn-method=anchored").stdout.fnmatch_lines(
        ["unlearn: anchored cannot use strangers, since no document names its person *"]
    )
    unlearn_run("--unlearn-method=wga").stdout.no_fnmatch_line("*cannot use strangers*")
