"""Several models or methods: the suite runs for each pair, and each pair is judged on its own."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_unlearn.session.sweep import short_names
from tests.support.lookup_run import UnlearnRun, data_flags, forget_ids

# 15 people and 14 tasks decide 20 % and 60 %.
FORGET, RETAIN, CONTROL, TASKS = 30, 2, 2, 14
CASES = FORGET + RETAIN + CONTROL + TASKS
GATES = ("leak.direct<=20%", "passk.retained>=60%")
LEAKY = "tiny/npo+kl"
CLEAN = "tiny/ga+gd"


@dataclass
class Sweep:
    """Runs pytest over pairs whose models look their answers up: by NPO+KL, twenty values leak."""

    pytester: pytest.Pytester

    def conftest(self, also: str = "") -> None:
        """Write the models; each pair notes what it generated, and when it was let go."""
        self.pytester.makeconftest(
            f"""
from pathlib import Path
from pytest_unlearn.testing import LookupModels

class Noting(LookupModels):
    def release(self):
        with self._log.open("a") as file:
            file.write("released\\n")

def pytest_unlearn_models(settings, dataset):
    leaking = {forget_ids(20)!r} if settings.method.name == "npo+kl" else []
    lost = ["add-1"] if settings.model == "other" else []
    name = f"{{Path(settings.model).name}}-{{settings.method.name}}.log"
    return Noting(
        dataset, leaking=leaking, lost=lost, log=Path({str(self.pytester.path)!r}) / name
    )
{also}
"""
        )

    def log(self, pair: str) -> list[str]:
        path = self.pytester.path / f"{pair.replace('/', '-')}.log"
        return path.read_text().splitlines() if path.exists() else []

    def __call__(self, *flags: str, methods: tuple[str, ...] = ("ga+gd", "npo+kl")) -> Any:
        return self.pytester.runpytest_inprocess(
            "--unlearn-model=tiny",
            *(f"--unlearn-method={method}" for method in methods),
            *data_flags(self.pytester.path, FORGET, RETAIN, CONTROL, TASKS),
            *(f"--unlearn-gate={gate}" for gate in GATES),
            *flags,
        )


@pytest.fixture
def sweep(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    for name in ("PYTEST_ADDOPTS", "GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    found = Sweep(pytester)
    found.conftest()
    return found


def test_each_pair_is_judged_on_its_own(sweep: Sweep) -> None:
    """Gates and tests carry the pair, the table and the front end the summary, and one pair that
    fails fails the run. Pairs come one after the other, and the base is not completed twice."""
    result = sweep("-v", "--junitxml=report.xml")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2 * CASES - 20 + 3, failed=1)
    result.stdout.fnmatch_lines(
        [
            f"unlearn: 2 pairs: {CLEAN}, {LEAKY}, probes *",
            "*test_forgotten?tiny-ga+gd-direct-email-forget-000? PASSED*",
            "*test_solved?tiny-ga+gd-add-0? PASSED*",
            "*test_forgotten?tiny-npo+kl-direct-email-forget-000? LEAKED*",
            "*test_solved?tiny-npo+kl-add-0? PASSED*",
            f"*- {CLEAN} -*",
            "leak.direct * 0 (0.0%) *PASS",
            f"*- {LEAKY} -*",
            "leak.direct * 20 (66.7%) *FAIL",
            "*- all pairs -*",
            "pair * leak.direct * leak.indirect * passk.retained * people.retained * Pareto",
            f"{CLEAN} *0 (0.0%) <=18.2%*14/14 (100.0%) >=80.7%*FOR RELEASE *front",
            f"{LEAKY} *20 (66.7%) <=*14/14*NOT FOR RELEASE *-",
            f"Pareto front of leak * ability: {CLEAN} (0.0% leak, 100.0% retained)",
            "time *",
            f"NOT FOR RELEASE: leak.direct @ {LEAKY} FAIL",
            f"FAILED unlearn::gate?leak.direct @ {LEAKY}? - FAIL*",
        ]
    )
    states = {pair: [line.split()[0] for line in sweep.log(pair)] for pair in (CLEAN, LEAKY)}
    assert states[CLEAN].count("base") == states[CLEAN].count("unlearned") == CASES
    assert states[LEAKY].count("base") == 0
    assert states[LEAKY].count("unlearned") == CASES
    assert [lines.count("released") for lines in states.values()] == [1, 1]
    suite = ET.parse(sweep.pytester.path / "report.xml").getroot()[0]
    pairs = {
        str(case.get("name")): {p.get("name"): p.get("value") for p in case.iter("property")}
        for case in suite.iter("testcase")
    }
    assert pairs[f"gate[leak.direct @ {LEAKY}]"]["unlearn_pair"] == LEAKY
    assert pairs["test_solved[tiny-ga+gd-add-3]"]["unlearn_pair"] == CLEAN
    whole = {p.get("name"): p.get("value") for p in suite.findall("./properties/property")}
    assert whole["unlearn.verdict"] == whole[f"unlearn.{LEAKY}.verdict"] == "NOT FOR RELEASE"
    assert whole[f"unlearn.{CLEAN}.verdict"] == "FOR RELEASE"


def test_all_pairs_pass(sweep: Sweep) -> None:
    """Two models and one method; of models that end alike, each keeps a name of its own."""
    sweep.conftest(
        "def pytest_unlearn_judged(settings, results, rows):\n"
        "    print('judged', settings.model, len(results), len(rows))\n"
    )
    result = sweep("-s", "--unlearn-model=other", methods=("ga+gd",))
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            f"*judged tiny 2 {CASES}",
            f"*judged other 2 {CASES}",
            "other/ga+gd *13/14 (92.9%)*FOR RELEASE *-",
            "FOR RELEASE: every gate passed*",
        ]
    )
    assert short_names(["a/model/", "b/model", "tiny"]) == ["model", "model.2", "tiny"]


def test_one_pair_selected(sweep: Sweep) -> None:
    """`-k` finds a method's name; the other pair is left out in one line and blocks nothing."""
    result = sweep("-k", "ga+gd")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=CASES + 2, deselected=CASES)
    result.stdout.fnmatch_lines(
        [f"left out, since none of their cases was run: {LEAKY}", "NO VERDICT: not run: *"]
    )
    result.stdout.no_fnmatch_line("*NOT EVALUATED*")
    assert sweep.log(LEAKY) == []


