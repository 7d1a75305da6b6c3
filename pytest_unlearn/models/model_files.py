"""Files of models: folders, fetched from the hub or its cache without loading a weight; PEFT
adapter folders (what is in them, which model they belong to, whether they fit it); and GGUF files.

Only the head of a GGUF file is read to check that the file is complete: the package `gguf` takes
seconds to read one of 100 MB.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.store import Store, digest_of

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_CACHED = re.compile(r"models--(.+?)--(.+)")
# The files of a repository that are fetched: no pickles, no other frameworks' weights, no code.
_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]
# The same weights again, in the format of the model's authors or for another runtime.
_IGNORED = ["*/*.safetensors", "*/*.json", "consolidated*"]


class ModelNotFoundError(UserError):
    """There is no model under a name; the message says what to write, or where to put the model."""


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form `Organisation/Model`."""
    return _HUB_ID.fullmatch(name) is not None


def cached_id(folder: Path) -> str | None:
    """Return the hub id whose cache a folder lies in, or None."""
    for part in folder.parts:
        if match := _CACHED.fullmatch(part):
            return f"{match[1]}/{match[2]}"
    return None


def fetch(hub_id: str, revision: str, code: bool, flag: str) -> Path:
    """Return the folder of a hub id in the cache, fetching what is missing.

    `code`: also fetch Python files. Messages begin with `flag`. Raises ModelNotFoundError.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns = [*_PATTERNS, "*.py"] if code else _PATTERNS
    try:
        return Path(
            snapshot_download(
                hub_id, revision=revision, allow_patterns=patterns, ignore_patterns=_IGNORED
            )
        )
    except RevisionNotFoundError as error:
        raise ModelNotFoundError(
            f"{flag}: the hub has no revision {revision!r} of {hub_id}; write a branch, tag or "
            "commit of it (--unlearn-revision)"
        ) from error
    except GatedRepoError as error:
        raise ModelNotFoundError(
            f"{flag}: the hub provides {hub_id} only to users who accepted its terms; accept them "
            f"on https://huggingface.co/{hub_id} and run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"{flag}: the hub has no model {hub_id}, or it is private; check the name, or run "
            "`hf auth login`"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        cache = constants.HF_HUB_CACHE
        folder = Path(cache) / f"models--{hub_id.replace('/', '--')}" / "snapshots" / revision
        raise ModelNotFoundError(
            f"{flag}: not in the cache ({cache}) and not available from the hub "
            f"({type(error).__name__}); on a machine with network run `hf download {hub_id} "
            f"--revision {revision}` and copy its cache here, so that the files are in {folder}; "
            "or name another cache by HF_HUB_CACHE, set HF_HUB_OFFLINE=0 if there is network, "
            "or give the path of a local folder"
        ) from error


CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "embed_in.weight",
    "word_embeddings.weight",
    *(f".{head}" for head in _HEADS),
)
# The files of a tokenizer; any of the first three is a complete tokenizer.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
TOKENIZER_FILES = {
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "vocab.txt",
    *TOKENIZERS,
}
# Files of a tokenizer whose names its class or its author chooses.
TOKENIZER_PATTERNS = ("*.model", "*.txt", "*.jinja", "additional_chat_templates/*.jinja")
# Adapter types that are virtual tokens before the prompt. PEFT's generate() counts the positions of
# a padded batch without them, and writes other text than a forward pass predicts.
_PROMPT_LEARNING = frozenset(
    (
        "ADAPTION_PROMPT",
        "CARTRIDGE",
        "CPT",
        "MULTITASK_PROMPT_TUNING",
        "PREFIX_TUNING",
        "PROMPT_TUNING",
        "P_TUNING",
    )
)


def is_adapter(folder: Path) -> bool:
    """Return whether a folder has an adapter and no model."""
    return holds_adapter(folder) and not (folder / "config.json").is_file()


def holds_adapter(folder: Path) -> bool:
    """Return whether a folder has an adapter, alone or next to a model."""
    return (folder / CONFIG).is_file()


def adapter_below(folder: Path) -> Path | None:
    """Return the folder inside `folder` that has an adapter: PEFT saves adapters by name, and
    training saves checkpoints."""
    return newest([path.parent for path in folder.glob(f"*/{CONFIG}")])


def newest(folders: Sequence[Path]) -> Path | None:
    """Return the last of some folders by the number at the end of their names, as in
    `checkpoint-200`; None if there are none."""

    def place(folder: Path) -> tuple[int, str]:
        number = re.search(r"\d+$", folder.name)
        return (int(number[0]) if number else -1, folder.name)

    return max(folders, key=place, default=None)


def check_adapter(folder: Path, flag: str) -> None:
    """Raise ModelNotFoundError for a folder that is not an adapter with safetensors weights."""
    if not folder.is_dir():
        raise ModelNotFoundError(f"{flag}={folder}: no such folder")
    if not holds_adapter(folder):
        below = adapter_below(folder)
        advice = f"{flag}={below}" if below else "the folder that PEFT's save_pretrained() made"
        raise ModelNotFoundError(f"{flag}={folder}: no {CONFIG} in this folder; write {advice}")
    if not (folder / WEIGHTS).is_file():
        pickled = any(folder.glob("*.bin"))
        hint = "; pickled weights (*.bin) run code when loaded: save the adapter again" * pickled
        raise ModelNotFoundError(f"{flag}={folder}: no {WEIGHTS} in this folder{hint}")
    try:
        shapes_in(folder / WEIGHTS)
        config = _config(folder)
    except ValueError as error:  # of either file
        raise ModelNotFoundError(f"{flag}={folder}: {error}") from error
    kind = config.get("peft_type")
    if not isinstance(kind, str):
        raise ModelNotFoundError(
            f"{flag}={folder}: {CONFIG} names no peft_type; write the folder that PEFT's "
            "save_pretrained() made"
        )
    if kind in _PROMPT_LEARNING:
        raise ModelNotFoundError(
            f"{flag}={folder}: adapters of the kind {kind} cannot be tested: with one, PEFT "
            "writes different text for a padded batch than the model predicts, which could hide "
            "a leak; train an adapter that changes weights (LoRA)"
        )
    if _is_off(config):
        raise ModelNotFoundError(
            f"{flag}={folder}: {CONFIG} scales the adapter, or a part of it, to nothing "
            "(lora_alpha): the model would be tested without it, while correcting one number "
            "would restore it; write the lora_alpha that it was trained with"
        )
    if (start := _start(config)).startswith(_LOST):
        raise ModelNotFoundError(
            f"{flag}={folder}: its initial values ({start}) were subtracted from the base, and "
            "PEFT cannot compute the same ones again: another model than the trained one would be "
            "tested; save it with PEFT's path_initial_model_for_weight_conversion"
        )
    if config.get("layer_replication"):
        raise ModelNotFoundError(
            f"{flag}={folder}: {CONFIG} repeats layers of the base (layer_replication), so the "
            "model with the adapter switched off is not the base; train an adapter without it"
        )


# Initial values (init_lora_weights) that PEFT subtracts from the base's weights, also when it loads
# an adapter.
_SUBTRACTED = ("pissa", "olora", "loftq")
# Those that it cannot compute again, since they come from random numbers or from data.
_LOST = ("pissa_niter", "corda", "lora_ga")


def _start(config: Mapping[str, Any]) -> str:
    """Return the name of an adapter's initial values; empty for the usual ones."""
    start = config.get("init_lora_weights")
    return start.lower() if isinstance(start, str) else ""


