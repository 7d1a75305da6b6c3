"""The process that forks one child per solution. Started as `python -I -S -B zygote.py CONFIG`.

It is single-threaded and holds no test data, so forking it is cheap and safe, unlike forking the
test process with a model and its threads. No solution, argument or answer ever passes through it,
because a later solution, forked from it, would find them in its memory. The judge gets the child's
own socket and talks to the child directly; the zygote only forks, ends a child, and reports how it
ended. It kills whatever a sample leaves behind, and ends with its parent. A second process of this
kind runs check programs; it never runs a solution and never forks.

This file and those that it loads must import nothing but the standard library.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import importlib.machinery
import json
import os
import select
import signal
import socket
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

if TYPE_CHECKING:
    import resource
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec

    from pytest_unlearn.sandbox.inside import checker, child, codec, kernel, layers

# What wait4 returns: number, status and usage.
Reaped: TypeAlias = "tuple[int, int, resource.struct_rusage]"

# What solutions usually import, so that they do not all pay for it. Rare modules are left out,
# because each fork pays for what is loaded.
PRELOAD = (
    "bisect collections copy datetime functools heapq itertools json math operator random re "
    "resource string typing"
).split()
# A typical solution, run often enough for Python to specialize the code that runs solutions.
REHEARSALS = 40
REHEARSED = """
from typing import List, Dict
import math
def f(number: int, words: List[str]) -> Dict[str, int]:
    \"\"\"Count.\"\"\"
    found = {}
    for place, word in enumerate(words):
        if len(word) > 1 and not word.startswith("x") or number in (1, 2.5):
            found[word.lower()] = found.get(word, 0) + place % 3
        else:
            try:
                found[f"{word}"] = int(math.sqrt(number)) // 2
            except ValueError as error:
                raise KeyError(word) from error
    while number > 0:
        number -= 1
    return {k: max(v, -1) for k, v in sorted(found.items(), key=lambda pair: pair[0])}
"""
REHEARSED_ARGUMENTS = (3, ["one", "two", "x"])
REHEARSAL_ROOM = 1 << 16
# Not preloaded, so that it shows whether solutions can still import a module.
NOT_PRELOADED = "colorsys"

# How often to look for the child's end where the system has no pidfd, in seconds.
TICK_S = 0.02
# The name of the working folder, and a descriptor of the folder that it is in.
SCRATCH: dict[str, int] = {}


def load(name: str, **given: object) -> SimpleNamespace:
    """Load a neighbouring file with builtins of its own, which a solution does not patch by
    patching the `builtins` module. It is not put into `sys.modules`. `given`: modules it uses."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py")
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    own = dict(vars(builtins))
    namespace: dict[str, Any] = {"__name__": name, "__builtins__": own, **given}
    exec(code, namespace)  # noqa: S102 - it is our own file
    return SimpleNamespace(**namespace)


if not TYPE_CHECKING:
    codec = load("codec")
    child = load("child")
    checker = load("checker", child=child)
    kernel = load("kernel")
    layers = load("layers", kernel=kernel, seccomp=load("seccomp"))


