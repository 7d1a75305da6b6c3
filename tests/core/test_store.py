"""The store loses nothing, never shows half an entry, and is its owner's alone."""

from __future__ import annotations

import multiprocessing
import os
import stat
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from pytest_unlearn.core.store import Store, digest_of


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
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_broken_entry_is_a_missing_one(tmp_path: Path) -> None:
    """It is made anew instead of being trusted."""
    store = Store(tmp_path)
    store.put("completions", "ab12", {"text": "x"})
    next(tmp_path.rglob("*.json")).write_text('{"text": "x')
    assert store.get("completions", "ab12") is None


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


def test_only_the_owner_reads(tmp_path: Path) -> None:
    """Completions may hold personal data."""
    old = os.umask(0)
    try:
        store = Store(tmp_path / "store")
        store.put("completions", "ab12", {"text": "x"})
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700
    entry = next((tmp_path / "store").rglob("*.json"))
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600


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
