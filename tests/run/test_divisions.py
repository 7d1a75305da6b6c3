"""What unlearning never sees: chosen by ids alone, whole people, and told row by row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.secret import Secret
from pytest_unlearn.people.generate import tiny_records
from pytest_unlearn.probes.families import build_probes
from pytest_unlearn.run.dataset import Dataset
from pytest_unlearn.run.divisions import RehearsedFileError, held_out, rehearsed_probes
from pytest_unlearn.tasks.format import TaskCase, bundled_tasks
from pytest_unlearn.unlearning.methods import parse_method
from tests.support.datasets import dataset
from tests.support.lookup_run import UnlearnRun, write_lines

FAMILIES = ("direct", "cross", "prefix", "question", "infill", "chat")


def people(count: int, split: str = "retain", first: int = 0) -> list[dict[str, Any]]:
    """Lines of so many people, two records each."""
    return [
        {
            "owner": f"{split}-{n}@id",
            "prompt": f"{split}_{kind}_{n} = ",
            "value": f"{split}-{kind}-value-{n}",
            "kind": kind,
        }
        for n in range(first, first + count)
        for kind in ("badge", "locker")
    ]


def written(folder: Path, lines: Sequence[dict[str, Any]], name: str = "retain.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    return write_lines(folder / name, lines)


def values_of(data: Dataset) -> set[str]:
    """The retained values that unlearning trains on."""
    return {text.text[text.start : text.end] for text in data.training_texts().retained_people}


def test_half_of_the_people_and_of_the_tasks_are_in_no_training_text() -> None:
    data = dataset()
    texts = data.training_texts()
    shown = {text.name for text in (*texts.retained_people, *texts.tasks)}
    held = [record for record in data.records if record.owner in data.division.people]
    assert len(data.division.people) == 128
    assert len(data.division.tasks) == 32
    assert not shown & {record.id for record in held}
    assert not shown & data.division.tasks
    everything = "\0".join(t.text for t in (*texts.forget, *texts.retained_people, *texts.tasks))
    assert not any(record.value.reveal() in everything for record in held)
    assert len(texts.forget) == 256


def test_planting_teaches_everybody() -> None:
    texts = dataset().planting_texts()
    assert len(texts.retained_people) == 512
    assert {text.name for text in texts.tasks} == {task.id for task in bundled_tasks()}


def test_the_order_of_lines_and_files_changes_nothing(tmp_path: Path) -> None:
    lines = people(12)
    whole = dataset(retain=(written(tmp_path / "a", lines),), forget=())
    turned = dataset(retain=(written(tmp_path / "b", lines[::-1]),), forget=())
    parts = [
        written(tmp_path / "c", lines[10:], "one.jsonl"),
        written(tmp_path / "c", lines[:10], "two.jsonl"),
    ]
    assert values_of(whole) == values_of(turned) == values_of(dataset(retain=tuple(parts)))
    assert 0 < len(values_of(whole)) < len(lines)


def test_one_more_person_moves_at_most_one_other() -> None:
    ids = [f"person {n}" for n in range(30)]
    before, after = held_out(ids, 0.5), held_out([*ids, "another"], 0.5)
    assert len(before ^ (after - {"another"})) <= 1


def test_people_are_held_out_whole(tmp_path: Path) -> None:
    data = dataset(retain=(written(tmp_path, people(9)),))
    trained = {r.owner for r in data.records if r.value.reveal() in values_of(data)}
    assert all(
        (record.value.reveal() in values_of(data)) == (record.owner in trained)
        for record in data.records
    )


@pytest.mark.parametrize(
    ("count", "share", "held"),
    [(1, 0.5, 0), (2, 0.5, 1), (2, 0.01, 1), (2, 0.99, 1), (10, 0.3, 3), (10, 0.0, 0)],
)
def test_both_sides_have_somebody_where_they_can(count: int, share: float, held: int) -> None:
    assert len(held_out([str(n) for n in range(count)], share)) == held


def test_rows_say_what_was_rehearsed() -> None:
    data = dataset(probes=FAMILIES)
    marked = {case.id: case.rehearsed for case in data.cases(parse_method("wga"))}
    for probe in data.probes:
        by_prompt = probe.family in ("direct", "infill")
        if probe.split == "forget" and probe.family != "prefix":
            assert marked[probe.id] == by_prompt, probe.id
        elif probe.split == "retain":
            assert marked[probe.id] == (probe.owner in data.division.trained_people)
        elif probe.split == "control":
            assert not marked[probe.id]
    assert sum(marked[case.id] for case in data.tasks) == 64


@pytest.mark.parametrize(("method", "kept"), [("none", False), ("ga", False), ("ga+gd", True)])
def test_what_no_method_trains_on_is_not_rehearsed(method: str, kept: bool) -> None:
    data = dataset()
    cases = data.cases(parse_method(method))
    retained = [c for c in cases if getattr(c, "split", "retain") == "retain" and c.rehearsed]
    assert bool(retained) is kept
    forgotten = [c for c in cases if getattr(c, "split", "") == "forget" and c.rehearsed]
    assert bool(forgotten) is (method != "none")


def test_a_held_out_person_with_a_trained_value_is_rehearsed() -> None:
    """The value itself was trained on, whoever's it is."""
    records = list(tiny_records())
    retained = [number for number, record in enumerate(records) if record.split == "retain"]
    first, other = retained[0], retained[-1]
    records[other] = replace(records[other], value=records[first].value)
    probes = build_probes(records, ("direct",))
    found = set(rehearsed_probes(probes, records, {records[first].owner}, context=False))
    assert f"direct-{records[other].id}" in found
    assert f"direct-{records[other - 1].id}" not in found


