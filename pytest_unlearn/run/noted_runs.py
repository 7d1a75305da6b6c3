"""What a run records in its store so that another machine can judge it: its models and its shards.

A key of the store holds digests of a model's files, device, dtype and library versions. A machine
that judges what another one generated may have none of them: no GPU, other builds of the libraries,
not even the model. So each run notes its models' keys under its flags and data, and
`--unlearn-replay` with the same flags and data takes them from there. A replay generates nothing,
so nothing can be mixed; reports name the models, devices and versions that were noted.

With `--unlearn-shard=3/8` a machine measures one part of a run. Chunks of cases are cut from the
whole data set, so all keys fit together. A shard judges nothing: it notes what it measured. `merge`
copies stores into one, and a bare `--unlearn-replay` judges that store as one run, once
`check_shards` has found every shard there, complete, of the same models, and measured only once.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.store import Store, digest_of
from pytest_unlearn.models.presets import presets
from pytest_unlearn.models.sources import ModelNotFoundError, ModelSource
from pytest_unlearn.run.models import ReplayError, UnlearnedModel
from pytest_unlearn.run.planted import Planting, names_of
from pytest_unlearn.run.provenance import provenance
from pytest_unlearn.run.settings import names_of_role

if TYPE_CHECKING:
    from pytest_unlearn.attacks.attack import Attack
    from pytest_unlearn.run.dataset import Dataset
    from pytest_unlearn.run.models import Completer, Models, State
    from pytest_unlearn.run.option_values import Shard
    from pytest_unlearn.run.settings import Settings


_RUNS = "runs"
_FIELDS = ("gates", "keys", "shards", "files", "checkpoint", "planting")
# The settings that name models.
_NAMES = ("model", "baseline", "retrained")
# An adapter's folder may be elsewhere on another machine, and trust does not change a model.
_SETTINGS = tuple(name for name in names_of_role("model") if name not in ("adapter", "trusted"))
# The files of a folder that can change what a model writes.
_FILES = frozenset((".safetensors", ".json", ".gguf", ".model", ".py"))


def _refuse(state: str) -> NoReturn:
    """Raise ReplayError, since the store does not have what is requested."""
    raise ReplayError(
        f"--unlearn-replay: something of the {state} model is not in the store; run once "
        "without it, with the same data and settings"
    )


class Recorded:
    """The models of an earlier run, as it noted them. None of them can be run."""

    def __init__(self, name: str, entry: dict[str, Any]) -> None:
        self._name = name
        self._entry = entry
        # The gates of that run, as they were written.
        self.gates: tuple[str, ...] = tuple(entry["gates"])

    def prepare(self, state: State) -> None:
        """The run that noted the models made everything."""

    def key(self, state: State) -> dict[str, Any]:
        """Return a model's key."""
        key: dict[str, Any] = self._entry["keys"][state]
        return key

    def resolve(self) -> None:
        """Do nothing, since nothing has to be found."""

    def release(self) -> None:
        """Do nothing, since nothing is loaded."""

    def stored_unlearning(self) -> UnlearnedModel | None:
        """Return what unlearning reported, or None; its folder may be on another machine."""
        noted = self._entry["checkpoint"]
        return UnlearnedModel(Path(), **noted) if noted else None

    def stored_planting(self) -> Planting | None:
        """Return what planting reported, or None."""
        noted = self._entry["planting"]
        return Planting(ModelSource(self._name, Path()), **noted) if noted else None

    def model(self, state: State) -> NoReturn:
        """Raise ReplayError, since the store does not have what is requested."""
        _refuse(state)

    def attacked(self, attack: Attack, of: State = "unlearned") -> NoReturn:
        """Raise ReplayError, since the store does not have what is requested."""
        _refuse(f"{of}+{attack.name}")


