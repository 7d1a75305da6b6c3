"""What goes wrong in training, and the one place that words a full disk."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path


class UnlearningError(RuntimeError):
    """Training went wrong (NaN, collapse, an adapter that did not move); the message advises."""


# How a write says that there is no room: by number, or, from safetensors' Rust, in words.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_WORDS = ("No space left", "File too large", "quota exceeded")


@contextlib.contextmanager
def room_for(what: str, folder: Path) -> Iterator[None]:
    """Turn a disk that fills while `what` is written below `folder` into an UnlearningError.

    The writers themselves leave nothing half-written: each works beside its target and renames.
    """
    try:
        yield
    except Exception as error:  # safetensors raises a type of its own
        full = getattr(error, "errno", None) in _FULL or any(w in str(error) for w in _FULL_WORDS)
        if not full:
            raise
        raise UnlearningError(
            f"no room for {what}: the disk of {folder} is full. Nothing half-written is left, and "
            "what was stored before is whole. Free some space or give --unlearn-store=DIR on "
            "another disk, and run again: training goes on from its last look"
        ) from error
