"""Several processes that train one sharded model make of it what one process makes."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pytest_unlearn import train
from pytest_unlearn.core.errors import UserError
from pytest_unlearn.models.patching import with_adapter
from pytest_unlearn.unlearning import distributed
from pytest_unlearn.unlearning.distributed import check_launcher
from pytest_unlearn.unlearning.method import MethodError, check_processes
from pytest_unlearn.unlearning.methods import parse_method
from tests.support.lookup_run import record_lines, write_lines
from tests.support.together import ADAM, RUNS, plain_steps, trained, weights_of

ROOT = Path(__file__).parents[2]
FLAGS = "--unlearn-method=ga+gd:steps=2,batch=4,retain_batch=4,target=-1,rank=4"


def started(arguments: Sequence[str], cwd: Path) -> list[subprocess.Popen[str]]:
    """Start two processes as a launcher would, but with nobody who ends one for the other."""
    free = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = " ".join(str(server.getsockname()[1]) for server in free)
    for server in free:
        server.close()
    together = {
        "MASTER_ADDR": "127.0.0.1",
        "PORTS": ports,
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.together", *arguments],
            env={**os.environ, **together, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


@pytest.fixture(scope="module")
def flags(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A small run of the plugin."""
    folder = tmp_path_factory.mktemp("data")
    files = {
        split: write_lines(folder / f"{split}.jsonl", record_lines(split, 4))
        for split in ("forget", "retain", "control")
    }
    return [
        f"--unlearn-model={llama_folder}",
        FLAGS,
        *(f"--unlearn-{split}={path}" for split, path in files.items()),
        "--unlearn-gate=leak.direct<=99%",
        f"--unlearn-store={folder / 'store'}",
    ]


