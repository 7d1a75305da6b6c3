"""Questions to the system about a zygote's children, on every system that has an answer.

The zygote loads this file by its path: it must import nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import resource

# What wait4 returns: number, status and usage.
Reaped: TypeAlias = "tuple[int, int, resource.struct_rusage]"


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


def end_namespace(pid: int) -> tuple[int, float, int]:
    """Kill and reap a child that is the first process of a namespace: all others in it end first.

    A child that has ended stays unreaped until here, so its number is still its own.
    """
    os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    return status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss
