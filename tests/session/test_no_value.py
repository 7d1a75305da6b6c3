"""No value, name or prompt comes out of a run, in clear or encoded, whatever fails in it."""

from __future__ import annotations

import base64
import html
import json
import re
import urllib.parse
from collections.abc import Iterator

import pytest

from pytest_unlearn.core.secret import without
from pytest_unlearn.reports.formats import FORMATS, STEP_SUMMARY
from tests.support.lookup_run import (
    FORGET,
    UnlearnRun,
    forget_ids,
    record_lines,
    write_lines,
    written,
)

EVERY_FORMAT = [f"--unlearn-report={name}" for name in FORMATS]
# What pytest itself escapes: line ends, quotes, letters outside ASCII, signs of HTML and URLs.
AWKWARD = {
    "line ends": "-- begin %03d --\nfirst + second/line\n-- end --",
    "quotes": 'o\'neill "%03d" <b>&amp;',
    "letters": "Zo\xeb \u0141ukasz %03d \U0001f511",
}


def forms(value: str) -> Iterator[str]:
    """Yield how a value can stand in a file: as it is, escaped, encoded, reversed."""
    raw = value.encode()
    yield value
    yield value[::-1]
    yield from (repr(value)[1:-1], ascii(value)[1:-1], json.dumps(value)[1:-1])
    yield "".join(f"\\u{ord(letter):04x}" for letter in value if ord(letter) < 2**16)
    yield from (html.escape(value), urllib.parse.quote(value), urllib.parse.quote_plus(value))
    yield raw.hex()
    for shift in range(3):  # whatever it stands behind
        coded = base64.b64encode(b"\0" * shift + raw).decode()
        inner = coded[4 if shift else 0 : len(coded) // 4 * 4 - 4]
        yield from (inner, inner.replace("+", "-").replace("/", "_"))


def awkward(split: str, count: int) -> list[dict[str, str]]:
    """Return records of a kind for each sort of value, with names."""
    lines = record_lines(split, count)
    for number, line in enumerate(lines):
        kind = list(AWKWARD)[number % 3]
        line["value"] = f"{split} {AWKWARD[kind] % number}"
        line["name"] = f"{split.title()} N\xe1me{number // 2:03d}"
        line["prompt"] = f"# {line['name']}\n{split}_{number} = '"
    return lines


FORGOTTEN = awkward("forget", FORGET)
PERSONAL = [line[key] for line in FORGOTTEN for key in ("value", "owner", "name", "prompt")]
NEEDLES = sorted({form for text in PERSONAL for form in forms(text) if len(form) > 7})


def found_in(text: str) -> list[str]:
    return [needle for needle in NEEDLES if needle in text]


def test_the_scan_can_tell() -> None:
    """Each form is found, also in the middle of something encoded."""
    value = FORGOTTEN[2]["value"]
    for text in (
        *(value, value[::-1], repr(value), ascii(value), json.dumps([value]), html.escape(value)),
        *(urllib.parse.quote(value), value.encode().hex()),
        *(base64.b64encode(f"{'x' * n}{value} and more".encode()).decode() for n in range(3)),
    ):
        assert found_in(text), text
        assert not found_in(text[:6])


def run_on_awkward(run: UnlearnRun, *flags: str) -> pytest.RunResult:
    folder = run.pytester.path
    arguments = [
        *run.arguments(),
        *run.gates(flags),
    ]  # writes its own records, which are replaced here
    write_lines(folder / "forget.jsonl", FORGOTTEN)
    return run.pytester.runpytest_inprocess(*arguments, *flags)


def scan(run: UnlearnRun, result: pytest.RunResult) -> None:
    screen = "\n".join([*result.outlines, *result.errlines])
    mine = ("forget.jsonl", "retain.jsonl", "control.jsonl", "conftest.py", "store/completions/")
    for name, text in [("screen", screen), *written(run.pytester.path, *mine)]:
        assert not found_in(text), (name, found_in(text)[:1])
    for path in (run.pytester.path / "store").rglob("*"):
        assert not found_in(path.name)


# One of each awkward kind.
THREE = "forget-000 or forget-001 or forget-002"
MINE = """
import logging, warnings
import pytest
from hypothesis import given, settings, strategies as st

def test_record_in_locals(unlearn_probe, unlearn_completions):
    record, everything = unlearn_probe, [unlearn_completions, vars]
    text = unlearn_completions.base.text
    shown = {"record": record, "list": [text], "format": f"{text} {record!s} {record.value!r}"}
    logging.getLogger("mine").error("%r %s", shown, text)
    warnings.warn(f"{shown}")
    print(shown)
    assert (record, text) == (record.value, shown)

def test_revealed(unlearn_probe, unlearn_completions):
    told = unlearn_probe.value.reveal()
    warnings.warn(f"warned of {told}")
    print("it is", told)
    try:
        raise KeyError(told)
    except KeyError as error:
        raise ValueError(f"no {told!r}") from error

def test_skipped(unlearn_probe):
    pytest.skip(f"not {unlearn_probe.value.reveal()}")

def test_compared(unlearn_probe, unlearn_completions):
    assert unlearn_probe.value.reveal() == "something else"

def test_drawn(unlearn_probe):
    @settings(max_examples=3)
    @given(st.just(unlearn_probe.value), st.integers())
    def fails(value, number):
        assert number < 0, (value, unlearn_probe)
    fails()
"""


def test_failing_tests_of_ones_own(
    unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records and completions in locals, values that the test itself revealed, Hypothesis'
    messages and database, skips, logs, and every report."""
    folder = unlearn_run.pytester.path
    monkeypatch.setenv(STEP_SUMMARY, str(folder / "step.md"))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    unlearn_run.lookup(leaking=forget_ids(0))
    unlearn_run.pytester.makepyfile(test_mine=MINE)
    flags = (
        "-vv",
        "--showlocals",
        "-rA",
        "--log-file=run.log",
        "--junitxml=junit.xml",
        "-Wdefault",
    )
    result = run_on_awkward(unlearn_run, *flags, *EVERY_FORMAT, "-k", THREE, "test_mine.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    shown = result.stdout.str()
    for needle in (
        "it is <redacted>",
        "no '<redacted>'",
        "KeyError: '<redacted>'",
        "told ",
        "warned of <redacted>",
    ):
        assert needle in shown
    assert re.search(r"^record += ", shown, flags=re.MULTILINE)
    scan(unlearn_run, result)


BROKEN = """
import pytest

PLACES = (
    "pytest_unlearn.testing.LookupModel.complete",
    "pytest_unlearn.testing.LookupModels.answer",
    "pytest_unlearn.leaks.outcome.Detector.outcome",
    "pytest_unlearn.run.measuring.Measuring.run_probe",
)

def fail(*arguments, **named):
    held = arguments, named
    raise RuntimeError("broken")

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    number = int(item.name.rpartition("-")[2].strip("]"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PLACES[number % len(PLACES)], fail)
        return (yield)
"""


def test_errors_inside(unlearn_run: UnlearnRun) -> None:
    """Each test meets another part that fails with prompts and values in its frames: the traceback
    goes down to the place, without arguments and variables, and the message stays."""
    unlearn_run.lookup(also=BROKEN)
    flags = ("-vv", "--showlocals", "-rA", "--tb=long", "--junitxml=junit.xml", *EVERY_FORMAT)
    result = run_on_awkward(unlearn_run, *flags, "-k", f"{THREE} or forget-003")
    assert result.parseoutcomes()["errors"] == 8
    result.stdout.fnmatch_lines(["*RuntimeError: broken*"])
    scan(unlearn_run, result)


UNREADABLE = """
import json
from pathlib import Path

value = json.loads(Path("forget.jsonl").read_text().splitlines()[NUMBER])["value"]
raise ValueError(f"not {value}")
"""
BREAKING_PYTEST = """
import pytest

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    from pytest_unlearn.session.session import SESSION
    values = list(config.stash[SESSION].dataset.values)
    raise ValueError(f"no {values[0]!r}") from KeyError(values[1])
"""


@pytest.mark.parametrize("trace", [(), ("--fulltrace",)])
@pytest.mark.parametrize("workers", [(), ("-n1",)])
def test_errors_outside_of_tests(
    unlearn_run: UnlearnRun, trace: tuple[str, ...], workers: tuple[str, ...]
) -> None:
    """A file that cannot be collected, and a hook that fails."""
    unlearn_run.lookup()
    for number in range(3):
        name = f"test_unreadable_{number}"
        unlearn_run.pytester.makepyfile(**{name: UNREADABLE.replace("NUMBER", str(number))})
    flags = ("-vv", "--showlocals", *trace, *workers, "--junitxml=junit.xml")
    result = run_on_awkward(unlearn_run, *flags, *(f"test_unreadable_{n}.py" for n in range(3)))
    result.stdout.fnmatch_lines(["E *ValueError: not <redacted>"])
    assert "second/line" not in result.stdout.str()
    scan(unlearn_run, result)
    unlearn_run.lookup(also=BREAKING_PYTEST)
    result = run_on_awkward(unlearn_run, *flags)
    shown = result.stdout.str() + result.stderr.str()
    assert "ValueError: no '<redacted>'" in shown
    assert "KeyError: '<redacted>'" in shown
    scan(unlearn_run, result)


def test_a_longer_value_goes_first() -> None:
    """A part of it would otherwise leave the rest behind."""
    values = frozenset(["ann", "ann@example.com", "a\nb"])
    assert without("ann@example.com, ann, 'a\\nb'", values) == (
        "<redacted>, <redacted>, '<redacted>'"
    )


def test_a_line_of_a_value_is_none_of_it() -> None:
    """pytest puts something in front of each line of a message; a line of a few signs may stay."""
    values = frozenset(["--begin--\n{\n  secret=12\n}"])
    assert without("E  --begin--\nE  {\nE    secret=12\nE  }", values) == (
        "E  <redacted>\nE  {\nE    <redacted>\nE  }"
    )


def test_values_are_shown_where_asked_for(unlearn_run: UnlearnRun) -> None:
    """Then nothing is taken out of a traceback."""
    unlearn_run.lookup()
    unlearn_run.pytester.makepyfile(
        test_mine="def test_it(unlearn_probe):\n    raise ValueError(unlearn_probe.value.reveal())"
    )
    result = unlearn_run("--unlearn-show-values", "-k", "000", "test_mine.py")
    result.stdout.fnmatch_lines(["E *ValueError: forgetvalue000@example.com"])
    hidden = unlearn_run("-k", "000", "test_mine.py")
    hidden.stdout.fnmatch_lines(["E *ValueError: <redacted>"])
