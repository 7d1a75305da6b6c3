"""Hypothesis strategies for people, their values, documents, records, data sets and prompts.

They compose: `documents(people(["email"], locales=["ja_JP"]), carriers=["env"])`. All values come
from the generators of `--unlearn-people`.

Every choice is drawn by Hypothesis itself, so that a failing example shrinks choice by choice to
the first words of the lists and the least numbers. (A seeded generator in a strategy would shrink
the seed, which makes nothing simpler.) Hypothesis considers the example with the fewest choices the
simplest, whatever they mean; if that would not be the first of a list, idle choices are added to
it.

Nothing that Hypothesis prints or stores shows a value: values are `Secret`, and all choices are
drawn as numbers, since drawn texts end up in the example database, and in the blob of
`@reproduce_failure`, as they are. If a test maps a value to a plain `str`, keeping it secret is up
to the test.

What a model was trained on is fixed, so a test of a model draws `records(known)` and fresh
`decoys(kind)`; `people()` and what follows from them are for tests of matchers, filters and data
pipelines. Everybody here is made up: `reveal()` in a `note` shows a failing example in plain text.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.vendor.pretty import for_type_by_name

from pytest_unlearn.core.secret import Secret, joined
from pytest_unlearn.leaks.disguises import DISGUISES
from pytest_unlearn.people import draws
from pytest_unlearn.people.documents import CARRIER_NAMES, FILES, language_of
from pytest_unlearn.people.draws import Choices
from pytest_unlearn.people.generate import ATTRIBUTE_KINDS, a_value, documents_of, is_usable
from pytest_unlearn.people.kinds import KINDS
from pytest_unlearn.people.locales import locales as known_locales
from pytest_unlearn.people.record import CARRIERS, SPLITS, Carrier, Record, Split
from pytest_unlearn.people.record_files import records_of_people
from pytest_unlearn.probes.families import (
    KNOWLEDGE,
    WORDINGS,
    Knowledge,
    PromptError,
    PromptRecipe,
    Wording,
    render,
)

__all__ = [
    "Disguise",
    "Document",
    "DrawnChoices",
    "Person",
    "attributes",
    "carriers",
    "datasets",
    "decoys",
    "disguises",
    "documents",
    "joined",
    "knowledge",
    "people",
    "prompts",
    "records",
    "secrets",
]

T = TypeVar("T")

_MOST_PEOPLE = 9999
# Words without a frozen list are drawn in this locale if none is given.
_LOCALE = "en_US"
# The number of people drawn to find one whose name and values nobody else has.
_DRAWS = 5

# Hypothesis prints every field of a dataclass, including those with `repr=False`.
for_type_by_name(Record.__module__, Record.__qualname__, lambda obj, p, _cycle: p.text(repr(obj)))


class DrawnChoices:
    """`people.draws.Choices` from one source of integers, for example Hypothesis.

    `below(n)` gives an integer in `[0, n)`, the least being the simplest. Texts are drawn as
    numbers too, one number per character: see the module's docstring. `made` counts the choices.
    """

    __slots__ = ("_below", "made")

    def __init__(self, below: Callable[[int], int]) -> None:
        self._below = below
        self.made = 0

    @classmethod
    def drawn_by(cls, draw: st.DrawFn) -> DrawnChoices:
        """Return choices made by the `draw` of a composite strategy."""
        return cls(lambda n: draw(st.integers(0, n - 1)))

    def below(self, n: int) -> int:
        """Return an integer in `[0, n)`. ValueError if n < 1."""
        if n < 1:
            raise ValueError(f"below() needs n >= 1, got {n}")
        if n == 1:
            return 0  # there is no choice, and an example with fewer choices shrinks faster
        self.made += 1
        return self._below(n)

    def choice(self, items: Sequence[T]) -> T:
        """Return one item of a non-empty sequence; it shrinks towards the first."""
        return items[self.below(len(items))]

    def text(self, alphabet: str, length: int) -> str:
        """Return `length` characters; each shrinks towards the first of `alphabet`."""
        return "".join(self.choice(alphabet) for _ in range(length))

    def idle_until(self, made: int) -> None:
        """Make idle choices until this number of choices is made."""
        while self.made < made:
            self.below(2)


@dataclass(frozen=True, slots=True)
class Person:
    """A made-up person. `owner` is a row name without personal data; `attributes` are keyed by
    kind."""

    owner: str
    name: Secret
    attributes: Mapping[str, Secret] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Document:
    """A snippet or a whole file of code, with values of one person in it."""

    person: Person
    carrier: str
    text: Secret

    @property
    def language(self) -> str:
        """The language of the text, such as `python` or `sql`."""
        return language_of(self.carrier)

    def left_in(self, text: str) -> list[Secret]:
        """Return the person's values that occur in another text, as they are."""
        return [
            value
            for value in self.person.attributes.values()
            if value.reveal() in self.text.reveal() and value.reveal() in text
        ]


