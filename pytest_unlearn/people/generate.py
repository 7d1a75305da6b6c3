"""People made from a seed: any number for `--unlearn-people`, and those of the tiny model.

For the former, Faker makes names, streets, cities, companies and job titles, in any of its locales
and mixtures of them, and `KINDS` make identifiers in ranges that belong to nobody. A person is the
object of one line of a record file, so generated people and people read from a written file are the
same. The tiny model's people are made from frozen words, so the repository does not contain their
values.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pytest_unlearn.core.errors import UserError, nearest
from pytest_unlearn.core.secret import Secret
from pytest_unlearn.core.text_files import replacing
from pytest_unlearn.people import draws
from pytest_unlearn.people.documents import CARRIER_NAMES, FILES, ordinary_code
from pytest_unlearn.people.draws import Choices, Stream
from pytest_unlearn.people.kinds import KINDS
from pytest_unlearn.people.locales import WORD_KINDS, faker_version, locales, word
from pytest_unlearn.people.record import (
    CARRIERS,
    SPLITS,
    Record,
    Split,
    records_digest,
    spelling,
    weight,
)
from pytest_unlearn.people.record_files import MIN_VALUE, records_of_people

T = TypeVar("T")

# Increased with every change to what a seed gives.
GENERATOR = 1
MANIFEST = "manifest.json"
# Everybody has a name: probes use it to ask, so it is not an attribute.
ATTRIBUTE_KINDS = tuple(dict.fromkeys(k for k in (*KINDS, *WORD_KINDS) if k != "name"))
# After this many draws in a row without a new value, a kind is taken to have no more.
_FRUITLESS = 500
_ALL = "all"
_MOST_DIGITS = 9
# Names for several carriers.
_GROUPS = {"snippets": tuple(CARRIERS), "files": tuple(FILES), _ALL: CARRIER_NAMES}


class PeopleError(UserError):
    """People cannot be generated as requested; the message says what to write instead."""

    flag = "--unlearn-people"


@dataclass(frozen=True, slots=True)
class PeopleOptions:
    """What people to generate.

    forget, retain, control: how many people each split has. kinds: the kinds of their attributes.
    carriers: what holds their values; each value has its own snippet, while a file holds all of a
    person's values. locales: one is drawn for each person. per_person: attributes of each person.
    repetitions: how many documents hold a value, each in a different carrier; with several numbers,
    people get them in turn. faker: the version of Faker that must be installed, empty for any.
    """

    forget: int
    retain: int
    control: int
    kinds: tuple[str, ...] = ("email", "phone", "street_address", "password", "api_key")
    carriers: tuple[str, ...] = tuple(CARRIERS)
    locales: tuple[str, ...] = ("en_US",)
    per_person: int = 2
    repetitions: tuple[int, ...] = (1,)
    seed: int = 0
    faker: str = ""

    @property
    def text(self) -> str:
        """Return the options in the form of the flag, with all of them written out."""
        options = {name: getattr(self, name) for name in _OPTIONS}
        listed = ",".join(
            f"{name}={'/'.join(map(str, value)) if isinstance(value, tuple) else value}"
            for name, value in options.items()
            if value != ""
        )
        return f"{self.forget}:{listed}"

    def size(self, split: Split) -> int:
        """Return how many people a split has."""
        size: int = getattr(self, split)
        return size


def parse_people(text: str) -> PeopleOptions:
    """Read `N` or `N:name=value,name=value`. Raises PeopleError, before anything is made."""
    count, colon, rest = text.partition(":")
    forget = _number(count, "a number of people to forget", least=1)
    options = PeopleOptions(forget, forget, forget)
    changes: dict[str, Any] = {}
    for part in rest.split(",") if colon else ():
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name in _OPTIONS and not value:
            raise PeopleError(f"{name} has no value; write {name}=VALUE")
        if not equals or name not in _OPTIONS:
            like = nearest(name, _OPTIONS)
            raise PeopleError(
                f"{part.strip()!r} is not an option; write name=value with {', '.join(_OPTIONS)}"
                + (f" (did you mean {like}?)" if like else "")
            )
        if name in changes:
            raise PeopleError(f"{name} is given twice; write it once, with / between several")
        changes[name] = _OPTIONS[name](value)
    options = dataclasses.replace(options, **changes)
    _check(options)
    return options


def _check(options: PeopleOptions) -> None:
    for name, chosen, most in (
        ("per_person", options.per_person, options.kinds),
        ("repetitions", max(options.repetitions), options.carriers),
    ):
        if chosen > len(most):
            what = "kinds" if name == "per_person" else "carriers"
            raise PeopleError(
                f"{name}={chosen} needs that many {what}, and there are {len(most)}: "
                f"{', '.join(most)}; write more {what}, or a smaller number"
            )
    if options.faker and options.faker != faker_version():
        raise PeopleError(
            f"faker={options.faker}: Faker {faker_version()} is installed, which makes other "
            f"people; run `pip install faker=={options.faker}`, or leave faker= out to take these"
        )


def _number(text: str, what: str, least: int = 0) -> int:
    digits = text.isascii() and text.isdigit()
    if digits and len(text) > _MOST_DIGITS:
        raise PeopleError(
            f"{text[:9]}... is too large for {what}; write at most {_MOST_DIGITS} digits"
        )
    if not digits or int(text) < least:
        raise PeopleError(f"{text!r} is not {what}; write a whole number of at least {least}")
    return int(text)


def _names(what: str, known: Callable[[], Sequence[str]]) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        groups: Mapping[str, Sequence[str]] = _GROUPS if what == "carriers" else {}
        if what == "locales":
            groups = {_ALL: known()}
        names: list[str] = []
        for name in text.split("/"):
            if name not in groups and name not in known():
                like = nearest(name, (*groups, *known()))
                raise PeopleError(
                    f"{what}={name}: not one of {what}"
                    + (f"; did you mean {like}?" if like else "")
                    + f"; known: {', '.join((*groups, *known()))}"
                )
            names += groups.get(name, (name,))
        return tuple(dict.fromkeys(names))

    return read


def _kinds(text: str) -> tuple[str, ...]:
    if "name" in text.split("/"):
        raise PeopleError("kinds=name: everybody has a name already; leave it out")
    return _names("kinds", lambda: ATTRIBUTE_KINDS)(text)


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "retain": lambda text: _number(text, "a number of retained people"),
    "control": lambda text: _number(text, "a number of control people"),
    "kinds": _kinds,
    "carriers": _names("carriers", lambda: CARRIER_NAMES),
    "locales": _names("locales", locales),
    "per_person": lambda text: _number(text, "a number of attributes", least=1),
    "repetitions": lambda text: tuple(
        _number(part, "a number of documents", least=1) for part in text.split("/")
    ),
    "seed": lambda text: _number(text, "a seed"),
    "faker": str,
}


@dataclass(slots=True)
class Taken:
    """Names and values in use, by their `spelling`, and which locales have no more of a kind."""

    values: set[str] = field(default_factory=set)
    exhausted: set[tuple[str, str]] = field(default_factory=set)


def people(options: PeopleOptions, split: Split, taken: Taken) -> Iterator[dict[str, Any]]:
    """Yield the people of one split, one at a time, and note their names and values in `taken`.

    No name and no value occurs twice. Raises PeopleError if a kind has no more values.
    """
    for number in range(options.size(split)):
        choices = Stream("people", GENERATOR, options.seed, split, number)
        kinds = some(choices, options.kinds, options.per_person)
        name, facts = _new_person(options, kinds, choices, taken)
        repetitions = options.repetitions[number % len(options.repetitions)]
        yield {
            "owner": f"{split}-{number + 1:05d}",
            "name": name,
            "attributes": facts,
            "documents": [
                {"text": text, "carrier": carrier}
                for carrier in some(choices, options.carriers, repetitions)
                for text in documents_of(carrier, name, list(facts.items()), choices)
            ],
        }


def _new_person(
    options: PeopleOptions, kinds: Sequence[str], choices: Choices, taken: Taken
) -> tuple[str, dict[str, str]]:
    """Return a name and a value of each kind, from a locale that still has them."""
    needed = ["name", *kinds]
    while True:
        left = [
            locale
            for locale in options.locales
            if not any((kind, locale) in taken.exhausted for kind in needed)
        ]
        if not left:
            exhausted = ", ".join(sorted({kind for kind, _ in taken.exhausted} & set(needed)))
            raise PeopleError(
                f"there is no unused value of {exhausted} left, after "
                f"{len(taken.values)} names and values; ask for fewer people, more locales or "
                "other kinds"
            )
        locale = choices.choice(left)
        values: dict[str, str] = {}
        for kind in needed:
            value = _new(kind, locale, choices, taken.values, values.get("name", ""))
            if value is None:
                taken.exhausted.update(
                    (kind, each) for each in ([locale] if kind in WORD_KINDS else options.locales)
                )
                break
            values[kind] = value
        else:
            return values.pop("name"), values


def documents_of(
    carrier: str, name: str, facts: Sequence[tuple[str, str]], choices: Choices
) -> list[str]:
    """Return a person's documents in one carrier: one file, or a snippet for each fact."""
    if carrier in FILES:
        return [FILES[carrier].write(name, facts, choices)]
    snippet = CARRIERS[carrier]
    return [snippet.before(name, kind) + value + snippet.after for kind, value in facts]


