"""The way in: run one solution against its tests and get a verdict."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, get_args

from pytest_unlearn.sandbox import codec
from pytest_unlearn.sandbox.child import (
    ARGUMENT_BYTES,
    CLEAR_S,
    MAX_REQUEST,
    NOTE_BYTES,
    SPARE_BYTES,
)
from pytest_unlearn.sandbox.imports import find_packages
from pytest_unlearn.sandbox.judge import Ending, Judgement, judge, judge_check
from pytest_unlearn.sandbox.layers import LAYERS
from pytest_unlearn.sandbox.verdict import Limits, Mode, Protection, SandboxError, Verdict
from pytest_unlearn.sandbox.worker import Request, Settings, Worker, WorkerDied, WorkerLate
from pytest_unlearn.tasks.format import Call
from pytest_unlearn.tasks.programs import CheckProgram

# How long the zygote may take beyond a sample's own limit before it is given up.
PATIENCE_S = CLEAR_S + 2.0
# How long a solution may take to end when its check program has ended.
ENDING_S = 0.05
# A sample that was on a processor for less than this share of its time waited for one, or slept.
STARVED = 0.5
# Layers that are kept when the sandbox is off: they save the machine, not what is on it.
OFF = ("parent-death", "limits")
NAMESPACES = ("namespaces", "pid-namespace")
# Beyond the solution's limits: a check program has work of its own.
CHECK_SPARE_S = 1.0
CHECK_MEMORY_MB = 1024
# The answers to all inputs of HumanEval/15 in EvalPlus take 147 MB.
CHECK_ROOM = 192
# What packages such as numpy map before anything is computed.
PACKAGES_MEMORY_MB = 2048


@dataclass(frozen=True, slots=True)
class _Sample:
    """The requests for one sample: to the solution's zygote, and to the one of check programs."""

    request: Request
    check: Request | None = None

    @property
    def longest_reply(self) -> int:
        return self.request.most + NOTE_BYTES


