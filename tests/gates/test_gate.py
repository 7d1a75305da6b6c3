"""Profiles, the table in pyproject.toml, which of both counts, and the list of metrics."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_unlearn.gates.gate import (
    DEFAULT,
    PROFILES,
    REQUESTS,
    SOUND,
    GateError,
    choose_gates,
    gates_in_table,
    parse_gate,
)
from pytest_unlearn.gates.judging import read_judging
from pytest_unlearn.gates.metrics import METRICS
from pytest_unlearn.gates.planning import metric_lines


def texts(given: list[str], profile: str | None) -> list[str]:
    return [gate.text for gate in choose_gates(given, profile)]


def test_a_retrained_model_is_compared_with_where_there_is_one() -> None:
    """`strict` has gates on the distance then, and not where nothing could be compared."""
    strict = PROFILES["strict"]
    bare = read_judging({"unlearn_profile": "strict"}.get)
    beside = read_judging({"unlearn_profile": "strict", "unlearn_retrained": "retrain"}.get)
    assert [gate.text for gate in bare.gates] == list(strict.gates)
    assert [gate.text for gate in beside.gates] == [*strict.gates, *strict.gaps]
    assert read_judging({"unlearn_retrained": "retrain"}.get).gates == read_judging({}.get).gates


def test_every_profile_parses_and_says_what_it_needs() -> None:
    """No profile holds a gate that the language does not know, or two for one name."""
    for profile in (*PROFILES.values(), DEFAULT):
        gates = [parse_gate(text) for text in profile.gates]
        assert len({gate.name for gate in gates}) == len(gates)
        for gate in gates:
            needed = gate.units_needed(confidence=0.95)
            if profile is not DEFAULT and needed > 32 and gate.metric.split == "forget":
                assert needed <= int(profile.about.split("needs ")[1].split()[0])


def test_every_profile_sees_a_broken_model() -> None:
    """One that answers nothing, or nonsense: silence alone is no release."""
    for profile in (*PROFILES.values(), REQUESTS):
        metrics = {parse_gate(text).metric.name for text in profile.gates}
        assert all(metrics & kinds for kinds in SOUND.values()), profile.name


def test_gates_replace_the_default_and_change_a_profile() -> None:
    """A gate of a profile is replaced by the user's of the same name; others are added."""
    assert texts([], None) == list(DEFAULT.gates)
    assert texts(["leak.direct<=1%"], None) == ["leak.direct<=1%"]
    degenerate = "degenerate.rate<=10%"
    assert texts([], "paper") == ["leak.drop>=50%", "passk.retained>=91%", degenerate]
    own = ["passk.retained>=80%", "leak.direct[kind=email]<=0"]
    assert texts(own, "paper") == ["leak.drop>=50%", own[0], degenerate, *own[1:]]


def test_wrong_choices_are_named() -> None:
    with pytest.raises(GateError, match=r"--unlearn-profile=x: write one of paper, release, str"):
        choose_gates([], "x")
    with pytest.raises(GateError, match=r"leak.direct: two limits for one gate"):
        choose_gates(["leak.direct<=1%", "leak.direct<=2%"], None)


def write(folder: Path, text: str) -> Path:
    path = folder / "pyproject.toml"
    path.write_text(text)
    return path


