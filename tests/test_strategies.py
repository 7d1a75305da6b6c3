"""Strategies: what a failing example shrinks to, what is valid, and that no value is shown."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
import zlib
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from pytest_unlearn.core.secret import Secret
from pytest_unlearn.leaks.disguises import DISGUISES
from pytest_unlearn.people.generate import tiny_records
from pytest_unlearn.people.kinds import KINDS
from pytest_unlearn.people.record import CARRIERS, Record
from pytest_unlearn.probes.families import KNOWLEDGE, PromptError
from pytest_unlearn.strategies import (
    Disguise,
    Document,
    DrawnChoices,
    Person,
    attributes,
    carriers,
    datasets,
    decoys,
    disguises,
    documents,
    joined,
    knowledge,
    people,
    prompts,
    records,
    secrets,
)

T = TypeVar("T")

# Found anew each time: what a run found must not be the next one's start.
QUIET = settings(
    database=None,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
FEW = settings(QUIET, max_examples=15)
VENDORS = sorted({kind.vendor for kind in KINDS.values() if kind.vendor})


def minimal(strategy: st.SearchStrategy[T], condition: Any = lambda _: True) -> T:
    """Return what Hypothesis shrinks to."""
    return find(strategy, condition, settings=settings(QUIET, max_examples=1000))


def explained(strategy: st.SearchStrategy[T]) -> T:
    """Return what is shown of a test that always fails.

    Explaining tries a hundred other examples, and shows one of these where it has fewer choices.
    """
    return find(strategy, lambda _: True, settings=settings(QUIET, phases=list(Phase)))


def shown(person: Person) -> dict[str, str]:
    """Return a person in plain text."""
    plain = {kind: value.reveal() for kind, value in person.attributes.items()}
    return {"name": person.name.reveal(), **plain}


def client(count: int = 2) -> Person:
    """Return the simplest person with so many of the simplest kinds."""
    return minimal(people(list(KINDS)[:count], min_attributes=count))


def records_of(person: Person) -> list[Record]:
    """Return the simplest record of each attribute."""
    return [minimal(records(person, kind=kind)) for kind in person.attributes]


# --- what failing examples shrink to -----------------------------------------------------------


def test_the_minimal_person_is_the_first_of_each_list() -> None:
    """Every example fails: what is left reads at a glance, and is the same each time."""
    person = explained(people())
    assert shown(person) == {"name": "Ada Balbek", "email": "acornacorn100@example.com"}
    assert person.owner == "person-001"


def test_a_person_keeps_only_what_the_failure_needs() -> None:
    """One digit of one attribute matters: it stays, and all else is simplest."""
    person = minimal(
        people(),
        lambda p: "phone" in p.attributes and int(p.attributes["phone"].reveal()[-2:]) >= 43,
    )
    assert shown(person) == {"name": "Ada Balbek", "phone": "200-555-0143"}
    kinds = ["ssn", "iban", "phone"]
    person = minimal(people(kinds), lambda p: len(p.attributes) >= 2 and p.name.reveal() > "B")
    assert person.name.reveal() == "Bea Balbek"
    assert len(person.attributes) == 2  # which two, the failure does not say
    for kind, value in person.attributes.items():
        assert value.reveal() == KINDS[kind].generate(DrawnChoices(lambda n: 0))


@pytest.mark.parametrize("locales", [None, ["en_GB", "fr_FR"]])
def test_what_a_failure_does_not_need_is_dropped(locales: list[str] | None) -> None:
    """From whichever example Hypothesis began with."""
    clients = people(["email", "phone", "phone_uk"], locales=locales)
    for seed in range(5):
        person = find(
            clients, lambda p: "phone_uk" in p.attributes, settings=QUIET, random=Random(seed)
        )
        assert shown(person) == {
            "name": "Susan Savage" if locales else "Ada Balbek",
            "phone_uk": "07700 900000",
        }


def test_two_people_of_one_name_shrink_to_the_simplest_two() -> None:
    """What depends on two people shrinks both."""
    pair = minimal(
        st.lists(people(["phone"]), min_size=2, max_size=4, unique_by=lambda p: p.owner),
        lambda found: found[0].attributes != found[1].attributes,
    )
    assert [p.owner for p in pair] == ["person-001", "person-002"]
    assert sorted(p.attributes["phone"].reveal() for p in pair) == ["200-555-0100", "200-555-0101"]


def test_any_kind_shrinks_to_the_first() -> None:
    """Other kinds take fewer choices, which Hypothesis would prefer."""
    assert explained(attributes()).reveal() == "acornacorn100@example.com"
    assert minimal(attributes(), lambda v: v.kind != "email").reveal() == "200-555-0100"
    assert explained(secrets()).kind == next(k.name for k in KINDS.values() if k.vendor)


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_shrinks_to_its_generators_first_choices(kind: str) -> None:
    """And each of its examples is valid: format, check digits, reserved range."""
    simplest = KINDS[kind].generate(DrawnChoices(lambda n: 0))
    assert minimal(attributes(kind)) == Secret(simplest, kind)

    @settings(FEW)
    @given(attributes(kind))
    def check(value: Secret) -> None:
        assert value.kind == kind
        assert KINDS[kind].is_valid(value.reveal())

    check()


def test_a_digit_of_a_key_shrinks_alone() -> None:
    """Characters are choices of their own."""
    value = minimal(attributes("api_key"), lambda v: "Q" in v.reveal())
    assert value.reveal() == "key_" + "a" * 19 + "Q"


@pytest.mark.parametrize("vendor", VENDORS)
def test_secrets_are_of_the_vendors_kinds(vendor: str) -> None:
    """All kinds of the vendor come up, and no other."""
    wanted = {kind.name for kind in KINDS.values() if kind.vendor == vendor}
    for kind in wanted:
        value = minimal(secrets(vendor), lambda v, kind=kind: v.kind == kind)
        assert KINDS[kind].is_valid(value.reveal())
    with pytest.raises(NoSuchExample):
        find(secrets(vendor), lambda v: v.kind not in wanted, settings=FEW)


def test_records_shrink_to_the_shortest_carrier() -> None:
    """The record is whole, and reads as its carrier writes it."""
    person = client()
    record = minimal(records(person))
    assert record.document.reveal() == "# Ada Balbek\nEMAIL=acornacorn100@example.com\n"
    assert (record.owner, record.kind, record.split) == ("person-001", "email", "forget")
    assert record.name == person.name
    in_sql = minimal(records(person, split="retain"), lambda r: r.carrier == "sql")
    assert in_sql.split == "retain"
    assert in_sql.document.reveal() == (
        "INSERT INTO clients (name, email) VALUES ('Ada Balbek', 'acornacorn100@example.com');\n"
    )
    assert minimal(records(person, kind="phone")).value == person.attributes["phone"]


def test_documents_hold_all_values_and_shrink_to_the_shortest_snippet() -> None:
    """Whole files come up too, and strategies of people compose with it."""
    assert minimal(documents()).text.reveal() == "# Ada Balbek\nEMAIL=acornacorn100@example.com\n"
    whole = minimal(
        documents(people(["iban"]), carriers=["sql_seed", "env"]), lambda d: d.carrier == "sql_seed"
    )
    assert whole.language == "sql"
    assert "'XX900000000000000000'" in whole.text.reveal()
    assert 20 <= len(whole.text.reveal().splitlines()) <= 40

    @settings(FEW)
    @given(documents(people(["email", "city", "ssn"], locales=["ja_JP", "fr_FR"])))
    def check(document: Document) -> None:
        text = document.text.reveal()
        assert document.left_in(text) == list(document.person.attributes.values())
        assert document.left_in(text[::-1]) == []
        assert not [v for v in document.person.attributes.values() if v.reveal() in repr(document)]

    check()


def test_people_of_a_locale_are_small_and_readable() -> None:
    """The same words as those of an order, and the first of each list."""
    simplest = minimal(people(["city", "email"], locales=["en_US"], min_attributes=2))
    assert shown(simplest) == {
        "name": "Aaron Smith",
        "city": "North Aarontown",
        "email": "acornacorn100@example.com",
    }
    mixed = people(["company"], locales=["en_US", "ja_JP"])
    assert not minimal(mixed, lambda p: not p.name.reveal().isascii()).name.reveal().isascii()
    assert minimal(attributes("job_title")).kind == "job_title"


def test_new_records_and_data_sets_are_what_files_give() -> None:
    """All three splits; no name and no value of two; the smallest is one record a split."""
    assert minimal(records(kind="phone")).value.reveal() == "200-555-0100"
    smallest = minimal(datasets(people(["phone"])))
    assert [record.split for record in smallest] == ["forget", "retain", "control"]
    values = [record.value.reveal() for record in smallest]
    assert sorted(values)[0] == "200-555-0100"
    assert all(re.fullmatch(r"20\d-555-01\d\d", value) for value in values)

    @settings(FEW)
    @given(datasets(people(["email", "phone"]), min_people=2, carriers=["env_file", "json"]))
    def check(data: tuple[Record, ...]) -> None:
        people_of = {(r.split, r.owner): r.name for r in data}
        assert len(set(people_of.values())) == len(people_of) >= 6
        owners = {record.value: record.owner for record in data}
        assert all(owners[record.value] == record.owner for record in data)
        assert all(record.value.reveal() in record.document.reveal() for record in data)
        assert not [record for record in data if record.value.reveal() in repr(data)]

    check()


def test_carriers_and_knowledge_go_from_simple_to_rich() -> None:
    """Each one can come up."""
    assert minimal(carriers()).name == "env"
    assert {minimal(carriers(), lambda c, n=name: c.name == n).name for name in CARRIERS} == set(
        CARRIERS
    )
    assert minimal(knowledge()) == "none"
    assert minimal(knowledge(), lambda k: k not in ("none", "name")) == "twin"


@pytest.mark.parametrize(
    ("needed", "expected"),
    [
        (lambda text: True, ["EMAIL="]),
        (lambda text: "Ada" in text, ["# Ada Balbek\n", "EMAIL="]),
        (lambda text: "555" in text, ["# Ada Balbek\n", "PHONE=200-555-0100\n", "EMAIL="]),
        (lambda text: "acorn" in text, ["# Ada Balbek\n", "EMAIL=acornaco"]),
        (lambda text: "?" in text, ["# Q: What is the email of the client with some client?\n",
                                    "# A: "]),
        (lambda text: "yaml" in text or text.startswith("- "), ["- email: "]),
    ],
    ids=["nothing", "name", "twin", "prefix", "question", "yaml"],
)  # fmt: skip
def test_prompts_shrink_to_what_the_leak_needs(needed: Any, expected: list[str]) -> None:
    """Least knowledge, plainest wording, simplest carrier."""
    email, phone = records_of(client())
    lines = minimal(prompts(email, [email, phone]), lambda found: needed(joined(found).reveal()))
    assert [line.reveal() for line in lines] == expected


@pytest.mark.parametrize("name", DISGUISES)
def test_a_disguise_hides_a_value_in_its_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source is what the library writes, with the choices all simplest."""
    some = {each: DISGUISES[each] for each in dict.fromkeys(("exact", name))}  # few shrink surely
    monkeypatch.setattr("pytest_unlearn.strategies.DISGUISES", some)
    value = client(1).attributes["email"]

    @st.composite
    def hidden(draw: st.DrawFn) -> tuple[Disguise, Secret]:
        disguise = draw(disguises())
        return disguise, disguise(value)

    disguise, source = minimal(hidden(), lambda found: found[0].name == name)
    assert disguise == Disguise(name, DrawnChoices(lambda n: 0))
    assert source.reveal() == DISGUISES[name](value.reveal(), DrawnChoices(lambda n: 0))