class Replayed:
    """Models of which only what the store has can be read."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def prepare(self, state: State) -> None:
        """Raise ReplayError if a model would have to be made."""
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
        """Do nothing, since nothing is loaded."""

    def model(self, state: State) -> Completer:
        """Raise ReplayError, since the store does not have what is requested."""
        _refuse(state)

    def attacked(self, attack: Attack, of: State = "unlearned") -> NoReturn:
        """Raise ReplayError, since the store does not have what is requested."""
        _refuse(f"{of}+{attack.name}")


def note_run(settings: Settings, dataset: Dataset, models: Models, missing: int = 0) -> None:
    """Note the models of a run that measured something; a later run with the same flags replaces
    it.

    `missing`: how many cases of a shard were not run.
    """
    store, shard = Store(settings.store, settings.replay), settings.shard
    states: list[State] = ["base", "unlearned"]
    if settings.retrained is not None:
        states.append("retrained")
    checkpoint, planting = models.stored_unlearning(), models.stored_planting()
    keys = {state: models.key(state) for state in states}
    if shard is not None:
        note_shard(store, _run_key(settings, dataset), shard, missing, keys)
    store.put(
        _RUNS,
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
    """Return the models of the last run with these flags and data, or None.

    Raises ModelNotFoundError if one of its models is on this machine and has changed, and UserError
    if it was run in shards and some of them are missing.
    """
    key = _run_key(settings, dataset)
    entry = store.get(_RUNS, key, *_FIELDS)
    if entry is None:
        return None
    if entry["shards"] is not None:
        check_shards(store, key, entry["shards"], entry["keys"])
    noted, here = entry["files"], _files(settings, store)
    for flag in noted.keys() & here.keys():
        if noted[flag] != here[flag]:
            raise ModelNotFoundError(
                f"{flag} names another model now than in the run that filled the store; run once "
                "without --unlearn-replay"
            )
    return Recorded(settings.model, entry)


def _run_key(settings: Settings, dataset: Dataset) -> str:
    facts = provenance(settings, dataset)
    adapter = settings.adapter.name if settings.adapter else None
    chosen = {name: facts["settings"][name] for name in _SETTINGS}
    data = [facts["data"]["records"], facts["data"]["tasks"]]
    return digest_of([chosen, adapter, data])


def _files(settings: Settings, store: Store) -> dict[str, str]:
    """Return a digest of each named model that is a file or folder here, by its flag."""
    named = [(name, getattr(settings, name)) for name in (*_NAMES, "adapter")]
    digests = {}
    for name, value in named:
        if value is not None:
            preset = presets().get(str(value))
            path = Path(preset.source if preset else value)
            if path.exists():
                digests[f"--unlearn-{name}={value}"] = _digest(path, store)
    return digests


def _digest(path: Path, store: Store) -> str:
    paths = sorted(path.iterdir()) if path.is_dir() else [path]
    return digest_of([[p.name, store.digest_of_file(p)] for p in paths if p.suffix in _FILES])


def _fields(report: UnlearnedModel | Planting | None, but: str) -> dict[str, Any] | None:
    if report is None:
        return None
    return {name: getattr(report, name) for name in names_of(type(report), but)}


# -- shards ----------------------------------------------------------------------------------

_SHARDS = "shards"
# Folders that belong to one machine; they are made again where they are missing.
_LOCAL = frozenset(("locks", "digests", "checked"))


def cases_of(shard: Shard, dataset: Dataset) -> frozenset[str]:
    """Return the ids of a shard's probes and tasks: those of every `count`th chunk."""
    chunks = list(dict.fromkeys(dataset.chunk_of_case.values()))
    return frozenset(c for chunk in chunks[shard.number - 1 :: shard.count] for c in chunk.cases)


def attacks_of(shard: Shard, attacks: Sequence[Attack]) -> tuple[Attack, ...]:
    """Return the attacks of a shard; each attack is made on one machine."""
    return tuple(attacks[shard.number - 1 :: shard.count])


def expected_cases(shard: Shard, dataset: Dataset, attacks: Sequence[Attack]) -> frozenset[str]:
    """Return the ids of all cases of a shard, those under attack included."""
    attacked = (
        f"{state}/{probe.id}"
        for attack in attacks_of(shard, attacks)
        for state in attack.states
        for probe in dataset.attacks.probes(attack, state)
    )
    return cases_of(shard, dataset).union(attacked)


def check_flags(settings: Settings) -> None:
    """Raise UserError for flags that need a verdict, which a shard does not have."""
    judging = settings.judging
    for flag, value in (
        ("--unlearn-replay", settings.replay),
        ("--unlearn-stop=curtail", judging.curtail),
        (f"--unlearn-save={judging.save}", judging.save),
        (f"--unlearn-compare={judging.compare}", judging.compare),
    ):
        if value and settings.shard is not None:
            raise UserError(
                f"{flag}: --unlearn-shard={settings.shard} measures a part and judges nothing; "
                "pass it when the merged stores are judged (--unlearn-replay without a shard)"
            )


def check_trained(settings: Settings, models: Models) -> None:
    """Raise UserError for a shard that would train: each shard would train another model."""
    if settings.shard is None:
        return
    trainings = [
        ("--unlearn-plant", settings.plant, models.stored_planting),
        (
            f"--unlearn-method={settings.method.name}",
            settings.method.method,
            models.stored_unlearning,
        ),
    ]
    for flag, asked, stored in trainings:
        if asked and stored() is None:
            raise UserError(
                f"{flag}: each shard would train a model of its own; run `python -m "
                "pytest_unlearn.train` with the same flags once, and give each machine a copy of "
                f"its store ({settings.store})"
            )


