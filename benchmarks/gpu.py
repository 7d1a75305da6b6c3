"""How fast and how large: the 7B presets with random weights on a GPU.

    python benchmarks/gpu.py [--preset NAME ...] [--small]

For each preset, built from its published configuration, in bfloat16:

- training: tokens/s, share of the device's peak FLOP/s and peak memory of LoRA steps by GA+KL and
  NPO+KL on one forget and one retained row of 2,048 tokens, with gradient checkpointing. Tokens are
  those of the two rows; the pass of the reference costs time and counts for nothing.
- probes: records scored a second, and tokens generated a second, by the code that runs use.

Floating-point operations of a step, per token (2 a multiply-add; N: weights of all matrices that a
token passes, embeddings left out and the output layer included; A: those of the adapters; T: tokens
of a row, h: width of attention, L: layers): forward 2N + 2A + 2ThL (causal attention sees half of
4ThL); backward as much again for the activations, as the base's weights are frozen, but twice for
attention and adapters. The pass of the reference adds 2N + 2ThL a retained token. `recomputed` also
counts the second forward pass that checkpointing costs; the goal of 45 % is for the share without.

`--small` runs the same on a CPU with small configurations: it shows that the script works, and no
more. Without weights or tokenizers: texts are spelled in bytes.
"""

from __future__ import annotations

import argparse
import gc
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from pytest_unlearn.models.batches import Encoded, collate
from pytest_unlearn.models.examples import Example
from pytest_unlearn.models.generation import complete_greedily
from pytest_unlearn.models.loading import resolve_device
from pytest_unlearn.models.presets import Preset, presets
from pytest_unlearn.models.scoring import Scorer
from pytest_unlearn.unlearning.data import with_base_sums
from pytest_unlearn.unlearning.lora import checkpointed
from pytest_unlearn.unlearning.method import Method
from pytest_unlearn.unlearning.methods import METHODS
from pytest_unlearn.unlearning.step import Step
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
    "RTX 4090": 165.0,
    "A10": 125.0,
    "L4": 121.0,
}
TRAINED = ("ga+kl", "npo+kl")
LARGE = tuple(
    name for name, preset in presets().items() if preset.config.get("hidden_size", 0) >= 2048
)
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

    tokens: int
    steps: int
    records: int
    batch: int
    new_tokens: int