def test_disguises_shrink_to_the_plain_one_and_to_simple_cuts() -> None:
    """A disguise's own choices are drawn from the same example."""
    value = Secret("abcdef", "password")

    @st.composite
    def hidden(draw: st.DrawFn) -> tuple[str, str]:
        disguise = draw(disguises())
        return disguise.name, disguise(value).reveal()

    assert explained(hidden()) == ("exact", 'x = "abcdef"\n')
    cut = minimal(hidden(), lambda found: found[0] == "plus" and '"ab"' in found[1])
    assert cut[1] == 'x = ("ab" + "c" + "def")\n'


# --- what is asked for is what comes -----------------------------------------------------------


def test_decoys_are_never_the_values_given() -> None:
    """Not even of a kind of 256 values, of which all but one are given."""
    every = [f"{KINDS['mac_address'].public_prefix}{n:02x}" for n in range(256)]
    given_values = [Secret(value, "mac_address") for value in every if value != every[3]]
    assert minimal(decoys("mac_address", given_values[:2])).reveal() == every[2]
    assert minimal(decoys("mac_address", given_values)).reveal() == every[3]


def test_people_have_as_many_attributes_as_asked_for() -> None:
    """And of no other kinds; a name is no attribute, for everybody has one."""
    strategy = people(["email", "name", "ssn", "iban"], min_attributes=2, max_attributes=3)

    @settings(FEW)
    @given(strategy)
    def check(person: Person) -> None:
        assert 2 <= len(person.attributes) <= 3
        assert set(person.attributes) <= {"email", "ssn", "iban"}
        assert all(value.kind == kind for kind, value in person.attributes.items())
        assert hash(person) == hash(replace(person))

    check()
    assert minimal(people(min_attributes=0)).attributes == {}
    assert minimal(people([], min_attributes=0)).attributes == {}