class AllowedPackages:
    """Finds the installed packages that solutions may import, and no others."""

    def __init__(self, modules: Sequence[str], folders: Sequence[str]) -> None:
        self._modules = frozenset(modules)
        self._folders = list(folders)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find a module at the top level; what is below is found through it."""
        if path is not None or name not in self._modules:
            return None
        return importlib.machinery.PathFinder.find_spec(name, self._folders)


class Zygote:
    """The process's settings and its layers."""

    def __init__(self, control: int, config: dict[str, Any]) -> None:
        self.control = socket.socket(fileno=control)
        self.layers = layers.Layers(
            config["layers"], layers.standard_library() + [(p, 12) for p in config["paths"]]
        )
        sys.meta_path.append(AllowedPackages(config["modules"], config["folders"]))
        self._checks = config["role"] == "check"
        # Loaded in the process that uses it, while files can still be read.
        self._comparing: Any = load("compare") if self._checks else None
        self._memory_mb = config["memory_mb"]
        self._packages = config["modules"]
        # What a child sees as its parent's number: nothing from inside another namespace.
        self._parent_of_children = 0
        self._limits: list[child.Limit] = []
        self._processor: child.Setter | None = None

    def run(self) -> None:
        """Say what is missing, then serve until the judge closes its end."""
        # The environment has nothing of the user's, but Python itself may have added LC_CTYPE.
        os.environ.pop("LC_CTYPE", None)
        kernel.share_one_heap()
        preload(self._packages)
        self.layers.prepare()
        if not self.layers.active("pid-namespace"):
            self._parent_of_children = os.getpid()
        broken = self._broken()
        child.set_limits(child.no_core())
        if self._checks:
            self._confine_itself()
        else:
            # The module `site`, which is left out, would define them; programs use them to exit.
            builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
            rehearse(self.control, codec)
            self._confine_children()
        gc.collect()
        gc.freeze()
        self._tell("ready", self.layers.missing, broken)
        if self._checks:
            while (message := codec.receive(self.control)) is not None:
                self._tell(*self.check(*message))
        else:
            while command := self.control.recv(1):
                if command == codec.FORK:  # an END came too late
                    self.serve()

    def _tell(self, *fields: object) -> None:
        codec.send(self.control, codec.encode(fields, max_bytes=1 << 16))

    def _confine_children(self) -> None:
        """Do beforehand what can be done for all of them."""
        if self.layers.wants("limits"):
            child.set_limits(child.lasting_limits())
            self._limits = child.space_limit(self._memory_mb)
            self._processor = child.processor_setter()
        self.layers.share()

    def _confine_itself(self) -> None:
        """Confine the process of check programs, which are trusted, but work on untrusted values
        and may fail."""
        for name, folder in SCRATCH.items():
            os.rmdir(name, dir_fd=folder)  # impossible later
        self.layers.give_up_privileges()
        self.layers.restrict_files()
        child.set_limits(child.lasting_limits() + child.space_limit(self._memory_mb))
        self.layers.filter_calls()

    def _broken(self) -> str:
        """Return why solutions cannot import anything, if so; leave out a layer that is to
        blame."""
        broken = layers.attempt(self._import_something)
        for layer in ("landlock", "privileges"):
            if broken and self.layers.active(layer):
                self.layers.leave_out(layer, f"Python's library is out of reach with it: {broken}")
                broken = layers.attempt(self._import_something)
        return str(broken)

    def _import_something(self) -> None:
        self.layers.give_up_privileges()
        self.layers.restrict_files()
        importlib.import_module(NOT_PRELOADED)

    def check(
        self, request: bytes, channel: int | None, wall_s: float, most: int
    ) -> tuple[object, ...]:
        """Run one check program, which calls the solution over `channel`; return the note on the
        verdict."""
        fields: Any = codec.decode(request, max_bytes=len(request))
        if channel is None:
            return ("checked", self._compare(*fields))
        source, entry_point = fields
        # The judge kills a program that hangs; this ends it if the judge itself is gone.
        signal.setitimer(signal.ITIMER_REAL, wall_s + child.CLEAR_S)
        try:
            note = checker.run(source, entry_point, channel, most, codec)
        finally:
            os.close(channel)
            signal.setitimer(signal.ITIMER_REAL, 0)
        return ("checked", note)

    def _compare(self, tests: list[tuple[Any, ...]], output: bytes) -> bytes:
        """Judge what a solution wrote; return the note on the verdict."""
        given = [tuple(codec.decode(part, max_bytes=len(part)) for part in test) for test in tests]
        try:
            status, detail, call = self._comparing.verdict_on(output, given, codec)
        except MemoryError:
            status, detail, call = "memory", "its answers are too large to be compared", None
        return codec.encode((status, detail, call), max_bytes=child.NOTE_BYTES)

    def serve(self) -> None:
        """Fork the process of a sample, hand its socket to the judge, and see to its end.

        It is forked while the judge still works on the last sample, but after that one's process
        has ended, so that no sample ever runs beside it.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            try:
                pid = self.layers.fork()
            except OSError as error:
                self._tell("no fork", str(error))
                return
            if pid == 0:
                self._be_a_sample(theirs)
            theirs.close()
            codec.send_socket(self.control, codec.encode(("child",), max_bytes=64), ours)
        reaped: list[Reaped] = []
        end = watch(pid, self.control, reaped)
        status, cpu_s, peak_kb = (
            clear(pid, reaped) if self._parent_of_children else end_namespace(pid)
        )
        if end == codec.GONE:
            end_all()
        self._tell("ended", status, cpu_s, peak_kb)

    def _be_a_sample(self, end: socket.socket) -> NoReturn:
        try:
            parent = self._parent_of_children
            child.confine(self.layers, self._limits, end.fileno(), parent, parent != 0)
            # Its descriptor 3 is another socket of the same kind by now.
            request = child.await_request(self.control, codec)
            source, entry_point, calls, output_bytes, processor_s, given = request
            child.limit_processor(self._processor, processor_s)
            if calls is None:
                child.answer(source, entry_point, output_bytes, given, codec)
            else:
                child.run(source, entry_point, calls, output_bytes, given, codec)
        finally:
            os._exit(0)


def preload(packages: Sequence[str]) -> None:
    """Import what solutions usually import, and the installed packages that they may."""
    # The module random would draw a new seed in each child, which takes long and makes verdicts
    # on solutions that use it vary from run to run.
    register = os.register_at_fork
    os.register_at_fork = lambda **_: None
    for name in PRELOAD:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    os.register_at_fork = register
    sys.modules["random"].seed(0)
    for name in packages:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def rehearse(control: socket.socket, codec: Any) -> None:
    """Do in the zygote what its children will do. `control`: its socket, whose number they use.

    Python caches what it learns while code runs (looked-up methods, specialized instructions,
    addresses of functions). Each child would have to learn it again, and copy the pages of the
    cache.
    """
    saved = os.dup(child.RESULT_FD)
    call = codec.encode((REHEARSED_ARGUMENTS, {}), max_bytes=REHEARSAL_ROOM)
    calls = [codec.encode(REHEARSED_ARGUMENTS, max_bytes=REHEARSAL_ROOM)]
    for number in range(REHEARSALS):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            os.dup2(theirs.fileno(), child.RESULT_FD)
            by_program = number % 2
            fields = (REHEARSED, "f", None if by_program else calls, REHEARSAL_ROOM, 1, "")
            codec.send(ours, codec.encode(fields, max_bytes=REHEARSAL_ROOM))
            source, name, asked, room, _, given = child.await_request(control, codec)
            if by_program:
                codec.send(ours, call)
                ours.shutdown(socket.SHUT_WR)
                child.answer(source, name, room, given, codec)
            else:
                child.run(source, name, asked, room, given, codec)
    os.dup2(saved, child.RESULT_FD, inheritable=False)
    os.close(saved)


def main() -> None:
    config: dict[str, Any] = json.loads(sys.argv[1])
    given, parent = config["fd"], config["parent"]
    # The child would not close a large number, from a test process with many open files.
    control = child.RESULT_FD
    if given != control:
        os.dup2(given, control, inheritable=False)
        os.close(given)
    # If the test process ignores SIGCHLD, this process inherits that and cannot wait for children.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if config["core"] is not None:
        pin(config["core"])
    # Not SIGKILL, or processes of the current sample would live on. It is also sent when the thread
    # that started this process ends, which is not a reason to end.
    signal.signal(signal.SIGTERM, lambda *_: None if os.getppid() == parent else end_all())
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGTERM)
    # Processes that a sample leaves behind become children of this one instead of init.
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != parent:
        return
    # Before entering the namespaces, in which everything is opened read-only.
    SCRATCH[os.path.basename(os.getcwd())] = os.open("..", os.O_RDONLY | os.O_CLOEXEC)
    zygote = Zygote(control, config)
    if zygote.layers.enter():
        pid = os.fork()
        if pid:
            # Only a process outside sees the end of the parent; it then kills the zygote.
            zygote.control.close()
            signal.signal(
                signal.SIGTERM,
                lambda *_: None if os.getppid() == parent else os.kill(pid, signal.SIGKILL),
            )
            os.waitpid(pid, 0)
            return
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.close(SCRATCH.popitem()[1])
    zygote.run()


def pin(core: int) -> None:
    """Stay on one of the cores that this process may use, if the system supports it."""
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[core % len(cores)]})


# -- children, on every system ---------------------------------------------------------------------


def open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def has_ended(pid: int, reaped: list[Reaped]) -> bool:
    """Return whether the child ended, if possible without reaping it: until then nothing else can
    get its number. Python on macOS has no waitid before 3.13."""
    if hasattr(os, "waitid"):
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    result = os.wait4(pid, os.WNOHANG)
    if result[0] == pid:
        reaped.append(result)
    return result[0] == pid


def children() -> list[int]:
    """Return the numbers of this process's children; empty if there is no /proc."""
    me = os.getpid()
    try:
        with open(f"/proc/self/task/{me}/children") as file:
            return [int(number) for number in file.read().split()]
    except OSError:
        pass  # The kernel may have been built without this file.
    numbers = []
    with contextlib.suppress(OSError):
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
                # The command's name, in parentheses, may hold anything.
                if int(file.read().rpartition(")")[2].split()[1]) == me:
                    numbers.append(int(name))
    return numbers


