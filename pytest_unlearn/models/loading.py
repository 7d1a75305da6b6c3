"""Loading a model, running it, and switching between its base and its unlearned state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from pytest_unlearn.models.generation import (
    answer_greedily,
    complete_greedily,
    infill_greedily,
    write,
)
from pytest_unlearn.models.gradients import every_weight, gradient_norms, last_block
from pytest_unlearn.models.patching import (
    ModelLoadError,
    dequantized,
    merged,
    peft_quietly,
    with_adapter,
)
from pytest_unlearn.models.scoring import Scorer, ValueScores
from pytest_unlearn.models.styles import infill_style
from pytest_unlearn.models.tokenizer_files import load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pytest_unlearn.models.examples import Example
    from pytest_unlearn.models.presets import Preset
    from pytest_unlearn.models.sampling import Decoding, DecodingScheme
    from pytest_unlearn.models.sources import ModelSource
    from pytest_unlearn.models.styles import Infill

__all__ = [
    "DTYPES",
    "LanguageModel",
    "ModelLoadError",
    "Weights",
    "cpu_threads",
    "load",
    "needed_gib",
    "peft_quietly",
    "resolve_device",
    "resolve_dtype",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Weights:
    """One model in memory. `adapt` puts an adapter on it; base and unlearned state share it."""

    def __init__(
        self, source: ModelSource, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.source = source
        self.model: PreTrainedModel | PeftModel = model
        self.tokenizer = tokenizer

    @property
    def lora_targets(self) -> list[str] | str:
        """The modules that an adapter is to change, in the form that PEFT takes."""
        preset = self.source.preset
        return list(preset.lora_targets) if preset else "all-linear"

    @property
    def infill(self) -> Infill:
        """How the model fills in the middle. Raises StyleError where it does not."""
        preset = self.source.preset
        return (preset.infill if preset else None) or infill_style(self.tokenizer)

    def adapt(self, adapter: Path) -> None:
        """Put the adapter of a folder on the model. Raises ModelLoadError where it does not fit."""
        self.model = with_adapter(self.model, adapter).eval()


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
            infill = self._weights.infill if style == "infill" else None
            return write(model, self.tokenizer, style, prompts, suffixes, decoding, infill)

    def score(
        self, examples: Sequence[Example], scheme: DecodingScheme | None = None
    ) -> list[ValueScores]:
        """Return the scores of each example's answer in one teacher-forced pass; see `Scorer`."""
        with self._scoring() as scorer:
            return scorer.score(examples, scheme)

    def gradient_norms(self, examples: Sequence[Example]) -> list[float]:
        """Return the norm of the gradient of each example's loss; see `gradient_norms`.

        Of a model of more than a billion weights, that of its last block: the gradient of all
        would take as much memory as the model.
        """
        with cpu_threads(self._threads), self.active() as model:
            large = model.num_parameters() > 1_000_000_000
            choice = last_block(model) if large else every_weight
            return gradient_norms(model, self.tokenizer, examples, choice)

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
            style = self._weights.infill
            return infill_greedily(model, self.tokenizer, prompts, max_new_tokens, style)


def load(
    source: ModelSource, device: str, dtype: str, max_memory: dict[int | str, str] | None = None
) -> Weights:
    """Load a model onto `device` in `dtype` (see `DTYPES`).

    `device`: `cpu`, `cuda`, `cuda:1`, ..., or `map`, which spreads the layers evenly over all
    visible GPUs. `max_memory`: how much of each device `map` may use, as accelerate takes it. No
    pickle is read, and no code of the model runs unless the source says so. Raises ModelLoadError
    with the reason.
    """
    places: Any = None if device == "cpu" else {"": device}
    if device == "map":
        places = "balanced"
    files: dict[str, Any] = {"trust_remote_code": source.code}
    extra: dict[str, Any] = {}
    if source.gguf is not None:
        files["gguf_file"] = source.gguf
        extra = dequantized()
    try:
        tokenizer = load_tokenizer(source)
        model: Any = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=DTYPES[dtype],
            device_map=places,
            max_memory=max_memory,
            use_safetensors=True,
            **files,
            **extra,
        )
    except Exception as error:  # transformers raises what its many parts raise
        raise ModelLoadError(_reason(source, device, error)) from error
    if device == "map":
        _check_places(model, source)
    if source.adapter is not None:
        model = merged(with_adapter(model, source.adapter), source.adapter)
    if tokenizer.pad_token_id is None:
        # Padding is masked everywhere, so any known token will do.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    # A model may ship sampling settings or a repetition penalty; greedy must mean greedy, so of
    # its generation settings only the tokens that end a text are kept.
    settings: Any = GenerationConfig
    model.generation_config = settings(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=_ends(source, tokenizer, model.generation_config.eos_token_id),
        pad_token_id=tokenizer.pad_token_id,
    )
    return Weights(source, model.eval(), tokenizer)


