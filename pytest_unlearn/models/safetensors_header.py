"""The names and shapes in a safetensors file, without torch and without reading a weight."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

_POINTER = b"version https://git-lfs"


class HeaderError(ValueError):
    """A file is no safetensors file, or a part of one; the message names it."""


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a file by its name.

    Raises HeaderError, also for a file that is shorter than its header says.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        pointer = path.is_file() and _start_of(path) == _POINTER
        hint = "; this is a pointer of Git LFS: run `git lfs pull` in its folder" * pointer
        raise HeaderError(
            f"{path}: not a safetensors file, or not a whole one ({error}){hint}"
        ) from error


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_POINTER))
