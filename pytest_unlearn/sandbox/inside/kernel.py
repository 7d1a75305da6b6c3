"""The system calls behind the sandbox's layers, by ctypes. Linux only.

The zygote loads this file by its path: it must import nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import sys
from collections.abc import Callable, Iterable
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
_PR_SET_SECCOMP = 22
_M_ARENA_MAX = -8
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION = 0x20080522
_HIGHEST_CAPABILITY = 63

CLONE_NEWPID = 0x20000000
# User, mount, network, IPC and host name.
_CLONE_REST = 0x10000000 | 0x00020000 | 0x40000000 | 0x08000000 | 0x04000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = -100, 0x8000, 1

# The same numbers on every machine.
_MOUNT_SETATTR, _CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 442, 444, 445, 446
_O_PATH = 0o10000000
_RULE_PATH_BENEATH = 1
_WRITE_FILE, READ_FILE, READ_DIR = 2, 4, 8
# How many rights of the file system each version of Landlock knows.
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_TCP, _SCOPES = 0b11, 0b11  # bind and connect; abstract sockets and signals


def linux() -> bool:
    """Return whether there is a Linux kernel to ask."""
    return sys.platform.startswith("linux")


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


_LIBC = _library() if linux() else None


@functools.cache
def _function(name: str) -> Any:
    function = getattr(_LIBC, name)
    function.restype = ctypes.c_long
    return function


def _prepared(name: str, *arguments: object) -> Callable[[], int]:
    """Return a call of a function of the C library, integers as longs, which raises OSError.

    Everything possible is prepared beforehand: right after a fork, creating or looking up objects
    copies the pages that they are on.
    """
    if _LIBC is None:
        raise OSError(f"{name} is a call of Linux")
    function = _function(name)
    given = [ctypes.c_long(a) if type(a) is int else a for a in arguments]

    def call() -> int:
        result: int = function(*given)
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")
        return result

    return call


def _call(name: str, *arguments: object) -> int:
    """Call a function of the C library at once. Raises OSError."""
    return _prepared(name, *arguments)()


def prctl(option: int, value: int = 0) -> None:
    """Call prctl with one argument; does nothing on another system. Raises OSError."""
    if linux():
        _call("prctl", option, value, 0, 0, 0)


def share_one_heap() -> None:
    """Keep the C library from giving each thread its own heap.

    Each would take 64 MiB of the address space that a solution may use, and sixteen threads would
    take more than it has.
    """
    mallopt = getattr(_LIBC, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def dying_with_parent() -> Callable[[], int]:
    """Return the call that has this process killed when its parent ends."""
    return _prepared("prctl", PR_SET_PDEATHSIG, 9, 0, 0, 0)


def no_new_privileges() -> None:
    """Let no program that is run from now on gain privileges, as sudo would."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def shrink_bounding_set() -> None:
    """Give up capabilities that a program run as root would get back. Raises OSError."""
    for number in range(_HIGHEST_CAPABILITY + 1):
        try:
            prctl(_PR_CAPBSET_DROP, number)
        except OSError:
            return  # past the last one that this kernel knows, or not allowed to give any up


def dropping_capabilities() -> Callable[[], int]:
    """Return the call that gives up every capability of this process."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    return _prepared("capset", header, bytes(24))


def has_capabilities() -> bool:
    """Return whether this process holds any capability. Raises OSError."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION, 0))
    data = ctypes.create_string_buffer(24)
    _call("capget", header, data)
    return any(data.raw)


class Filter:
    """A seccomp filter, ready to be installed.

    `places`: where in the program, in bytes, the number of the process is to be put in.
    """

    def __init__(self, program: bytes, places: Iterable[int] = ()) -> None:
        self._code = ctypes.create_string_buffer(program, len(program))
        head = struct.pack("@HP", len(program) // 8, ctypes.addressof(self._code))
        self._places = tuple(places)
        self._install = _prepared("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, head, 0, 0)

    def install(self, pid: int) -> None:
        """Have the kernel run it from here on; cannot be undone. Raises OSError."""
        for place in self._places:
            struct.pack_into("=I", self._code, place, pid)
        self._install()


def make_ruleset(readable: Iterable[tuple[str, int]], writable: Iterable[str]) -> int:
    """Return the descriptor of a Landlock ruleset: nothing but this may be opened.

    `readable`: paths with READ_FILE, READ_DIR or both, each for all that is below. `writable`:
    files such as /dev/null. Paths that do not exist are left out. Raises OSError if the kernel has
    no Landlock.
    """
    version = _call("syscall", _CREATE_RULESET, None, 0, 1)
    handled = (1 << _RIGHTS.get(version, 16)) - 1
    attributes = struct.pack(
        "=QQQ", handled, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0
    )
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _call("syscall", _CREATE_RULESET, attributes, size, 0)
    for path, rights in readable:
        allow(ruleset, path, rights)
    for path in writable:
        allow(ruleset, path, READ_FILE | _WRITE_FILE)
    return ruleset


def allow(ruleset: int, path: str, rights: int) -> None:
    """Add a path with its rights to a ruleset; one that does not exist is left out."""
    try:
        folder = os.open(path, _O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(path):
            rights &= ~READ_DIR
        if rights:
            rule = struct.pack("=Qi", rights, folder)
            _call("syscall", _ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(folder)


def restricting_files(ruleset: int) -> Callable[[], int]:
    """Return the call that confines this process to a ruleset; it cannot be undone."""
    return _prepared("syscall", _RESTRICT_SELF, ruleset, 0)


def enter_namespaces() -> None:
    """Move into new namespaces, and the next child into a new PID namespace.

    There is no network but an unconnected loopback, every mount is read-only, and /proc is
    empty. Raises OSError.
    """
    user, group = os.getuid(), os.getgid()
    _call("unshare", _CLONE_REST | CLONE_NEWPID)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")
    read_only = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
    _call("syscall", _MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, read_only, len(read_only))


def hide_processes() -> None:
    """Mount an empty folder over /proc. Raises OSError."""
    flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _call("mount", b"none", b"/proc", b"tmpfs", flags, b"size=4k")


def show_own_processes() -> None:
    """Mount a /proc of this PID namespace alone. Raises OSError."""
    flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _call("mount", b"proc", b"/proc", b"proc", flags, None)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def next_child_in_namespace() -> Callable[[], int]:
    """Return the call that lets the next child be the first process of a new PID namespace."""
    return _prepared("unshare", CLONE_NEWPID)


def children_here(namespace: int) -> Callable[[], int]:
    """Return the call that lets children be born in the PID namespace with this descriptor."""
    return _prepared("setns", namespace, CLONE_NEWPID)
