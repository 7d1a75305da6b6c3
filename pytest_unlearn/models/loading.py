"""Loading a model, running it, and switching between its base and its unlearned state."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from pytest_unlearn.models.engine import METHODS, Writing
from pytest_unlearn.models.generation import (
    Writer,
    check_context,
    check_ids,
    context_of,
    converse,
    prompt_rows,
    write,
)
from pytest_unlearn.models.gradients import every_weight, gradient_norms, last_block
from pytest_unlearn.models.lm_head import is_adapted, states_at
from pytest_unlearn.models.patching import (
    ModelLoadError,
    check_kind,
    check_quantization,
    dequantized,
    merged,
    merged_lora,
    peft_quietly,
    transformers_quietly,
    with_adapter,
)
from pytest_unlearn.models.predictions import check_predictions
from pytest_unlearn.models.prompt_formats import StyleError, infill_style
from pytest_unlearn.models.scoring import Scorer, ValueScores
from pytest_unlearn.models.sources import ModelNotFoundError
from pytest_unlearn.models.texts import Decoding

if TYPE_CHECKING:
    from pathlib import Path

    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pytest_unlearn.models.presets import Preset
    from pytest_unlearn.models.prompt_formats import Infill
    from pytest_unlearn.models.sources import ModelSource
    from pytest_unlearn.models.texts import DecodingScheme, Example

__all__ = [
    "DTYPES",
    "LanguageModel",
    "ModelLoadError",
    "Weights",
    "check_loadable",
    "cpu_threads",
    "load",
    "needed_gib",
    "peft_quietly",
    "resolve_device",
    "resolve_dtype",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Weights:
    """One model in memory, shared by the base and the unlearned state. `adapt` puts an adapter on
    it."""

    def __init__(
        self, source: ModelSource, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.source = source
        self.model: PreTrainedModel | PeftModel = model
        self.tokenizer = tokenizer
        # Whether a chat model may think before it answers.
        self.thinking = False
        # The texts of one state are drafts for the other.
        self.writer = Writer()

    @property
    def lora_targets(self) -> list[str] | str:
        """Return the modules that an adapter changes, in PEFT's form."""
        preset = self.source.preset
        return list(preset.lora_targets) if preset else "all-linear"

    @property
    def infill(self) -> Infill:
        """Return how the model fills in the middle. Raises StyleError if it cannot."""
        preset = self.source.preset
        return (preset.infill if preset else None) or infill_style(self.tokenizer)

    def adapt(self, adapter: Path) -> None:
        """Put the adapter in a folder on the model. Raises ModelLoadError if it does not fit."""
        self.model = with_adapter(self.model, adapter).eval()


