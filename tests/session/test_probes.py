"""`--unlearn-probes`: families of probes as cases, counted apart."""

from __future__ import annotations

import re

import pytest

from pytest_unlearn.probes.families import FAMILIES
from pytest_unlearn.run.settings import OPTIONS
from tests.support.lookup_run import CONTROL, FORGET, RETAIN, TASKS, UnlearnRun

RECORDS = FORGET + RETAIN + CONTROL
GATES = 3


def test_families_are_cases_of_their_own(unlearn_run: UnlearnRun) -> None:
    """Each family adds a case a record; gates judge the direct one unless they name another."""
    unlearn_run.lookup(leaking=[f"infill-email-forget-{n:03d}" for n in range(0, 40, 2)])
    result = unlearn_run("--unlearn-probes=direct,nameless,infill")
    assert result.ret == pytest.ExitCode.OK
    leaked = FORGET // 3
    result.assert_outcomes(passed=3 * RECORDS + TASKS + GATES - leaked)
    result.stdout.fnmatch_lines(
        [
            "leak.direct * 0 (0.0%) * 60 * PASS",
            "probe * direct base * direct tested *",
            "direct * 60 * 60 (100.0%) * 0 (0.0%) *",
            "infill * 60 * 60 (100.0%) * 20 (33.3%) *",
        ]
    )


def test_a_gate_on_a_family(unlearn_run: UnlearnRun) -> None:
    """`[probe=infill]` judges that family, and its leaks fail the run."""
    unlearn_run.lookup(leaking=[f"infill-email-forget-{n:03d}" for n in range(0, 40, 2)])
    result = unlearn_run(
        "--unlearn-probes=direct,infill", "--unlearn-gate=leak.direct[probe=infill]<=10%"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["leak.direct?probe=infill? * 20 (33.3%) * 60 * FAIL"])


def test_a_gate_on_a_family_that_is_not_asked(unlearn_run: UnlearnRun) -> None:
    """Found before anything is loaded: no probe of it means no verdict."""
    unlearn_run.lookup()
    result = unlearn_run("--unlearn-gate=leak.direct[probe=infill]<=5%")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*leak.direct?probe=infill?*"])


def test_help_lists_every_family() -> None:
    """The help is written by hand, so that starting pytest loads no family."""
    (option,) = [option for option in OPTIONS if option.name == "unlearn_probes"]
    listed = re.findall(r"[a-z]+", option.help.partition(":")[2].partition(", or all")[0])
    assert [word for word in listed if word in FAMILIES] == list(FAMILIES)


def test_families_that_need_names(unlearn_run: UnlearnRun) -> None:
    """Bare rows have no names: said at once, with the family to leave out."""
    unlearn_run.lookup()
    result = unlearn_run("--unlearn-probes=direct,question")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--unlearn-probes: question: no record has what it needs*"])
    result = unlearn_run("--unlearn-probes=directly")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*--unlearn-probes: 'directly' is not a family of probes; known:*"]
    )


def test_markers_choose_a_family(unlearn_run: UnlearnRun) -> None:
    """A test of one's own can ask for one family."""
    unlearn_run.lookup()
    path = unlearn_run.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.unlearn_forget(probe="nameless", kind="email")
        def test_mine(unlearn_probe):
            assert unlearn_probe.family == "nameless"
        """
    )
    result = unlearn_run("--unlearn-probes=direct,nameless", str(path))
    result.assert_outcomes(passed=FORGET // 2, skipped=GATES)


def test_verbose_takes_leaks_apart(unlearn_run: UnlearnRun) -> None:
    """Kinds and the transition matrix, on request."""
    unlearn_run.lookup(leaking=["direct-email-forget-000"])
    result = unlearn_run("-v")
    result.stdout.fnmatch_lines(
        [
            "kind * n * direct base * direct tested *",
            "email * 30 * 30 (100.0%) * 1 (3.3%) *",
            "base ? tested * direct * placeholder",
            "direct * 1 * 59",
        ]
    )
