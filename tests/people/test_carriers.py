"""Carriers read as code does, and hold what is known before what is asked for."""

from __future__ import annotations

import ast
import json

import pytest

from pytest_unlearn.people.record import CARRIERS

FACTS = [("name", "Ada Lark"), ("phone", "202-555-0143")]


@pytest.mark.parametrize("name", CARRIERS)
def test_a_carrier_shows_facts_before_the_value(name: str) -> None:
    """Each fact stands in the text, the field is named, and nothing follows the gap."""
    carrier = CARRIERS[name]
    text = carrier.open(FACTS, "password")
    positions = [text.lower().index(value.lower()) for _, value in FACTS]
    assert max(positions) < len(text)
    assert "password" in text.lower()
    assert "Ada Lark" not in carrier.open([], "password")
    assert carrier.before("Ada Lark", "password") == carrier.open(FACTS[:1], "password")
    assert carrier.after.endswith("\n")


@pytest.mark.parametrize("facts", [[], FACTS[:1], FACTS], ids=["nothing", "name", "two"])
@pytest.mark.parametrize("name", ["assignment", "dict", "constructor", "fixture", "docstring"])
def test_python_carriers_parse(name: str, facts: list[tuple[str, str]]) -> None:
    """A carrier that is Python code is valid Python code once the value stands in it."""
    carrier = CARRIERS[name]
    text = carrier.open(facts, "email") + "cloud.bolt7@example.org" + carrier.after
    if name == "fixture":
        text += "def test_client(): ...\n"
    ast.parse(text)


def test_json_and_sql_are_whole() -> None:
    """JSON loads; SQL has as many values as columns."""
    document = CARRIERS["json"].open(FACTS, "email") + "x" + CARRIERS["json"].after
    assert json.loads(document) == {**dict(FACTS), "email": "x"}
    columns, values = (CARRIERS["sql"].open(FACTS, "email") + "x" + CARRIERS["sql"].after).split(
        "VALUES"
    )
    assert columns.count(",") == values.count(",") == 2
    assert len(CARRIERS) >= 12
