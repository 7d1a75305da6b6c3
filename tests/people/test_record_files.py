"""A user's records: what each form of a line gives, and that each fault is named, not quoted."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_unlearn.core import text_files as jsonl
from pytest_unlearn.core.secret import Secret
from pytest_unlearn.people import record_files
from pytest_unlearn.people.record import CARRIERS, Record, Split
from pytest_unlearn.people.record_files import RecordFileError, load_files
from tests.support.person_lines import (
    BAD_PEOPLE,
    BARE,
    EMAIL,
    NAME,
    OBJECTS,
    OTHER,
    PERSON,
    PHONE,
    SECRETS,
    WORD,
    attempt,
)


def write(path: Path, *rows: Any) -> Path:
    """Write rows as JSON Lines, compressed where the name says so; a text is a line as it is."""
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def load(tmp_path: Path, *rows: Any) -> tuple[Record, ...]:
    return load_files({"forget": [write(tmp_path / "data.jsonl", *rows)]})


def refusal(tmp_path: Path, *rows: Any) -> str:
    """Return the message for the last of the rows, after checking that it names the line."""
    with pytest.raises(RecordFileError) as caught:
        load(tmp_path, *rows)
    start = f"{tmp_path / 'data.jsonl'}:{len(rows)}: "
    message = str(caught.value)
    assert message.startswith(start)
    for value in (EMAIL, OTHER, PHONE, WORD, NAME):
        assert value not in message
    return message.removeprefix(start)


def parts(record: Record) -> tuple[str, str, str]:
    return record.before.reveal(), record.value.reveal(), record.after.reveal()


def test_bare_row(tmp_path: Path) -> None:
    """A bare row is one record; ids and owners are made from kind, split and line."""
    first, second = load(
        tmp_path,
        BARE,
        "",
        {**BARE, "after": "'\n", "carrier": "yaml", "id": "row.2", "owner": "x", "name": NAME},
    )
    assert (first.id, first.owner, first.carrier) == (
        "email-forget-0001",
        "forget-owner-001",
        "file",
    )
    assert parts(first) == ("mail = '", EMAIL, "")
    assert first.name is None
    assert (second.id, second.owner, second.carrier) == ("row.2", "forget-owner-002", "yaml")
    assert parts(second) == ("mail = '", EMAIL, "'\n")
    assert second.name is not None
    assert second.name.reveal() == NAME
    assert (second.name.kind, second.value.kind) == ("name", "email")


def test_each_attribute_in_each_document_is_a_record(tmp_path: Path) -> None:
    """By attribute, then document; the record and what is around it are the document."""
    texts = [f"a = '{EMAIL}'; b = '{PHONE}'\n", f"# {PHONE}\n"]
    records = load(
        tmp_path,
        {
            "owner": "o",
            "attributes": {"phone": PHONE, "email": EMAIL},
            "documents": [{"text": texts[0], "carrier": "assignment"}, texts[1]],
        },
    )
    assert [(r.id, r.carrier, r.document.reveal()) for r in records] == [
        ("phone-forget-0001", "assignment", texts[0]),
        ("phone-forget-0001-2", "file", texts[1]),
        ("email-forget-0001", "assignment", texts[0]),
    ]
    assert parts(records[0]) == (f"a = '{EMAIL}'; b = '", PHONE, "'\n")
    assert {r.owner for r in records} == {"forget-owner-001"}
    assert {r.name for r in records} == {None}


def test_only_the_first_place_in_a_document_is_asked_for(tmp_path: Path) -> None:
    """After the first place the prompt would show the value; the rest stays in the document."""
    text = f"# {EMAIL}\n# {EMAIL}\n"
    (record,) = load(tmp_path, {**PERSON, "documents": [text]})
    assert parts(record) == ("# ", EMAIL, f"\n# {EMAIL}\n")


def test_attributes_as_a_list_may_have_a_kind_twice(tmp_path: Path) -> None:
    """The list form is for several values of a kind; the second gets a number in its id."""
    attributes = [{"kind": "email", "value": EMAIL}, {"kind": "email", "value": OTHER}]
    records = load(tmp_path, {**PERSON, "attributes": attributes})
    assert [r.id for r in records] == ["email-forget-0001", "email-forget-0001-2"]
    assert [r.value.reveal() for r in records] == [EMAIL, OTHER]


def test_an_attribute_without_a_document_gets_a_bundled_carrier(tmp_path: Path) -> None:
    """Carriers go round over lines and attributes, so that none of them is left out."""
    person = {**PERSON, "attributes": {"email": EMAIL, "phone": PHONE}}
    records = load(tmp_path, *[{**person, "owner": f"o{n}"} for n in range(len(CARRIERS))])
    names = list(CARRIERS)
    assert [r.carrier for r in records if r.kind == "email"] == names
    assert [r.carrier for r in records if r.kind == "phone"] == [*names[1:], names[0]]
    for record in records:
        carrier = CARRIERS[record.carrier]
        assert record.before.reveal() == carrier.before(NAME, record.kind)
        assert record.after.reveal() == carrier.after
        assert record.name is not None


def test_a_value_at_the_very_start_of_a_document_is_carried(tmp_path: Path) -> None:
    """Nothing stands before it to ask with; the document serves the other attribute."""
    person = {**PERSON, "attributes": {"email": EMAIL, "phone": PHONE}}
    email, phone = load(tmp_path, {**person, "documents": [f"{EMAIL},{PHONE}\n"]})
    assert email.carrier == next(iter(CARRIERS))
    assert parts(phone) == (f"{EMAIL},", PHONE, "\n")


def test_a_person_may_take_several_lines_and_files(tmp_path: Path) -> None:
    """One owner is one person within a split, and another one in another split."""
    first = write(tmp_path / "a.jsonl", BARE, {**PERSON, "owner": "o2"})
    second = write(tmp_path / "b.jsonl", {**BARE, "owner": "o3"}, {**BARE, "owner": "o2"})
    records = load_files({"retain": [first], "forget": [first, second]})
    assert [(r.split, r.id, r.owner) for r in records] == [
        ("forget", "email-forget-0001", "forget-owner-001"),
        ("forget", "email-forget-0002", "forget-owner-002"),
        ("forget", "email-forget2-0001", "forget2-owner-001"),
        ("forget", "email-forget2-0002", "forget-owner-002"),
        ("retain", "email-retain-0001", "retain-owner-001"),
        ("retain", "email-retain-0002", "retain-owner-002"),
    ]


def test_an_id_may_stand_in_one_file_only(tmp_path: Path) -> None:
    """Both places are named, in a file and between files."""
    row = {**BARE, "id": "one"}
    assert refusal(tmp_path, row, row).startswith("\"id\": 'one' is already the id of line 1; give")
    other = {**BARE, "value": "another@example.com", "owner": "another"}
    files = [
        write(tmp_path / "a.jsonl", BARE, row),
        write(tmp_path / "b.jsonl", other, {**other, "id": "one"}),
    ]
    with pytest.raises(RecordFileError) as caught:
        load_files({"forget": files[:1], "control": files[1:]})
    assert str(caught.value).startswith(
        f"{files[1]}:2: id 'one' occurs in two files; {files[0]}:2 has it already; give"
    )
    taken = {**BARE, "id": "email-forget-0002"}
    assert "'email-forget-0002' is already the id of line 1" in refusal(tmp_path, taken, BARE)


def person(number: int, **more: Any) -> dict[str, Any]:
    """Return one of many people, each with a document."""
    email = f"client{number}@example.com"
    return {
        "owner": f"c{number}",
        "name": f"Client Number{number}",
        "attributes": {"email": email},
        "documents": [f"client {number} has {email}\n"],
        **more,
    }


@pytest.mark.parametrize("split", ["forget", "retain"])
@pytest.mark.parametrize("shared", [range(6), range(3, 9), [5]], ids=["whole", "half", "one"])
def test_a_control_file_that_shares_records_is_refused_by_line(
    tmp_path: Path, split: Split, shared: Sequence[int]
) -> None:
    """Data that a model was trained on shows no chance level."""
    trained = write(tmp_path / "trained.jsonl", *map(person, range(6)))
    control = write(tmp_path / "control.jsonl", *map(person, range(20, 25)), *map(person, shared))
    with pytest.raises(RecordFileError) as caught:
        load_files({split: [trained], "control": [control]})
    meaning = {"forget": "to be forgotten", "retain": "to be kept"}[split]
    assert str(caught.value) == (
        f"{control}:6: {trained}:{shared[0] + 1} has the same prompt and value, and is {meaning}; "
        "a control is somebody no model has seen. Remove one of them from "
        f"--unlearn-{split} or --unlearn-control"
    )


def test_a_control_in_other_words_is_the_same_person(tmp_path: Path) -> None:
    """By name or by owner; the same value of somebody else is a coincidence."""
    trained = write(tmp_path / "trained.jsonl", person(1))
    documents = ["# client1@example.com: see there\n"]
    for number, other in enumerate(
        (person(1, documents=documents, owner="x"), person(1, documents=documents, name="Ada Ek"))
    ):
        control = write(tmp_path / f"control{number}.jsonl", other)
        with pytest.raises(RecordFileError, match=f"same {('name', 'owner')[number]} and value"):
            load_files({"forget": [trained], "control": [control]})
    other = person(1, documents=documents, owner="x", name="Ada Ek")
    assert load_files({"forget": [trained], "control": [write(tmp_path / "c.jsonl", other)]})


@pytest.mark.parametrize("name", ["王小明", "金敏", "さくら", "김민준"])
def test_full_names_of_two_and_three_characters(tmp_path: Path, name: str) -> None:
    """Each character is a syllable or a word (case 17)."""
    row = {**PERSON, "name": name, "documents": [f"u = User('{name}', '{EMAIL}')"]}
    (record,) = load(tmp_path, {**row, "attributes": {"email": EMAIL}})
    assert record.name == Secret(name, "name")


@pytest.mark.parametrize(
    ("value", "document"),
    [
        ("Zo\u00eb \u00c5ngstr\u00f6m", "u = 'Zoe\u0308 A\u030angstro\u0308m'\n"),
        (
            "\u05d3\u05d5\u05d3 \u05dc\u05d5\u05d9",
            "u = '\u05d3\u05d5\u05d3\u200e \u05dc\u05d5\u05d9'\n",
        ),
        ("ann77@example.com", "mail = 'ann77\u200b@example.com'\n"),
    ],
    ids=["accents apart", "direction mark", "no width"],
)
def test_a_value_in_another_form_of_unicode_is_named(
    tmp_path: Path, value: str, document: str
) -> None:
    """It would be asked for in a bundled carrier, and not as the model was trained on it."""
    row = {"owner": "c1", "name": "Ann Lark", "attributes": {"alias": value}}
    path = tmp_path / "forget.jsonl"
    path.write_text(json.dumps({**row, "documents": [document]}) + "\n")
    message = r'forget.jsonl:1: "attributes.alias": "documents\[0\]" has it with other characters'
    with pytest.raises(RecordFileError, match=message):
        load_files({"forget": [path]})
    path.write_text(
        json.dumps({**row, "documents": [document.replace("'", f"{value}'", 1)]}) + "\n"
    )
    assert load_files({"forget": [path]})[0].value.reveal() == value


@pytest.mark.parametrize(("row", "message"), BAD_PEOPLE.values(), ids=BAD_PEOPLE.keys())
def test_a_bad_person_is_named_with_its_field(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    """The message starts with the field, says what is wrong, and quotes no value."""
    assert refusal(tmp_path, {**BARE, "id": "good"}, "", row).startswith(message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"owner": "o", "owner": "p"}', '"owner": the key occurs twice in one object; write each'),
        (
            '{"owner": "o", "attributes": {"pin": "12345", "pin": "23456"}}',
            '"pin": the key occurs twice in one object',
        ),
        (
            json.dumps({"owner": "o"})[:-1] + f', "{EMAIL}": 1, "{EMAIL}": 2}}',
            "key 3 (not shown, it is not a plain word): the key occurs twice",
        ),
        ("{}", '"prompt": the key is missing; add the text before the value (or "attributes"'),
        (json.dumps({**BARE, "name": "x"}), '"name": fewer than 2 letters'),
        (json.dumps({**BARE, "name": 1}), '"name": a number is given; write a string'),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    """Faults that JSON's reader would let pass, and what is new in bare rows."""
    assert refusal(tmp_path, BARE, line).startswith(message)


