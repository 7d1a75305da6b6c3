"""What a user's own code prints, logs, raises or records loses every part of a value."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_unlearn.core.secret import REDACTED, SHORTEST_PART, without
from pytest_unlearn.session.redaction import Redactor
from tests.support.lookup_run import FORGET, UnlearnRun, record_lines, write_lines, written

# Long enough for pytest to shorten, with all that is escaped; all tests use the same two.
FORGOTTEN = record_lines("forget", FORGET)
for number, line in enumerate(FORGOTTEN):
    line["value"] = (
        f"Orchard {number:03d} 'M\xfcller' \\ and first#{number:03d} Quagmire \"Lane\" east"
    )
VALUES = [FORGOTTEN[0]["value"], FORGOTTEN[1]["value"]]
PARTS = {
    value[at : at + SHORTEST_PART].lower()
    for value in VALUES
    for at in range(len(value) - SHORTEST_PART + 1)
}


def shown_parts(text: str) -> list[str]:
    return sorted(part for part in PARTS if part in text.lower())


def run_own(run: UnlearnRun, source: str, *flags: str, conftest: str = "") -> pytest.RunResult:
    """Run a test module on two values; check that nothing holds a part of either."""
    folder = run.pytester.path
    run.lookup(also=conftest)
    run.pytester.makepyfile(test_own=source)
    arguments = [*run.arguments(), *run.gates(flags)]
    write_lines(folder / "forget.jsonl", FORGOTTEN)
    result = run.pytester.runpytest_inprocess(
        *arguments, "-k", "forget-000 or forget-001 or test_alone", "--junitxml=junit.xml", *flags,
        "test_own.py",
    )  # fmt: skip
    screen = "\n".join([*result.outlines, *result.errlines])
    mine = ("forget.jsonl", "retain.jsonl", "control.jsonl", "conftest.py", "store/completions/")
    for name, text in [("screen", screen), *written(folder, *mine)]:
        assert not shown_parts(text), (name, shown_parts(text)[:3])
    return result


COMPARED = """
def test_equal(unlearn_probe):
    assert unlearn_probe.value.reveal() == "Somebody else entirely " * 9

def test_inside(unlearn_probe):
    assert unlearn_probe.value.reveal() in ["a", "b"] * 30

def test_pieces(unlearn_probe):
    assert unlearn_probe.value.reveal().split("#") == ["x"]

def test_bytes(unlearn_probe):
    assert unlearn_probe.value.reveal().encode() == b"x"

def test_twice(unlearn_probe):
    assert repr(repr(unlearn_probe.value.reveal())) == ""

def test_upper(unlearn_probe):
    assert {unlearn_probe.value.reveal().upper(): [unlearn_probe.value.reveal()[5:40]]} == {}
"""


@pytest.mark.parametrize("flags", [("-q",), (), ("-v",), ("-vv", "--showlocals")])
def test_assertions_of_ones_own(unlearn_run: UnlearnRun, flags: tuple[str, ...]) -> None:
    result = run_own(unlearn_run, COMPARED, *flags)
    assert result.parseoutcomes()["failed"] == 12
    assert REDACTED in result.stdout.str()


REPORTED = """
import logging
import pytest
from hypothesis import event, given, note, settings, strategies as st

def test_xfail(unlearn_probe, request):
    request.applymarker(pytest.mark.xfail(reason=f"knows {unlearn_probe.value.reveal()}"))
    assert False

def test_skip(unlearn_probe):
    pytest.skip(unlearn_probe.value.reveal())

def test_subtests(unlearn_probe, subtests):
    value = unlearn_probe.value.reveal()
    with subtests.test(value, value=value, part=value[3:30]):
        print(value)
        logging.getLogger().error(value)
        assert value == ""

def test_recorded(unlearn_probe, record_property, record_testsuite_property):
    record_property("value", unlearn_probe.value.reveal())
    record_property("values", [unlearn_probe.value.reveal()])
    record_testsuite_property("suite", unlearn_probe.value.reveal())

def test_logged(unlearn_probe):
    logging.getLogger("mine").warning("it is %r", unlearn_probe.value.reveal())

def test_event(unlearn_probe):
    @settings(max_examples=5)
    @given(st.booleans())
    def holds(flag):
        event(unlearn_probe.value.reveal())
    holds()

def test_note(unlearn_probe):
    @settings(max_examples=5)
    @given(st.booleans())
    def fails(flag):
        note(unlearn_probe.value.reveal())
        assert not flag
    fails()
"""


def test_reasons_properties_logs_and_events(unlearn_run: UnlearnRun) -> None:
    flags = (
        "-rA",
        "-ojunit_family=xunit1",
        "--log-cli-level=info",
        "--log-file=run.log",
        "--hypothesis-show-statistics",
    )
    result = run_own(unlearn_run, REPORTED, "-v", *flags)
    outcomes = result.parseoutcomes()
    assert outcomes["xfailed"] == 2
    shown = result.stdout.str()
    assert f"knows {REDACTED}" in shown
    assert f"it is '{REDACTED}'" in shown
    assert f"[{REDACTED}]" in shown
    folder = Path(unlearn_run.pytester.path)
    assert f"it is '{REDACTED}'" in (folder / "run.log").read_text()
    assert (
        f'name="value" value="{REDACTED.replace("<", "&lt;").replace(">", "&gt;")}"'
        in (folder / "junit.xml").read_text()
    )


HOOK = """
import pytest
from pytest_unlearn.session.session import SESSION

