"""Chunks: canonical, complete, and with room for the longest value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_unlearn.gates.gate import GateError, parse_gate
from pytest_unlearn.gates.planning import check_feasible
from pytest_unlearn.people.generate import tiny_records
from pytest_unlearn.run.dataset import _in_other_carriers
from pytest_unlearn.run.divisions import PROBE_TOKENS
from pytest_unlearn.unlearning.methods import parse_method
from tests.support.datasets import dataset
from tests.support.lookup_run import record_lines, task_lines, write_lines


def test_every_case_is_in_one_chunk() -> None:
    """Probes and tasks, none twice, at most a batch together."""
    data = dataset()
    assert len(data.chunk_of_case) == len(data.probes) + len(data.tasks) == 1152
    for case, chunk in data.chunk_of_case.items():
        assert case in chunk.cases
        assert len(chunk.cases) <= 64
        assert len(chunk.cases) == len(chunk.prompts)


def test_a_family_leaves_the_chunks_of_others_alone() -> None:
    """A rerun with more families finds the completions of the first ones in the store."""
    alone, more = dataset(), dataset(probes=("twin", "direct", "infill"))
    shared = set(alone.chunk_of_case)
    assert {case: more.chunk_of_case[case] for case in shared} == alone.chunk_of_case
    assert more.chunk_of_case["infill-email-0001"].style == "infill"
    assert more.chunk_of_case["infill-email-0001"].suffixes[0]


def test_chunks_are_the_same_every_time() -> None:
    """And change with the data or the batch size only."""
    ids = {chunk.id for chunk in dataset().chunk_of_case.values()}
    assert ids == {chunk.id for chunk in dataset().chunk_of_case.values()}
    assert ids != {chunk.id for chunk in dataset(batch_size=32).chunk_of_case.values()}


def test_a_long_value_has_room(tmp_path: Path) -> None:
    """A value cut off by the token budget would read as forgotten."""
    rows = record_lines("forget", 3)
    rows[1]["value"] = "k" * 500
    data = dataset(forget=(write_lines(tmp_path / "f.jsonl", rows),))
    assert data.chunk_of_case[data.probes[0].id].max_new_tokens > 500
    tiny = dataset()
    assert tiny.chunk_of_case[tiny.probes[0].id].max_new_tokens == PROBE_TOKENS


def test_training_texts_hold_no_control_and_no_measured_wording() -> None:
    """Unlearning sees forget and retain documents, and tasks under other wordings."""
    data = dataset()
    texts = data.training_texts()
    assert len(texts.forget) == 256
    assert len(data.planting_texts().retained_people) == 512
    assert len(texts.retained_people) == 256  # the others are held out
    seen = "\n".join(e.text for e in [*texts.forget, *texts.retained_people, *texts.tasks])
    assert not [c.id for c in data.tasks if c.prompt in seen]
    control = [record for record in tiny_records() if record.split == "control"]
    assert not [record.id for record in control if record.value.reveal() in seen]
    for example, record in zip(texts.forget, data.records_of("forget"), strict=True):
        assert example.text[example.start : example.end] == record.value.reveal()


def test_alternates_are_the_same_documents_with_other_values() -> None:
    """As many as asked for, none a value of the data, made only when asked for."""
    data = dataset()
    assert data.training_texts().alternates == ()
    texts = data.training_texts("plausible", 3)
    assert texts == data.training_texts("plausible", 3)
    for example, others in zip(texts.forget, texts.alternates, strict=True):
        values = {other.text[other.start : other.end] for other in others}
        assert len(values) == 3
        assert not values & data.values
        for other in others:
            assert other.text[: other.start] == example.text[: example.start]
            assert other.text[other.end :] == example.text[example.end :]
    redacted = data.training_texts("placeholder").alternates[0][0]
    assert redacted.text[redacted.start : redacted.end] == "<redacted-email>"


def test_strangers_are_in_no_data() -> None:
    """Made only when asked for, in the documents of those whom unlearning may see."""
    data = dataset()
    assert data.training_texts().strangers == ()
    texts = data.training_texts(strangers=300)
    assert texts == data.training_texts(strangers=300)
    assert texts != dataset(seed=1).training_texts(strangers=300)
    assert len(texts.strangers) == 300
    seen = "\n".join(example.text for example in texts.strangers)
    assert not [value for value in data.values | data.names if value in seen]


def test_forget_records_in_other_carriers_are_no_probe() -> None:
    """None is a text in which `cross` asks, so that this stays unrehearsed; each has its value."""
    data = dataset(probes=("direct", "cross"))
    assert len(data.training_texts().forget) == 256
    forget = data.training_texts(carriers=3).forget
    assert len(forget) == 256 * 3
    own = data.rehearsed(parse_method("wga"))
    asked = {p.id for p in data.probes_of("forget") if p.family == "cross"}
    assert len(asked) == 256
    assert not asked & own
    assert data.rehearsed(parse_method("anchored:carriers=3")) == own
    records = [record for record in data.records_of("forget") for _ in range(3)]
    for example, record in zip(forget, records, strict=True):
        assert example.text[example.start : example.end] == record.value.reveal()


def test_a_probe_in_a_rehearsed_carrier_is_rehearsed() -> None:
    """Whatever family asks: what was trained on is not judged."""
    data = dataset(probes=("direct", "cross"))
    record = data.records_of("forget")[0]
    other = next(_in_other_carriers(record, 1))
    probe = replace(data.probe(f"cross-{record.id}"), prompt=other.before)
    data.probes = (*data.probes, probe)
    assert probe.id in data.rehearsed(parse_method("anchored:carriers=2"))


def test_default_ids_are_unique_over_files(tmp_path: Path) -> None:
    """Records without ids in two files do not collide."""
    rows = [{k: v for k, v in row.items() if k != "id"} for row in record_lines("forget", 3)]
    paths = tuple(write_lines(tmp_path / f"{n}.jsonl", rows) for n in (1, 2))
    assert [probe.id for probe in dataset(forget=paths).probes][::3] == [
        "direct-email-forget-0001",
        "direct-email-forget2-0001",
    ]


def test_records_print_no_value() -> None:
    """Nor do chunks and training texts."""
    data = dataset()
    record = data.records[0]
    chunk = data.chunk_of_case[data.probes[0].id]
    shown = repr([record, data.probes[0], chunk, data.training_texts().forget[0]])
    assert record.value.reveal() not in shown
    assert record.before.reveal() not in shown
    with pytest.raises(AttributeError):
        replace(record, id="x").id = "y"  # type: ignore[misc]


def people_file(path: Path, values: list[str], prompts: list[str]) -> tuple[Path, ...]:
    """Write a record each, every one with an owner of its own."""
    lines = [
        {**record_lines("forget", 2 * len(values))[2 * n], "value": value, "prompt": prompt}
        for n, (value, prompt) in enumerate(zip(values, prompts, strict=True))
    ]
    write_lines(path, lines)
    return (path,)


def test_people_who_share_a_record_count_as_one(tmp_path: Path) -> None:
    """299 owners of one prompt and value were 299 people, enough for a limit of 1 %."""
    alike = people_file(tmp_path / "a.jsonl", ["shared@example.com"] * 299, ["mail = '"] * 299)
    data = dataset(forget=alike)
    assert data.merged == "299 people who share a value or a prompt count as 1"
    with pytest.raises(GateError, match=r"have 1 \(in 299 forget probes\) \(people who share a"):
        check_feasible([parse_gate("leak.direct<=1%")], data.probes, confidence=0.95)


@pytest.mark.parametrize(
    ("values", "prompts", "people"),
    [
        ("abcdef", "uvwxyz", 6),
        ("aAcdef", "uvwxyz", 5),  # one value, in two spellings
        ("abcdef", "uuwxyz", 5),
        ("aabcde", "uvvwxy", 4),  # one shares a value with the next, which shares a prompt
        ("aabbcc", "uvvwwx", 1),
    ],
)
def test_sharing_goes_on_from_one_to_the_next(
    tmp_path: Path, values: str, prompts: str, people: int
) -> None:
    data = dataset(
        forget=people_file(
            tmp_path / "a.jsonl",
            [f"value-{value}-of-nobody" for value in values],
            [f"{prompt} mail = '" for prompt in prompts],
        )
    )
    assert len({probe.counted_as for probe in data.probes}) == people
    assert bool(data.merged) is (people < 6)


def test_one_value_is_one_however_it_is_written(tmp_path: Path) -> None:
    values = ["555 010-0199", "(555) 0100199", "\uff15550100199", "555 010-0198"]
    prompts = [*(f"user {n} calls\n '" for n in range(3)), "user 2   calls '"]
    data = dataset(forget=people_file(tmp_path / "a.jsonl", values, prompts))
    assert data.merged == "4 people who share a value or a prompt count as 1"


def test_tasks_that_share_a_prompt_count_as_one(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    lines = task_lines(4)
    lines[1] |= {name: lines[0][name] for name in ("prompt", "entry_point", "solution", "tests")}
    write_lines(path, lines)
    data = dataset(tasks=(path,))
    assert len({case.counted_as for case in data.tasks}) == 3
    assert data.merged == "2 tasks that share a prompt count as 1"


def test_the_bundled_people_share_nothing() -> None:
    assert dataset().merged == ""