class LanguageModel(Writing):
    """A model in one state: as it was loaded, or with its adapter."""

    abilities: frozenset[str] = frozenset(METHODS) | {"ends"}

    def __init__(
        self,
        weights: Weights,
        adapted: bool,
        threads: int | None = None,
        progress: Callable[[str], None] = lambda message: None,
    ) -> None:
        """`threads`: CPU threads; None keeps torch's number. `progress` reports what had to be done
        in another way."""
        self._weights = weights
        self._adapted = adapted
        self._threads = threads
        self._progress = progress
        self._scorer: Scorer | None = None

    def __repr__(self) -> str:
        state = "unlearned" if self._adapted else "as loaded"
        return f"<LanguageModel {self._weights.source.name}, {state}>"

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self._weights.tokenizer

    @contextlib.contextmanager
    def active(self, merged: bool = False) -> Iterator[PreTrainedModel | PeftModel]:
        """Yield the transformers model in this state, for a `with` block.

        Both states share one set of weights, so the state is valid only inside the block. `merged`:
        for passes without gradients, as `merged_lora` runs them.
        """
        model: Any = self._weights.model
        off = is_adapted(model) and not self._adapted
        on = merged_lora(model) if merged and self._adapted else contextlib.nullcontext()
        with model.disable_adapter() if off else on:
            yield model

    def write(
        self, style: str, prompts: Sequence[str], suffixes: Sequence[str], decoding: Decoding
    ) -> list[str]:
        """Return what the model writes to each prompt; see `generation.write`."""
        with cpu_threads(self._threads), self.active(merged=True) as model:
            infill = self._weights.infill if style == "infill" else None
            return write(
                model,
                self.tokenizer,
                style,
                prompts,
                suffixes,
                decoding,
                infill,
                halved=self._halved,
                thinking=self._weights.thinking,
                writer=self._weights.writer,
            )

    def _halved(self, rows: int) -> None:
        self._progress(
            f"{rows} prompts did not fit the memory at once and were halved; "
            f"--unlearn-batch-size={rows // 2} saves the attempt"
        )

    def score(
        self, examples: Sequence[Example], scheme: DecodingScheme | None = None
    ) -> list[ValueScores]:
        """Return the scores of each example's answer in one teacher-forced pass; see `Scorer`."""
        with self._scoring() as scorer:
            return scorer.score(examples, scheme)

    def gradient_norms(self, examples: Sequence[Example]) -> list[float]:
        """Return the norm of the gradient of each example's loss; see `gradient_norms`.

        For a model of more than a billion weights, only the last block counts: the gradient of all
        weights would take as much memory as the model.
        """
        with cpu_threads(self._threads), self.active() as model:
            large = model.num_parameters() > 1_000_000_000
            choice = last_block(model) if large else every_weight
            return gradient_norms(model, self.tokenizer, examples, choice)

    def losses(self, examples: Sequence[Example]) -> list[tuple[float, int] | None]:
        """Return each answer's loss (nats) and its number of tokens; None if it does not fit the
        context."""
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

    @torch.inference_mode()
    def hidden_states(self, texts: Sequence[str], depth: float = 1.0) -> list[torch.Tensor]:
        """Return the hidden states `[tokens, hidden]` (float32, CPU) of each text.

        `depth`: the share of the layers after which they are taken. Raises ValueError for a model
        whose layers are not found, TooLongError for a text beyond its context.
        """
        tokenize: Any = self.tokenizer
        rows = [list(tokenize(text)["input_ids"]) for text in texts]
        with cpu_threads(self._threads), self.active(merged=True) as model:
            check_context([len(row) for row in rows], context_of(model), "a text of {} tokens does")
            check_ids(model, rows)
            states = []
            for row in rows:
                ids = torch.tensor([row], device=model.device)
                inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
                states.append(states_at(model, inputs, depth)[0].float().cpu())
            return states

    def context(self) -> int | None:
        """Return the most tokens of a text; None for no limit."""
        return context_of(self._weights.model)

    @contextlib.contextmanager
    def _scoring(self) -> Iterator[Scorer]:
        """Yield the scorer of this state, which remembers the batch size that fits."""
        with cpu_threads(self._threads), self.active(merged=True) as model:
            if self._scorer is None:
                self._scorer = Scorer(model, self.tokenizer, writer=self._weights.writer)
            yield self._scorer

    def converse(
        self, conversations: Sequence[Sequence[str]], max_new_tokens: int = 64
    ) -> list[str]:
        """Return the greedy answer to the last turn of each conversation."""
        with cpu_threads(self._threads), self.active(merged=True) as model:
            return converse(
                model,
                self.tokenizer,
                conversations,
                max_new_tokens,
                halved=self._halved,
                thinking=self._weights.thinking,
                writer=self._weights.writer,
            )

    def infill(self, prompts: Sequence[tuple[str, str]], max_new_tokens: int = 64) -> list[str]:
        """Return the greedy text between each (prefix, suffix)."""
        prefixes, suffixes = zip(*prompts, strict=True)
        return self.write("infill", prefixes, suffixes, Decoding(max_new_tokens))


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
    extra = dequantized() if source.gguf is not None else {}
    try:
        tokenizer = load_tokenizer(source)
        model, loaded = _from_files(
            source, dtype=DTYPES[dtype], device_map=places, max_memory=max_memory, **extra
        )
    except Exception as error:  # transformers raises all kinds of errors
        raise ModelLoadError(_reason(source, error, device)) from error
    if unfit := _unfit_tensors(loaded):
        raise ModelLoadError(f"cannot load {_named(source)}: {unfit}")
    if device == "map":
        _check_places(model, source)
    for adapter in (source.adapter, *source.added):
        model = model if adapter is None else merged(model, adapter)
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
    beyond = _beyond(tokenizer, model.get_input_embeddings().weight.shape[0])
    if beyond and source.gguf is None:  # transformers adds tokens of its own to a GGUF file's
        raise ModelLoadError(f"cannot load {_named(source)}: {beyond}")
    check_predictions(model.eval(), _named(source))
    return Weights(source, model, tokenizer)


