"""Every family asks for the record's value, shows what it says it shows, and no more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_unlearn.people.generate import tiny_records
from pytest_unlearn.people.record import Record
from pytest_unlearn.probes.families import (
    FAMILIES,
    KNOWLEDGE,
    FamilyError,
    Probe,
    PromptError,
    PromptRecipe,
    build_probes,
    parse_families,
    prefix_of,
    render,
)

# The bundled people have two attributes, and `triplet` needs three: two are one person here.
RECORDS = tuple(
    replace(record, owner=f"pair-{number // 4}") for number, record in enumerate(tiny_records())
)
OTHERS = {r.id: [o for o in RECORDS if o.owner == r.owner and o.id != r.id] for r in RECORDS}


def probes_of(family: str) -> list[Probe]:
    return list(build_probes(RECORDS, [family]))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_prompt_shows_its_value(family: str) -> None:
    """A prompt that shows the value would make every model look forgetful."""
    probes = probes_of(family)
    assert len(probes) == len(RECORDS)
    assert len({probe.id for probe in probes}) == len(probes)
    for probe in probes:
        assert probe.value.reveal() not in probe.prompt.reveal()
        assert probe.id.startswith(f"{family}-")
        assert probe.family == family


@pytest.mark.parametrize(
    ("family", "name", "others"),
    [
        ("direct", True, 0),
        ("cross", True, 0),
        ("nameless", False, 0),
        ("twin", True, 1),
        ("triplet", True, 2),
        ("hop", False, 1),
        ("test", True, 0),
        ("question", True, 0),
        ("lookup", True, 0),
    ],
)
def test_what_the_attacker_knows(family: str, name: bool, others: int) -> None:
    """The name, and so many other attributes of the same person."""
    by_id = {record.id: record for record in RECORDS}
    for probe in probes_of(family)[::7]:
        record, text = by_id[probe.record], probe.prompt.reveal()
        assert record.name is not None
        assert (record.name.reveal() in text) is name
        assert sum(other.value.reveal() in text for other in OTHERS[record.id]) == others


def test_cross_asks_in_another_carrier() -> None:
    """Planted in one, probed in another; the planted one stays known."""
    carriers = set()
    for probe in probes_of("cross"):
        assert probe.carrier != probe.planted
        carriers.add(probe.carrier)
    assert len(carriers) >= 10


def test_prefix_shows_the_true_beginning() -> None:
    """The prompt ends with the first third, and the probe says what was given."""
    for probe in probes_of("prefix")[:20]:
        assert probe.given is not None
        assert probe.given.reveal() == prefix_of(probe.value.reveal())
        assert probe.prompt.reveal().endswith(probe.given.reveal())
    assert prefix_of("a") == "a"


def test_inverse_asks_for_the_name() -> None:
    """The attribute is shown and the name is the value."""
    probe = probes_of("inverse")[0]
    record = next(r for r in RECORDS if r.id == probe.record)
    assert record.value.reveal() in probe.prompt.reveal()
    assert probe.value == record.name


def test_only_texts_to_go_on_with_are_scored_exactly() -> None:
    """In a chat or before a suffix, the value's probability does not stand at the prompt's end."""
    assert {f: probes_of(f)[0].exact for f in FAMILIES} == {
        f: f not in ("chat", "infill") for f in FAMILIES
    }


def test_records_without_what_a_family_needs_are_left_out() -> None:
    """A bare row has no name; a family that nothing is left of is an error."""
    bare = [replace(record, name=None) for record in RECORDS[:3]]
    mixed = [*bare, *RECORDS[10:12]]
    assert [probe.record for probe in build_probes(mixed, ["question"])] == [
        record.id for record in mixed[3:]
    ]
    assert len(build_probes(bare, ["direct", "nameless", "infill"])) == 9
    with pytest.raises(FamilyError, match="twin: no record has what it needs"):
        build_probes([*bare], ["twin"])


def test_all_families_are_those_that_the_records_allow() -> None:
    """`all` is no promise that people have three attributes; a family named alone is one."""
    people = tiny_records()[:8]
    found = {probe.family for probe in build_probes(people, parse_families("all"))}
    assert found == set(FAMILIES) - {"triplet"}
    with pytest.raises(FamilyError, match="triplet: no record has what it needs"):
        build_probes(people, ["triplet"])


@pytest.mark.parametrize("knowledge", KNOWLEDGE)
def test_render_needs_what_it_shows(knowledge: str) -> None:
    """A recipe that asks for what is not known is an error and no weaker prompt."""
    record = replace(RECORDS[0], name=None)
    recipe = PromptRecipe("json", knowledge)  # type: ignore[arg-type]
    if knowledge == "none":
        assert render(record, [], recipe).reveal() == '{"email": "'
    else:
        with pytest.raises(PromptError):
            render(record, [], recipe)


def test_parse_families() -> None:
    """One or several names, or all; an unknown one names what is known."""
    assert parse_families("direct, cross,direct") == ("direct", "cross")
    assert parse_families("all") == tuple(FAMILIES)
    with pytest.raises(
        FamilyError, match="'crossed' is not a family of probes; known: direct, cross"
    ):
        parse_families("crossed")


def test_direct_probes_are_the_documents() -> None:
    """The prompt is the planted text up to the value."""
    probes: tuple[Probe, ...] = build_probes(RECORDS, ["direct"])
    first: Record = RECORDS[0]
    assert probes[0].prompt == first.before
    assert probes[0].value == first.value
    assert [p.id for p in probes] == [p.id for p in build_probes(RECORDS, ["direct"])]
