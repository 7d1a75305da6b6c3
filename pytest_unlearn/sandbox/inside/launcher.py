"""Runs one program of another language in a sandbox of its own. Started as
`python -I -S -B launcher.py CONFIG`, in the folder that holds the program.

The layers are those of Python solutions (`layers`), except that a runtime needs a few more system
calls, may run the programs it consists of, and sees itself in /proc, in a namespace of its own. Its
standard output is the judge's pipe; this process ends with the runtime's exit status.

This file and those that it loads must import nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from pytest_unlearn.sandbox.inside import child, codec, kernel, layers, seccomp

if not TYPE_CHECKING:
    _HERE = os.path.dirname(os.path.abspath(__file__))
    _ZYGOTE = runpy.run_path(os.path.join(_HERE, "zygote.py"))
    child, codec, kernel, layers = map(_ZYGOTE.get, ("child", "codec", "kernel", "layers"))
    seccomp = vars(layers)["seccomp"]
# Read a file or a folder's listing, and run it.
_RUN = 13
# What node and a JVM need and a Python solution does not. They cannot fork, so what they run
# replaces them and stays in the sandbox.
_CALLS = "execve readlink readlinkat statfs fstatfs sched_setaffinity".split()
# A runtime reserves much more address space than it uses; the judge watches what it uses.
_SPACE = 8 << 30
_FILES = 256


class RuntimeLayers(layers.Layers):
    """The layers around a runtime."""

    def _make_filters(self) -> None:
        if self._machine not in seccomp.TABLES:
            raise RuntimeError(f"no table of system calls for {self._machine}")
        common = seccomp.build(self._machine, not self.active("landlock"), _CALLS)
        own = seccomp.build_own(self._machine, layers._SOME_PID)
        number = layers._SOME_PID.to_bytes(4, sys.byteorder)
        places = [at for at in range(0, len(own), 4) if own[at : at + 4] == number]
        self._filters = (kernel.Filter(common), kernel.Filter(own, places))

    def confine(self) -> None:
        """In the runtime's process: put on what works here."""
        os.setsid()
        self.die_with_parent()
        if self.active("pid-namespace"):
            kernel.show_own_processes()
            if self.active("landlock"):
                kernel.allow(self._ruleset, "/proc", kernel.READ_FILE | kernel.READ_DIR)
        self.give_up_privileges()
        self.restrict_files()
        if self.wants("limits"):
            child.set_limits(child.no_core() + child.lasting_limits(_FILES))
            child.set_limits(child._allowed({"RLIMIT_AS": (_SPACE, _SPACE)}))
        os.closerange(3, child.HIGHEST_FD)
        self.filter_calls()


def main() -> NoReturn:
    config: dict[str, Any] = json.loads(sys.argv[1])
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    readable = [(path, _RUN) for path in config["paths"]]
    own = RuntimeLayers(config["layers"], [*layers.standard_library(), *readable])
    if own.enter():
        pid = os.fork()
        if pid:
            _end_as(pid)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    own.prepare()
    lacking = {name: own.missing[name] for name in config["needed"] if name in own.missing}
    if lacking:
        os.write(2, json.dumps(lacking).encode())
        os._exit(codec.FAILED)
    pid = own.fork()
    if pid == 0:
        try:
            own.confine()
            os.execve(config["command"][0], config["command"], config["environment"])
        except BaseException as error:
            os.write(2, str(error).encode(errors="replace"))
        finally:
            os._exit(codec.FAILED)
    _end_as(pid)


def _end_as(pid: int) -> NoReturn:
    """End as a child did: 128 and the number of the signal that ended it, or its status."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os._exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