def test_a_part_of_a_pair_is_not_evaluated(sweep: Sweep) -> None:
    """One pair whole, of the other only tasks: its gate on leaks is not evaluated, by name."""
    result = sweep("-k", "ga+gd or test_solved")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            f"{CLEAN} *FOR RELEASE *front",
            f"{LEAKY} *-*NO VERDICT *-",
            "NO VERDICT: 1 of 4 gates not evaluated",
        ]
    )
    complete = sweep("-k", "ga+gd", "--unlearn-require-complete")
    assert complete.ret == pytest.ExitCode.TESTS_FAILED
    complete.stdout.fnmatch_lines([f"NOT FOR RELEASE: leak.direct @ {LEAKY} NOT EVALUATED, *"])


def test_a_pair_that_was_whole_before_the_end_is_judged(sweep: Sweep) -> None:
    """`-x` in the second pair leaves the first one its verdict."""
    result = sweep("-x", "--unlearn-probe-outcome=fail")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            f"{CLEAN} *FOR RELEASE *front",
            f"{LEAKY} *NOT FOR RELEASE *-",
            "NOT FOR RELEASE: 1 test failed *",
        ]
    )


def test_workers_take_pair_after_pair(sweep: Sweep) -> None:
    """Two workers measure the same, and curtailment leaves out nothing that may count."""
    result = sweep("-n2", "--unlearn-stop=curtail")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"NOT FOR RELEASE: leak.direct @ {LEAKY} FAIL"])
    assert not list(sweep.pytester.path.rglob("settled-*"))


