"""PEFT adapter folders: what is in them, which model they belong to, and whether they fit it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pytest_unlearn.core.store import Store, digest_of
from pytest_unlearn.models.hub import ModelNotFoundError, cached_id, is_hub_id
from pytest_unlearn.models.safetensors_header import HeaderError, shapes_in

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter and no model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def check_adapter(folder: Path, flag: str) -> None:
    """Raise ModelNotFoundError for a folder that is no adapter with safetensors weights."""
    if not folder.is_dir():
        raise ModelNotFoundError(f"{flag}={folder}: no such folder")
    if not (folder / CONFIG).is_file():
        raise ModelNotFoundError(
            f"{flag}={folder}: no {CONFIG} in this folder; write the folder that PEFT's "
            "save_pretrained() made"
        )
    if not (folder / WEIGHTS).is_file():
        pickled = any(folder.glob("*.bin"))
        hint = "; pickled weights (*.bin) run code when loaded: save the adapter again" * pickled
        raise ModelNotFoundError(f"{flag}={folder}: no {WEIGHTS} in this folder{hint}")
    try:
        shapes_in(folder / WEIGHTS)
        if not isinstance(_config(folder), dict):
            raise ValueError(f"{folder / CONFIG}: not a JSON object")
    except ValueError as error:  # of either file
        raise ModelNotFoundError(f"{flag}={folder}: {error}") from error


def _config(folder: Path) -> Any:
    return json.loads((folder / CONFIG).read_text(encoding="utf-8"))


def base_of(folder: Path) -> str | None:
    """Return the base model that an adapter names: a hub id or a path."""
    name = _config(folder).get("base_model_name_or_path")
    return str(name) if name else None


def adapter_digest(folder: Path, store: Store) -> str:
    """Return a SHA-256 over an adapter's weights and configuration."""
    return digest_of([store.digest_of_file(folder / name) for name in (WEIGHTS, CONFIG)])


def check_base_name(folder: Path, hub_id: str | None, base: Path, flag: str) -> None:
    """Raise ModelNotFoundError where an adapter names another base than the one it is to go on.

    `hub_id` and `base` are that of the base and its folder. Only names that can be compared are: a
    path of another machine says nothing, and shapes decide.
    """
    named = base_of(folder)
    if named is None or Path(named).resolve() == base:
        return
    theirs = cached_id(Path(named)) or (named if is_hub_id(named) else None)
    if theirs is not None and hub_id is not None and theirs.casefold() != hub_id.casefold():
        raise ModelNotFoundError(
            f"{flag}={folder}: this adapter was trained on {theirs}, not on {hub_id}; write "
            f"--unlearn-model={theirs}"
        )


def check_shapes(folder: Path, weights: list[Path], name: str, flag: str) -> None:
    """Raise ModelNotFoundError where a LoRA adapter's matrices do not fit a model's weights.

    `weights`: the model's safetensors files; `name`: what it is called in the message. Where the
    model's files name their tensors in another way than the adapter, loading decides.
    """
    try:
        shapes = {key: shape for path in weights for key, shape in shapes_in(path).items()}
    except HeaderError as error:
        raise ModelNotFoundError(str(error)) from error
    wanted = _lora_shapes(folder)
    if not any(module in shapes for module in wanted):
        return
    for module, (rows, columns) in wanted.items():
        found = shapes.get(module)
        if found is None:
            raise ModelNotFoundError(
                f"{flag}={folder}: the adapter changes {module}, and {name} has no such weight; it "
                f"was trained on {base_of(folder) or 'another model'}"
            )
        if found not in ((rows, columns), (columns, rows)):  # GPT-2 keeps them transposed
            raise ModelNotFoundError(
                f"{flag}={folder}: the adapter is made for {module} of {rows} x {columns}, and "
                f"that of {name} is {' x '.join(map(str, found))}; it was trained on "
                f"{base_of(folder) or 'another model'}"
            )


def _lora_shapes(folder: Path) -> dict[str, tuple[int, int]]:
    """Return rows and columns of each weight that a LoRA adapter changes, by the weight's name."""
    shapes = shapes_in(folder / WEIGHTS)
    return {
        key.removeprefix(_PREFIX).replace(".lora_A.", "."): (
            shapes[key.replace(".lora_A.", ".lora_B.")][0],
            shape[1],
        )
        for key, shape in shapes.items()
        if ".lora_A." in key
    }