class Sandbox:
    """Runs solutions, one at a time, each in a process of its own.

    The process gets the source, the entry point's name and the arguments, and sends back plain
    values; expected answers are compared elsewhere and never reach it. The helper processes behind
    it are started on first use. Close the sandbox, or use it in a `with` statement, to end them.
    One sandbox can be used by several threads, which then wait for each other.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        mode: Mode = "auto",
        imports: Sequence[str] = (),
        core: int | None = None,
        without: Collection[str] = (),
    ) -> None:
        """`mode`: auto puts on the layers that the system has, strict refuses to run unless it has
        all, off leaves files, network and processes open to solutions. `imports`: installed
        packages that solutions may import. `core`: stay on this one of the processor cores that
        may be used, counted round. `without`: layers to leave out.

        Raises ImportNotFoundError when a package of `imports` is not installed.
        """
        if mode not in get_args(Mode) or not set(without) <= set(LAYERS):
            raise ValueError(f"mode {mode!r} or without {without!r} is unknown")
        few = Limits() if not imports else Limits(memory_mb=PACKAGES_MEMORY_MB)
        self.limits = limits if limits is not None else few
        self.mode = mode
        layers = OFF if mode == "off" else LAYERS
        self._settings = Settings(
            tuple(name for name in layers if name not in without),
            core,
            find_packages(imports),
            wall_s=self.limits.wall_s,
            memory_mb=self.limits.memory_mb,
        )
        # By role: one runs solutions, the other, when it is needed, check programs.
        self._workers: dict[str, Worker] = {}
        self._closed = False
        self._lock = threading.Lock()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the helper processes."""
        with self._lock:
            self._closed = True
            self._close_workers()

    def protection(self) -> Protection:
        """Which layers this system has, found by trying. Starts the helper process.

        Raises SandboxError when it does not start, or lacks a layer in strict mode.
        """
        with self._lock:
            missing = self._ready_worker("solution").missing
        wanted = self._settings.layers
        return Protection(tuple(name for name in wanted if name not in missing), missing)

    def run(self, source: str, entry_point: str, tests: Sequence[Call] | CheckProgram) -> Verdict:
        """The verdict on `source`, whose function `entry_point` must give every test's expected
        answer, or pass the check program. Raises `SandboxError` when there can be no verdict."""
        if not tests:
            raise ValueError("a solution cannot be judged without tests")
        if isinstance(tests, CheckProgram):
            sample = self._check_sample(source, entry_point, tests)
        else:
            sample = self._calls_sample(source, entry_point, tests)
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            started = time.monotonic()
            judgement, starved = self._judged(sample, tests)
            again = starved and judgement[0] == "timeout"
            if again:
                judgement, _ = self._judged(sample, tests)
            seconds = time.monotonic() - started
        status, detail, call = judgement
        if again and status == "timeout":
            detail += ", nor when it was run again"
        return Verdict(status, detail, call, seconds, again)

    def _judged(
        self, sample: _Sample, tests: Sequence[Call] | CheckProgram
    ) -> tuple[Judgement, bool]:
        """Run a sample once; also tell whether it waited more than it computed.

        Such a time-out may be the machine's fault and is worth a second run, at once and with the
        same limits, so that a busy machine does not fail a release. A solution that computes
        without end has used its time and is not run again. One that sleeps costs its limit twice;
        to wait for a quiet machine instead would let it hold up the other workers.
        """
        endings = self._endings(sample)
        if endings is None:
            return ("crash", "killed the sandbox it ran in", None), False
        starved = endings[0].cpu_s < STARVED * self.limits.wall_s
        if isinstance(tests, CheckProgram):
            return judge_check(endings[0], endings[1], self.limits), starved
        return judge(endings[0], tests, self.limits), starved

    def _calls_sample(self, source: str, entry_point: str, tests: Sequence[Call]) -> _Sample:
        calls = []
        room = self.limits.output_bytes
        for test in tests:
            # Encode it now: a solution that fails earlier would hide what cannot be.
            room += len(_sendable(test.expected, ARGUMENT_BYTES))
            calls.append(_sendable(tuple(test.args), ARGUMENT_BYTES))
        return self._sample(source, entry_point, calls, room)

    def _check_sample(self, source: str, entry_point: str, tests: CheckProgram) -> _Sample:
        # A program asks thousands of times where calls are few, and holds one answer at a time.
        room = CHECK_ROOM * self.limits.output_bytes
        check = _sendable((tests.source, entry_point), MAX_REQUEST)
        sample = self._sample(source, entry_point, None, room)
        return replace(sample, check=Request(check, self.limits.wall_s, room))

    def _sample(
        self, source: str, entry_point: str, calls: list[bytes] | None, room: int
    ) -> _Sample:
        fields = (source, entry_point, calls, room)
        most = room + SPARE_BYTES + 5 * len(calls or ())
        return _Sample(Request(_sendable(fields, MAX_REQUEST), self.limits.wall_s, most))

    def _endings(self, sample: _Sample) -> list[Ending] | None:
        """How the sample's processes ended; None if it ended a fresh zygote as well as the first
        one."""
        for _ in range(2):
            try:
                if sample.check:
                    return self._checked(sample, sample.check)
                return [self._called(sample)]
            except (WorkerDied, codec.CodecError, TypeError):
                # A solution may have taken over the zygote; its word is worth nothing any more.
                self._close_workers()
            except BaseException:
                self._close_workers()  # A late reply would be taken for the next sample's.
                raise
        return None

    def _called(self, sample: _Sample) -> Ending:
        worker = self._ready_worker("solution")
        worker.send(sample.request)
        return self._ended(worker, sample, self.limits.wall_s + PATIENCE_S)

    def _checked(self, sample: _Sample, check_request: Request) -> list[Ending]:
        solution, check = self._ready_worker("solution"), self._ready_worker("check")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            solution.send(sample.request, ours.fileno())
            check.send(check_request, theirs.fileno())
        try:
            verdict = self._ending(check, sample, self.limits.wall_s + CHECK_SPARE_S)
        except WorkerLate:
            verdict = Ending("timeout", 0, 0.0, 0, b"")
        except WorkerDied:
            verdict = Ending("died", 0, 0.0, 0, b"")
        # Nobody asks the solution any more, which ends it, unless it does something else.
        if not solution.answers_within(ENDING_S):
            solution.cancel()
        return [self._ended(solution, sample, PATIENCE_S), verdict]

    def _ended(self, worker: Worker, sample: _Sample, seconds: float) -> Ending:
        ending = self._ending(worker, sample, seconds)
        worker.tidy()
        return ending

    def _ending(self, worker: Worker, sample: _Sample, seconds: float) -> Ending:
        reply = worker.receive(seconds, sample.longest_reply)
        fields: Any = codec.decode(reply, max_bytes=sample.longest_reply)
        return Ending(*fields)

    def _close_workers(self) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def _check_settings(self) -> Settings:
        """It runs no solution and starts no process: namespaces would only make it slower."""
        layers = [name for name in self._settings.layers if name not in NAMESPACES]
        memory_mb = max(self.limits.memory_mb, CHECK_MEMORY_MB)
        return replace(self._settings, layers=tuple(layers), role="check", memory_mb=memory_mb)

    def _ready_worker(self, role: str) -> Worker:
        worker = self._workers.get(role)
        if worker is not None and not (worker.owner == os.getpid() and worker.alive):
            # It was killed between samples, or belongs to the process that forked this one.
            worker.close()
            worker = None
        if worker is None:
            try:
                worker = Worker(self._settings if role == "solution" else self._check_settings())
            except (OSError, WorkerDied) as error:
                raise SandboxError(f"the sandbox process does not start: {error}") from error
            if self.mode == "strict" and worker.missing:
                worker.close()
                raise SandboxError(
                    "--unlearn-sandbox=strict: this system lacks "
                    + "; ".join(f"{name} ({why})" for name, why in worker.missing.items())
                    + "; write --unlearn-sandbox=auto to run with the layers that it has"
                )
            self._workers[role] = worker
        return worker


def _sendable(value: object, max_bytes: int) -> bytes:
    """Raises SandboxError for what is not plain data, or too much of it."""
    try:
        return codec.encode(value, max_bytes=max_bytes, strict=True)
    except codec.CodecError as error:
        raise SandboxError(f"the tests cannot be sent to the sandbox: {error}") from error
