"""The process that forks one child per solution. Started as `python -I -S -B zygote.py FD PARENT`.

It is single-threaded and holds no test data beyond the arguments of the current sample, so forking
it is cheap and safe, which forking the test process, with a model and its threads in it, is not.
On FD, a socket to the judge, it answers each request with what the child wrote and how it ended.
It kills whatever a sample leaves behind, and ends with its parent.

This file and the two that it loads must import nothing but the standard library.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import os
import select
import signal
import struct
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

if TYPE_CHECKING:
    import resource
    from collections.abc import Callable

    from pytest_unlearn.sandbox import child, codec

# What solutions usually import, so that not each of them pays for it.
PRELOAD = (
    "bisect collections copy datetime decimal fractions functools hashlib heapq itertools json "
    "math operator random re resource statistics string typing"
).split()

PR_SET_CHILD_SUBREAPER = 36

# How often to look for the child's end where the system has no pidfd, in seconds.
TICK_S = 0.02
# A process closes its pipe shortly before its end can be seen.
CLOSING_S = 0.2

# What wait4 returns: number, status and usage.
Reaped: TypeAlias = "tuple[int, int, resource.struct_rusage]"

_LENGTH = struct.Struct(">I")


def load(name: str) -> SimpleNamespace:
    """Load a neighbouring file with builtins of its own, which a solution does not patch by
    patching the `builtins` module. It is not put into `sys.modules`."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py")
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    namespace: dict[str, Any] = {"__name__": name, "__builtins__": dict(vars(builtins))}
    exec(code, namespace)  # noqa: S102 - it is our own file
    return SimpleNamespace(**namespace)


if not TYPE_CHECKING:
    child = load("child")
    codec = load("codec")


def find_prctl() -> Callable[[int, int], None]:
    """Linux's prctl; elsewhere a function that does nothing."""
    if not sys.platform.startswith("linux"):
        return lambda option, value: None
    import ctypes

    function = ctypes.CDLL(None).prctl

    def prctl(option: int, value: int) -> None:
        zero = ctypes.c_ulong(0)
        function(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero)

    return prctl


def main() -> None:
    given, parent = int(sys.argv[1]), int(sys.argv[2])
    # A large number, from a test process with many files open, would escape the child's closing.
    control = child.RESULT_FD
    if given != control:
        os.dup2(given, control, inheritable=False)
        os.close(given)
    # A test process that ignores SIGCHLD hands that down, and children then cannot be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    prctl = find_prctl()
    # Not SIGKILL: then what the current sample had started would live on. The end of the thread
    # that started this process also sends it, and is no reason to end.
    signal.signal(signal.SIGTERM, lambda *_: None if os.getppid() == parent else end_all())
    prctl(child.PR_SET_PDEATHSIG, signal.SIGTERM)
    # What a sample leaves behind becomes a child of this process instead of init's.
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != parent:
        return
    # The environment is empty, but Python itself may have added LC_CTYPE.
    os.environ.clear()
    for name in PRELOAD:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    send(control, b"ready")
    while (request := receive(control)) is not None:
        send(control, codec.encode(serve(control, request, prctl), max_bytes=1 << 32))


def serve(control: int, request: bytes, prctl: Callable[[int, int], None]) -> tuple[object, ...]:
    """Run one sample: how it was ended, its wait status, CPU seconds, peak KiB and output."""
    fields: Any = codec.decode(request, max_bytes=child.MAX_REQUEST)
    source, entry_point, calls, wall_s, memory_mb, output_bytes = fields
    pipe, child_pipe = os.pipe()
    zygote = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(pipe)
        os.close(child_pipe)
        return ("no fork", 0, 0.0, 0, str(error).encode())
    if pid == 0:
        try:
            child.confine(zygote, child_pipe, wall_s, memory_mb, prctl)
            child.run(source, entry_point, calls, output_bytes, codec)
        finally:
            os._exit(0)
    deadline = time.monotonic() + wall_s
    os.close(child_pipe)
    output = bytearray()
    most = output_bytes + child.SPARE_BYTES + 5 * len(calls)
    reaped: list[Reaped] = []
    ended = watch(pid, pipe, control, deadline, output, most, reaped)
    status, cpu_s, peak_kb = clear(pid, reaped)
    if ended == "parent gone":
        end_all()
    # Nobody is left to write, but do not depend on it.
    os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        while len(output) <= most and (chunk := os.read(pipe, 1 << 16)):
            output += chunk
    os.close(pipe)
    return (ended, status, cpu_s, peak_kb, bytes(output[:most]))


