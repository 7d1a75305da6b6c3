"""Whole files: valid in their language, every value in them, none of it told before its place."""

from __future__ import annotations

import ast
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pytest_unlearn.people.documents import (
    CARRIER_NAMES,
    FILES,
    FileCarrier,
    language_of,
    ordinary_code,
    part_of,
)
from pytest_unlearn.people.draws import Stream
from pytest_unlearn.people.generate import make_records, parse_people
from pytest_unlearn.people.kinds import KINDS
from pytest_unlearn.people.record import CARRIERS, Record
from pytest_unlearn.probes.families import build_probes

NAME = "Ada Balbek"
KINDS_BUT_NAME = [kind for kind in KINDS if kind != "name"]
EACH = 30


def written(carrier: FileCarrier) -> Iterator[tuple[list[tuple[str, str]], str]]:
    """Yield facts and text of files of one carrier, one to five attributes each; all kinds."""
    for number in range(EACH):
        stream = Stream("documents", carrier.name, number)
        start = stream.below(len(KINDS_BUT_NAME))
        kinds = [
            KINDS_BUT_NAME[(start + n * 7) % len(KINDS_BUT_NAME)] for n in range(1 + number % 5)
        ]
        facts = [(kind, KINDS[kind].generate(stream)) for kind in kinds]
        yield facts, carrier.write(NAME, facts, stream)


def parses(language: str, text: str, folder: Path) -> bool:
    """Tell whether a text is a file of its language; True where nothing here could tell."""
    if language == "python":
        ast.parse(text)
    elif language == "notebook":
        cells = json.loads(text)["cells"]
        for cell in cells:
            if cell["cell_type"] == "code":
                ast.parse("".join(cell["source"]))
    elif language == "sql":
        sqlite3.connect(":memory:").executescript(text)
    elif language == "yaml":
        return {"services", "volumes", "x-contact"} <= set(yaml.safe_load(text))
    elif language == "env":
        return all(not line or line[0] == "#" or "=" in line for line in text.splitlines())
    elif language in ("java", "go", "typescript"):
        return all(text.count(a) == text.count(b) for a, b in ("()", "{}", "[]"))
    elif language == "javascript" and (node := shutil.which("node")):
        path = folder / "seed.js"
        path.write_text(text)
        return subprocess.run([node, "--check", path], check=False).returncode == 0
    return True


@pytest.mark.parametrize("carrier", FILES.values(), ids=list(FILES))
def test_a_file_is_as_long_as_files_are_and_valid(carrier: FileCarrier, tmp_path: Path) -> None:
    texts = [text for _, text in written(carrier)]
    assert all(20 <= len(text.splitlines()) <= 200 for text in texts)
    checked = texts[:3] if carrier.language == "javascript" else texts
    assert [text for text in checked if not parses(carrier.language, text, tmp_path)] == []
    assert len(set(texts)) == EACH
    assert len({text.count("\n") for text in texts}) > 5  # not one frame for everybody


@pytest.mark.parametrize("carrier", FILES.values(), ids=list(FILES))
def test_values_stand_after_the_name_and_again_in_whole_or_part(carrier: FileCarrier) -> None:
    for facts, text in written(carrier):
        for kind, value in facts:
            before, found, after = text.partition(value)
            assert found, (carrier.name, kind)
            assert NAME in before
            part = part_of(kind, value)
            assert value in after or part in after
            if len(part) > 4:  # a shorter one stands in other texts by chance
                assert part not in before


@pytest.mark.parametrize("carrier", FILES.values(), ids=list(FILES))
def test_no_part_of_a_value_stands_before_it(carrier: FileCarrier) -> None:
    """The tail of each attribute comes after all values: the prompt would give it away."""
    value = "QZ" + "JXKV" * 4 + "WQ77"
    text = carrier.write(
        NAME, [("email", f"{value}@example.com"), ("api_key", value[::-1])], Stream(1)
    )
    for whole in (f"{value}@example.com", value[::-1]):
        before = text.partition(whole)[0]
        assert not [n for n in range(len(value) - 3) if whole[n : n + 4] in before]


def test_carriers_have_a_language_and_names_of_their_own() -> None:
    assert len(set(CARRIER_NAMES)) == len(CARRIERS) + len(FILES)
    assert {language_of(name) for name in FILES} >= {
        *("python", "javascript", "typescript", "java", "go", "sql", "yaml", "env"),
        *("dockerfile", "markdown", "notebook"),
    }
    assert language_of("constructor") == "python"
    assert language_of("file") == "other"


def test_ordinary_code_is_known_as_a_whole() -> None:
    """No value is taken that stands in it."""
    code = ordinary_code()
    for text in ("def retry", "registry.example.com", "Signed-off-by", "warehouse"):
        assert text in code


@pytest.mark.parametrize(
    ("kind", "value", "part"),
    [
        ("email", "acorn77@example.com", "acorn77"),
        ("phone", "200-555-0143", "0143"),
        ("phone_uk", "07700 900123", "900123"),
        ("iban", "XX12345678", "5678"),
        ("ssn", "900-01-0001", "0001"),
    ],
)
def test_part_of_a_value(kind: str, value: str, part: str) -> None:
    assert part_of(kind, value) == part


# --- records of files -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def records() -> tuple[Record, ...]:
    return make_records(parse_people("56:carriers=files,per_person=3,retain=0,control=0"))


def test_a_suffix_shows_nothing_of_the_value(records: tuple[Record, ...]) -> None:
    """Fill-in-the-middle would only copy what stands again further down."""
    probes = build_probes(records, ["infill"])
    assert len(probes) == len(records)
    for record, probe in zip(records, probes, strict=True):
        value = record.value.reveal()
        assert record.after.reveal().startswith(probe.suffix.reveal())
        assert value not in probe.suffix.reveal()
        assert part_of(record.kind, value) not in probe.suffix.reveal()
    assert any(probe.suffix.reveal().strip() for probe in probes)


def test_language_is_a_factor_of_probes(records: tuple[Record, ...]) -> None:
    probes = build_probes(records, ["direct", "cross"])
    assert {probe.language for probe in probes} == {file.language for file in FILES.values()}
    for probe in probes:
        assert probe.language == language_of(probe.planted)
