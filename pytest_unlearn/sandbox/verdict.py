"""What a solution may use, and how it is judged by what its process wrote.

Neither the process nor what it wrote is trusted.
"""

from __future__ import annotations

import math
import os
import signal
from dataclasses import dataclass
from typing import Any, Literal

from pytest_unlearn.sandbox.inside import codec
from pytest_unlearn.sandbox.inside.child import NOTE_BYTES, cpu_limit
from pytest_unlearn.sandbox.inside.compare import MAX_REPR, shown

# `forbidden`: the solution tried something that the sandbox refuses. `unsupported`: it cannot be
# judged here, because an argument or a result is not plain data; neither passed nor failed.
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

# With less, the interpreter itself does not fit and every solution would fail.
SMALLEST_MEMORY_MB = 64


class SandboxError(RuntimeError):
    """The sandbox itself failed. It says nothing about the solution and is never a verdict."""


class UnsupportedSolution(SandboxError):
    """A solution cannot be judged here, and so counts neither as passed nor as failed."""


@dataclass(frozen=True, slots=True)
class Protection:
    """Which layers surround solutions, and why others do not: a reason for each layer."""

    active: tuple[str, ...]
    missing: dict[str, str]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one solution may use, for all of its test calls together.

    `wall_s` starts when the solution's process starts; `memory_mb` limits the address space;
    `output_bytes` limits the encoded results, in addition to the size of the expected answers.
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

    `run_again`: it ran out of time while using little processor time, as on a busy machine, and
    this is the verdict on its second run. `call` is the index of the test that failed, None if the
    solution passed or failed before its first call. `detail` is one short line for people, empty if
    the solution passed.
    """

    status: Status
    detail: str
    call: int | None
    seconds: float
    run_again: bool = False

    @property
    def passed(self) -> bool:
        return self.status == "passed"


# A check's line, and the last call with its result.
MAX_CHECK = 3 * MAX_REPR


@dataclass(frozen=True, slots=True)
class Ending:
    """How a sample ended, what its process used, and what it wrote."""

    how: str
    wait_status: int = 0
    cpu_s: float = 0.0
    peak_kb: int = 0
    output: bytes = b""


# Status, detail, and the call that failed.
Judgement = tuple[Status, str, int | None]


def judge(ending: Ending, answers: Judgement, limits: Limits) -> Judgement:
    """Return the verdict on a sample whose calls were known beforehand.

    `answers`: the verdict on what it wrote, with an empty status if it did not write everything.
    """
    status, _, call = answers
    return answers if status else (*_end_of_process(ending, limits), call)


def judge_check(solution: Ending, check: Ending, limits: Limits) -> Judgement:
    """Return status, detail and last call of a sample that a check program judged.

    `check`: what the process that runs the programs reported. Raises SandboxError if that says
    nothing about the solution.
    """
    if check.how == "timeout":
        # It may run longer than the solution, and ends as soon as it then asks the solution.
        return "timeout", f"the check itself was still busy after {limits.wall_s:g} s", None
    if check.how == "died":
        raise SandboxError("the process that runs the check program ended early")
    # Our own code wrote this.
    note: Any = codec.decode(check.output, max_bytes=NOTE_BYTES)
    status, detail, call = note
    if status == "broken":
        raise SandboxError(detail)
    if status == "ended":
        return *_end_of_process(solution, limits), call
    return status, shown(detail, MAX_CHECK), call


def check_started(ending: Ending, limits: Limits) -> None:
    """Raise SandboxError if no code of the solution has run."""
    if ending.how == "not ready":
        raise SandboxError(
            f"the process for a solution did not get ready ({_end_of_process(ending, limits)[1]})"
        )


def _end_of_process(ending: Ending, limits: Limits) -> tuple[Status, str]:
    """Return the meaning of a process that ended before its results were complete."""
    if ending.how == "timeout":
        return "timeout", f"not done after {limits.wall_s:g} s"
    if ending.how == "flood":
        return "crash", "flooded its result channel"
    if ending.how == "closed":
        return "crash", "closed its result channel"
    if os.WIFEXITED(ending.wait_status):
        return "crash", f"exited early (exit status {os.WEXITSTATUS(ending.wait_status)})"
    number = os.WTERMSIG(ending.wait_status)
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number == signal.SIGSYS:
        return "forbidden", "made a system call of another machine"
    used_up = ending.cpu_s >= cpu_limit(limits.wall_s)
    if number == signal.SIGXCPU or (number == signal.SIGKILL and used_up):
        return "timeout", f"used more than {cpu_limit(limits.wall_s)} s of processor time"
    # SIGKILL without a sender means that the kernel is short of memory; the interpreter aborts if
    # it cannot continue without more.
    if number in (signal.SIGKILL, signal.SIGABRT) and ending.peak_kb > limits.memory_mb * 512:
        return "memory", f"{name} at {ending.peak_kb // 1024} MiB"
    return "crash", f"killed by {name}"
