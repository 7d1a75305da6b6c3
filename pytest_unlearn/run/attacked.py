"""The tested model under attack: the same values scored on each state that an attack makes of it.

Scores come from one forward pass over the documents of people to forget and of control people; for
a model without scores, its completions are judged instead. Some attacks also attack the base and
the retrained model, for comparison. Scores are stored chunk by chunk under the keys of the tested
model and of the attack: no model is loaded for what is in the store.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pytest_unlearn.attacks.attack import BOTH, BROKEN, AttackError, Reading
from pytest_unlearn.core.errors import IncompleteError
from pytest_unlearn.core.store import Store, digest_of
from pytest_unlearn.core.text_files import known_fields
from pytest_unlearn.gates.case_rows import AttackRow
from pytest_unlearn.leaks.exact import ExactScores, Extraction, extraction
from pytest_unlearn.leaks.outcome import Outcome
from pytest_unlearn.models.engine import abilities_of
from pytest_unlearn.run.answers import (
    CompletionError,
    check_count,
    checked_texts,
    completed,
)
from pytest_unlearn.run.divisions import example_of
from pytest_unlearn.run.measuring import SCORES_VERSION

if TYPE_CHECKING:
    from pytest_unlearn.attacks.attack import Attack, Known
    from pytest_unlearn.leaks.outcome import Label
    from pytest_unlearn.models.engine import RunnableModel
    from pytest_unlearn.models.texts import DecodingScheme
    from pytest_unlearn.people.record import Record, Split
    from pytest_unlearn.probes.families import Probe
    from pytest_unlearn.run.dataset import Dataset
    from pytest_unlearn.run.divisions import Chunk
    from pytest_unlearn.run.measuring import Measuring
    from pytest_unlearn.run.models import State
    from pytest_unlearn.run.settings import Settings


# Batches that are scored at once; the more of them are sorted by length, the less padding they
# need.
_BATCHES = 8
# What gates and reports read from the exact scores of an attacked model.
_KEPT = ("log_probability", "greedy", "exact_memorization")


class _Piece(NamedTuple):
    """A chunk of probes that is asked in one state."""

    state: str
    splits: tuple[Split, ...]
    chunk: Chunk
    probes: tuple[Probe, ...]


@dataclass(frozen=True, slots=True)
class _Measured:
    """What came out of a model for a probe: exact scores, an outcome, or how much the value looks
    like that of a forgotten person."""

    exact: ExactScores | None = None
    label: Label = "clean"
    score: float | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> _Measured:
        """Return what the store has for a probe."""
        if row.keys() & {"label", "score"}:
            return cls(**known_fields(cls, row))
        return cls(ExactScores.from_row(row))


class AttackedModel:
    """The tested model of one run under its attacks; each attack is measured once and stored."""

    def __init__(self, settings: Settings, dataset: Dataset, engine: Measuring) -> None:
        self._settings = settings
        self._dataset = dataset
        self._engine = engine
        self._store = Store(settings.store, settings.replay)

    @functools.cached_property
    def attacks(self) -> tuple[Attack, ...]:
        """The attacks that can be made, as far as is known once the model's files are here."""
        return self._dataset.attacks.made(self._settings.method)

    def rows(self, attack: Attack) -> list[AttackRow]:
        """Return a row for each probe that is asked in each state that an attack makes.

        A probe that does not fit the model's context has none. Raises CompletionError,
        AttackError, and what making and loading the model raises.
        """
        pieces = list(self._pieces(attack))
        measured = self._measured(attack, pieces)
        beside: dict[State, dict[tuple[str, str], _Measured]] = {
            of: self._measured(attack, pieces, of)
            for of in attack.beside
            if of == "base" or self._settings.retrained is not None
        }
        cases, choice = self._dataset.attacks, self._settings.method
        return [
            self._row(
                state,
                replace(probe, rehearsed=probe.id in trained),
                measured[state, probe.id],
                {of: rows.get((state, probe.id)) for of, rows in beside.items()},
            )
            for state in attack.states
            for trained in [cases.rehearsed(attack, state, choice)]
            for probe in cases.probes(attack, state)
            if (state, probe.id) in measured
        ]

    def _pieces(self, attack: Attack) -> Iterator[_Piece]:
        """Yield the pieces that are measured and stored together: several batches of scores, which
        the model sorts by length, or one batch of texts or of an attack's own readings."""
        together = attack.whole or attack.trains != "people"  # all are for the same weights
        size = self._settings.batch_size
        for state in attack.states:
            asked = self._dataset.attacks.probes(attack, state)
            scored = attack.read is None and not any(probe.turns for probe in asked)
            for splits in (BOTH,) if together else tuple((split,) for split in BOTH):
                probes = {probe.id: probe for probe in asked if probe.split in splits}
                most = len(probes) if attack.whole else size * _BATCHES if scored else size
                for chunk in self._dataset.chunks_of(list(probes.values()), most):
                    yield _Piece(state, splits, chunk, tuple(probes[case] for case in chunk.cases))

    def _row(
        self,
        state: str,
        probe: Probe,
        measured: _Measured,
        beside: dict[State, _Measured | None],
    ) -> AttackRow:
        """Return a row of what came out of the tested model and of the models `beside` it."""
        scores: dict[State, float] | None = None
        if measured.score is not None:
            models: dict[State, _Measured | None] = {"unlearned": measured, **beside}
            scores = {
                of: reading.score
                for of, reading in models.items()
                if reading is not None and reading.score is not None
            }
        base_exact = retrained_exact = None
        if measured.exact is None:
            base, unlearned = self._of_base(probe), measured.label
        elif (own := self._engine.exact("base", probe)) is None:  # only probabilities
            base, unlearned = self._of_base(probe), _label(measured.exact)
        else:
            base, unlearned = _label(own), _label(measured.exact)
            attacked_base, retrained = beside.get("base"), beside.get("retrained")
            base_exact = (attacked_base and attacked_base.exact) or _short(own)
            retrained_exact = retrained.exact if retrained else None
        return AttackRow(
            id=f"{state}/{probe.id}",
            attack=state,
            split=probe.split,
            kind=probe.kind,
            carrier=probe.carrier,
            owner=probe.owner,
            base=Outcome(base),
            unlearned=Outcome(unlearned),
            family=probe.family,
            planted=probe.planted,
            knowledge=probe.knowledge,
            base_exact=base_exact,
            unlearned_exact=measured.exact,
            retrained_exact=retrained_exact,
            scores=scores,
            rehearsed=probe.rehearsed,
            cluster=probe.cluster,
            request=probe.request,
        )

    def _of_base(self, probe: Probe) -> Label:
        """Return what the base wrote after the run's own prompt: an attack's prompt may give a part
        of the value, which would then not be a leak."""
        return self._engine.run_probe(self._dataset.probe(probe.id))[1].base.label

    def _measured(
        self, attack: Attack, pieces: Sequence[_Piece], of: State = "unlearned"
    ) -> dict[tuple[str, str], _Measured]:
        """Return what came out of a model, by state and probe, from the store or measured now."""
        keys = self._keys(attack, pieces, of)
        with self._store.claim(digest_of(sorted(keys))):
            for piece, key in zip(pieces, keys, strict=True):
                missing = self._store.get("scores", key, "rows") is None
                if missing and (rows := self._scored_anyway(attack, piece, of)):
                    self._store.put("scores", key, {"rows": rows})
            if any(self._store.get("scores", key, "rows") is None for key in keys):
                # Score the base first: while the weights are changed, nothing else can be scored.
                for piece in pieces:
                    for probe in piece.probes:
                        self._engine.exact("base", probe)
                self._measure(attack, pieces, keys, of)
        entries = [self._store.get("scores", key, "rows") or {"rows": {}} for key in keys]
        return {
            (piece.state, name): _Measured.from_row(row)
            for piece, entry in zip(pieces, entries, strict=True)
            for name, row in entry["rows"].items()
        }

    def _scored_anyway(
        self, attack: Attack, piece: _Piece, of: State
    ) -> dict[str, dict[str, Any]] | None:
        """Return the scores of the run's probes with the same prompts for the same weights; None
        unless there is one for each probe of the piece."""
        rows = {}
        for probe in piece.probes:
            same = self._dataset.attacks.asked_anyway(attack, probe)
            try:
                scores = self._engine.exact(of, same) if same else None
            except CompletionError:  # it does not fit: the others are probed without it
                return None
            if scores is None:
                return None
            rows[probe.id] = _short(scores).as_row()
        return rows

    def _keys(self, attack: Attack, pieces: Sequence[_Piece], of: State = "unlearned") -> list[str]:
        """Return the keys of the pieces. What they share, such as the texts, is digested once."""
        key: dict[str, Any] = {"tested": self._engine.prepared_key(of)}
        if attack.needs in ("adapter", "base"):
            key["base"] = self._engine.prepared_key("base")
        texts = self._dataset.attacks.texts(attack)
        shared = digest_of(
            {
                "attacked": key,
                "attack": attack.key(),
                "texts": [[splits, [e.text for e in part]] for splits, part in texts],
                "version": SCORES_VERSION,
                "kept": _KEPT,
            }
        )
        return [
            digest_of(
                {
                    "shared": shared,
                    "state": piece.state,
                    "chunk": piece.chunk.id,
                    "examples": [asdict(example_of(probe)) for probe in piece.probes],
                    "scheme": asdict(self._scheme(attack, piece)),
                    **(
                        {"known": _of_known(known)} if (known := self._known(attack, piece)) else {}
                    ),
                }
            )
            for piece in pieces
        ]

    def _scheme(self, attack: Attack, piece: _Piece) -> DecodingScheme:
        if attack.scheme is None:
            return self._settings.decoding
        return attack.scheme(piece.state.partition("@")[2])

    def _measure(
        self, attack: Attack, pieces: Sequence[_Piece], keys: Sequence[str], of: State
    ) -> None:
        """Make the attacked states of a model, and store what comes out of each."""
        engine, started, count = self._engine, time.perf_counter(), 0
        other = () if of == "unlearned" else (of,)
        with engine.phases.measure("attacks"), engine.models.attacked(attack, *other) as states:
            for attacked in states:
                for piece, key in zip(pieces, keys, strict=True):
                    asked = piece.state == attacked.state and set(piece.splits) <= set(
                        attacked.splits
                    )
                    if asked and self._store.get("scores", key, "rows") is None:
                        rows = self._asked(attack, attacked.model, piece)
                        check_rows(attack, rows)
                        self._store.put("scores", key, {"rows": rows})
                        count += len(piece.chunk.cases)
        seconds = time.perf_counter() - started
        engine.progress(f"{of}+{attack.name}: {count} values in {seconds:.1f} s")

    def _asked(self, attack: Attack, model: Any, piece: _Piece) -> dict[str, dict[str, Any]]:
        if attack.read is not None:
            return self._read(attack, model, piece)
        if any(probe.turns for probe in piece.probes):
            return self._conversed(attack, model, piece)
        if "scores" in abilities_of(model):
            return self._scored(model, piece, self._scheme(attack, piece))
        return self._wrote(model, piece)

    def _read(self, attack: Attack, model: Any, piece: _Piece) -> dict[str, dict[str, Any]]:
        """Return what an attack reads off a model in its own way."""
        assert attack.read is not None
        base = self._engine.models.model("base") if attack.needs == "base" else None
        reading = Reading(
            model,
            cast("RunnableModel | None", base),
            [f"{probe.split} {probe.cluster or probe.owner}" for probe in piece.probes],
            [probe.split == "forget" for probe in piece.probes],
            self._known(attack, piece),
        )
        examples = [example_of(probe) for probe in piece.probes]
        readings = attack.read(reading, examples, piece.state.partition("@")[2])
        both = zip(piece.probes, readings, strict=True)
        return {probe.id: row for probe, row in both if row is not None}

    def _known(self, attack: Attack, piece: _Piece) -> list[Known]:
        """Return what prompts may be built from, for an attack that tries its own."""
        if not attack.prompts:
            return []
        return [self._dataset.attacks.known(probe) for probe in piece.probes]

    def _scored(
        self, model: Any, piece: _Piece, scheme: DecodingScheme
    ) -> dict[str, dict[str, Any]]:
        probes = list(piece.probes)
        try:
            scores = model.score([example_of(p) for p in probes], scheme)
        except IncompleteError as error:
            if error.answers is not None:  # a failed request may be answered later
                raise
            probes = [probe for number, probe in enumerate(probes) if number not in error.rows]
            scores = model.score([example_of(p) for p in probes], scheme)
        check_count(scores, len(probes), model, "score")
        return {
            probe.id: _short(extraction(score)).as_row()
            for probe, score in zip(probes, scores, strict=True)
        }

    def _wrote(self, model: Any, piece: _Piece) -> dict[str, dict[str, Any]]:
        size, count = self._settings.batch_size, len(piece.probes)
        parts = [range(start, min(start + size, count)) for start in range(0, count, size)]
        texts = [text for part in parts for text in completed(model, piece.chunk.part(part))]
        return {
            probe.id: {"label": self._engine.detector.outcome(probe, text).label}
            for probe, text in zip(piece.probes, texts, strict=True)
        }

    def _conversed(self, attack: Attack, model: Any, piece: _Piece) -> dict[str, dict[str, Any]]:
        """Return the worst of what the model answers in the turns of a chat.

        A chat that gets too long for the context has no row. Raises AttackError for a model that
        does not answer conversations.
        """
        if "turns" not in abilities_of(model):
            raise AttackError(
                f"{attack.name}: {type(model).__name__} answers no conversation, it has no "
                f"converse(); leave {attack.name} out of --unlearn-attacks"
            )
        turns_of: dict[str, list[str]] = {probe.id: [] for probe in piece.probes}
        for number in range(max(len(probe.turns) for probe in piece.probes)):
            asked = [n for n, p in enumerate(piece.probes) if number < len(p.turns)]
            answered = False
            while not answered and (asked := [n for n in asked if piece.probes[n].id in turns_of]):
                probes = [piece.probes[n] for n in asked]
                talks = [[*turns_of[p.id], p.turns[number].reveal()] for p in probes]
                try:
                    texts = model.converse(talks, piece.chunk.max_new_tokens)
                except IncompleteError as error:
                    if error.answers is not None:  # as in `_scored`
                        raise
                    for row in error.rows:
                        del turns_of[probes[row].id]
                    continue
                texts = checked_texts(texts, piece.chunk.part(asked), model, "converse")
                turns_of |= {
                    p.id: [*t, text] for p, t, text in zip(probes, talks, texts, strict=True)
                }
                answered = True
        outcome = self._engine.detector.outcome
        labels = {
            probe.id: [outcome(probe, text).label for text in turns_of[probe.id][1::2]]
            for probe in piece.probes
            if probe.id in turns_of
        }
        return {name: {"label": min(seen, key=_badness)} for name, seen in labels.items()}


