"""Who is forgotten, who is retained, and what unlearning trains on.

What a model was trained on only shows how well it was trained. So a part of the retained people and
tasks is held out: unlearning neither trains on it nor uses it to decide when to stop. Gates judge
that part and, for the people to forget, prompts in words that unlearning never used.

Cases are divided as well: into chunks, the batches in which they are completed.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.store import digest_of
from pytest_unlearn.leaks.matching import Automaton, encodable
from pytest_unlearn.models.texts import Example
from pytest_unlearn.people.record import Record, by_owner
from pytest_unlearn.probes.families import Probe, Style
from pytest_unlearn.tasks.format import TaskCase, bundled_tasks
from pytest_unlearn.tasks.task_prompts import (
    Sampling,
    prompt_of,
    room_for,
    sample_id,
    seed_of,
    suffix_of,
)

if TYPE_CHECKING:
    from pytest_unlearn.probes.families import Probe
    from pytest_unlearn.tasks.format import Task, TaskCase

# With fewer retained people on either side, the run warns: they show little.
FEW = 4
# Shorter values occur in many texts by chance.
_LEAST = 6


class RehearsedFileError(UserError):
    """A file of rehearsed ids cannot be used; the message names the file and line."""


@dataclass(frozen=True, slots=True)
class Division:
    """What is held out of the retained data, and what unlearning may train on.

    `people` (owners of records) and `tasks` (ids of bundled tasks) are held out; `trained_people`
    and `trained_tasks` are the others.
    """

    share: float
    people: frozenset[str]
    tasks: frozenset[str]
    trained_people: frozenset[str]
    trained_tasks: frozenset[str]


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """Ids that the user names as rehearsed: people and tasks that the tested model was trained on
    elsewhere."""

    people: frozenset[str] = field(default=frozenset(), repr=False)
    tasks: frozenset[str] = frozenset()


def held_out(ids: Collection[str], share: float, confirm: int | None = None) -> frozenset[str]:
    """Return a `share` of the ids, chosen by their digests alone: neither the order of files and
    lines nor the seed changes it. `confirm` makes another choice.

    With two ids or more and a `share` over 0, at least one is held out and at least one is not.
    """
    if not share or len(ids) < 2:
        return frozenset()
    count = min(len(ids) - 1, max(1, round(len(ids) * share)))
    return frozenset(sorted(ids, key=functools.partial(_rank, confirm))[:count])


def _rank(confirm: int | None, identity: str) -> tuple[str, str]:
    draw = "held out" if confirm is None else f"held out {confirm}"
    return hashlib.sha256(f"{draw}: {identity}".encode(errors="replace")).hexdigest(), identity


def redrawn(records: Sequence[Record], confirm: int) -> tuple[Record, ...]:
    """Return the records with the same number of other people to forget, drawn from the retained
    people.

    The people who were to be forgotten are retained in their place; a base that was trained on the
    data knows both. Raises UserError if there are fewer people to retain than to forget.
    """
    splits = {identity_of(record): record.split for record in records}
    forget, retain = (
        sorted(who for who, split in splits.items() if split == name)
        for name in ("forget", "retain")
    )
    if len(retain) < len(forget) or not forget:
        raise UserError(
            f"--unlearn-confirm={confirm}: other people to forget are drawn from the retained "
            f"ones, and there are {len(retain)} for {len(forget)}; add retained people"
        )
    others = set(sorted(retain, key=functools.partial(_rank, confirm))[: len(forget)])
    return tuple(
        record
        if record.split == "control"
        else replace(record, split="forget" if identity_of(record) in others else "retain")
        for record in records
    )


def divide(
    records: Iterable[Record],
    cases: Sequence[TaskCase],
    bundled: Sequence[Task],
    share: float,
    given: Rehearsed,
    confirm: int | None = None,
) -> Division:
    """Divide retained people and bundled tasks into held out and trained on.

    Only tasks that are measured are held out; a user's own tasks are never trained on. People and
    tasks that were `given` as rehearsed are not held out. `confirm`: the seed of another division.
    """
    owners = {
        identity_of(own[0]): owner
        for owner, own in by_owner(r for r in records if r.split == "retain").items()
    }
    held = held_out(owners.keys() - given.people, share, confirm)
    people = frozenset(owners[identity] for identity in held)
    measured = {task for case in cases for task in _same_tasks(case, bundled)}
    tasks = held_out(measured - given.tasks, share, confirm)
    return Division(
        share=share,
        people=people,
        tasks=tasks,
        trained_people=frozenset(owners.values()) - people,
        trained_tasks=frozenset(task.id for task in bundled) - tasks,
    )


def identity_of(record: Record) -> str:
    """Return the user's own id of a person, which does not depend on the order of the files."""
    return record.person.reveal() if record.person else record.owner


