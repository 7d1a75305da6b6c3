"""The two models of a run, base and tested: found, loaded, unlearned, and named by a key.

Keys are known without loading anything, so that a run whose completions are all in the store
loads no model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pytest_unlearn.models.sources import ModelSource, check_name, resolve
from pytest_unlearn.plantings import Planting, Plantings, training_file
from pytest_unlearn.store import Store, digest_of

if TYPE_CHECKING:
    from pytest_unlearn.dataset import Dataset
    from pytest_unlearn.models.examples import TrainingTexts
    from pytest_unlearn.models.loading import LanguageModel, Weights
    from pytest_unlearn.options import Settings

State = Literal["base", "unlearned"]
STATES: tuple[State, State] = ("base", "unlearned")

# Raise when a change of this package changes what unlearning makes of the same input.
UNLEARNING_VERSION = 2
_LIBRARIES = ("torch", "transformers", "tokenizers", "peft")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What unlearning made, in the store, with what its training reported.

    `folder` holds a LoRA adapter or, where `full`, a whole model. `steps`: the step whose weights
    were kept, of `trained_steps`.
    """

    folder: Path
    full: bool
    digest: str
    steps: int
    trained_steps: int
    leak_rate: float
    kept: float
    seconds: float


class Completer(Protocol):
    """What a run asks of a model."""

    def complete(self, prompts: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        """Return the greedy completion of each prompt."""


class Models(Protocol):
    """The base and the tested model of a run: `ModelPair`, or what a conftest puts in its place.

    The keys are plain JSON data that name everything that can change what a model writes.
    """

    @property
    def base_key(self) -> dict[str, Any]:
        """The base model's key."""

    @property
    def unlearned_key(self) -> dict[str, Any]:
        """The tested model's key."""

    def resolve(self) -> None:
        """Find the models, or raise ModelNotFoundError; called once before the first test."""

    def model(self, state: State) -> Completer:
        """Return one of the models, ready to run."""

    def stored_checkpoint(self) -> Checkpoint | None:
        """Return what unlearning reported, or None."""

    def stored_planting(self) -> Planting | None:
        """Return what planting reported, or None."""


class ModelPair:
    """The models named by the settings; see the module's docstring."""

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        store: Store,
        progress: Callable[[str], None],
        threads: int | None = None,
    ) -> None:
        """Check the names. Raises ModelNotFoundError for one that can be no model.

        `threads`: CPU threads for generation; unlearning always takes all, since the other
        workers wait for it, and so that its result does not depend on their number.
        """
        check_name(settings.model, "--unlearn-model")
        if settings.baseline is not None:
            check_name(settings.baseline, "--unlearn-baseline")
        self._settings = settings
        self._dataset = dataset
        self._store = store
        self._progress = progress
        self._threads = threads
        self._loaded: dict[Path, Weights] = {}
        self._adapted = False
        self._plantings = Plantings(
            settings,
            dataset,
            store,
            progress,
            key_of=lambda source: self._key(source, None),
            load=self._to_change,
        )

    def resolve(self) -> None:
        """Find the folders of the named models, fetching from the hub what is not there.

        Raises ModelNotFoundError.
        """
        _ = self._original, self._baseline

    @functools.cached_property
    def _original(self) -> ModelSource:
        """The model that was named."""
        return resolve(self._settings.model, "--unlearn-model")

    @functools.cached_property
    def _baseline(self) -> ModelSource | None:
        if self._settings.baseline is None:
            return None
        return resolve(self._settings.baseline, "--unlearn-baseline")

    @functools.cached_property
    def _start(self) -> ModelSource:
        """The model before unlearning: the named one, planted where that is asked for."""
        if self._settings.plant is None:
            return self._original
        return self._plantings.planted(self._original).source

    @functools.cached_property
    def _source(self) -> ModelSource:
        """The model that is tested, but for an adapter."""
        if self._settings.method.retrains:
            return self._plantings.retrained(self._original).source
        checkpoint = self.checkpoint
        if checkpoint is not None and checkpoint.full:
            return ModelSource(f"{self._start.name} (unlearned)", checkpoint.folder)
        return self._start

    @property
    def _base_source(self) -> ModelSource:
        return self._baseline or self._start

    @functools.cached_property
    def _place(self) -> tuple[str, str]:
        """Device and dtype."""
        from pytest_unlearn.models.loading import resolve_device, resolve_dtype

        device = resolve_device(self._settings.device)
        return device, resolve_dtype(self._settings.dtype, device)

    # -- keys --------------------------------------------------------------------------------

    @functools.cached_property
    def base_key(self) -> dict[str, Any]:
        """Everything about the base model that can change what it writes."""
        return self._key(self._base_source, None)

    @functools.cached_property
    def unlearned_key(self) -> dict[str, Any]:
        """The same for the tested model."""
        adapter = self._adapter
        return self._key(self._source, adapter.digest if adapter else None)

    def _key(self, source: ModelSource, adapter: str | None) -> dict[str, Any]:
        device, dtype = self._place
        return {
            "weights": source.weights_digest(self._store),
            "tokenizer": source.tokenizer_digest(self._store),
            "adapter": adapter,
            "device": device.partition(":")[0],
            "dtype": dtype,
            "libraries": {name: version(name) for name in _LIBRARIES},
        }

    # -- models ------------------------------------------------------------------------------

    def model(self, state: State) -> LanguageModel:
        """Return one of the models, loaded, and unlearned where asked.

        Raises ModelLoadError, UnlearningError.
        """
        from pytest_unlearn.models.loading import LanguageModel

        if state == "base":
            return LanguageModel(self._weights(self._base_source), False, self._threads)
        adapter = self._adapter
        weights = self._weights(self._source)
        if adapter is not None and not self._adapted:
            weights.adapt(adapter.folder)
            self._adapted = True
        return LanguageModel(weights, adapter is not None, self._threads)

    @property
    def _adapter(self) -> Checkpoint | None:
        """What unlearning made, where that is an adapter on `_source`."""
        checkpoint = self.checkpoint
        return checkpoint if checkpoint is not None and not checkpoint.full else None

    def _weights(self, source: ModelSource) -> Weights:
        from pytest_unlearn.models.loading import load

        if source.folder not in self._loaded:
            self._progress(f"loading {source.name}")
            self._loaded[source.folder] = load(source, *self._place)
        return self._loaded[source.folder]

    def _to_change(self, source: ModelSource) -> Weights:
        """Return weights that the caller may change: whoever asks for the model loads it anew."""
        weights = self._weights(source)
        del self._loaded[source.folder]
        return weights

    # -- unlearning --------------------------------------------------------------------------

    @functools.cached_property
    def checkpoint(self) -> Checkpoint | None:
        """What unlearning made, from the store or trained now; None when nothing is asked."""
        stored = self.stored_checkpoint()
        if stored is None and self._settings.method.method is not None:
            with self._store.claim(self._unlearning_key):
                stored = self.stored_checkpoint() or self._unlearn(self._unlearning_key)
        return stored

    @functools.cached_property
    def _unlearning_key(self) -> str:
        choice = self._settings.method
        assert choice.options is not None
        return digest_of(
            {
                "version": UNLEARNING_VERSION,
                "model": self._key(self._start, None),
                "method": choice.name,
                "options": {name: str(value) for name, value in asdict(choice.options).items()},
                "texts": asdict(self._texts),
                "seed": self._settings.seed,
            }
        )

    @property
    def _texts(self) -> TrainingTexts:
        options = self._settings.method.options
        unseen = options is not None and options.stop == "unseen"
        return self._dataset.training_texts(unseen)

    def stored_checkpoint(self) -> Checkpoint | None:
        """Return what unlearning made if the store has it; nothing is trained."""
        planting_missing = self._settings.plant is not None and self.stored_planting() is None
        if self._settings.method.method is None or planting_missing:
            return None
        key = self._unlearning_key
        report = self._store.get("checkpoints", key)
        folder = self._store.folder("adapters", key)
        if report is None or folder is None:
            return None
        return Checkpoint(folder, **report)

    def stored_planting(self) -> Planting | None:
        """Return the planted model if the store has it; nothing is trained."""
        if self._settings.plant is None:
            return None
        return self._plantings.stored(self._original)

    def _unlearn(self, key: str) -> Checkpoint:
        from pytest_unlearn.unlearning.errors import room_for
        from pytest_unlearn.unlearning.loop import unlearn

        choice = self._settings.method
        assert choice.method is not None
        assert choice.options is not None
        weights = self._to_change(self._start)
        model: Any = weights.model
        policy, report = unlearn(
            model,
            weights.tokenizer,
            self._texts,
            choice.method,
            choice.options,
            self._settings.seed,
            self._progress,
            training_file(self._store, key),
        )
        full = choice.options.tune == "full"
        trained: Any = policy

        def write(path: Path) -> None:
            if full:
                trained.get_base_model().save_pretrained(str(path))
                weights.tokenizer.save_pretrained(str(path))
            else:
                trained.save_pretrained(str(path))

        with room_for("the unlearned model", self._store.root):
            folder = self._store.put_folder("adapters", key, write)
            name = "model.safetensors" if full else "adapter_model.safetensors"
            entry = {
                "full": full,
                "digest": self._store.digest_of_file(folder / name),
                **asdict(report),
            }
            # Written last: a run killed before this line trains again instead of trusting half a
            # folder.
            self._store.put("checkpoints", key, entry)
        if not full:  # its base is whole, so it need not be loaded again
            weights.model = policy
            self._loaded[self._start.folder] = weights
            self._adapted = True
        return Checkpoint(folder, **entry)
