"""Folders as people have them: each loads as what it is, or is refused before anything runs."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from pytest_unlearn.core.store import Store
from pytest_unlearn.models.loading import (
    LanguageModel,
    ModelLoadError,
    check_loadable,
    load,
    peft_quietly,
)
from pytest_unlearn.models.model_files import CONFIG, WEIGHTS, check_adapter, stands_apart
from pytest_unlearn.models.predictions import batch_fault, cache_fault
from pytest_unlearn.models.sources import (
    ModelNotFoundError,
    ModelSource,
    check_name,
    fit_adapter,
    resolve,
)
from tests.support.small_models import small_llama

FLAG = "--unlearn-model"
PROMPTS = ["a = '", "user = ", "x", "def f(x):\n    return"]


def save_qwen2(folder: Path, **options: int) -> None:
    """Save a Qwen2 of one small layer with random weights."""
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        **options,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)


@pytest.fixture
def folder(llama_folder: Path, tmp_path: Path) -> Path:
    """A copy of the small Llama, to be spoilt."""
    return Path(shutil.copytree(llama_folder, tmp_path / "model"))


@pytest.fixture
def tied(folder: Path) -> Path:
    """The small Llama with its head tied to its embeddings."""
    edit(folder / "config.json", tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def retensor(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def adapter_on(folder: Path, into: Path, config: Any, **saving: Any) -> Path:
    """Save an adapter of a model, with all that is trained drawn at random."""
    auto: Any = AutoModelForCausalLM
    with peft_quietly():
        model: Any = get_peft_model(auto.from_pretrained(folder, dtype=torch.float32), config)
    draw = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data + 0.3 * torch.randn(weight.shape, generator=draw)
    model.save_pretrained(str(into), **{"save_embedding_layers": False, **saving})
    return into


def lora(*targets: str, **more: Any) -> LoraConfig:
    return LoraConfig(
        r=4, lora_alpha=8, target_modules=list(targets), task_type="CAUSAL_LM", **more
    )


def completed(source: ModelSource, *adapters: Path) -> list[str]:
    weights = load(source, "cpu", "float32")
    for adapter in adapters:
        weights.adapt(adapter)
    return LanguageModel(weights, adapted=bool(adapters)).complete(PROMPTS, 10)


# -- tensors ---------------------------------------------------------------------------------


def renamed(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors["wrong." + name] = tensors.pop(name)


def cut(tensors: dict[str, torch.Tensor]) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name][:10].contiguous()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed, r"missing, .* unexpected, wrong[.]lm_head"),
        (lambda t: t.pop("model.layers.0.mlp.up_proj.weight"), r"1 missing, model.layers.0.mlp.up"),
        (
            lambda t: t.update({"model.layers.7.x.weight": torch.ones(2)}),
            r"1 unexpected, model.layers.7.x.weight\.",
        ),
        (cut, r"1 of another shape, model.layers.1.mlp.up_proj.weight \(10 x 32 for 64 x 32\)"),
    ],
    ids=["renamed", "missing", "unexpected", "mismatched"],
)
def test_tensors_that_do_not_fit_are_named(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    """transformers fills in random weights, and a model that knows nothing leaks nothing."""
    check_loadable(resolve(str(folder), FLAG), FLAG)
    retensor(folder, change)
    source = resolve(str(folder), FLAG)
    with pytest.raises(ModelNotFoundError, match=rf"{FLAG}: its tensors are not those .*{message}"):
        check_loadable(source, FLAG)
    with pytest.raises(ModelLoadError, match=message):
        load(source, "cpu", "float32")


def zero(tensors: dict[str, torch.Tensor]) -> None:
    for tensor in tensors.values():
        tensor.zero_()


def not_a_number(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"].fill_(float("nan"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (zero, "gives every token the same score: its weights are zero"),
        (lambda tensors: tensors["lm_head.weight"].zero_(), "gives every token the same score"),
        (not_a_number, r"not numbers \(NaN\): its weights are broken"),
    ],
    ids=["all", "head", "nan"],
)
def test_weights_that_predict_nothing(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    """All zero, a model writes its first token for ever: no leak, and no model."""
    retensor(folder, change)
    with pytest.raises(ModelLoadError, match=message):
        load(resolve(str(folder), FLAG), "cpu", "float32")


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("rwkv", {"attention_hidden_size": 16, "context_length": 64}, "ignore padding .Rwkv"),
        ("bart", {"d_model": 16, "decoder_ffn_dim": 16, "decoder_attention_heads": 2}, "padding"),
        ("bert", {"num_attention_heads": 2, "intermediate_size": 16}, "on the tokens that follow"),
        ("mamba", {"state_size": 4}, None),
        ("gpt2", {"n_head": 2}, None),
    ],
)
def test_a_model_that_writes_something_else_in_a_batch(
    folder: Path, kind: str, more: dict[str, Any], message: str | None
) -> None:
    """Where it takes padding for text, or sees what follows: a leak would read as silence."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 259, "hidden_size": 16, "num_hidden_layers": 2, "decoder_layers": 2}
    config = AutoConfig.for_model(kind, **sizes, **more)
    with torch.no_grad():
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) / 5)
    model.save_pretrained(folder)
    source = resolve(str(folder), FLAG)
    if message is None:
        load(source, "cpu", "float32")
    else:
        with pytest.raises(ModelLoadError, match=message):
            load(source, "cpu", "float32")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_that_round_otherwise_for_other_shapes(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As bfloat16 kernels do: SmolLM2's logits move by a third of their deviation."""
    model = small_llama().to(dtype)
    forward = model.forward

    def rounded_by_shape(input_ids: torch.Tensor, **more: Any) -> Any:
        result = forward(input_ids=input_ids, **more)
        noise = torch.Generator().manual_seed(input_ids.numel())
        result.logits += torch.randn(result.logits.shape[-1], generator=noise)
        return result

    def rounded_by_row(input_ids: torch.Tensor, **more: Any) -> Any:
        result = forward(input_ids=input_ids, **more)
        result.logits[0] += 1
        return result

    monkeypatch.setattr(model, "forward", rounded_by_shape)
    assert batch_fault(model) is None
    monkeypatch.setattr(model, "forward", rounded_by_row)
    assert batch_fault(model) is not None


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("recurrent_gemma", {"lru_width": 16, "attention_window_size": 8}),
        (
            "jamba",
            {
                "num_experts": 2,
                "mamba_d_state": 4,
                "mamba_dt_rank": 4,
                "use_mamba_kernels": False,
                "intermediate_size": 32,
            },
        ),
    ],
)
def test_a_model_that_cannot_be_written_with(folder: Path, kind: str, more: dict[str, Any]) -> None:
    """Two layers without attention, which transformers' cache does not know: an error of the model,
    before anything is asked."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 259, "hidden_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **heads, **more))
    model.save_pretrained(folder)
    with pytest.raises(
        ModelLoadError, match=r"transformers .* cannot write text with it \("
    ) as said:
        load(resolve(str(folder), FLAG), "cpu", "float32")
    assert str(said.value).count(str(folder)) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cache_that_forgets(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in code of a model's own: after its first token it would write to another prompt."""
    model = small_llama().to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) / 5)
    assert cache_fault(model) is None
    forward = model.forward

    def forgetful(input_ids: torch.Tensor, **more: Any) -> Any:
        cache = more.get("cache") or more.get("past_key_values")
        if cache is not None and input_ids.shape[1] == 1:
            cache.layers[0].keys.zero_()
            cache.layers[0].values.normal_()
        return forward(input_ids=input_ids, **more)

    monkeypatch.setattr(model, "forward", forgetful)
    assert "its cache does not work" in str(cache_fault(model))


