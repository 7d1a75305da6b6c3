"""Hypothesis strategies for people, their values, documents and prompts.

Every choice is drawn by Hypothesis itself, so that a failing example shrinks choice by choice to
the first words of the lists and the least numbers. (A seeded generator in a strategy shrinks the
seed, which makes nothing simpler.) Hypothesis takes the example of fewest choices for the
simplest, whatever they stand for; where that would not be the first of a list, idle choices are
added to the others.

Nothing that Hypothesis prints or stores shows a value: values are `Secret`, and all choices are
drawn as numbers, for drawn texts stand in the example database, and in the blob of
`@reproduce_failure`, as they are. A value that a test maps to a plain `str` is its own business.

What a model was trained on is fixed, so a test of a model draws `records(manifest)` and fresh
`decoys(kind)`; `people()` and what follows from them are for tests of matchers, filters and data
pipelines.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.vendor.pretty import for_type_by_name

from pytest_unlearn.core.secret import Secret, joined
from pytest_unlearn.leaks.disguises import DISGUISES
from pytest_unlearn.people import words
from pytest_unlearn.people.carriers import CARRIERS, Carrier
from pytest_unlearn.people.kinds import KINDS, Kind
from pytest_unlearn.people.record import Record, Split
from pytest_unlearn.probes.prompts import (
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
    "DrawnChoices",
    "Person",
    "attributes",
    "carriers",
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

# Hypothesis prints every field of a dataclass, those of `repr=False` too.
for_type_by_name(Record.__module__, Record.__qualname__, lambda obj, p, _cycle: p.text(repr(obj)))


class DrawnChoices:
    """`people.draws.Choices` out of one source of integers, for example Hypothesis.

    `below(n)` gives an integer in `[0, n)`, the least being the simplest. Texts are drawn as
    numbers too, a number a character: see the module's first lines. `made` counts the choices.
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
            return 0  # no choice, and an example of fewer choices shrinks faster
        self.made += 1
        return self._below(n)

    def choice(self, items: Sequence[T]) -> T:
        """Return one item of a non-empty sequence; it shrinks towards the first."""
        return items[self.below(len(items))]

    def text(self, alphabet: str, length: int) -> str:
        """Return `length` characters; each shrinks towards the first of `alphabet`."""
        return "".join(self.choice(alphabet) for _ in range(length))

    def idle_until(self, made: int) -> None:
        """Make choices that decide nothing until so many are made."""
        while self.made < made:
            self.below(2)


@dataclass(frozen=True, slots=True)
class Person:
    """A made-up person. `owner` is a row name without personal data; `attributes` go by kind."""

    owner: str
    name: Secret
    attributes: Mapping[str, Secret] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Disguise:
    """A way to write a value in code, by its name in `leaks.disguises.DISGUISES`.

    Call it with a value while the test that drew it runs: it draws further choices (where to cut,
    which quotes), anew at each call.
    """

    name: str
    _choices: DrawnChoices = field(repr=False, compare=False)

    def __call__(self, value: Secret) -> Secret:
        """Return Python source, one or a few lines, that holds the value in this disguise."""
        plainest = next(iter(DISGUISES.values()))
        least = _fewest(lambda choices: plainest(value.reveal(), choices))
        start = self._choices.made
        told = Secret(DISGUISES[self.name](value.reveal(), self._choices), "disguise")
        self._choices.idle_until(start + least)
        return told

    def _repr_pretty_(self, printer: object, cycle: bool) -> None:
        # Hypothesis asks for this; without it, it prints the fields of `repr=False` too.
        printer.text(f"Disguise({self.name!r})")  # type: ignore[attr-defined]


def attributes(kind: str | None = None) -> st.SearchStrategy[Secret]:
    """Return values of a kind of `people.kinds.KINDS`, or of any kind.

    Any kind shrinks towards the first. ValueError for a kind that is not known.
    """
    return _values(_kinds(None if kind is None else [kind]))