@dataclass(frozen=True, slots=True)
class Disguise:
    """A way to write a value in code, by its name in `leaks.disguises.DISGUISES`.

    Call it with a value while the test that drew it runs: it draws further choices (where to cut,
    which quotes), again at each call.
    """

    name: str
    _choices: DrawnChoices = field(repr=False, compare=False)

    def __call__(self, value: Secret) -> Secret:
        """Return Python source, one or a few lines, that contains the value in this disguise."""
        plainest = next(iter(DISGUISES.values()))
        least = _fewest(lambda choices: plainest(value.reveal(), choices))
        start = self._choices.made
        hidden = Secret(DISGUISES[self.name](value.reveal(), self._choices), "disguise")
        self._choices.idle_until(start + least)
        return hidden

    def _repr_pretty_(self, printer: object, cycle: bool) -> None:
        # Hypothesis calls this; otherwise it would also print the fields with `repr=False`.
        printer.text(f"Disguise({self.name!r})")  # type: ignore[attr-defined]


def attributes(kind: str | None = None) -> st.SearchStrategy[Secret]:
    """Return values of a kind of `people.kinds.KINDS`, or of any kind.

    Cities, companies and job titles are kinds, too. Any kind shrinks towards the first. ValueError
    for a kind that is not known.
    """
    return _values(list(KINDS) if kind is None else _kinds([kind]))


def secrets(vendor: str | None = None) -> st.SearchStrategy[Secret]:
    """Return keys and tokens in the format of a vendor (`"github"`), or of any vendor.

    Raises ValueError for a vendor without a kind.
    """
    vendors: dict[str, list[str]] = {}
    for kind in KINDS.values():
        if kind.vendor:
            vendors.setdefault(kind.vendor, []).append(kind.name)
    if vendor is None:
        return _values([name for names in vendors.values() for name in names])
    if vendor not in vendors:
        raise ValueError(f"no kind is of the vendor {vendor!r}; known: {', '.join(vendors)}")
    return _values(vendors[vendor])


def decoys(kind: str, avoid: Collection[Secret] = ()) -> st.SearchStrategy[Secret]:
    """Return fresh values of a kind, never one of `avoid`: the chance level of a measurement.

    ValueError for a kind that is not known.
    """
    taken = frozenset(avoid)
    return attributes(kind).filter(lambda value: value not in taken)


def people(
    kinds: Iterable[str] | None = None,
    *,
    locales: Iterable[str] | None = None,
    min_attributes: int = 1,
    max_attributes: int | None = None,
) -> st.SearchStrategy[Person]:
    """Return people with between `min_attributes` and `max_attributes` attributes.

    `kinds`: the kinds, simplest first (by default all but `name`, which everybody has), without
    duplicates. `locales`: of Faker's, one of which is drawn for each person; by default
    names are frozen English ones, the same for every version of Faker. For several people use
    `datasets()`, or `st.lists(people(), unique_by=lambda p: p.owner)`. ValueError for unknown
    kinds and locales, and for bounds that the kinds cannot meet.
    """
    known = [kind for kind in _kinds(kinds) if kind != "name"]
    most = len(known) if max_attributes is None else max_attributes
    if not 0 <= min_attributes <= most <= len(known):
        raise ValueError(
            f"needs 0 <= min_attributes <= max_attributes <= {len(known)} (the number of kinds), "
            f"got {min_attributes} and {most}"
        )
    where = None if locales is None else _known("a locale of Faker", known_locales(), locales)
    return _people(known, where, min_attributes, most)


def carriers() -> st.SearchStrategy[Carrier]:
    """Return snippets; the one with the least text around a value comes first."""
    return st.sampled_from(_simplest_carriers())


