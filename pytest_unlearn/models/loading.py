"""Loading a model, running it, and switching between its base and its unlearned state."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from pytest_unlearn.models.generation import (
    answer_greedily,
    complete_greedily,
    infill_greedily,
    write,
)
from pytest_unlearn.models.scoring import Scorer, ValueScores
from pytest_unlearn.models.token_scores import DecodingScheme

if TYPE_CHECKING:
    from pathlib import Path

    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pytest_unlearn.models.decoding import Decoding
    from pytest_unlearn.models.examples import Example
    from pytest_unlearn.models.sources import ModelSource

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ModelLoadError(RuntimeError):
    """A model folder is there but cannot be loaded."""


class Weights:
    """One model in memory. `adapt` puts an adapter on it; base and unlearned state share it."""

    def __init__(
        self, source: ModelSource, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.source = source
        self.model: PreTrainedModel | PeftModel = model
        self.tokenizer = tokenizer

    def adapt(self, adapter: Path) -> None:
        """Put the LoRA adapter of a folder on the model."""
        from peft import PeftModel

        with peft_quietly():
            self.model = PeftModel.from_pretrained(self.model, str(adapter)).eval()


class LanguageModel:
    """A model in one state: as it was loaded, or with its adapter."""

    def __init__(self, weights: Weights, adapted: bool, threads: int | None = None) -> None:
        """`threads`: CPU threads for `complete`; None leaves torch's number."""
        self._weights = weights
        self._adapted = adapted
        self._threads = threads
        self._scorer: Scorer | None = None

    def __repr__(self) -> str:
        state = "unlearned" if self._adapted else "as loaded"
        return f"<LanguageModel {self._weights.source.name}, {state}>"

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self._weights.tokenizer

    @contextlib.contextmanager
    def active(self) -> Iterator[PreTrainedModel | PeftModel]:
        """Give the transformers model in this state, for the length of a `with` block.

        Both states share one set of weights, so the state holds inside the block only.
        """
        model: Any = self._weights.model
        off = hasattr(model, "disable_adapter") and not self._adapted
        with model.disable_adapter() if off else contextlib.nullcontext():
            yield model

    def complete(self, prompts: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        """Return the greedy completion of each prompt; see `complete_greedily`."""
        with cpu_threads(self._threads), self.active() as model:
            return complete_greedily(model, self.tokenizer, prompts, max_new_tokens)

    def write(
        self, style: str, prompts: Sequence[str], suffixes: Sequence[str], decoding: Decoding
    ) -> list[str]:
        """Return what the model writes to each prompt; see `generation.write`."""
        with cpu_threads(self._threads), self.active() as model:
            return write(model, self.tokenizer, style, prompts, suffixes, decoding)

    def score(
        self, examples: Sequence[Example], scheme: DecodingScheme | None = None
    ) -> list[ValueScores]:
        """Return the scores of each example's answer in one teacher-forced pass; see `Scorer`."""
        with self._scoring() as scorer:
            return scorer.score(examples, scheme)

    def losses(self, examples: Sequence[Example]) -> list[tuple[float, int] | None]:
        """Return each answer's loss (nats) and its tokens; None where the context has no room."""
        with self._scoring() as scorer:
            return scorer.losses(examples)

    def log_probabilities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the log-probability (nats) of each value after its prompt; see `Scorer`."""
        with self._scoring() as scorer:
            return scorer.log_probabilities(pairs)

    def alternatives(self, prompt: str, values: Sequence[str], after: str = "") -> list[float]:
        """Return the log-probability (nats) of many values after one prompt; see `Scorer`."""
        with self._scoring() as scorer:
            return scorer.alternatives(prompt, values, after)

    @contextlib.contextmanager
    def _scoring(self) -> Iterator[Scorer]:
        """Give the scorer of this state, which keeps the batch size that fitted."""
        with cpu_threads(self._threads), self.active() as model:
            if self._scorer is None:
                self._scorer = Scorer(model, self.tokenizer)
            yield self._scorer

    def answer(self, messages: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        """Return the greedy answer to each message of a user; see `answer_greedily`."""
        with cpu_threads(self._threads), self.active() as model:
            return answer_greedily(model, self.tokenizer, messages, max_new_tokens)

    def infill(self, prompts: Sequence[tuple[str, str]], max_new_tokens: int = 64) -> list[str]:
        """Return what stands between each (prefix, suffix); see `infill_greedily`."""
        with cpu_threads(self._threads), self.active() as model:
            return infill_greedily(model, self.tokenizer, prompts, max_new_tokens)


def load(source: ModelSource, device: str, dtype: str) -> Weights:
    """Load a folder onto `device` (`cpu`, `cuda`, `cuda:1`, ...) in `dtype` (see `DTYPES`).

    safetensors only and no remote code. Raises ModelLoadError with the reason.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False)
        model: Any = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=DTYPES[dtype],
            device_map={"": device} if device != "cpu" else None,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except Exception as error:  # transformers raises what its many parts raise
        raise ModelLoadError(f"cannot load {source.name} from {source.folder}: {error}") from error
    if tokenizer.pad_token_id is None:
        # Padding is masked everywhere, so any known token will do.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    # A model may ship sampling settings or a repetition penalty; greedy must mean greedy, so of
    # its generation settings only the tokens that end a text are kept.
    settings: Any = GenerationConfig
    model.generation_config = settings(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=model.generation_config.eos_token_id or tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Weights(source, model.eval(), tokenizer)


@contextlib.contextmanager
def peft_quietly() -> Iterator[None]:
    """Leave out a warning that peft 0.21 draws from transformers 5; it concerns no user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        yield


def resolve_device(device: str) -> str:
    """Return `cuda` for `auto` where a GPU is visible, else `cpu`; other names as they are."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_dtype(dtype: str, device: str) -> str:
    """Return bfloat16 on a GPU and float32 on a CPU for `auto`; other names as they are."""
    if dtype != "auto":
        return dtype
    return "float32" if device == "cpu" else "bfloat16"


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Run a block with `count` CPU threads (None: as it is), and restore the number after it."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