# An adapter scaled by less than this changes nothing that a test could see.
_LEAST_SCALE = 1e-3


def _is_off(config: Mapping[str, Any]) -> bool:
    """Return whether an adapter's scale, alpha by rank, is next to 0 for some of its matrices."""
    rank, patterns = config.get("r") or 1, config.get("alpha_pattern") or {}
    scales = [config.get("lora_alpha", config.get("alpha")), *dict(patterns).values()]
    numbers = [scale for scale in scales if isinstance(scale, int | float)]
    return any(not abs(scale) >= _LEAST_SCALE * rank for scale in numbers)  # also NaN


def json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises ValueError, which names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name}: not a JSON object")
    return content


def quantization_of(folder: Path) -> str | None:
    """Return how the weights of a model's folder are quantized (`gptq`, `bitsandbytes`, ...), from
    its configuration; None if they are plain numbers. Raises ValueError."""
    config = json_object(folder / "config.json")
    inside = config.get("text_config")
    given = config.get("quantization_config") or config.get("compression_config")
    given = given or (inside.get("quantization_config") if isinstance(inside, dict) else None)
    if not given:
        return None
    method = given.get("quant_method") if isinstance(given, dict) else None
    if (
        isinstance(given, dict)
        and method is None
        and (given.get("load_in_4bit") or given.get("load_in_8bit"))
    ):
        return "bitsandbytes"  # as written before the method had a name
    if not isinstance(method, str) or not method:
        raise ValueError(
            f"config.json: quantization_config names no method ({given!r}); write "
            '"quant_method", such as "gptq" or "bitsandbytes", or take the key out where the '
            "weights are not quantized"
        )
    return method


