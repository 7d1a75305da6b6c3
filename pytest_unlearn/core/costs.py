"""Where a run's time and memory went: loading, unlearning, generation, scoring, sandbox."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

# `ru_maxrss` counts KiB on Linux and bytes on macOS.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True)
class Phase:
    """What one kind of work cost in one process or, added up, in all.

    `seconds`: wall time, summed over processes that worked side by side. `memory`: the most bytes
    that a process had held in RAM by the end of the phase. `gpu_memory`: the most bytes that torch
    had allocated on the GPU by then, None without one. `gpu`: that GPU's name.
    """

    name: str
    seconds: float
    memory: int
    gpu_memory: int | None = None
    gpu: str | None = None


class Phases:
    """Adds up phases by name, in the order in which they first appeared."""

    def __init__(self) -> None:
        self._phases: dict[str, Phase] = {}

    def all(self) -> list[Phase]:
        """Return the phases so far."""
        return list(self._phases.values())

    def add(self, phase: Phase) -> None:
        """Add a phase: seconds add up, and the largest memory counts."""
        known = self._phases.get(phase.name, replace(phase, seconds=0.0))
        gpu = [m for m in (known.gpu_memory, phase.gpu_memory) if m is not None]
        self._phases[phase.name] = Phase(
            phase.name,
            known.seconds + phase.seconds,
            max(known.memory, phase.memory),
            max(gpu, default=None),
            phase.gpu or known.gpu,
        )

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add what the block costs, even if it fails."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            self.add(Phase(name, seconds, peak_memory(), *gpu_in_use()))


def peak_memory() -> int:
    """Return the most bytes that this process has held in RAM.

    On Linux the kernel's count for `getrusage` survives `exec`, so a process would look as large as
    the one that started it.
    """
    with contextlib.suppress(OSError, StopIteration, ValueError):
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def gpu_in_use() -> tuple[int, str] | tuple[None, None]:
    """Return the most bytes that torch has allocated on this process's GPU, and the GPU's name.

    torch is not imported for this: a process that has not imported it holds nothing on a GPU.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None, None
    return int(torch.cuda.max_memory_allocated()), str(torch.cuda.get_device_name())
