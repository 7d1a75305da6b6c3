"""How a run may end before its verdict: by a signal, by `os._exit`, or without a word."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pytest_unlearn.core.errors import plain

# The signals of a scheduler or a container that ends a job, and of a terminal that closes.
_ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def ending_signals(controller: bool) -> Iterator[Callable[[], None]]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, so that reports have what was measured.

    Yields a function that ignores them until the block ends: CI sends SIGTERM seconds after SIGINT,
    while reports are being written. A worker ends with its controller. A signal that is already
    handled or ignored (`nohup`) is left alone.
    """
    main = threading.current_thread() is threading.main_thread()
    mine = [n for n in _ENDING if controller and main and signal.getsignal(n) is signal.SIG_DFL]

    def end(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt(signal.Signals(number).name)

    def react(how: Any) -> None:
        for number in mine:
            signal.signal(number, how)

    react(end)
    try:
        yield lambda: react(signal.SIG_IGN)
    finally:
        react(signal.SIG_DFL)


class NoSilentEnd:
    """Lets nothing end this process by `os._exit(0)` unless a verdict stands: the code is 2 then.

    pytest learns nothing of `os._exit`, writes nothing and would seem to have passed. Processes
    that were forked are left alone. `stands` returns whether the verdict was given and the exit
    code is 0. C's own `exit` cannot be seen from here.
    """

    def __init__(self, config: pytest.Config, clean: Callable[[str], str]) -> None:
        """`clean` returns a text without values: ids of tests may contain some."""
        self.stands: Callable[[], bool] = lambda: False
        self._config = config
        self._clean = clean
        self._leave = os._exit
        self._process = os.getpid()
        os._exit = self._exit
        config.add_cleanup(self._restore)

    def _restore(self) -> None:
        os._exit = self._leave

    def _exit(self, status: int) -> NoReturn:
        # Of a status, the system keeps eight bits: 256 is 0.
        if os.getpid() == self._process and not status & 0xFF and not self.stands():
            test = self._clean(os.environ.get("PYTEST_CURRENT_TEST", "outside a test"))
            self._say(
                f"NO VERDICT: the process was ended by os._exit({status}) before the run was judged"
                f" ({plain(test)}); exit code 2"
            )
            status = int(pytest.ExitCode.INTERRUPTED)
        self._leave(status)

    def _say(self, line: str) -> None:
        plugins = self._config.pluginmanager
        reporter: Any = plugins.get_plugin("terminalreporter")
        capture: Any = plugins.get_plugin("capturemanager")
        with contextlib.suppress(OSError, ValueError):  # the code has to be told in any case
            if capture is not None:
                capture.suspend_global_capture(in_=False)
            if reporter is not None:
                reporter.ensure_newline()
                reporter.write_line(line)
                reporter.flush()


def remove_earlier(reports: Iterable[Path]) -> None:
    """Remove the reports of an earlier run, so that a run that dies leaves none that seems to be
    its own.

    What is not a plain file (`/dev/stdout`), or cannot be removed, is left alone.
    """
    for path in reports:
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink():
                path.unlink()
