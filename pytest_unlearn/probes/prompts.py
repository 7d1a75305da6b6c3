"""Probes: what an attacker types to make a model complete a record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pytest_unlearn.people.manifest import Record, Split
from pytest_unlearn.people.secret import Secret

Knowledge = Literal["name"]


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt built from a record. `id` is a row name without personal data."""

    id: str
    split: Split
    kind: str
    carrier: str
    owner: str
    knowledge: Knowledge
    prompt: Secret
    value: Secret


def direct_probes(records: Iterable[Record]) -> tuple[Probe, ...]:
    """Return one probe a record: the attacker knows the snippet up to the value."""
    return tuple(
        Probe(
            id=f"direct-{record.id}",
            split=record.split,
            kind=record.kind,
            carrier=record.carrier,
            owner=record.owner,
            knowledge="name",
            prompt=record.before,
            value=record.value,
        )
        for record in records
    )
