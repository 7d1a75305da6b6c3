"""The entry point: run one solution against its tests and get a verdict."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, get_args

from pytest_unlearn.sandbox.helper import (
    ForkFailed,
    HelperDied,
    HelperLate,
    HelperProcess,
    HelperSettings,
    find_packages,
)
from pytest_unlearn.sandbox.inside import codec, compare
from pytest_unlearn.sandbox.inside.child import (
    ARGUMENT_BYTES,
    MAX_REQUEST,
    NOTE_BYTES,
    PROGRAM,
    READY,
    SPARE_BYTES,
    cpu_limit,
)
from pytest_unlearn.sandbox.inside.codec import framed
from pytest_unlearn.sandbox.inside.layers import LAYERS
from pytest_unlearn.sandbox.runtimes import OFF, run_calls
from pytest_unlearn.sandbox.verdict import (
    Ending,
    Judgement,
    Limits,
    Mode,
    Protection,
    SandboxError,
    SolutionVerdict,
    check_started,
    judge,
    judge_check,
)
from pytest_unlearn.tasks.format import PYTHON, Call, CheckProgram

# More bytes of answers than this are compared in a separate process, with a time limit.
INLINE_BYTES = 1 << 16
COMPARE_S = 3.0
MAX_COMPARED = 1 << 28
# How long a process may take until it is ready for a solution.
READY_S = 30.0
# A process closes its socket shortly before its end is visible.
CLOSING_S = 0.2
# How long a solution may take to end after its check program.
ENDING_S = 0.05
PIECE = 1 << 16
# A sample that used a processor for less than this share of its time waited for one, or slept.
STARVED = 0.5
NAMESPACES = ("namespaces", "pid-namespace")
# In addition to the solution's limits, because a check program has its own work.
CHECK_SPARE_S = 1.0
CHECK_MEMORY_MB = 1024
# The answers to all inputs of HumanEval/15 in EvalPlus take 147 MB.
CHECK_ROOM = 192
# Address space that packages such as numpy map before they compute anything.
PACKAGES_MEMORY_MB = 2048


@dataclass(frozen=True, slots=True)
class _Sample:
    """What is sent for one sample: to its own process and, if there is one, to the process that
    runs its check program; the bytes that it may produce, and its limits."""

    request: bytes
    most: int
    limits: Limits
    check: bytes | None = None
    expected: Sequence[compare.Expected] = ()


class Sandbox:
    """Runs solutions, one at a time, each in its own process.

    The process gets the source, the entry point's name and the arguments, and returns plain values;
    expected answers are compared elsewhere and never reach it. The helper processes behind it start
    on first use. Close the sandbox, or use it in a `with` statement, to end them. Several threads
    can share a sandbox; they wait for each other.
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
        """`mode`: auto applies the layers that the system has, strict refuses to run unless it has
        all, off leaves files, network and processes open to solutions. `imports`: installed
        packages that solutions may import. `core`: stay on this one of the available processor
        cores, modulo their number. `without`: layers to leave out.

        Raises ImportNotFoundError if a package of `imports` is not installed.
        """
        if mode not in get_args(Mode) or not set(without) <= set(LAYERS):
            raise ValueError(f"mode {mode!r} or without {without!r} is unknown")
        few = Limits() if not imports else Limits(memory_mb=PACKAGES_MEMORY_MB)
        self.limits = limits if limits is not None else few
        self.mode = mode
        layers = OFF if mode == "off" else LAYERS
        self._settings = HelperSettings(
            tuple(name for name in layers if name not in without),
            core,
            find_packages(imports),
            memory_mb=self.limits.memory_mb,
        )
        # By role: one runs solutions, the other, when it is needed, check programs.
        self._helpers: dict[str, HelperProcess] = {}
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
            self._close_helpers()

    def protection(self) -> Protection:
        """Return which layers this system has, found by trying. Starts the helper process.

        Raises SandboxError if it does not start, or lacks a layer in strict mode.
        """
        with self._lock:
            missing = self._ready_helper("solution").missing
        layers = self._settings.layers
        return Protection(tuple(name for name in layers if name not in missing), missing)

    def run(
        self,
        source: str,
        entry_point: str,
        tests: Sequence[Call] | CheckProgram,
        wall_s: float | None = None,
        language: str = PYTHON,
    ) -> SolutionVerdict:
        """Return the verdict on `source`, whose function `entry_point` must give every test's
        expected answer, or pass the check program.

        `entry_point` may be a `Class.method`, called on a new object each time, or `__main__`: then
        the source is a program, which reads each test's only argument from its standard input and
        prints the expected text. In another `language`, each test's only argument is the code of
        all arguments.

        `wall_s`: this sample's own limit in seconds, instead of the one in `limits`. Raises
        `SandboxError` if there can be no verdict.
        """
        if not tests:
            raise ValueError("a solution cannot be judged without tests")
        limits = self.limits if wall_s is None else replace(self.limits, wall_s=wall_s)
        if language != PYTHON and not isinstance(tests, CheckProgram):
            return run_calls(source, entry_point, tests, language, limits, self.mode)
        if isinstance(tests, CheckProgram):
            sample = self._check_sample(source, entry_point, tests, limits)
        else:
            sample = self._calls_sample(source, entry_point, tests, limits)
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            started = time.monotonic()
            judgement, starved = self._judged(sample)
            again = starved and judgement[0] == "timeout"
            if again:
                judgement, _ = self._judged(sample)
            seconds = time.monotonic() - started
        status, detail, call = judgement
        if again and status == "timeout":
            detail += ", nor when it was run again"
        return SolutionVerdict(status, detail, call, seconds, again)

    def _judged(self, sample: _Sample) -> tuple[Judgement, bool]:
        """Run a sample once; also tell whether it waited more than it computed.

        Such a timeout may be the machine's fault and is worth an immediate second run with the same
        limits, so that a busy machine does not fail a release. A solution that computes forever has
        used its time and is not run again. One that sleeps costs its limit twice; waiting for a
        quiet machine instead would let it hold up the other workers.
        """
        endings = self._endings(sample)
        if endings is None:
            return ("crash", "killed the sandbox it ran in", None), False
        ending = endings[0]
        check_started(ending, sample.limits)
        starved = ending.how == "timeout" and ending.cpu_s < STARVED * sample.limits.wall_s
        if sample.check is not None:
            return judge_check(ending, endings[1], sample.limits), starved
        return judge(ending, self._answers(ending.output, sample), sample.limits), starved

    def _answers(self, output: bytes, sample: _Sample) -> Judgement:
        """Return the verdict on what a solution wrote.

        Values can be designed to take long to build or compare, so large ones are left to a process
        that can be stopped.
        """
        note: Any  # from our own code, which uses the words of `Status`
        judgement: Judgement
        if len(output) <= INLINE_BYTES:
            note = compare.verdict_on(output, sample.expected, codec)
            judgement = note
            return judgement
        tests = [tuple(_sendable(part, MAX_REQUEST) for part in test) for test in sample.expected]
        request = codec.encode((tests, output), max_bytes=MAX_COMPARED)
        at_hand = "check" in self._helpers
        helper = self._ready_helper("check")
        try:
            helper.compare(request)
            note = codec.decode(helper.checked(COMPARE_S), max_bytes=NOTE_BYTES)
            judgement = note
        except HelperLate:
            return "timeout", f"comparing its answers takes more than {COMPARE_S:g} s", None
        except HelperDied as error:
            raise SandboxError(f"the process that compares answers ended early: {error}") from error
        finally:
            if not at_hand:  # few samples write this much
                self._helpers.pop("check").close()
        return judgement

    def _calls_sample(
        self, source: str, entry_point: str, tests: Sequence[Call], limits: Limits
    ) -> _Sample:
        calls = []
        expected: list[compare.Expected] = []
        room = limits.output_bytes
        for test in tests:
            after = "output" if entry_point == PROGRAM else test.after
            expected.append((tuple(test.args), test.expected, after, test.tolerance))
            # Encode it now: a solution that fails earlier would hide a fault in it.
            room += len(_sendable(test.expected, ARGUMENT_BYTES))
            calls.append(_sendable(tuple(test.args), ARGUMENT_BYTES))
            room += max(len(calls[-1]), len(_sendable(after, ARGUMENT_BYTES)))
        sample = self._sample(source, entry_point, calls, room, limits, "")
        return replace(sample, expected=expected)

    def _check_sample(
        self, source: str, entry_point: str, tests: CheckProgram, limits: Limits
    ) -> _Sample:
        # A program asks thousands of times where calls are few, and holds one answer at a time.
        room = CHECK_ROOM * limits.output_bytes
        check = _sendable((tests.source, entry_point), MAX_REQUEST)
        sample = self._sample(source, entry_point, None, room, limits, tests.given)
        return replace(sample, most=room, check=check)

    def _sample(
        self,
        source: str,
        entry_point: str,
        calls: list[bytes] | None,
        room: int,
        limits: Limits,
        given: str,
    ) -> _Sample:
        fields = (source, entry_point, calls, room, cpu_limit(limits.wall_s), given)
        most = room + SPARE_BYTES + 2 * 5 * len(calls or ())
        return _Sample(framed(_sendable(fields, MAX_REQUEST)), most, limits)

    def _endings(self, sample: _Sample) -> list[Ending] | None:
        """Return how the sample's processes ended; None if it ended a fresh zygote as well as the
        first one."""
        for _ in range(2):
            try:
                return self._checked(sample) if sample.check else [self._called(sample)]
            except (HelperDied, codec.CodecError, TypeError):
                # A solution may have taken over the zygote, which cannot be trusted any more.
                self._close_helpers()
            except ForkFailed as error:
                raise SandboxError(
                    f"the sandbox cannot start a process for a solution: {error}"
                ) from error
            except BaseException:
                self._close_helpers()  # A late answer would be taken for the next sample's.
                raise
        return None

    def _called(self, sample: _Sample) -> Ending:
        helper = self._ready_helper("solution")
        output = bytearray()
        with helper.child() as child:
            how = "not ready"
            if _hand_over(child, sample.request):
                how = _collect(child, helper, sample, output)
            usage = self._end(helper, how)
            # Nothing is left that could write, but do not depend on it.
            child.setblocking(False)
            with contextlib.suppress(OSError):
                while len(output) <= sample.most and (chunk := child.recv(PIECE)):
                    output += chunk
        return Ending(how, *usage, bytes(output[: sample.most]))

    def _checked(self, sample: _Sample) -> list[Ending]:
        solution, check = self._ready_helper("solution"), self._ready_helper("check")
        assert sample.check is not None
        wall_s = sample.limits.wall_s
        with solution.child() as child:
            if not _hand_over(child, sample.request):
                return [Ending("not ready", *self._end(solution, "not ready"))] * 2
            child.setblocking(True)  # the mode goes with the descriptor
            check.check(sample.check, child.fileno(), wall_s, sample.most)
        ending = None
        if not check.says_something_within(wall_s):
            # It sees that the solution is gone, unless it is busy itself.
            ending = Ending("timeout", *self._end(solution, "timeout"))
        try:
            verdict = Ending("ended", output=check.checked(CHECK_SPARE_S))
        except HelperLate:
            verdict = Ending("timeout")
        except HelperDied:
            verdict = Ending("died")
        if ending is None:
            # Nothing calls the solution any more, which ends it, unless it does something else.
            how = "ended" if solution.says_something_within(ENDING_S) else "cancelled"
            ending = Ending(how, *self._end(solution, how))
        return [ending, verdict]

    def _end(self, helper: HelperProcess, how: str) -> tuple[int, float, int]:
        usage = helper.ended(how)
        helper.tidy()
        return usage

    def _close_helpers(self) -> None:
        for helper in self._helpers.values():
            helper.close()
        self._helpers.clear()

    def _check_settings(self) -> HelperSettings:
        """Return the settings for check programs: namespaces would only slow them down."""
        layers = [name for name in self._settings.layers if name not in NAMESPACES]
        memory_mb = max(self.limits.memory_mb, CHECK_MEMORY_MB)
        return replace(self._settings, layers=tuple(layers), role="check", memory_mb=memory_mb)

    def _ready_helper(self, role: str) -> HelperProcess:
        helper = self._helpers.get(role)
        if helper is not None and not (helper.owner == os.getpid() and helper.alive):
            # It was killed between samples, or belongs to the process that forked this one.
            helper.close()
            helper = None
        if helper is None:
            try:
                helper = HelperProcess(
                    self._settings if role == "solution" else self._check_settings()
                )
            except (OSError, HelperDied) as error:
                raise SandboxError(f"the sandbox process does not start: {error}") from error
            if self.mode == "strict" and helper.missing:
                helper.close()
                raise SandboxError(
                    "--unlearn-sandbox=strict: this system lacks "
                    + "; ".join(f"{name} ({why})" for name, why in helper.missing.items())
                    + "; write --unlearn-sandbox=auto to run with the layers that it has"
                )
            self._helpers[role] = helper
        return helper