def note_shard(
    store: Store, run: str, shard: Shard, missing: int, keys: Mapping[Any, dict[str, Any]]
) -> None:
    """Note that a shard of a run was measured, except `missing` cases, with models of `keys`."""
    entry = {"missing": missing, "keys": dict(keys), "token": uuid.uuid4().hex}
    store.put(_SHARDS, _shard_key(run, shard.number, shard.count), entry)


def _shard_key(run: str, number: int, count: int) -> str:
    return digest_of([run, number, count])


def check_shards(store: Store, run: str, count: int, keys: Mapping[Any, dict[str, Any]]) -> None:
    """Raise UserError unless a store has all `count` shards of a run, complete and of these models.

    The message names the shards.
    """
    entries = {n: store.get(_SHARDS, _shard_key(run, n, count)) for n in range(1, count + 1)}
    missing = [f"{n}/{count}" for n, entry in entries.items() if entry is None]
    if missing:
        raise UserError(
            f"--unlearn-replay: of {count} shards {_counted(missing)} in this store: "
            f"{', '.join(missing)}; measure them (--unlearn-shard), and merge their stores with "
            "python -m pytest_unlearn.merge"
        )
    for number, entry in entries.items():
        assert entry is not None
        if entry["missing"]:
            raise UserError(
                f"--unlearn-replay: shard {number}/{count} is incomplete: "
                f"{entry['missing']} of its cases are missing; run it again with the same flags"
            )
        different = list(_differences(entry["keys"], dict(keys)))
        if different:
            raise UserError(
                f"--unlearn-replay: shard {number}/{count} measured other models than the others "
                f"({'; '.join(different)}): that is not the same run; measure it again on a "
                "machine like the others"
            )


def _counted(missing: Collection[str]) -> str:
    return "one is not" if len(missing) == 1 else f"{len(missing)} are not"


def _differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """Yield where two JSON values differ, as `base.libraries.torch: 2.13 and 2.14`."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            yield from _differences(one.get(name), other.get(name), f"{place}.{name}".strip("."))
    elif one != other:
        yield f"{place}: {one} and {other}"


def merge(into: Path, stores: Sequence[Path]) -> int:
    """Copy what is in some stores into another, which may be new; return how many entries are new.

    Raises UserError for a folder that is not a store, for different completions of the same key,
    and for a shard that two stores measured.
    """
    folders = (_SHARDS, "completions", "runs", "adapters")
    sources = []
    for path in stores:
        source = Store(path, replay=True)
        if not any((source.root / name).is_dir() for name in folders):
            raise UserError(
                f"{path}: not a store of --unlearn-store; name the folder of a shard's store"
            )
        sources.append(source)
    target, new = Store(into), 0
    for source in sources:
        if source.root.resolve() == target.root.resolve():
            raise UserError(f"{into}: would be merged into itself; put a new folder first")
        for folder in sorted(source.root.iterdir()):
            if folder.is_dir() and folder.name not in _LOCAL and not folder.name.startswith("."):
                new += _merged(source, folder.name, target)
    return new


def _merged(source: Store, namespace: str, target: Store) -> int:
    """Copy a namespace's entries and folders."""
    new = 0
    for child in sorted((source.root / namespace).iterdir()):
        if child.name.startswith(".") or not child.is_dir():
            continue
        if len(child.name) > 2:  # a folder under its key
            if source.folder(namespace, child.name) is None:
                raise UserError(
                    f"{child}: its files have changed since they were written; copy it again"
                )
            if target.folder(namespace, child.name) is None:
                target.put_folder(namespace, child.name, _copier(child))
                new += 1
            continue
        for file in sorted(child.glob("*.json")):
            entry, known = source.get(namespace, file.stem), target.get(namespace, file.stem)
            if entry is None:
                raise UserError(f"{file}: has changed since it was written; copy the store again")
            if known is None:
                target.put(namespace, file.stem, entry)
                new += 1
            elif known != entry:
                _refuse_conflict(namespace, source.root, known, entry)
    return new


def _refuse_conflict(namespace: str, root: Path, known: Any, entry: Any) -> None:
    """Raise UserError if two entries of a key cannot both be right.

    Scores may differ by rounding; the first ones count.
    """
    if namespace == _SHARDS:
        raise UserError(
            f"{root}: another of these stores has one of its shards too, from another run; merge "
            "only one of the two"
        )
    if namespace == "completions":
        raise UserError(
            f"{root}: one of its completions is a different text in another of these stores; a "
            "text that was measured twice, with different results, cannot count: measure the "
            "shard again"
        )
    if namespace == "runs":
        different = "; ".join(_differences(known, entry))
        raise UserError(f"{root}: belongs to another run than the stores before it ({different})")


def _copier(folder: Path) -> Callable[[Path], None]:
    def write(target: Path) -> None:
        shutil.copytree(folder, target, dirs_exist_ok=True)

    return write