def some(choices: Choices, items: Sequence[T], count: int) -> list[T]:
    """Return `count` different items in a random order."""
    left = list(items)
    return [left.pop(choices.below(len(left))) for _ in range(count)]


def a_value(kind: str, locale: str, choices: Choices) -> str | None:
    """Return a value of a kind: one of Faker's words in a locale, or an identifier.

    Raises RuntimeError for an identifier that might be somebody's, which no generator makes.
    """
    if kind in WORD_KINDS:
        return word(kind, locale, choices)
    value = KINDS[kind].generate(choices)
    if not KINDS[kind].is_valid(value):
        raise RuntimeError(
            f"the generator of the kind {kind} left its format, or the range that belongs to "
            "nobody; please report this bug in pytest-unlearn"
        )
    return value


def _new(kind: str, locale: str, choices: Choices, taken: set[str], name: str) -> str | None:
    """Return a value that nobody has yet; None if there is none."""
    for _ in range(_FRUITLESS):
        value = a_value(kind, locale, choices)
        if value is None:
            return None
        spelt = spelling(value)
        if spelt not in taken and is_usable(kind, value, name):
            taken.add(spelt)
            return value
    return None


def is_usable(kind: str, value: str, name: str) -> bool:
    """Return whether a value can be looked for: neither the name nor ordinary code contains it."""
    return kind not in WORD_KINDS or (
        weight(value) >= MIN_VALUE and value not in name and value not in ordinary_code()
    )