def told(config):
    return sorted(config.stash[SESSION].dataset.values)

@pytest.hookimpl(trylast=True)
def {hook}:
    {raises}
"""
HOOKS = {
    "exit": ("pytest_runtest_setup(item)", "pytest.exit(f'no {told(item.config)[0]}')"),
    "exit at start": ("pytest_sessionstart(session)", "pytest.exit(told(session.config)[0])"),
    "usage error": (
        "pytest_collection_modifyitems(config, items)",
        "raise pytest.UsageError(f'no {told(config)[0]}')",
    ),
    "stopped": (
        "pytest_runtest_setup(item)",
        "item.session.shouldstop = told(item.config)[0]",
    ),
    "error in collection": (
        "pytest_collection_modifyitems(config, items)",
        "raise ValueError(told(config)) from KeyError(told(config)[1])",
    ),
    "error in a summary": (
        "pytest_terminal_summary(terminalreporter)",
        "raise ValueError(told(terminalreporter.config)[0])",
    ),
    "error at the end": (
        "pytest_sessionfinish(session)",
        "raise pytest.exit.Exception(told(session.config)[0])",
    ),
}


@pytest.mark.parametrize("flags", [(), ("--full-trace",)])
@pytest.mark.parametrize("name", HOOKS)
def test_errors_of_hooks(unlearn_run: UnlearnRun, name: str, flags: tuple[str, ...]) -> None:
    """What ends the run from outside of a test."""
    hook, raises = HOOKS[name]
    source = "def test_alone():\n    pass\n"
    conftest = HOOK.format(hook=hook, raises=raises)
    try:
        result = run_own(unlearn_run, source, *flags, conftest=conftest)
        shown = result.stdout.str() + result.stderr.str()
    except ValueError as error:  # pytest lets the errors of summaries through
        shown = str(error)
    assert REDACTED in shown
    assert not shown_parts(shown)


def test_a_json_report_is_cleaned_as_a_whole() -> None:
    """pytest-json-report asks for it by a hook."""
    clean = lambda text: without(text, frozenset(VALUES))  # noqa: E731
    redactor = Redactor(Path(), clean, SimpleNamespace())  # type: ignore[arg-type]
    report: dict[str, Any] = {
        "tests": [
            {"call": {"log": [{"msg": "it is %s", "args": (VALUES[0], 3)}]}, "duration": 0.5}
        ],
        "environment": {VALUES[1]: None},
    }
    redactor.pytest_json_modifyreport(report)
    assert not shown_parts(json.dumps(report, ensure_ascii=False))
    assert report["tests"][0]["duration"] == 0.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see arrowhor...", "see <redacted>..."),
        ("'arrowhornet334@exa...e.com'", "'<redacted>...e.com'"),
        ("ARROWHORNET334", "<redacted>"),
        ("arrowho net334@e", "arrowho <redacted>"),
        ("https://host", "https://host"),
        ("a pin: 4711, 14711, x4711", "a pin: <redacted>, 14711, x4711"),
        ("Bo or Bob", "<redacted> or Bob"),
        ("MIIEvQIBADANBg", "<redacted>"),
        ("-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----"),
        ("", ""),
    ],
)
def test_what_is_a_part(text: str, expected: str) -> None:
    values = frozenset(
        ["arrowhornet334@example.com", "https://ann:swordfish@corp.example.com/x", "4711", "Bo",
         f"{'-' * 5}BEGIN PRIVATE KEY{'-' * 5}\nMIIEvQIBADANBg\n{'-' * 5}END PRIVATE KEY{'-' * 5}"]
    )  # fmt: skip
    assert without(text, values) == expected


HOSTILE = "\x1b[31mred\x1b]0;title\x07\n::error::boo\n  ::add-mask::x\ny ##[error]z\r\u202e\ud800"


def check_harmless(shown: str) -> None:
    shown.encode("utf-8")
    assert not set("\x1b\x07\r\u202e") & set(shown)
    assert not any(line.lstrip().startswith("::") for line in shown.splitlines())
    assert "##[" not in shown


@pytest.mark.parametrize("flags", [("--color=yes",), ("-vv",)])
def test_values_that_are_shown_steer_nothing(
    unlearn_run: UnlearnRun, flags: tuple[str, ...]
) -> None:
    """Nor do they give GitHub commands."""
    unlearn_run.lookup(said={f"direct-{record_lines('forget', 1)[0]['id']}": HOSTILE})
    unlearn_run.pytester.makepyfile(
        test_own="def test_it(unlearn_probe, unlearn_completions):\n    assert 0"
    )
    result = unlearn_run("--unlearn-show-values", "-k", "forget-000", "test_own.py", *flags)
    shown = result.stdout.str()
    section = shown[shown.index("unlearn values") :]
    section = section[section.index("value: ") : section.index("\n=")]
    assert "red" in section
    check_harmless(section.replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\x1b[31m===", ""))


def test_a_hostile_model_name_is_only_text(unlearn_run: UnlearnRun) -> None:
    """In a usage error, where it is no model."""
    unlearn_run.model = HOSTILE.replace("\ud800", "")
    result = unlearn_run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    shown = result.stderr.str() + result.stdout.str()
    assert "error" in shown
    check_harmless(shown)
