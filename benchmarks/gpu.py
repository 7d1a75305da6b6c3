"""How fast and how large: the 7B presets with random weights, and the tiny model, on a GPU.

    python benchmarks/gpu.py [--preset NAME ...] [--speeds FILE] [--small]

One command of less than 8 minutes that fills a table and says PASS or FAIL against the goals: LoRA
steps at 45 % of the device's peak or more and under 24 GB, 20,000 records a second scored on the
tiny model and 300 on a 7B one. Its exit code is 1 where a goal is missed. Presets for which the
time is spent are named. Each figure is printed as soon as it is there, and a part that fails is a
line, a traceback and a FAIL: the others are measured all the same. In bfloat16, each preset built
from its published configuration:

- training: tokens/s, share of the device's peak FLOP/s and peak memory of LoRA steps by GA+KL and
  NPO+KL on one forget and one retained row of 2,048 tokens, with gradient checkpointing. Tokens are
  those of the two rows; the pass of the reference costs time and counts for nothing.
- probes: records scored a second, and tokens generated a second, by the code that runs use, on each
  engine that is installed for the tiny model.
- attacks: seconds and peak memory of rounding all weights to 4 bits and restoring them.

Floating-point operations of a step, per token (2 a multiply-add; N: weights of all matrices that a
token passes, embeddings left out and the output layer included; A: those of the adapters; T: tokens
of a row, h: width of attention, L: layers): forward 2N + 2A + 2ThL (causal attention sees half of
4ThL); backward as much again for the activations, as the base's weights are frozen, but twice for
attention and adapters. The pass of the reference adds 2N + 2ThL a retained token. `recomputed` also
counts the second forward pass that checkpointing costs; the goal of 45 % is for the share without.

`--speeds=FILE` writes what `--unlearn-plan --unlearn-speeds=FILE` takes. Where there is no GPU, or
with `--small`, small configurations run on the CPU: that shows that the script works, and the goals
are NOT EVALUATED. Without weights or tokenizers: texts are spelled in bytes.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from pytest_unlearn.attacks.attack import attacks, under_attack
from pytest_unlearn.core.errors import UserError
from pytest_unlearn.models.batches import Encoded, collate
from pytest_unlearn.models.engine import TRANSFORMERS, engines
from pytest_unlearn.models.generation import complete_greedily
from pytest_unlearn.models.loading import resolve_device
from pytest_unlearn.models.presets import Preset, presets
from pytest_unlearn.models.scoring import Scorer
from pytest_unlearn.models.sources import resolve
from pytest_unlearn.models.texts import Example
from pytest_unlearn.people.generate import tiny_records
from pytest_unlearn.unlearning.data import with_base_sums
from pytest_unlearn.unlearning.method import Method
from pytest_unlearn.unlearning.methods import METHODS
from pytest_unlearn.unlearning.step import Step, checkpointed
from pytest_unlearn.unlearning.trainer import Trainer

# Dense bfloat16 peaks in TFLOP/s of NVIDIA's data sheets; the first name that the device's holds.
PEAKS = {
    "B200": 2250.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H200": 989.0,
    "GH200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "RTX 6000 Ada": 364.0,
    "RTX 4090": 165.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L4": 121.0,
}
TRAINED = ("ga+kl", "npo+kl")
LARGE = tuple(
    name for name, preset in presets().items() if preset.config.get("hidden_size", 0) >= 2048
)
MINUTES = 7.0  # the last part may be under way
ENGINE_SECONDS = 120.0  # another engine takes as long to start
LEAST_SHARE, MOST_GB, LEAST_TINY, LEAST_LARGE = 0.45, 24.0, 20_000, 300
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Size:
    """How much is run: tokens of a training row, timed steps, records, new tokens a record."""

    tiny_records: int
    tokens: int
    steps: int
    records: int
    batch: int
    new_tokens: int


FULL_SIZE = Size(tiny_records=40960, tokens=2048, steps=8, records=512, batch=64, new_tokens=64)
SMALL_SIZE = Size(tiny_records=16, tokens=64, steps=1, records=8, batch=4, new_tokens=4)


@dataclass(frozen=True)
class Shape:
    """What the operations of a pass depend on; see the module's docstring."""

    matrices: int
    adapters: int
    width: int
    layers: int

    def step_flops(self, tokens: int, reference: bool, recomputed: bool = False) -> float:
        """Return the operations of a step on a forget and a retained row of `tokens` each."""
        attention = 2.0 * tokens * self.width * self.layers
        forward = 2.0 * (self.matrices + self.adapters) + attention
        backward = 2.0 * self.matrices + 4.0 * self.adapters + 2.0 * attention
        passes = 2 * (forward * (2 if recomputed else 1) + backward)
        return tokens * (passes + (2.0 * self.matrices + attention) * reference)


