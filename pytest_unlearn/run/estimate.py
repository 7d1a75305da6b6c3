"""What a run would do and need: `--unlearn-plan`. No model is loaded, nothing is generated.

Cases, chunks and what gates need are exact. Tokens are counted with the model's tokenizer where it
is on this machine. Memory and time are estimates of the order of magnitude: the assumed speeds
stand in `MACHINES`.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_unlearn.attacks.relearn import BATCH, STEPS
from pytest_unlearn.gates.estimates import percent
from pytest_unlearn.gates.planning import GatePlan, plan_gate
from pytest_unlearn.models.adapters import base_of, is_adapter
from pytest_unlearn.models.presets import CONTEXTS, presets
from pytest_unlearn.models.sources import weight_files

if TYPE_CHECKING:
    from pytest_unlearn.run.dataset import Chunk, Dataset
    from pytest_unlearn.run.settings import Pair, Settings

Table = list[list[str]]
# Without a tokenizer: bytes of source code and e-mail addresses in one token.
_BYTES_A_TOKEN = 3.5
# Floats kept for the backward pass, by token, layer and hidden unit (half precision or not).
_ACTIVATIONS = 16


@dataclass(frozen=True, slots=True)
class Machine:
    """Assumed speeds: floating-point operations and bytes of memory read a second, and seconds
    that a layer takes at the least in a step."""

    name: str
    flops: float
    bandwidth: float
    layer: float
    bytes_a_weight: int


_CORES = os.cpu_count() or 1
MACHINES = {
    "cpu": Machine(f"CPU, {_CORES} cores", 2e10 * _CORES, 1e10, 2e-4, 4),
    "cuda": Machine("GPU", 1e14, 1e12, 3e-5, 2),
}


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What a model's files say about it, read from headers alone.

    `count` gives the number of tokens of each text; `exact` tells whether by the tokenizer.
    """

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    cache_values: int
    count: Callable[[Sequence[str]], list[int]]
    exact: bool
    context: int | None = None


def model_size(name: str) -> ModelSize | None:
    """Return the size of a model on this machine, or None where it would have to be fetched."""
    folder = _local_folder(name)
    if folder is None:
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config", config)
    heads = config.get("num_attention_heads", 1)
    hidden, layers = config.get("hidden_size", 0), config.get("num_hidden_layers", 0)
    width = config.get("head_dim") or hidden // heads
    count, exact = _counter(folder)
    return ModelSize(
        parameters=sum(map(_parameters, weight_files(folder))),
        layers=layers,
        hidden=hidden,
        vocabulary=config.get("vocab_size", 0),
        cache_values=2 * layers * config.get("num_key_value_heads", heads) * width,
        count=count,
        exact=exact,
        context=next((config[name] for name in CONTEXTS if config.get(name)), None),
    )


def is_here(name: str | None) -> bool:
    """Tell whether a model is a file or folder of this machine, so that nothing is fetched."""
    preset = presets().get(str(name))
    return Path(preset.source if preset else str(name)).exists()


def _local_folder(name: str) -> Path | None:
    preset = presets().get(name)
    source = preset.source if preset else name
    path = Path(source)
    if path.is_dir():  # an adapter is about as large as its base
        base = base_of(path) if is_adapter(path) else None
        return _local_folder(base) if base else path
    if path.exists():  # a GGUF file
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _parameters(path: Path) -> int:
    """Return the number of weights in a safetensors file, from its header."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            size = 1
            for side in tensor["shape"]:
                size *= side
            total += size
    return total


def count_bytes(texts: Sequence[str]) -> list[int]:
    """Return estimated token counts, for want of a tokenizer."""
    return [round(len(text.encode("utf-8", "replace")) / _BYTES_A_TOKEN) for text in texts]


def _counter(folder: Path) -> tuple[Callable[[Sequence[str]], list[int]], bool]:
    if not (folder / "tokenizer.json").is_file():
        return count_bytes, False
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda texts: [len(row) for row in tokenizer.encode_batch(list(texts))], True


@dataclass(frozen=True, slots=True)
class Work:
    """Cases of one family, or the tasks: chunks, prompt tokens, and new tokens at the most.

    `steps` are decoding steps, one a new token of a whole chunk; `longest` is the most tokens that
    a chunk holds at once.
    """

    name: str
    cases: int
    chunks: int
    prompt_tokens: int
    new_tokens: int
    steps: int
    longest: int


def work_of(dataset: Dataset, count: Callable[[Sequence[str]], list[int]]) -> list[Work]:
    """Return what one model has to do, family by family."""
    chunks: dict[str, list[Chunk]] = {}
    seen: set[str] = set()
    probes = {probe.id: probe.family for probe in dataset.probes}
    for case, chunk in dataset.chunk_of_case.items():
        if chunk.id not in seen:
            seen.add(chunk.id)
            name = f"{probes[case]} probes" if case in probes else "tasks"
            chunks.setdefault(name, []).append(chunk)
    return [_work(name, group, count) for name, group in chunks.items()]


def _work(name: str, chunks: Sequence[Chunk], count: Callable[[Sequence[str]], list[int]]) -> Work:
    lengths = [count(chunk.prompts) for chunk in chunks]
    return Work(
        name=name,
        cases=sum(len(chunk.cases) for chunk in chunks),
        chunks=len(chunks),
        prompt_tokens=sum(map(sum, lengths)),
        new_tokens=sum(len(chunk.cases) * chunk.max_new_tokens for chunk in chunks),
        steps=sum(chunk.max_new_tokens for chunk in chunks),
        longest=max(
            len(chunk.cases) * (max(length) + chunk.max_new_tokens)
            for chunk, length in zip(chunks, lengths, strict=True)
        ),
    )


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes of memory and seconds on a machine."""

    machine: Machine
    memory: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.machine.name}: about {_amount(self.memory)} of memory and "
            f"{_duration(self.seconds)}"
        )


def plan(settings: Settings, dataset: Dataset) -> tuple[list[str], list[Table]]:
    """Return the plan of a run: lines of text, and tables of work and of gates."""
    states = 2 if settings.compares_two_states else 1
    size = model_size(settings.model)
    work = work_of(dataset, size.count if size else count_bytes)
    costs = _costs(settings, dataset, work, states, size)
    lines = [*_lines(states, size, costs), *_attacked(settings, dataset, size)]
    lines += [*_too_long(dataset, size), *([dataset.merged] if dataset.merged else [])]
    return lines, [_work_table(work, states), _gate_table(settings, dataset)]


def plan_sweep(pairs: Sequence[Pair], dataset: Dataset) -> tuple[list[str], list[Table]]:
    """Return the plan of a sweep: lines of each pair and of all, a table a model, and the gates.

    What a base writes is kept: it is counted with the first pair that has it.
    """
    lines: list[str] = []
    work: dict[str, list[Work]] = {}
    sizes: dict[str, ModelSize | None] = {}
    bases: set[str] = set()
    costs: list[list[Cost]] = []
    states, prompts, new = 0, 0, 0
    for pair in pairs:
        settings = pair.settings
        if settings.model not in work:
            sizes[settings.model] = size = model_size(settings.model)
            work[settings.model] = work_of(dataset, size.count if size else count_bytes)
        size, mine = sizes[settings.model], work[settings.model]
        base = settings.baseline or settings.model
        runs = settings.compares_two_states + (base not in bases)
        bases.add(base)
        costs.append(_costs(settings, dataset, mine, runs, size))
        told = [*_lines(runs, size, costs[-1]), *_attacked(settings, dataset, size)]
        lines += [f"{pair.label}: {line}" for line in told]
        states += runs
        prompts += runs * sum(w.prompt_tokens for w in mine)
        new += runs * sum(w.new_tokens for w in mine)
    lines.append(
        f"all {len(pairs)} pairs: models to run: {states} (a base once for all its methods), "
        f"{prompts:,} prompt tokens, {new:,} new tokens at most"
    )
    if all(costs):  # one pair's models are held at a time
        lines += [
            "all pairs, " + str(Cost(each[0].machine, max(c.memory for c in each), seconds))
            for each in zip(*costs, strict=True)
            for seconds in [sum(c.seconds for c in each)]
        ]
    tables = [_work_table(each, 1, model) for model, each in work.items()]
    return lines, [*tables, _gate_table(pairs[0].settings, dataset)]


def _attacked(settings: Settings, dataset: Dataset, size: ModelSize | None) -> list[str]:
    """Return a line about what is scored under attack, and about attacks that cannot be made."""
    attacks = [attack.name for attack in dataset.attacks(settings.method)]
    lines = []
    if attacks:
        tokens = _attack_tokens(settings, dataset, size)
        lines.append(
            f"attacks on the tested model: {', '.join(attacks)}; {tokens:,} tokens to be scored, a "
            "token of training counted three times"
        )
    left_out = [name for name in settings.attacks if name not in attacks]
    if left_out:
        lines.append(f"attacks that cannot be made on this model: {', '.join(left_out)}")
    return lines


def _attack_tokens(settings: Settings, dataset: Dataset, size: ModelSize | None) -> int:
    """Return the tokens that are scored under all attacks, and three times those trained on."""
    count, total = size.count if size else count_bytes, 0
    for attack in dataset.attacks(settings.method):
        probes = [p for state in attack.states for p in dataset.attacked_probes(attack, state)]
        total += sum(count([f"{p.prompt.reveal()}{p.value.reveal()}" for p in probes]))
        for _, part in dataset.attack_texts(attack) if attack.ask is None else ():
            lengths = count([example.text for example in part])
            total += round(3 * STEPS[-1] * BATCH * sum(lengths) / max(1, len(lengths)))
    return total


def _too_long(dataset: Dataset, size: ModelSize | None) -> list[str]:
    """Return a line that names the cases which do not fit the model's context, if there are any."""
    if size is None or size.context is None:
        return []
    long: list[str] = []
    for chunk in dict.fromkeys(dataset.chunk_of_case.values()):
        lengths = size.count([prompt.rstrip() for prompt in chunk.prompts])
        long += [
            case
            for case, length in zip(chunk.cases, lengths, strict=True)
            if length + chunk.max_new_tokens > size.context
        ]
    if not long:
        return []
    names = ", ".join(long[:5]) + f" and {len(long) - 5} more" * (len(long) > 5)
    return [
        f"will end in an error: {len(long)} cases do not fit the model's context of {size.context} "
        f"tokens: {names}"
    ]


