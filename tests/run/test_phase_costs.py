"""Memory and time of a run's phases, on assumed machines and on measured ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.models.architecture import Architecture
from pytest_unlearn.models.presets import presets
from pytest_unlearn.run.phase_costs import Training, machines, training_cost

SHAPE = Architecture.of(presets()["codeqwen"].config)
# Two rows of 2,048 tokens, as benchmarks/gpu.py takes them.
STEP = Training(
    name="unlearn",
    tokens=4096,
    steps=100,
    looked=1000,
    check_every=10,
    tune="lora",
    rank=32,
    optimizer="adamw",
    accumulate=1,
    checkpointing=True,
    base_passes=1,
)
SPEEDS = {
    "kind": "cuda",
    "name": "NVIDIA X",
    "training_flops": 4e14,
    "scoring_flops": 3e14,
    "bandwidth": 2e12,
    "layer_seconds": 2e-5,
}


def cost(training: Training, speeds: Path | None = None, dtype: str = "auto") -> tuple[float, ...]:
    (machine,) = machines("cuda", dtype, speeds)
    found = training_cost(training, SHAPE, SHAPE.parameters, machine)
    return found.weights, found.trained, found.passes, found.seconds


def test_a_7b_step_fits_24_gb_with_checkpoints_and_not_without() -> None:
    weights, trained, passes, _ = cost(STEP)
    assert weights == 2 * SHAPE.parameters
    assert weights + trained + passes < 24e9
    assert sum(cost(replace(STEP, checkpointing=False))[:3]) > 24e9
    halved = replace(STEP, checkpointing=False, accumulate=2)
    assert cost(halved)[2] < cost(replace(STEP, checkpointing=False))[2]
    assert cost(replace(STEP, optimizer="adamw8bit"))[1] < trained
    full = replace(STEP, tune="full")
    assert cost(full)[1] == 16 * SHAPE.parameters  # masters, gradients, two moments
    assert cost(replace(full, keeps_base=True))[1] == 18 * SHAPE.parameters
    assert cost(full, dtype="float32")[:2] == (4 * SHAPE.parameters, 12 * SHAPE.parameters)


def test_measured_speeds_take_the_place_of_assumed_ones(tmp_path: Path) -> None:
    file = tmp_path / "speeds.json"
    file.write_text(json.dumps(SPEEDS))
    assert cost(STEP, file)[3] < cost(STEP)[3]
    assert [m.name for m in machines("auto", "auto", file)][1] == "NVIDIA X (measured)"
    assert [m.kind for m in machines("cpu", "auto", file)] == ["cpu"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        (json.dumps({**SPEEDS, "kind": "tpu"}), "KeyError"),
        (json.dumps({**SPEEDS, "bandwidth": "fast"}), "ValueError"),
        (json.dumps({**SPEEDS, "bandwidth": 0}), "0 or less"),
        (None, "FileNotFoundError"),
    ],
)
def test_a_file_without_speeds_is_refused(tmp_path: Path, text: str | None, named: str) -> None:
    file = tmp_path / "speeds.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=f"--unlearn-speeds=.*{named}"):
        machines("auto", "auto", file)