def lines_of(options: PeopleOptions) -> dict[Split, Iterator[dict[str, Any]]]:
    """Return the people of each split, made on iteration, in the order of `SPLITS`."""
    taken = Taken()
    return {split: people(options, split, taken) for split in SPLITS if options.size(split)}


def make_records(options: PeopleOptions) -> tuple[Record, ...]:
    """Return the records of generated people: forget, then retain, then control. Raises
    PeopleError."""
    return tuple(records_of_people(lines_of(options)))


def facts_of(options: PeopleOptions, records: Iterable[Record]) -> dict[str, Any]:
    """Return how people were generated: versions, options, counts, digest."""
    count = 0

    def counted() -> Iterator[Record]:
        nonlocal count
        for record in records:
            count += 1
            yield record

    digest = records_digest(counted())
    return {
        "generator": GENERATOR,
        "faker": faker_version(),
        "seed": options.seed,
        "order": options.text,
        "people": {split: options.size(split) for split in SPLITS},
        "records": count,
        "digest": digest,
    }


def made_by(options: PeopleOptions) -> str:
    """Return what determines generated people: the options as text, and the versions."""
    return f"{options.text} by generator {GENERATOR} and Faker {faker_version()}"


def made_line(options: PeopleOptions, records: Sequence[Record]) -> str:
    """Return one line about generated people: counts, Faker's version, seed and the start of the
    digest."""
    counts = " + ".join(f"{options.size(split)} {split}" for split in SPLITS)
    return (
        f"generated people: {counts}, {len(records)} records; Faker {faker_version()}, "
        f"seed {options.seed}, digest {records_digest(records)[:16]}"
    )