def test_reports_say_the_pair(sweep: Sweep) -> None:
    """Each row and gate has its pair, and a sweep is judged again from its rows."""
    names = ("html", "jsonl", "csv", "summary", "github")
    flags = [f"--unlearn-report={name}" for name in names]
    sweep(*flags)
    folder = sweep.pytester.path
    before = {path.name: path.read_bytes() for path in folder.glob("unlearn-*")}
    lines = [json.loads(line) for line in before["unlearn-results.jsonl"].splitlines()]
    assert {line["pair"]["label"] for line in lines} == {CLEAN, LEAKY}
    assert len(lines) == 2 * (1 + len(GATES) + CASES)
    assert {line["version"] for line in lines if line["record"] == "run"} == {2}
    rows = list(csv.DictReader(before["unlearn-results.csv"].decode().splitlines()))
    assert {(row["pair"], row["model"], row["method"]) for row in rows} == {
        (CLEAN, "tiny", "ga+gd"),
        (LEAKY, "tiny", "npo+kl"),
    }
    summary = json.loads(before["unlearn-summary.json"])
    assert (summary["version"], summary["verdict"]) == (2, "NOT FOR RELEASE")
    shown = [(p["pair"]["label"], p["leak"], p["ability"], p["front"]) for p in summary["pairs"]]
    assert shown == [(CLEAN, 0.0, 1.0, True), (LEAKY, 20 / FORGET, 1.0, False)]
    assert f"| {CLEAN} | 0 (0.0%) <=18.2%" in before["unlearn-summary.md"].decode()
    manifests = json.loads(before["unlearn-results.csv.manifest.json"])
    told = [manifests[pair]["settings"]["method"]["method"]["name"] for pair in (CLEAN, LEAKY)]
    assert told == ["ga+gd", "npo+kl"]
    again = sweep.pytester.runpytest_inprocess("--unlearn-replay=unlearn-results.jsonl", *flags)
    assert again.ret == pytest.ExitCode.TESTS_FAILED
    again.stdout.fnmatch_lines([f"{LEAKY}: NOT FOR RELEASE", "NOT FOR RELEASE"])
    assert {path.name: path.read_bytes() for path in folder.glob("unlearn-*")} == before


def test_a_sweep_is_judged_again_from_its_store(sweep: Sweep) -> None:
    """Each pair finds what was generated for it, where no model answers any more; a pair that was
    never run is no release."""
    assert sweep().ret == pytest.ExitCode.TESTS_FAILED
    (sweep.pytester.path / "conftest.py").unlink()
    again = sweep("--unlearn-replay")
    assert again.ret == pytest.ExitCode.TESTS_FAILED
    again.stdout.fnmatch_lines(
        [
            f"{CLEAN} *0 (0.0%) <=18.2%*FOR RELEASE *front",
            f"{LEAKY} *20 (66.7%) <=*NOT FOR RELEASE *-",
            f"NOT FOR RELEASE: leak.direct @ {LEAKY} FAIL",
        ]
    )
    other = sweep("--unlearn-replay", methods=("ga+gd", "npo"))
    assert other.ret == pytest.ExitCode.TESTS_FAILED
    other.stdout.fnmatch_lines([f"{CLEAN} *FOR RELEASE *front", "tiny/npo *- *NOT FOR RELEASE *-"])


def test_own_tests_get_the_pair(sweep: Sweep) -> None:
    """A test of a model runs for each pair, and can ask which it is; others run once. Pairs stay
    together whatever order a plugin gives the tests."""
    sweep.conftest("def pytest_collection_modifyitems(items):\n    items.reverse()\n")
    sweep.pytester.makepyfile(
        test_own="""
        def test_model(unlearn_model, unlearn_pair):
            assert unlearn_pair.settings.method.name == unlearn_pair.method
        def test_late(request):
            request.getfixturevalue("unlearn_model")
            assert request.getfixturevalue("unlearn_pair").label == "tiny/ga+gd"
        def test_other():
            pass
        """
    )
    result = sweep("-v", "test_own.py")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        [
            "*test_other PASSED*",
            "*test_late PASSED*",
            "*test_model?tiny-ga+gd? PASSED*",
            "*test_model?tiny-npo+kl? PASSED*",
        ]
    )