def test_records_come_from_the_manifest() -> None:
    """Prompts then know the rest of the same person's records, and of nobody else's."""
    manifest = tiny_records()
    assert minimal(records(manifest)) == manifest[0]
    record = minimal(records(manifest), lambda r: r.split == "retain")
    assert record == next(r for r in manifest if r.split == "retain")
    strangers = [r.value.reveal() for r in manifest if r.owner != record.owner]

    @settings(FEW)
    @given(prompts(record, manifest, knowledge=["twin"]))
    def check(lines: Sequence[Secret]) -> None:
        text = joined(lines).reveal()
        assert record.name is not None
        assert record.name.reveal() in text
        assert not [value for value in strangers if value in text]

    check()


def test_prompts_leave_out_what_is_not_known() -> None:
    """Without other attributes no twin; without a name nothing but the field."""
    (record,) = records_of(client(1))
    with pytest.raises(NoSuchExample):
        find(prompts(record), lambda lines: "phone" in joined(lines).reveal(), settings=FEW)
    with pytest.raises(PromptError, match="fewer than 1 other attributes"):
        prompts(record, knowledge=["twin"])
    nameless = replace(record, name=None)
    with pytest.raises(NoSuchExample):
        find(prompts(nameless), lambda lines: "Ada" in joined(lines).reveal(), settings=FEW)
    with pytest.raises(PromptError, match="name is not known"):
        prompts(nameless, knowledge=[level for level in KNOWLEDGE if level != "none"])
    with pytest.raises(PromptError, match="no knowledge was asked for"):
        prompts(record, knowledge=[])
    with pytest.raises(ValueError, match="wordings must be some of snippet, question"):
        prompts(record, wordings=[])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attributes("shoe_size"), "'shoe_size' is not a kind of attribute; known: name, "),
        (lambda: decoys("shoe_size"), "'shoe_size' is not a kind"),
        (lambda: secrets("acme"), "no kind is of the vendor 'acme'; known: .*github"),
        (lambda: people(["email"], min_attributes=2), "<= 1 .*got 2 and 1"),
        (lambda: people(["email"], max_attributes=2), "<= 1 .*got 1 and 2"),
        (lambda: records([]), "holds no record"),
        (lambda: records(carriers=["jsonn"]), "'jsonn' is not a carrier; known: assignment, "),
        (lambda: documents(carriers=[]), "no carrier is named"),
        (lambda: documents(minimal(people(min_attributes=0))), "has no attribute; has: none"),
        (lambda: people(locales=["de_XX"]), "'de_XX' is not a locale of Faker; known: am_ET"),
        (lambda: datasets(max_people=0), "1 <= min_people <= max_people, got 1 and 0"),
        (lambda: records(client(1), kind="phone"), "person-001 has no attribute 'phone'; has: e"),
        (lambda: records(minimal(people(min_attributes=0))), "has no attribute; has: none"),
        (lambda: DrawnChoices(lambda n: 0).below(0), "n >= 1, got 0"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named_at_once(call: Any, message: str) -> None:
    """Where the strategy is made, and not in the middle of a test."""
    with pytest.raises(ValueError, match=message):
        call()


# --- nothing is shown --------------------------------------------------------------------------

LEAKY_TESTS = """
import os
from hypothesis import Phase, given, settings, strategies as st
from pytest_unlearn.people.record import Record
from pytest_unlearn.core.secret import Secret
from pytest_unlearn.strategies import *
from hypothesis.database import DirectoryBasedExampleDatabase

# Under CI, Hypothesis keeps no database of its own accord; what is looked for is what one holds.
settings.register_profile("kept", derandomize=False,
                          database=DirectoryBasedExampleDatabase(".hypothesis/examples"))
settings.load_profile("kept")

OWN = "".join(map(chr, range(103, 122)))
HELD = Record("a-1", "a", "forget", "email", "file", Secret(OWN + "1", "prompt"),
              Secret(OWN + "2", "email"), Secret(OWN + "3", "document"))

def keep(*texts):
    with open(os.environ["KEPT"], "a") as file:
        file.writelines(text + "\\n" for text in texts)

@settings(print_blob=True, phases=[Phase.generate, Phase.shrink])
@given(people(min_attributes=3), st.data())
def test_person(person, data):
    keep(person.name.reveal(), *(v.reveal() for v in person.attributes.values()))
    document = data.draw(records(person))
    keep(document.before.reveal())
    lines = data.draw(prompts(document), label="lines")
    source = data.draw(disguises())(document.value)
    keep(source.reveal())
    assert person.name == document.value

@settings(print_blob=True, phases=[Phase.generate, Phase.shrink])
@given(st.lists(attributes("api_key"), min_size=1), secrets("github"), decoys("email"))
def test_values(values, secret, decoy):
    keep(*(v.reveal() for v in [*values, secret, decoy]))
    # Fails on what is far from simplest, so that more than a run of one letter could be found.
    if len(set(values[0].reveal())) > 8:
        raise RuntimeError(f"{values[0]} has many letters")

@settings(print_blob=True)
@given(records([HELD]), disguises())
def test_record(record, disguise):
    keep(OWN)
    assert disguise.name == record.id
"""


@pytest.fixture
def failed_run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any
) -> tuple[str, set[str]]:
    """Output of a run that fails on drawn values, and all texts that were drawn in it."""
    kept = tmp_path_factory.mktemp("kept") / "values.txt"
    monkeypatch.setenv("KEPT", str(kept))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makepyfile(LEAKY_TESTS)
    result = pytester.runpytest_subprocess("-vv", "--showlocals", "-p", "no:xdist")
    result.assert_outcomes(failed=3)
    lines = {line.strip() for line in kept.read_text().splitlines()}
    return result.stdout.str() + result.stderr.str(), {line for line in lines if len(line) >= 8}