@pytest.fixture(scope="module")
def together(
    llama_folder: Path, flags: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """What two processes made, and what each of them wrote as it trained by the flags."""
    out = tmp_path_factory.mktemp("out")
    pair = started([str(llama_folder), str(out), *flags], out)
    texts = [process.communicate(timeout=300) for process in pair]
    # The second one dies at the end, and no launcher ends the first: it must do so by itself.
    assert [process.returncode for process in pair] == [1, 3], texts
    assert "Error" in texts[0][1]
    return out, [written for written, _ in texts]


def difference(path: Path, weights: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of any weight."""
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(weights)
        return max(float((file.get_tensor(n) - w.detach()).abs().max()) for n, w in weights.items())


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_make_the_weights_of_one(
    together: tuple[Path, list[str]], llama_folder: Path, name: str
) -> None:
    """The batch, its losses and the step are those of one process, in shares: a mean of the
    processes' means would not be, nor would a sum of gradients."""
    with plain_steps():
        policy, report = trained(llama_folder, RUNS[name])
    path = together[0] / f"{name}.safetensors"
    assert difference(path, weights_of(policy)) < 1e-5
    with safe_open(path, framework="pt") as file:
        facts = f"{report.steps} {report.trained_steps} {report.leak_rate} {report.kept}"
        assert file.metadata() == {"report": facts}


def test_adam_and_the_norms_limit(together: tuple[Path, list[str]], llama_folder: Path) -> None:
    """The gradient's norm is that of all shards. Cut off and gone on with, it is the same run."""
    weights = weights_of(trained(llama_folder, ADAM)[0])
    assert difference(together[0] / "adam.safetensors", weights) < 1e-6
    assert difference(together[0] / "resumed.safetensors", weights) < 1e-6


def test_shards_are_saved_as_a_whole(together: tuple[Path, list[str]], llama_folder: Path) -> None:
    """What one process writes loads as what all trained."""
    out, _ = together
    base = AutoModelForCausalLM.from_pretrained(llama_folder)
    full = AutoModelForCausalLM.from_pretrained(out / "ga+gd full saved")
    named = {f"model.{name}": weight for name, weight in full.named_parameters()}
    assert difference(out / "ga+gd full.safetensors", named) == 0
    adapted = with_adapter(base, out / "ga+gd lora saved")
    named = {name: weight for name, weight in adapted.named_parameters() if "lora_" in name}
    assert difference(out / "ga+gd lora.safetensors", named) == 0


def test_a_run_finds_what_the_processes_trained(
    together: tuple[Path, list[str]], flags: list[str], pytester: pytest.Pytester
) -> None:
    """One of them reports; a run with the same flags has the key, and trains nothing."""
    _, (first, second) = together
    assert "processes 2" in first
    assert "unlearned in 2 steps" in first
    assert "exit code 0" in first
    assert second == "exit code 0\n"
    plan = pytester.runpytest_inprocess(*flags, "-k", "email-forget-000", "-p", "no:cacheprovider")
    plan.stdout.fnmatch_lines(["*unlearned in 2 steps*"])
    store = Path(flags[-1].partition("=")[2])
    assert len(list((store / "adapters").iterdir())) == 1


# What `accelerate config` writes for FSDP2, here for two processes without a GPU.
CONFIGURATION = """\
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
fsdp_config:
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_reshard_after_forward: true
  fsdp_version: 2
machine_rank: 0
main_process_port: 0
mixed_precision: 'no'
num_machines: 1
num_processes: 2
"""


# The same for DeepSpeed's ZeRO-3.
ZERO3 = """\
compute_environment: LOCAL_MACHINE
distributed_type: DEEPSPEED
deepspeed_config:
  gradient_accumulation_steps: 1
  gradient_clipping: 1.0
  offload_optimizer_device: none
  offload_param_device: none
  zero3_init_flag: true
  zero3_save_16bit_model: true
  zero_stage: 3
machine_rank: 0
main_process_port: 0
mixed_precision: 'no'
num_machines: 1
num_processes: 2
"""


@pytest.mark.parametrize(
    ("configuration", "said"),
    [
        pytest.param(CONFIGURATION, "processes 2\n", id="fsdp2"),
        pytest.param(
            ZERO3,
            "processes 2 (ZeRO-3 by FSDP2)\n",
            id="zero3",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("deepspeed") is None,
                reason="accelerate launches for DeepSpeed only where it is installed",
            ),
        ),
    ],
)
def test_accelerate_launch(
    configuration: str, said: str, flags: list[str], pytester: pytest.Pytester
) -> None:
    """By accelerate's own configuration, and the adapter is the one that one process trains."""
    (pytester.path / "own.yaml").write_text(configuration)
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file=own.yaml"]
    own = [*flags[:-1], "--unlearn-device=cpu"]
    done = subprocess.run(
        [*launcher, "-m", "pytest_unlearn.train", *own, "--unlearn-store=launched"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("unlearned in 2 steps") == 1
    assert said in done.stdout
    alone = pytester.runpytest_inprocess(*own, "--unlearn-store=alone", plugins=[train._Training()])
    alone.stdout.fnmatch_lines(["*unlearned in 2 steps*"])
    (one,) = (pytester.path / "alone" / "adapters").glob("*/adapter_model.safetensors")
    (two,) = (pytester.path / "launched" / "adapters").glob("*/adapter_model.safetensors")
    assert difference(two, load_file(one)) < 1e-5


@pytest.mark.parametrize(
    ("text", "count", "wrong"),
    [
        ("codeeraser", 2, "the loss of codeeraser is not a sum over the parts of a batch, so 2"),
        ("ga:batch=3", 4, "there are 3 rows in 1 parts; write a batch and retain_batch of at"),
        ("ga+gd:batch=8,retain_batch=5,accumulate=2", 3, "at least 6, or start fewer"),
        ("ga+gd:batch=6,retain_batch=6,accumulate=2", 3, None),
        ("ga:batch=3", 3, None),
    ],
)
def test_every_process_has_its_rows(text: str, count: int, wrong: str | None) -> None:
    """A share without a row has no loss, and its process would wait for the others for ever."""
    choice = parse_method(text)
    assert choice.method is not None
    assert choice.options is not None
    if wrong is None:
        check_processes(choice.method, choice.options, count)
    else:
        with pytest.raises(MethodError, match=wrong):
            check_processes(choice.method, choice.options, count)


def test_shares_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equally many for each, and all of it done."""
    monkeypatch.setattr(distributed, "count", lambda: 3)
    shares = []
    for number in range(3):
        monkeypatch.setattr(distributed, "number", lambda number=number: number)
        shares.append(distributed.mine([10, 11, 12, 13]))
    assert {len(share) for share in shares} == {2}
    assert {item for share in shares for item in share} == {10, 11, 12, 13}
    assert distributed.own_file(Path("a/b.safetensors")) == Path("a/b.2-of-3.safetensors")


# What `accelerate launch --use_fsdp` says unless it is configured otherwise (accelerate 1.15).
DEFAULT = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_SHARDING_STRATEGY": "FULL_SHARD",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
}


def test_what_is_not_configured_is_fine() -> None:
    check_launcher({}, "auto", "auto", False, 1)  # torchrun
    check_launcher(DEFAULT, "auto", "auto", False, 1)
    configured = {
        **DEFAULT,
        "ACCELERATE_USE_CPU": "true",
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "FSDP_ACTIVATION_CHECKPOINTING": "true",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    }
    check_launcher(configured, "cpu", "bfloat16", True, 4)


# What accelerate says for `ZERO3` above.
OF_ZERO3 = {
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_CONFIG_DS_FIELDS": "gradient_accumulation_steps,zero_stage",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    "ACCELERATE_GRADIENT_CLIPPING": "1.0",
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none",
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
    "ACCELERATE_DEEPSPEED_ZERO3_INIT": "true",
    "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
}


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "1", "zero_stage, .*write 3, whose sharding"),
        ("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu", "offload_optimizer_device.*none"),
        ("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "nvme", "offload_param_device.*none"),
        ("ACCELERATE_GRADIENT_CLIPPING", "0.5", "gradient_clipping.*write 1.0"),
        ("ACCELERATE_DEEPSPEED_CONFIG_FILE", "ds.json", "deepspeed_config_file.*zero_stage: 3"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8", "write accumulate=8"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "write --unlearn-dtype=bfloat16"),
    ],
)
def test_of_deepspeed_zero3_is_followed(variable: str, value: str, said: str) -> None:
    check_launcher(OF_ZERO3, "auto", "auto", False, 1)
    with pytest.raises(UserError, match=said):
        check_launcher({**OF_ZERO3, variable: value}, "auto", "auto", False, 1)
    assert distributed.zero3(OF_ZERO3)
    assert not distributed.zero3(DEFAULT)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "ACCELERATE_USE_DEEPSPEED",
            "true",
            r"zero_stage, \w+=2\): this is not supported.*write 3, ",
        ),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "MEGATRON_LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "parallelism_config"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "dynamo_backend.*write no"),
        ("FSDP_RESHARD_AFTER_FORWARD", "false", "fsdp_reshard_after_forward.*write true"),
        ("FSDP_SHARDING_STRATEGY", "SHARD_GRAD_OP", "write FULL_SHARD"),
        ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params"),
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", "write TRANSFORMER_BASED_WRAP"),
        ("ACCELERATE_USE_CPU", "True", "write --unlearn-device=cpu"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "write --unlearn-dtype=bfloat16"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "write mixed_precision: bf16"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "write checkpointing=true"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8", "write accumulate=8"),
    ],
)
def test_what_is_configured_otherwise_is_named(variable: str, value: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_launcher({**DEFAULT, variable: value}, "auto", "auto", False, 1)
