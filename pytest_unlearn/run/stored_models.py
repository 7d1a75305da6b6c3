"""What a run notes about its models in the store, so that `--unlearn-replay` works elsewhere.

A key of the store holds digests of a model's files, device, dtype and library versions. A machine
that judges what another one generated may have none of them: no GPU, other builds of the libraries,
not even the model. So each run notes its models' keys under its flags and data, and a replay with
the same flags and data takes them from there. Nothing is generated in a replay, so nothing can be
mixed; reports name the models, devices and versions as they were noted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_unlearn.core.store import Store, digest_of
from pytest_unlearn.models.presets import presets
from pytest_unlearn.models.sources import ModelNotFoundError, ModelSource
from pytest_unlearn.run import shards
from pytest_unlearn.run.models import ReplayError, UnlearnedModel
from pytest_unlearn.run.planted import Planting, names_of
from pytest_unlearn.run.provenance import provenance
from pytest_unlearn.run.settings import names_of_role

if TYPE_CHECKING:
    from pytest_unlearn.attacks.attack import Attack
    from pytest_unlearn.run.dataset import Dataset
    from pytest_unlearn.run.models import Completer, Models, State
    from pytest_unlearn.run.settings import Settings

_NAMESPACE = "runs"
_FIELDS = ("gates", "keys", "shards", "files", "checkpoint", "planting")
# What makes the models of a run, besides its data.
_NAMES = ("model", "baseline", "retrained")
# An adapter's folder may be elsewhere on another machine; whom one trusts makes no model.
_SETTINGS = tuple(name for name in names_of_role("model") if name not in ("adapter", "trusted"))
# The files of a folder that can change what a model writes.
_FILES = frozenset((".safetensors", ".json", ".gguf", ".model", ".py"))


def _refuse(state: str) -> NoReturn:
    """Raise ReplayError: something is asked for that the store does not have."""
    raise ReplayError(
        f"--unlearn-replay: something of the {state} model is not in the store; run once "
        "without it, with the same data and settings"
    )


class Recorded:
    """The models of an earlier run as it noted them; none of them can be run."""

    def __init__(self, name: str, entry: dict[str, Any]) -> None:
        self._name = name
        self._entry = entry
        # The gates of that run, as they were written.
        self.gates: tuple[str, ...] = tuple(entry["gates"])

    def prepare(self, state: State) -> None:
        """Everything was made by the run that noted it."""

    def key(self, state: State) -> dict[str, Any]:
        """Return a model's key."""
        key: dict[str, Any] = self._entry["keys"][state]
        return key

    def resolve(self) -> None:
        """Nothing has to be found."""

    def release(self) -> None:
        """Nothing is loaded."""

    def stored_unlearning(self) -> UnlearnedModel | None:
        """Return what unlearning reported, or None; its folder may be on another machine."""
        noted = self._entry["checkpoint"]
        return UnlearnedModel(Path(), **noted) if noted else None

    def stored_planting(self) -> Planting | None:
        """Return what planting reported, or None."""
        noted = self._entry["planting"]
        return Planting(ModelSource(self._name, Path()), **noted) if noted else None

    def model(self, state: State) -> NoReturn:
        """Raise ReplayError: something is asked for that the store does not have."""
        _refuse(state)

    def attacked(self, attack: Attack, of: State = "unlearned") -> NoReturn:
        """Raise ReplayError: something is asked for that the store does not have."""
        _refuse(f"{of}+{attack.name}")


class Replayed:
    """The models of an earlier run, of which only what the store has can be read."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def prepare(self, state: State) -> None:
        """Raise ReplayError where a model would have to be made."""
        self._models.prepare(state)

    def key(self, state: State) -> dict[str, Any]:
        """Return a model's key."""
        return self._models.key(state)

    def resolve(self) -> None:
        """Find the models, whose files are in the keys."""
        self._models.resolve()

    def stored_unlearning(self) -> UnlearnedModel | None:
        """Return what unlearning reported, or None."""
        return self._models.stored_unlearning()

    def stored_planting(self) -> Planting | None:
        """Return what planting reported, or None."""
        return self._models.stored_planting()

    def release(self) -> None:
        """Nothing is loaded."""

    def model(self, state: State) -> Completer:
        """Raise ReplayError: something is asked for that the store does not have."""
        _refuse(state)

    def attacked(self, attack: Attack, of: State = "unlearned") -> NoReturn:
        """Raise ReplayError: something is asked for that the store does not have."""
        _refuse(f"{of}+{attack.name}")


def note(settings: Settings, dataset: Dataset, models: Models, missing: int = 0) -> None:
    """Note the models of a run that measured something; a later run with the same flags counts.

    `missing`: of a shard, how many of its cases were not run.
    """
    store, shard = Store(settings.store, settings.replay), settings.shard
    states: list[State] = ["base", "unlearned"]
    if settings.retrained is not None:
        states.append("retrained")
    checkpoint, planting = models.stored_unlearning(), models.stored_planting()
    keys = {state: models.key(state) for state in states}
    if shard is not None:
        shards.note(store, _run_key(settings, dataset), shard, missing, keys)
    store.put(
        _NAMESPACE,
        _run_key(settings, dataset),
        {
            "gates": [gate.text for gate in settings.judging.gates],
            "keys": keys,
            "shards": shard.count if shard else None,
            "files": _files(settings, store),
            "checkpoint": _fields(checkpoint, but="folder"),
            "planting": _fields(planting, but="source"),
        },
    )


def recorded(settings: Settings, dataset: Dataset, store: Store) -> Recorded | None:
    """Return the models of the last run with these flags and data, or None where there was none.

    Raises ModelNotFoundError where a model of it is on this machine, and is another one now, and
    UserError where it was run in shards that are not all there.
    """
    key = _run_key(settings, dataset)
    entry = store.get(_NAMESPACE, key, *_FIELDS)
    if entry is None:
        return None
    if entry["shards"] is not None:
        shards.check(store, key, entry["shards"], entry["keys"])
    noted, here = entry["files"], _files(settings, store)
    for flag in noted.keys() & here.keys():
        if noted[flag] != here[flag]:
            raise ModelNotFoundError(
                f"{flag} names another model now than in the run that filled the store; run once "
                "without --unlearn-replay"
            )
    return Recorded(settings.model, entry)


def _run_key(settings: Settings, dataset: Dataset) -> str:
    made = provenance(settings, dataset)
    adapter = settings.adapter.name if settings.adapter else None
    chosen = {name: made["settings"][name] for name in _SETTINGS}
    data = [made["data"]["records"], made["data"]["tasks"]]
    return digest_of([chosen, adapter, data])


def _files(settings: Settings, store: Store) -> dict[str, str]:
    """Return a digest of each named model that is a file or folder here, by its flag."""
    named = [(name, getattr(settings, name)) for name in (*_NAMES, "adapter")]
    found = {}
    for name, value in named:
        if value is not None:
            preset = presets().get(str(value))
            path = Path(preset.source if preset else value)
            if path.exists():
                found[f"--unlearn-{name}={value}"] = _digest(path, store)
    return found


def _digest(path: Path, store: Store) -> str:
    paths = sorted(path.iterdir()) if path.is_dir() else [path]
    return digest_of([[p.name, store.digest_of_file(p)] for p in paths if p.suffix in _FILES])


def _fields(report: UnlearnedModel | Planting | None, but: str) -> dict[str, Any] | None:
    if report is None:
        return None
    return {name: getattr(report, name) for name in names_of(type(report), but)}