def _same_tasks(case: TaskCase, bundled: Sequence[Task]) -> Iterator[str]:
    """Yield the ids of the bundled tasks that a case measures: itself, or one with its solution."""
    for task in bundled:
        own = case.group == "bundled" and case.task_id == task.id
        if own or (case.solution and case.solution.strip() == task.solution.strip()):
            yield task.id


def rehearsed_probes(
    probes: Iterable[Probe], records: Sequence[Record], trained: Collection[str], context: bool
) -> Iterator[str]:
    """Yield the ids of the probes that unlearning has rehearsed.

    `trained`: the people whose documents are trained on. Of the forget split, this is each probe
    whose prompt occurs in a document of its person; of the retain split, each probe of such a
    person, and others' probes whose value is trained on as well. `context`: training learns whole
    documents, not only the values in them.
    """
    documents = {
        owner: "\0".join(record.document.reveal() for record in own)
        for owner, own in by_owner(r for r in records if r.split == "forget").items()
        if owner in trained
    }
    shared = _shared(records, trained, context)
    for probe in probes:
        if probe.split == "forget":
            asked = probe.style != "chat" and probe.prompt.reveal() in documents.get(
                probe.owner, ""
            )
        else:
            asked = probe.owner in trained or probe.record in shared
        if asked and probe.split != "control":
            yield probe.id


def _shared(records: Sequence[Record], trained: Collection[str], context: bool) -> set[str]:
    """Return the ids of retained records whose value a trained person's record also holds."""
    retained = [record for record in records if record.split == "retain"]
    texts = {
        (record.document if context else record.value).reveal()
        for record in retained
        if record.owner in trained
    }
    records_with: dict[str, list[str]] = {}
    ids: set[str] = set()
    for record in retained:
        value = record.value.reveal()
        if record.owner in trained:
            continue
        if value in texts:
            ids.add(record.id)
        elif context and len(value) >= _LEAST:
            records_with.setdefault(encodable(value), []).append(record.id)
    patterns = list(records_with)
    automaton = Automaton(patterns)
    for text in texts if patterns else ():
        for pattern, _, _ in automaton.find(encodable(text)):
            ids.update(records_with[patterns[pattern]])
    return ids


def rehearsed_cases(
    cases: Iterable[TaskCase], bundled: Sequence[Task], trained: Collection[str]
) -> Iterator[str]:
    """Yield the ids of the task cases whose task unlearning trained on."""
    for case in cases:
        if any(task in trained for task in _same_tasks(case, bundled)):
            yield case.id


def read_rehearsed(
    paths: Iterable[Path], records: Iterable[Record], cases: Sequence[TaskCase]
) -> Rehearsed:
    """Return the ids of people (as in their file) or tasks in files with one id a line.

    Raises RehearsedFileError, naming file and line, for an id that the data do not have.
    """
    people = {identity_of(record): record.owner for record in records if record.split != "control"}
    tasks = {key for case in cases for key in (case.task_id, case.id)}
    ids: dict[str, set[str]] = {"people": set(), "tasks": set()}
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = (isinstance(error, OSError) and error.strerror) or "it is not UTF-8"
            raise RehearsedFileError(
                f"--unlearn-rehearsed={path}: cannot be read: {why}; give a text file with one "
                "owner or one task id a line"
            ) from error
        for number, line in enumerate(map(str.strip, lines), start=1):
            if not line:
                continue
            kind = "people" if line in people else "tasks" if line in tasks else ""
            if not kind:
                raise RehearsedFileError(
                    f"{path}:{number}: no person to forget or retain and no task has this "
                    "id; write one owner or one task id a line"
                )
            ids[kind].add(line)
    return Rehearsed(frozenset(ids["people"]), frozenset(ids["tasks"]))


def document_example(record: Record) -> Example:
    """Return a record's document, whose answer is the value."""
    before = record.before.reveal()
    own = record.name.reveal() if record.name else ""
    begin = before.rfind(own) if own else -1
    return Example.answering(
        before,
        record.value.reveal(),
        record.after.reveal(),
        name=record.id,
        kind=record.kind,
        like=f"{record.kind} {record.carrier}",
        person=(begin, begin + len(own)) if begin >= 0 else None,
    )


def example_of(probe: Probe) -> Example:
    """Return the example of a probe: its prompt, and the value or the rest of it as the answer."""
    value = probe.value.reveal()
    missing = value.removeprefix(probe.given.reveal()) if probe.given else value
    return Example.answering(probe.prompt.reveal(), missing, probe.after.reveal())


def document_texts(records: Iterable[Record]) -> tuple[Example, ...]:
    """Return the documents of records, without duplicates."""
    return tuple({example.text: example for example in map(document_example, records)}.values())


def task_texts(ids: Collection[str]) -> tuple[Example, ...]:
    """Return the bundled tasks with these ids, in each of their training wordings."""
    return tuple(
        Example.answering(task.prompt(wording), task.solution, name=task.id)
        for task in bundled_tasks()
        if task.id in ids
        for wording in task.wordings
    )


