"""The content-addressed store: completions, scores, checkpoints and file digests on disk.

A key is a SHA-256 over everything that can change a result, so entries never go stale: any change
makes a new key. Entries are checked when they are read: one that was damaged, or that another
version of this package wrote, counts as missing and is made again. Writes are atomic (a killed run
leaves complete entries or none), file locks claim work (two workers never do the same thing), and
only the owner can read the store, because completions may hold personal data.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from pytest_unlearn.core.errors import UserError, room_for
from pytest_unlearn.core.text_files import held, replacing, sweep

# Increase when a change to this package changes what entries look like.
FORMAT = 1
# Marks a folder as our store (https://bford.info/cachedir): backups skip it, and its content may be
# made private. Not a hidden file, because CI drops hidden files from artifacts.
_MARKER = "CACHEDIR.TAG"
_MARK = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# What models wrote for pytest-unlearn; it may hold personal data.\n"
)
# Where entries go in a folder that existed before and that others may use.
_INSIDE = "pytest-unlearn"
# What a killed run may leave.
_LEFTOVERS = (".writing-", "settled-")
# Some file systems have time stamps as coarse as this (FAT: 2 s).
_COARSE = 2.0


class StoreError(UserError):
    """The store cannot be made, read or written; the message says why and what to write."""


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
    folders (an adapter's files).
    """

    def __init__(self, root: Path, replay: bool = False) -> None:
        """Open the store in a folder, or make one that only its owner can read.

        An existing folder that is not a store keeps its mode, and a private one is made inside it.
        `replay`: nothing will be made, so a read-only store is enough. Raises StoreError if the
        store cannot be made, read or written.
        """
        self._given = root
        self.root = root.absolute()
        try:
            self.writable = self._open(replay)
        except OSError as error:
            raise self._refused("used", error) from error

    def _open(self, replay: bool) -> bool:
        """Find or make the folder; return whether it can be written. Raises OSError."""
        if self.root.is_dir() and not self._is_ours():
            self.root /= _INSIDE
        if not self.root.is_dir():
            self._make()
        if not self._is_ours():
            raise PermissionError(None, f"the folder {_INSIDE} in it is not a store")
        owner, me = self.root.stat().st_uid, os.geteuid()
        if owner == me and self.root.stat().st_mode & 0o077:  # copied, or unpacked
            self.root.chmod(0o700)
        if me not in (0, owner) and not replay:
            raise PermissionError(None, "it belongs to another user")
        folders = [self.root, *(path for path in self.root.iterdir() if path.is_dir())]
        try:
            for folder in folders:
                tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            if replay:
                return False
            raise
        return True

    def _is_ours(self) -> bool:
        """Return whether the folder is a store that was made here, or copied as a whole."""
        try:
            return (self.root / _MARKER).read_bytes() == _MARK.encode()
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _make(self) -> None:
        """Make the folder with its marker in one step: another process sees both or neither."""
        self.root.parent.mkdir(parents=True, exist_ok=True)
        scratch, handle = held(
            lambda: Path(tempfile.mkdtemp(dir=self.root.parent, prefix=".writing-"))
        )
        try:
            (scratch / _MARKER).write_text(_MARK, encoding="utf-8")
            if self.root.is_symlink():
                raise FileNotFoundError(None, "a link that leads nowhere")
            with contextlib.suppress(FileExistsError):
                scratch.rename(self.root)
        except OSError:
            if not self.root.is_dir():  # else another process was faster
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            os.close(handle)

    def _refused(self, how: str, error: OSError) -> StoreError:
        return StoreError(
            f"--unlearn-store={self._given}: the store cannot be {how} "
            f"({error.strerror or type(error).__name__}); write --unlearn-store=DIR with a folder "
            "that you may write, or that is to be made"
        )

    @contextlib.contextmanager
    def _writing(self, namespace: str) -> Iterator[None]:
        """Name the store's flag and what was to be written if writing fails."""
        trained = _TRAINED.get(namespace)
        then = "training goes on from its last look" if trained else "what is stored counts"
        try:
            with room_for(trained or namespace, self.root, then):
                yield
        except OSError as error:
            raise self._refused("written", error) from error

    def private(self, name: str) -> Path:
        """Return a folder of the store, made if missing, for its owner only."""
        folder = self.root
        for part in Path(name).parts:
            folder /= part
            folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def sweep(self) -> None:
        """Remove what killed runs left half-written: everything that no running process holds."""
        if self.writable:
            sweep(
                Path(folder, name)
                for folder, folders, files in os.walk(self.root)
                for name in (*folders, *files)
                if name.startswith(_LEFTOVERS)
            )

    def _path(self, namespace: str, key: str) -> Path:
        return self.root / namespace / key[:2] / f"{key}.json"

    def get(self, namespace: str, key: str, *fields: str) -> dict[str, Any] | None:
        """Return an entry, or None if there is no intact one with exactly these fields.

        An entry that was moved, has another format or a changed byte is not intact. Raises
        StoreError if it cannot be read.
        """
        try:
            stored = json.loads(self._path(namespace, key).read_bytes())
            intact = stored["sha256"] == _sealed(namespace, key, stored["entry"])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refused("read", error) from error
        except (ValueError, RecursionError, KeyError, TypeError):
            return None
        entry = stored["entry"]
        if not intact or not isinstance(entry, dict) or (fields and entry.keys() != set(fields)):
            return None
        return entry

    def put(self, namespace: str, key: str, entry: dict[str, Any]) -> None:
        """Write an entry; a reader sees the old one, the new one or none, never half of one.

        Raises UnlearningError on a full disk, StoreError if it cannot be written.
        """
        sealed = {"sha256": _sealed(namespace, key, entry), "entry": entry}
        with self._writing(namespace):
            path = self.private(f"{namespace}/{key[:2]}") / f"{key}.json"
            with replacing(path, sweeping=False) as temporary:
                temporary.write_text(json.dumps(sealed), encoding="ascii")

    def folder(self, namespace: str, key: str) -> Path | None:
        """Return the folder stored under a key, or None if there is no intact one."""
        path = self.root / namespace / key
        entry = self.get("folders", digest_of([namespace, key]), "files")
        if entry is None or not path.is_dir() or self._files(path) != entry["files"]:
            return None
        return path

    def _files(self, folder: Path) -> dict[str, str]:
        """Return the digest of each file in a folder, by its path in it."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): self.digest_of_file(path) for path in paths}

    def put_folder(self, namespace: str, key: str, write: Callable[[Path], None]) -> Path:
        """Let `write(folder)` fill a new folder, and move it into place when it is complete.

        Raises as `put` does.
        """
        with self._writing(namespace):
            target = self.private(namespace) / key
            scratch, handle = held(
                lambda: Path(tempfile.mkdtemp(dir=target.parent, prefix=".writing-"))
            )
            try:
                write(scratch)
                for path in scratch.rglob("*"):
                    path.chmod(0o700 if path.is_dir() else 0o600)
                if target.exists():  # damaged, or left by a run that was killed
                    shutil.rmtree(target)
                scratch.rename(target)
            except BaseException:
                shutil.rmtree(scratch, ignore_errors=True)
                raise
            finally:
                os.close(handle)
        self.put("folders", digest_of([namespace, key]), {"files": self._files(target)})
        return target

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Hold the lock for a piece of work; a second process waits here until it is done.

        In a read-only store, nothing is made, so nothing has to be claimed.
        """
        if not self.writable:
            yield
            return
        with self._writing("locks"):
            lock = FileLock(self.private("locks") / f"{key}.lock", mode=0o600)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def digest_of_file(self, path: Path) -> str:
        """Return a file's SHA-256, remembered until something touches the file.

        A program that changes a file can also set its size and modification time (a copy that
        preserves times does); it cannot set the inode's change time, which is the kernel's. A file
        that was touched just now is not remembered, as another change could have the same time.
        """
        stat = path.stat()
        place = [str(path.resolve()), stat.st_dev, stat.st_ino]
        key = digest_of([*place, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns])
        known = self.get("digests", key, "sha256")
        if known is None:
            known = {"sha256": file_sha256(path)}
            if self.writable and time.time() - stat.st_ctime > _COARSE:
                self.put("digests", key, known)
        return str(known["sha256"])


# Namespaces that hold the results of training, and what messages call them.
_TRAINED = {
    "adapters": "the unlearned model",
    "checkpoints": "the unlearned model",
    "planted": "the planted model",
    "plantings": "the planted model",
}


def _sealed(namespace: str, key: str, entry: Any) -> str:
    """Return the digest of an entry and its place; NaN counts as a number here."""
    text = json.dumps([FORMAT, namespace, key, entry])
    return hashlib.sha256(text.encode()).hexdigest()
