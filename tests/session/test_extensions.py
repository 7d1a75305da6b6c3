"""What a conftest brings without a package: known by its name for one session, and no longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_unlearn.attacks.attack import attacks
from pytest_unlearn.core.errors import UserError
from pytest_unlearn.gates.metrics import METRICS
from pytest_unlearn.run.divisions import code_examples
from tests.support.lookup_run import FORGET, UnlearnRun

METRIC = """
from pytest_unlearn.gates.metrics import Metric

def silent(row, state, argument):
    return float(row.outcome(state).label == "placeholder")

def pytest_unlearn_extensions():
    return [Metric("silent.rate", "rate", "forget", "share of silence", "our rule", silent)]
"""


def test_a_metric_of_a_conftest(unlearn_run: UnlearnRun) -> None:
    """It is judged, shown and listed as the package's own, and gone with the session."""
    unlearn_run.lookup(leaking=["direct-email-forget-000"], also=METRIC)
    result = unlearn_run("--unlearn-gate=silent.rate<=50%", "-k", "forgotten")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"silent.rate *{FORGET - 1} (*) *<=50.0% *FAIL"])
    listed = unlearn_run.pytester.runpytest_inprocess("--unlearn-metrics")
    listed.stdout.fnmatch_lines(["silent.rate<=LIMIT", "*share of silence"])
    assert "silent.rate" not in METRICS


def test_a_method_and_an_attack_of_a_conftest(unlearn_run: UnlearnRun) -> None:
    """The flags find them by name; the plan names them."""
    unlearn_run.lookup(
        also="""
from pytest_unlearn.attacks.attack import Attack
from pytest_unlearn.unlearning.method import ForgetOptions, Method

OPTIONS = ForgetOptions(lr=1e-3, steps=3)
MINE = Method("mine", lambda step, options: step.forget_nll(4.0), OPTIONS, uses_retain=False)
SHAKE = Attack("shake", "nothing", lambda target: None)

def pytest_unlearn_extensions():
    return [MINE, SHAKE]
"""
    )
    result = unlearn_run(
        "--unlearn-plan", "--unlearn-method=mine:steps=2", "--unlearn-attacks=shake"
    )
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["unlearn: model tiny, method mine, *", "attacks on *: shake;*"])
    assert "shake" not in attacks()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("3", "*returned an object of the class int; return objects of Method, *"),
        ("METRICS['leak.at']", "*leak.at: there already is a metric with this name"),
        ("replace(METHODS['ga'], about='mine')", "*there is a method of this name already*"),
    ],
)
def test_what_is_refused(unlearn_run: UnlearnRun, given: str, message: str) -> None:
    """Another object, and a name that is taken."""
    unlearn_run.lookup(
        also=f"""
from dataclasses import replace
from pytest_unlearn.gates.metrics import METRICS
from pytest_unlearn.unlearning.methods import METHODS

def pytest_unlearn_extensions():
    return [{given}]
"""
    )
    result = unlearn_run("--unlearn-method=ga")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])


def test_code_that_has_to_stay(tmp_path: Path) -> None:
    """Cut into pieces with their first lines apart, all of it, none too long."""
    path = tmp_path / "billing.py"
    source = "\n\n\n".join(f"def f{n}(x):\n    y = x + {n}\n\n    return y" for n in range(99))
    path.write_text(source + "\n")
    pieces = code_examples([path], {"nobody@example.com"})
    assert all(piece.text[: piece.start].startswith("def ") for piece in pieces)
    assert all(piece.text[: piece.start].count("\n") == 1 for piece in pieces)
    assert max(len(piece.text) for piece in pieces) <= 1000
    whole = "".join(piece.text for piece in pieces)
    assert all("return y" in whole and f"def f{n}(" in whole for n in range(99))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ny = 'ada@example.com'\n", "line 2 holds a value that is to be forgotten"),
        ("x = 1\n", "it has no code of two lines"),
        (None, "cannot be read: No such file"),
    ],
)
def test_code_that_cannot_stay(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "billing.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=f"--unlearn-keep-code=.*{message}"):
        code_examples([path], {"ada@example.com"})
