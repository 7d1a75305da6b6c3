"""Names and places by Faker, in every locale that it has, out of any source of choices.

Faker promises no stable output between its versions, so whatever is made here is recorded with the
version (`faker_version`). Faker is imported when the first word is made, and not before.
"""

from __future__ import annotations

import functools
import random
import re
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING

from pytest_unlearn.people.draws import Choices

if TYPE_CHECKING:
    from faker import Generator

# Kinds whose values Faker makes, and its name for each; in `KINDS` the first two are frozen words.
WORD_KINDS = {
    "name": "name",
    "street_address": "street_address",
    "city": "city",
    "company": "company",
    "job_title": "job",
}
# A literal or a comment would have to escape these, and then the value would not stand in it.
_ESCAPED = re.compile(r"['\"`\\\x00-\x1f\x7f]")
# So many words in a row that cannot be used mean that there is no other.
_FRUITLESS = 200


def faker_version() -> str:
    """Return the version of Faker that is installed; nothing of it is imported."""
    return version("faker")


@functools.cache
def locales() -> tuple[str, ...]:
    """Return every locale that Faker has, sorted."""
    from faker.config import AVAILABLE_LOCALES

    return tuple(sorted(AVAILABLE_LOCALES))


def word(kind: str, locale: str, choices: Choices) -> str | None:
    """Return a name, street, city, company or job title as one line; None where there is none.

    `kind` is one of `WORD_KINDS`. Words that a string literal would have to escape are drawn again.
    The same choices give the same word, on every machine, for one version of Faker.
    """
    generator = _generator(locale)
    source = generator.random
    assert isinstance(source, _Chosen)
    source.choices_of = choices
    for _ in range(_FRUITLESS):
        text = ", ".join(generator.format(WORD_KINDS[kind]).split("\n")).strip()
        if text and not _ESCAPED.search(text):
            return text
    return None


class _Chosen(random.Random):
    """Python's distributions over a source of choices; index 0 is the simplest, as everywhere."""

    choices_of: Choices

    def random(self) -> float:
        return float(self.choices_of.below(1 << 53)) * 2.0**-53

    def getrandbits(self, k: int, /) -> int:
        bits = 0
        for start in range(0, k, 60):
            bits |= self.choices_of.below(1 << min(60, k - start)) << start
        return bits


@functools.cache
def _generator(locale: str) -> Generator:
    """Return Faker's generator of a locale, with a source of choices of its own."""
    from faker import Factory

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a locale that Faker will drop one day
        # Every name as often as every other: it takes half the time, and fewer draws meet.
        generator = Factory.create(locale, use_weighting=False)
    for provider in generator.providers:
        # Italy's come out of a set (Faker 40), in another order in every process.
        if isinstance(cities := getattr(provider, "cities", None), list):
            vars(provider)["cities"] = sorted(cities)
    generator.random = _Chosen(0)
    return generator