def _lines(states: int, size: ModelSize | None, costs: Sequence[Cost]) -> list[str]:
    first = f"models to run: {states}; tokens {_how_counted(size)}"
    if size is None:
        return [first, "memory and time: not estimated, as the model is not on this machine"]
    return [
        first,
        *(
            f"{cost} ({size.parameters / 1e6:,.1f} M parameters, "
            f"{8 * cost.machine.bytes_a_weight} bits each)"
            for cost in costs
        ),
    ]


def _work_table(work: Sequence[Work], states: int, model: str = "the model") -> Table:
    heads = ["on each model" if states == 2 else f"on {model}", "cases", "chunks"]
    return [
        [*heads, "prompt tokens", "new tokens, at most"],
        *(
            [w.name, *(f"{n:,}" for n in (w.cases, w.chunks, w.prompt_tokens, w.new_tokens))]
            for w in work
        ),
    ]


def _gate_table(settings: Settings, dataset: Dataset) -> Table:
    cases = dataset.cases(settings.method)
    judging = settings.judging
    needed = f"needed for {percent(judging.confidence)}"
    head = ["gate", "cases", "people or tasks", needed, "for 80% power", "may leak or be lost"]
    gates: Table = [head]
    plans = (plan_gate(gate, cases, judging.confidence, judging.requests) for gate in judging.gates)
    return gates + [_gate_cells(each) for each in plans]


def _gate_cells(found: GatePlan) -> list[str]:
    allowed = "-" if found.allowed is None else f"{found.allowed} of {found.cases}"
    powered = "-" if found.powered is None else str(found.powered)
    units, needed = str(found.units), str(found.needed)
    return [found.gate.text, str(found.cases), units, needed, powered, allowed]


def _how_counted(size: ModelSize | None) -> str:
    if size is None or not size.exact:
        return f"estimated ({_BYTES_A_TOKEN} bytes each)"
    return "counted by the model's tokenizer"


def _costs(
    settings: Settings, dataset: Dataset, work: Sequence[Work], states: int, size: ModelSize | None
) -> list[Cost]:
    """Return memory and time, for the device of the settings, or for both kinds; none of a model
    that is not here."""
    if size is None:
        return []
    kind = settings.device.partition(":")[0]
    return [
        Cost(
            machine,
            _memory(settings, dataset, work, size, machine),
            _seconds(settings, dataset, work, states, size, machine),
        )
        for machine in ([MACHINES[kind]] if kind in MACHINES else MACHINES.values())
    ]


def _training_tokens(settings: Settings, dataset: Dataset, size: ModelSize) -> int:
    """Return the tokens of one step of unlearning; 0 without it."""
    choice = settings.method
    if choice.method is None or choice.options is None:
        return 0
    texts = dataset.training_texts()
    lengths = size.count([example.text for example in texts.forget])
    rows = choice.options.batch + choice.method.uses_retain * choice.options.retain_batch
    return round(rows * sum(lengths) / max(1, len(lengths)))


def _memory(
    settings: Settings,
    dataset: Dataset,
    work: Sequence[Work],
    size: ModelSize,
    machine: Machine,
) -> float:
    """Return bytes: weights, and the larger of the key-value cache and a training step."""
    width = machine.bytes_a_weight
    cache = max((w.longest for w in work), default=0) * size.cache_values * width
    tokens = _training_tokens(settings, dataset, size)
    step = tokens * (size.layers * size.hidden * _ACTIVATIONS * width + 2 * 4 * size.vocabulary)
    models = 2 if settings.baseline else 1
    return models * size.parameters * width + max(cache, step)


def _seconds(
    settings: Settings,
    dataset: Dataset,
    work: Sequence[Work],
    states: int,
    size: ModelSize,
    machine: Machine,
) -> float:
    """Return seconds of generation, scoring and unlearning, as if nothing were stored yet."""
    read = size.parameters * machine.bytes_a_weight / machine.bandwidth
    # Prompts are read twice: to write a completion, and to score the value.
    tokens = sum(2 * w.prompt_tokens + w.new_tokens for w in work)
    direct = sum(probe.family == "direct" for probe in dataset.probes)
    tokens += direct * settings.exposure * 10  # a decoy has about so many tokens
    steps = sum(w.steps for w in work)
    each = 2 * size.parameters * tokens / machine.flops + steps * (
        read + size.layers * machine.layer
    )
    attacked = _attack_tokens(settings, dataset, size)
    total = states * each + 2 * size.parameters * attacked / machine.flops
    options = settings.method.options
    if options is not None:
        # Forward, backward through frozen weights, and the reference's forward pass.
        flops = 6 * size.parameters * _training_tokens(settings, dataset, size)
        total += options.steps * (flops / machine.flops + 3 * size.layers * machine.layer)
    return total


def _amount(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