def knowledge() -> st.SearchStrategy[Knowledge]:
    """Return what an attacker may know: `probes.prompts.KNOWLEDGE`, from nothing to the prefix."""
    return st.sampled_from(KNOWLEDGE)


def documents(
    person: Person | st.SearchStrategy[Person] | None = None,
    *,
    carriers: Iterable[str] | None = None,
) -> st.SearchStrategy[Document]:
    """Return texts that contain all values of a person: snippets, one after the other, or a whole
    file.

    `person`: the person, or a strategy of people (default: `people()`). `carriers`: the carriers,
    by default all, the shortest snippet first and whole files last. ValueError for an unknown
    carrier, and for a person without attributes.
    """
    if isinstance(person, Person):
        _check_attributes(person, None)
        person = st.just(person)
    return _documents(people() if person is None else person, _carriers(carriers))


def records(
    source: Sequence[Record] | Person | st.SearchStrategy[Person] | None = None,
    *,
    kind: str | None = None,
    split: Split = "forget",
    carriers: Iterable[str] | None = None,
) -> st.SearchStrategy[Record]:
    """Return records: given ones, shrinking towards the first, or new ones.

    `source`: known records, such as those of a run; or a person, or a strategy of people, one of
    whose attributes (of `kind`, or any) is in a document (default: `people()`). `carriers`: as for
    `documents`, by default snippets only. ValueError if there is no record, no such attribute or no
    such carrier.
    """
    if isinstance(source, Sequence):
        if not source:
            raise ValueError("the sequence holds no record")
        return st.sampled_from(source)
    if isinstance(source, Person):
        _check_attributes(source, kind)
        source = st.just(source)
    if source is None:
        source = people(None if kind is None else [kind])
    names = [c.name for c in _simplest_carriers()] if carriers is None else _carriers(carriers)
    return _records(source, kind, split, names)


def datasets(
    person: st.SearchStrategy[Person] | None = None,
    *,
    min_people: int = 1,
    max_people: int = 3,
    carriers: Iterable[str] | None = None,
) -> st.SearchStrategy[tuple[Record, ...]]:
    """Return the records of people of all three splits, as a run reads them from files.

    `person`: a strategy of people (default: `people()`). Each split has between `min_people` and
    `max_people` of them; no name and no value belongs to two. ValueError for wrong bounds and
    unknown carriers.
    """
    if not 1 <= min_people <= max_people:
        raise ValueError(f"needs 1 <= min_people <= max_people, got {min_people} and {max_people}")
    names = [c.name for c in _simplest_carriers()] if carriers is None else _carriers(carriers)
    return _datasets(people() if person is None else person, min_people, max_people, names)


def prompts(
    record: Record,
    known: Sequence[Record] = (),
    *,
    knowledge: Collection[Knowledge] = KNOWLEDGE,
    wordings: Collection[Wording] = WORDINGS,
) -> st.SearchStrategy[tuple[Secret, ...]]:
    """Return prompts that ask for a record's value, as lines; `joined` puts them together.

    They shrink to the least knowledge, then the plainest wording, then the simplest carrier.
    `known`: records of which those of the same person may be shown (the whole data set will do).
    Knowledge for which too little is known is left out. Raises PromptError if none is left, and
    ValueError if there is no wording or an unknown one.
    """
    others = [other for other in known if other.owner == record.owner and other.id != record.id]
    able: list[Knowledge] = []
    reason = "no knowledge was asked for"
    for level in KNOWLEDGE:
        if level in knowledge:
            try:
                render(record, others, PromptRecipe(next(iter(CARRIERS)), level))
                able.append(level)
            except PromptError as error:
                reason = str(error)
    if not able:
        raise PromptError(f"no prompt can be built for {record.id}: {reason}")
    if not wordings or set(wordings) - set(WORDINGS):
        raise ValueError(f"wordings must be some of {', '.join(WORDINGS)}, got {list(wordings)}")
    return _prompts(record, others, able, [wording for wording in WORDINGS if wording in wordings])


@st.composite
def disguises(draw: st.DrawFn) -> Disguise:
    """Return ways to hide a value in code, the plain one (`exact`) first."""
    name = draw(st.sampled_from(list(DISGUISES)))
    # A composite's own `draw` is for the composite only; this outlives it until the test ends.
    return Disguise(name, DrawnChoices(draw(st.randoms(use_true_random=False)).randrange))


