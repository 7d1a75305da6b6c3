"""What attacks probe and train on: which of them can be made, their probes, and their texts.

Attacked weights get the probes that gates judge by default: the documents themselves and, if
unlearning may have been trained on these, one family in other words, since neither may leak.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from pytest_unlearn.attacks.attack import BOTH, Known, attacks, needs_met
from pytest_unlearn.attacks.quantization import CALIBRATION_TEXTS
from pytest_unlearn.core.store import digest_of
from pytest_unlearn.models.engine import is_address
from pytest_unlearn.models.model_files import check_adapter, stands_apart
from pytest_unlearn.models.sources import no_chat_template
from pytest_unlearn.people.record import by_owner
from pytest_unlearn.run.divisions import (
    document_texts,
    example_of,
    rehearsed_probes,
    task_texts,
)
from pytest_unlearn.tasks.format import bundled_tasks

if TYPE_CHECKING:
    from pytest_unlearn.attacks.attack import Attack
    from pytest_unlearn.models.texts import Example
    from pytest_unlearn.people.record import Record, Split
    from pytest_unlearn.probes.families import Probe
    from pytest_unlearn.run.divisions import Division
    from pytest_unlearn.run.settings import Settings
    from pytest_unlearn.unlearning.methods import MethodChoice

# A cheap attack probes only as many control people as it needs, one record of each: if nothing
# comes out for 29, the rate is below the highest that is allowed (`MOST_CHANCE`) with 95 %
# confidence.
CONTROLS = 29


class PeopleAndProbes(Protocol):
    """What attacks need from a run's data: `Dataset` implements this, and makes an `AttackCases` of
    itself."""

    probes: tuple[Probe, ...]
    records: tuple[Record, ...]
    division: Division

    def probes_of(self, split: Split) -> list[Probe]:
        """Return the probes of one split, in order."""

    def records_of(self, split: Split) -> list[Record]:
        """Return the records of one split, in order."""

    def rehearsed(self, choice: MethodChoice) -> frozenset[str]:
        """Return the ids of the probes and task cases that a method trains on."""

    def rehearsed_of(self, probes: Iterable[Probe], choice: MethodChoice) -> frozenset[str]:
        """Return the ids of those of some probes that a method trains on."""


class AttackCases:
    """What the attacks of a run probe and train on."""

    def __init__(self, settings: Settings, dataset: PeopleAndProbes) -> None:
        self._settings = settings
        self._dataset = dataset
        self._asked: dict[tuple[Attack, str], tuple[Probe, ...]] = {}

    def made(self, choice: MethodChoice, names: Sequence[str] | None = None) -> tuple[Attack, ...]:
        """Return which attacks, of the run or of `names`, can be made on the model that a method
        makes.

        Raises ModelNotFoundError if the given adapter is not one.
        """
        names = self._settings.attacks if names is None else names
        impossible = self.impossible(choice, names)
        known = attacks()
        return tuple(known[name] for name in names if name not in impossible)

    def impossible(
        self, choice: MethodChoice, names: Sequence[str] | None = None
    ) -> Mapping[str, str]:
        """Return the other attacks by name, each with the reason. Raises as `made` does."""
        settings, trains = self._settings, choice.method is not None
        names = settings.attacks if names is None else names
        with_adapter = False
        if names and settings.adapter is not None:
            check_adapter(settings.adapter, "--unlearn-adapter")
            with_adapter = not stands_apart(settings.adapter)
        trained = trains and choice.options is not None and choice.options.tune == "lora"
        compared = settings.baseline is not None or settings.adapter is not None
        adapter, two_states = with_adapter or trained, trains or choice.retrains or compared
        reasons = {}
        for attack in (attacks()[name] for name in names):
            reason = needs_met(attack, adapter, two_states)
            if attack.needs == "chat" and not is_address(settings.model):
                reason = no_chat_template(settings.model, settings.adapter)
            if reason := reason or self._why_nobody(attack):
                reasons[attack.name] = reason
        return reasons

    def _why_nobody(self, attack: Attack) -> str:
        """Return why an attack has nobody to ask, or an empty text."""
        asked = [p for state in attack.states for p in self.probes(attack, state)]
        sizes = [len({p.cluster or p.owner for p in asked if p.split == split}) for split in BOTH]
        if attack.whole and min(sizes) < 2:
            return "it tells people apart, which takes two on each side"
        return "" if sizes[0] else "the data have nobody who could be asked so"

    def probes(self, attack: Attack, state: str) -> tuple[Probe, ...]:
        """Return the probes for a state that an attack makes, under their own ids, of people to be
        forgotten and of control people.

        These are the documents themselves, or in the attack's words; without these, the first
        family whose values can be scored. If unlearning may have been trained on these prompts, an
        attack that does not change them also uses other words; an attack with prompts of its own
        probes each record once. If the attack trains on people, only the other half is probed.
        """
        if (attack, state) not in self._asked:
            self._asked[attack, state] = self._probes(attack, state.partition("@")[2])
        return self._asked[attack, state]

    def _probes(self, attack: Attack, stage: str) -> tuple[Probe, ...]:
        exact = [p for p in self._dataset.probes if p.exact and p.split != "retain"]
        first, other = self._families
        trained = self._half if attack.trains == "people" else frozenset[str]()
        once = attack.whole or attack.ask is not None or attack.prompts
        families = (first,) if once else (first, other)
        asked = [p for p in exact if p.family in families and p.record not in trained]
        if attack.effort == "cheap":
            asked = [p for p in asked if not self._spared(p, len(families) > 1)]
        if attack.ask is None:
            return tuple(asked)
        others = [(splits, [e.text for e in part]) for splits, part in self.texts(attack)]
        # Each probe has an order of its own; a digest of every pair would take seconds.
        places = {text: _number_of(text) for _, part in others for text in part}
        probes = []
        for probe in asked:
            texts = [text for splits, part in others if probe.split in splits for text in part]
            own = _number_of(probe.id)
            shots = sorted(texts, key=lambda text: places[text] ^ own)
            probes.append(attack.ask(probe, self.known(probe, shots), stage))
        return tuple(probe for probe in probes if probe is not None)

    def known(self, probe: Probe, shots: Sequence[str] = ()) -> Known:
        """Return what an attacker may put into prompts for a probe's value."""
        record = self._by_id[probe.record]
        return Known(record, self._people[record.owner], shots)

    @functools.cached_property
    def _by_id(self) -> dict[str, Record]:
        return {record.id: record for record in self._dataset.records}

    @functools.cached_property
    def _people(self) -> Mapping[str, Sequence[Record]]:
        return by_owner(self._dataset.records)

    @functools.cached_property
    def _families(self) -> tuple[str, str]:
        """The family that is asked first, and another that no document holds, if one is needed."""
        forget = [p for p in self._dataset.probes_of("forget") if p.exact]
        families = list(dict.fromkeys(probe.family for probe in forget))
        first = "direct" if "direct" in families else next(iter(families), "")
        records = self._dataset.records_of("forget")
        owners = {record.owner for record in records}
        shown = set(rehearsed_probes(forget, records, owners, context=False))
        fresh = list(dict.fromkeys(p.family for p in forget if p.id not in shown))
        return first, "" if first in fresh else next(iter(fresh), "")

    def asked_anyway(self, attack: Attack, probe: Probe) -> Probe | None:
        """Return the probe of the run with the same prompt for the same weights, if there is one:
        its scores are also those under attack."""
        if attack.ask is None or attack.scheme is not None or attack.read is not None:
            return None
        return self._by_example.get(example_of(probe)) if probe.exact else None

    @functools.cached_property
    def _by_example(self) -> dict[Example, Probe]:
        return {example_of(probe): probe for probe in self._dataset.probes if probe.exact}

    def rehearsed(self, attack: Attack, state: str, choice: MethodChoice) -> frozenset[str]:
        """Return the ids of the probes of a state whose prompts a method trains on; none if many
        prompts are tried."""
        if attack.prompts:
            return frozenset()
        if attack.ask is None:
            return self._dataset.rehearsed(choice)
        return self._dataset.rehearsed_of(self.probes(attack, state), choice)

    @functools.cached_property
    def _half(self) -> frozenset[str]:
        """Return the records of every second person to forget, and of every second control person.

        People who share a value are in the same half. If there is only one person, nobody is
        trained on.
        """
        half: set[str] = set()
        for split in BOTH:
            people = self._by_person(split)
            trained = list(people)[::2] if len(people) > 1 else []
            half |= {record for name in trained for record in people[name]}
        return frozenset(half)

    def _spared(self, probe: Probe, asked_twice: bool) -> bool:
        """Return whether a cheap attack leaves a probe out, so that the cheap attacks together cost
        no more than scoring the base.

        Only a few control people are probed. If people to forget are also probed in other words,
        only one document of each is used, because bounds are over people.
        """
        if probe.split == "control":
            return probe.record not in self._few_controls
        first, other = self._families
        twice = asked_twice and bool(other) and probe.family == first
        return twice and probe.record not in self._one_each

    @functools.cached_property
    def _few_controls(self) -> frozenset[str]:
        """Return a record of each of `CONTROLS` control people, or of a few more."""
        people = self._by_person("control")
        step = max(1, len(people) // CONTROLS)
        return frozenset(min(people[name], key=digest_of) for name in list(people)[::step])

    @functools.cached_property
    def _one_each(self) -> frozenset[str]:
        """Return a record of each person to forget."""
        return frozenset(min(own, key=digest_of) for own in self._by_person("forget").values())

    def _by_person(self, split: Split) -> dict[str, set[str]]:
        """Return the records of each person of a split, in an order independent of files."""
        people: dict[str, set[str]] = {}
        for probe in self._dataset.probes_of(split):
            people.setdefault(probe.cluster or probe.owner, set()).add(probe.record)
        return {who: people[who] for who in sorted(people, key=lambda who: digest_of([split, who]))}

    def texts(self, attack: Attack) -> tuple[tuple[tuple[Split, ...], tuple[Example, ...]], ...]:
        """Return the texts that an attack trains on or calibrates by, with the splits that are
        probed afterwards.

        Calibration never uses people whom a gate counts: it reads retained people on whom
        unlearning trains, or code if there are none.
        """
        of = self._dataset.records_of
        if attack.calibrates:
            trained = self._dataset.division.trained_people
            known = [record for record in of("retain") if record.owner in trained]
            read = document_texts(known) or task_texts(self._dataset.division.trained_tasks)
            return ((BOTH, read[:CALIBRATION_TEXTS]),)
        if attack.trains == "people":
            parts = ((s, [r for r in of(s) if r.id in self._half]) for s in BOTH)
            return tuple(((split,), document_texts(records)) for split, records in parts)
        if attack.trains == "retained":
            return ((BOTH, document_texts(of("retain"))),)
        if attack.trains == "code":
            return ((BOTH, task_texts(frozenset(task.id for task in bundled_tasks()))),)
        return ()


def _number_of(text: str) -> int:
    """Return a text's digest as a number."""
    return int(digest_of(text), 16)