def test_quantized_layers_round_by_what_is_in_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As int8 layers of bitsandbytes do, also in a model whose dtype is float32."""
    model = small_llama()
    forward = model.forward

    def rounded(input_ids: torch.Tensor, **more: Any) -> Any:
        result = forward(input_ids=input_ids, **more)
        noise = torch.Generator().manual_seed(input_ids.numel())
        drawn = torch.randn(result.logits.shape, generator=noise)
        result.logits += 0.045 * result.logits.std() * drawn
        return result

    monkeypatch.setattr(model, "forward", rounded)
    assert batch_fault(model) is not None
    assert cache_fault(model) is not None
    monkeypatch.setattr(model, "is_quantized", True, raising=False)
    assert batch_fault(model) is None
    assert cache_fault(model) is None


def test_a_kernel_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an assertion, as that of bitsandbytes for rows that it cannot cut."""

    def fails(*args: Any, **more: Any) -> Any:
        raise AssertionError("N must be divisible by block_n")

    monkeypatch.setattr("transformers.LlamaForCausalLM.forward", fails)
    with pytest.raises(ModelLoadError, match=r"cannot be run: N must be divisible by block_n$"):
        load(resolve(str(folder), FLAG), "cpu", "float32")


def test_a_tokenizer_with_ids_beyond_the_embedding(folder: Path) -> None:
    """By name and number, before anything runs."""
    tokenizer = load(resolve(str(folder), FLAG), "cpu", "float32").tokenizer
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(str(folder))
    source = resolve(str(folder), FLAG)
    message = r"its tokenizer gives '<more>' the id 259, and the embedding has 259 rows"
    with pytest.raises(ModelNotFoundError, match=message):
        check_loadable(source, FLAG)
    with pytest.raises(ModelLoadError, match=message):
        load(source, "cpu", "float32")


