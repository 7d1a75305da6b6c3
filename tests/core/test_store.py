"""The store loses nothing, never shows half an entry, and is its owner's alone."""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from pytest_unlearn.core.errors import UnlearningError
from pytest_unlearn.core.store import Store, StoreError, digest_of, file_sha256
from pytest_unlearn.core.text_files import replacing


def test_round_trip(tmp_path: Path) -> None:
    """What was put is there; what was not is None."""
    store = Store(tmp_path / "store")
    key = digest_of({"a": 1})
    assert store.get("completions", key) is None
    store.put("completions", key, {"text": "grüß\ud800"})
    assert Store(tmp_path / "store").get("completions", key) == {"text": "grüß\ud800"}


def test_key_depends_on_content_not_on_order() -> None:
    """And NaN, which equals nothing, is refused."""
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    with pytest.raises(ValueError, match="Out of range float"):
        digest_of(float("nan"))


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    """Neither an entry nor a temporary file."""
    store = Store(tmp_path)
    with pytest.raises(TypeError):
        store.put("completions", "ab12", {"text": object()})
    assert store.get("completions", "ab12") is None
    assert not [*store.root.rglob("*.json"), *store.root.rglob(".writing-*")]


def test_an_entry_with_a_changed_byte_is_a_missing_one(tmp_path: Path) -> None:
    """Whichever byte it is, whatever it turns into: it is made anew instead of being trusted."""
    store = Store(tmp_path)
    entry = {"text": "x = 1", "score": math.inf, "rows": {"a": [1, None]}}
    store.put("completions", "ab12", entry)
    assert store.get("completions", "ab12") == entry
    (path,) = store.root.rglob("ab12.json")
    whole = path.read_bytes()
    for place in range(len(whole)):
        for flipped in (1, 32) if place % 7 == 0 else (1,):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flipped]) + whole[place + 1 :])
            # The names of the parts may be written otherwise; what is told is told as it was.
            assert store.get("completions", "ab12") in (None, entry)
        path.write_bytes(whole[:place])
        assert store.get("completions", "ab12") is None
    path.write_bytes(whole)
    assert store.get("completions", "ab12") == entry


@pytest.mark.parametrize(
    "written",
    [b"", b"null", b"[]", b"3", b'"x"', b"[" * 100_000, b"\xff", b'{"text": "x"}', b'{"entry": 1}'],
)
def test_what_is_no_entry_is_a_missing_one(tmp_path: Path, written: bytes) -> None:
    """What other programs or versions write has no seal of ours."""
    store = Store(tmp_path)
    store.put("completions", "ab12", {"text": "x"})
    next(store.root.rglob("ab12.json")).write_bytes(written)
    assert store.get("completions", "ab12") is None


def test_an_entry_counts_where_it_was_put(tmp_path: Path) -> None:
    """A copy under another key or namespace is somebody else's answer."""
    store = Store(tmp_path)
    store.put("completions", "ab12", {"text": "x"})
    (path,) = store.root.rglob("ab12.json")
    shutil.copy(path, path.with_name("ab13.json"))
    (store.root / "scores" / "ab").mkdir(parents=True)
    shutil.copy(path, store.root / "scores" / "ab" / "ab12.json")
    assert store.get("completions", "ab13") is None
    assert store.get("scores", "ab12") is None