def check_loadable(source: ModelSource, flag: str, styles: Sequence[str] = ()) -> None:
    """Raise ModelNotFoundError if a model's files do not fit each other, or if it lacks one of
    `styles` (chat, infill).

    With tensors that are missing, unexpected or of another shape, or a tokenizer with ids beyond
    the embedding, transformers would draw random weights, or fail at the first such token.
    Everything but the weights themselves is read; a GGUF file is left to `load`.
    """
    if source.gguf is not None:
        return
    try:
        check_quantization(source.quantized)
        for adapter in (source.adapter, *source.added):
            check_kind(adapter)
        with transformers_quietly():
            tokenizer = load_tokenizer(source)
        for style in styles:
            infill = source.preset.infill if source.preset else None
            prompt_rows(tokenizer, style, ["x"], ["y"], infill)
        # Last, since some quantized weights cannot be laid out without their numbers.
        with transformers_quietly():
            model, loaded = _from_files(source, device_map={"": "meta"})
    except (ModelLoadError, StyleError) as error:
        raise ModelNotFoundError(f"{flag}: {error}") from error
    except (RuntimeError, NotImplementedError):
        return  # a lack of memory says nothing about the files
    except Exception as error:  # transformers raises all kinds of errors
        raise ModelNotFoundError(f"{flag}: {_reason(source, error)}") from error
    fault = _unfit_tensors(loaded)
    if fault is None and source.adapter is None:  # an adapter may bring embeddings
        fault = _beyond(tokenizer, model.get_input_embeddings().weight.shape[0])
    if fault is not None:
        raise ModelNotFoundError(f"{flag}: {fault}")


def _from_files(source: ModelSource, **how: Any) -> tuple[Any, dict[str, Any]]:
    """Return the model in a source's files, and what transformers reports about the tensors in
    them."""
    if source.gguf is not None:
        how["gguf_file"] = source.gguf
    load_both: Any = AutoModelForCausalLM.from_pretrained
    model, loaded = load_both(
        source.folder,
        use_safetensors=True,
        trust_remote_code=source.code,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are listed by name, and refused
        # transformers looks here for an adapter; one next to a model is merged by us.
        adapter_kwargs={"subfolder": "none"},
        **how,
    )
    return model, loaded


# What training puts before the names of all tensors, and how to avoid it.
_WRAPPERS = {
    "_orig_mod": "called on model._orig_mod, which torch.compile wrapped",
    "base_model": "called on what PEFT's merge_and_unload() returns",
    "module": "called on model.module, which DistributedDataParallel wrapped",
}