def _config(folder: Path) -> dict[str, Any]:
    return json_object(folder / CONFIG)


def own_tokenizer(folder: Path) -> bool:
    """Return whether an adapter's folder has a tokenizer, which replaces the base's."""
    return any((folder / name).is_file() for name in TOKENIZERS)


def stands_apart(folder: Path) -> bool:
    """Return whether switching an adapter off does not restore the base.

    PEFT leaves trained biases and whole embeddings in place, and embeddings that were resized for
    the adapter's own tokenizer, and that tokenizer differs from the base's. It also leaves the base
    without the initial values that it subtracted (PiSSA, OLoRA, LoftQ).
    """
    config = _config(folder)
    replaced = any(name.endswith(_EMBEDDINGS) for name in shapes_in(folder / WEIGHTS))
    changed = config.get("bias", "none") != "none" or _start(config).startswith(_SUBTRACTED)
    return replaced or changed or own_tokenizer(folder)


def base_of(folder: Path) -> str | None:
    """Return the base model that an adapter names: a hub id or a path. Raises ValueError."""
    name = _config(folder).get("base_model_name_or_path")
    return str(name) if name else None


def base_revision(folder: Path) -> str | None:
    """Return the hub revision of the base that an adapter names, if any."""
    name = _config(folder).get("revision")
    return str(name) if name else None


def adapter_digest(folder: Path, store: Store) -> str:
    """Return a SHA-256 over an adapter's weights, configuration and tokenizer."""
    names = [WEIGHTS, CONFIG, *sorted(TOKENIZER_FILES)]
    paths = [folder / name for name in names]
    files = [path for path in paths if path.is_file()]
    return digest_of([[path.name, store.digest_of_file(path)] for path in files])