def test_an_entry_of_another_version_is_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the number of the format, and by its fields."""
    store = Store(tmp_path)
    store.put("checkpoints", "ab12", {"steps": 3})
    assert store.get("checkpoints", "ab12", "steps") == {"steps": 3}
    assert store.get("checkpoints", "ab12", "steps", "rate") is None
    store.put("checkpoints", "ab13", {"steps": 3, "later": 1})
    assert store.get("checkpoints", "ab13", "steps") is None
    monkeypatch.setattr("pytest_unlearn.core.store.FORMAT", 2)
    assert store.get("checkpoints", "ab12", "steps") is None


def test_folder_moves_into_place_when_complete(tmp_path: Path) -> None:
    """A writer that dies leaves no folder; one that ends leaves all of it."""
    store = Store(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.put_folder("adapters", "k", fail)
    assert store.folder("adapters", "k") is None
    store.put_folder("adapters", "k", lambda folder: (folder / "a").write_text("1") and None)
    store.put_folder("adapters", "k", lambda folder: (folder / "b").write_text("2") and None)
    folder = store.folder("adapters", "k")
    assert folder is not None
    assert [p.name for p in folder.iterdir()] == ["b"]
    assert [p.name for p in folder.parent.iterdir()] == ["k"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "in" / "a").write_text("2"),
        lambda folder: (folder / "in" / "a").unlink(),
        lambda folder: (folder / "more").write_text("1"),
        lambda folder: shutil.rmtree(folder),
    ],
    ids=["changed", "missing", "added", "gone"],
)
def test_a_damaged_folder_is_a_missing_one(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    """Until it is written again, as whole as before."""
    store = Store(tmp_path)

    def write(folder: Path) -> None:
        (folder / "in").mkdir()
        (folder / "in" / "a").write_text("1")

    folder = store.put_folder("adapters", "k", write)
    assert store.folder("adapters", "k") == folder
    assert stat.S_IMODE((folder / "in" / "a").stat().st_mode) == 0o600
    damage(folder)
    assert store.folder("adapters", "k") is None
    store.put_folder("adapters", "k", write)
    assert store.folder("adapters", "k") == folder


def test_only_the_owner_reads(tmp_path: Path) -> None:
    """Completions may hold personal data."""
    old = os.umask(0)
    try:
        store = Store(tmp_path / "store")
        store.put("completions", "ab12", {"text": "x"})
        with store.claim("work"):
            pass
        store.put_folder("adapters", "k", lambda folder: (folder / "a").write_text("1") and None)
    finally:
        os.umask(old)
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700
    for path in store.root.rglob("*"):
        if path.name != "CACHEDIR.TAG":
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    """It may be shared (a temporary folder): a private one is made in it, and found again."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    Store(shared).put("completions", "ab12", {"text": "x"})
    assert stat.S_IMODE(shared.stat().st_mode) == 0o777
    (inside,) = shared.iterdir()
    assert stat.S_IMODE(inside.stat().st_mode) == 0o700
    assert Store(shared).get("completions", "ab12") == {"text": "x"}
    assert Store(inside).get("completions", "ab12") == {"text": "x"}


def test_a_copied_store_is_private_again(tmp_path: Path) -> None:
    """CI unpacks artifacts for everybody to read, and leaves hidden files out."""
    Store(tmp_path / "store").put("completions", "ab12", {"text": "x"})
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "store", copy, ignore=shutil.ignore_patterns(".*"))
    copy.chmod(0o755)
    assert Store(copy).get("completions", "ab12") == {"text": "x"}
    assert stat.S_IMODE(copy.stat().st_mode) == 0o700


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def a_file(path: Path) -> None:
    path.write_text("x")


def below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("x")


def with_a_file_inside(path: Path) -> None:
    path.mkdir()
    (path / "pytest-unlearn").write_text("x")


def with_a_foreign_folder_inside(path: Path) -> None:
    (path / "pytest-unlearn").mkdir(parents=True)


@pytest.mark.parametrize(
    "make", [dangling, a_file, below_a_file, with_a_file_inside, with_a_foreign_folder_inside]
)
@pytest.mark.parametrize("replay", [False, True])
def test_what_can_be_no_store_is_refused_by_its_flag(
    tmp_path: Path, make: Callable[[Path], None], replay: bool
) -> None:
    """One sentence, whatever the system calls it; nothing is made or removed."""
    path = tmp_path / "in" / "store"
    path.parent.mkdir()
    make(path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match=f"^--unlearn-store={path}: the store cannot be used"):
        Store(path, replay)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every folder one that nobody can write in: permissions do not bind root."""

    def refuse(*arguments: object, **named: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)


def test_a_store_that_can_only_be_read_serves_replays(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """What is in it is read; a run that would write is refused before it starts."""
    store = Store(tmp_path / "store")
    store.put("completions", "ab12", {"text": "x"})
    store.put_folder("adapters", "k", lambda folder: (folder / "a").write_text("1") and None)
    request.getfixturevalue("read_only")
    with pytest.raises(StoreError, match=r"cannot be used \(Read-only file system\); write"):
        Store(tmp_path / "store")
    with pytest.raises(StoreError, match=r"cannot be used \(Read-only file system\)"):
        Store(tmp_path / "new", replay=True)
    replayed = Store(tmp_path / "store", replay=True)
    assert not replayed.writable
    assert replayed.get("completions", "ab12") == {"text": "x"}
    assert replayed.folder("adapters", "k") == store.root / "adapters" / "k"
    with replayed.claim("work"):
        pass
    replayed.sweep()
    with pytest.raises(StoreError, match=r"cannot be written \(Read-only"):
        replayed.put("completions", "ab13", {"text": "x"})


def test_another_users_store_serves_replays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written there would be theirs to read, whoever may write there."""
    Store(tmp_path / "store").put("completions", "ab12", {"text": "x"})
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StoreError, match="it belongs to another user"):
        Store(tmp_path / "store")
    replayed = Store(tmp_path / "store", replay=True)
    assert replayed.get("completions", "ab12") == {"text": "x"}


