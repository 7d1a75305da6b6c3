"""The way in: run one solution against its tests and get a verdict."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pytest_unlearn.sandbox import codec
from pytest_unlearn.sandbox.child import ARGUMENT_BYTES, CLEAR_S, MAX_REQUEST, SPARE_BYTES
from pytest_unlearn.sandbox.judge import Ending, judge
from pytest_unlearn.sandbox.verdict import Limits, SandboxError, Verdict
from pytest_unlearn.sandbox.worker import Worker, WorkerDied

if TYPE_CHECKING:
    from pytest_unlearn.tasks.format import Call

# How long the zygote may take beyond a sample's own limit before it is given up.
PATIENCE_S = CLEAR_S + 2.0


class Sandbox:
    """Runs solutions, one at a time, each in a process of its own.

    The process gets the source, the entry point's name and the arguments, and sends back plain
    values; expected answers are compared here and never reach it. The helper process behind it is
    started on first use. Close the sandbox, or use it in a `with` statement, to end it.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits if limits is not None else Limits()
        self._worker: Worker | None = None
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
        with self._lock:
            self._closed = True
            if self._worker is not None:
                self._worker.close()
                self._worker = None

    def run(self, source: str, entry_point: str, tests: Sequence[Call]) -> Verdict:
        """The verdict on `source`, whose function `entry_point` must give every test's expected
        answer. Raises `SandboxError` when there can be no verdict."""
        if not tests:
            raise ValueError("a solution cannot be judged without tests")
        request = self._request(source, entry_point, tests)
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            started = time.monotonic()
            ending = self._ending(request, len(tests))
            seconds = time.monotonic() - started
        if ending is None:
            return Verdict("crash", "killed the sandbox it ran in", None, seconds)
        status, detail, call = judge(ending, tests, self.limits)
        return Verdict(status, detail, call, seconds)

    def _request(self, source: str, entry_point: str, tests: Sequence[Call]) -> bytes:
        limits = self.limits
        try:
            calls = []
            for test in tests:
                # Refuse it now: a solution that fails earlier would hide it.
                codec.encode(test.expected, max_bytes=ARGUMENT_BYTES, strict=True)
                calls.append(codec.encode(tuple(test.args), max_bytes=ARGUMENT_BYTES, strict=True))
            settings = (limits.wall_s, limits.memory_mb, limits.output_bytes)
            return codec.encode(
                (source, entry_point, calls, *settings), max_bytes=MAX_REQUEST, strict=True
            )
        except codec.CodecError as error:
            raise SandboxError(f"the tests cannot be sent to the sandbox: {error}") from error

    def _ending(self, request: bytes, calls: int) -> Ending | None:
        """How the sample ended; None if it ended a fresh zygote as well as the first one."""
        most = self.limits.output_bytes + 2 * SPARE_BYTES + 5 * calls
        for _ in range(2):
            worker = self._ready_worker()
            try:
                reply = worker.exchange(request, self.limits.wall_s + PATIENCE_S, most)
                fields: Any = codec.decode(reply, max_bytes=most)
                ending = Ending(*fields)
            except WorkerDied:
                self._worker = None
                continue
            except (codec.CodecError, TypeError):
                # A solution may have taken over the zygote; its word is worth nothing any more.
                worker.close()
                self._worker = None
                continue
            worker.tidy()
            return ending
        return None

    def _ready_worker(self) -> Worker:
        worker = self._worker
        if worker is not None and not (worker.owner == os.getpid() and worker.alive):
            # It was killed between samples, or belongs to the process that forked this one.
            worker.close()
            worker = None
        if worker is None:
            try:
                worker = Worker()
            except (OSError, WorkerDied) as error:
                raise SandboxError(f"the sandbox process does not start: {error}") from error
            self._worker = worker
        return worker