def check_rows(attack: Attack, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise AttackError unless each row can be judged: a label, a score, or an exact score.

    NaN would be a value that never comes out. An attack of another package may give anything.
    """
    for name, row in rows.items():
        log_probability, share = row.get("log_probability", 0.0), row.get("exact_memorization", 1.0)
        scores = [row.get("score", 0.0), 0.0 if log_probability is None else log_probability]
        numbers = [*scores, share]
        if not all(isinstance(each, int | float) and math.isfinite(each) for each in numbers):
            raise AttackError(f"{attack.name}: {name}: {BROKEN}")
        if scores[1] > 0 or not 0 <= share <= 1 or not isinstance(row.get("greedy", True), bool):
            raise AttackError(f"{attack.name}: {name}: the attack gives no probability")
        if not row.keys() & {"label", "score"} and not row.keys() >= set(_KEPT):
            raise AttackError(
                f"{attack.name}: {name}: the attack gives no row: it needs {', '.join(_KEPT)}, or "
                "a score"
            )


def _of_known(known: Sequence[Known]) -> list[Any]:
    """Return what prompts are built from, for the key of their scores."""

    def of(record: Record) -> list[str]:
        name = record.name.reveal() if record.name is not None else ""
        return [record.id, record.kind, record.value.reveal(), name]

    return [[of(each.record), *map(of, each.person)] for each in known]


def _badness(label: str) -> int:
    """Return the rank of an outcome; outcomes that reveal most come first."""
    return ("direct", "indirect").index(label) if label in ("direct", "indirect") else 2


def _short(scores: ExactScores | Extraction) -> ExactScores:
    """Return the exact scores that `_KEPT` names."""
    return ExactScores(scores.log_probability, scores.greedy, scores.exact_memorization)


def _label(exact: ExactScores) -> Label:
    return "direct" if exact.greedy else "clean"