def peak_flops(device_name: str) -> float | None:
    """Return the dense bfloat16 peak in FLOP/s of a device by its name, None if unknown."""
    known = (tera for name, tera in PEAKS.items() if name in device_name)
    tera = next(known, None)
    return tera * 1e12 if tera else None


def build(preset: Preset, device: str, small: bool) -> Any:
    """Return a preset's model with random weights, made where it is to run."""
    config = AutoConfig.for_model(**{**preset.config, **(SMALL if small else {})})
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.generation_config.eos_token_id = None  # random weights end texts at random
    return model.eval()


def matrices_of(model: Any) -> int:
    """Return the number of weights that a token is multiplied with."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes, whose ids every vocabulary has."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {b: i + 3 for i, b in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    tokenizer.decoder = decoders.ByteLevel()
    wrap: Any = PreTrainedTokenizerFast
    wrapped: PreTrainedTokenizerFast = wrap(tokenizer_object=tokenizer, pad_token="<pad>")
    return wrapped


class Memory:
    """Peak memory in GB since it was made: the GPU's, or the whole process' on a CPU."""

    def __init__(self, device: str) -> None:
        self._cuda = device != "cpu"
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float:
        if self._cuda:
            return torch.cuda.max_memory_allocated() / 1e9
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def now(device: str) -> float:
    """Return the time once the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def random_row(model: Any, tokens: int) -> Encoded:
    """Return a row of random tokens, all of which are learnt."""
    ids = torch.randint(3, model.config.vocab_size, (tokens,)).tolist()
    return Encoded(ids, ids)


@dataclass(frozen=True)
class Figure:
    """One line of the table: what was measured of which model, and the goal for it."""

    model: str
    what: str
    value: float
    unit: str
    least: float | None = None
    most: float | None = None
    failed: str = ""

    def verdict(self, judged: bool) -> str:
        """Return PASS or FAIL, or why there is neither. What failed is no figure, and no PASS."""
        if self.failed:
            return "FAIL"
        if self.least is None and self.most is None:
            return ""
        if not judged:
            return "NOT EVALUATED"
        kept = (self.least is None or self.value >= self.least) and (
            self.most is None or self.value < self.most
        )
        return "PASS" if kept else "FAIL"

    def line(self, judged: bool) -> str:
        """Return the line in Markdown."""
        goal = f"at least {self.least:,g}" if self.least is not None else ""
        goal = f"under {self.most:,g}" if self.most is not None else goal
        value = self.failed or f"{self.value:,.3g} {self.unit}".strip()
        return f"| {self.model} | {self.what} | {value} | {goal} | {self.verdict(judged)} |"


@dataclass(frozen=True)
class Part:
    """A part of the benchmark that is measured, and can fail, by itself."""

    model: str
    what: str
    work: Callable[[], Iterator[Figure]]

    def figures(self) -> list[Figure]:
        """Return its figures, or a line that says how it failed."""
        found: list[Figure] = []
        try:
            found.extend(self.work())
        except Exception as error:  # a GPU's errors are of any type
            traceback.print_exc()
            first = next(iter(str(error).splitlines()), "").replace("|", "/")[:120]
            said = f"{type(error).__name__}: {first}"
            found.append(Figure(self.model, self.what, 0.0, "", failed=said))
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return found


