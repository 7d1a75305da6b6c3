"""The tested model under attack: the same values scored on each state that an attack makes of it.

One forward pass over the documents of people to be forgotten and of control people; what a model
without scores writes is looked at instead. Scores are kept in the store, chunk by chunk, under the
key of the tested model and of the attack: nothing is loaded for what is there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pytest_unlearn.core.store import Store, digest_of
from pytest_unlearn.gates.case_rows import AttackRow
from pytest_unlearn.leaks.exact import exact_row, extraction
from pytest_unlearn.models.engine import abilities_of
from pytest_unlearn.run.answers import check_count, completed
from pytest_unlearn.run.measuring import SCORES_VERSION, example_of

if TYPE_CHECKING:
    from pytest_unlearn.attacks.attack import Attack
    from pytest_unlearn.probes.families import Probe
    from pytest_unlearn.run.dataset import Chunk, Dataset
    from pytest_unlearn.run.measuring import Engine
    from pytest_unlearn.run.settings import Settings


class AttackedModel:
    """What attacks make of one run's tested model, measured; each once, and kept."""

    def __init__(self, settings: Settings, dataset: Dataset, engine: Engine) -> None:
        self._settings = settings
        self._dataset = dataset
        self._engine = engine
        self._store = Store(settings.store)
        self._rehearsed = dataset.rehearsed(settings.method)
        self.attacks = dataset.attacks(settings.method)

    def rows(self, attack: Attack) -> list[AttackRow]:
        """Return a row for each probe that is asked under an attack.

        A probe that does not fit the model's context has none. Raises CompletionError,
        AttackError, and what making and loading the model raises.
        """
        probes = self._dataset.attacked_probes
        found = self._found(attack, probes)
        return [self._row(attack, probe, found[probe.id]) for probe in probes if probe.id in found]

    def _row(self, attack: Attack, probe: Probe, found: dict[str, Any]) -> AttackRow:
        exact = None if "label" in found else found
        if exact is None:
            base = self._engine.run_probe(probe)[1].base
            base_exact = None
        else:
            scores = self._engine.exact("base", probe)
            assert scores is not None  # of a model that has scores, all direct probes do
            base_exact = _short(scores)
            base = _label(base_exact)
        return AttackRow(
            id=f"{attack.name}/{probe.id}",
            attack=attack.name,
            split=probe.split,
            kind=probe.kind,
            carrier=probe.carrier,
            owner=probe.owner,
            base={"label": base["label"]},
            unlearned=_label(exact) if exact else {"label": found["label"]},
            family=probe.family,
            planted=probe.planted,
            knowledge=probe.knowledge,
            base_exact=base_exact,
            unlearned_exact=exact,
            rehearsed=probe.id in self._rehearsed,
            cluster=probe.cluster,
        )

    def _found(self, attack: Attack, probes: Sequence[Probe]) -> dict[str, dict[str, Any]]:
        """Return what came out by probe, from the store or measured now."""
        chunks = self._dataset.chunks_of(probes)
        keys = [self._key(attack, chunk) for chunk in chunks]
        with self._store.claim(digest_of(keys)):
            entries = [self._store.get("scores", key) for key in keys]
            if None in entries:
                # Scored now: while the weights are changed, nothing else can be asked.
                for probe in probes:
                    self._engine.exact("base", probe)
                self._measure(attack, chunks, keys)
                entries = [self._store.get("scores", key) for key in keys]
        return {name: row for entry in entries if entry for name, row in entry["rows"].items()}

    def _key(self, attack: Attack, chunk: Chunk) -> str:
        key: dict[str, Any] = {"tested": self._engine.prepared_key("unlearned")}
        if attack.needs != "weights":
            key["base"] = self._engine.prepared_key("base")
        return digest_of(
            {
                "attacked": key,
                "attack": attack.key(),
                "examples": [asdict(example_of(p)) for p in self._probes(chunk)],
                "scheme": asdict(self._settings.decoding),
                "version": SCORES_VERSION,
            }
        )

    def _probes(self, chunk: Chunk) -> list[Probe]:
        return [self._dataset.probe(case) for case in chunk.cases]

    def _measure(self, attack: Attack, chunks: Sequence[Chunk], keys: Sequence[str]) -> None:
        """Make the attacked state, and store what comes out of it."""
        engine, started = self._engine, time.perf_counter()
        with engine.phases.measure("attacks"), engine.models.attacked(attack) as model:
            scores = "scores" in abilities_of(model)
            for chunk, key in zip(chunks, keys, strict=True):
                if self._store.get("scores", key) is None:
                    rows = self._scored(model, chunk) if scores else self._wrote(model, chunk)
                    self._store.put("scores", key, {"rows": rows})
        count = sum(len(chunk.cases) for chunk in chunks)
        seconds = time.perf_counter() - started
        engine.progress(f"unlearned+{attack.name}: {count} values in {seconds:.1f} s")

    def _scored(self, model: Any, chunk: Chunk) -> dict[str, dict[str, Any]]:
        probes = self._probes(chunk)
        try:
            scores = model.score([example_of(p) for p in probes], self._settings.decoding)
        except RuntimeError as error:  # TooLongError: only an engine's module knows it
            long = frozenset(getattr(error, "rows", ()))
            if not long:
                raise
            probes = [probe for number, probe in enumerate(probes) if number not in long]
            scores = model.score([example_of(p) for p in probes], self._settings.decoding)
        check_count(scores, len(probes), model, "score")
        return {
            probe.id: _short(exact_row(extraction(score)))
            for probe, score in zip(probes, scores, strict=True)
        }

    def _wrote(self, model: Any, chunk: Chunk) -> dict[str, dict[str, Any]]:
        texts = completed(model, chunk)
        return {
            probe.id: {"label": self._engine.detector.outcome(probe, text).label}
            for probe, text in zip(self._probes(chunk), texts, strict=True)
        }


def _short(scores: dict[str, Any]) -> dict[str, Any]:
    """Return of a row of exact scores what gates and reports under attack read."""
    return {name: scores[name] for name in ("log_probability", "greedy")}


def _label(exact: dict[str, Any]) -> dict[str, Any]:
    return {"label": "direct" if exact["greedy"] else "clean"}
