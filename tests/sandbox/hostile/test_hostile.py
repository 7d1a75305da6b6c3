"""Every sample of the collection gets its verdict in time, and leaves the world as it was."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_unlearn.sandbox import Limits, Sandbox, SolutionVerdict
from pytest_unlearn.tasks.format import Call, CheckProgram
from tests.sandbox.hostile.samples import FAMILIES, SAMPLES, Sample

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux has these layers"
)

CALLS = [Call((1,), 2), Call((41,), 42)]
PROGRAM = CheckProgram("assert candidate(1) == 2\nassert f(41) == 42\n")
PATIENCE_S = 3.0
NAMESPACES = ("namespaces", "pid-namespace")


@dataclass
class World:
    """What samples are after, and how it was before."""

    folder: Path
    secret: Path
    listener: socket.socket
    datagrams: socket.socket
    memory: Any
    canary: str

    def source(self, sample: Sample) -> str:
        """The sample with the places of this test."""
        root = Path(__file__).parents[3] / "pytest_unlearn"
        places = {
            "secret": self.secret,
            "folder": self.folder,
            "port": self.listener.getsockname()[1],
            "pid": os.getpid(),
            "address": ctypes.addressof(self.memory),
            "canary": self.canary,
            "tests": [str(root / "tasks/bundled.jsonl")],
            "sites": [path for path in sys.path if path] + [str(root.parent)],
        }
        text = sample.source
        for name, place in places.items():
            text = text.replace("{" + name + "}", str(place))
        return text

    def state(self) -> object:
        """What no sample may change: files, shared memory, children of this process."""
        status = self.secret.stat()
        return (
            self.secret.read_text(),
            (status.st_mode, status.st_mtime_ns, status.st_uid, status.st_nlink),
            os.listdir(self.folder),
            sorted(os.listdir("/dev/shm")),
            Path("/proc/sysvipc/shm").read_text(),
        )

    def nobody_called(self) -> bool:
        """No connection waits, and no datagram came."""
        for wait in (lambda: self.listener.accept()[0].close(), lambda: self.datagrams.recv(1)):
            try:
                wait()
            except BlockingIOError:
                continue
            return False
        return True


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    base = tmp_path_factory.mktemp("world")
    canary = "canary" + os.urandom(8).hex()
    (base / "folder").mkdir()
    secret = base / "secret"
    secret.write_text(canary)
    os.environ["HOSTILE_CANARY"] = canary
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(type=2) as datagrams:
        datagrams.bind(listener.getsockname())
        listener.setblocking(False)
        datagrams.setblocking(False)
        memory = ctypes.create_string_buffer(canary.encode())
        yield World(base / "folder", secret, listener, datagrams, memory, canary)
    del os.environ["HOSTILE_CANARY"]


def descendants(pid: int) -> set[int]:
    """All processes below one."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            children = set(map(int, (task / "children").read_text().split()))
        except OSError:
            continue
        found |= children
        for child in children:
            try:
                found |= descendants(child)
            except FileNotFoundError:
                continue
    return found


def run_family(
    world: World,
    family: str,
    sandbox: Sandbox,
    judge: Callable[[Sandbox, str], SolutionVerdict],
) -> None:
    """Judge every sample of a family, and compare what is outside before and after."""
    right = SAMPLES[0].source
    assert judge(sandbox, right).passed
    before, processes = world.state(), descendants(os.getpid())
    problems = []
    for sample in SAMPLES:
        if sample.family != family:
            continue
        started = time.monotonic()
        verdict = judge(sandbox, world.source(sample))
        seconds = time.monotonic() - started
        if verdict.status not in sample.expected:
            problems.append((sample.name, verdict.status, verdict.detail))
        if "BREACH" in verdict.detail or world.canary in verdict.detail:
            problems.append((sample.name, "breach", verdict.detail))
        # A busy machine may make a time-out look like its own fault: two runs.
        if seconds > sandbox.limits.wall_s * (1 + verdict.run_again) + PATIENCE_S:
            problems.append((sample.name, "late", f"{seconds:.1f} s"))
        if world.state() != before or not world.nobody_called():
            problems.append((sample.name, "left something", str(world.state())))
        left = descendants(os.getpid()) - processes
        if not judge(sandbox, right).passed:
            problems.append((sample.name, "spoiled the next one", ""))
        # The process that waited for the right one is gone now, and so is all that is a sample's.
        if left & descendants(os.getpid()):
            problems.append((sample.name, "left a process", ""))
    assert problems == []


def by_calls(sandbox: Sandbox, source: str) -> SolutionVerdict:
    return sandbox.run(source, "f", CALLS)


def by_program(sandbox: Sandbox, source: str) -> SolutionVerdict:
    return sandbox.run(source, "f", PROGRAM)


def limits(family: str) -> Limits:
    """Long enough for a busy machine, except where all of it is waited for."""
    return Limits(wall_s=0.7 if family == "hang" else 3.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_layers(world: World, family: str) -> None:
    with Sandbox(limits(family)) as sandbox:
        run_family(world, family, sandbox, by_calls)


@pytest.mark.parametrize("family", ["process", "write", "read", "network", "secret"])
def test_in_a_container_without_namespaces(world: World, family: str) -> None:
    with Sandbox(limits(family), without=NAMESPACES) as sandbox:
        run_family(world, family, sandbox, by_calls)


@pytest.mark.parametrize("family", ["early exit", "forge", "steal", "resource"])
def test_judged_by_a_program(world: World, family: str) -> None:
    with Sandbox(limits(family)) as sandbox:
        run_family(world, family, sandbox, by_program)


def test_the_collection_is_large_and_breaks_out_without_layers(world: World) -> None:
    """The probes can tell: with nothing in their way, most of them say so."""
    assert len(SAMPLES) >= 60
    harmless = [s for s in SAMPLES if s.family in ("read", "secret", "network")]
    with Sandbox(Limits(wall_s=2), mode="off") as sandbox:
        verdicts = [by_calls(sandbox, world.source(sample)) for sample in harmless]
    breaches = [v for v in verdicts if "BREACH" in v.detail or v.status == "exception"]
    world.nobody_called()
    assert len(breaches) > len(harmless) // 2
