"""The two models of a run, base and tested: found, loaded, unlearned, and named by a key.

Keys are known without loading anything, so that a run whose completions are all in the store
loads no model.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pytest_unlearn.models.sources import ModelSource, check_name, resolve
from pytest_unlearn.store import Store, digest_of

if TYPE_CHECKING:
    from pytest_unlearn.dataset import Dataset
    from pytest_unlearn.models.loading import LanguageModel, Weights
    from pytest_unlearn.options import Settings

State = Literal["base", "unlearned"]
STATES: tuple[State, State] = ("base", "unlearned")

# Raise when a change of this package changes what unlearning makes of the same input.
UNLEARNING_VERSION = 2
_LIBRARIES = ("torch", "transformers", "tokenizers", "peft")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An unlearned adapter in the store, with what its training reported."""

    adapter: Path
    digest: str
    steps: int
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

    def resolve(self) -> None:
        """Find both model folders, fetching from the hub what is not there.

        Raises ModelNotFoundError.
        """
        _ = self._source, self._base_source

    @functools.cached_property
    def _source(self) -> ModelSource:
        return resolve(self._settings.model, "--unlearn-model")

    @functools.cached_property
    def _base_source(self) -> ModelSource:
        if self._settings.baseline is None:
            return self._source
        return resolve(self._settings.baseline, "--unlearn-baseline")

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
        checkpoint = self.checkpoint
        return self._key(self._source, checkpoint.digest if checkpoint else None)

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
        checkpoint = self.checkpoint
        weights = self._weights(self._source)
        if checkpoint is not None and not self._adapted:
            weights.adapt(checkpoint.adapter)
            self._adapted = True
        return LanguageModel(weights, checkpoint is not None, self._threads)

    def _weights(self, source: ModelSource) -> Weights:
        from pytest_unlearn.models.loading import load

        if source.folder not in self._loaded:
            self._progress(f"loading {source.name}")
            self._loaded[source.folder] = load(source, *self._place)
        return self._loaded[source.folder]

    # -- unlearning --------------------------------------------------------------------------

    @functools.cached_property
    def checkpoint(self) -> Checkpoint | None:
        """The unlearned adapter, from the store or trained now; None when nothing is asked."""
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
                "model": self._key(self._source, None),
                "method": choice.name,
                "options": {name: str(value) for name, value in asdict(choice.options).items()},
                "texts": asdict(self._dataset.training_texts(*choice.alternates)),
                "seed": self._settings.seed,
            }
        )

    def stored_checkpoint(self) -> Checkpoint | None:
        """Return the unlearned adapter if the store has it; nothing is trained."""
        if self._settings.method.method is None:
            return None
        key = self._unlearning_key
        report = self._store.get("checkpoints", key)
        folder = self._store.folder("adapters", key)
        if report is None or folder is None:
            return None
        return Checkpoint(folder, **report)

    def _unlearn(self, key: str) -> Checkpoint:
        from pytest_unlearn.unlearning.loop import unlearn

        choice = self._settings.method
        assert choice.method is not None
        assert choice.options is not None
        weights = self._weights(self._source)
        model: Any = weights.model
        started = time.perf_counter()
        policy, report = unlearn(
            model,
            weights.tokenizer,
            self._dataset.training_texts(*choice.alternates),
            choice.method,
            choice.options,
            self._settings.seed,
            self._progress,
        )
        weights.model = policy
        self._adapted = True
        folder = self._store.put_folder(
            "adapters", key, lambda path: policy.save_pretrained(str(path))
        )
        entry = {
            "digest": self._store.digest_of_file(folder / "adapter_model.safetensors"),
            "seconds": round(time.perf_counter() - started, 3),
            **asdict(report),
        }
        # Written last: a run killed before this line trains again instead of trusting half a
        # folder.
        self._store.put("checkpoints", key, entry)
        return Checkpoint(folder, **entry)
