"""One run cut into parts for several machines: `--unlearn-shard=3/8`, and its stores put together.

Chunks of cases are cut from the whole data set, so that each machine can measure its own and all
keys fit. A shard judges nothing: it notes in its store what it measured. `merge` copies stores into
one, and a bare `--unlearn-replay` on that judges the whole as one run, once `check` has seen that
every shard is there, whole, of the same models, and that none was measured twice.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.store import Store, digest_of

if TYPE_CHECKING:
    from pytest_unlearn.attacks.attack import Attack
    from pytest_unlearn.run.dataset import Dataset
    from pytest_unlearn.run.models import Models
    from pytest_unlearn.run.option_values import Shard
    from pytest_unlearn.run.settings import Settings

_NAMESPACE = "shards"
# What is made anew where it is missing, and is of one machine.
_OWN = frozenset(("locks", "digests", "checked"))


def cases_of(shard: Shard, dataset: Dataset) -> frozenset[str]:
    """Return the probes and tasks of a part: of every `count`th chunk, in their order."""
    chunks = list(dict.fromkeys(dataset.chunk_of_case.values()))
    return frozenset(c for chunk in chunks[shard.number - 1 :: shard.count] for c in chunk.cases)


def attacks_of(shard: Shard, attacks: Sequence[Attack]) -> tuple[Attack, ...]:
    """Return the attacks of a part; an attack is made on one machine."""
    return tuple(attacks[shard.number - 1 :: shard.count])


def expected(shard: Shard, dataset: Dataset, attacks: Sequence[Attack]) -> frozenset[str]:
    """Return the ids of all cases of a part, those under attack among them."""
    attacked = (
        f"{state}/{probe.id}"
        for attack in attacks_of(shard, attacks)
        for state in attack.states
        for probe in dataset.attacked_probes(attack, state)
    )
    return cases_of(shard, dataset).union(attacked)


def check_flags(settings: Settings) -> None:
    """Raise UserError for flags that want a verdict of a part of a run."""
    judging = settings.judging
    for flag, given in (
        ("--unlearn-replay", settings.replay),
        ("--unlearn-stop=curtail", judging.curtail),
        (f"--unlearn-save={judging.save}", judging.save),
        (f"--unlearn-compare={judging.compare}", judging.compare),
    ):
        if given and settings.shard is not None:
            raise UserError(
                f"{flag}: --unlearn-shard={settings.shard} measures a part, and judges nothing; "
                "write it where the merged stores are judged (--unlearn-replay without a shard)"
            )


def check_trained(settings: Settings, models: Models) -> None:
    """Raise UserError for a shard that would train: others would train another model."""
    if settings.shard is None:
        return
    wanted = [
        ("--unlearn-plant", settings.plant, models.stored_planting),
        (
            f"--unlearn-method={settings.method.name}",
            settings.method.method,
            models.stored_unlearning,
        ),
    ]
    for flag, asked, stored in wanted:
        if asked and stored() is None:
            raise UserError(
                f"{flag}: each shard would train a model of its own; run `python -m "
                "pytest_unlearn.train` with the same flags once, and give each machine a copy of "
                f"its store ({settings.store})"
            )


def note(
    store: Store, run: str, shard: Shard, missing: int, keys: Mapping[Any, dict[str, Any]]
) -> None:
    """Note that a shard of a run was measured, but for `missing` cases, with models of `keys`."""
    entry = {"missing": missing, "keys": dict(keys), "token": uuid.uuid4().hex}
    store.put(_NAMESPACE, _key(run, shard.number, shard.count), entry)


def _key(run: str, number: int, count: int) -> str:
    return digest_of([run, number, count])


def check(store: Store, run: str, count: int, keys: Mapping[Any, dict[str, Any]]) -> None:
    """Raise UserError unless all `count` shards of a run are in a store, whole and of these models.

    The message names the shards.
    """
    found = {n: store.get(_NAMESPACE, _key(run, n, count)) for n in range(1, count + 1)}
    missing = [f"{n}/{count}" for n, entry in found.items() if entry is None]
    if missing:
        raise UserError(
            f"--unlearn-replay: of {count} shards {_counted(missing)} in this store: "
            f"{', '.join(missing)}; measure them (--unlearn-shard), and merge their stores by "
            "python -m pytest_unlearn.merge"
        )
    for number, entry in found.items():
        assert entry is not None
        if entry["missing"]:
            raise UserError(
                f"--unlearn-replay: shard {number}/{count} was not run to its end: "
                f"{entry['missing']} of its cases are missing; run it again with the same flags"
            )
        different = list(_differences(entry["keys"], dict(keys)))
        if different:
            raise UserError(
                f"--unlearn-replay: shard {number}/{count} measured other models than the others "
                f"({'; '.join(different)}): that is not one run; measure it again on a machine "
                "like the others'"
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

    Raises UserError for a folder that is no store, for completions of the same key that differ, and
    for a shard that two stores measured.
    """
    folders = (_NAMESPACE, "completions", "runs", "adapters")
    sources = []
    for path in stores:
        source = Store(path, replay=True)
        if not any((source.root / name).is_dir() for name in folders):
            raise UserError(f"{path}: no store of --unlearn-store; name the folder of a shard's")
        sources.append(source)
    target, new = Store(into), 0
    for source in sources:
        if source.root.resolve() == target.root.resolve():
            raise UserError(f"{into}: is merged into itself; name a new folder first")
        for folder in sorted(source.root.iterdir()):
            if folder.is_dir() and folder.name not in _OWN and not folder.name.startswith("."):
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
                raise UserError(f"{child}: its files are not as they were written; copy it again")
            if target.folder(namespace, child.name) is None:
                target.put_folder(namespace, child.name, _copier(child))
                new += 1
            continue
        for file in sorted(child.glob("*.json")):
            entry, known = source.get(namespace, file.stem), target.get(namespace, file.stem)
            if entry is None:
                raise UserError(f"{file}: is not as it was written; copy the store again")
            if known is None:
                target.put(namespace, file.stem, entry)
                new += 1
            elif known != entry:
                _refuse_conflict(namespace, source.root, known, entry)
    return new


def _refuse_conflict(namespace: str, root: Path, known: Any, entry: Any) -> None:
    """Raise UserError where two entries of a key cannot both be right; scores may differ by
    rounding, and the first ones count."""
    if namespace == _NAMESPACE:
        raise UserError(
            f"{root}: a shard of it is in another of these stores too, from another run; merge one "
            "of the two only"
        )
    if namespace == "completions":
        raise UserError(
            f"{root}: a completion of it is another text in another of these stores; what was "
            "measured twice, and differently, is no result: measure the shard again"
        )
    if namespace == "runs":
        different = "; ".join(_differences(known, entry))
        raise UserError(f"{root}: is of another run than the stores before it ({different})")


def _copier(folder: Path) -> Callable[[Path], None]:
    def write(target: Path) -> None:
        shutil.copytree(folder, target, dirs_exist_ok=True)

    return write
