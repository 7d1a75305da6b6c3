"""Gates in whole runs: completeness, and cases left out because they can change nothing."""

from __future__ import annotations

import pytest

from tests.support.lookup_run import CONTROL, FORGET, RETAIN, TASKS, UnlearnRun

ALL = FORGET + RETAIN + CONTROL + TASKS


def forget_ids(count: int) -> list[str]:
    return [f"direct-{('email', 'badge')[n % 2]}-forget-{n:03d}" for n in range(count)]


def test_partial_runs_fail_where_completeness_is_required(unlearn_run: UnlearnRun) -> None:
    """Also one that measures nothing at all, which would be green otherwise."""
    unlearn_run.lookup()
    result = unlearn_run("-k", "email", "--unlearn-require-complete")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["leak.direct*NOT EVALUATED", "leak.direct: partial selection: 30 of 60 run*", "NOT FOR*"]
    )
    unlearn_run.pytester.makepyfile(test_other="def test_a(): pass")
    assert unlearn_run("test_other.py").ret == pytest.ExitCode.OK
    nothing = unlearn_run("test_other.py", "--unlearn-require-complete")
    assert nothing.ret == pytest.ExitCode.TESTS_FAILED
    nothing.stdout.fnmatch_lines(["leak.direct: partial selection: 0 of 60 run*"])


def test_curtailed_failure_leaves_the_rest_out(unlearn_run: UnlearnRun) -> None:
    """Once enough leaked, nothing could pass the gate: the rest is neither generated nor run."""
    unlearn_run.lookup(leaking=forget_ids(60))
    gate = "--unlearn-gate=leak.drop>=50%"
    whole = unlearn_run(gate)
    early = unlearn_run(gate, "--unlearn-stop=curtail", "--unlearn-store=other")
    assert whole.ret == early.ret == pytest.ExitCode.TESTS_FAILED
    early.stdout.fnmatch_lines(
        ["leak.drop*FAIL", "leak.drop: *shown by * of 60 cases: the others cannot undo it"]
    )
    skipped = early.parseoutcomes()["skipped"]
    assert ALL - FORGET < skipped < ALL
    assert not list(unlearn_run.pytester.path.rglob("settled-*"))


def test_a_pass_is_not_curtailed(unlearn_run: UnlearnRun) -> None:
    """The last case may end in an error, and then nothing is for release."""
    unlearn_run.lookup()
    flags = ["--unlearn-gate=leak.direct<=60%", "--unlearn-gate=passk.retained>=90%"]
    result = unlearn_run(*flags, "--unlearn-stop=curtail")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["FOR RELEASE: every gate passed*"])
    assert "skipped" not in result.parseoutcomes()


def test_a_users_own_test_is_never_left_out(unlearn_run: UnlearnRun) -> None:
    """It may fail by itself, whatever the gates say."""
    unlearn_run.lookup(leaking=forget_ids(60))
    unlearn_run.pytester.makepyfile(
        """
        def test_own(unlearn_probe):
            assert unlearn_probe.split != "forget" or unlearn_probe.kind != "email"
        """
    )
    name = "test_a_users_own_test_is_never_left_out.py"
    gates = ("--unlearn-gate=leak.drop>=50%", "--unlearn-stop=curtail")
    early, whole = (unlearn_run(*flags, name) for flags in (gates, gates[:1]))
    assert early.parseoutcomes() == whole.parseoutcomes()


def test_workers_learn_what_is_settled(unlearn_run: UnlearnRun) -> None:
    """Under xdist the rows are at the controller, and the tests at the workers."""
    unlearn_run.lookup(leaking=forget_ids(60))
    result = unlearn_run("--unlearn-gate=leak.drop>=50%", "--unlearn-stop=curtail", "-n2")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["leak.drop*FAIL"])
    assert result.parseoutcomes()["skipped"] > 0


def test_critical_tests_are_never_left_out(unlearn_run: UnlearnRun) -> None:
    """One leaked key is an incident, whatever the verdicts are."""
    unlearn_run.lookup(leaking=forget_ids(60))
    unlearn_run.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.unlearn_critical
        def test_key(unlearn_probe, unlearn_completions):
            pass
        """
    )
    result = unlearn_run(
        "--unlearn-gate=leak.drop>=50%",
        "--unlearn-stop=curtail",
        "test_critical_tests_are_never_left_out.py",
    )
    result.assert_outcomes(failed=FORGET + 1)


def test_leaving_out_and_failing_each_leak_contradict(unlearn_run: UnlearnRun) -> None:
    result = unlearn_run("--unlearn-stop=curtail", "--unlearn-probe-outcome=fail")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --unlearn-stop=curtail leaves cases out*"])


def test_an_interrupted_run_keeps_its_results(unlearn_run: UnlearnRun) -> None:
    """Ctrl-C: no verdict, and the next run makes only what is missing."""
    unlearn_run.lookup(
        also="""
from pytest_unlearn.testing import LookupModel
complete = LookupModel.complete
def interrupted(self, prompts, max_new_tokens=64):
    if any("control user 20" in prompt for prompt in prompts):
        raise KeyboardInterrupt
    return complete(self, prompts, max_new_tokens)
LookupModel.complete = interrupted
"""
    )
    stopped = unlearn_run(subprocess=True)
    assert stopped.ret == pytest.ExitCode.INTERRUPTED
    stopped.stdout.fnmatch_lines(
        ["leak.direct*NOT EVALUATED", "leak.direct: the run was interrupted*", "NO VERDICT*"]
    )
    before = unlearn_run.generated()
    assert before
    unlearn_run.lookup()
    assert unlearn_run().ret == pytest.ExitCode.OK
    made = unlearn_run.generated()
    assert made[: len(before)] == before
    assert len(made) == len(set(made)) == 2 * ALL