@pytest.mark.parametrize("context", [True, False])
def test_a_value_inside_a_trained_document(context: bool) -> None:
    """Whole documents teach each value in them, values alone do not."""
    records = list(tiny_records())
    retained = [number for number, record in enumerate(records) if record.split == "retain"]
    first, other = retained[0], retained[-1]
    beside = Secret(f"# {records[other].value.reveal()}\n", "document")
    records[first] = replace(records[first], before=beside)
    probes = build_probes(records, ("direct",))
    found = set(rehearsed_probes(probes, records, {records[first].owner}, context))
    assert (f"direct-{records[other].id}" in found) is context


def test_a_users_task_that_is_a_trained_one_in_disguise(tmp_path: Path) -> None:
    """By its solution: the id is the user's own."""
    division = dataset().division
    tasks = {task.id: task for task in bundled_tasks()}
    lines = [
        {
            "id": f"own-{number}",
            "entry_point": task.entry_point,
            "prompt": task.prompt(task.unseen[0]),
            "solution": task.solution,
            "tests": [{"args": list(task.tests[0].args), "expected": task.tests[0].expected}],
        }
        for number, task in enumerate(
            tasks[identity] for identity in (min(division.trained_tasks), min(division.tasks))
        )
    ]
    data = dataset(tasks=(write_lines(tmp_path / "own.jsonl", lines),))
    cases = data.cases(parse_method("wga"))
    assert len(data.division.tasks) == 1
    assert sorted(case.rehearsed for case in cases if isinstance(case, TaskCase)) == [False, True]


def test_where_no_bundled_task_is_measured_all_are_trained_on(tmp_path: Path) -> None:
    call = {"args": [], "expected": 1}
    line = {"id": "x", "entry_point": "f", "prompt": "def f():", "tests": [call]}
    data = dataset(tasks=(write_lines(tmp_path / "own.jsonl", [line]),))
    assert not data.division.tasks
    assert len(data.division.trained_tasks) == 64


