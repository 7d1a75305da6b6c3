"""From what the child wrote, which is not to be trusted, to a verdict."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_unlearn.sandbox import codec
from pytest_unlearn.sandbox.child import NOTE_BYTES, cpu_limit
from pytest_unlearn.sandbox.compare import same
from pytest_unlearn.sandbox.verdict import Limits, SandboxError, Status

if TYPE_CHECKING:
    from pytest_unlearn.tasks.format import Call

MAX_REPR = 200
# A check's line, and the last call with what it gave.
MAX_CHECK = 3 * MAX_REPR
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a sample ended, what its process used, and what it wrote."""

    how: str
    wait_status: int = 0
    cpu_s: float = 0.0
    peak_kb: int = 0
    output: bytes = b""


class BrokenReport(Exception):
    """The child wrote something that its own code never writes."""


Judgement = tuple[Status, str, int | None]


def judge(ending: Ending, tests: Sequence[Call], limits: Limits) -> Judgement:
    """Status, detail and failing call of a sample."""
    _check_started(ending, limits)
    call: int | None = None
    try:
        for kind, body in _reports(ending.output):
            if kind == b"L" and call is None:
                call = 0
            elif kind == b"R" and call is not None:
                problem = _wrong(tests[call], body)
                if problem:
                    return "wrong_answer", problem, call
                call += 1
                if call == len(tests):
                    return "passed", "", None
            else:
                return *_stopped(kind, body), call
    except (BrokenReport, codec.CodecError) as error:
        return "crash", _shown(f"broke its result channel ({error})"), call
    return *_end_of_process(ending, limits), call


def judge_check(solution: Ending, check: Ending, limits: Limits) -> Judgement:
    """Status, detail and last call of a sample that a check program judged.

    `check`: what the process that runs the programs says. Raises SandboxError when that is nothing
    about the solution.
    """
    _check_started(solution, limits)
    if check.how == "timeout":
        # It outlives the solution's time, and ends at once when it then asks the solution.
        return "timeout", f"the check was busy by itself after {limits.wall_s:g} s", None
    if check.how == "died":
        raise SandboxError("the process that runs the check program ended early")
    # It is our own code that wrote this.
    note: Any = codec.decode(check.output, max_bytes=NOTE_BYTES)
    status, detail, call = note
    if status == "broken":
        raise SandboxError(detail)
    if status == "ended":
        return *_end_of_process(solution, limits), call
    return status, _shown(detail, MAX_CHECK), call


def _check_started(ending: Ending, limits: Limits) -> None:
    """Raises SandboxError where no code of the solution has run."""
    if ending.how == "not ready":
        raise SandboxError(
            f"the process for a solution did not get ready ({_end_of_process(ending, limits)[1]})"
        )


def _reports(output: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The complete reports; the process may have been stopped inside the last one."""
    position = 0
    while position + 5 <= len(output):
        (size,) = _LENGTH.unpack_from(output, position + 1)
        end = position + 5 + size
        kind = output[position : position + 1]
        if kind not in b"LREMXNB":
            raise BrokenReport(f"unknown report {kind!r}")
        if end > len(output):
            return
        yield kind, output[position + 5 : end]
        position = end


def _wrong(test: Call, body: bytes) -> str:
    """What is wrong with one answer; empty when it is right."""
    try:
        got = codec.decode(body, max_bytes=len(body))
    except codec.TooLarge as error:
        return f"result {error}"
    if same(test.expected, got):
        return ""
    return f"arguments {short(test.args)}: expected {short(test.expected)}, got {short(got)}"


def _stopped(kind: bytes, body: bytes) -> tuple[Status, str]:
    """The meaning of a report that ends a sample."""
    if kind == b"M":
        return "memory", "MemoryError"
    if kind == b"X":
        return "crash", "exited early (SystemExit)"
    if kind not in (b"E", b"N", b"B"):
        raise BrokenReport(f"report {kind!r} out of turn")
    note = codec.decode(body, max_bytes=NOTE_BYTES)
    if kind == b"E" and isinstance(note, tuple) and len(note) == 4:
        name, line, message, refused = note
        text = str(name) if message is None else f"{name}: {message}"
        where = f" (line {line})" if isinstance(line, int) else ""
        return "forbidden" if refused else "exception", _shown(text) + where
    if kind != b"E" and isinstance(note, str):
        if kind == b"N":
            return "no_solution", _shown(note)
        return "wrong_answer", _shown(f"result {note}")
    raise BrokenReport(f"report {kind!r} with a strange body")


def _end_of_process(ending: Ending, limits: Limits) -> tuple[Status, str]:
    """The meaning of a process that ended before its results were complete."""
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
    # SIGKILL without a sender is the kernel short of memory; the interpreter aborts when it
    # cannot go on without more.
    if number in (signal.SIGKILL, signal.SIGABRT) and ending.peak_kb > limits.memory_mb * 512:
        return "memory", f"{name} at {ending.peak_kb // 1024} MiB"
    return "crash", f"killed by {name}"


def short(value: object) -> str:
    """The value's repr, cut to MAX_REPR characters."""
    try:
        text = repr(value)
    except ValueError:  # An integer with more digits than Python agrees to write.
        text = "a value with a huge integer"
    return _shown(text)


def _shown(text: str, most: int = MAX_REPR) -> str:
    """Text from untrusted code as one printable line."""
    text = text[: most + 1]
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= most else text[: most - 1] + "…"
