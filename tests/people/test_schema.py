"""The shipped JSON Schema and the loader agree, but for what one field demands of another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from pytest_unlearn import people
from tests.support.person_lines import (
    BAD_PEOPLE,
    BARE,
    EMAIL,
    NAME,
    OBJECTS,
    PERSON,
    PHONE,
    attempt,
)

SCHEMA = json.loads(Path(people.__file__).with_name("records.schema.json").read_text())
jsonschema = pytest.importorskip("jsonschema")

# What JSON Schema cannot say, or not for all JSON texts.
BEYOND = (
    "shows the value already",
    "it contains no attribute",
    "no document contains the value",
    "half of a surrogate pair",
    "kind and value are those of",
)
GOOD: list[dict[str, Any]] = [
    BARE,
    {**BARE, "after": "", "carrier": "json", "id": "a.b-1", "name": NAME},
    PERSON,
    {**PERSON, "attributes": [{"kind": "email", "value": EMAIL}], "documents": []},
    {
        "owner": "o",
        "attributes": {"email": EMAIL, "phone": PHONE},
        "documents": [f"x {EMAIL}", {"text": f"x {PHONE}"}, {"text": f"y {PHONE}", "carrier": "c"}],
    },
]
BAD_BARE: list[dict[str, Any]] = [
    {},
    {"owner": "o"},
    *({k: v for k, v in BARE.items() if k != key} for key in BARE),
    *({**BARE, key: 7} for key in (*BARE, "after", "carrier", "id", "name")),
    *({**BARE, key: ""} for key in (*BARE, "carrier", "id", "name")),
    *({**BARE, key: "a b c"} for key in ("kind", "carrier", "id")),
    {**BARE, "value": " abc "},
    {**BARE, "text": "x"},
]


@pytest.fixture(scope="module")
def validator() -> Any:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that each example writes anew."""
    return tmp_path_factory.mktemp("schema") / "data.jsonl"


def refusal(path: Path, row: dict[str, Any]) -> str:
    """Return the loader's message, empty if it takes the row."""
    path.write_text(json.dumps(row))
    return attempt(path)[0]


def test_the_schema_is_of_the_draft_that_it_names(validator: Any) -> None:
    assert SCHEMA["$schema"] == validator.META_SCHEMA["$schema"]


@pytest.mark.parametrize("row", GOOD)
def test_both_take_a_good_row(row: dict[str, Any], validator: Any, scratch: Path) -> None:
    validator.validate(row)
    assert refusal(scratch, row) == ""


@pytest.mark.parametrize("row", [*BAD_BARE, *(row for row, _ in BAD_PEOPLE.values())])
def test_both_refuse_a_bad_row(row: dict[str, Any], validator: Any, scratch: Path) -> None:
    """Each fault that a schema can know is one to the schema, too."""
    message = refusal(scratch, row)
    assert message
    assert validator.is_valid(row) == (
        any(part in message for part in BEYOND) and "attributes[1]" not in message
    )


# Objects of any shape may be long; what Hypothesis says of their repr is no concern here.
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(
    max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(row=OBJECTS)
def test_they_agree_on_any_object(row: dict[str, Any], validator: Any, scratch: Path) -> None:
    """What the schema refuses the loader refuses; what only the loader refuses is said so."""
    message = refusal(scratch, row)
    if not validator.is_valid(row):
        assert message
    elif message:
        assert any(part in message for part in BEYOND), message
