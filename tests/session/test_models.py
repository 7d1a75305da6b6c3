"""The flags about models: what they refuse, and an audit of an adapter."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_unlearn.models.loading import load, peft_quietly
from pytest_unlearn.models.patching import save_adapter
from pytest_unlearn.models.sources import ModelSource
from tests.support.lookup_run import record_lines, refused, task_lines, write_lines
from tests.support.small_models import llama_folder

__all__ = ["llama_folder"]


@pytest.fixture(autouse=True)
def _no_addopts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)


def make_adapter(base: Path, folder: Path) -> Path:
    """Save a LoRA adapter that changes a model."""
    from peft import LoraConfig, get_peft_model

    weights = load(ModelSource("random", base), "cpu", "float32")
    torch.manual_seed(1)
    with peft_quietly():
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        model: Any = get_peft_model(weights.model, config)
    save_adapter(model, folder)
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--unlearn-model=tiny", "--unlearn-adapter=nowhere"],
            "/nowhere: no such folder",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-adapter=nowhere", "--unlearn-attacks=int8"],
            "/nowhere: no such folder",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-adapter=x", "--unlearn-method=ga"],
            "--unlearn-method=ga would train another one: leave the method out, or start from",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-revision=v2"],
            "--unlearn-revision=v2: only a model on the hub has revisions, and "
            "--unlearn-model=tiny is not one",
        ),
        (
            ["--unlearn-model=Me/Mine", "--unlearn-trust-remote-code=Me/Other"],
            "--unlearn-trust-remote-code=Me/Other: no model of this run has that name; write what "
            "--unlearn-model names, Me/Mine",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-probes=direct,chat"],
            "--unlearn-probes: the preset tiny was not tuned on a chat template; leave chat out",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-task-style=infill"],
            "--unlearn-task-style=infill: the preset tiny was not trained for that; write "
            "completion, or leave the flag out",
        ),
        (
            ["--unlearn-model=smollm2", "--unlearn-probes=direct,infill"],
            "--unlearn-probes: the preset smollm2 cannot fill in the middle; leave infill out",
        ),
    ],
)
def test_flags(pytester: pytest.Pytester, arguments: list[str], message: str) -> None:
    """Each wrong flag is named with what to write instead."""
    assert message in refused(pytester, *arguments)


@pytest.mark.parametrize(
    ("gpus", "instead"),
    [(0, "are none; write --unlearn-device=cpu"), (1, "is 1; write --unlearn-device=cuda")],
)
def test_a_map_needs_several_gpus(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, gpus: int, instead: str
) -> None:
    """On one, the rest of the model would stay in main memory."""
    monkeypatch.setattr("pytest_unlearn.session.xdist.visible_gpus", lambda: gpus)
    error = refused(pytester, "--unlearn-model=tiny", "--unlearn-device=map")
    assert f"there {instead}" in error


def test_an_adapter_of_another_model(pytester: pytest.Pytester, llama_folder: Path) -> None:
    """Refused by its shapes, before anything is loaded."""
    adapter = make_adapter(llama_folder, pytester.path / "adapter")
    error = refused(pytester, "--unlearn-model=tiny", f"--unlearn-adapter={adapter}")
    assert re.search(r"made for model.layers.0.\S+ of \d+ x \d+, and that of tiny is", error)


def test_audit_of_an_adapter(pytester: pytest.Pytester, llama_folder: Path) -> None:
    """Tested is the model with it, compared is the model without it, and nothing is unlearned."""
    adapter = make_adapter(llama_folder, pytester.path / "adapter")
    folder = pytester.path
    counts = {"forget": 6, "retain": 2, "control": 2}
    tasks = write_lines(folder / "tasks.jsonl", task_lines(2))
    arguments = [
        f"--unlearn-model={llama_folder}",
        f"--unlearn-adapter={adapter}",
        *(
            f"--unlearn-{n}={write_lines(folder / f'{n}.jsonl', record_lines(n, count))}"
            for n, count in counts.items()
        ),
        f"--unlearn-tasks={tasks}",
        "--unlearn-gate=leak.direct<=70%",
        f"--unlearn-store={pytester.path / 'store'}",
    ]
    own = pytester.makepyfile(
        """
        PROMPTS = ["a = '", "user = "]

        def test_states(unlearn_model, unlearn_base_model):
            tested, base = (m.complete(PROMPTS, 8) for m in (unlearn_model, unlearn_base_model))
            assert tested != base
        """
    )
    result = pytester.runpytest_inprocess(*arguments, str(own), "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [f"unlearn: model {llama_folder}, method none, adapter {adapter}, *"]
    )
    result = pytester.runpytest_inprocess(*arguments)
    # The base gives nothing away, so silence shows nothing: no verdict, but all was measured.
    result.stdout.fnmatch_lines(["*leak.direct*NOT EVALUATED*", "*also measured*base*tested*"])
    stored = set((pytester.path / "store" / "completions").rglob("*.json"))
    assert len(stored) == 2 * (10 + 2)
    shutil.copytree(adapter, pytester.path / "copy")
    again = [a.replace(str(adapter), str(pytester.path / "copy")) for a in arguments]
    pytester.runpytest_inprocess(*again)
    assert set((pytester.path / "store" / "completions").rglob("*.json")) == stored
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 16}))
    pytester.runpytest_inprocess(*arguments)
    now = set((pytester.path / "store" / "completions").rglob("*.json"))
    assert len(now - stored) == 10 + 2
