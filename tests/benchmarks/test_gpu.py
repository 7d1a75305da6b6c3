"""The GPU benchmark runs on a CPU in small, and counts its operations right."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pytest_unlearn.models.batches import collate
from pytest_unlearn.models.footprint import machines
from pytest_unlearn.models.loading import peft_quietly
from pytest_unlearn.models.presets import presets

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    """The script as a module."""
    import sys

    spec = importlib.util.spec_from_file_location("benchmark_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["benchmark_gpu"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_runs_in_small(gpu: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A line for each figure of every preset of 7B, no verdict, and speeds that the plan takes."""
    large = ("codeqwen", "codellama", "aixcoder", "qwen2.5-coder", "starcoder2", "deepseek-coder")
    assert large == gpu.LARGE
    speeds = tmp_path / "speeds.json"
    assert gpu.main(["--small", f"--speeds={speeds}"]) == 0
    out = capsys.readouterr().out
    assert "no GPU: small configurations" in out
    rows = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("| ")]
    assert not {"PASS", "FAIL"} & {cell for row in rows for cell in row}
    for name in large:
        own = {row[1]: float(row[2].split()[0].replace(",", "")) for row in rows if row[0] == name}
        assert all(value > 0 for value in own.values())
        whats = " ".join(own)
        for what in ("LoRA step by ga+kl", "LoRA step by npo+kl", "records scored", "attack int4"):
            assert what in whats
    assert "| tiny | records scored by transformers |" in out
    (machine,) = machines("cpu", "auto", speeds)
    assert machine.name == "CPU, small configurations (measured)"


def test_goals_are_judged_on_a_gpu_only(gpu: ModuleType) -> None:
    share = gpu.Figure("codeqwen", "share", 0.44, "", least=0.45)
    assert [share.verdict(judged) for judged in (True, False)] == ["FAIL", "NOT EVALUATED"]
    assert gpu.Figure("codeqwen", "share", 0.45, "", least=0.45).verdict(True) == "PASS"
    assert gpu.Figure("codeqwen", "memory", 24.0, "GB", most=24.0).verdict(True) == "FAIL"
    assert gpu.Figure("codeqwen", "memory", float("inf"), "GB", most=24.0).verdict(True) == "FAIL"
    assert gpu.Figure("codeqwen", "speed", 1.0, "tokens/s").verdict(True) == ""


def test_presets_for_which_no_time_is_left_are_named(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "MINUTES", 0)
    assert gpu.main(["--small", "--preset", "codeqwen"]) == 0
    assert "codeqwen: skipped, the time is spent" in capsys.readouterr().err


def test_a_part_that_fails_is_a_line_and_no_pass(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are measured all the same, on a model without the adapter of the one that failed;
    speeds that are not whole are not written."""
    build = gpu.build

    def broken(*arguments: Any, **more: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access | of a test")

    def checked(preset: Any, device: str, small: bool) -> Any:
        model = build(preset, device, small)
        assert not any("lora" in name for name, _ in model.named_parameters())
        return model

    monkeypatch.setattr(gpu, "build", checked)
    monkeypatch.setattr(gpu, "with_base_sums", broken)
    assert gpu.main(["--small", "--preset", "codeqwen", "--speeds=speeds.json"]) == 1
    said = capsys.readouterr()
    assert (
        "| codeqwen | LoRA step by ga+kl | RuntimeError: CUDA error: an illegal memory access / of "
        "a test |  | FAIL |" in said.out
    )
    assert "| codeqwen | attack int4 |" in said.out
    assert "speeds.json is not written" in said.out
    assert "2 parts failed" in said.out
    assert not Path("speeds.json").exists()


@pytest.mark.parametrize("name", ["codeqwen", "starcoder2"])
def test_operations_are_counted_right(gpu: ModuleType, name: str) -> None:
    """Against torch's counter, on a model with an adapter: forward, backward, and the reference."""
    from peft import LoraConfig, get_peft_model

    preset = presets()[name]
    model = gpu.build(preset, "cpu", small=True)
    model.set_attn_implementation("eager")
    tokens, matrices = 32, gpu.matrices_of(model)
    config = LoraConfig(r=4, target_modules=list(preset.lora_targets), task_type="CAUSAL_LM")
    with peft_quietly():
        policy: Any = get_peft_model(model, config)
    policy.enable_input_require_grads()  # as in training: gradients reach the first layer
    adapters = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    batch = collate([gpu.random_row(model, tokens)], 0)
    with FlopCounterMode(display=False) as counter:
        for _ in range(2):
            policy(**batch.model_inputs()).logits.float().sum().backward()
        with torch.no_grad(), policy.disable_adapter():
            policy(**batch.model_inputs())
    # The counter sees whole attention matrices where a causal kernel computes half of them.
    shape = gpu.Shape(matrices, adapters, 2 * 64, 2)
    assert shape.step_flops(tokens, reference=True) == pytest.approx(
        counter.get_total_flops(), rel=0.02
    )
    assert shape.step_flops(tokens, True, recomputed=True) > shape.step_flops(tokens, True)


def test_peaks_by_name(gpu: ModuleType) -> None:
    """The PCIe card is slower than the module of the same name; an unknown one has no peak."""
    assert gpu.peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert gpu.peak_flops("NVIDIA H100 PCIe") == 756e12
    assert gpu.peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert gpu.peak_flops("NVIDIA L40S") == 362e12
    assert gpu.peak_flops("NVIDIA L40") == 181e12
    assert gpu.peak_flops("NVIDIA L4") == 121e12
    assert gpu.peak_flops("Tesla V100") is None
