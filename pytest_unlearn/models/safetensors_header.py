"""The names and shapes in a safetensors file, without torch and without reading a weight.

The format: eight bytes give the length of a JSON object that follows
(https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
from pathlib import Path

# The reference implementation refuses longer headers too.
_LONGEST = 100_000_000


class HeaderError(ValueError):
    """A file is no safetensors file; the message names it."""


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a file by its name. Raises HeaderError."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _LONGEST:
                raise ValueError("the header is too long")
            header = json.loads(file.read(length))
        return {
            str(name): tuple(map(int, entry["shape"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HeaderError(f"{path}: not a safetensors file ({error})") from error