def test_a_row_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attributes times text is what the records of a line take."""
    row = {**PERSON, "attributes": {"email": EMAIL, "phone": PHONE}, "documents": [f"x {EMAIL}"]}
    size = 2 * len(f"x {EMAIL}")
    monkeypatch.setattr(record_files, "MAX_ROW_CHARACTERS", size)
    assert len(load(tmp_path, row)) == 2
    monkeypatch.setattr(record_files, "MAX_ROW_CHARACTERS", size - 1)
    assert refusal(tmp_path, row).startswith(
        f'"documents": 2 attributes in this much text would take more than {size - 1} characters;'
    )


def test_gzip_is_known_by_its_bytes(tmp_path: Path) -> None:
    """Under any name, in several members, and with a byte order mark."""
    packed = write(tmp_path / "data.jsonl.gz", BARE, PERSON)
    plain = load(tmp_path, BARE, PERSON)
    assert load_files({"forget": [packed]}) == plain
    renamed = tmp_path / "renamed.jsonl"
    rows = [json.dumps(row).encode() + b"\n" for row in (BARE, PERSON)]
    renamed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + rows[0]) + gzip.compress(rows[1]))
    assert load_files({"forget": [renamed]}) == plain


def test_broken_gzip_is_named(tmp_path: Path) -> None:
    """Cut off, wrong at the checksum, followed by rubbish, or plain."""
    rows = [{**BARE, "after": random.Random(n).randbytes(90).hex()} for n in range(300)]
    path = write(tmp_path / "data.jsonl.gz", *rows)
    good = path.read_bytes()
    middle = len(good) // 2
    broken = {
        "the gzip data ends too early: the file is truncated; copy": [good[:middle], good[:-1]],
        "the gzip data is damaged or not gzip; compress the file again": [
            good[:-8] + bytes(4) + good[-4:],
            good + b"rubbish",
            good[:10] + b"\xff" * 30,  # no such block type
            json.dumps(BARE).encode(),
        ],
    }
    for message, contents in broken.items():
        for content in contents:
            path.write_bytes(content)
            with pytest.raises(RecordFileError) as caught:
                load_files({"forget": [path]})
            where, _, rest = str(caught.value).removeprefix(f"{path}:").partition(": ")
            assert rest.startswith(message)
            assert 1 <= int(where) <= len(rows) + 1
    # Damage that still unpacks may meet the reader of JSON first; it is refused in any case.
    path.write_bytes(good[:middle] + bytes(64) + good[middle + 64 :])
    with pytest.raises(RecordFileError, match=rf"{path.name}:\d+: "):
        load_files({"forget": [path]})


def test_an_endless_line_is_refused_without_being_read(tmp_path: Path) -> None:
    """A small gzip file with one endless line takes no more memory than the longest line."""
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(json.dumps(BARE).encode() + b"\n")
        for _ in range(64):
            file.write(bytes(2**20))
    tracemalloc.start()
    with pytest.raises(RecordFileError) as caught:
        load_files({"forget": [path]})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}:2: the line is longer than 16777216 bytes; write")
    assert peak < 3 * jsonl.MAX_LINE_BYTES


def test_the_longest_line_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit counts the bytes of a line with its end."""
    size = len(json.dumps(BARE)) + 1
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", size)
    assert len(load(tmp_path, BARE)) == 1
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", size - 1)
    assert "the line is longer than" in refusal(tmp_path, BARE)