# -- files -----------------------------------------------------------------------------------


def shards(folder: Path, *names: object) -> None:
    (folder / "model.safetensors").unlink(missing_ok=True)
    index = {"weight_map": {f"tensor.{i}": name for i, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def sharded_by_fsdp(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model_fsdp_0").mkdir()
    (folder / "pytorch_model_fsdp_0" / "__0_0.distcp").write_bytes(b"x")


def sharded_by_deepspeed(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "zero_to_fp32.py")


def codes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of the layers as integers, without what would make weights of them."""
    return {name: (t * 99).to(torch.int8) for name, t in tensors.items() if "down_proj" in name}


def tokenizer_below(folder: Path) -> None:
    (folder / "tokenizer").mkdir()
    for path in folder.glob("tokenizer*.json"):
        path.rename(folder / "tokenizer" / path.name)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").write_text("{"), "config.json: not JSON"),
        (lambda f: (f / "config.json").write_text("[1]"), "config.json: not a JSON object"),
        (lambda f: (f / "config.json").write_bytes(b"\xff"), "config.json: not JSON"),
        (lambda f: (f / "generation_config.json").write_text(""), "generation_config.json: not"),
        (lambda f: (f / "tokenizer.json").write_text("<html>"), "tokenizer.json: not JSON"),
        (lambda f: (f / "tokenizer_config.json").write_text("1"), "tokenizer_config.json: not a"),
        (
            lambda f: (f / "model.safetensors").write_bytes(
                (f / "model.safetensors").read_bytes()[:-9]
            ),
            "model.safetensors: not a safetensors file, or an incomplete one",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 8 << 30) + b"{}"),
            "model.safetensors: not a safetensors file",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "not a safetensors file"),
        (
            lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/"),
            "pointer of Git LFS: run `git lfs pull`",
        ),
        (lambda f: shards(f, "a.safetensors"), "index.json names a.safetensors, which is not ther"),
        (lambda f: shards(f, "../a.safetensors"), r"must name .* names '../a.safetensors'"),
        (lambda f: shards(f, "/etc/passwd"), "names '/etc/passwd'"),
        (lambda f: shards(f, "model.bin"), "names 'model.bin'"),
        (lambda f: shards(f, 3), "names 3"),
        (lambda f: shards(f), "its weight_map must name"),
        (
            lambda f: edit(f / "config.json", transformers_weights="other.bin"),
            "config.json: transformers_weights names other files",
        ),
        (
            lambda f: (f / "model.safetensors").rename(f / "consolidated.safetensors"),
            "no weights .* consolidated.safetensors is of another format",
        ),
        (lambda f: [path.unlink() for path in f.iterdir()], "no config.json in this folder"),
        (
            lambda f: (f / "model.safetensors").rename(f / "model-00001-of-00002.safetensors"),
            "model.safetensors.index.json is missing; copy it",
        ),
        (sharded_by_fsdp, "shards of FSDP; .* `accelerate merge-weights .*/pytorch_model_fsdp_0 "),
        (sharded_by_deepspeed, "shards of DeepSpeed; .* `python zero_to_fp32.py"),
        (tokenizer_below, "no tokenizer in it .*; copy the files of .*/tokenizer into it"),
        (
            lambda f: [path.unlink() for path in f.glob("tokenizer*")],
            r"no tokenizer in it .*; save it there with tokenizer.save_pretrained\(\)",
        ),
        (
            lambda f: edit(f / "generation_config.json", eos_token_id="</s>"),
            "generation_config.json: eos_token_id is '</s>'; write the token's number",
        ),
        (lambda f: edit(f / "config.json", eos_token_id=[2, True]), r"is \[2, True\]; write"),
        (
            lambda f: edit(f / "config.json", quantization_config={"bits": 4}),
            r"quantization_config names no method \({'bits': 4}\); write \"quant_method\"",
        ),
        (lambda f: edit(f / "config.json", quantization_config="int8"), "names no method"),
        (
            lambda f: retensor(f, lambda tensors: tensors.update(codes(tensors))),
            r"layers.0.mlp.down_proj.weight holds integers, which are codes of quantized weights",
        ),
    ],
)
def test_a_broken_folder_is_refused_by_its_name(
    folder: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    """Without loading anything, so that it is one error and not one for each case."""
    spoil(folder)
    with pytest.raises(ModelNotFoundError, match=message) as caught:
        check_name(str(folder), FLAG)
    assert str(caught.value).startswith(f"{FLAG}={folder}: ")


def test_a_folder_around_the_model(folder: Path) -> None:
    """The message names the folder below that holds it."""
    around = rf"no config.json in this folder; the folder \S+ in it .* write {FLAG}={folder}$"
    with pytest.raises(ModelNotFoundError, match=around):
        check_name(str(folder.parent), FLAG)


def test_the_hubs_cache_around_a_snapshot(folder: Path, tmp_path: Path) -> None:
    """What `~/.cache/huggingface/hub` has for a model is not the folder of its files."""
    snapshot = tmp_path / "models--org--name" / "snapshots" / ("a" * 40)
    shutil.copytree(folder, snapshot)
    with pytest.raises(ModelNotFoundError, match=rf"write {FLAG}={snapshot}$"):
        check_name(str(tmp_path / "models--org--name"), FLAG)


def test_the_newest_checkpoint_of_a_training(folder: Path, tmp_path: Path) -> None:
    """By its number, not by its name."""
    for number in (200, 1000):
        shutil.copytree(folder, tmp_path / "out" / f"checkpoint-{number}")
    with pytest.raises(ModelNotFoundError, match=r"write --unlearn-model=.*/checkpoint-1000$"):
        check_name(str(tmp_path / "out"), FLAG)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "t5"}, r"T5Config'>: it does not write text token by token$"),
        ({"model_type": "nothing"}, "model type `nothing` but Transformers does not recognize"),
        (
            {"quantization_config": {"quant_method": "awq", "bits": 4}},
            "Please install it with `pip install .*; or name the model as it was before it was "
            r"quantized \(awq\)$",
        ),
        (
            {"quantization_config": {"quant_method": "zipzap", "bits": 4}},
            r"quantized by zipzap, which transformers [0-9.]+ cannot read \(.* name the model as",
        ),
        (
            {"quantization_config": {"quant_method": "torchao", "quant_type": "int8_weight_only"}},
            "No module named 'torchao'; run `pip install torchao`; or name the model",
        ),
    ],
)
def test_what_transformers_says_is_one_line(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    """Not a page of all that it knows, and what to install is named."""
    edit(folder / "config.json", **changes)
    with pytest.raises(ModelNotFoundError, match=message) as caught:
        check_loadable(resolve(str(folder), FLAG), FLAG)
    assert "\n" not in str(caught.value)
    assert str(folder) not in str(caught.value).removeprefix(f"{FLAG}: cannot load {folder}")


@pytest.mark.parametrize(
    ("wrapper", "advice"),
    [
        ("module", "called on model.module, which"),
        ("_orig_mod", "called on model._orig_mod, which"),
        ("base_model.model", "called on what PEFT's merge_and_unload"),
    ],
)
def test_weights_saved_from_a_wrapped_model(folder: Path, wrapper: str, advice: str) -> None:
    def wrapped(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[f"{wrapper}.{name}"] = tensors.pop(name)

    retensor(folder, wrapped)
    with pytest.raises(ModelNotFoundError, match=rf"save_pretrained\(\), {advice}"):
        check_loadable(resolve(str(folder), FLAG), FLAG)


def test_weights_in_another_format_are_left_alone(folder: Path, tmp_path: Path) -> None:
    """Beside the model's own, neither loaded nor part of what names it."""
    source = resolve(str(folder), FLAG)
    store = Store(tmp_path / "store")
    before = source.weights_digest(store)
    (folder / "consolidated.safetensors").write_bytes(b"x")
    (folder / "original").mkdir()
    assert [path.name for path in source.weights] == ["model.safetensors"]
    assert source.weights_digest(store) == before
    check_name(str(folder), FLAG)


def test_sharded_weights(folder: Path, tmp_path: Path) -> None:
    """All files of the index, and the index itself, name the model."""
    weights = load(resolve(str(folder), FLAG), "cpu", "float32")
    save: Any = weights.model.save_pretrained
    save(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    source = resolve(str(folder), FLAG)
    assert len(source.weights) > 1
    check_loadable(source, FLAG)
    assert completed(source) == LanguageModel(weights, False).complete(PROMPTS, 10)
    store = Store(tmp_path / "store")
    before = source.weights_digest(store)
    edit(folder / "model.safetensors.index.json", metadata={"changed": 1})
    assert source.weights_digest(store) != before


def test_the_end_of_a_text_is_the_models_and_the_tokenizers(folder: Path) -> None:
    """Token 0 is an end like another."""
    edit(folder / "generation_config.json", eos_token_id=0)
    config: Any = load(resolve(str(folder), FLAG), "cpu", "float32").model.generation_config
    assert config.eos_token_id == [0, 2]


# -- tokenizers ------------------------------------------------------------------------------


def test_a_tokenizer_that_its_class_would_cut_otherwise(tmp_path: Path) -> None:
    """Qwen2's class cuts a run of spaces in two; a file made for GPT-2's way does not."""
    from pytest_unlearn.models.presets import TINY_FOLDER

    folder = tmp_path / "qwen2"
    rows = json.loads((TINY_FOLDER / "config.json").read_text())["vocab_size"]
    save_qwen2(folder, vocab_size=rows)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY_FOLDER / name, folder / name)
    edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", backend=None)
    tokenizer: Any = load(resolve(str(folder), FLAG), "cpu", "float32").tokenizer
    plain: Any = load(resolve("tiny", FLAG), "cpu", "float32").tokenizer
    text = "class User:\n    def name(self):\n        return self.first\n"
    assert tokenizer(text)["input_ids"] == plain(text)["input_ids"]


# -- adapters --------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [("lm_head",), ("embed_tokens",), ("lm_head", "q_proj")])
def test_merging_unties_what_an_adapter_changes(
    tied: Path, tmp_path: Path, targets: tuple[str, ...]
) -> None:
    """Added to embeddings and head alike, LoRA on one of them would make another model."""
    adapter = adapter_on(tied, tmp_path / "adapter", lora(*targets))
    base = resolve(str(tied), FLAG)
    alone = resolve(str(adapter), FLAG)
    assert completed(alone) == completed(base, adapter) != completed(base)
    weights: Any = load(alone, "cpu", "float32")
    weights.model.save_pretrained(tmp_path / "saved")
    weights.tokenizer.save_pretrained(tmp_path / "saved")
    assert completed(resolve(str(tmp_path / "saved"), FLAG)) == completed(alone)


def test_tokens_that_an_adapter_trained_on_tied_matrices(folder: Path, tmp_path: Path) -> None:
    """PEFT trains them in embeddings and head alike, so the two stay tied."""
    edit(folder / "config.json", tie_word_embeddings=True)
    retensor(folder, lambda tensors: tensors.pop("lm_head.weight", None))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = LoraConfig(
        r=2, target_modules=["q_proj"], trainable_token_indices=[5, 6], task_type="CAUSAL_LM"
    )
    with peft_quietly():
        adapted = get_peft_model(model, config).eval()
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight))
    ids = torch.arange(1, 9)[None]
    expected = adapted(input_ids=ids).logits.detach()
    adapted.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    edit(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(folder))
    loaded = load(resolve(str(tmp_path / "adapter"), FLAG), "cpu", "float32").model
    torch.testing.assert_close(loaded(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)


def test_a_model_and_an_adapter_in_one_folder(folder: Path, tmp_path: Path) -> None:
    """Merged when loaded, as transformers puts it on; the adapter's settings name the model."""
    adapter = adapter_on(folder, tmp_path / "adapter", lora("q_proj", "v_proj"))
    base = resolve(str(folder), FLAG)
    together, plain = completed(base, adapter), completed(base)
    for name in (CONFIG, WEIGHTS):
        shutil.copy(adapter / name, folder / name)
    source = resolve(str(folder), FLAG)
    assert completed(source) == together != plain
    assert not hasattr(load(source, "cpu", "float32").model, "peft_config")
    store = Store(tmp_path / "store")
    before = source.weights_digest(store)
    edit(folder / CONFIG, lora_alpha=1)
    assert resolve(str(folder), FLAG).weights_digest(store) != before
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="but an adapter beside a"):
        check_name(str(folder), FLAG)


def test_an_adapter_with_biases_stands_apart(tmp_path: Path) -> None:
    """PEFT leaves trained biases on the base, so the tested model is loaded for itself."""
    folder = tmp_path / "biased"
    save_qwen2(folder, vocab_size=259, eos_token_id=2)
    adapter = adapter_on(folder, tmp_path / "adapter", lora("q_proj", bias="all"))
    assert stands_apart(adapter)
    assert not stands_apart(adapter_on(folder, tmp_path / "plain", lora("q_proj")))


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_an_adapter_whose_start_is_taken_from_the_base(
    folder: Path, tmp_path: Path, start: str
) -> None:
    """PEFT subtracts it from the base, where it stays away when the adapter is switched off."""
    adapter = adapter_on(folder, tmp_path / "adapter", lora("q_proj", init_lora_weights=start))
    weights = load(resolve(str(folder), FLAG), "cpu", "float32")
    ids = torch.arange(1, 9)[None]
    base = weights.model(input_ids=ids).logits
    weights.adapt(adapter)
    with LanguageModel(weights, adapted=False).active() as model:
        assert not torch.allclose(model(input_ids=ids).logits, base, atol=1e-3)
    assert stands_apart(adapter)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"init_lora_weights": "pissa_niter_4"}, r"its initial values \(pissa_niter_4\) were"),
        ({"init_lora_weights": "corda"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "lora_ga"}, "another model than the trained one"),
        ({"layer_replication": [[0, 1], [0, 1]]}, "repeats layers of the base"),
    ],
)
def test_an_adapter_on_a_base_that_cannot_be_made_again_is_refused(
    folder: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    adapter = adapter_on(folder, tmp_path / "adapter", lora("q_proj"))
    check_adapter(adapter, "--unlearn-adapter")
    edit(adapter / CONFIG, **changes)
    with pytest.raises(ModelNotFoundError, match=reason):
        check_adapter(adapter, "--unlearn-adapter")


def test_an_adapter_with_more_tokens(folder: Path, tmp_path: Path) -> None:
    """Its own tokenizer is used, and the embeddings are resized to those it was trained with."""
    weights = load(resolve(str(folder), FLAG), "cpu", "float32")
    tokenizer: Any = weights.tokenizer
    tokenizer.add_tokens(["<more>", "<most>"])
    tokenizer.chat_template = "{% for m in messages %}<more>{{ m.content }}{% endfor %}"
    model: Any = weights.model
    model.resize_token_embeddings(len(tokenizer))
    with peft_quietly():
        config = lora("q_proj", modules_to_save=["embed_tokens", "lm_head"])
        adapted: Any = get_peft_model(model, config)
    draw = torch.Generator().manual_seed(1)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            weight.data += 0.3 * torch.randn(weight.shape, generator=draw)
    adapter = tmp_path / "adapter"
    adapted.save_pretrained(str(adapter), save_embedding_layers=True)
    tokenizer.save_pretrained(str(adapter))
    source = fit_adapter(resolve(str(folder), FLAG), adapter, "--unlearn-adapter")
    loaded = load(source, "cpu", "float32")
    assert loaded.model.get_input_embeddings().weight.shape[0] == 261
    assert loaded.tokenizer.convert_tokens_to_ids("<most>") == 260
    assert loaded.tokenizer.chat_template
    ids = torch.tensor([[1, 260, 40, 259]])
    with torch.inference_mode():
        torch.testing.assert_close(
            loaded.model(input_ids=ids).logits, adapted(input_ids=ids).logits
        )
    assert stands_apart(adapter)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT"])
def test_prompt_learning_is_refused(folder: Path, tmp_path: Path, kind: str) -> None:
    """PEFT writes other text with it than a forward pass predicts: leaks would be silent."""
    config = PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    adapter = adapter_on(folder, tmp_path / "adapter", config)
    edit(adapter / CONFIG, peft_type=kind)
    for check in (
        lambda: check_adapter(adapter, "--unlearn-adapter"),
        lambda: check_name(str(adapter), FLAG),
    ):
        with pytest.raises(ModelNotFoundError, match=f"kind {kind} cannot be tested"):
            check()


@pytest.mark.parametrize(
    "changes",
    [{"lora_alpha": 0}, {"lora_alpha": 1e-6}, {"alpha_pattern": {"q_proj": 0.0}}],
)
def test_an_adapter_that_is_switched_off_is_refused(
    folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Whoever corrects one number of its config has what its matrices hold."""
    adapter = adapter_on(folder, tmp_path / "adapter", lora("q_proj"))
    check_adapter(adapter, "--unlearn-adapter")
    edit(adapter / CONFIG, **changes)
    for check in (
        lambda: check_adapter(adapter, "--unlearn-adapter"),
        lambda: check_name(str(adapter), FLAG),
    ):
        with pytest.raises(ModelNotFoundError, match=r"scales the adapter, or a part of it, to"):
            check()


def test_an_adapter_on_packed_weights(folder: Path, tmp_path: Path) -> None:
    """As QLoRA trains them: 4-bit codes are in one column, and loading decides what fits."""
    adapter = adapter_on(folder, tmp_path / "adapter", lora("q_proj"))
    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        if "q_proj" in name:
            tensors[name] = torch.zeros(tensors[name].numel() // 2, 1, dtype=torch.uint8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    edit(folder / "config.json", quantization_config={"load_in_4bit": True})
    edit(adapter / CONFIG, base_model_name_or_path=str(folder))
    base = resolve(str(folder), FLAG)
    assert fit_adapter(base, adapter, "--unlearn-adapter").quantized == "bitsandbytes"
    assert resolve(str(adapter), FLAG).adapter == adapter


def test_an_adapter_saved_by_name(folder: Path, tmp_path: Path) -> None:
    """It lies one folder deeper, and the message says where."""
    adapter = adapter_on(folder, tmp_path / "around" / "unlearn", lora("q_proj"))
    for flag, check in ((FLAG, check_name), ("--unlearn-adapter", check_adapter)):
        subject: Any = str(adapter.parent) if check is check_name else adapter.parent
        with pytest.raises(ModelNotFoundError, match=rf"write {flag}={adapter}"):
            check(subject, flag)


def test_an_adapter_of_a_kind_that_nobody_knows(folder: Path, tmp_path: Path) -> None:
    """A newer PEFT's: told before anything is paid for."""
    adapter = adapter_on(folder, tmp_path / "adapter", lora("q_proj"))
    edit(adapter / CONFIG, peft_type="MAGIC")
    for source in (
        resolve(str(adapter), FLAG),
        fit_adapter(resolve(str(folder), FLAG), adapter, "--unlearn-adapter"),
    ):
        with pytest.raises(ModelNotFoundError, match=r"kind MAGIC, which peft [\d.]+ does not"):
            check_loadable(source, FLAG)


def test_what_is_refused_if_weights_cannot_be_laid_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the 4-bit weights of bitsandbytes: their tokenizer and adapter are looked at all the
    same."""

    def fails(*args: Any, **more: Any) -> Any:
        raise RuntimeError("issues during automatic conversion")

    monkeypatch.setattr("pytest_unlearn.models.loading._from_files", fails)
    source = resolve(str(folder), FLAG)
    check_loadable(source, FLAG)
    with pytest.raises(ModelNotFoundError, match="template"):
        check_loadable(source, FLAG, ["chat"])
    adapter = adapter_on(folder, tmp_path / "adapter", lora("q_proj"))
    edit(adapter / CONFIG, peft_type="MAGIC")
    with pytest.raises(ModelNotFoundError, match="kind MAGIC"):
        check_loadable(fit_adapter(source, adapter, "--unlearn-adapter"), FLAG)


def test_the_code_of_an_adapters_base(folder: Path, tmp_path: Path) -> None:
    """Trusted by the adapter's name or by its base's, and by nobody else's."""
    adapter = adapter_on(folder, tmp_path / "adapter", lora("q_proj"))
    for trusted, code in ((adapter, True), (folder, True), (tmp_path, False), (None, False)):
        assert resolve(str(adapter), FLAG, trusted=trusted and str(trusted)).code is code
    base = resolve(str(folder), FLAG, trusted=str(folder))
    assert fit_adapter(base, adapter, "--unlearn-adapter").code


def test_an_adapter_of_the_hub(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is fetched may be an adapter; it goes on the base that it names."""
    adapter = adapter_on(folder, tmp_path / "adapter", lora("q_proj"))
    edit(adapter / CONFIG, base_model_name_or_path="Me/Base")
    places = {"Me/Adapter": adapter, "Me/Base": folder}
    monkeypatch.setattr("pytest_unlearn.models.sources.fetch", lambda name, *rest: places[name])
    source = resolve("Me/Adapter", FLAG)
    assert (source.folder, source.adapter, source.name) == (folder, adapter, "Me/Adapter")


def test_the_base_of_an_adapter_is_on_the_hub(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the revision that the adapter names; where it cannot be had, the message names both."""
    adapter = adapter_on(folder, tmp_path / "adapter", lora("q_proj"))
    asked = []

    def fetch(name: str, revision: str, *rest: object) -> Path:
        asked.append((name, revision))
        return folder

    monkeypatch.setattr("pytest_unlearn.models.sources.fetch", fetch)
    for named in (None, "v2"):
        edit(adapter / CONFIG, base_model_name_or_path="Me/Base", revision=named)
        assert resolve(str(adapter), FLAG).adapter == adapter
    assert asked == [("Me/Base", "main"), ("Me/Base", "v2")]
    monkeypatch.undo()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        ModelNotFoundError,
        match=rf"{FLAG}={adapter}: its base Me/Base: not in the cache .*; or write {FLAG}=BASE "
        rf"--unlearn-adapter={adapter}$",
    ):
        resolve(str(adapter), FLAG)


@pytest.mark.parametrize(("style", "message"), [("chat", "no chat template"), ("infill", "middle")])
def test_a_style_that_the_tokenizer_lacks(folder: Path, style: str, message: str) -> None:
    """Told before anything is trained, and not by each case."""
    source = resolve(str(folder), FLAG)
    with pytest.raises(ModelNotFoundError, match=rf"{FLAG}: .*the tokenizer .*{message}"):
        check_loadable(source, FLAG, [style])
    if style == "chat":
        template = "{% for m in messages %}{{ m.content }}{% endfor %}"
        edit(folder / "tokenizer_config.json", chat_template=template)
        check_loadable(source, FLAG, [style])
