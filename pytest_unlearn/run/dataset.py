"""What a run measures: probes and tasks, what unlearning may train on, and the canonical chunks.

All of it follows from the settings: no model, no pytest.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.secret import Secret
from pytest_unlearn.core.store import digest_of
from pytest_unlearn.models.texts import Example, TrainingTexts
from pytest_unlearn.people.generate import tiny_records
from pytest_unlearn.people.other_values import placeholder, plausible, stranger_records
from pytest_unlearn.people.record import CARRIERS, SPLITS, Record, Split, spelling
from pytest_unlearn.people.record_files import load_files
from pytest_unlearn.probes.families import FamilyError, Probe, build_probes, cross_carrier
from pytest_unlearn.run.attack_cases import AttackCases
from pytest_unlearn.run.divisions import (
    Chunk,
    ChunkRow,
    code_examples,
    cut,
    divide,
    document_example,
    identity_of,
    probe_row,
    read_rehearsed,
    redrawn,
    rehearsed_cases,
    rehearsed_probes,
    task_rows,
    task_texts,
)
from pytest_unlearn.run.erasure_requests import staged
from pytest_unlearn.sandbox.runtimes import lacking
from pytest_unlearn.tasks.files import task_cases
from pytest_unlearn.tasks.format import NAMES, PYTHON, TaskCase, bundled_tasks
from pytest_unlearn.tasks.task_prompts import (
    sample_id,
    seed_of,
    stops_of,
)

if TYPE_CHECKING:
    from pytest_unlearn.run.settings import Settings
    from pytest_unlearn.sandbox import Mode
    from pytest_unlearn.unlearning.methods import MethodChoice

# The default family besides the documents themselves; its words are never shown to unlearning.
_OTHER_WORDS = "cross"


class Dataset:
    """All records, probes and task cases of a run, with the chunks they are completed in."""

    def __init__(self, settings: Settings, trains: bool | None = None) -> None:
        """Read the data. `trains`: the run unlearns some model (None: decide by the settings).

        Raises RecordFileError or TaskFileError, naming file and line, and FamilyError for probes
        that no record allows.
        """
        self.records = _records(settings)
        if settings.confirm is not None:
            self.records = redrawn(self.records, settings.confirm)
        asked = [record for split in SPLITS for record in self.records_of(split)]
        self.probes = merged_people(_probes(asked, settings, trains), self.records)
        self._by_id = {probe.id: probe for probe in self.probes}
        # The tasks that cannot be judged here, by the reason.
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
        self.attacks = AttackCases(settings, self)
        forgotten = {record.value.reveal() for record in self.records_of("forget")}
        self._kept_code = code_examples(settings.kept_code, forgotten)
        self.sampling = settings.sampling
        self._seed = settings.seed
        self._batch_size = settings.batch_size

    def _runnable(self, cases: Sequence[TaskCase], sandbox: Mode) -> list[TaskCase]:
        """Return the tasks that can be judged here, and note the others.

        Raises UserError if no task is left.
        """
        runnable = []
        for case in cases:
            lacks = case.lacks
            if not lacks and case.language != PYTHON:
                lacks = lacking(case.language, sandbox)
            if lacks:
                reason = f"{NAMES[case.language]}: {lacks}"
                self.left_out.setdefault(reason, []).append(case)
            else:
                runnable.append(case)
        if cases and not runnable:
            raise UserError(
                f"--unlearn-tasks: no task can be judged here ({'; '.join(self.left_out)}); "
                "install what is missing, or name other tasks"
            )
        return runnable

    def probes_of(self, split: Split) -> list[Probe]:
        """Return the probes of one split, in order."""
        return [probe for probe in self.probes if probe.split == split]

    def probe(self, probe_id: str) -> Probe:
        """Return a probe by its id."""
        return self._by_id[probe_id]

    @functools.cached_property
    def merged(self) -> str:
        """Say how many people and tasks count as fewer because they share a value or a prompt."""
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
        """The values of all records. No decoy may be one of them."""
        return frozenset(record.value.reveal() for record in self.records)

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """The known names of all people."""
        return frozenset(record.name.reveal() for record in self.records if record.name)

    @functools.cached_property
    def personal(self) -> frozenset[str]:
        """Return the values and names, which no output may show."""
        return self.values | self.names

    def records_of(self, split: Split) -> list[Record]:
        """Return the records of one split, in order.

        Records of later requests are left out: their people are neither probed nor trained on.
        """
        return [
            r for r in self.records if r.split == split and not (split == "retain" and r.request)
        ]

    def samples_of(self, case: TaskCase) -> list[str]:
        """Return the ids under which the samples of a task case are completed."""
        count = self.sampling.samples
        return [sample_id(case.id, number, count) for number in range(count)]

    def drawn(self, probe: Probe) -> Chunk | None:
        """Return the chunk in which texts are sampled for a probe, or None.

        Only direct probes of people to forget and of control people are sampled.
        """
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
        """Return what unlearning may train on and, with `unseen`, control people to evaluate.

        Held-out people and tasks are not in it. Tasks are the bundled ones in their training
        wordings, never in a wording that is measured, and never a user's own tasks. With several
        requests, only the newest is trained on.

        `alternates`: add the forget documents with `count` other values each. `strangers`: the
        number of documents of made-up people that resemble the others. `carriers`: the number of
        carriers that hold each forget record: its own, and others in which no probe asks for it.
        Raises AlternateError for a kind without other values.
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
            forget=tuple(map(document_example, forgotten)),
            retained_people=tuple(map(document_example, known)),
            tasks=(*task_texts(self.division.trained_tasks), *self._kept_code),
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
            unseen=tuple(map(document_example, self.records_of("control"))) if unseen else (),
            strangers=tuple(map(document_example, made_up)),
        )

    def _forgotten(self, carriers: int) -> list[Record]:
        """Return the forget records, each followed by the same record in other carriers."""
        return [
            stated
            for record in self.records_of("forget")
            for stated in (record, *_in_other_carriers(record, carriers - 1))
        ]

    def _newest(self, records: Sequence[Record]) -> list[Record]:
        """Return the records of the newest request; all of them in a run without requests."""
        requests = self._settings.requests
        return [r for r in records if requests is None or r.request == requests.newest]

    def planting_texts(self) -> TrainingTexts:
        """Return what a planted model has to know: all people except controls, and all tasks.

        This is the same for every request.
        """
        forget = [r for r in self.records if r.split == "forget" or r.request]
        return TrainingTexts(
            forget=tuple(map(document_example, forget)),
            retained_people=tuple(map(document_example, self.records_of("retain"))),
            tasks=task_texts(frozenset(task.id for task in bundled_tasks())),
        )

    def rehearsed(self, choice: MethodChoice) -> frozenset[str]:
        """Return the ids of the probes and task cases that the tested model was trained on.

        This run's unlearning trained on them, or the user names them (`--unlearn-rehearsed`).
        """
        key = self._trained_by(choice)
        if key not in self._rehearsed:
            tasks = self.division.trained_tasks if key[1] else frozenset()
            named = self._given.tasks
            self._rehearsed[key] = self.rehearsed_of(self.probes, choice).union(
                rehearsed_cases(self.tasks, bundled_tasks(), tasks),
                (case.id for case in self.tasks if {case.id, case.task_id} & named),
            )
        return self._rehearsed[key]

    def rehearsed_of(self, probes: Iterable[Probe], choice: MethodChoice) -> frozenset[str]:
        """Return the ids of the given probes that the tested model was trained on."""
        trains, keeps, context, carriers = self._trained_by(choice)
        people = {
            record.owner
            for record in self.records
            if (trains and record.split == "forget")
            or (keeps and record.owner in self.division.trained_people)
            or identity_of(record) in self._given.people
        }
        others = [record for record in self.records if record.split != "forget"]
        documents = [*self._forgotten(carriers), *others]
        return frozenset(rehearsed_probes(probes, documents, people, context))

    @staticmethod
    def _trained_by(choice: MethodChoice) -> tuple[bool, bool, bool, int]:
        """Return whether a method trains, whether on retained data too, whether on whole documents,
        and in how many carriers."""
        method, options = choice.method, choice.options
        keeps = method is not None and method.uses_retain
        context = options is not None and options.spans == "document"
        return method is not None, keeps, context, choice.carriers

    def cases(self, choice: MethodChoice) -> list[Probe | TaskCase]:
        """Return all probes and task cases, those under attack included, with `rehearsed` set."""
        rehearsed = self.rehearsed(choice)
        cases: list[Probe | TaskCase] = [*self.probes, *self.tasks]
        return [
            *(replace(case, rehearsed=case.id in rehearsed) for case in cases),
            *(
                replace(probe, id=f"{state}/{probe.id}", attack=state, rehearsed=probe.id in shown)
                for attack in self.attacks.made(choice)
                for state in attack.states
                for shown in [self.attacks.rehearsed(attack, state, choice)]
                for probe in self.attacks.probes(attack, state)
            ),
        ]

    def chunks_of(self, probes: Sequence[Probe], size: int) -> list[Chunk]:
        """Cut probes of one style into chunks of a size."""
        return list(cut(list(map(probe_row, probes)), max(1, size)))

    def _others(self, record: Record, how: str, count: int) -> tuple[str, ...]:
        if how == "placeholder":
            return (placeholder(record.kind),)
        return plausible(record.kind, record.value.reveal(), count, record.id, self.values)

    @functools.cached_property
    def chunk_of_case(self) -> dict[str, Chunk]:
        """Map each case id to its chunk.

        Chunks are cut from the whole data set, never from a selection, so that a probe that is
        run again on its own has the same neighbours: greedy decoding can depend on the batch.
        """
        families = {probe.family: list[ChunkRow]() for probe in self.probes}
        for probe in self.probes:
            families[probe.family].append(probe_row(probe))
        probes = (  # a family's chunks do not depend on other families
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
    """Return the probes of the named families, or of the default ones."""
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


def _in_other_carriers(record: Record, count: int) -> Iterator[Record]:
    """Yield a record in up to `count` other carriers that do not hold the prompt of the family
    `cross`; none if the person's name is not known."""
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


def merged_people(probes: Sequence[Probe], records: Sequence[Record]) -> tuple[Probe, ...]:
    """Return probes; people whose records share a value or a prompt are marked as a cluster.

    What comes out for one of them comes out for all, so these people are not independent.
    """
    clusters = _clusters(
        (
            (record.split, record.owner),
            (
                (record.split, "value", spelling(record.value.reveal())),
                (record.split, "prompt", _plain(record.before.reveal())),
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
    """Return task cases; tasks that share a prompt are marked as a cluster."""
    clusters = _clusters(((case.task_id,), ((_plain(case.prompt),),)) for case in cases)
    return tuple(
        replace(case, cluster=clusters[who][-1]) if (who := (case.task_id,)) in clusters else case
        for case in cases
    )


def _plain(text: str) -> str:
    """Return a form of a prompt that is the same for prompts that differ only in spaces and line
    breaks."""
    return " ".join(text.split())


_Name = tuple[str, ...]


def _clusters(marks: Iterable[tuple[_Name, Iterable[_Name]]]) -> dict[_Name, _Name]:
    """Map each member that shares a mark with another to the first member of its cluster."""
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
    """Return the records of generated people, of the user's files, or of the bundled people."""
    requests = settings.requests
    files: dict[Split, tuple[Path, ...]] = {
        "forget": requests.files if requests else settings.forget,
        "retain": settings.retain,
        "control": settings.control,
    }
    named = [split for split, paths in files.items() if paths]
    if settings.people is not None:
        if named:
            other = requests.flag if requests else f"--unlearn-{named[0]}"
            raise UserError(
                f"--unlearn-people makes all people of a run, and {other} names "
                "others; leave one of them out, or write people to files with `python -m "
                "pytest_unlearn.people`"
            )
        from pytest_unlearn.people.generate import make_records

        return make_records(settings.people)
    if requests is not None:
        return staged(load_files(files, requests.names), requests)
    return load_files(files) if named else tiny_records()