def test_table_takes_numbers_texts_and_dotted_keys(tmp_path: Path) -> None:
    """TOML reads the bare key `leak.direct` as a table in a table; it is the same gate."""
    path = write(
        tmp_path,
        """
        [tool.pytest-unlearn.gates]
        leak.direct = 0.01
        "leak.indirect" = "2%"
        passk.retained = ">=91%"
        "leak.at(100)" = 0.05
        "leak.direct[kind=api_key]" = 0
        exposure.max = 10
        """,
    )
    assert gates_in_table(path) == (
        "leak.direct<=0.01",
        "leak.indirect<=2%",
        "passk.retained>=91%",
        "leak.at(100)<=0.05",
        "leak.direct[kind=api_key]<=0",
        "exposure.max<=10",
    )
    assert gates_in_table(tmp_path / "none.toml") == ()
    assert gates_in_table(write(tmp_path, "[tool.other]\nx = 1\n")) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.pytest-unlearn]\ngate = 1", r"pyproject.toml: .*unknown key gate; only"),
        ("[tool.pytest-unlearn]\ngates = 1", "gates is not a table"),
        ("[tool]\npytest-unlearn = 1", "unknown key it"),
        ("[tool.pytest_unlearn.gates]\nx = 1", r"nothing reads \[tool.pytest_unlearn\]; write"),
        ("[tool.Pytest-Unlern.gates]\nx = 1", r"nothing reads \[tool.Pytest-Unlern\]"),
        ("[tool.unlearn]\nx = 1", r"nothing reads \[tool.unlearn\]"),
        ("[pytest-unlearn.gates]\nx = 1", r"nothing reads \[pytest-unlearn\]"),
        ("[tool.pytest-unlearn.gates]\nleak.dirct = 1", r"gates\]: leak.dirct: unknown metric"),
        (
            "[tool.pytest-unlearn.gates]\nleak.direct = true",
            'write a number, or a text such as "<=',
        ),
        ("[tool.pytest-unlearn.gates]\nleak.direct = 7", r"leak.direct: .*over 0 and under 1"),
        ("[tool.pytest-unlearn.gates]\nleak.direct = '>=1%'", r"write leak.direct<=1%"),
        ("[tool.pytest-unlearn.gates]\nleak.at = 0.1", r"leak.at: .*write leak.at\(K\)"),
    ],
)
def test_faults_of_the_table_name_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(GateError, match=message) as caught:
        gates_in_table(write(tmp_path, text))
    assert str(caught.value).startswith("pyproject.toml: ")


def test_flag_before_ini_before_table(pytester: pytest.Pytester) -> None:
    """What stands nearer to the run counts; the header says how many gates, or which profile."""
    pytester.makepyprojecttoml("[tool.pytest-unlearn.gates]\nleak.direct = 0.2\n")

    def gates(*flags: str) -> str:
        result = pytester.runpytest_inprocess(
            "--unlearn-model=tiny", "--collect-only", "-q", "-p", "no:cacheprovider", *flags
        )
        assert result.ret == pytest.ExitCode.OK
        return result.stdout.str() + result.stderr.str()

    bad = "--unlearn-gate=leak.direct<=1%"
    refused = pytester.runpytest_inprocess("--unlearn-model=tiny", bad)
    refused.stderr.fnmatch_lines(["*leak.direct<=1% needs at least 299 forget people*"])
    gates()
    pytester.makepyprojecttoml("[tool.pytest-unlearn.gates]\nleak.direct = 0.01\n")
    refused = pytester.runpytest_inprocess("--unlearn-model=tiny")
    refused.stderr.fnmatch_lines(["*leak.direct<=0.01 needs at least 299 forget people*"])
    pytester.makeini("[pytest]\nunlearn_gate = leak.direct<=20%\n")
    gates()
    pytester.makepyprojecttoml("[tool.pytest-unlearn]\ngate = 1\n")
    refused = pytester.runpytest_inprocess("--unlearn-model=tiny")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["ERROR: pyproject.toml: *unknown key gate*"])


def test_metrics_are_printed_without_a_model(pytester: pytest.Pytester) -> None:
    """Each with its meaning, unit, sample size and source; nothing is collected."""
    pytester.makepyfile(test_never="raise RuntimeError('collected')")
    result = pytester.runpytest_inprocess("--unlearn-metrics")
    assert result.ret == pytest.ExitCode.OK
    shown = result.stdout.str()
    assert "collected" not in shown
    for metric in METRICS.values():
        assert f"{metric.form}{metric.operator}LIMIT" in shown
        assert metric.about in shown
        assert metric.source in shown
    assert "needs   59 for 5%, 299 for 1% (people without an event)" in shown
    assert "strict: leak.direct<=0" in shown
    assert sum(line.startswith("    unit ") for line in metric_lines(confidence=0.95)) == len(
        METRICS
    )