def test_trust_is_in_one_model(sweep: Sweep) -> None:
    """The code of the model that was named may run, not that of the others."""
    sweep.pytester.makepyfile(
        test_own="""
        def test_trust(unlearn_pair):
            model, trusted = unlearn_pair.settings.model, unlearn_pair.settings.trusted
            assert trusted == {"x/other": model, "tiny": None}[model]
        """
    )
    flags = ("--unlearn-model=x/other", "--unlearn-trust-remote-code=x/other")
    sweep("test_own.py", *flags, methods=("none",)).assert_outcomes(passed=2)


def test_plan_adds_up(sweep: Sweep) -> None:
    """A plan of a sweep has the work of each pair, and of all."""
    result = sweep("--unlearn-plan")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            f"unlearn: 2 pairs: {CLEAN}, {LEAKY}, *",
            f"{CLEAN}: models to run: 2;*",
            f"{CLEAN}: CPU, * cores: about *",
            f"{LEAKY}: models to run: 1;*",
            "all 2 pairs: models to run: 3 (a base once for all its methods), 2,169 prompt *",
            "all pairs, CPU, * cores: about * of memory and *",
            "on tiny * cases *",
            "leak.direct<=20% * 30 * 15 * 14 * 0 of 30",
        ]
    )


def test_options_tell_methods_apart(sweep: Sweep) -> None:
    """The same method with other options is another pair, in an ini file a line each; ids hold
    what `-k` can find."""
    sweep.pytester.makeini("[pytest]\nunlearn_method =\n  ga+gd:lr=1e-4,steps=9\n  ga+gd:lr=2e-4\n")
    result = sweep("--collect-only", "-q", "-k", "lr-1e-4-steps-9", methods=())
    result.stdout.fnmatch_lines(
        [
            "*test_solved?tiny-ga+gd:lr-1e-4-steps-9-add-0?",
            f"{CASES}/{2 * CASES} tests collected*",
        ]
    )


@pytest.mark.parametrize(
    ("flags", "methods", "message"),
    [
        (["--unlearn-model=tiny"], ("ga",), "--unlearn-model=tiny: it was already named*"),
        ([], ("ga+gd", "ga+gd"), "--unlearn-method=ga+gd: it was already named*"),
        ([], ("none", "npo", "ga:nonsense=1"), "--unlearn-method: *nonsense*"),
        (["--unlearn-save=a"], ("ga", "npo"), "--unlearn-save=a applies to the run of one model*"),
        (["--unlearn-compare=a"], ("ga", "npo"), "--unlearn-compare=a applies to the run of one*"),
        (
            ["--unlearn-model=x/other", "--unlearn-revision=abc"],
            ("ga",),
            "--unlearn-revision=abc is a commit of one model, and 2 are named*",
        ),
        (
            ["--unlearn-trust-remote-code=x"],
            ("ga", "npo"),
            "--unlearn-trust-remote-code=x: no model of this run has that name*",
        ),
        (
            ["--unlearn-report=modelcard"],
            ("ga", "npo"),
            "*this format is for one model and one method*",
        ),
        (
            ["--unlearn-model=smollm2"],
            ("ga",),
            "the models are asked for solutions in different styles (*tiny: completion*smollm2: "
            "chat*); name one for all with --unlearn-task-style",
        ),
    ],
)
def test_refused(sweep: Sweep, flags: list[str], methods: tuple[str, ...], message: str) -> None:
    """What is about one pair, and what is named twice, before any model is loaded."""
    result = sweep(*flags, methods=methods)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])
    assert not list(Path(sweep.pytester.path).glob("*.log"))


def test_one_pair_is_named_nowhere(unlearn_run: UnlearnRun) -> None:
    """A run of one model and one method looks as it always did."""
    unlearn_run.lookup()
    result = unlearn_run("-v", "-k", "add-1", "--unlearn-report=jsonl", "--unlearn-method=npo+kl")
    result.stdout.fnmatch_lines(["*test_solved?add-1? PASSED*", "model tiny  method npo+kl *"])
    result.stdout.no_fnmatch_line("*tiny/npo+kl*")
    assert '"pair"' not in (unlearn_run.pytester.path / "unlearn-results.jsonl").read_text()