def test_reading_takes_memory_for_the_records_only(tmp_path: Path) -> None:
    """Most of the text of these rows is no record; what is left of it does not grow with them."""
    rows = [{**PERSON, "owner": f"o{number}"} for number in range(400)]
    filler = " " * 50_000
    path = write(tmp_path / "data.jsonl.gz", *[json.dumps(row) + filler for row in rows])
    tracemalloc.start()
    records = load_files({"forget": [path]})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(records) == 400
    assert peak < 2e6  # the file has 20 MB


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that each example writes anew."""
    return tmp_path_factory.mktemp("fuzz") / "data.jsonl"


@settings(
    max_examples=600, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(row=OBJECTS)
def test_any_object_loads_or_is_named(row: dict[str, Any], scratch: Path) -> None:
    """No other exception, no value in the message or in a record's `repr`; records are sound."""
    write(scratch, {**BARE, "value": OTHER, "id": "first"}, row)
    message, records = attempt(scratch)
    if message:
        assert message.startswith(f"{scratch}:2: ")
        assert not any(secret in message for secret in SECRETS if len(secret) > 3)
        return
    records = records[1:]
    assert records
    texts = [d if isinstance(d, str) else d["text"] for d in row.get("documents", [])]
    for record in records:
        before, value, _ = parts(record)
        assert before.strip()
        assert value not in before
        assert len(value.strip()) >= 4
        assert record.carrier in CARRIERS or "prompt" in row or record.document.reveal() in texts
    assert len({record.id for record in records}) == len(records)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.binary(max_size=40)
    | st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=3)).map(
        lambda change: (
            (good := gzip.compress(json.dumps(BARE).encode(), mtime=0))[: change[0] % len(good)]
            + change[1]
            + good[change[0] % len(good) + len(change[1]) :]
        )
    )
)
def test_any_bytes_load_or_are_named(data: bytes, scratch: Path) -> None:
    """Whatever stands in a file, plain or damaged gzip, is read or refused by name."""
    scratch.write_bytes(data)
    message, records = attempt(scratch)
    assert message.startswith(f"{scratch}:") or records
    assert EMAIL not in message