def _ends(source: ModelSource, tokenizer: Any, own: int | list[int] | None) -> Any:
    """Return the tokens that end a text: the model's own or the tokenizer's, and the preset's."""
    first = own or tokenizer.eos_token_id
    ends = list(first) if isinstance(first, list) else [first] * (first is not None)
    stops = source.preset.stops if source.preset else ()
    vocabulary = tokenizer.get_vocab() if stops else {}
    ends += [vocabulary[stop] for stop in stops if stop in vocabulary]
    unique = list(dict.fromkeys(ends))
    return unique if len(unique) > 1 else next(iter(unique), None)


def _reason(source: ModelSource, device: str, error: Exception) -> str:
    """Return what to say of an error of transformers."""
    text = f"cannot load {source.name} from {source.folder} onto {device}: {error}"
    if "trust_remote_code" in str(error):
        return (
            f"cannot load {source.name}: it needs Python code of its own. If you trust that code, "
            f"write --unlearn-trust-remote-code={source.name}"
        )
    if isinstance(error, torch.OutOfMemoryError):
        text += "; --unlearn-device=map spreads it over several GPUs"
    return text


def _check_places(model: Any, source: ModelSource) -> None:
    """Raise ModelLoadError where a part of a model would stay in main memory or on disk.

    Each pass would copy it to the GPU and back, and no gradient reaches an adapter there.
    """
    # A model that is whole on one device has no map.
    places = getattr(model, "hf_device_map", {"": model.device})
    slow = {str(place) for place in places.values()} & {"cpu", "disk"}
    if slow:
        raise ModelLoadError(
            f"{source.name} does not fit the visible GPUs: a part of it would stay on "
            f"{' and '.join(sorted(slow))}; use more or larger GPUs, or --unlearn-device=cpu"
        )


def resolve_device(device: str, needed_gib: float | None = None) -> str:
    """Return the device that `auto` means; other names as they are.

    `cpu` without a GPU; `map` where there are several and a model that needs `needed_gib` GiB does
    not fit the free memory of the first; else `cuda`.
    """
    if device != "auto":
        return device
    if not torch.cuda.is_available():
        return "cpu"
    if needed_gib is not None and torch.cuda.device_count() > 1:
        free, _ = torch.cuda.mem_get_info(0)
        if needed_gib * 2**30 > free:
            return "map"
    return "cuda"


def resolve_dtype(dtype: str, device: str, preset: Preset | None = None) -> str:
    """Return for `auto` float32 on a CPU, else the preset's dtype, or bfloat16; others as given."""
    if dtype != "auto":
        return dtype
    if device == "cpu":
        return "float32"
    return preset.dtype if preset else "bfloat16"


def needed_gib(source: ModelSource, unlearning: bool) -> float | None:
    """Return the GPU memory that a model needs in GiB, None where nothing tells.

    The preset's figure for unlearning or for probes alone; else half as much again as the files,
    which hold what they hold in half precision mostly.
    """
    if source.preset is not None:
        return source.preset.unlearn_gib if unlearning else source.preset.probe_gib
    if source.gguf is not None:
        return None
    return 1.5 * sum(path.stat().st_size for path in source.weights) / 2**30


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