def _kinds(names: Iterable[str] | None) -> list[str]:
    """Return kinds by name, each once; None means all of `KINDS`. Raises ValueError for an unknown
    one."""
    if names is None:
        return list(KINDS)
    return _known("a kind of attribute", ("name", *ATTRIBUTE_KINDS), names)


def _known(what: str, known: Collection[str], names: Iterable[str]) -> list[str]:
    """Return names, each once. Raises ValueError if there is none, or for an unknown one."""
    chosen = list(dict.fromkeys(names))
    for name in chosen:
        if name not in known:
            raise ValueError(f"{name!r} is not {what}; known: {', '.join(known)}")
    return chosen


def _carriers(names: Iterable[str] | None) -> list[str]:
    """Return carriers by name, the simplest first. ValueError for an unknown one, and for none."""
    simplest = [*(carrier.name for carrier in _simplest_carriers()), *FILES]
    if names is None:
        return simplest
    chosen = _known("a carrier", CARRIER_NAMES, names)
    if not chosen:
        raise ValueError(f"no carrier is named; known: {', '.join(CARRIER_NAMES)}")
    return sorted(chosen, key=simplest.index)


def _check_attributes(person: Person, kind: str | None) -> None:
    if not person.attributes or kind not in (None, *person.attributes):
        raise ValueError(
            f"{person.owner} has no attribute{f' {kind!r}' if kind else ''}; "
            f"has: {', '.join(person.attributes) or 'none'}"
        )


def _fewest(make: Callable[[DrawnChoices], object]) -> int:
    """Return how many choices the simplest example takes."""
    simplest = DrawnChoices(lambda n: 0)
    make(simplest)
    return simplest.made


def _text(kind: str, locale: str | None, choices: Choices) -> str | None:
    """Return a value of a kind: from the frozen words if there are some and no locale is given."""
    if locale is None and kind in KINDS:
        return KINDS[kind].generate(choices)
    return a_value(kind, locale or _LOCALE, choices)


@functools.cache
def _fewest_of(kind: str, locale: str | None) -> int:
    return _fewest(lambda choices: _text(kind, locale, choices))


def _value(kind: str, locale: str | None, choices: DrawnChoices, floor: int) -> Secret:
    """Return a value of a kind, made with at least `floor` choices and as many as its simplest
    value.

    Kinds differ in how many choices they take, and variants of one kind too.
    """
    start = choices.made
    value = _text(kind, locale, choices)
    assume(value is not None and is_usable(kind, value, ""))
    choices.idle_until(start + max(floor, _fewest_of(kind, locale)))
    return Secret(value or "", kind)


def _simplest_carriers() -> list[Carrier]:
    def size(carrier: Carrier) -> int:
        return len(carrier.before("", "x") + carrier.after)

    return sorted(CARRIERS.values(), key=size)


# Only composite strategies, no `builds` or `map`: for those, Hypothesis prints the call with its
# arguments, which would be plain texts.


@st.composite
def _values(draw: st.DrawFn, kinds: Sequence[str]) -> Secret:
    choices = DrawnChoices.drawn_by(draw)
    return _value(choices.choice(kinds), None, choices, _fewest_of(kinds[0], None))


