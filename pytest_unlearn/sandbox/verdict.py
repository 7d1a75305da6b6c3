"""What a solution may use and how it is judged afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

# `forbidden`: the solution tried what the sandbox refuses. `unsupported`: it cannot be judged here,
# because a value that it was to get or to give is not plain data; neither passed nor failed.
Status = Literal[
    "passed",
    "wrong_answer",
    "exception",
    "timeout",
    "memory",
    "crash",
    "forbidden",
    "no_solution",
    "unsupported",
]
Mode = Literal["auto", "strict", "off"]

# Below this the interpreter itself does not fit and every solution would fail.
SMALLEST_MEMORY_MB = 64


class SandboxError(RuntimeError):
    """The sandbox itself failed. It says nothing about the solution and is never a verdict."""


class UnsupportedSolution(SandboxError):
    """A solution cannot be judged here, and so counts neither as passed nor as failed."""


@dataclass(frozen=True, slots=True)
class Protection:
    """Which layers are around solutions, and why others are not: a reason by layer."""

    active: tuple[str, ...]
    missing: dict[str, str]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one solution may use, for all of its test calls together.

    `wall_s` starts when the solution's process starts; `memory_mb` limits the address space;
    `output_bytes` limits the encoded results, beyond as much as the expected answers take.
    """

    wall_s: float = 3.0
    memory_mb: int = 512
    output_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        if not (math.isfinite(self.wall_s) and self.wall_s > 0):
            raise ValueError(f"wall_s must be a positive number of seconds, got {self.wall_s!r}")
        if self.memory_mb < SMALLEST_MEMORY_MB:
            raise ValueError(
                f"memory_mb must be at least {SMALLEST_MEMORY_MB}, got {self.memory_mb!r}"
            )
        if self.output_bytes < 1:
            raise ValueError(f"output_bytes must be positive, got {self.output_bytes!r}")


@dataclass(frozen=True, slots=True)
class SolutionVerdict:
    """The outcome of one solution.

    `run_again`: it ran out of time with little processor time used, as on a busy machine, and this
    is the verdict on its second run. `call` is the index of the test that failed, None when the
    solution passed or failed before its first call. `detail` is one short line for people, empty
    when the solution passed.
    """

    status: Status
    detail: str
    call: int | None
    seconds: float
    run_again: bool = False

    @property
    def passed(self) -> bool:
        return self.status == "passed"