FULL_SIZE = Size(tokens=2048, steps=8, records=512, batch=64, new_tokens=64)
SMALL_SIZE = Size(tokens=64, steps=1, records=8, batch=4, new_tokens=4)


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
    """Peak memory in GiB since it was made: the GPU's, or the whole process' on a CPU."""

    def __init__(self, device: str) -> None:
        self._cuda = device != "cpu"
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float:
        if self._cuda:
            return torch.cuda.max_memory_allocated() / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def now(device: str) -> float:
    """Return the time once the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def random_row(model: Any, tokens: int) -> Encoded:
    """Return a row of random tokens, all of which are learnt."""
    ids = torch.randint(3, model.config.vocab_size, (tokens,)).tolist()
    return Encoded(ids, ids)


def train(preset: Preset, model: Any, method: Method, size: Size, peak: float | None) -> str:
    """Time LoRA steps by a method, as runs take them, and return a line; `model` is unchanged."""
    device = model.device.type
    matrices, layers = matrices_of(model), model.config.num_hidden_layers
    heads = model.config.num_attention_heads
    width = heads * getattr(model.config, "head_dim", model.config.hidden_size // heads)
    memory = Memory(device)
    trainer = Trainer(model, method.defaults, "gpu.py", list(preset.lora_targets))
    policy: Any = trainer.policy
    (forget,) = with_base_sums(policy, [random_row(model, size.tokens)], 0)
    retain = random_row(model, size.tokens)
    batches = [collate([row], 0, model.device) for row in (forget, retain)]

    def step() -> None:
        trainer.step([method.loss(Step(policy, *batches), method.defaults)])

    with checkpointed(policy):
        step()  # allocations, choice of kernels
        started = now(device)
        for _ in range(size.steps):
            step()
        seconds = (now(device) - started) / size.steps
    trainer.check()
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    shape = Shape(matrices, trained, width, layers)
    shares = [
        f"{shape.step_flops(size.tokens, True, recomputed) / seconds / peak:.1%}" if peak else "-"
        for recomputed in (False, True)
    ]
    used = memory.peak()
    policy.unload().eval()
    return (
        f"| {preset.name} | {method.name} | {2 * size.tokens / seconds:,.0f} | {shares[0]} | "
        f"{shares[1]} | {used:.1f} |"
    )


def probe(preset: Preset, model: Any, size: Size) -> str:
    """Time scoring and generation and return a line."""
    device = model.device.type
    tokenizer = byte_tokenizer()
    examples = [
        Example.answering(f"# client {n:06d}\nrow = Client(number={n}, ", f"key-{n:08d}", ")\n")
        for n in range(size.records)
    ]
    memory = Memory(device)
    scorer = Scorer(model, tokenizer)
    scorer.score(examples[: size.batch])
    started = now(device)
    scorer.score(examples)
    scored = size.records / (now(device) - started)
    prompts = [example.text[: example.start] for example in examples[: size.batch]]
    complete_greedily(model, tokenizer, prompts, 2)
    started = now(device)
    complete_greedily(model, tokenizer, prompts, size.new_tokens)
    written = len(prompts) * size.new_tokens / (now(device) - started)
    return f"| {preset.name} | {scored:,.0f} | {written:,.0f} | {memory.peak():.1f} |"


def attempt(name: str, columns: int, run: Any) -> str:
    """Return the line that `run` gives, or one that says that the memory was too small."""
    try:
        return str(run())
    except torch.OutOfMemoryError:
        return f"| {name} | out of memory |" + " |" * (columns - 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", action="append", choices=LARGE, help="default: all of them")
    parser.add_argument("--small", action="store_true", help="small configurations on the CPU")
    parser.add_argument("--peak", type=float, help="TFLOP/s of a device that the table lacks")
    options = parser.parse_args(arguments)
    device = "cpu" if options.small else resolve_device("auto")
    if device == "cpu" and not options.small:
        parser.error("no GPU is visible; --small runs small configurations on the CPU")
    size = SMALL_SIZE if options.small else FULL_SIZE
    name = torch.cuda.get_device_name() if device != "cpu" else "CPU, small configurations"
    peak = options.peak * 1e12 if options.peak else peak_flops(name)
    methods = [METHODS[method] for method in TRAINED if method in METHODS]
    torch.manual_seed(0)
    training, probing = [], []
    for preset in (presets()[name] for name in options.preset or LARGE):
        model = build(preset, device, options.small)
        for method in methods:
            line = attempt(
                preset.name, 6, lambda m=method, p=preset, o=model: train(p, o, m, size, peak)
            )
            training.append(line)
        probing.append(attempt(preset.name, 4, lambda p=preset, o=model: probe(p, o, size)))
        del model
        gc.collect()
        if device != "cpu":
            torch.cuda.empty_cache()
    print(
        f"{name}, torch {torch.__version__}, peak {f'{peak / 1e12:.0f} TFLOP/s' if peak else '-'}"
    )
    print(f"\nLoRA steps, rows of {size.tokens} tokens, {size.steps} timed after one more")
    print("| preset | method | tokens/s | share of peak | recomputed | peak GiB |")
    print("|---|---|---|---|---|---|")
    print("\n".join(training))
    for missing in (method for method in TRAINED if method not in METHODS):
        print(f"{missing}: skipped, this version has no such method")
    print(f"\nprobes, {size.records} records; {size.batch} x {size.new_tokens} tokens written")
    print("| preset | records/s scored | tokens/s written | peak GiB |")
    print("|---|---|---|---|")
    print("\n".join(probing))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
