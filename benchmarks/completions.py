"""Completions a second by our loop against transformers' `generate`, on a CPU.

    python benchmarks/completions.py [--model NAME] [--chunks N] [--rounds N] [--method NAME]

The chunks of a run's own data, greedy: base and tested model by `generate`, then both by our loop,
in turn, since the machine is busy with other things; seconds are of this process alone. The texts
must be the same, every one: a difference is named, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pytest_unlearn.core.store import Store
from pytest_unlearn.models import generation
from pytest_unlearn.models.generation import Writer, write
from pytest_unlearn.models.texts import Decoding
from pytest_unlearn.run.dataset import Dataset
from pytest_unlearn.run.models import ModelPair
from pytest_unlearn.run.settings import Settings
from pytest_unlearn.unlearning.methods import parse_method


class _Generate(Writer):
    """Writes by `generate` alone."""

    def written(self, *arguments: Any) -> list[list[int]]:
        return generation._generated(*arguments)


def run(pair: ModelPair, chunks: Sequence[Any], writer: Writer) -> tuple[list[float], list[str]]:
    """Return the seconds of each state, and all texts."""
    seconds, texts = [], []
    for state in ("base", "unlearned"):
        model: Any = pair.model(state)  # type: ignore[arg-type]
        spent = 0.0
        for chunk in chunks:
            decoding = Decoding(chunk.max_new_tokens, stops=chunk.stops)
            with model.active() as weights:
                started = time.process_time()
                texts += write(
                    weights,
                    model.tokenizer,
                    chunk.style,
                    chunk.prompts,
                    chunk.suffixes,
                    decoding,
                    writer=writer,
                )
                spent += time.process_time() - started
        seconds.append(spent)
    return seconds, texts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print a table; 1 where texts differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--method", default="none", help="as --unlearn-method")
    parser.add_argument("--store", help="a store that has the unlearned model")
    parser.add_argument("--chunks", type=int, default=0, help="so many of each family (0: all)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(options.store or folder)
        settings = Settings(
            model=options.model, method=parse_method(options.method), device="cpu", store=store
        )
        dataset = Dataset(settings)
        pair = ModelPair(settings, dataset, Store(store), print)
        every = list(dict.fromkeys(dataset.chunk_of_case.values()))
        step = max(1, len(every) // options.chunks) if options.chunks else 1
        chunks = every[::step]
        pairs = []
        for _ in range(options.rounds):
            old, before = run(pair, chunks, _Generate())
            new, after = run(pair, chunks, Writer())
            pairs.append((old, new))
            wrong = sum(a != b for a, b in zip(before, after, strict=True))
            if wrong:
                print(f"{wrong} of {len(before)} texts differ")
                return 1
    count = sum(len(chunk.cases) for chunk in chunks)
    print(f"{options.model}, {options.method}: {len(chunks)} chunks, {count} completions a state")
    print("| state | generate, a second | loop, a second | ratio |")
    print("|---|---|---|---|")
    for number, state in enumerate(("base", "unlearned", "both")):
        parts = slice(number, number + 1) if number < 2 else slice(None)
        olds, news = zip(*((sum(o[parts]), sum(n[parts])) for o, n in pairs), strict=True)
        ratio = median(o / n for o, n in zip(olds, news, strict=True))
        total = count * (2 if number == 2 else 1)
        print(
            f"| {state} | {total / median(olds):,.1f} | {total / median(news):,.1f} | {ratio:.2f} |"
        )
    print("the same texts")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
