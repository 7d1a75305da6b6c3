"""How much faster is one teacher-forced pass than what other evaluators do for the same verdicts?

    python benchmarks/leaks.py [--model tiny|FOLDER|FILE.gguf] [--records N] [--new-tokens N]
                               [--decoys N]

On one model and the same records, in one run: `Scorer.score`, `generate` one prompt at a time (as
MUSE and PROD do), and `generate` in batches of 32 with a pass each for probability, extraction
strength and min-k (as open-unlearning does). Prints seconds, records per second and the ratios,
in how many verdicts they differ, and the share of padding. `generate` gets `--new-tokens`: 48 as
this package's probes do (MUSE gives 128); 0 is the least that the longest value needs, which an
evaluator that looks at the whole completion cannot do with. `--decoys` times exposure, too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers import logging as transformers_logging

from pytest_unlearn.leaks.exact import exposure
from pytest_unlearn.models.batches import IGNORED, collate, encode
from pytest_unlearn.models.generation import complete_greedily
from pytest_unlearn.models.loading import load, resolve_device
from pytest_unlearn.models.scoring import Scorer
from pytest_unlearn.models.sources import resolve
from pytest_unlearn.models.texts import Example
from pytest_unlearn.people.generate import tiny_records
from pytest_unlearn.people.other_values import decoys
from pytest_unlearn.people.record import Record
from pytest_unlearn.run.dataset import PROBE_TOKENS

BATCH = 32
# Metrics of open-unlearning that each run a pass of their own.
PASSES = ("probability", "extraction strength", "min-k")


def load_model(name: str, device: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return model and tokenizer, in float32 on a CPU and bfloat16 on a GPU."""
    dtype = "float32" if device == "cpu" else "bfloat16"
    weights = load(resolve(name, "--model"), device, dtype)
    return weights.model, weights.tokenizer


def answers_tokens(tokenizer: Any, examples: Sequence[Example]) -> int:
    """Return the most tokens that a value takes, with the space before it and one to spare."""
    values = [e.text[len(e.text[: e.start].rstrip()) : e.end] for e in examples]
    return 1 + max(map(len, tokenizer(values, add_special_tokens=False)["input_ids"]))


def generated(
    model: Any, tokenizer: Any, examples: Sequence[Example], size: int, most: int
) -> list[bool]:
    """Return the verdicts by `generate`, `size` prompts at a time."""
    verdicts = []
    for begin in range(0, len(examples), size):
        part = examples[begin : begin + size]
        prompts = [example.text[: example.start] for example in part]
        texts = complete_greedily(model, tokenizer, prompts, most)
        verdicts += [
            (prompt.rstrip() + text).startswith(example.text[: example.end])
            for prompt, text, example in zip(prompts, texts, part, strict=True)
        ]
    return verdicts


@torch.inference_mode()
def separate_passes(model: Any, tokenizer: Any, examples: Sequence[Example]) -> None:
    """Compute each of `PASSES` from the full logits of batches of its own."""
    pad = int(tokenizer.pad_token_id)
    for metric in PASSES:
        for begin in range(0, len(examples), BATCH):
            rows = [encode(tokenizer, example) for example in examples[begin : begin + BATCH]]
            batch = collate(rows, pad, model.device)
            logits = model(**batch.model_inputs(), use_cache=False).logits[:, :-1].float()
            labels = batch.labels[:, 1:]
            if metric == "extraction strength":
                (logits.argmax(-1) == labels).tolist()
                continue
            own = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
            sums = own.masked_fill(labels == IGNORED, 0.0)
            if metric == "probability":
                sums.sum(-1).exp().tolist()
            else:
                sums.sort(-1).values.tolist()


def generated_and_passes(
    model: Any, tokenizer: Any, examples: Sequence[Example], most: int
) -> list[bool]:
    """Return the verdicts of batched `generate`, and run the separate passes."""
    separate_passes(model, tokenizer, examples)
    return generated(model, tokenizer, examples, BATCH, most)


def timed(run: Callable[[], list[bool]]) -> tuple[list[bool], float]:
    """Return what `run` gives and its wall seconds."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    verdicts = run()
    return verdicts, time.perf_counter() - started


def time_exposure(scorer: Scorer, records: Sequence[Record], count: int) -> None:
    """Print how long the exposure of a few records takes."""
    taken = {record.value.reveal() for record in tiny_records()}
    some = records[:: max(1, len(records) // 5)]
    started = time.perf_counter()
    for record in some:
        values = [record.value.reveal(), *decoys(record.kind, count, "benchmark", taken)]
        own, *others = scorer.alternatives(record.before.reveal(), values, record.after.reveal())
        exposure(own, others)
    seconds = (time.perf_counter() - started) / len(some)
    print(f"exposure among {count} decoys: {seconds:.2f} s a record")


def main() -> None:
    """Run and print all three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--records", type=int, default=480)
    parser.add_argument("--new-tokens", type=int, default=PROBE_TOKENS)
    parser.add_argument("--decoys", type=int, default=0)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    quiet: Any = transformers_logging.set_verbosity_error
    quiet()
    device = resolve_device(options.device)
    model, tokenizer = load_model(options.model, device)
    every = tiny_records()
    records = every[:: max(1, len(every) // options.records)][: options.records]
    examples = [
        Example.answering(r.before.reveal(), r.value.reveal(), r.after.reveal()) for r in records
    ]
    most = options.new_tokens or answers_tokens(tokenizer, examples)
    scorer = Scorer(model, tokenizer)
    scorer.score(examples[:BATCH])  # warm up all of them
    generated(model, tokenizer, examples[:BATCH], BATCH, 2)
    scorer.tokens = scorer.padded = 0
    ways: dict[str, Callable[[], list[bool]]] = {
        "one pass (pytest-unlearn)": lambda: [s.spelled for s in scorer.score(examples)],
        "generate, one at a time": lambda: generated(model, tokenizer, examples, 1, most),
        "generate by 32 + 3 passes": lambda: generated_and_passes(model, tokenizer, examples, most),
    }
    print(
        f"{options.model} on {device}, {torch.get_num_threads()} CPU threads: "
        f"{len(examples)} records, up to {most} new tokens"
    )
    own: list[bool] = []
    quickest = 0.0
    for name, run in ways.items():
        verdicts, seconds = timed(run)
        own, quickest = own or verdicts, quickest or seconds
        differ = sum(a != b for a, b in zip(own, verdicts, strict=True))
        print(
            f"{name:28} {seconds:8.2f} s {len(examples) / seconds:8.1f} records/s "
            f"{seconds / quickest:6.1f} x, {differ} verdicts differ, {sum(verdicts)} leak"
        )
    print(f"padding in the one pass: {1 - scorer.tokens / scorer.padded:.1%}")
    if options.decoys:
        time_exposure(scorer, records, options.decoys)


if __name__ == "__main__":
    main()