@st.composite
def _people(
    draw: st.DrawFn, kinds: Sequence[str], locales: Sequence[str] | None, least: int, most: int
) -> Person:
    choices = DrawnChoices.drawn_by(draw)
    owner = f"person-{choices.below(_MOST_PEOPLE) + 1:03d}"
    locale = None if locales is None else choices.choice(locales)
    if locale is None:
        first = choices.choice(draws.FIRST_NAMES)
        surname = choices.choice(draws.SURNAME_HEADS) + choices.choice(draws.SURNAME_TAILS)
        name = Secret(f"{first} {surname}", "name")
    else:
        name = _value("name", locale, choices, 0)
    # The simplest person has the first kinds, so no other kind may take fewer choices than these.
    floor = max((_fewest_of(kind, locale) for kind in kinds[:least]), default=0)
    # One choice per kind, independent of the others, so that what a failure does not need is
    # dropped individually. The first kinds fill up the rest.
    one_in = max(2, len(kinds) // 2)
    values: dict[str, Secret] = {}
    for kind in kinds:
        if len(values) < most and choices.below(one_in) == one_in - 1:
            values[kind] = draw(_attribute(kind, locale, floor))
    for kind in kinds:
        if len(values) < least and kind not in values:
            values[kind] = draw(_attribute(kind, locale, floor))
    assume(all(is_usable(kind, value.reveal(), name.reveal()) for kind, value in values.items()))
    return Person(owner, name, {kind: values[kind] for kind in kinds if kind in values})


@st.composite
def _attribute(draw: st.DrawFn, kind: str, locale: str | None, floor: int) -> Secret:
    """Return an attribute: a strategy of its own, so that Hypothesis drops one as a whole."""
    return _value(kind, locale, DrawnChoices.drawn_by(draw), floor)


def _facts(person: Person) -> list[tuple[str, str]]:
    return [(kind, value.reveal()) for kind, value in person.attributes.items()]


@st.composite
def _documents(
    draw: st.DrawFn, person: st.SearchStrategy[Person], carriers: Sequence[str]
) -> Document:
    whose = draw(person)
    carrier = draw(st.sampled_from(carriers))
    choices = DrawnChoices.drawn_by(draw)
    texts = documents_of(carrier, whose.name.reveal(), _facts(whose), choices)
    return Document(whose, carrier, Secret("".join(texts), "document"))


@st.composite
def _records(
    draw: st.DrawFn,
    source: st.SearchStrategy[Person],
    kind: str | None,
    split: Split,
    carriers: Sequence[str],
) -> Record:
    whose = draw(source)
    assume(whose.attributes and (kind is None or kind in whose.attributes))
    kind = kind or draw(st.sampled_from(list(whose.attributes)))
    carrier = draw(st.sampled_from(carriers))
    line = _line(whose, carrier, DrawnChoices.drawn_by(draw))
    record = next(r for r in records_of_people({split: [line]}) if r.kind == kind)
    return replace(record, id=f"{whose.owner}-{kind}", owner=whose.owner, person=None)


def _line(person: Person, carrier: str, choices: Choices) -> dict[str, object]:
    """Return a person in the form of a line of a record file."""
    name, facts = person.name.reveal(), _facts(person)
    texts = documents_of(carrier, name, facts, choices)
    return {
        "owner": person.owner,
        "name": name,
        "attributes": dict(facts),
        "documents": [{"text": text, "carrier": carrier} for text in texts],
    }


@st.composite
def _datasets(
    draw: st.DrawFn,
    person: st.SearchStrategy[Person],
    least: int,
    most: int,
    carriers: Sequence[str],
) -> tuple[Record, ...]:
    choices = DrawnChoices.drawn_by(draw)
    taken: set[str] = set()
    lines: dict[Split, list[dict[str, object]]] = {}
    for split in SPLITS:
        group = lines.setdefault(split, [])
        while len(group) < most and (len(group) < least or choices.below(2)):
            whose = draw(_another(person, taken))
            taken |= {whose.name.reveal(), whose.owner, *(value for _, value in _facts(whose))}
            group.append(_line(whose, choices.choice(carriers), choices))
    return tuple(records_of_people(lines))


@st.composite
def _another(draw: st.DrawFn, person: st.SearchStrategy[Person], taken: Collection[str]) -> Person:
    """Return a person with attributes whose name and values are not in use yet."""
    for _ in range(_DRAWS):
        whose = draw(person)
        own = {whose.name.reveal(), whose.owner, *(value for _, value in _facts(whose))}
        if whose.attributes and not own & set(taken):
            return whose
    assume(False)
    raise AssertionError  # `assume` has left


@st.composite
def _prompts(
    draw: st.DrawFn,
    record: Record,
    others: Sequence[Record],
    levels: Sequence[Knowledge],
    wordings: Sequence[Wording],
) -> tuple[Secret, ...]:
    level = draw(st.sampled_from(levels))
    wording = draw(st.sampled_from(wordings))
    # Drawn for all wordings, although only a snippet needs it, so that each has the same number of
    # choices.
    carrier = draw(carriers())
    prompt = render(record, others, PromptRecipe(carrier.name, level, wording))
    return tuple(Secret(line, "line") for line in prompt.reveal().splitlines(keepends=True))
