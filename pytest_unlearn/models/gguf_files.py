"""Whether a GGUF file is there to its end, from its head alone: the package `gguf` takes seconds to
read one of 100 MB."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

# Bytes of the numbers that a value is made of, by the format's type; of a string (8) and an array
# (9) the length says.
_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32
_MOST_SIDES = 8


def is_whole_gguf(path: Path) -> bool:
    """Tell whether a GGUF file is as long as its head says (format version 2 or 3).

    False also for a head that cannot be read.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        with path.open("rb") as file:
            file.seek(8)  # the magic, the version
            tensors, values = _numbers(file, "QQ")
            alignment = _ALIGNMENT
            for _ in range(values):
                if (found := _value(file)) is not None:
                    alignment = found
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
    """Read past a name and its value; return the value where it is the file's alignment."""
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
