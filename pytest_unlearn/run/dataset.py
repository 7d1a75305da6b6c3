"""What a run measures: probes and tasks, what unlearning may train on, and the canonical chunks.

Built from the settings alone: no model, no pytest.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pytest_unlearn.attacks.attack import BOTH, Known, chosen
from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.secret import Secret
from pytest_unlearn.core.store import digest_of
from pytest_unlearn.models.examples import Example, TrainingTexts
from pytest_unlearn.models.model_files import check_adapter, stands_apart
from pytest_unlearn.people.bundled import tiny_records
from pytest_unlearn.people.other_values import placeholder, plausible, stranger_records
from pytest_unlearn.people.record import CARRIERS, SPLITS, Record, Split, by_owner
from pytest_unlearn.people.record_files import load_files
from pytest_unlearn.probes.families import FamilyError, Probe, build_probes, cross_carrier
from pytest_unlearn.run.chunks import Chunk, ChunkRow, cut, probe_row, task_rows
from pytest_unlearn.run.divisions import (
    code_examples,
    divide,
    identity_of,
    read_rehearsed,
    redrawn,
    rehearsed_cases,
    rehearsed_probes,
    staged,
)
from pytest_unlearn.sandbox.runtimes import lacking
from pytest_unlearn.tasks.files import task_cases
from pytest_unlearn.tasks.format import TaskCase, bundled_tasks
from pytest_unlearn.tasks.languages import NAMES, PYTHON
from pytest_unlearn.tasks.task_prompts import (
    sample_id,
    seed_of,
    stops_of,
)

if TYPE_CHECKING:
    from pytest_unlearn.attacks.attack import Attack
    from pytest_unlearn.run.settings import Settings
    from pytest_unlearn.sandbox import Mode
    from pytest_unlearn.unlearning.methods import MethodChoice

# The default family besides the documents themselves, in words that unlearning is never shown.
_OTHER_WORDS = "cross"


class Dataset:
    """All records, probes and task cases of a run, with the chunks they are completed in."""

    def __init__(self, settings: Settings, trains: bool | None = None) -> None:
        """Read the data. `trains`: some model of the run is unlearned (None: as the settings say).

        Raises RecordFileError or TaskFileError, naming file and line, and FamilyError for probes
        that no record allows.
        """
        self.records = _records(settings)
        if settings.confirm is not None:
            self.records = redrawn(self.records, settings.confirm)
        asked = [record for split in SPLITS for record in self.records_of(split)]
        self.probes = merged_people(_probes(asked, settings, trains), self.records)
        self._by_id = {probe.id: probe for probe in self.probes}
        # By why they cannot be judged here, the tasks that are left out.
        self.left_out: dict[str, list[TaskCase]] = {}
        self.tasks = merged_tasks(self._runnable(task_cases(settings.tasks), settings.sandbox))
        self._given = read_rehearsed(settings.rehearsed, self.records, self.tasks)
        self.division = divide(
            asked,
            self.tasks,
            bundled_tasks(),
            settings.held_out,
            self._given,
            settings.confirm,
        )
        self._rehearsed: dict[tuple[bool, bool, bool, int], frozenset[str]] = {}
        self._settings = settings
        self._asked: dict[tuple[Attack, str], tuple[Probe, ...]] = {}
        forgotten = {record.value.reveal() for record in self.records_of("forget")}
        self._kept_code = code_examples(settings.kept_code, forgotten)
        self.sampling = settings.sampling
        self._seed = settings.seed
        self._batch_size = settings.batch_size

    def _runnable(self, cases: Sequence[TaskCase], sandbox: Mode) -> list[TaskCase]:
        """Return the tasks that can be judged here, and note the others.

        Raises UserError where no task is left.
        """
        kept = []
        for case in cases:
            lacks = case.lacks
            if not lacks and case.language != PYTHON:
                lacks = lacking(case.language, sandbox)
            if lacks:
                reason = f"{NAMES[case.language]}: {lacks}"
                self.left_out.setdefault(reason, []).append(case)
            else:
                kept.append(case)
        if cases and not kept:
            raise UserError(
                f"--unlearn-tasks: no task can be judged here ({'; '.join(self.left_out)}); "
                "install what is missing, or name other tasks"
            )
        return kept

    def probes_of(self, split: Split) -> list[Probe]:
        """Return the probes of one split, in order."""
        return [probe for probe in self.probes if probe.split == split]

    def probe(self, probe_id: str) -> Probe:
        """Return a probe by its id."""
        return self._by_id[probe_id]

    @functools.cached_property
    def merged(self) -> str:
        """Say how many people and tasks count as fewer, since they share a value or a prompt."""
        people = {(p.split, p.owner): p.cluster for p in self.probes if p.cluster}
        tasks = {case.task_id: case.cluster for case in self.tasks if case.cluster}
        notes = []
        if people:
            ones = len({(split, cluster) for (split, _), cluster in people.items()})
            notes.append(f"{len(people)} people who share a value or a prompt count as {ones}")
        if tasks:
            notes.append(
                f"{len(tasks)} tasks that share a prompt count as {len({*tasks.values()})}"
            )
        return ", ".join(notes)

    @functools.cached_property
    def values(self) -> frozenset[str]:
        """The values of all records: no decoy may be one of them."""
        return frozenset(record.value.reveal() for record in self.records)

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """The names of all people, where they are known."""
        return frozenset(record.name.reveal() for record in self.records if record.name)

    @functools.cached_property
    def personal(self) -> frozenset[str]:
        """The values and names: what no output may show."""
        return self.values | self.names

    def records_of(self, split: Split) -> list[Record]:
        """Return the records of one split, in order.

        Not those of requests to come: their people are neither asked about nor trained on.
        """
        return [
            r for r in self.records if r.split == split and not (split == "retain" and r.request)
        ]

    def samples_of(self, case: TaskCase) -> list[str]:
        """Return the ids under which the samples of a task case are completed."""
        count = self.sampling.samples
        return [sample_id(case.id, number, count) for number in range(count)]

    def drawn(self, probe: Probe) -> Chunk | None:
        """Return the chunk in which texts are drawn for a probe; None where none are: for
        retained people, and in other words than the document's."""
        count = self._settings.leak_samples
        if not count or probe.family != "direct" or probe.split == "retain":
            return None
        chunk = self.chunk_of_case[probe.id]
        number = chunk.cases.index(probe.id)
        return replace(
            chunk,
            id=digest_of([chunk.id, probe.id, count]),
            cases=tuple(f"{probe.id} sample {sample}" for sample in range(count)),
            prompts=(chunk.prompts[number],) * count,
            suffixes=(chunk.suffixes[number],) * count,
            temperature=1.0,
            seeds=tuple(seed_of(self._seed, probe.id, sample) for sample in range(count)),
        )

    def training_texts(
        self,
        alternates: Literal["plausible", "placeholder"] | None = None,
        count: int = 1,
        unseen: bool = False,
        strangers: int = 0,
        carriers: int = 1,
    ) -> TrainingTexts:
        """Return what unlearning may train on, and with `unseen` control people's to look at.

        Retained people and tasks that are held out are in none of it. Tasks are the bundled ones
        under their training wordings: never a wording that is measured, and never a user's own
        tasks. Of several requests the newest is trained on alone. `alternates`: the forget
        documents with other values as well, `count` each.
        `strangers`: so many documents of made-up people, like those of the others. `carriers`: in
        so many carriers each forget record stands, its own and others in which no probe asks for
        it. Raises
        AlternateError where a kind has no others.
        """
        known = [
            record
            for record in self.records_of("retain")
            if record.owner in self.division.trained_people
        ]
        forget = self._newest(self.records_of("forget"))
        forgotten = self._newest(self._forgotten(carriers))
        made_up = stranger_records(
            [*forgotten, *known], strangers, self._seed, self.names, self.values
        )
        return TrainingTexts(
            forget=tuple(map(_example, forgotten)),
            retained_people=tuple(map(_example, known)),
            tasks=(*_task_examples(self.division.trained_tasks), *self._kept_code),
            alternates=tuple(
                tuple(
                    Example.answering(
                        record.before.reveal(), other, record.after.reveal(), name=record.id
                    )
                    for other in self._others(record, alternates, count)
                )
                for record in forget
                if alternates is not None
            ),
            unseen=tuple(map(_example, self.records_of("control"))) if unseen else (),
            strangers=tuple(map(_example, made_up)),
        )

    def _forgotten(self, carriers: int) -> list[Record]:
        """Return the forget records, each followed by itself in other carriers."""
        return [
            stated
            for record in self.records_of("forget")
            for stated in (record, *_in_other_carriers(record, carriers - 1))
        ]

    def _newest(self, records: Sequence[Record]) -> list[Record]:
        """Return the records of the request that is unlearned last; all in a run without."""
        requests = self._settings.requests
        return [r for r in records if requests is None or r.request == requests.newest]

    def planting_texts(self) -> TrainingTexts:
        """Return what a planted model has to know: everybody but control people, and all tasks.

        It is the same before every request.
        """
        forget = [r for r in self.records if r.split == "forget" or r.request]
        return TrainingTexts(
            forget=tuple(map(_example, forget)),
            retained_people=tuple(map(_example, self.records_of("retain"))),
            tasks=_task_examples(frozenset(task.id for task in bundled_tasks())),
        )

    def rehearsed(self, choice: MethodChoice) -> frozenset[str]:
        """Return the ids of the probes and task cases that the tested model was trained on.

        By the unlearning of this run, or by what the user names (`--unlearn-rehearsed`).
        """
        method, options = choice.method, choice.options
        trains = method is not None
        keeps = method is not None and method.uses_retain
        context = options is not None and options.spans == "document"
        key = trains, keeps, context, choice.carriers
        if key not in self._rehearsed:
            people = {
                record.owner
                for record in self.records
                if (trains and record.split == "forget")
                or (keeps and record.owner in self.division.trained_people)
                or identity_of(record) in self._given.people
            }
            tasks = self.division.trained_tasks if keeps else frozenset()
            others = [record for record in self.records if record.split != "forget"]
            documents = [*self._forgotten(choice.carriers), *others]
            probes = rehearsed_probes(self.probes, documents, people, context)
            named = self._given.tasks
            self._rehearsed[key] = frozenset(
                (
                    *probes,
                    *rehearsed_cases(self.tasks, bundled_tasks(), tasks),
                    *(case.id for case in self.tasks if {case.id, case.task_id} & named),
                )
            )
        return self._rehearsed[key]

    def cases(self, choice: MethodChoice) -> list[Probe | TaskCase]:
        """Return all probes and task cases, also those under attack; what was rehearsed is marked
        as such."""
        rehearsed = self.rehearsed(choice)
        cases: list[Probe | TaskCase] = [*self.probes, *self.tasks]
        return [
            *(replace(case, rehearsed=case.id in rehearsed) for case in cases),
            *(
                replace(
                    probe, id=f"{state}/{probe.id}", attack=state, rehearsed=probe.id in rehearsed
                )
                for attack in self.attacks(choice)
                for state in attack.states
                for probe in self.attacked_probes(attack, state)
            ),
        ]

    def attacks(
        self, choice: MethodChoice, names: Sequence[str] | None = None
    ) -> tuple[Attack, ...]:
        """Return the attacks that can be made on what a method makes: of the run's, or of these.

        Raises ModelNotFoundError for an adapter that is none.
        """
        settings, trains = self._settings, choice.method is not None
        names = settings.attacks if names is None else names
        given = False
        if names and settings.adapter is not None:
            check_adapter(settings.adapter, "--unlearn-adapter")
            given = not stands_apart(settings.adapter)
        trained = trains and choice.options is not None and choice.options.tune == "lora"
        compared = settings.baseline is not None or settings.adapter is not None
        made = chosen(
            names,
            adapter=given or trained,
            two_states=trains or choice.retrains or compared,
        )
        return tuple(attack for attack in made if self._can_be_asked(attack))

    def _can_be_asked(self, attack: Attack) -> bool:
        asked = [p for s in attack.states for p in self.attacked_probes(attack, s)]
        sizes = [len({p.cluster or p.owner for p in asked if p.split == split}) for split in BOTH]
        # Where people are told apart, it takes two on either side.
        return min(sizes) > 1 if attack.whole else sizes[0] > 0

    def attacked_probes(self, attack: Attack, state: str) -> tuple[Probe, ...]:
        """Return the probes asked in a state that an attack makes, under their own ids: the
        documents themselves, or in the attack's words, of people to be forgotten and of control
        people; without these the first family whose values can be scored.

        Of people on whom the attack trains, only the other half.
        """
        if (attack, state) not in self._asked:
            self._asked[attack, state] = self._probes_under(attack, state.partition("@")[2])
        return self._asked[attack, state]

    def _probes_under(self, attack: Attack, stage: str) -> tuple[Probe, ...]:
        asked = [p for p in self.probes if p.exact and p.split != "retain"]
        families = [probe.family for probe in asked if probe.split == "forget"]
        family = "direct" if "direct" in families else next(iter(families), None)
        trained = self._half if attack.trains == "people" else frozenset[str]()
        asked = [p for p in asked if p.family == family and p.record not in trained]
        if attack.ask is None:
            return tuple(asked)
        people, records = by_owner(self.records), {record.id: record for record in self.records}
        others = [(splits, [e.text for e in part]) for splits, part in self.attack_texts(attack)]
        found = []
        for probe in asked:
            texts = [text for splits, part in others if probe.split in splits for text in part]
            shots = sorted(texts, key=lambda text: digest_of([probe.id, text]))
            record = records[probe.record]
            known = Known(record, people[record.owner], shots)
            found.append(attack.ask(probe, known, stage))
        return tuple(probe for probe in found if probe is not None)

    @functools.cached_property
    def _half(self) -> frozenset[str]:
        """Records of every second person to forget, and of every second control person.

        People who share a value are in the same half; of one alone nobody is trained on.
        """
        half: set[str] = set()
        for split in BOTH:
            people: dict[str, set[str]] = {}
            for probe in self.probes_of(split):
                people.setdefault(probe.cluster or probe.owner, set()).add(probe.record)
            ordered = sorted(people, key=lambda name: digest_of([split, name]))
            trained = ordered[::2] if len(ordered) > 1 else []
            half |= {record for name in trained for record in people[name]}
        return frozenset(half)

    def attack_texts(
        self, attack: Attack
    ) -> tuple[tuple[tuple[Split, ...], tuple[Example, ...]], ...]:
        """Return what an attack trains on, each with the splits that are asked for afterwards."""
        if attack.trains == "people":
            half = self._half
            parts = ((s, [r for r in self.records_of(s) if r.id in half]) for s in BOTH)
            return tuple(((split,), _documents(records)) for split, records in parts)
        if attack.trains == "retained":
            return ((BOTH, _documents(self.records_of("retain"))),)
        if attack.trains == "code":
            return ((BOTH, _task_examples(frozenset(task.id for task in bundled_tasks()))),)
        return ()

    def chunks_of(self, probes: Sequence[Probe], whole: bool = False) -> list[Chunk]:
        """Cut probes of one style into chunks, or take them as one."""
        size = max(1, len(probes)) if whole else self._batch_size
        return list(cut(list(map(probe_row, probes)), size))

    def _others(self, record: Record, how: str, count: int) -> tuple[str, ...]:
        if how == "placeholder":
            return (placeholder(record.kind),)
        return plausible(record.kind, record.value.reveal(), count, record.id, self.values)

    @functools.cached_property
    def chunk_of_case(self) -> dict[str, Chunk]:
        """Map each case id to its chunk.

        Chunks are cut from the whole data set, never from a selection, so that a probe that is
        run again alone meets the same neighbours: greedy decoding can depend on the batch.
        """
        families = {probe.family: list[ChunkRow]() for probe in self.probes}
        for probe in self.probes:
            families[probe.family].append(probe_row(probe))
        probes = (  # a family's chunks do not depend on others
            chunk for rows in families.values() for chunk in cut(rows, self._batch_size)
        )
        tasks_by_stops: dict[tuple[str, ...], list[TaskCase]] = {}
        for case in self.tasks:
            tasks_by_stops.setdefault(stops_of(case, self.sampling.style), []).append(case)
        tasks = (
            replace(
                chunk,
                temperature=self.sampling.temperature,
                top_p=self.sampling.top_p,
                stops=stops,
            )
            for stops, cases in tasks_by_stops.items()
            for chunk in cut(task_rows(cases, self.sampling, self._seed), self._batch_size)
        )
        return {case: chunk for chunk in (*probes, *tasks) for case in chunk.cases}


