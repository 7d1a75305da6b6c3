"""The people of the tiny model, rebuilt from a seed at run time: the repository holds no value."""

from __future__ import annotations

import functools

from pytest_unlearn.core.secret import Secret
from pytest_unlearn.people import draws
from pytest_unlearn.people.draws import Stream
from pytest_unlearn.people.kinds import KINDS
from pytest_unlearn.people.record import CARRIERS, SPLITS, Record, Split

TINY_SEED = "pytest-unlearn tiny 2"
# People, not records, are what a bound counts. Of the retained, half are kept out of unlearning.
TINY_PEOPLE: dict[Split, int] = {"forget": 128, "retain": 256, "control": 128}
TINY_KINDS = ("email", "phone", "address", "password", "api_key")
TINY_CARRIERS = ("constructor", "json", "env", "yaml", "sql", "comment")


def _names(seed: str, count: int) -> list[str]:
    """Return `count` full names, each surname and each first-name/surname pair used once."""
    stream = Stream(seed, "names")
    surnames = stream.shuffled(
        [head + tail for head in draws.SURNAME_HEADS for tail in draws.SURNAME_TAILS]
    )
    return [f"{stream.choice(draws.FIRST_NAMES)} {surname}" for surname in surnames[:count]]


@functools.cache
def tiny_records() -> tuple[Record, ...]:
    """Return the records of the tiny model's people: forget, then retain, then control.

    `TINY_PEOPLE` people, two records each, of two of the `TINY_KINDS`; all pairs of kinds go round.
    Each kind has a shuffled deck of carriers, so that it is in each equally often. No value
    occurs twice.
    """
    deck = Stream(TINY_SEED, "carriers")
    decks: dict[str, list[str]] = {kind: [] for kind in TINY_KINDS}
    splits = [split for split in SPLITS for _ in range(TINY_PEOPLE[split])]
    taken: set[str] = set()
    records: list[Record] = []
    for index, (split, name) in enumerate(zip(splits, _names(TINY_SEED, len(splits)), strict=True)):
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