@dataclass
class Speeds:
    """What the plan takes, in its own terms: see `models.footprint.Machine`."""

    training: list[float]
    scoring: list[float]
    bandwidth: list[float]
    layer: float

    @property
    def whole(self) -> bool:
        """Whether every speed was measured."""
        return bool(self.training and self.scoring and self.bandwidth and self.layer)

    def write(self, path: Path, kind: str, name: str) -> None:
        """Write the medians over the presets."""
        found = {
            "kind": kind,
            "name": name,
            "training_flops": median(self.training),
            "scoring_flops": median(self.scoring),
            "bandwidth": median(self.bandwidth),
            "layer_seconds": self.layer,
        }
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def train(
    preset: Preset, model: Any, method: Method, size: Size, peak: float | None, speeds: Speeds
) -> Iterator[Figure]:
    """Time LoRA steps by a method, as runs take them; `model` is unchanged after."""
    device = model.device.type
    matrices, layers = matrices_of(model), model.config.num_hidden_layers
    parameters = sum(weight.numel() for weight in model.parameters())
    heads = model.config.num_attention_heads
    width = heads * getattr(model.config, "head_dim", model.config.hidden_size // heads)
    memory = Memory(device)
    trainer = Trainer(model, method.defaults, "gpu.py", list(preset.lora_targets))
    policy: Any = trainer.policy
    retain = random_row(model, size.tokens)
    batches: list[Any] = []

    def step() -> None:
        trainer.step([method.loss(Step(policy, *batches), method.defaults)])

    try:
        (forget,) = with_base_sums(policy, [random_row(model, size.tokens)], 0)
        batches += [collate([row], 0, model.device) for row in (forget, retain)]
        with checkpointed(policy):
            step()  # allocations, choice of kernels
            started = now(device)
            for _ in range(size.steps):
                step()
            seconds = (now(device) - started) / size.steps
        trainer.check()
        trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
        used = memory.peak()
    finally:  # the next part gets the model as it was
        policy.unload().eval()
    shape = Shape(matrices, trained, width, layers)
    # As the plan counts: forward, backward, recomputed, and the base's pass.
    speeds.training.append(4 * 2.0 * parameters * 2 * size.tokens / seconds)
    what = f"LoRA step by {method.name}"
    yield Figure(preset.name, f"{what}, speed", 2 * size.tokens / seconds, "tokens/s")
    if peak:
        for recomputed in (False, True):
            share = shape.step_flops(size.tokens, True, recomputed) / seconds / peak
            name = f"{what}, share of peak" + " with what is recomputed" * recomputed
            yield Figure(preset.name, name, share, "", None if recomputed else LEAST_SHARE)
    yield Figure(preset.name, f"{what}, peak memory", used, "GB", most=MOST_GB)


def probe(preset: Preset, model: Any, size: Size, speeds: Speeds) -> Iterator[Figure]:
    """Time scoring and generation."""
    device = model.device.type
    parameters = sum(weight.numel() for weight in model.parameters())
    tokenizer = byte_tokenizer()
    examples = [
        Example.answering(f"# client {n:06d}\nrow = Client(number={n}, ", f"key-{n:08d}", ")\n")
        for n in range(size.records)
    ]
    memory = Memory(device)
    scorer = Scorer(model, tokenizer)
    scorer.score(examples[: size.batch])
    seen, started = scorer.tokens, now(device)
    scorer.score(examples)
    seconds = now(device) - started
    speeds.scoring.append(2.0 * parameters * (scorer.tokens - seen) / seconds)
    prompts = [example.text[: example.start] for example in examples[: size.batch]]
    complete_greedily(model, tokenizer, prompts, 2)
    started = now(device)
    complete_greedily(model, tokenizer, prompts, size.new_tokens)
    wrote = now(device) - started
    layers = model.config.num_hidden_layers
    step = wrote / size.new_tokens - layers * speeds.layer
    read = parameters * model.dtype.itemsize
    speeds.bandwidth.append(read / (step if step > 0 else wrote / size.new_tokens))
    yield Figure(preset.name, "records scored", size.records / seconds, "a second", LEAST_LARGE)
    written = len(prompts) * size.new_tokens / wrote
    yield Figure(preset.name, "written by transformers", written, "tokens/s")
    yield Figure(preset.name, "probes, peak memory", memory.peak(), "GB")


def attack(preset: Preset, model: Any) -> Iterator[Figure]:
    """Time an attack on all weights, and that they are restored."""
    device = model.device.type
    memory, started = Memory(device), now(device)
    rounding = attacks()["int4"]
    with under_attack(model) as target:
        for _ in rounding.made(target):
            pass
    yield Figure(preset.name, "attack int4", now(device) - started, "s")
    yield Figure(preset.name, "attack int4, peak memory", memory.peak(), "GB")


def tiny(name: str, device: str, size: Size, speeds: Speeds) -> Iterator[Figure]:
    """Time the shipped model on the bundled people, on an engine; nothing where it is not here."""
    source = resolve("tiny", "gpu.py")
    dtype = "float32" if device == "cpu" else "bfloat16"
    try:
        engines()[name].check(source, "gpu.py")
    except UserError as error:
        print(f"{name}: skipped, {error}", file=sys.stderr)
        return
    rows = [
        Example.answering(r.before.reveal(), r.value.reveal(), r.after.reveal())
        for r in tiny_records()
    ]
    examples = (rows * -(-size.tiny_records // len(rows)))[: size.tiny_records]
    prompts = [example.text[: example.start] for example in examples[: size.batch]]
    model: Any = engines()[name].open(source, device, dtype, lambda message: None)
    model.complete(prompts, 2)
    started = now(device)
    model.complete(prompts, size.new_tokens)
    seconds = now(device) - started
    speed = len(prompts) * size.new_tokens / seconds
    yield Figure("tiny", f"written by {name}, at most", speed, "tokens/s")
    if name == TRANSFORMERS:
        layers = presets()["tiny"].config["num_hidden_layers"]
        speeds.layer = seconds / size.new_tokens / layers
    model.score(examples[: size.batch])
    started = now(device)
    model.score(examples)
    speed = len(examples) / (now(device) - started)
    least = LEAST_TINY if name == TRANSFORMERS else None
    yield Figure("tiny", f"records scored by {name}", speed, "a second", least)


def all_figures(
    names: Sequence[str], device: str, size: Size, peak: float | None, speeds: Speeds
) -> Iterator[Figure]:
    """Measure one model after the other, as long as there is time.

    Other engines come last: they keep a share of the GPU's memory until the process ends.
    """
    ends = time.monotonic() + MINUTES * 60

    def in_time(name: str, how: str, needed: float = 0.0) -> bool:
        if time.monotonic() + needed <= ends:
            return True
        print(f"{name}: skipped, the time is spent; {how}", file=sys.stderr)
        return False

    def of_engine(name: str) -> list[Figure]:
        work = partial(tiny, name, device, size, speeds)
        return Part("tiny", f"by {name}", work).figures()

    yield from of_engine(TRANSFORMERS)
    for preset in (presets()[name] for name in names):
        how = f"write --preset {preset.name}"
        if not in_time(preset.name, how):
            continue
        built: list[Any] = []
        yield from Part(
            preset.name, "weights", partial(built_into, built, preset, device, size)
        ).figures()
        works = parts_of(preset, built.pop(), size, peak, speeds) if built else []
        while works:  # the last one goes before the next preset's weights come
            work = works.pop(0)
            if in_time(f"{preset.name}, {work.what}", how):
                yield from work.figures()
            del work
        gc.collect()
        if device != "cpu":
            torch.cuda.empty_cache()
    for name in engines():
        if name != TRANSFORMERS and in_time(name, "name one --preset", ENGINE_SECONDS):
            yield from of_engine(name)


def built_into(built: list[Any], preset: Preset, device: str, size: Size) -> Iterator[Figure]:
    """Put a preset's model into a list; there is no figure of it."""
    built.append(build(preset, device, size is SMALL_SIZE))
    return iter(())


def parts_of(
    preset: Preset, model: Any, size: Size, peak: float | None, speeds: Speeds
) -> list[Part]:
    """Return what is measured of a preset's model."""
    training = [
        Part(
            preset.name,
            f"LoRA step by {name}",
            partial(train, preset, model, METHODS[name], size, peak, speeds),
        )
        for name in TRAINED
    ]
    return [
        *training,
        Part(preset.name, "probes", partial(probe, preset, model, size, speeds)),
        Part(preset.name, "attack int4", partial(attack, preset, model)),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print the table, and return 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", action="append", choices=LARGE, help="default: all of them")
    parser.add_argument("--small", action="store_true", help="small configurations on the CPU")
    parser.add_argument("--peak", type=float, help="TFLOP/s of a device that the table lacks")
    parser.add_argument("--speeds", type=Path, help="write the speeds that the plan takes")
    options = parser.parse_args(arguments)
    device = "cpu" if options.small else resolve_device("auto")
    judged = device != "cpu"
    size = FULL_SIZE if judged else SMALL_SIZE
    name = torch.cuda.get_device_name() if judged else "CPU, small configurations"
    peak = options.peak * 1e12 if options.peak else peak_flops(name)
    torch.manual_seed(0)
    speeds = Speeds([], [], [], layer=0.0)
    started = time.monotonic()
    print(
        f"{name}, torch {torch.__version__}, peak {f'{peak / 1e12:.0f} TFLOP/s' if peak else '-'}"
    )
    if not judged:
        print("no GPU: small configurations, which show that the script works, and no more")
    elif not peak:
        print("the share of peak: NOT EVALUATED, the device's peak is unknown; write --peak")
    print("\n| model | figure | measured | goal | verdict |\n|---|---|---|---|---|", flush=True)
    verdicts = []
    for figure in all_figures(options.preset or LARGE, device, size, peak, speeds):
        print(figure.line(judged), flush=True)
        verdicts.append(figure.verdict(judged))
    print(f"\n{time.monotonic() - started:.0f} s")
    if options.speeds and speeds.whole:
        speeds.write(options.speeds, "cuda" if judged else "cpu", name)
        print(f"written: {options.speeds}")
    elif options.speeds:
        print(f"{options.speeds} is not written: not every speed could be measured")
    failed = verdicts.count("FAIL")
    if not judged:
        print(f"NOT EVALUATED: the goals are a GPU's; {failed} parts failed")
    else:
        print(f"{verdicts.count('PASS')} PASS, {failed} FAIL")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