@pytest.mark.parametrize(
    ("namespace", "message"),
    [
        ("completions", "no room for completions: .*, and run again: what is stored counts"),
        ("checkpoints", "no room for the unlearned model: .*: training goes on from its last"),
    ],
)
def test_a_full_disk_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, namespace: str, message: str
) -> None:
    """With what a further run does; nothing half-written is left."""
    store = Store(tmp_path)
    store.put(namespace, "ab12", {"text": "x"})

    def full(path: Path, *arguments: object, **named: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UnlearningError, match=message):
        store.put(namespace, "ab13", {"text": "y"})
    assert [path.stem for path in (store.root / namespace / "ab").iterdir()] == ["ab12"]


LEAVE = """
import os, pathlib, sys, time
from pytest_unlearn.core.store import Store
from pytest_unlearn.core.text_files import replacing
from pytest_unlearn.gates.planning import Curtailment
store = Store(pathlib.Path(sys.argv[1]))
Curtailment.start([], [], store.root)
def stay(folder):
    (folder / "half").write_text("x")
    with replacing(store.private("completions/ab") / "ab12.json"):
        print("here", flush=True)
        time.sleep(600)
store.put_folder("adapters", "k", stay)
"""


def test_what_killed_runs_left_is_swept(tmp_path: Path) -> None:
    """Only once nobody holds it: what a running process writes stays."""
    left = (".writing-*", "settled-*")

    def leftovers() -> list[Path]:
        return [path for pattern in left for path in tmp_path.rglob(pattern)]

    command = [sys.executable, "-c", LEAVE, str(tmp_path / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        store = Store(tmp_path / "store")
        store.sweep()
        assert len(leftovers()) == 3
        process.kill()
    assert len(leftovers()) == 3
    store.put("completions", "ab34", {"text": "x"})
    store.sweep()
    assert leftovers() == []
    assert store.get("completions", "ab34") == {"text": "x"}


def test_a_report_sweeps_what_was_left_of_it(tmp_path: Path) -> None:
    """And of no other; nor what another process is writing now."""
    for name in (".writing-a.html-1", ".writing-b.html-1"):
        (tmp_path / name).write_text("half")
    with replacing(tmp_path / "a.html") as first, replacing(tmp_path / "a.html") as second:
        first.write_text("1")
        second.write_text("2")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".writing-b.html-1", "a.html"]
    assert (tmp_path / "a.html").read_text() == "1"


def _count_up(root: str, together: Barrier) -> None:
    store = Store(Path(root))
    together.wait(60)  # so that both count at the same time
    for _ in range(100):
        with store.claim("counter"):
            entry = store.get("numbers", "aa") or {"n": 0}
            store.put("numbers", "aa", {"n": entry["n"] + 1})


def test_claim_excludes_other_processes(tmp_path: Path) -> None:
    """Two workers that claim the same work do it one after the other."""
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(2)
    workers = [context.Process(target=_count_up, args=(str(tmp_path), together)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert Store(tmp_path).get("numbers", "aa") == {"n": 200}


def test_file_digest_follows_the_file(tmp_path: Path) -> None:
    """A changed file has another digest, though the old one is remembered."""
    store = Store(tmp_path / "store")
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    first = store.digest_of_file(file)
    assert store.digest_of_file(file) == first
    file.write_bytes(b"other")
    assert store.digest_of_file(file) != first


@pytest.mark.parametrize("age", [0.0, 10.0], ids=["new", "settled"])
def test_file_digest_relies_on_no_time_that_can_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float
) -> None:
    """A file of the same size and time, written over or moved into place, is another one."""
    store = Store(tmp_path / "store")
    now = time.time() + age
    monkeypatch.setattr(time, "time", lambda: now)
    file, other = tmp_path / "weights", tmp_path / "other"
    file.write_bytes(b"one")
    first, times = store.digest_of_file(file), file.stat()
    time.sleep(0.02 if age else 0)  # what the kernel's clock can tell apart
    file.write_bytes(b"two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = store.digest_of_file(file)
    assert second == file_sha256(file) != first
    other.write_bytes(b"six")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.replace(other, file)
    assert store.digest_of_file(file) == file_sha256(file) != second


def test_a_file_that_is_left_alone_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of many gigabytes take minutes to read."""
    store = Store(tmp_path / "store")
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    now = time.time() + 10
    monkeypatch.setattr(time, "time", lambda: now)
    digest = store.digest_of_file(file)
    monkeypatch.delattr("pytest_unlearn.core.store.file_sha256")  # else it would be read again
    assert Store(tmp_path / "store").digest_of_file(file) == digest
