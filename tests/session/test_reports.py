"""Reports of whole runs: written on the controller, with no value in them, and no false verdict."""

from __future__ import annotations

import csv
import html
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from pytest_unlearn.reports.formats import FORMATS, STEP_SUMMARY
from tests.support.lookup_run import (
    CONTROL,
    FORGET,
    RETAIN,
    TASKS,
    UnlearnRun,
    forget_ids,
    record_lines,
    written,
)

ALL = FORGET + RETAIN + CONTROL + TASKS
EVERY_FORMAT = [f"--unlearn-report={name}" for name in FORMATS]
KEY = "-".join(["a", "key", "of", "the", "tests"])


@pytest.fixture(autouse=True)
def _no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of these tests on GitHub must not write into its own job summary."""
    for name in (STEP_SUMMARY, "GITHUB_ACTIONS", "UNLEARN_FINGERPRINT_KEY"):
        monkeypatch.delenv(name, raising=False)


def results(run: UnlearnRun, name: str = "unlearn-results.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.pytester.path / name).read_text().splitlines()]


VALUES = [
    line[key]
    for split, count in (("forget", FORGET), ("retain", RETAIN), ("control", CONTROL))
    for line in record_lines(split, count)
    for key in ("value", "owner", "prompt")
]


def test_no_value_anywhere(unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every format, two workers, failures with locals and -vv, a warning, logs, JUnit, pytest's
    cache: no value, name or prompt of any person in a file or on the screen."""
    ids = forget_ids(FORGET)
    said = dict.fromkeys(ids[40:], VALUES[-3])
    unlearn_run.lookup(leaking=ids[:40], said=said)
    folder = unlearn_run.pytester.path
    unlearn_run.pytester.makepyfile(
        test_mine="""
        import logging, warnings

        def test_mine(unlearn_probe, unlearn_completions):
            value = unlearn_probe.value
            texts = [unlearn_completions.base.text, unlearn_completions.unlearned.text]
            logging.getLogger("mine").warning("%s %s %s", value, texts, unlearn_probe)
            warnings.warn(f"{value} {unlearn_completions!r}")
            print(value, unlearn_probe.prompt, unlearn_completions)
            assert unlearn_completions.unlearned.outcome.label == "clean", texts
            assert value == texts

        def test_error(unlearn_probe, request):
            raise RuntimeError(f"{request.node.name} {unlearn_probe!r}")

        def test_revealed(unlearn_probe):
            raise ValueError(unlearn_probe.value.reveal())
        """
    )
    step = folder / "step.md"
    step.write_text("")
    monkeypatch.setenv(STEP_SUMMARY, str(step))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = unlearn_run(
        "-n2",
        "-vv",
        "--showlocals",
        "-rA",
        "--log-file=run.log",
        "--junitxml=junit.xml",
        "--unlearn-probe-outcome=fail",
        f"--deselect={VALUES[0]}",  # the command line stands in the manifest
        *EVERY_FORMAT,
        "test_mine.py",
        subprocess=True,
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    screen = "\n".join([*result.outlines, *result.errlines])
    mine = ("forget.jsonl", "retain.jsonl", "control.jsonl", "conftest.py", "store/completions/")
    mine = (*mine, "__pycache__/")  # conftest.py, compiled
    files = dict(written(folder, *mine))
    assert {"junit.xml", "run.log", "step.md", *(f.path for f in FORMATS.values())} <= set(files)
    assert any(name.startswith(".pytest_cache/") for name in files)
    for needle in ("<email ", "leaked: direct", "unlearn-results.jsonl", "::error title="):
        assert needle in screen
    assert "<redacted>" in files["unlearn-summary.json"]
    for name, text in [("screen", screen), *files.items()]:
        found = [value for value in VALUES if value in text]
        assert not found, (name, found[:1])
    # All workers and the controller fingerprint with one key.
    shown = set(re.findall(r"^value += (<email \w{8}>)$", screen, flags=re.MULTILINE))
    told = {text for row, text in fingerprints(unlearn_run).items() if "email-forget" in row}
    assert shown == told
    assert len(told) == FORGET // 2
    for path in (folder / "store").rglob("*"):  # what the model wrote, for the owner only
        assert not [value for value in VALUES if value in path.name]


def test_the_store_is_the_owners(unlearn_run: UnlearnRun) -> None:
    """Its folder lets nobody else in, and its entries are readable by the owner only."""
    umask = os.umask(0)
    try:
        unlearn_run.lookup()
        unlearn_run("-k", "direct-email-forget-000")
    finally:
        os.umask(umask)
    store = unlearn_run.pytester.path / "store"
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    entries = list((store / "completions").rglob("*.json"))
    assert entries
    assert {stat.S_IMODE(path.stat().st_mode) for path in entries} == {0o600}


def test_values_are_shown_only_where_asked_for(unlearn_run: UnlearnRun) -> None:
    """Announced in the header; in reports of cases and below failing tests, and nowhere else."""
    unlearn_run.lookup(leaking=forget_ids(1))
    flags = [*EVERY_FORMAT, "--junitxml=junit.xml", "--unlearn-probe-outcome=fail"]
    value = VALUES[0]
    result = unlearn_run(*flags, "--unlearn-show-values")
    result.stdout.fnmatch_lines(["unlearn: VALUES ARE SHOWN (--unlearn-show-values)*"])
    result.stdout.fnmatch_lines(["*unlearn values*", f"value: {value}", "base wrote: *"])
    holding = {
        name
        for name, text in written(unlearn_run.pytester.path, "store/", "forget.jsonl")
        if value in text
    }
    assert holding == {"unlearn-report.html", "unlearn-results.jsonl", "unlearn-results.csv"}
    (first,) = (row for row in results(unlearn_run) if row.get("id") == "direct-email-forget-000")
    assert (first["value"], first["base_text"], first["tested_text"]) == (value,) * 3
    unlearn_run(*flags).stdout.no_fnmatch_line("*VALUES ARE SHOWN*")
    assert value not in (unlearn_run.pytester.path / "unlearn-results.csv").read_text()


def fingerprints(run: UnlearnRun) -> dict[str, str]:
    return {row["id"]: row["shown"] for row in results(run) if "shown" in row}


def test_fingerprints_match_reports_by_key_only(
    unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal in all runs with the same key, by flag or by environment; else new in each run."""
    unlearn_run.lookup()
    seen = []
    for flags, variable in (
        ([f"--unlearn-fingerprint-key={KEY}"], ""),
        ([], KEY),
        ([f"--unlearn-fingerprint-key={KEY}x"], KEY),
        ([], ""),
    ):
        monkeypatch.setenv("UNLEARN_FINGERPRINT_KEY", variable)
        unlearn_run("-k", "direct", "--unlearn-report=jsonl", *flags)
        seen.append(fingerprints(unlearn_run))
        text = (unlearn_run.pytester.path / "unlearn-results.jsonl").read_text()
        assert KEY not in text
    assert len(seen[0]) == FORGET + RETAIN + CONTROL
    assert seen[0] == seen[1]
    assert len({fingerprint["direct-email-forget-000"] for fingerprint in seen}) == 3


def test_manifest_and_cost(unlearn_run: UnlearnRun) -> None:
    """Keys, data, settings and command are told, time and memory by phase, in each artifact, and
    workers' phases are added up."""
    unlearn_run.lookup(leaking=forget_ids(9))
    flags = ("-n2", *EVERY_FORMAT, "--junitxml=junit.xml", "--unlearn-seed=3")
    result = unlearn_run(*flags, subprocess=True)
    folder = unlearn_run.pytester.path
    manifest = json.loads((folder / "unlearn-summary.json").read_text())["provenance"]
    assert set(manifest["models"]) == {"base", "unlearned"}
    assert manifest["models"]["base"] != manifest["models"]["unlearned"]
    assert manifest["data"]["counts"] == {
        "forget": FORGET,
        "retain": RETAIN,
        "control": CONTROL,
        "tasks": TASKS,
    }
    assert [file["name"] for file in manifest["data"]["files"]][-1] == "tasks.jsonl"
    assert manifest["settings"]["judging"]["gates"][0] == "leak.direct<=10%"
    assert manifest["settings"]["seed"] == 3
    assert "fingerprint_key" not in manifest["settings"]
    assert "--unlearn-seed=3" in manifest["command"]
    assert {"pytest", "torch"} <= set(manifest["versions"])
    assert {phase["name"] for phase in manifest["phases"]} == {"models", "completions", "sandbox"}
    assert all(phase["memory"] > 2**20 for phase in manifest["phases"])
    assert 0 < manifest["seconds"] < 300
    result.stdout.fnmatch_lines(["time * s, memory * MiB; models * s (*), completions *sandbox *"])
    digest = manifest["data"]["records"]
    told = [
        *(digest[:12], manifest["data"]["tasks"][:12], manifest["data"]["files"][0]["sha256"][:12]),
        *(manifest["models"]["unlearned"]["lookup"][:12], "--unlearn-seed=3", manifest["started"]),
        *("confidence", "batch_size", "completions", manifest["versions"]["torch"]),
        *(manifest["host"]["system"], manifest["host"]["python"]),
    ]
    for name in FORMATS.values():
        holder = folder / (name.path + (".manifest.json" if name.manifest_beside else ""))
        text = html.unescape(holder.read_text())
        assert not [part for part in told if part not in text], name
    suite = ET.parse(folder / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    properties = {p.get("name"): p.get("value") for p in suite.iterfind("properties/property")}
    assert properties["unlearn.data.records"] == digest
    assert not [part for part in told if not any(part in f"{k} {v}" for k, v in properties.items())]
    assert properties["unlearn.verdict"] == "NOT FOR RELEASE"
    with (folder / "unlearn-results.csv").open() as file:
        assert sum(1 for _ in csv.DictReader(file)) == ALL


def test_a_data_digest_follows_the_data(unlearn_run: UnlearnRun) -> None:
    """Another value, another digest."""
    digests = []
    for value in (None, "otherwise@example.com"):
        unlearn_run.lookup()
        flags = [*unlearn_run.arguments(), *unlearn_run.gates(())]
        if value:
            path = unlearn_run.pytester.path / "forget.jsonl"
            path.write_text(path.read_text().replace(VALUES[0], value))
        unlearn_run.pytester.runpytest_inprocess(*flags, "--unlearn-report=summary", "-k", "add-1")
        data = json.loads((unlearn_run.pytester.path / "unlearn-summary.json").read_text())
        digests.append(data["provenance"]["data"]["records"])
    assert digests[0] != digests[1]


def test_a_part_is_written_as_a_part(unlearn_run: UnlearnRun) -> None:
    """A selection says so; cases that were not run stand there as such."""
    unlearn_run.lookup()
    assert unlearn_run("-k", "email", "--unlearn-report=jsonl").ret == pytest.ExitCode.OK
    run, *others = results(unlearn_run)
    assert (run["verdict"], run["run"]["complete"]) == ("NO VERDICT", False)
    assert run["caveat"] == f"Only 60 of {ALL} cases were run."
    cases = [row for row in others if row["record"] == "case"]
    assert len(cases) == ALL
    assert sum(row["status"] == "not run" for row in cases) == ALL - 60


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_an_interrupted_run_keeps_what_it_had(unlearn_run: UnlearnRun, workers: str) -> None:
    """Ctrl-C: whole files with the rows so far, and no verdict."""
    unlearn_run.lookup()
    unlearn_run.pytester.makepyfile(
        test_mine="""
        import pathlib, time
        def test_mine(unlearn_probe, unlearn_completions):
            if unlearn_probe.id.endswith("003"):
                pathlib.Path("waiting").touch()
                time.sleep(3)
        """
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        *unlearn_run.arguments(),
        *unlearn_run.gates(()),
        *EVERY_FORMAT,
        workers,
    ]
    process = subprocess.Popen(
        [*command, "test_mine.py"],
        cwd=unlearn_run.pytester.path,
        stdout=subprocess.DEVNULL,
        # A shell starts what it puts in the background with Ctrl-C ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = time.monotonic() + 100
    while not (unlearn_run.pytester.path / "waiting").exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == pytest.ExitCode.INTERRUPTED
    run, *others = results(unlearn_run)
    assert run["verdict"] == "NO VERDICT"
    assert run["run"]["interrupted"]
    assert 0 < run["measured"] < FORGET
    assert sum(row.get("status") == "measured" for row in others) == run["measured"]
    for fmt in FORMATS.values():
        assert (unlearn_run.pytester.path / fmt.path).stat().st_size > 200


def test_only_the_gates_that_block_are_annotated(
    unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On GitHub only; the job summary is written there without a flag."""
    step = unlearn_run.pytester.path / "step.md"
    monkeypatch.setenv(STEP_SUMMARY, str(step))
    unlearn_run.lookup(leaking=forget_ids(20))
    quiet = unlearn_run()
    quiet.stdout.no_fnmatch_line("*::error*")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    loud = unlearn_run()
    assert [line[:34] for line in loud.outlines if line.startswith("::")] == [
        "::error title=unlearn leak.direct:"
    ]
    assert step.read_text().count("## Unlearning: NOT FOR RELEASE") == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--unlearn-report=pdf"], "--unlearn-report=pdf: 'pdf' is not a report format; *jsonl*"),
        (["--unlearn-report=html:store.jsonl/x"], "*store.jsonl is a file, not a folder*"),
        (["--unlearn-fingerprint-key=short"], "--unlearn-fingerprint-key: write 16 char*"),
    ],
)
def test_refused_before_any_model(unlearn_run: UnlearnRun, flags: list[str], message: str) -> None:
    """Nothing is generated for a report that cannot be written; the key is not repeated."""
    unlearn_run.lookup()
    (unlearn_run.pytester.path / "store.jsonl").write_text("")
    result = unlearn_run(*flags)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])
    result.stderr.no_fnmatch_line("*key=short*")
    assert unlearn_run.generated() == []


def test_a_report_that_was_not_written_is_no_success(unlearn_run: UnlearnRun) -> None:
    """All gates pass, but the file that was asked for is not there: not 0, and said."""
    unlearn_run.lookup(
        also="""
from pytest_unlearn.reports import formats
def full(*arguments, **names):
    raise OSError(28, "No space left on device")
formats._replace = full
"""
    )
    result = unlearn_run("--unlearn-report=jsonl", subprocess=True)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(
        ["NOT FOR RELEASE: 1 test failed (--unlearn-report=jsonl:*.jsonl not written)"]
    )
    result.stderr.fnmatch_lines(["*unlearn-results.jsonl: not written: No space left on device"])


def test_collecting_writes_nothing(unlearn_run: UnlearnRun) -> None:
    unlearn_run.lookup()
    unlearn_run("--collect-only", "-q", *EVERY_FORMAT)
    assert not list(unlearn_run.pytester.path.glob("unlearn-*"))