def _probes(
    records: Sequence[Record], settings: Settings, trains: bool | None
) -> tuple[Probe, ...]:
    """Return the probes of the families that are named; unless any is, the default ones."""
    if settings.probes:
        return build_probes(records, settings.probes)
    direct = build_probes(records, ("direct",))
    if not (settings.method.method is not None if trains is None else trains):
        return direct
    asked = [record for record in records if record.split != "retain"]
    try:
        return direct + build_probes(asked, (_OTHER_WORDS,))
    except FamilyError:  # nobody's name is known
        return direct


def _documents(records: Iterable[Record]) -> tuple[Example, ...]:
    """Return the documents of records, each once."""
    return tuple({example.text: example for example in map(_example, records)}.values())


def _task_examples(ids: frozenset[str]) -> tuple[Example, ...]:
    """Return the bundled tasks of these ids, each under its training wordings."""
    return tuple(
        Example.answering(task.prompt(wording), task.solution, name=task.id)
        for task in bundled_tasks()
        if task.id in ids
        for wording in task.wordings
    )


def _in_other_carriers(record: Record, count: int) -> Iterator[Record]:
    """Yield a record in up to `count` carriers that are neither its own nor hold the prompt of the
    family `cross`, if its person's name is known."""
    if record.name is None:
        return
    name = record.name.reveal()
    asked = CARRIERS[cross_carrier(record)].before(name, record.kind)
    order = list(CARRIERS)
    begin = order.index(record.carrier) + 1 if record.carrier in order else 0
    others = [CARRIERS[each] for each in order[begin:] + order[:begin] if each != record.carrier]
    fitting = [each for each in others if asked not in each.before(name, record.kind)]
    for carrier in fitting[:count]:
        yield replace(
            record,
            carrier=carrier.name,
            before=Secret(carrier.before(name, record.kind), "prompt"),
            after=Secret(carrier.after, "document"),
        )


