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


def test_a_worker_that_replaces_another_has_its_number() -> None:
    """And so its GPU: by its own name, which grows, it would get one that is not there."""
    numbers = xdist.Numbers()
    assert [numbers.take(name) for name in ("alice", "gw1", "gw2")] == [0, 1, 2]
    numbers.pytest_testnodedown(SimpleNamespace(gateway=SimpleNamespace(id="gw1")))
    assert numbers.take("gw3") == 1
    assert numbers.take("gw4") == 3
    assert numbers.take("gw3") == 1


def test_workers_may_have_names_of_their_own(unlearn_run: UnlearnRun) -> None:
    """As xdist's `--tx` gives them."""
    unlearn_run.lookup()
    names = ("-d", "--tx", "popen//id=alice", "--tx", "popen//id=bob")
    result = unlearn_run(*names, "-k", "forget-00")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*10 passed*"])


# One worker dies; the other waits until there is a third.
CRASH = """
import os, time
class LookupModels(LookupModels):
    def key(self, state):
        if name := os.environ.get("PYTEST_XDIST_WORKER"):
            gpu, log = os.environ.get("CUDA_VISIBLE_DEVICES"), Path(f"{name}.gpu")
            log.write_text(str(gpu))
            try:
                os.close(os.open("crashed", os.O_CREAT | os.O_EXCL))
                os._exit(9)
            except FileExistsError:
                pass
            while len(list(Path().glob("*.gpu"))) < 3:
                time.sleep(0.05)
        return super().key(state)
"""


def test_a_restarted_worker_takes_its_predecessors_gpu(
    unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two GPUs there is no third."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # of the run that runs this test
    unlearn_run.lookup(also=CRASH)
    unlearn_run("-n2", "--unlearn-device=cpu", "-k", "forget-00")
    seen = {path.stem: path.read_text() for path in unlearn_run.pytester.path.glob("*.gpu")}
    assert seen.keys() == {"gw0", "gw1", "gw2"}
    assert {seen["gw0"], seen["gw1"]} == {"0", "1"}
    assert seen["gw2"] in ("0", "1")


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
        (3, 4, "auto", True),
    ],
)
def test_one_worker_a_gpu(
    monkeypatch: pytest.MonkeyPatch, count: int, gpus: int, device: str, fine: bool
) -> None:
    """On a CPU any number of workers is fine."""
    monkeypatch.setattr(xdist, "visible_gpus", lambda: gpus)
    each = [["popen"] * count, [f"{count}*popen"]]
    config: Any = SimpleNamespace(option=SimpleNamespace(tx=each[count % 2]))
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