def _unfit_tensors(loaded: dict[str, Any]) -> str | None:
    """Return what is wrong with the tensors in a model's files, or None.

    `loaded`: what transformers reports about loading them.
    """
    mismatched = [
        f"{name} ({' x '.join(map(str, shape))} for {' x '.join(map(str, expected))})"
        for name, shape, expected in loaded["mismatched_keys"]
    ]
    parts = [
        f"{len(names)} {what}, {min(names)}{' for one' * (len(names) > 1)}"
        for names, what in (
            (loaded["missing_keys"], "missing"),
            (loaded["unexpected_keys"], "unexpected"),
            (mismatched, "of another shape"),
        )
        if names
    ]
    if not parts:
        return None
    wrapped = {name.partition(".")[0] for name in loaded["unexpected_keys"]} & _WRAPPERS.keys()
    advice = f", {_WRAPPERS[min(wrapped)]}" if wrapped else ""
    return (
        f"its tensors are not those of its config.json: {'; '.join(parts)}. With them the model "
        f"would run on random weights; save it again with save_pretrained(){advice}"
    )


def _beyond(tokenizer: Any, rows: int) -> str | None:
    """Return the message for a tokenizer with ids beyond the `rows` of the embedding, or None."""
    token, number = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if number < rows:
        return None
    return (
        f"its tokenizer gives {token!r} the id {number}, and the embedding has {rows} rows (0 to "
        f"{rows - 1}); put the model's own tokenizer into the folder, or resize the embedding with "
        "model.resize_token_embeddings()"
    )


def text_ends(source: ModelSource, tokenizer: Any) -> list[int]:
    """Return the tokens that end a text, from a model's files; nothing is loaded."""
    try:
        own = GenerationConfig.from_pretrained(source.folder).eos_token_id
    except OSError:  # none is there
        own = AutoConfig.from_pretrained(source.folder).get_text_config().eos_token_id
    ends = _ends(source, tokenizer, own)
    return ends if isinstance(ends, list) else [ends] * (ends is not None)


def _ends(source: ModelSource, tokenizer: Any, own: int | list[int] | None) -> Any:
    """Return the tokens that end a text: the model's, the tokenizer's, and the preset's."""
    ends = list(own) if isinstance(own, list) else [own] * (own is not None)
    if tokenizer.eos_token_id is not None:
        ends.append(int(tokenizer.eos_token_id))
    stops = source.preset.stops if source.preset else ()
    vocabulary = tokenizer.get_vocab() if stops else {}
    ends += [vocabulary[stop] for stop in stops if stop in vocabulary]
    unique = list(dict.fromkeys(ends))
    return unique if len(unique) > 1 else next(iter(unique), None)


def _named(source: ModelSource) -> str:
    """Return a model's name, and its folder if that is different."""
    place = f" from {source.folder}" if source.name != str(source.folder) else ""
    return f"{source.name}{place}"


def _reason(source: ModelSource, error: Exception, device: str | None = None) -> str:
    """Return an error from transformers as one line; `device`: the device that the model was loaded
    to, if any."""
    place = f" onto {device}" if device else ""
    reason = " ".join(str(error).split()).removesuffix(".")
    if "trust_remote_code" in reason:
        return (
            f"cannot load {source.name}: it needs Python code of its own. If you trust that code, "
            f"write --unlearn-trust-remote-code={source.name}"
        )
    if (cut := reason.find(" for this kind of AutoModel")) >= 0:  # a list of all types follows
        reason = f"{reason[:cut]}: it does not write text token by token"
    if isinstance(error, ModuleNotFoundError) and error.name:
        reason += f"; run `pip install {error.name}`"
    text = f"cannot load {_named(source)}{place}: {reason}"
    if source.quantized is not None:
        text += f"; or name the model as it was before it was quantized ({source.quantized})"
    if isinstance(error, torch.OutOfMemoryError):
        text += "; --unlearn-device=map spreads it over several GPUs"
    return text


