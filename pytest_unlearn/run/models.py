"""The models of a run, base and tested: how they are found, made, loaded and named by a key.

A third one, retrained without the forget records, may be given for comparison, or be made by the
recipe of the planting. `Models` is the protocol that a run uses, whoever provides the models.

Keys are known without loading anything, so a run whose completions are all in the store loads no
model.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from pytest_unlearn.attacks.attack import BOTH
from pytest_unlearn.core.store import Store, digest_of
from pytest_unlearn.gates.case_rows import State as State
from pytest_unlearn.models.engine import TRANSFORMERS, engine_named
from pytest_unlearn.models.model_files import WEIGHTS, adapter_digest, check_adapter, stands_apart
from pytest_unlearn.models.presets import presets
from pytest_unlearn.models.sources import ModelSource, check_name, fit_adapter, resolve
from pytest_unlearn.run.checks import LIBRARIES, check_device, check_files
from pytest_unlearn.run.planted import Planting, Plantings, names_of, training_file
from pytest_unlearn.unlearning.methods import RETRAIN

if TYPE_CHECKING:
    from pytest_unlearn.attacks.attack import Attack
    from pytest_unlearn.models.loading import Weights
    from pytest_unlearn.models.texts import TrainingTexts
    from pytest_unlearn.people.record import Split
    from pytest_unlearn.run.dataset import Dataset
    from pytest_unlearn.run.settings import Settings


T = TypeVar("T")

STATES: tuple[State, State] = ("base", "unlearned")


@dataclass(frozen=True, slots=True)
class UnlearnedModel:
    """What unlearning made, in the store, and what its training reported.

    `folder` holds a LoRA adapter or, if `full`, a whole model. `steps`: the step whose weights were
    kept, of `trained_steps`. `made`: when (ISO, UTC), or empty."""

    folder: Path
    full: bool
    digest: str
    steps: int
    trained_steps: int
    leak_rate: float
    kept: float
    seconds: float
    made: str = ""


class ReplayError(RuntimeError):
    """A replay needs something that is not in the store."""


class Completer(Protocol):
    """The least that a run needs from a model; see `models.engine` for the rest."""

    def complete(self, prompts: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        """Return the greedy completion of each prompt."""


class AttackedState(NamedTuple):
    """A state that an attack made of the tested model, and the splits to probe in it."""

    state: str
    splits: tuple[Split, ...]
    model: Completer


class Models(Protocol):
    """The models of a run: `ModelPair`, or what a conftest provides instead."""

    def prepare(self, state: State) -> None:
        """Make the model of a state if it does not exist yet: plant, unlearn, retrain."""

    def key(self, state: State) -> dict[str, Any]:
        """Return plain JSON data with everything that can change what a prepared model writes."""

    def resolve(self) -> None:
        """Find the models, or raise ModelNotFoundError; called once before the first test."""

    def model(self, state: State) -> Completer:
        """Return one of the models, ready to run; `retrained` only if one was named."""

    def attacked(
        self, attack: Attack, of: State = "unlearned"
    ) -> contextlib.AbstractContextManager[Iterator[AttackedState]]:
        """Yield the states that an attack makes of a model, one after the other; use each of them
        within the block, and before requesting the next."""

    def stored_unlearning(self) -> UnlearnedModel | None:
        """Return what unlearning reported, or None."""

    def stored_planting(self) -> Planting | None:
        """Return what planting reported, or None."""

    def release(self) -> None:
        """Release what loaded models need; they load again on demand."""


# Increase when a change to this package changes the result of unlearning for the same input.
UNLEARNING_VERSION = 10


class ModelPair:
    """The models named by the settings; see the module's docstring."""

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        store: Store,
        progress: Callable[[str], None],
        threads: int | None = None,
        before: ModelPair | None = None,
    ) -> None:
        """Check the names.

        Raises ModelNotFoundError for a name that cannot be a model, PresetError for an unusable
        preset or one without the task style, StyleError for probes that the preset has no prompts
        for.

        `threads`: CPU threads for generation. Unlearning always takes all: the other workers wait
        for it, and its result must not depend on their number. `before`: the models of the request
        before this one; made here if they are not given.
        """
        check_name(settings.model, "--unlearn-model", settings.revision, settings.trusted)
        if settings.baseline is not None:
            check_name(settings.baseline, "--unlearn-baseline", trusted=settings.trusted)
        if settings.retrained not in (None, RETRAIN):
            check_name(settings.retrained, "--unlearn-retrained", trusted=settings.trusted)
        if settings.adapter is not None:
            check_adapter(settings.adapter, "--unlearn-adapter")
        for name in (settings.model, settings.baseline):
            if name is not None and (preset := presets().get(name)):
                preset.check_families(settings.probes or ("direct",))
                preset.check_task_style(settings.sampling.style)
        self._settings = settings
        self._dataset = dataset
        self._store = store
        self._progress = progress
        self._threads = threads
        self._given_before = before
        self._keys: dict[State, dict[str, Any]] = {}
        self._unlearned_key = ""
        self._loaded: dict[tuple[Path | str | None, ...], Weights] = {}
        # Models that another engine runs.
        self._running: dict[tuple[Path | str | None, ...], Completer] = {}
        self._adapted = False
        self._planted: Planting | None = None
        self._retrained: Planting | None = None
        self._unlearned: UnlearnedModel | None = None
        self._plantings = Plantings(
            settings,
            dataset,
            store,
            progress,
            key_of=lambda source: self._key(source, None),
            load=self._to_change,
        )

    def resolve(self) -> None:
        """Find the folders of the named models; what is missing is fetched from the hub.

        Raises ModelNotFoundError, also for an adapter that does not fit, and for a folder whose
        files do not fit each other.
        """
        for flag, source in self.find().items():
            if not self._settings.replay:
                self.check(source, f"{flag}={source.name}")

    def find(self) -> dict[str, ModelSource]:
        """Return the named models by their flags. On a CPU, torch is not imported. Raises
        ModelNotFoundError, also for an adapter that does not fit."""
        sources = {"--unlearn-model": self._original}
        if self._baseline is not None:
            sources["--unlearn-baseline"] = self._baseline
        if self._settings.retrained not in (None, RETRAIN):
            sources["--unlearn-retrained"] = self._named_retrained
        if (folder := self._settings.adapter) is not None:
            flag = "--unlearn-adapter"
            sources[flag] = fit_adapter(self._original, folder, flag, name=str(folder))
        if not self._settings.replay:
            check_device(self._settings.device)
        return sources

    def check(self, source: ModelSource, flag: str) -> None:
        """Raise UserError for a model that the engine cannot run, and files that do not fit."""
        if self._settings.engine != TRANSFORMERS:
            engine_named(self._settings.engine).check(source, flag)
        check_files(source, flag, self._store, self._settings, self._dataset)

    @functools.cached_property
    def _original(self) -> ModelSource:
        """The model that was named."""
        settings = self._settings
        return resolve(settings.model, "--unlearn-model", settings.revision, settings.trusted)

    @functools.cached_property
    def _baseline(self) -> ModelSource | None:
        if self._settings.baseline is None:
            return None
        trusted = self._settings.trusted
        return resolve(self._settings.baseline, "--unlearn-baseline", trusted=trusted)

    # -- what is made -------------------------------------------------------------------------

    def prepare(self, state: State) -> None:
        """Plant, unlearn and retrain what a state needs and the store does not have.

        Raises UnlearningError, ModelLoadError. Apart from `model`, no other method makes anything.
        """
        settings = self._settings
        if settings.plant is not None and self._planted is None:
            self._planted = self._plantings.planted(self._original)
        flag = self._retraining_flag(state)
        if flag and self._retrained is None:
            self._retrained = self._plantings.retrained(self._original, flag)
        if state == "unlearned" and settings.method.method and self._unlearned is None:
            if self._before is not None:
                self._before.prepare(state)
                self._before.release()  # otherwise the trained weights would be held twice
            self._unlearned = self._stored_or_unlearned()

    def _retraining_flag(self, state: State) -> str | None:
        """Return the flag that makes a state the retrained model, or None."""
        if state == "retrained" and self._settings.retrained == RETRAIN:
            return f"--unlearn-retrained={RETRAIN}"
        if state == "unlearned" and self._settings.method.retrains:
            return f"--unlearn-method={RETRAIN}"
        return None

    @functools.cached_property
    def _before(self) -> ModelPair | None:
        """The models of the request before this one, on which this one is unlearned."""
        requests = self._settings.requests
        if requests is None or requests.before is None or self._given_before is not None:
            return self._given_before
        from pytest_unlearn.run.dataset import Dataset

        settings = replace(self._settings, requests=requests.before)
        return ModelPair(settings, Dataset(settings), self._store, self._progress, self._threads)

    @property
    def _first(self) -> ModelSource:
        """The model before all unlearning: the named one, planted if asked for."""
        if self._settings.plant is None:
            return self._original
        return _made(self._planted or self.stored_planting(), "planted").source

    @property
    def _start(self) -> ModelSource:
        """The model that is unlearned: the first, or what the request before this one made."""
        if self._before is None:
            return self._first
        source, adapter = self._before._source, self._before._adapter()
        return source if adapter is None else replace(source, added=(*source.added, adapter[0]))

    @property
    def _source(self) -> ModelSource:
        """The model that is tested, without its adapter."""
        if self._apart is not None:
            return self._apart
        if self._settings.method.retrains:
            return self._retrained_planting.source
        unlearned = self._made_unlearned
        if unlearned is None:
            return self._start
        if unlearned.full:
            name = f"{self._start.name} (unlearned)"
            return ModelSource(name, unlearned.folder, self._start.preset, code=self._start.code)
        return self._start

    @functools.cached_property
    def _apart(self) -> ModelSource | None:
        """The tested model, if the given adapter cannot be switched off again."""
        adapter = self._settings.adapter
        if adapter is None or not stands_apart(adapter):
            return None
        return fit_adapter(self._start, adapter, "--unlearn-adapter")

    @property
    def _made_unlearned(self) -> UnlearnedModel | None:
        """What unlearning made, here or in another worker; None if nothing is unlearned."""
        if self._settings.method.method is None:
            return None
        return _made(self._unlearned or self.stored_unlearning(), "unlearned")

    @property
    def _retrained_planting(self) -> Planting:
        planting = self._retrained or self._plantings.stored_retrained(self._original)
        return _made(planting, "retrained")

    @property
    def _base_source(self) -> ModelSource:
        return self._baseline or self._first

    @functools.cached_property
    def _place(self) -> tuple[str, str]:
        """Device and dtype."""
        from pytest_unlearn.models.loading import needed_gib, resolve_device, resolve_dtype

        unlearns = self._settings.method.method is not None
        device = resolve_device(self._settings.device, needed_gib(self._original, unlearns))
        return device, resolve_dtype(self._settings.dtype, device, self._original.preset)

    @property
    def _retrained_source(self) -> ModelSource:
        if self._settings.retrained is None:
            raise ValueError("no retrained model was named")
        if self._settings.retrained == RETRAIN:
            return self._retrained_planting.source
        return self._named_retrained

    @functools.cached_property
    def _named_retrained(self) -> ModelSource:
        assert self._settings.retrained is not None
        trusted = self._settings.trusted
        return resolve(self._settings.retrained, "--unlearn-retrained", trusted=trusted)

    def release(self) -> None:
        """Release loaded weights; a model loads again on demand."""
        if not self._loaded and not self._running:
            return
        import torch

        self._loaded.clear()
        self._running.clear()
        self._adapted = False
        gc.collect()  # modules and hooks refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # -- keys --------------------------------------------------------------------------------

    def key(self, state: State) -> dict[str, Any]:
        """Return everything about a prepared model that can change what it writes."""
        if state not in self._keys:
            adapter = self._adapter() if state == "unlearned" else None
            key = self._key(self._source_of(state), adapter and adapter[1])
            self._keys[state] = {**key, **self._way_key()}
        return self._keys[state]

    def _source_of(self, state: State) -> ModelSource:
        if state == "base":
            return self._base_source
        return self._source if state == "unlearned" else self._retrained_source

    def _way_key(self) -> dict[str, Any]:
        """Return how a model is run, as far as that changes what it writes."""
        key: dict[str, Any] = {"thinking": True} if self._settings.thinking else {}
        engine = engine_named(self._settings.engine)
        if engine.name != TRANSFORMERS:
            key["engine"] = {"name": engine.name, **engine.key()}
        return key

    def _key(self, source: ModelSource, adapter: str | None) -> dict[str, Any]:
        device, dtype = self._place
        packages = (*LIBRARIES, "gguf") if source.gguf else LIBRARIES
        return {
            "weights": source.weights_digest(self._store),
            "tokenizer": source.tokenizer_digest(self._store),
            "preset": source.preset.key if source.preset else None,
            "adapter": adapter,
            "device": "cuda" if device == "map" else device.partition(":")[0],
            "dtype": dtype,
            "libraries": {name: version(name) for name in packages},
            **({"quantized": source.quantized} if source.quantized else {}),
        }

    # -- models ------------------------------------------------------------------------------

    def model(self, state: State) -> Completer:
        """Return one of the models, loaded and, if asked for, unlearned.

        Raises ModelLoadError, UnlearningError.
        """
        from pytest_unlearn.models.loading import LanguageModel

        self.prepare(state)
        if self._settings.engine != TRANSFORMERS:
            return self._opened(state)
        if state != "unlearned":
            weights = self._weights(self._source_of(state))
            return LanguageModel(weights, False, self._threads, self._progress)
        adapter = self._adapter()
        weights = self._weights(self._source)
        if adapter is not None and not self._adapted:
            weights.adapt(adapter[0])
            self._adapted = True
        return LanguageModel(weights, adapter is not None, self._threads, self._progress)

    @contextlib.contextmanager
    def attacked(
        self, attack: Attack, of: State = "unlearned"
    ) -> Iterator[Iterator[AttackedState]]:
        """Yield the states that an attack makes of a model, whose weights are changed in place and
        restored bit by bit when the block ends. Raises as `under_attack` does."""
        from pytest_unlearn.attacks.attack import under_attack
        from pytest_unlearn.models.loading import LanguageModel

        model = self.model(of)  # loaded, with its adapter
        if not attack.changes_weights:
            yield (AttackedState(state, BOTH, model) for state in attack.states)
            return
        weights = self._weights(self._source_of(of))
        adapted = of == "unlearned" and self._adapter() is not None
        base = None
        if attack.needs == "base" and not adapted:
            base = dict(self._weights(self._base_source).model.named_parameters())
        texts = self._dataset.attacks.texts(attack)
        changed = under_attack(weights.model, base, weights.tokenizer, texts, adapted)
        new = functools.partial(LanguageModel, weights, adapted, self._threads, self._progress)
        with changed as target, contextlib.closing(attack.made(target)) as states:
            yield (AttackedState(*made, new()) for made in states)

    def _opened(self, state: State) -> Completer:
        """Return a model of another engine, with its adapter merged. Raises UserError."""
        if self._settings.replay:
            raise ReplayError(f"--unlearn-replay: the {state} model is not in the store")
        engine, source = engine_named(self._settings.engine), self._source_of(state)
        adapter = self._adapter() if state == "unlearned" else None
        if adapter is not None:
            source = source.adapted(adapter[0], f"--unlearn-engine={engine.name}")
        files = self._files(source)
        if files not in self._running:
            engine.check(source, f"--unlearn-engine={engine.name}")
            self._progress(f"loading {source.name} into {engine.name}")
            self._running[files] = engine.open(source, *self._place, self._progress)
        return self._running[files]

    def _adapter(self) -> tuple[Path, str] | None:
        """Return folder and digest of the adapter that is put on `_source`; None without one."""
        adapter = self._settings.adapter
        if self._apart is not None:
            return None
        if adapter is not None:
            return adapter, adapter_digest(adapter, self._store)
        unlearned = self._made_unlearned
        if unlearned is None or unlearned.full:
            return None
        return unlearned.folder, unlearned.digest

    def _weights(self, source: ModelSource) -> Weights:
        from pytest_unlearn.models.loading import load
        from pytest_unlearn.unlearning.distributed import loading_device

        if self._settings.replay:  # also if the store lacks the unlearned model
            raise ReplayError(f"--unlearn-replay: no run of {source.name} is in the store")
        files = self._files(source)
        if files not in self._loaded:
            self._progress(f"loading {source.name}")
            device, dtype = self._place
            self._loaded[files] = load(source, loading_device(device), dtype)
            self._loaded[files].thinking = self._settings.thinking
        return self._loaded[files]

    @staticmethod
    def _files(source: ModelSource) -> tuple[Path | str | None, ...]:
        return source.folder, source.gguf, source.adapter, *source.added

    def _to_change(self, source: ModelSource) -> Weights:
        """Return weights that the caller may change: the model loads again on demand."""
        weights = self._weights(source)
        del self._loaded[self._files(source)]
        return weights

    # -- unlearning --------------------------------------------------------------------------

    def _stored_or_unlearned(self) -> UnlearnedModel:
        """Return what unlearning made, from the store or trained now.

        Of several processes (`unlearning.distributed`), the first claims, reads and writes for all.
        """
        from pytest_unlearn.unlearning import distributed

        stored = distributed.from_first(self.stored_unlearning())
        if stored is None:
            key = self._unlearning_key()
            first = distributed.number() == 0
            with self._store.claim(key) if first else contextlib.nullcontext():
                stored = distributed.from_first(self.stored_unlearning()) or self._unlearn(key)
        return stored

    def _unlearning_key(self) -> str:
        choice = self._settings.method
        assert choice.options is not None
        if self._unlearned_key:
            return self._unlearned_key
        self._unlearned_key = digest_of(
            {
                "version": UNLEARNING_VERSION,
                "model": self._key(self._start, None),
                "method": choice.name,
                "options": {name: str(value) for name, value in asdict(choice.options).items()},
                "texts": asdict(self._texts),
                "held_out": self._settings.held_out,
                "seed": self._settings.seed,
            }
        )
        return self._unlearned_key

    @functools.cached_property
    def _texts(self) -> TrainingTexts:
        choice = self._settings.method
        unseen = choice.options is not None and choice.options.stop == "unseen"
        return self._dataset.training_texts(
            *choice.alternates, unseen, choice.strangers, choice.carriers
        )

    def stored_unlearning(self) -> UnlearnedModel | None:
        """Return what unlearning made if the store has it; nothing is trained."""
        missing = self._settings.plant is not None and self.stored_planting() is None
        if self._before is not None:
            missing = missing or self._before.stored_unlearning() is None
        if self._settings.method.method is None or missing:
            return None
        key = self._unlearning_key()
        report = self._store.get("checkpoints", key, *names_of(UnlearnedModel, but="folder"))
        folder = self._store.folder("adapters", key)
        if report is None or folder is None:
            return None
        return UnlearnedModel(folder, **report)

    def stored_planting(self) -> Planting | None:
        """Return the planted model if the store has it; nothing is trained."""
        if self._settings.plant is None:
            return None
        return self._plantings.stored(self._original)

    def _unlearn(self, key: str) -> UnlearnedModel:
        from pytest_unlearn.unlearning import distributed
        from pytest_unlearn.unlearning.loop import unlearn
        from pytest_unlearn.unlearning.trainer import gathered, save_trained

        choice = self._settings.method
        assert choice.method is not None
        assert choice.options is not None
        weights = self._to_change(self._start)
        model: Any = weights.model
        saved = distributed.own_file(training_file(self._store, key))
        policy, report = unlearn(
            model,
            weights.tokenizer,
            self._texts,
            choice.method,
            choice.options,
            self._settings.seed,
            self._progress,
            saved,
            weights.lora_targets,
        )
        full = choice.options.tune == "full"
        state = gathered(policy)
        checkpoint: UnlearnedModel | None = None
        if distributed.number() == 0:
            folder = self._store.put_folder(
                "adapters",
                key,
                lambda path: save_trained(policy, weights.tokenizer, path, state),
            )
            if full:  # in one file or in several
                digest = ModelSource(self._start.name, folder).weights_digest(self._store)
            else:
                digest = self._store.digest_of_file(folder / WEIGHTS)
            moment = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            entry = {"full": full, "digest": digest, **asdict(report), "made": moment}
            # Written last: a run that is killed before trains again and does not trust half a
            # folder.
            self._store.put("checkpoints", key, entry)
            checkpoint = UnlearnedModel(folder, **entry)
        if not full and distributed.count() == 1:  # the base is unchanged: no need to load it again
            weights.model = policy
            self._loaded[self._files(self._start)] = weights
            self._adapted = True
        written = distributed.from_first(checkpoint)
        assert written is not None
        saved.unlink(missing_ok=True)
        return written


def _made(model: T | None, which: str) -> T:
    """Return a model that was made. Raises RuntimeError if `prepare` was not called before."""
    if model is None:
        raise RuntimeError(f"the {which} model is not made yet: call prepare() first")
    return model