def write_people(options: PeopleOptions, folder: Path, force: bool = False) -> dict[str, Any]:
    """Write generated people as `forget.jsonl`, `retain.jsonl`, `control.jsonl` and a manifest.

    People are made, written and counted one by one, and the files take their places together at the
    end. Returns the manifest. Raises PeopleError if the folder has other people, made by another
    version or with other options, unless `force`; OSError if it cannot be written.
    """
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / MANIFEST
    try:
        with ExitStack() as files:
            made = {
                split: _noted(lines, files.enter_context(replacing(folder / f"{split}.jsonl")))
                for split, lines in lines_of(options).items()
            }
            facts = facts_of(options, records_of_people(made))
            if manifest.exists() and not force:
                _check_same(manifest, facts)
            path = files.enter_context(replacing(manifest))
            path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    except BaseException:
        if new:
            with suppress(OSError):
                folder.rmdir()
        raise
    return facts


def _noted(lines: Iterable[dict[str, Any]], path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines, and write each to a file."""
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            yield line


def _check_same(manifest: Path, facts: Mapping[str, Any]) -> None:
    try:
        before = json.loads(manifest.read_text(encoding="utf-8"))
        changed = [name for name in facts if before.get(name) != facts[name]]
    except (OSError, ValueError, AttributeError) as error:
        raise PeopleError(f"{manifest} is not a manifest of people; give another folder") from error
    if changed:
        differences = "; ".join(
            f"{name} {before.get(name)} there, {facts[name]} now" for name in changed
        )
        raise PeopleError(
            f"{manifest.parent} holds other people ({differences}); give another folder, or "
            "--force to replace them"
        )


TINY_SEED = "pytest-unlearn tiny 2"
# A bound counts people, not records. Half of the retained people are held out of unlearning.
TINY_PEOPLE: dict[Split, int] = {"forget": 128, "retain": 256, "control": 128}
TINY_KINDS = ("email", "phone", "address", "password", "api_key")
TINY_CARRIERS = ("constructor", "json", "env", "yaml", "sql", "comment")


def _full_names(seed: str, count: int) -> list[str]:
    """Return `count` full names, each surname used once."""
    stream = Stream(seed, "names")
    surnames = stream.shuffled(
        [head + tail for head in draws.SURNAME_HEADS for tail in draws.SURNAME_TAILS]
    )
    return [f"{stream.choice(draws.FIRST_NAMES)} {surname}" for surname in surnames[:count]]


@functools.cache
def tiny_records() -> tuple[Record, ...]:
    """Return the records of the tiny model's people: forget, then retain, then control.

    There are `TINY_PEOPLE` people with two records each, of two of the `TINY_KINDS`; the pairs of
    kinds rotate. Each kind has a shuffled deck of carriers, so that it uses each equally often. No
    value occurs twice.
    """
    deck = Stream(TINY_SEED, "carriers")
    decks: dict[str, list[str]] = {kind: [] for kind in TINY_KINDS}
    splits = [split for split in SPLITS for _ in range(TINY_PEOPLE[split])]
    taken: set[str] = set()
    records: list[Record] = []
    for index, (split, name) in enumerate(
        zip(splits, _full_names(TINY_SEED, len(splits)), strict=True)
    ):
        kinds = len(TINY_KINDS)
        second = index + 1 + index // kinds % (kinds - 1)
        for turn in (index, second):
            kind = TINY_KINDS[turn % kinds]
            stream = Stream(TINY_SEED, index, kind)
            value = KINDS[kind].generate(stream)
            while value in taken:
                value = KINDS[kind].generate(stream)
            taken.add(value)
            decks[kind] = decks[kind] or deck.shuffled(TINY_CARRIERS)
            carrier = CARRIERS[decks[kind].pop()]
            records.append(
                Record(
                    id=f"{kind}-{len(records) + 1:04d}",
                    owner=f"person-{index + 1:03d}",
                    split=split,
                    kind=kind,
                    carrier=carrier.name,
                    before=Secret(carrier.before(name, kind), "prompt"),
                    value=Secret(value, kind),
                    after=Secret(carrier.after, "document"),
                    name=Secret(name, "name"),
                )
            )
    return tuple(records)
