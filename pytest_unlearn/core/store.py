"""The content-addressed store: completions, checkpoints and file digests on disk.

A key is a SHA-256 over everything that can change a result, so an entry never goes stale; a
change of anything makes a new key. Writes are atomic (a killed run leaves whole entries or none),
work is claimed by file locks (two workers never do the same thing twice), and only the owner can
read it, because completions may hold personal data.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from pytest_unlearn.core.text_files import replacing


def digest_of(value: Any) -> str:
    """Return the SHA-256 of a JSON-serialisable value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Store:
    """A folder of entries; see the module's docstring.

    Entries are JSON objects under a namespace (`completions`, `checkpoints`, `digests`) or whole
    folders (an adapter's files). OSError when the folder cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root.chmod(0o700)

    def _path(self, namespace: str, key: str) -> Path:
        return self.root / namespace / key[:2] / f"{key}.json"

    def get(self, namespace: str, key: str) -> dict[str, Any] | None:
        """Return an entry, or None when there is none or it cannot be read as JSON."""
        try:
            entry = json.loads(self._path(namespace, key).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return entry if isinstance(entry, dict) else None

    def put(self, namespace: str, key: str, entry: dict[str, Any]) -> None:
        """Write an entry; a reader sees the old one, the new one, or none, never half of it."""
        path = self._path(namespace, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("w", encoding="ascii") as file:
            json.dump(entry, file)

    def folder(self, namespace: str, key: str) -> Path | None:
        """Return the folder stored under a key, or None."""
        path = self.root / namespace / key
        return path if path.is_dir() else None

    def put_folder(self, namespace: str, key: str, write: Callable[[Path], None]) -> Path:
        """Let `write(folder)` fill a new folder and move it into place when it is complete."""
        target = self.root / namespace / key
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=".writing-"))
        try:
            write(scratch)
            if target.exists():  # left by a run that was killed before it noted the folder
                shutil.rmtree(target)
            scratch.rename(target)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        return target

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Hold the lock of a piece of work; a second process waits here until it is done."""
        locks = self.root / "locks"
        locks.mkdir(exist_ok=True)
        with FileLock(locks / f"{key}.lock"):
            yield

    def digest_of_file(self, path: Path) -> str:
        """Return a file's SHA-256, remembered by path, size and time of change."""
        stat = path.stat()
        key = digest_of([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
        known = self.get("digests", key)
        if known is None:
            known = {"sha256": file_sha256(path)}
            self.put("digests", key, known)
        return str(known["sha256"])