def _hand_over(child: socket.socket, request: bytes) -> bool:
    """Send the process of a sample its request directly, since a zygote would pass what it held on
    to later samples. Tell whether the process was ready."""
    child.settimeout(READY_S)
    try:
        if child.recv(1) != READY:
            return False
        child.sendall(request)
    except OSError:
        return False
    return True


def _collect(
    child: socket.socket, helper: HelperProcess, sample: _Sample, output: bytearray
) -> str:
    """Collect the output of a sample until its process ends, closes its socket, writes too much or
    is late; return which."""
    deadline = time.monotonic() + sample.limits.wall_s
    with contextlib.suppress(OSError):
        child.shutdown(socket.SHUT_WR)  # A solution that reads from it gets an end of file.
    poller = select.poll()
    poller.register(child, select.POLLIN)
    poller.register(helper.connection, select.POLLIN)
    how = "timeout"
    while (left := deadline - time.monotonic()) > 0:
        ready = [number for number, _ in poller.poll(1000 * left)]
        if child.fileno() in ready:
            try:
                chunk = child.recv(PIECE)
            except OSError:
                chunk = b""
            output += chunk
            if len(output) > sample.most:
                return "flood"
            if not chunk:
                how = "closed"
                poller.unregister(child)
                deadline = min(deadline, time.monotonic() + CLOSING_S)
        elif ready:
            return "ended"
    return how


def _sendable(value: object, max_bytes: int) -> bytes:
    """Encode a value. Raises SandboxError if it is not plain data, or too large."""
    try:
        return codec.encode(value, max_bytes=max_bytes, strict=True)
    except codec.CodecError as error:
        raise SandboxError(f"the tests cannot be sent to the sandbox: {error}") from error