def _example(record: Record) -> Example:
    return Example.answering(
        record.before.reveal(),
        record.value.reveal(),
        record.after.reveal(),
        name=record.id,
        like=f"{record.kind} {record.carrier}",
    )


def merged_people(probes: Sequence[Probe], records: Sequence[Record]) -> tuple[Probe, ...]:
    """Return probes, those of people whose records share a value or a prompt marked as a cluster.

    What comes out for one of them comes out for all, so that they are no independent people.
    """
    clusters = _clusters(
        (
            (record.split, record.owner),
            (
                (record.split, "value", record.value.reveal().strip().casefold()),
                (record.split, "prompt", record.before.reveal().strip()),
            ),
        )
        for record in records
    )
    return tuple(
        replace(probe, cluster=clusters[who][-1])
        if (who := (probe.split, probe.owner)) in clusters
        else probe
        for probe in probes
    )


def merged_tasks(cases: Sequence[TaskCase]) -> tuple[TaskCase, ...]:
    """Return task cases, those of tasks that share a prompt marked as one cluster."""
    clusters = _clusters(((case.task_id,), ((case.prompt.strip(),),)) for case in cases)
    return tuple(
        replace(case, cluster=clusters[who][-1]) if (who := (case.task_id,)) in clusters else case
        for case in cases
    )