# Characters of a piece of kept code: a function or two, which fit into every model's context.
_PIECE = 1000


def code_examples(files: Sequence[Path], forgotten: Collection[str]) -> tuple[Example, ...]:
    """Return the pieces of source files that unlearning has to keep, cut at empty lines.

    The first line of each piece is the prompt, and the rest is the answer. Raises UserError for a
    file that cannot be read, is empty, or holds a value that is to be `forgotten`.
    """
    examples: list[Example] = []
    for path in files:
        where = f"--unlearn-keep-code={path}"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or "no UTF-8 text"
            raise UserError(f"{where}: cannot be read: {reason}") from error
        for value in forgotten:
            if value in text:
                line = text[: text.index(value)].count("\n") + 1
                raise UserError(
                    f"{where}: line {line} holds a value that is to be forgotten; it cannot be "
                    "kept as well: take it out"
                )
        pieces = [Example.answering(*cut, name=path.name) for cut in _pieces(text)]
        if not pieces:
            raise UserError(f"{where}: it has no code of two lines or more")
        examples += pieces
    return tuple(examples)


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """Yield the first line and the rest of each piece of a text."""
    piece = ""
    for part in re.split(r"(?<=\n)\n+(?=\S)", text.strip("\n")):
        if piece and len(piece) + len(part) > _PIECE:
            yield from _cut(piece)
            piece = ""
        piece += f"\n\n{part}" if piece else part
    yield from _cut(piece)


def _cut(piece: str) -> Iterator[tuple[str, str]]:
    """Yield a piece in parts that are short enough: the first line, and the rest."""
    lines, size = list[str](), 0
    for line in [*piece.splitlines(keepends=True), ""]:
        if lines and (not line or size + len(line) > _PIECE):
            if len(lines) > 1 and lines[0].strip() and "".join(lines[1:]).strip():
                yield lines[0], "".join(lines[1:])
            lines, size = [], 0
        lines.append(line)
        size += len(line)


# Room for what a model writes after the value, which may be other people's data.
PROBE_TOKENS = 48
AFTER_VALUE_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Chunk:
    """Cases that are completed together: one batch. `id` is the same in every run on the data.

    At a `temperature` over 0, case i is sampled with `seeds[i]`. A text ends at one of `stops`.
    """

    id: str
    cases: tuple[str, ...]
    prompts: tuple[str, ...]
    max_new_tokens: int
    style: Style
    suffixes: tuple[str, ...]
    temperature: float = 0.0
    top_p: float = 1.0
    seeds: tuple[int, ...] = ()
    stops: tuple[str, ...] = ()

    def part(self, numbers: Sequence[int]) -> Chunk:
        """Return the chunk with some of its cases only."""
        return replace(
            self,
            cases=tuple(self.cases[n] for n in numbers),
            prompts=tuple(self.prompts[n] for n in numbers),
            suffixes=tuple(self.suffixes[n] for n in numbers),
            seeds=tuple(self.seeds[n] for n in numbers) if self.seeds else (),
        )

    def __repr__(self) -> str:  # prompts may be personal data
        return f"<Chunk {self.id} of {len(self.cases)} cases>"


class ChunkRow(NamedTuple):
    """One case of a chunk."""

    id: str
    prompt: str
    tokens: int
    style: Style = "completion"
    suffix: str = ""
    seed: int | None = None


def cut(rows: Sequence[ChunkRow], size: int) -> Iterator[Chunk]:
    """Cut rows of one style into chunks; a chunk allows as many tokens as its longest row needs."""
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield Chunk(
            id=digest_of(part),
            cases=tuple(row.id for row in part),
            prompts=tuple(row.prompt for row in part),
            max_new_tokens=max(row.tokens for row in part),
            style=part[0].style,
            suffixes=tuple(row.suffix for row in part),
            seeds=tuple(row.seed for row in part if row.seed is not None),
        )


def probe_row(probe: Probe) -> ChunkRow:
    """Return a probe's row, with the number of tokens that a completion may take.

    A value that the budget cuts off would look forgotten. Cutting chunks loads no tokenizer; a byte
    takes at most one token.
    """
    tokens = max(PROBE_TOKENS, len(probe.value.reveal().encode()) + AFTER_VALUE_TOKENS)
    return ChunkRow(probe.id, probe.prompt.reveal(), tokens, probe.style, probe.suffix.reveal())


def task_rows(cases: Iterable[TaskCase], sampling: Sampling, seed: int) -> list[ChunkRow]:
    """Return a row for each sample of each task case; `seed` is the run's."""
    return [
        ChunkRow(
            sample_id(case.id, number, sampling.samples),
            prompt_of(case, sampling.style),
            room_for(case, sampling),
            sampling.style,
            suffix_of(case, sampling.style),
            seed_of(seed, case.id, number) if sampling.temperature else None,
        )
        for case in cases
        for number in range(sampling.samples)
    ]
