"""Under pytest-xdist: GPUs, CPU threads, and progress on the controller's terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_unlearn.session import xdist
from tests.support.lookup_run import UnlearnRun


@pytest.mark.parametrize(
    ("visible", "index", "pinned"),
    [(None, 1, "1"), ("2,3", 0, "2"), ("2,3", 1, "3"), ("GPU-a,GPU-b", 3, "GPU-b"), ("", 0, "")],
)
def test_a_worker_takes_one_of_the_callers_gpus(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, index: int, pinned: str
) -> None:
    """Never one that the caller left out; an empty list stays empty: the CPU was asked for."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    xdist.pin_gpu(xdist.Worker(index, 2))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == pinned


def test_a_single_worker_keeps_all_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its model may be spread over them."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    xdist.pin_gpu(xdist.Worker(0, 1))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"


@pytest.mark.parametrize(
    ("count", "gpus", "device", "fine"),
    [
        (1, 1, "auto", True),
        (2, 2, "auto", True),
        (3, 2, "auto", False),
        (8, 0, "auto", True),
        (8, 2, "cpu", True),
        (2, 2, "cuda:0", False),
        (1, 2, "map", True),
        (2, 2, "map", False),
    ],
)
def test_one_worker_a_gpu(
    monkeypatch: pytest.MonkeyPatch, count: int, gpus: int, device: str, fine: bool
) -> None:
    """On a CPU any number of workers is fine."""
    monkeypatch.setattr(xdist, "visible_gpus", lambda: gpus)
    config: Any = SimpleNamespace(option=SimpleNamespace(tx=["popen"] * count))
    if fine:
        xdist.check(config, device)
    else:
        with pytest.raises(xdist.UserError, match="need a GPU each"):
            xdist.check(config, device)


def test_auto_means_one_worker_a_gpu(
    unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-n auto` with two GPUs starts two workers, however many cores there are."""
    monkeypatch.setattr("pytest_unlearn.session.xdist.visible_gpus", lambda: 2)
    unlearn_run.lookup()
    result = unlearn_run("-n", "auto", "-k", "add-1")
    result.stdout.fnmatch_lines(["*2 workers*"])


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they use each core once; a worker has at least one."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [xdist.Worker(0, n).threads for n in (1, 2, 3, 16)] == [8, 4, 2, 1]


def on_a_terminal(run: UnlearnRun, *arguments: str) -> str:
    """Run pytest with its output on a pseudo-terminal and return what was shown."""
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "pytest", *run.arguments(), *run.gates(arguments), *arguments]
    process = subprocess.Popen(
        command, cwd=run.pytester.path, stdout=terminal, stderr=terminal, stdin=subprocess.DEVNULL
    )
    os.close(terminal)
    shown = b""
    try:
        while block := os.read(controller, 1 << 16):
            shown += block
    except OSError:  # how Linux says that the other end is closed
        pass
    finally:
        os.close(controller)
        process.wait(60)
    return shown.decode()


@pytest.mark.parametrize("extra", [(), ("-n2",)], ids=["serial", "workers"])
def test_progress_on_a_terminal(unlearn_run: UnlearnRun, extra: tuple[str, ...]) -> None:
    """Whoever waits sees what for, also when workers do the work."""
    unlearn_run.lookup()
    assert "[unlearn] base model: 16 completions in" in on_a_terminal(unlearn_run, *extra)


def test_quiet_where_asked_or_not_on_a_terminal(unlearn_run: UnlearnRun) -> None:
    """Not under -q, and not in a log file."""
    unlearn_run.lookup()
    assert "[unlearn]" not in on_a_terminal(unlearn_run, "-q")
    result = unlearn_run(f"--unlearn-store={unlearn_run.pytester.path / 'new'}", subprocess=True)
    assert len(unlearn_run.generated()) > 0
    result.stdout.no_fnmatch_line("*[[]unlearn]*")