_Name = tuple[str, ...]


def _clusters(marks: Iterable[tuple[_Name, Iterable[_Name]]]) -> dict[_Name, _Name]:
    """Map each member that shares a mark with another to the first of all it is joined with."""
    parent: dict[_Name, _Name] = {}

    def root(name: _Name) -> _Name:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    first: dict[_Name, _Name] = {}
    for who, shared in marks:
        for mark in shared:
            one, other = sorted((root(first.setdefault(mark, who)), root(who)))
            parent[other] = one
    sizes = Counter(root(name) for name in parent)
    return {name: root(name) for name in parent if sizes[root(name)] > 1}


def _records(settings: Settings) -> tuple[Record, ...]:
    """Return the records of people to order, or of the user's files, or of the bundled people."""
    requests = settings.requests
    files: dict[Split, tuple[Path, ...]] = {
        "forget": requests.files if requests else settings.forget,
        "retain": settings.retain,
        "control": settings.control,
    }
    named = [split for split, paths in files.items() if paths]
    if settings.people is not None:
        if named:
            raise UserError(
                f"--unlearn-people makes all people of a run, and --unlearn-{named[0]} names "
                "others; leave one of them out, or write people out by `python -m "
                "pytest_unlearn.people`"
            )
        from pytest_unlearn.people.generate import make_records

        return make_records(settings.people)
    if requests is not None:
        return staged(load_files(files, requests=True), requests)
    return load_files(files) if named else tiny_records()
