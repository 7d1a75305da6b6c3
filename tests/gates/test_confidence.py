"""`--unlearn-confidence`, `--unlearn-undecided`: every bound follows, and no error gets through."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_unlearn.gates.case_rows import ProbeRow
from pytest_unlearn.gates.estimates import percent
from pytest_unlearn.gates.gate import GateError, parse_gate
from pytest_unlearn.gates.judging import read_judging
from pytest_unlearn.gates.planning import check_feasible, metric_lines, plan_gate
from pytest_unlearn.gates.saved_runs import compare
from pytest_unlearn.gates.verdicts import Measured, Verdict, fails_whatever, judge
from pytest_unlearn.leaks.exact import ExactScores, RankedExposure
from tests.support.gate_rows import case, forget_rows, probe, task
from tests.support.lookup_run import UnlearnRun, forget_ids


def measured(rows: list[Any], **more: Any) -> Measured:
    facts = {"expected": rows, "seen": [row.id for row in rows], **more}
    return Measured(rows=rows, two_states=True, **{"confidence": 0.95, **facts})


@pytest.mark.parametrize(
    ("gate", "n", "passes", "fails"),
    [
        # ln(0.05) / ln(0.95) is 58.4, ln(0.01) / ln(0.95) is 89.8, -ln(0.01) / ln(1.5) is 11.4.
        ("leak.direct<=5%", 90, 0.99, 0.995),
        ("leak.direct<=5%", 59, 0.95, 0.96),
        ("leak.drop>=50%", 12, 0.99, 0.999),
    ],
)
def test_a_pass_needs_the_confidence_asked_for(
    gate: str, n: int, passes: float, fails: float
) -> None:
    """In judging, before the run and in the plan: the same number."""
    rows, parsed = forget_rows(n, 0), parse_gate(gate)
    data = [case(f"person {number}") for number in range(n)]
    for confidence, verdict in ((passes, Verdict.PASS), (fails, Verdict.UNDECIDED)):
        assert judge(parsed, measured(rows, confidence=confidence)).verdict is verdict
    check_feasible([parsed], data, confidence=passes)
    with pytest.raises(GateError, match=f"shown with {percent(fails)} confidence"):
        check_feasible([parsed], data, confidence=fails)
    assert plan_gate(parsed, data, passes).needed == n
    assert plan_gate(parsed, data, passes).allowed == 0
    assert plan_gate(parsed, data, fails).allowed is None


def test_what_fails_early_depends_on_it() -> None:
    """10 of 101 are over 5 % with 95 % confidence (5.5 %), and not with 99 % (4.2 %)."""
    rows = forget_rows(100, 10)
    for confidence, early in ((0.95, True), (0.99, False)):
        so_far = measured(
            rows, expected=[*rows, probe(100, "direct", "clean")], confidence=confidence
        )
        assert fails_whatever(parse_gate("leak.direct<=5%"), so_far) is early


def test_each_kind_of_estimate_follows() -> None:
    """More confidence, a wider bound: rates, chance, floors, ratios, drops, losses, counting."""
    rows: list[Any] = [
        *forget_rows(60, 3),
        *(probe(n, "clean", "direct" if n < 2 else "clean", "control") for n in range(40)),
        *(probe(n, "direct", "direct" if n else "clean", "retain") for n in range(40)),
        *(task(n, "passed", "passed" if n else "crash") for n in range(40)),
    ]
    base, tested = (ExactScores(-1.0, exposure=RankedExposure(bits)) for bits in (12.0, 1.0))
    rows = [
        replace(row, base_exact=base, unlearned_exact=tested) if isinstance(row, ProbeRow) else row
        for row in rows
    ]
    for gate in (
        "leak.direct<=20%",
        "leak.indirect<=0",
        "leak.drop>=50%",
        "exposure.max<=10",
        "passk.retained>=80%",
        "passk.drop<=20%",
        "passk.rate>=80%",
        "people.retained>=80%",
    ):
        bounds = []
        for confidence in (0.8, 0.95, 0.99):
            result = judge(parse_gate(gate), measured(rows, confidence=confidence))
            bounds.append(float(result.bound.split("%")[0].split(" ")[0].lstrip("<>=")))
        assert bounds == sorted(bounds, reverse=">=" in gate), gate
        assert len(set(bounds)) == 3, gate


def test_a_base_that_gave_little_away_is_shown_with_the_same_confidence() -> None:
    """4 of 10 leaks of the base are over 10 % with 95 % confidence (15 %), with 99.9 % not."""
    rows = [probe(n, "direct" if n < 4 else "clean", "clean") for n in range(10)]
    gate = parse_gate("leak.direct<=10%")
    for confidence, verdict in ((0.95, Verdict.UNDECIDED), (0.999, Verdict.NOT_EVALUATED)):
        assert judge(gate, measured(rows, confidence=confidence)).verdict is verdict


def test_a_change_since_a_saved_run_has_that_interval() -> None:
    """Two-sided: each side has half of what is left."""
    then, now = forget_rows(60, 9), forget_rows(60, 3)
    gate = parse_gate("leak.direct<=50%")
    ends = [compare(gate, then, now, c).interval for c in (0.9, 0.95, 0.99)]  # type: ignore[union-attr]
    assert all(end is not None for end in ends)
    lows = [end[0] for end in ends if end]
    assert lows == sorted(lows, reverse=True)
    assert len(set(lows)) == 3


def test_what_is_undecided_is_let_through_only_where_that_is_all() -> None:
    """Errors, failures and silence of the base block whatever was asked for."""
    gate = parse_gate("leak.direct<=5%")
    let = {"undecided_blocks": False}
    open_ = judge(gate, measured(forget_rows(58, 0), **let))
    assert (open_.verdict, open_.blocks) == (Verdict.UNDECIDED, False)
    rows = forget_rows(60, 0)
    crashed = measured(rows[:-1], expected=rows, seen=[row.id for row in rows], **let)
    assert judge(gate, crashed).blocks
    nothing = measured([], expected=rows, seen=[row.id for row in rows], **let)
    assert judge(gate, nothing).blocks
    for blocked in (forget_rows(60, 60), forget_rows(60, 0, base="clean")):
        assert judge(gate, measured(blocked, **let)).blocks


def options(folder: Path, table: str = "", **given: str) -> Any:
    (folder / "pyproject.toml").write_text(f"[tool.pytest-unlearn]\n{table}\n")
    flags = {f"unlearn_{name}": value for name, value in given.items()}
    return read_judging(flags.get, folder / "pyproject.toml")


def test_flag_before_table_before_default(tmp_path: Path) -> None:
    assert options(tmp_path).confidence == 0.95
    assert options(tmp_path).undecided == "fail"
    table = 'confidence = 0.9\nundecided = "warn"'
    assert options(tmp_path, table).confidence == 0.9
    assert options(tmp_path, table).undecided == "warn"
    assert options(tmp_path, table, confidence="99%", undecided="fail").confidence == 0.99
    assert options(tmp_path, table, confidence="0.99", undecided="fail").undecided == "fail"
    assert percent(0.975) == "97.5%"


@pytest.mark.parametrize(
    ("table", "given", "message"),
    [
        ("", {"confidence": "0.5"}, "--unlearn-confidence=0.5: write a share over 0.5 and under 1"),
        ("", {"confidence": "1"}, "--unlearn-confidence=1: write"),
        ("", {"confidence": "95"}, "--unlearn-confidence=95: write"),
        ("", {"confidence": "nan"}, "--unlearn-confidence=nan: write"),
        ("", {"confidence": "high"}, "--unlearn-confidence=high: write"),
        ("", {"undecided": "pass"}, "--unlearn-undecided=pass: write one of fail, warn"),
        ("confidence = 2", {}, "pyproject.toml: confidence=2: write a share"),
        ("confidence = true", {}, "pyproject.toml: .*confidence: write 0.95"),
        ("undecided = 'skip'", {}, "pyproject.toml: undecided=skip: write one of"),
    ],
)
def test_faults_name_flag_or_key(
    tmp_path: Path, table: str, given: dict[str, str], message: str
) -> None:
    with pytest.raises(GateError, match=f"^{message}"):
        options(tmp_path, table, **given)


def test_the_list_of_metrics_gives_sizes_for_it() -> None:
    needs = "    needs   90 for 5%, 459 for 1% (people without an event)"
    power = "    power   of 80%: 124 for 5% at a true 1%, 628 for 1% at a true 0.2%"
    assert needs in metric_lines(0.99)
    assert power in metric_lines(confidence=0.95)
    assert power not in metric_lines(0.99)


def test_a_run_says_its_confidence_everywhere(unlearn_run: UnlearnRun) -> None:
    """Refused before anything is loaded where the data are too few; else in all texts."""
    unlearn_run.lookup()
    refused = unlearn_run("--unlearn-confidence=0.99", "--unlearn-gate=leak.direct<=5%")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*needs at least 90 * shown with 99% confidence*have 30*"])
    assert unlearn_run.generated() == []
    result = unlearn_run("--unlearn-confidence=0.9", "--unlearn-report=github", "-rA")
    result.stdout.fnmatch_lines(["gate * n * 90% bound *", "also measured * 90% bound"])
    assert "95%" not in result.stdout.str().replace("95% of", "")
    text = (unlearn_run.pytester.path / "unlearn-summary.md").read_text()
    assert "90% bound" in text
    plan = unlearn_run("--unlearn-confidence=0.9", "--unlearn-plan")
    plan.stdout.fnmatch_lines(["gate *needed for 90%*"])


def test_undecided_is_visible_where_it_is_let_through(unlearn_run: UnlearnRun) -> None:
    """Exit code 0, a letter of its own, never `FOR RELEASE`."""
    unlearn_run.lookup(leaking=forget_ids(4))
    gate = ("--unlearn-gate=leak.direct<=10%", "--unlearn-gate=passk.retained>=80%")
    stopped = unlearn_run(*gate)
    assert stopped.ret == pytest.ExitCode.TESTS_FAILED
    through = unlearn_run(*gate, "--unlearn-undecided=warn")
    assert through.ret == pytest.ExitCode.OK
    assert through.parseoutcomes()["undecided"] == 1
    through.stdout.fnmatch_lines(
        [
            "leak.direct*UNDECIDED",
            "leak.direct: 60 probes can show this limit with at most *",
            "NO VERDICT: leak.direct UNDECIDED, let through by --unlearn-undecided=warn",
        ]
    )
