"""How fast is each engine on the same work, and does it say the same?

    python benchmarks/engines.py [--model tiny] [--engine transformers] [--engine vllm] \
        [--address http://127.0.0.1:8000/v1#name] [--cases 256] [--device cpu]

Each engine loads the model, completes the prompts of the bundled probes (48 new tokens) and scores
their values, each twice: the second time, nothing has to be compiled any more. Prints seconds to
load, completions and scored values a second, how many verdicts and texts are those of the first
engine that is named, and the largest difference of a value's log-probability and of a margin. A
server at `--address` serves the same model, and is asked last.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pytest_unlearn.models.engine import engine_named
from pytest_unlearn.models.sources import ModelSource, resolve
from pytest_unlearn.run.dataset import Dataset
from pytest_unlearn.run.divisions import PROBE_TOKENS, example_of
from pytest_unlearn.run.settings import Settings

T = TypeVar("T")
BATCH = 64


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return what some work gives, and the seconds that it took."""
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def completed(model: Any, prompts: list[str]) -> list[str]:
    """Return completions, made in the chunks of a run."""
    chunks = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]
    return [text for chunk in chunks for text in model.complete(chunk, PROBE_TOKENS)]


def main() -> None:
    """Time each engine."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="tiny", help="as --unlearn-model takes it")
    parser.add_argument(
        "--engine", action="append", help="as --unlearn-engine takes it; repeatable"
    )
    parser.add_argument("--address", help="a server of the same model")
    parser.add_argument("--cases", type=int, default=256, help="probes that are asked")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16")
    given = parser.parse_args()
    probes = [probe for probe in Dataset(Settings("tiny")).probes if probe.exact][: given.cases]
    prompts = [probe.prompt.reveal() for probe in probes]
    examples = [example_of(probe) for probe in probes]
    source = resolve(given.model, "--model")
    first: tuple[list[bool], list[str], list[Any]] | None = None
    named = [(name, source) for name in given.engine or ["transformers", "vllm"]]
    if given.address:
        named.append(("endpoint:timeout=600", ModelSource(given.address, Path())))
    for name, where in named:
        engine = engine_named(name)
        engine.check(where, "--engine")
        model, loading = timed(
            lambda engine=engine, where=where: engine.open(where, given.device, given.dtype, print)
        )
        for turn in ("cold", "warm"):
            texts, writing = timed(lambda model=model: completed(model, prompts))
            scores, scoring = timed(lambda model=model: model.score(examples))
            verdicts = [score.spelled for score in scores]
            first = first or (verdicts, texts, scores)
            off = max(
                abs(sum(a.log_probs) - sum(b.log_probs))
                for a, b in zip(scores, first[2], strict=True)
            )
            apart = max(abs(a.margin - b.margin) for a, b in zip(scores, first[2], strict=True))
            alike = [
                sum(map(str.__eq__, texts, first[1])),
                sum(map(bool.__eq__, verdicts, first[0])),
            ]
            speeds = (
                f"{len(texts) / writing:.1f} completions/s, {len(scores) / scoring:.1f} values/s"
            )
            print(
                f"{name:20} {turn}: loaded in {loading:.1f} s; {speeds}; {alike[0]} texts and "
                f"{alike[1]} verdicts of {len(probes)} as the first; values differ by up to "
                f"{off:.2g} nats, margins by {apart:.2g}",
                flush=True,
            )


if __name__ == "__main__":
    main()
