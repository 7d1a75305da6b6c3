"""What phases cost adds up over blocks and processes."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from pytest_unlearn.run import provenance
from pytest_unlearn.run.provenance import Phase, Phases


def test_seconds_add_up_and_the_most_memory_counts() -> None:
    """Of two workers that each held a model, one figure: what a process needs."""
    found = Phases()
    found.add(Phase("models", 2.0, 500, None))
    found.add(Phase("scores", 1.0, 10, 7, "H100"))
    found.add(Phase("models", 3.0, 400, 9, "H100"))
    found.add(Phase("models", 0.0, 300))
    assert found.all() == [
        Phase("models", 5.0, 500, 9, "H100"),
        Phase("scores", 1.0, 10, 7, "H100"),
    ]


def test_a_block_is_measured_also_where_it_fails() -> None:
    """Wall time and the process's peak, which is megabytes and not kilobytes or terabytes."""
    found = Phases()
    with pytest.raises(ValueError, match="negative"), found.measure("models"):
        time.sleep(-1)
    assert len(found.all()) == 1
    with found.measure("models"):
        time.sleep(0.02)
    (phase,) = found.all()
    assert phase.name == "models"
    assert 0.02 <= phase.seconds < 20
    assert 10 * 2**20 < phase.memory < 2**42


def test_gpu_memory_is_asked_only_of_a_torch_that_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is imported for it, and no GPU is woken."""
    cuda = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        max_memory_allocated=lambda: 42,
        get_device_name=lambda: "H100",
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert provenance.gpu_in_use() == (42, "H100")
    cuda.is_initialized = lambda: False
    assert provenance.gpu_in_use() == (None, None)
    monkeypatch.delitem(sys.modules, "torch")
    assert provenance.gpu_in_use() == (None, None)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_memory_is_that_of_the_process_alone() -> None:
    """Not of the larger one that started it, as `getrusage` has it."""
    held = bytearray(b"x" * 300_000_000)
    code = "from pytest_unlearn.run.provenance import peak_memory; print(peak_memory())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert 2**20 < int(said) < len(held) / 2