def end_namespace(pid: int) -> tuple[int, float, int]:
    """Kill and reap a child that is the first process of a namespace: all others in it end first.

    A child that has ended stays unreaped until here, so its number is still its own.
    """
    os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    return status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def watch(pid: int, control: socket.socket, reaped: list[Reaped]) -> bytes:
    """Wait until the child ends or the judge wants that: GONE is its own end."""
    pidfd = open_pidfd(pid)
    poller = select.poll()
    for fd in (control.fileno(), pidfd):
        if fd is not None:
            poller.register(fd, select.POLLIN)
    try:
        while True:
            ready = dict(poller.poll(None if pidfd is not None else 1000 * TICK_S))
            if control.fileno() in ready:
                return control.recv(1)
            if has_ended(pid, reaped):
                return codec.END
    finally:
        if pidfd is not None:
            os.close(pidfd)


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
            if os.getpid() == 1:  # in our own namespace, with no other processes
                os.kill(-1, signal.SIGKILL)
            # Killing these makes their own children ours, for the next round.
            for orphan in children():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(orphan, signal.SIGKILL)
            if time.monotonic() > patience:
                os._exit(1)
            time.sleep(0.0005)


def end_all() -> NoReturn:
    clear_rest()
    # The parent removes the scratch folder, our working folder, unless it was killed. A sample may
    # have moved it; in namespaces only the descriptor reaches it.
    with contextlib.suppress(OSError):
        os.rmdir(os.getcwd())
    for name, folder in SCRATCH.items():
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=folder)
    # Nothing is left to clean up, and an ordinary exit takes ten times as long.
    os._exit(0)


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, ConnectionResetError):
        pass
    finally:
        end_all()