def unpacked(blob: bytes) -> bytes:
    """Return the choices in a blob; its first byte tells whether it is compressed."""
    return zlib.decompress(blob[1:]) if blob[0] else blob[1:]


def test_a_failing_test_shows_and_stores_no_value(
    failed_run: tuple[str, set[str]], pytester: pytest.Pytester
) -> None:
    """Kind and fingerprint instead: on the terminal, in the blob, and in the example database."""
    output, texts = failed_run
    assert len(texts) > 100
    fingerprint = "[0-9a-f]{8}>"
    for wanted in (
        f"name=<name {fingerprint}", f"'email': <email {fingerprint}", r"values=\[<api_key",
        f"secret=<github_token {fingerprint}", f"decoy=<email {fingerprint}",
        f"Draw 2 .lines.: .<line {fingerprint}", r"disguise=Disguise\('exact'\)",
        "before=<prompt", "Failing test case|Falsifying example",
    ):  # fmt: skip
        assert re.search(wanted, output), wanted
    assert sorted(text for text in texts if text in output) == []

    blobs = re.findall(r"@reproduce_failure\('[^']*', b'([^']*)'\)", output)
    assert len(blobs) >= 3
    stored = [path.read_bytes() for path in pytester.path.rglob(".hypothesis/examples/**/*")
              if path.is_file()]  # fmt: skip
    assert len(stored) > 3
    # A key is drawn without its public prefix, a document without its frame.
    parts = {part for text in texts for part in re.findall(r"\w{8,}", text.removeprefix("key_"))}
    for data in [unpacked(base64.b64decode(blob)) for blob in blobs] + stored:
        assert sorted(part for part in parts if part.encode() in data) == []


def test_a_single_use_of_text_would_be_found(tmp_path: Any) -> None:
    """The check above can fail: a drawn text stands in the database as it is."""
    from hypothesis.database import DirectoryBasedExampleDatabase

    drawn: list[str] = []
    database = DirectoryBasedExampleDatabase(tmp_path)

    @settings(database=database, max_examples=5)
    @given(st.text("abcdefgh", min_size=9, max_size=9))
    def fails(text: str) -> None:
        drawn.append(text)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert drawn[-1].encode() in stored


# --- imports -----------------------------------------------------------------------------------


def test_the_plugin_imports_no_dependency_before_a_model_is_named() -> None:
    """Nor do the strategies import torch."""
    code = (
        "import sys, pytest_unlearn, pytest_unlearn.plugin;"
        "assert not {'hypothesis', 'faker', 'xdist', 'torch', 'transformers'} & set(sys.modules);"
        "import pytest_unlearn.strategies; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