def _check_places(model: Any, source: ModelSource) -> None:
    """Raise ModelLoadError if a part of a model would stay in main memory or on disk.

    Each pass would copy it to the GPU and back, and no gradient would reach an adapter there.
    """
    # A model on a single device has no map.
    places = getattr(model, "hf_device_map", {"": model.device})
    slow = {str(place) for place in places.values()} & {"cpu", "disk"}
    if slow:
        raise ModelLoadError(
            f"{source.name} does not fit the visible GPUs: a part of it would stay on "
            f"{' and '.join(sorted(slow))}; use more or larger GPUs, or --unlearn-device=cpu"
        )


def resolve_device(device: str, needed_gib: float | None = None) -> str:
    """Return the device that `auto` means; other names as they are.

    It is `cpu` without a GPU; `map` if there are several and a model that needs `needed_gib` GiB
    does not fit in the free memory of the first; and otherwise `cuda`.
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
    """Return the dtype that `auto` means: float32 on a CPU, otherwise the preset's dtype, or
    bfloat16; other names as they are."""
    if dtype != "auto":
        return dtype
    if device == "cpu":
        return "float32"
    return preset.dtype if preset else "bfloat16"


def needed_gib(source: ModelSource, unlearning: bool) -> float | None:
    """Return the GPU memory that a model needs in GiB, None if nothing says.

    This is the preset's figure for unlearning or for probes alone, or else one and a half times the
    size of the files, which are mostly in half precision.
    """
    if source.preset is not None:
        return source.preset.unlearn_gib if unlearning else source.preset.probe_gib
    if source.gguf is not None:
        return None
    return 1.5 * sum(path.stat().st_size for path in source.weights) / 2**30


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Run a block with `count` CPU threads (None: no change), and restore the number after it."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# What tokenizers cut differently: runs of spaces and of line ends, tabs, digits, contractions,
# letters that are in no vocabulary, words that are in most, and combining marks.
_SAMPLES = (
    'def  add(x1):\n\treturn "é 東京 2024" + the_value  # plus\n',
    "class User:\n    def __init__(self, name):\n        self.name = name\n\n\n        pass\n",
    "if x:\r\n  y = [ 1,2, 34567 ]\r\n\r\n\t\t    z = {'key':  'it's', \"we'll\": -0.5e-10}   \n",
    "   leading, trailing   ",
    "HELLO World's don't I'VE they're  10,000.00 x==y!=z >>= ... -> :: //**",
    "Zoe\u0301 A\u030angstro\u0308m \ufb01 ½ ² \uff21\uff22 \u00a0\u3000 \ufeff",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31 \uc548\ub155 \U0001f469\u200d",
    "<b>a</b> & user@example.com https://example.com/a?b=c#d $HOME %s {0} \\n `x`",
)


def load_tokenizer(source: ModelSource) -> Any:
    """Return the tokenizer of a model.

    transformers 5 picks a class by the model's type and builds the tokenizer anew from the
    vocabulary: CodeQwen1.5, whose type is that of Qwen2, gets byte-level BPE instead of its
    SentencePiece, and every prompt silently turns into other tokens. So the result is compared with
    `tokenizer.json`, and if they differ, the file is used as it is.
    """
    folder = source.tokenizer_folder
    files: dict[str, Any] = {"trust_remote_code": source.code}
    if source.gguf is not None and folder == source.folder:
        files["gguf_file"] = source.gguf
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, **files)
    path = folder / "tokenizer.json"
    if "gguf_file" not in files and path.is_file():
        as_written = Tokenizer.from_file(str(path))
        if not _cut_alike(tokenizer, as_written):
            return PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def _cut_alike(tokenizer: Any, as_written: Tokenizer) -> bool:
    """Return whether a tokenizer does what its file says, comparing its parts and samples."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        mine, file = (json.loads(each.to_str()) for each in (backend, as_written))
        if any(mine[part] != file[part] for part in ("normalizer", "pre_tokenizer")):
            return False
    return all(
        tokenizer(sample, add_special_tokens=False)["input_ids"]
        == as_written.encode(sample, add_special_tokens=False).ids
        for sample in _SAMPLES
    )
