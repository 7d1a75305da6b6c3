"""Random-weight models of a few thousand parameters, made once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pytest_unlearn.models.batches import Batch
from pytest_unlearn.models.lm_head import token_mean_nll
from pytest_unlearn.models.loading import Weights, load
from pytest_unlearn.models.sources import ModelSource
from pytest_unlearn.unlearning.step import with_new_adapter


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes, with a start token before each text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def small_llama(hidden: int = 32, heads: int = 2, context: int = 256) -> Any:
    """Return a Llama of two layers with random weights, the same every time, for bytes."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(byte_tokenizer()),
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=2,
            num_attention_heads=heads,
            max_position_embeddings=context,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved Llama of two small layers with random weights."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = byte_tokenizer()
    small_llama().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def llama(llama_folder: Path) -> Weights:
    """The saved Llama, freshly loaded."""
    return load(ModelSource("random", llama_folder), "cpu", "float32")


def learn(model: Any, batch: Batch, steps: int) -> None:
    """Train all weights of a model on a batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        loss = token_mean_nll(model(**batch.model_inputs()).logits, batch.labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def with_moved_adapter(llama: Weights, rank: int) -> Any:
    """The small Llama with an adapter whose B is not zero, so that it differs from its base."""
    policy = with_new_adapter(llama.model, rank)  # type: ignore[arg-type]
    torch.manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return policy.eval()


class Completes:
    """A model that completes and can do nothing else."""

    def complete(self, prompts: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        """Return the same text for each prompt."""
        return ["..." for _ in prompts]


def digest_of_weights(model: Any) -> str:
    """Return a SHA-256 over all parameters of a model, bit by bit."""
    import hashlib

    import torch

    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        digest.update(name.encode())
        raw = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    return digest.hexdigest()
