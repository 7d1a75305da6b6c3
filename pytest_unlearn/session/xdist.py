"""This process under pytest-xdist: its share of CPUs and GPUs, and its progress."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.secret import current_key, new_key, use_key
from pytest_unlearn.run.provenance import Phase, Phases

# The controller's terminal, which the workers get, since they have none.
TERMINAL_INPUT = "unlearn_terminal"
# The run's fingerprint key, in hex: a value has the same fingerprint on all workers.
KEY_INPUT = "unlearn_fingerprint_key"
# The least number of seconds between two lines of progress in a log.
LOG_SECONDS = 30.0
# A worker's number. Its name (`gw0`) may be the user's own, and changes with each restart.
NUMBER_INPUT = "unlearn_number"
# What a worker spent in each phase, which the controller gets when the worker ends.
PHASES_OUTPUT = "unlearn_phases"


@dataclass(frozen=True, slots=True)
class Worker:
    """An xdist worker: its number from 0, how many there are, and its CPU threads."""

    index: int
    count: int

    @property
    def threads(self) -> int:
        """CPU threads for generation, so that all workers together use each core once."""
        return max(1, (os.cpu_count() or 1) // self.count)


def this_worker(config: pytest.Config) -> Worker | None:
    """Return this process's place among the workers; None on the controller or without xdist."""
    workerinput = getattr(config, "workerinput", None)
    if workerinput is None:
        return None
    return Worker(int(workerinput[NUMBER_INPUT]), int(workerinput["workercount"]))


class Numbers:
    """Numbers the workers from 0. A worker's number decides its GPU and its cores.

    A worker that replaces a crashed one takes its number, which is the lowest free one.
    """

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def take(self, worker: str) -> int:
        """Return the number of the worker with this name."""
        free = next(n for n in itertools.count() if n not in self._taken.values())
        return self._taken.setdefault(worker, free)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Free the number of a worker that has ended or crashed."""
        self._taken.pop(node.gateway.id, None)


def tell(config: pytest.Config, workerinput: dict[str, object], numbers: Numbers) -> None:
    """Give an xdist worker its number, the terminal for progress, and the run's fingerprint key."""
    workerinput[NUMBER_INPUT] = numbers.take(str(workerinput["workerid"]))
    workerinput[TERMINAL_INPUT] = terminal_of(config)
    workerinput[KEY_INPUT] = current_key().hex()


def choose_key(config: pytest.Config, given: str | None) -> None:
    """Set the run's fingerprint key: the one given, the controller's, or a new one."""
    workerinput = getattr(config, "workerinput", None)
    if workerinput is not None:
        use_key(bytes.fromhex(workerinput[KEY_INPUT]))
    else:
        use_key(given.encode() if given else new_key())


class PhaseCollector:
    """Collects what the workers spent in each phase when they end."""

    def __init__(self, phases: Phases) -> None:
        self._phases = phases

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        # A worker that crashed has no output.
        for row in (getattr(node, "workeroutput", None) or {}).get(PHASES_OUTPUT, ()):
            self._phases.add(Phase(**row))


def report_phases(config: pytest.Config, phases: Phases) -> None:
    """Pass what this worker spent on to the controller."""
    output: dict[str, Any] = config.workeroutput  # type: ignore[attr-defined]
    output[PHASES_OUTPUT] = [asdict(phase) for phase in phases.all()]


def visible_gpus() -> int:
    """Return the number of GPUs that this process may use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def check(config: pytest.Config, device: str) -> None:
    """Raise UserError for more workers than there are GPUs to hold a model, and for pytest-forked.

    A model fills a GPU, so each worker needs one of its own; on a CPU there is no limit. A model
    that is spread over all GPUs leaves room for one worker only, and needs several GPUs. Under
    pytest-forked, each test would have to load the models again.
    """
    if getattr(config.option, "forked", False):
        raise UserError(
            "--forked: pytest-forked runs each test in a process of its own, which would load the "
            "models again; leave it out (solutions run in their own processes anyway)"
        )
    count = _workers(getattr(config.option, "tx", None) or ())
    if device == "map" and (gpus := visible_gpus()) < 2:
        raise UserError(
            f"--unlearn-device=map spreads a model over several GPUs, and there "
            f"{'is' if gpus == 1 else 'are'} {gpus or 'none'}; write "
            f"--unlearn-device={'cuda' if gpus else 'cpu'}"
        )
    if count <= 1 or device == "cpu":
        return
    gpus = visible_gpus()
    if device != "auto" and gpus == 0:
        return  # loading the model reports that there is no GPU
    room = 1 if ":" in device or device == "map" else gpus
    if room and count > room:
        raise UserError(
            f"-n {count}: {count} workers need a GPU each, and there "
            f"{'is' if room == 1 else 'are'} {room}; write -n {room}, or --unlearn-device=cpu"
        )


def _workers(specs: Sequence[str]) -> int:
    """Return how many workers `--tx` asks for: `2*popen` is two."""
    numbers = (spec.partition("*")[0] for spec in specs)
    return sum(int(number) if number.isdigit() else 1 for number in numbers)


def check_alone() -> None:
    """Raise UserError if a launcher started this run several times."""
    count = os.environ.get("WORLD_SIZE", "1")
    if count != "1":
        raise UserError(
            f"{count} processes (WORLD_SIZE) would each run all tests; train in them with "
            "`accelerate launch -m pytest_unlearn.train` and the same flags, then run pytest alone"
        )


def pin_gpu(worker: Worker) -> None:
    """Restrict this worker to one of the visible GPUs; call this before torch is imported.

    A single worker keeps all of them: the model may need more than one.
    """
    if worker.count == 1:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(worker.index)
    elif visible:
        names = visible.split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = names[worker.index % len(names)]


def terminal_of(config: pytest.Config) -> str | None:
    """Return the file through which any process can show progress, or None.

    It is a terminal, or the pipe that a CI system reads. A regular file has only one position, so
    several processes cannot write into it.
    """
    workerinput = getattr(config, "workerinput", None)
    if workerinput is not None:
        name = workerinput.get(TERMINAL_INPUT)
        return str(name) if name else None
    if config.get_verbosity() < 0:
        return None
    try:
        return os.ttyname(1)
    except (OSError, AttributeError):  # no terminal, or a system without them
        pipe = Path(f"/proc/{os.getpid()}/fd/1")
        return str(pipe) if pipe.is_fifo() else None


def progress_printer(config: pytest.Config) -> Callable[[str], None]:
    """Return a function that shows a line of progress, despite pytest's capture of output.

    A terminal gets every line; a log gets one in `LOG_SECONDS`, so that a long run shows that it is
    alive and a short one stays quiet.
    """
    terminal = terminal_of(config)
    log = terminal is None or terminal.startswith("/proc")
    shown = time.monotonic()

    def show(message: str) -> None:
        nonlocal shown
        if log and time.monotonic() - shown < LOG_SECONDS:
            return
        shown = time.monotonic()
        reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
        capture: Any = config.pluginmanager.get_plugin("capturemanager")
        if terminal is not None:
            with contextlib.suppress(OSError), open(terminal, "w", encoding="utf-8") as screen:
                screen.write(f"\n[unlearn] {message} " + "\n" * log)
        elif reporter is not None and config.get_verbosity() >= 0:
            with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
                reporter.ensure_newline()
                reporter.write_line(f"[unlearn] {message}")

    return show
