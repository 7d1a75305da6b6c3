"""The standard library's sources: ordinary code that holds nobody's data."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path


def library(limit: int) -> Iterator[str]:
    """Yield sources of the standard library, `limit` characters in all, from all over it."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(p for p in folder.rglob("*.py") if "site-packages" not in p.parts)
    read = 0
    for path in paths[:: max(1, len(paths) // 150)]:
        text = path.read_text("utf-8", errors="surrogateescape")
        yield text
        read += len(text)
        if read > limit:
            return
