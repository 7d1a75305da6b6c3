"""The layers around a solution: which ones this system has, found by trying, and how to apply them.

Every layer is optional, so that a kernel or container that lacks one still gets the others; missing
layers are reported to the judge, never dropped silently. Reports list them in the order of
`LAYERS`.

The zygote loads this file by its path: it must import nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    # The zygote puts these two in place.
    from pytest_unlearn.sandbox.inside import kernel, seccomp

LAYERS = (
    "parent-death",
    "limits",
    "privileges",
    "landlock",
    "seccomp",
    "namespaces",
    "pid-namespace",
)
WRITABLE = ("/dev/null",)
# The address space that a probe allows itself, and then tries to exceed.
_PROBE_BYTES = 1 << 33
_REASON_BYTES = 300
# Stands for a process's own number, which is only known once the process exists.
_SOME_PID = 0x7A3C5E19


class Layers:
    """The layers in force in one zygote."""

    def __init__(self, asked: Sequence[str], readable: Sequence[tuple[str, int]]) -> None:
        """`asked`: which to put on where the system has them. `readable`: paths that a solution
        may read, each with 4 (files), 8 (folders' listings) or both."""
        self.missing: dict[str, str] = {}
        self._asked = frozenset(asked)
        self._readable = readable
        self._machine = os.uname().machine
        self._ruleset = -1
        self._filters: tuple[kernel.Filter, ...] = ()
        # Whether the zygote has put on what it can, and its children inherit that.
        self._shared = False
        self._calls: dict[str, Callable[[], int]] = {}

    def active(self, layer: str) -> bool:
        """Return whether a layer was asked for and works here."""
        return self.wants(layer) and layer not in self.missing

    def wants(self, layer: str) -> bool:
        """Return whether a layer was asked for, to be applied as far as the system allows."""
        return layer in self._asked

    def enter(self) -> bool:
        """Move into namespaces, if they work here; tell whether a child has to be the zygote."""
        self._try("namespaces", self._namespaces_work)
        if not self.active("namespaces"):
            if "pid-namespace" in self._asked:
                self.missing["pid-namespace"] = "needs namespaces"
            return False
        kernel.enter_namespaces()
        return True

    def prepare(self) -> None:
        """In the zygote: try every other layer in a process of its own."""
        if self.active("namespaces"):
            # Another PID namespace, or none any more: by descriptor, /proc is hidden next.
            here = os.open("/proc/thread-self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            kernel.hide_processes()
            self._calls["here"] = kernel.children_here(here)
            self._calls["apart"] = kernel.next_child_in_namespace()
        if "landlock" in self._asked:
            try:
                self._ruleset = kernel.make_ruleset(self._readable, WRITABLE)
                self._calls["landlock"] = kernel.restricting_files(self._ruleset)
            except OSError as error:
                self.missing["landlock"] = str(error)
        if self.active("privileges"):
            kernel.shrink_bounding_set()
        if kernel.linux():
            self._calls["parent-death"] = kernel.dying_with_parent()
            self._calls["privileges"] = kernel.dropping_capabilities()
        self._try("parent-death", self.die_with_parent)
        self._try("limits", self._limits_work)
        self._try("privileges", self._privileges_work)
        self._try("landlock", self._files_are_restricted)
        self._try("seccomp", self._calls_are_filtered)
        if self.active("seccomp"):
            self._make_filters()
        self._try("pid-namespace", self._first_of_its_own)

    def leave_out(self, layer: str, reason: str) -> None:
        """Leave out a layer that works in principle, but not here."""
        self.missing[layer] = reason
        if self.active("seccomp"):
            self._make_filters()

    def _try(self, layer: str, probe: Callable[[], object]) -> None:
        if self.active(layer):
            reason = attempt(probe)
            if reason:
                self.missing[layer] = reason

    # -- putting them on, in the process of a sample ------------------------------------------

    def share(self) -> None:
        """In the zygote: apply, once, the layers that its children need and it can work under.

        This is done only if children cannot see the zygote. Otherwise they could reach it as an
        equal, and it has to look for what they leave behind.
        """
        if self.active("pid-namespace"):
            self._gain_nothing()
            self.restrict_files()
            if self.active("seccomp"):
                self._filters[0].install(0)
            self._shared = True

    def die_with_parent(self) -> None:
        """Be killed when the zygote ends."""
        if self.active("parent-death"):
            if not kernel.linux():
                raise OSError("this system has no PR_SET_PDEATHSIG")
            self._calls["parent-death"]()

    def give_up_privileges(self) -> None:
        """Hold no capability and gain none."""
        if not self._shared:
            self._gain_nothing()
        if self.active("privileges"):
            self._calls["privileges"]()

    def _gain_nothing(self) -> None:
        if self.active("privileges") or self.active("landlock") or self.active("seccomp"):
            kernel.no_new_privileges()  # the other two ask for it as well

    def restrict_files(self) -> None:
        """Open nothing but what a solution may read; no network address, no outside process."""
        if self.active("landlock") and not self._shared:
            self._calls["landlock"]()

    def filter_calls(self) -> None:
        """Make no system call that a solution does not need."""
        if self.active("seccomp"):
            pid = os.getpid()
            for program in self._filters[1:] if self._shared else self._filters:
                program.install(pid)

    def fork(self) -> int:
        """Fork the process of a sample, where possible as the first of a PID namespace."""
        if not self.active("pid-namespace"):
            return os.fork()
        self._calls["apart"]()
        try:
            pid = os.fork()
        except OSError:
            self._calls["here"]()
            raise
        if pid:
            self._calls["here"]()
        return pid

    # -- whether they work, each tried in a process of its own ---------------------------------

    def _limits_work(self) -> None:
        import resource

        highest = resource.getrlimit(resource.RLIMIT_AS)[1]  # `ulimit -v` may have set one
        most = _PROBE_BYTES if highest == resource.RLIM_INFINITY else min(_PROBE_BYTES, highest)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        with contextlib.suppress(OSError):
            mmap.mmap(-1, most).close()
            raise RuntimeError("the limit on memory has no effect")

    def _privileges_work(self) -> None:
        if not kernel.linux():
            raise OSError("this system has no capabilities to give up")
        self.give_up_privileges()
        if kernel.has_capabilities():
            raise RuntimeError("capabilities stay")

    def _files_are_restricted(self) -> None:
        kernel.no_new_privileges()
        self.restrict_files()
        _must_fail("files stay open to it", lambda: os.listdir("/"))

    def _make_filters(self) -> None:
        if self._machine not in seccomp.TABLES:
            raise RuntimeError(f"no table of system calls for {self._machine}")
        # Landlock knows better which files may be written; without it, none may.
        common = seccomp.build(self._machine, not self.active("landlock"))
        own = seccomp.build_own(self._machine, _SOME_PID)
        number = _SOME_PID.to_bytes(4, sys.byteorder)
        places = [at for at in range(0, len(own), 4) if own[at : at + 4] == number]
        self._filters = (kernel.Filter(common), kernel.Filter(own, places))

    def _calls_are_filtered(self) -> None:
        self._make_filters()
        kernel.no_new_privileges()
        self.filter_calls()
        _must_fail("sockets stay open to it", lambda: socket.socket().close())

    def _namespaces_work(self) -> None:
        kernel.enter_namespaces()
        if [name for _, name in socket.if_nameindex()] != ["lo"]:
            raise RuntimeError("the network stays visible")
        _must_fail("files stay writable", lambda: os.mkdir("probe"))
        if attempt(kernel.hide_processes):
            raise RuntimeError("/proc cannot be hidden")

    def _first_of_its_own(self) -> None:
        pid = self.fork()
        if pid == 0:
            os._exit(0 if os.getpid() == 1 else 1)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            raise RuntimeError("a child is not the first process")


def attempt(probe: Callable[[], object]) -> str:
    """Run a probe in a process of its own; return the reason why it failed, or an empty text."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        reason = "the probe ended early"
        try:
            probe()
            reason = ""
        except BaseException as error:
            reason = str(error) or type(error).__name__
        finally:
            os.write(theirs, b"=" + reason.encode(errors="replace")[:_REASON_BYTES])
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as file:
        answer = file.read()
    os.waitpid(pid, 0)
    return answer[1:].decode(errors="replace") if answer else "the probe was killed"


def _must_fail(complaint: str, action: Callable[[], object]) -> None:
    with contextlib.suppress(OSError):
        action()
        raise RuntimeError(complaint)


def standard_library() -> list[tuple[str, int]]:
    """The paths that Python itself needs to be read, without installed packages: those may hold
    the answers. Each with 4 (files), 8 (folders' listings) or both."""
    import sysconfig

    paths = [("/usr/share/zoneinfo", 12), ("/etc/localtime", 4), ("/dev/urandom", 4)]
    paths += [("/dev/null", 4), ("/dev/zero", 4), ("/etc/ld.so.cache", 4), (os.getcwd(), 8)]
    roots = {os.path.dirname(os.__file__), sysconfig.get_path("stdlib")}
    roots |= {path for path in sys.path if os.path.isdir(path)}
    paths += [(root, 8) for root in roots]  # the import system lists them
    architecture = getattr(sys.implementation, "_multiarch", "")
    folders = [f"{usr}/{name}" for usr in ("", "/usr") for name in ("lib", "lib64")]
    # The system's folders; if there is no such folder, Python's libraries are among the system's.
    paths += [(f"{folder}/{architecture}", 4) for folder in folders if architecture]
    for root in [*roots, *folders]:
        with contextlib.suppress(OSError):
            for entry in os.scandir(root):
                ours = root in roots and not entry.name.endswith("-packages")
                if ours or ".so" in entry.name:
                    paths.append((entry.path, 12))
    return list(dict.fromkeys(paths))