def secrets(vendor: str | None = None) -> st.SearchStrategy[Secret]:
    """Return keys and tokens in the format of a vendor (`"github"`), or of any vendor.

    ValueError for a vendor that has no kind.
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
    min_attributes: int = 1,
    max_attributes: int | None = None,
) -> st.SearchStrategy[Person]:
    """Return people with between `min_attributes` and `max_attributes` attributes.

    `kinds`: of which kinds, simplest first (by default all but `name`, which everybody has); no
    kind comes twice. For several people use `st.lists(people(), unique_by=lambda p: p.owner)`.
    ValueError for unknown kinds, and for bounds that the kinds cannot meet.
    """
    known = [kind for kind in _kinds(kinds) if kind != "name"]
    most = len(known) if max_attributes is None else max_attributes
    if not 0 <= min_attributes <= most <= len(known):
        raise ValueError(
            f"needs 0 <= min_attributes <= max_attributes <= {len(known)} (the number of kinds), "
            f"got {min_attributes} and {most}"
        )
    return _people(known, min_attributes, most)


def carriers() -> st.SearchStrategy[Carrier]:
    """Return carriers, the one that writes the least around a value first."""
    return st.sampled_from(_simplest_carriers())


def knowledge() -> st.SearchStrategy[Knowledge]:
    """Return what an attacker may know: `probes.prompts.KNOWLEDGE`, from nothing to the prefix."""
    return st.sampled_from(KNOWLEDGE)


def documents(
    person: Person, *, kind: str | None = None, split: Split = "forget"
) -> st.SearchStrategy[Record]:
    """Return records of one attribute of a person (of `kind`, or any) in any carrier.

    ValueError if the person has no such attribute.
    """
    if not person.attributes or kind not in (None, *person.attributes):
        raise ValueError(
            f"{person.owner} has no attribute{f' {kind!r}' if kind else ''}; "
            f"has: {', '.join(person.attributes) or 'none'}"
        )
    return _documents(person, tuple(person.attributes) if kind is None else (kind,), split)


def records(manifest: Sequence[Record]) -> st.SearchStrategy[Record]:
    """Return records of a manifest, towards its first. ValueError if there are none."""
    if not manifest:
        raise ValueError("the manifest holds no record")
    return st.sampled_from(manifest)


def prompts(
    record: Record,
    known: Sequence[Record] = (),
    *,
    knowledge: Collection[Knowledge] = KNOWLEDGE,
    wordings: Collection[Wording] = WORDINGS,
) -> st.SearchStrategy[tuple[Secret, ...]]:
    """Return prompts that ask for a record's value, as lines; `joined` puts them together.

    They shrink to the least knowledge, then the plainest wording, then the simplest carrier.
    `known`: records of which those of the same person may be shown (the whole manifest will do).
    Knowledge for which too little is known is left out; PromptError if none is left, ValueError
    if there is no wording or a wrong one.
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
    """Return kinds by name, each once; all where None. ValueError for an unknown one."""
    wanted = list(KINDS) if names is None else list(dict.fromkeys(names))
    for name in wanted:
        if name not in KINDS:
            raise ValueError(f"{name!r} is no kind of attribute; known: {', '.join(KINDS)}")
    return wanted


def _fewest(make: Callable[[DrawnChoices], object]) -> int:
    """Return how many choices it takes to make the simplest of something."""
    simplest = DrawnChoices(lambda n: 0)
    make(simplest)
    return simplest.made


@functools.cache
def _fewest_of(kind: Kind) -> int:
    return _fewest(kind.generate)


def _value(kind: str, choices: DrawnChoices, floor: int) -> Secret:
    """Return a value of a kind, made in at least `floor` choices and in those of its simplest.

    Kinds differ in how many choices they take, and variants of one kind too.
    """
    start = choices.made
    value = Secret(KINDS[kind].generate(choices), kind)
    choices.idle_until(start + max(floor, _fewest_of(KINDS[kind])))
    return value


def _simplest_carriers() -> list[Carrier]:
    def size(carrier: Carrier) -> int:
        return len(carrier.before("", "x") + carrier.after)

    return sorted(CARRIERS.values(), key=size)


# Composite strategies only, and no `builds` or `map`: of those Hypothesis prints the call with its
# arguments, which would be plain texts.


@st.composite
def _values(draw: st.DrawFn, kinds: Sequence[str]) -> Secret:
    choices = DrawnChoices.drawn_by(draw)
    return _value(choices.choice(kinds), choices, _fewest_of(KINDS[kinds[0]]))


@st.composite
def _people(draw: st.DrawFn, kinds: Sequence[str], least: int, most: int) -> Person:
    choices = DrawnChoices.drawn_by(draw)
    owner = f"person-{choices.below(_MOST_PEOPLE) + 1:03d}"
    first = choices.choice(words.FIRST_NAMES)
    surname = choices.choice(words.SURNAME_HEADS) + choices.choice(words.SURNAME_TAILS)
    # The simplest person has the first kinds, so that no other kind may take less than these.
    floor = max((_fewest_of(KINDS[kind]) for kind in kinds[:least]), default=0)
    found: dict[str, Secret] = {}
    while len(found) < most:
        left = [kind for kind in kinds if kind not in found]
        value = draw(_more(left, len(found) >= least, floor))
        if value is None:
            break
        found[value.kind] = value
    return Person(owner, Secret(f"{first} {surname}", "name"), found)


@st.composite
def _more(draw: st.DrawFn, kinds: Sequence[str], may_end: bool, floor: int) -> Secret | None:
    """Return one more attribute, or None for the end.

    A strategy of its own, so that Hypothesis sees where an attribute begins and ends, and drops
    one as a whole.
    """
    choices = DrawnChoices.drawn_by(draw)
    if may_end and choices.below(2) == 0:
        return None
    return _value(choices.choice(kinds), choices, floor)


@st.composite
def _documents(draw: st.DrawFn, person: Person, kinds: Sequence[str], split: Split) -> Record:
    kind = draw(st.sampled_from(kinds))
    carrier = draw(carriers())
    return Record(
        id=f"{person.owner}-{kind}",
        owner=person.owner,
        split=split,
        kind=kind,
        carrier=carrier.name,
        before=Secret(carrier.before(person.name.reveal(), kind), "prompt"),
        value=person.attributes[kind],
        after=Secret(carrier.after, "document"),
        name=person.name,
    )


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
    # Drawn for all wordings, though only a snippet has one: as many choices for each.
    carrier = draw(carriers())
    prompt = render(record, others, PromptRecipe(carrier.name, level, wording))
    return tuple(Secret(line, "line") for line in prompt.reveal().splitlines(keepends=True))
