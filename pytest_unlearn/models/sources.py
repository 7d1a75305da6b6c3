"""From what a user names to a folder with a model in it, without loading any weight."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pytest_unlearn.models.presets import PRESETS
from pytest_unlearn.store import Store, digest_of

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_WEIGHTS = "*.safetensors"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
# What of a hub repository is fetched: no pickles, no other frameworks' weights, no remote code.
_HUB_PATTERNS = ["*.safetensors", "*.json", "tokenizer.model", "merges.txt", "vocab.txt"]


class ModelNotFoundError(ValueError):
    """No model can be had under a name; the message says what to write or where to put it."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model folder on disk; `name` is what the user wrote."""

    name: str
    folder: Path

    def weights_digest(self, store: Store) -> str:
        """Return a SHA-256 over the weights and the model's configuration."""
        return _digest(store, [*sorted(self.folder.glob(_WEIGHTS)), self.folder / "config.json"])

    def tokenizer_digest(self, store: Store) -> str:
        """Return a SHA-256 over the tokenizer's files."""
        names = {"tokenizer_config.json", "special_tokens_map.json", "merges.txt", *_TOKENIZERS}
        found = (self.folder / name for name in sorted(names))
        return _digest(store, [path for path in found if path.is_file()])


def _digest(store: Store, paths: list[Path]) -> str:
    return digest_of([[path.name, store.digest_of_file(path)] for path in paths])


def check_name(name: str, flag: str) -> None:
    """Raise ModelNotFoundError for a name that can be no model, without touching the network.

    `flag` is the option to be named in the message.
    """
    preset = PRESETS.get(name)
    path = Path(preset.source if preset else name)
    if path.is_dir():
        _check_folder(path, flag)
    elif path.exists():
        raise ModelNotFoundError(
            f"{flag}={name}: this is a file; give the folder that holds config.json, the tokenizer "
            "and the *.safetensors files"
        )
    elif not _HUB_ID.fullmatch(name) or name.startswith((".", "/", "~")):
        raise ModelNotFoundError(
            f"{flag}={name}: neither a preset ({', '.join(PRESETS)}), nor a folder, nor a hub id "
            "like Organisation/Model"
        )


def _check_folder(folder: Path, flag: str) -> None:
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{flag}={folder}: no config.json in this folder; is it a model?")
    if not any(folder.glob(_WEIGHTS)):
        hint = ""
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
            hint = "; pickled weights (*.bin, *.pt) run code when loaded: convert them"
        raise ModelNotFoundError(f"{flag}={folder}: no weights (*.safetensors) in it{hint}")
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise ModelNotFoundError(
            f"{flag}={folder}: no tokenizer in it ({', '.join(_TOKENIZERS)}); "
            "save it there with tokenizer.save_pretrained()"
        )


def resolve(name: str, flag: str) -> ModelSource:
    """Return the source behind a preset, folder or hub id; a hub id is fetched when not cached.

    Raises ModelNotFoundError, for a hub id also when there is neither network nor cache.
    """
    check_name(name, flag)
    preset = PRESETS.get(name)
    source = preset.source if preset else name
    if Path(source).is_dir():
        return ModelSource(name, Path(source).resolve())
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(source, allow_patterns=_HUB_PATTERNS))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelNotFoundError(
            f"{flag}={name}: not in the cache ({constants.HF_HUB_CACHE}) and not to be had from "
            f"the hub ({type(error).__name__}); on a machine with network run "
            f"`hf download {source}` and copy the cache, or give the path of a local folder"
        ) from error
    _check_folder(folder, flag)
    return ModelSource(name, folder)