def test_rehearsed_ids_of_the_user(tmp_path: Path) -> None:
    retain = written(tmp_path, people(6))
    ids = tmp_path / "seen.txt"
    ids.write_text("retain-1@id\n\nretain-4@id\nsum-list\n".replace("sum-list", _a_task()))
    data = dataset(retain=(retain,), rehearsed=(ids,))
    cases = data.cases(parse_method("none"))
    seen = {case.value.reveal() for case in cases if hasattr(case, "value") and case.rehearsed}
    assert seen == {f"retain-{kind}-value-{n}" for kind in ("badge", "locker") for n in (1, 4)}
    assert {c.task_id for c in cases if hasattr(c, "task_id") and c.rehearsed} == {_a_task()}
    # Of those that may be held out, none was seen.
    assert not {"retain-badge-value-1", "retain-badge-value-4"} - values_of(data)


def test_an_unknown_rehearsed_id(tmp_path: Path) -> None:
    ids = tmp_path / "seen.txt"
    ids.write_text("person-040\nnobody\n")
    with pytest.raises(RehearsedFileError, match=r"seen\.txt:2: no person .* no task"):
        dataset(rehearsed=(ids,))
    with pytest.raises(RehearsedFileError, match=r"--unlearn-rehearsed=.*gone"):
        dataset(rehearsed=(tmp_path / "gone",))


def _a_task() -> str:
    return bundled_tasks()[0].id


def test_no_owner_is_printed(tmp_path: Path) -> None:
    """What a user calls a person is kept for the division, and shown nowhere."""
    data = dataset(retain=(written(tmp_path, people(4)),))
    assert "@id" not in repr(data.records) + repr(data.division) + json.dumps(
        sorted(data.rehearsed(parse_method("wga")))
    )


def test_a_confirmation_forgets_people_who_were_retained() -> None:
    """As many others, drawn by the seed; whoever was to be forgotten is retained instead."""
    first, other, again, third = (dataset(confirm=seed) for seed in (None, 5, 5, 6))
    forgotten = {r.owner for r in first.records_of("forget")}
    drawn = {r.owner for r in other.records_of("forget")}
    assert len(drawn) == len(forgotten) == 128
    assert not drawn & forgotten
    assert forgotten < {r.owner for r in other.records_of("retain")}
    assert first.records_of("control") == other.records_of("control")
    assert other.records == again.records != third.records
    assert other.division.tasks == again.division.tasks != first.division.tasks
    assert len(other.division.tasks) == len(first.division.tasks)
    assert other.division.people.isdisjoint(drawn)
    probes = {probe.owner for probe in other.probes if probe.split == "forget"}
    assert probes == drawn
    assert {ex.name for ex in other.training_texts().forget} == {
        record.id for record in other.records_of("forget")
    }


def test_a_confirmation_needs_people_to_draw_from(tmp_path: Path) -> None:
    forget = written(tmp_path, people(5, "forget"), "forget.jsonl")
    retain = written(tmp_path, people(4))
    with pytest.raises(UserError, match=r"--unlearn-confirm=1: .* there are 4 for 5; add retained"):
        dataset(forget=(forget,), retain=(retain,), confirm=1)


def test_a_confirmation_is_run_and_said(unlearn_run: UnlearnRun) -> None:
    """30 people are to be forgotten, and 15 retained: too few; of the bundled there are enough."""
    unlearn_run.lookup()
    gate = "--unlearn-gate=leak.direct<=60%"
    refused = unlearn_run("--unlearn-confirm=3", gate)
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*--unlearn-confirm=3: * there are 15 for 30; add retained*"])
    flags = ("--unlearn-model=tiny", "--unlearn-confirm=3", gate, "-k", "solved")
    run = unlearn_run.pytester.runpytest_inprocess(*flags)
    run.stdout.fnmatch_lines(["unlearn: confirmation: 128 people to forget, drawn *by seed 3*"])
    nobody = unlearn_run.pytester.runpytest_inprocess(*flags, "--unlearn-method=none")
    nobody.stderr.fnmatch_lines(["*--unlearn-confirm=3 unlearns other people*method to confirm"])