def check_base_name(folder: Path, hub_id: str | None, base: Path, flag: str) -> None:
    """Raise ModelNotFoundError if an adapter names another base than this one.

    `hub_id` and `base` are the id and the folder of this base. Only comparable names are checked: a
    path on another machine says nothing, and then the shapes decide.
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
    """Raise ModelNotFoundError if a LoRA adapter's matrices do not fit a model's weights.

    `weights`: the model's safetensors files; `name`: the model's name in the message. If the
    model's files name their tensors differently from the adapter, loading decides.
    """
    try:
        shapes = {key: shape for path in weights for key, shape in shapes_in(path).items()}
    except HeaderError as error:
        raise ModelNotFoundError(f"{flag}={folder}: its base {name}: {error}") from error
    expected = _lora_shapes(folder)
    if not any(module in shapes for module in expected):
        return
    for module, (rows, columns) in expected.items():
        own_shape = shapes.get(module)
        if module in _HEADS and (own_shape is None or own_tokenizer(folder)):
            continue  # tied to the embedding, or resized for the adapter's tokenizer
        if own_shape is None:
            raise ModelNotFoundError(
                f"{flag}={folder}: the adapter changes {module}, and {name} has no such weight; it "
                f"was trained on {base_of(folder) or 'another model'}"
            )
        if own_shape not in ((rows, columns), (columns, rows)):  # GPT-2 keeps them transposed
            raise ModelNotFoundError(
                f"{flag}={folder}: the adapter is made for {module} of {rows} x {columns}, and "
                f"that of {name} is {' x '.join(map(str, own_shape))}; it was trained on "
                f"{base_of(folder) or 'another model'}"
            )


def _lora_shapes(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the shape of each weight that a LoRA adapter changes, by the weight's name."""
    shapes = shapes_in(folder / WEIGHTS)
    return {
        key.removeprefix(_PREFIX).replace(".lora_A.", "."): (other[0], shape[1])
        for key, shape in shapes.items()
        if ".lora_A." in key
        and len(shape) == 2
        and (other := shapes.get(key.replace(".lora_A.", ".lora_B.")))
    }


_POINTER = b"version https://git-lfs"


class HeaderError(ValueError):
    """A file is not a safetensors file, or only part of one; the message names it."""


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in a file, by name.

    Raises HeaderError, also for a file that is shorter than its header says.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        pointer = path.is_file() and _start_of(path) == _POINTER
        hint = "; this is a pointer of Git LFS: run `git lfs pull` in its folder" * pointer
        raise HeaderError(
            f"{path}: not a safetensors file, or an incomplete one ({error}){hint}"
        ) from error


def codes_in(path: Path) -> str | None:
    """Return the name of a matrix of integers in a safetensors file; None if there is none."""
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118
            part = file.get_slice(name)
            is_matrix = name.endswith(".weight") and len(part.get_shape()) > 1
            if is_matrix and part.get_dtype().startswith(("I", "U")):
                return str(name)
    return None


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_POINTER))


# The bytes of a value's numbers, by the format's type; strings (8) and arrays (9) give their
# length.
_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32
_MOST_SIDES = 8


def is_whole_gguf(path: Path) -> bool:
    """Return whether a GGUF file is as long as its head says (format version 2 or 3).

    It is False for a head that cannot be read.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        with path.open("rb") as file:
            file.seek(8)  # the magic, the version
            tensors, values = _numbers(file, "QQ")
            alignment = _ALIGNMENT
            for _ in range(values):
                if (value := _value(file)) is not None:
                    alignment = value
            end = 0
            for _ in range(tensors):
                _text(file)
                (sides,) = _numbers(file, "I")
                if sides > _MOST_SIDES:
                    return False
                shape = _numbers(file, "Q" * sides)
                kind, offset = _numbers(file, "IQ")
                block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
                end = max(end, offset + math.prod(shape) // block * size)
            start = -(-file.tell() // alignment) * alignment
    except (KeyError, MemoryError, OverflowError, ValueError, struct.error):
        return False
    return path.stat().st_size >= start + end


def _value(file: BinaryIO) -> int | None:
    """Read past a name and its value; return the value if it is the file's alignment."""
    name = _text(file)
    (kind,) = _numbers(file, "I")
    if name == b"general.alignment":
        return int(_numbers(file, "I")[0])
    _skip(file, kind)
    return None


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        _text(file)
    elif kind == _ARRAY:
        (inner,) = _numbers(file, "I")
        (count,) = _numbers(file, "Q")
        if inner in _BYTES:
            file.seek(count * _BYTES[inner], 1)
        else:
            for _ in range(count):
                _skip(file, inner)
    else:
        file.seek(_BYTES[kind], 1)


def _text(file: BinaryIO) -> bytes:
    (length,) = _numbers(file, "Q")
    return file.read(length)


def _numbers(file: BinaryIO, form: str) -> tuple[int, ...]:
    """Read little-endian numbers. Raises struct.error at the file's end."""
    form = "<" + form
    return struct.unpack(form, file.read(struct.calcsize(form)))
