"""Planted and retrained models: made once, kept in the store, and found again by their key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from pytest_unlearn.core.store import Store, digest_of
from pytest_unlearn.models.sources import ModelSource

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_unlearn.models.loading import Weights
    from pytest_unlearn.run.dataset import Dataset
    from pytest_unlearn.run.settings import Settings
    from pytest_unlearn.unlearning.planting import PlantingReport

# Increase when a change to this package changes the result of planting for the same input.
PLANTING_VERSION = 2
# A retrained model knows as little of the forget split as the model before planting. A model that
# gives away more than this share was trained on it elsewhere.
_KNEW = 0.05


@dataclass(frozen=True, slots=True)
class Planting:
    """A planted (or retrained) model in the store; the figures are `PlantingReport`'s."""

    source: ModelSource
    steps: int
    rounds: float
    leak_rate: float
    before: float
    records: int
    by_repetitions: dict[str, float]
    seconds: float


class Plantings:
    """Trains a run's planted and retrained model if the store does not have them."""

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        store: Store,
        progress: Callable[[str], None],
        key_of: Callable[[ModelSource], dict[str, Any]],
        load: Callable[[ModelSource], Weights],
    ) -> None:
        """`key_of` names a model before it is loaded; `load` loads one for training, which changes
        its weights."""
        self._settings = settings
        self._dataset = dataset
        self._store = store
        self._progress = progress
        self._key_of = key_of
        self._load = load

    def planted(self, original: ModelSource) -> Planting:
        """Return the planted model, from the store or trained now. Raises UnlearningError."""
        key = self._key(original, None)
        return self._from_store_or_trained(key, original, "planted", self._plant)

    def stored(self, original: ModelSource) -> Planting | None:
        """Return the planted model if the store has it; nothing is trained."""
        return self._from_store(self._key(original, None), original, "planted")

    def stored_retrained(self, original: ModelSource) -> Planting | None:
        """Return the retrained model if the store has it; nothing is trained."""
        planted = self.stored(original)
        if planted is None:
            return None
        return self._from_store(self._key(original, planted.rounds), original, "retrained")

    def retrained(self, original: ModelSource, flag: str) -> Planting:
        """Return the model that was trained like the planted one, without the forget split.

        `flag`: the flag that asks for it, for the error message. Raises UnlearningError, also for a
        model that knew the forget split before planting.
        """
        from pytest_unlearn.core.errors import UnlearningError
        from pytest_unlearn.unlearning.planting import retrain

        planted = self.planted(original)
        if planted.before > _KNEW:
            raise UnlearningError(
                f"{flag}: {original.name} gives away {planted.before:.0%} of the "
                "records before planting, so it was trained on them, and cannot be trained again "
                "without the forget set; plant other people (--unlearn-forget=FILE, "
                "--unlearn-retain=FILE) or take a model that knows none of them"
            )

        def make(weights: Weights, saved: Path) -> tuple[Any, PlantingReport]:
            options = self._settings.plant
            assert options is not None
            return retrain(
                _model(weights),
                weights.tokenizer,
                self._dataset.planting_texts(),
                options,
                self._settings.seed,
                planted.rounds,
                self._progress,
                saved,
                weights.lora_targets,
            )

        return self._from_store_or_trained(
            self._key(original, planted.rounds), original, "retrained", make
        )

    def _plant(self, weights: Weights, saved: Path) -> tuple[Any, PlantingReport]:
        from pytest_unlearn.unlearning.planting import plant

        options = self._settings.plant
        assert options is not None
        return plant(
            _model(weights),
            weights.tokenizer,
            self._dataset.planting_texts(),
            options,
            self._settings.seed,
            self._progress,
            saved,
            weights.lora_targets,
        )

    def _key(self, original: ModelSource, retrained_rounds: float | None) -> str:
        options = self._settings.plant
        assert options is not None
        return digest_of(
            {
                "version": PLANTING_VERSION,
                "model": self._key_of(original),
                "options": {name: str(value) for name, value in asdict(options).items()},
                "texts": asdict(self._dataset.planting_texts()),
                "seed": self._settings.seed,
                "retrained": retrained_rounds,
            }
        )

    def _from_store(self, key: str, original: ModelSource, what: str) -> Planting | None:
        report = self._store.get("plantings", key, *names_of(Planting, but="source"))
        folder = self._store.folder("planted", key)
        if report is None or folder is None:
            return None
        source = ModelSource(
            f"{original.name} ({what})", folder, original.preset, code=original.code
        )
        return Planting(source, **report)

    def _from_store_or_trained(
        self,
        key: str,
        original: ModelSource,
        what: str,
        make: Callable[[Weights, Path], tuple[Any, PlantingReport]],
    ) -> Planting:
        planting = self._from_store(key, original, what)
        if planting is None:
            with self._store.claim(key):
                planting = self._from_store(key, original, what)
                if planting is None:
                    self._train(key, original, make)
                    planting = self._from_store(key, original, what)
        assert planting is not None
        return planting

    def _train(
        self,
        key: str,
        original: ModelSource,
        make: Callable[[Weights, Path], tuple[Any, PlantingReport]],
    ) -> None:
        weights = self._load(original)
        model, report = make(weights, training_file(self._store, key))

        def write(folder: Path) -> None:
            model.save_pretrained(str(folder))
            weights.tokenizer.save_pretrained(str(folder))

        self._store.put_folder("planted", key, write)
        self._store.put("plantings", key, asdict(report))  # last: it vouches for the folder
        training_file(self._store, key).unlink(missing_ok=True)


def names_of(report: type, but: str) -> list[str]:
    """Return the names of a report's fields that are stored: all but one."""
    return [field.name for field in fields(report) if field.name != but]


def training_file(store: Store, key: str) -> Path:
    """Return the file that holds the state of a training until it ends."""
    return store.private("training") / f"{key}.safetensors"


def _model(weights: Weights) -> Any:
    return weights.model
