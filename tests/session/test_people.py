"""Generated people through the plugin: data, header, plan, manifest, and refused options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_unlearn.people.generate import make_records, parse_people, write_people
from pytest_unlearn.people.record import records_digest
from tests.support.lookup_run import UnlearnRun, task_lines, write_lines

ORDER = "64:locales=de_DE/ja_JP,kinds=email/city/phone,retain=40,control=30,seed=3"


@pytest.fixture
def ordered_run(unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch) -> UnlearnRun:
    """A run that gets its people from the flags of the test."""
    folder = unlearn_run.pytester.path
    tasks = write_lines(folder / "tasks.jsonl", task_lines(30))
    flags = [f"--unlearn-tasks={tasks}", f"--unlearn-store={folder / 'store'}"]
    monkeypatch.setattr(unlearn_run, "arguments", lambda: ["--unlearn-model=tiny", *flags])
    unlearn_run.lookup()
    return unlearn_run


def test_people_to_order_are_judged_as_others_are(ordered_run: UnlearnRun) -> None:
    """What came out of which order stands in the head and in the manifest."""
    result = ordered_run(f"--unlearn-people={ORDER}", "--unlearn-report=summary")
    assert result.ret == pytest.ExitCode.OK
    digest = records_digest(make_records(parse_people(ORDER)))
    result.stdout.fnmatch_lines(
        [
            "unlearn: generated people: 64 forget + 40 retain + 30 control, 268 records; Faker *, "
            f"seed 3, digest {digest[:16]}",
            "*leak.direct*0 (0.0%)*(64)*PASS",
        ]
    )
    summary = json.loads((ordered_run.pytester.path / "unlearn-summary.json").read_text())
    data = summary["provenance"]["data"]
    assert data["records"] == data["people"]["digest"] == digest
    assert data["people"]["people"] == {"forget": 64, "retain": 40, "control": 30}


def test_people_read_back_are_the_same_run(ordered_run: UnlearnRun, tmp_path: Path) -> None:
    """The store serves both: nothing is generated again."""
    write_people(parse_people(ORDER), tmp_path)
    assert ordered_run(f"--unlearn-people={ORDER}").ret == pytest.ExitCode.OK
    made = len(ordered_run.generated())
    files = [f"--unlearn-{s}={tmp_path / s}.jsonl" for s in ("forget", "retain", "control")]
    assert ordered_run(*files).ret == pytest.ExitCode.OK
    assert len(ordered_run.generated()) == made > 0


def test_a_saved_run_of_other_people_is_named(ordered_run: UnlearnRun) -> None:
    assert ordered_run(f"--unlearn-people={ORDER}", "--unlearn-save=last").ret == 0
    result = ordered_run("--unlearn-people=64", "--unlearn-compare=last")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*other records and people (64:retain=40*by generator 1 and Faker * there, 64:*"]
    )


def test_the_plan_counts_people_to_order(ordered_run: UnlearnRun) -> None:
    result = ordered_run("--unlearn-people=5000:retain=100,control=100", "--unlearn-plan")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*generated people: 5000 forget*", "leak.direct* 10000 *5000*"])
    assert ordered_run.generated() == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--unlearn-people=x"], "*--unlearn-people: 'x' is not a number of people to forget*"),
        (["--unlearn-people=9:kinds=emial"], "*--unlearn-people: kinds=emial*did you mean email*"),
        (
            ["--unlearn-people=9", "--unlearn-retain=retain.jsonl"],
            "*--unlearn-people makes all people of a run, and --unlearn-retain names others*",
        ),
        (
            ["--unlearn-people=900:kinds=ipv4,per_person=1"],
            "*--unlearn-people: there is no unused value of ipv4*",
        ),
    ],
)
def test_a_wrong_order_ends_before_anything_runs(
    ordered_run: UnlearnRun, flags: list[str], message: str
) -> None:
    result = ordered_run(*flags)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    assert ordered_run.generated() == []