def watch(
    pid: int,
    pipe: int,
    control: int,
    deadline: float,
    output: bytearray,
    most: int,
    reaped: list[Reaped],
) -> str:
    """Collect the child's output until it ends, closes its pipe, writes too much or is late."""
    pidfd = open_pidfd(pid)
    poller = select.poll()
    poller.register(pipe, select.POLLIN)
    poller.register(control, select.POLLIN)
    if pidfd is not None:
        poller.register(pidfd, select.POLLIN)
    closed = False
    try:
        while (left := deadline - time.monotonic()) > 0:
            ready = dict(poller.poll(1000 * (left if pidfd is not None else min(left, TICK_S))))
            if control in ready:
                return "parent gone"  # It does not send anything during a sample.
            if pipe in ready:
                chunk = os.read(pipe, 1 << 16)
                output += chunk
                if len(output) > most:
                    return "flood"
                if not chunk:
                    closed = True
                    poller.unregister(pipe)
                    deadline = min(deadline, time.monotonic() + CLOSING_S)
            elif has_ended(pid, reaped):
                return "ended"
    finally:
        if pidfd is not None:
            os.close(pidfd)
    return "closed" if closed else "timeout"


def open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def has_ended(pid: int, reaped: list[Reaped]) -> bool:
    """Whether the child ended, if possible without reaping it: until then nothing else can get
    its number. Python on macOS has no waitid before 3.13."""
    if hasattr(os, "waitid"):
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    result = os.wait4(pid, os.WNOHANG)
    if result[0] == pid:
        reaped.append(result)
    return result[0] == pid


def clear(pid: int, reaped: list[Reaped]) -> tuple[int, float, int]:
    """Kill and reap the child and every process it left behind."""
    for kill in (os.killpg,) if reaped else (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
    _, status, usage = reaped[0] if reaped else os.wait4(pid, 0)
    clear_rest()
    peak_kb = usage.ru_maxrss // (1024 if sys.platform == "darwin" else 1)
    return status, usage.ru_utime + usage.ru_stime, peak_kb


def clear_rest() -> None:
    """Kill and reap all children until there are none."""
    patience = time.monotonic() + child.CLEAR_S
    while True:
        try:
            number, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if number == 0:
            # Killing these hands their own children to us, for the next round.
            for orphan in children():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(orphan, signal.SIGKILL)
            if time.monotonic() > patience:
                os._exit(1)
            time.sleep(0.0005)


def end_all() -> NoReturn:
    clear_rest()
    # The parent removes its scratch folder, our working folder, unless it was killed.
    with contextlib.suppress(OSError):
        os.rmdir(os.getcwd())
    # Nothing else is left to tidy up, and an ordinary exit takes ten times as long.
    os._exit(0)


def children() -> list[int]:
    """The numbers of this process's children. Empty where there is no /proc."""
    me = os.getpid()
    try:
        with open(f"/proc/self/task/{me}/children") as file:
            return [int(number) for number in file.read().split()]
    except OSError:
        pass  # The kernel may have been built without this file.
    found = []
    with contextlib.suppress(OSError):
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
                # The command's name, in parentheses, may hold anything.
                if int(file.read().rpartition(")")[2].split()[1]) == me:
                    found.append(int(name))
    return found


def send(control: int, body: bytes) -> None:
    data = _LENGTH.pack(len(body)) + body
    while data:
        data = data[os.write(control, data) :]


def receive(control: int) -> bytes | None:
    """The next request, or None when the parent closed its end."""
    head = read(control, _LENGTH.size)
    return None if head is None else read(control, _LENGTH.unpack(head)[0])


def read(control: int, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        chunk = os.read(control, min(size - len(data), 1 << 20))
        if not chunk:
            return None
        data += chunk
    return bytes(data)


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, ConnectionResetError):
        pass
    finally:
        end_all()
