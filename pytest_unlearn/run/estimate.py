"""What a run would do and need: `--unlearn-plan`. No model is loaded, nothing is generated.

Cases, chunks and what gates need are exact. Tokens are counted with the model's tokenizer if it is
on this machine. Memory and time are estimated phase by phase (`models.footprint`); for a preset
that is not on this machine, from its published configuration.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_unlearn.attacks.decoders import BEAM_ROOM
from pytest_unlearn.attacks.weights import RELEARN_BATCH, RELEARN_STEPS
from pytest_unlearn.gates.estimates import percent
from pytest_unlearn.gates.planning import GatePlan, plan_gate
from pytest_unlearn.models.engine import is_address
from pytest_unlearn.models.footprint import (
    SCORED_TOKENS,
    Architecture,
    Machine,
    PhaseCost,
    Training,
    asking_cost,
    machines,
    pass_bytes,
    training_cost,
)
from pytest_unlearn.models.presets import presets
from pytest_unlearn.models.sources import in_wheel, local_folder, weight_files
from pytest_unlearn.run.divisions import probe_row
from pytest_unlearn.run.endpoints import request_lines
from pytest_unlearn.unlearning.method import (
    HELD_ROWS,
    KEPT_ROWS,
    RECALL_BATCH,
    WithStrangers,
    document_searches,
)
from pytest_unlearn.unlearning.methods import RETRAIN
from pytest_unlearn.unlearning.rehearsal import scored_rows

if TYPE_CHECKING:
    from pytest_unlearn.attacks.attack import Attack
    from pytest_unlearn.models.texts import Example, TrainingTexts
    from pytest_unlearn.probes.families import Probe
    from pytest_unlearn.run.dataset import Dataset
    from pytest_unlearn.run.divisions import Chunk
    from pytest_unlearn.run.erasure_requests import Requests
    from pytest_unlearn.run.settings import Pair, Settings
    from pytest_unlearn.unlearning.method import Method, PlantOptions, UnlearnOptions

Table = list[list[str]]
# Without a tokenizer: bytes of source code and e-mail addresses in one token.
_BYTES_A_TOKEN = 3.5
# Bytes of main memory that Python, pytest, torch and transformers take before any model is loaded.
_PROCESS = 4.5e8


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The size of a model, from the headers of its files or from a preset's configuration.

    `count` gives the number of tokens of each text; `exact`: by the model's tokenizer. `here`: the
    files are on this machine. `targets`: the modules that an adapter changes, None for all.
    """

    parameters: int
    shape: Architecture
    count: Callable[[Sequence[str]], list[int]]
    exact: bool
    here: bool
    targets: tuple[str, ...] | None = None


def model_size(name: str) -> ModelSize | None:
    """Return a model's size, or None if nothing on this machine says it."""
    preset = presets().get(name)
    targets = preset.lora_targets if preset else None
    folder = None if is_address(name) else local_folder(name)
    if folder is None:
        shape = Architecture.of(preset.config) if preset else None
        if shape is None or not shape.exact:
            return None
        return ModelSize(shape.parameters, shape, count_bytes, False, False, targets)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    count, exact = _counter(folder)
    parameters = sum(map(_parameters, weight_files(folder)))
    return ModelSize(parameters, Architecture.of(config), count, exact, True, targets)


def is_here(name: str | None) -> bool:
    """Return whether a model is a file or folder on this machine, so that nothing is fetched."""
    preset = presets().get(str(name))
    if preset is not None and in_wheel(preset) is not None:
        return True
    return Path(preset.source if preset else str(name)).exists()


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
    """Return estimated token counts, without a tokenizer."""
    return [round(len(text.encode("utf-8", "replace")) / _BYTES_A_TOKEN) for text in texts]


def _counter(folder: Path) -> tuple[Callable[[Sequence[str]], list[int]], bool]:
    if not (folder / "tokenizer.json").is_file():
        return count_bytes, False
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda texts: [len(row) for row in tokenizer.encode_batch(list(texts))], True


@dataclass(frozen=True, slots=True)
class Work:
    """The cases of one family, or the tasks: chunks, prompt tokens, and the most new tokens.

    `steps` are decoding steps, one for each new token of a whole chunk; `longest` is the most
    tokens that a chunk holds at once.
    """

    name: str
    cases: int
    chunks: int
    prompt_tokens: int
    new_tokens: int
    steps: int
    longest: int


def work_of(dataset: Dataset, count: Callable[[Sequence[str]], list[int]]) -> list[Work]:
    """Return the work of one model, by family."""
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
    """The phases of a run on a machine."""

    machine: Machine
    phases: tuple[PhaseCost, ...]

    @property
    def memory(self) -> float:
        """The most bytes that a phase holds; in main memory, with the process and its libraries."""
        process = _PROCESS if self.machine.kind == "cpu" else 0.0
        return process + max(phase.memory for phase in self.phases)

    @property
    def seconds(self) -> float:
        """The seconds of all phases."""
        return sum(phase.seconds for phase in self.phases)

    def __str__(self) -> str:
        return _cost_line(self.machine, self.memory, self.seconds)


def _cost_line(machine: Machine, memory: float, seconds: float) -> str:
    return f"{machine.name}: about {_amount(memory)} of memory and {_duration(seconds)}"


def plan(settings: Settings, dataset: Dataset) -> tuple[list[str], list[Table]]:
    """Return the plan of a run: lines of text, and tables of work and of gates."""
    states = 2 if settings.compares_two_states else 1
    size = model_size(settings.model)
    work = work_of(dataset, size.count if size else count_bytes)
    costs = _costs(settings, dataset, work, states, size)
    lines = [*_lines(states, size, costs), *_attacked(settings, dataset, size)]
    if is_address(settings.model):
        lines += request_lines(settings, dataset, sum(w.prompt_tokens + w.new_tokens for w in work))
    lines += [*_too_long(dataset, size), *([dataset.merged] if dataset.merged else [])]
    tables = [_work_table(work, states), *map(_phase_table, costs)]
    return lines, [*tables, _gate_table(settings, dataset)]


def plan_sweep(pairs: Sequence[tuple[Pair, Dataset]]) -> tuple[list[str], list[Table]]:
    """Return the plan of a sweep: lines for each pair and for all, a table for each model (and
    request), and the gates after the last.

    What a base writes is stored, so it is counted once: with the first pair that has it, or with
    the last request, when all are asked for.
    """
    lines: list[str] = []
    work: dict[str, list[Work]] = {}
    sizes: dict[str, ModelSize | None] = {}
    costs: list[list[Cost]] = []
    states, prompts, new = 0, 0, 0
    owners: dict[str, str] = {}
    for pair, _ in pairs:
        base = pair.settings.baseline or pair.settings.model
        owners[base] = pair.label if pair.request else owners.get(base, pair.label)
    for pair, dataset in pairs:
        settings = pair.settings
        if settings.model not in sizes:
            sizes[settings.model] = model_size(settings.model)
        size = sizes[settings.model]
        what = pair.label if pair.request else settings.model
        if what not in work:
            work[what] = work_of(dataset, size.count if size else count_bytes)
        mine = work[what]
        base = settings.baseline or settings.model
        runs = settings.compares_two_states + (owners[base] == pair.label)
        if settings.requests is not None:
            lines.append(f"{pair.label}: {_people_of(settings.requests, dataset)}")
        costs.append(_costs(settings, dataset, mine, runs, size))
        notes = [*_lines(runs, size, costs[-1]), *_attacked(settings, dataset, size)]
        notes += _too_long(dataset, size)
        lines += [f"{pair.label}: {line}" for line in notes]
        states += runs
        prompts += runs * sum(w.prompt_tokens for w in mine)
        new += runs * sum(w.new_tokens for w in mine)
    lines.append(
        f"all {len(pairs)} pairs: models to run: {states} (a base once for all its methods), "
        f"{prompts:,} prompt tokens, {new:,} new tokens at most"
    )
    if all(costs):  # only one pair's models are held at a time
        lines += [
            "all pairs, "
            + _cost_line(each[0].machine, max(c.memory for c in each), sum(c.seconds for c in each))
            for each in zip(*costs, strict=True)
        ]
    tables = [_work_table(each, 1, model) for model, each in work.items()]
    last, dataset = pairs[-1]
    return lines, [*tables, _gate_table(last.settings, dataset)]


def _people_of(requests: Requests, dataset: Dataset) -> str:
    """Return how many people are in a request, and how many including the requests before it."""
    people = {record.owner: record.request for record in dataset.records_of("forget")}
    mine = sum(request == requests.newest for request in people.values())
    return f"{mine} people to forget, {len(people)} with the requests before"


def _attacked(settings: Settings, dataset: Dataset, size: ModelSize | None) -> list[str]:
    """Return a line on what is scored under attack, and one on attacks that cannot be made."""
    attacks = [attack.name for attack in dataset.attacks.made(settings.method)]
    lines = []
    if attacks:
        tokens, _ = _attack_work(settings, dataset, size)
        lines.append(
            f"attacks on the tested model: {', '.join(attacks)}; {tokens:,} tokens to score, "
            "including those of compared models, of beams and of tried prompts; a training token "
            "counts three times"
        )
    impossible = dataset.attacks.impossible(settings.method)
    if impossible:
        reasons = ", ".join(f"{name} ({reason})" for name, reason in impossible.items())
        lines.append(f"attacks that cannot be made on this model: {reasons}")
    return lines


def _attack_work(settings: Settings, dataset: Dataset, size: ModelSize | None) -> tuple[int, int]:
    """Return the number of tokens scored under all attacks, plus three times those trained on, for
    all attacked models; and the number of tokens of the longest document trained on, 0 if no attack
    trains."""
    count, total, longest = size.count if size else count_bytes, 0, 0
    for attack in dataset.attacks.made(settings.method):
        models = 1 + sum(of == "base" or bool(settings.retrained) for of in attack.beside)
        probes = [
            probe
            for state in attack.states
            for probe in dataset.attacks.probes(attack, state)
            if dataset.attacks.asked_anyway(attack, probe) is None
        ]
        total += models * _asked_tokens(attack, probes, count)
        for _, part in dataset.attacks.texts(attack) if attack.ask is None else ():
            lengths = count([example.text for example in part])
            if attack.calibrates:
                total += sum(lengths)
                continue
            trained = RELEARN_STEPS[-1] * RELEARN_BATCH * sum(lengths) / max(1, len(lengths))
            total += round(3 * models * trained)
            longest = max(longest, *lengths, 0)
    return total, longest


def _asked_tokens(
    attack: Attack, probes: Sequence[Probe], count: Callable[[Sequence[str]], list[int]]
) -> int:
    """Return the number of tokens that go through one model for an attack's probes, without
    training.

    A beam is read again for each token, and a chat for each turn, with everything before it. For a
    search, this is an upper bound: each prompt is taken to be as long as the document's own.
    """
    if not attack.beams and not any(probe.turns for probe in probes):
        passes = 2 if attack.read is not None and attack.needs == "base" else attack.prompts or 1
        return passes * sum(count([f"{p.prompt.reveal()}{p.value.reveal()}" for p in probes]))
    prompts, values = (
        count([secret.reveal() for secret in secrets])
        for secrets in ([p.prompt for p in probes], [p.value for p in probes])
    )
    if attack.beams:
        steps = [value + BEAM_ROOM for value in values]
        return sum(prompts) + attack.beams * sum(n * (n + 1) // 2 for n in steps)
    total = 0
    for probe, prompt in zip(probes, prompts, strict=True):
        turns, answer = len(probe.turns), probe_row(probe).tokens
        total += (turns + 1) * prompt // 2 + answer * turns * (turns + 1) // 2
    return total


def _too_long(dataset: Dataset, size: ModelSize | None) -> list[str]:
    """Return a line that names the cases that do not fit the model's context, if there are any."""
    context = size.shape.context if size else None
    if size is None or context is None:
        return []
    long: list[str] = []
    for chunk in dict.fromkeys(dataset.chunk_of_case.values()):
        lengths = size.count([prompt.rstrip() for prompt in chunk.prompts])
        long += [
            case
            for case, length in zip(chunk.cases, lengths, strict=True)
            if length + chunk.max_new_tokens > context
        ]
    if not long:
        return []
    names = ", ".join(long[:5]) + f" and {len(long) - 5} more" * (len(long) > 5)
    return [
        f"will end in an error, since they do not fit the model's context of {context} tokens: "
        f"{names}"
    ]


def _lines(states: int, size: ModelSize | None, costs: Sequence[Cost]) -> list[str]:
    first = f"models to run: {states}; tokens {_how_counted(size)}"
    if size is None:
        return [
            first,
            "memory and time: not estimated, since the model is not on this machine; a run fetches "
            "it from the hub, and ends in an error if it cannot be reached",
        ]
    source = "" if size.here else ", by the preset's configuration"
    return [
        first,
        *(
            f"{cost} ({size.parameters / 1e6:,.1f} M parameters{source}, "
            f"{8 * cost.machine.bytes_a_weight} bits each)"
            for cost in costs
        ),
    ]


def _phase_table(cost: Cost) -> Table:
    heads = ["weights", "trained, with optimizer", "passes", "memory", "time, at most"]
    return [
        [cost.machine.name, *heads],
        *(
            [
                phase.name,
                *map(_amount, (phase.weights, phase.trained, phase.passes, phase.memory)),
                _duration(phase.seconds),
            ]
            for phase in cost.phases
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
    impossible = dataset.attacks.impossible(settings.method)
    for gate in judging.gates:
        if gate.why_not_made(impossible):
            gates.append([gate.text, "0", "0", "-", "-", "cannot be evaluated"])
        else:
            plan = plan_gate(gate, cases, judging.confidence, judging.requests)
            gates.append(_gate_cells(plan))
    return gates


def _gate_cells(gate_plan: GatePlan) -> list[str]:
    allowed = "-" if gate_plan.allowed is None else f"{gate_plan.allowed} of {gate_plan.cases}"
    powered = "-" if gate_plan.powered is None else str(gate_plan.powered)
    units, needed = str(gate_plan.units), str(gate_plan.needed)
    return [gate_plan.gate.text, str(gate_plan.cases), units, needed, powered, allowed]


def _how_counted(size: ModelSize | None) -> str:
    if size is None or not size.exact:
        return f"estimated ({_BYTES_A_TOKEN} bytes each)"
    return "counted by the model's tokenizer"


def _costs(
    settings: Settings, dataset: Dataset, work: Sequence[Work], states: int, size: ModelSize | None
) -> list[Cost]:
    """Return memory and time for the device of the settings, or for both kinds of device.

    Empty for a model of unknown size.
    """
    if size is None:
        return []
    kind = settings.device.partition(":")[0]
    trainings = list(_trainings(settings, dataset, size))
    asked = _asked(settings, dataset, work, states)
    attacked = _attack_work(settings, dataset, size)
    recall = _recall_asked(settings, dataset, size)
    costs = []
    for machine in machines(kind, settings.dtype, settings.speeds):
        phases = [training_cost(each, size.shape, size.parameters, machine) for each in trainings]
        if recall:  # before it unlearns
            cost = asking_cost(size.shape, size.parameters, machine, **recall)
            phases.insert(-1, replace(cost, name="recall"))
        phases.append(asking_cost(size.shape, size.parameters, machine, **asked))
        phases += _attack_cost(attacked, size, machine)
        costs.append(Cost(machine, tuple(phases)))
    return costs


def _trainings(settings: Settings, dataset: Dataset, size: ModelSize) -> Iterator[Training]:
    """Yield the trainings that come before the probes."""
    choice, plant, texts = settings.method, settings.plant, dataset.training_texts()
    people, tasks = _mean(texts.retained_people, size), _mean(texts.tasks, size)
    forget = _mean(texts.forget, size)
    if plant is not None:
        every = [*texts.forget, *texts.retained_people, *texts.tasks]
        planting = Training(
            name="plant",
            tokens=round(plant.batch * _mean(every, size)),
            steps=plant.cap,
            looked=round(forget * min(HELD_ROWS, len(every))),
            targets=size.targets,
            **_same(plant),
        )
        yield planting
        if choice.retrains or settings.retrained == RETRAIN:
            yield replace(planting, name="retrain")
    if choice.method is not None and (options := choice.options) is not None:
        retained = people * options.people_share + tasks * (1 - options.people_share)
        keeps = choice.method.uses_retain
        looked = forget * min(HELD_ROWS, len(texts.forget))
        looked += keeps * KEPT_ROWS * (people + tasks)
        known = len(texts.retained_people) + options.recall or len(texts.tasks)
        searched = document_searches(options) * len(texts.forget)
        yield Training(
            name=f"unlearn by {choice.method.name}",
            tokens=round(options.batch * forget + keeps * options.retain_batch * retained),
            steps=options.steps,
            looked=round(looked),
            targets=size.targets,
            base_passes=1,
            keeps_base=True,
            states=_kept_states(choice.method, options, texts, retained, size),
            scored=round(keeps * scored_rows(options, known) * retained + searched * forget),
            **_same(options),
        )


def _kept_states(
    method: Method, options: UnlearnOptions, texts: TrainingTexts, tokens: float, size: ModelSize
) -> int:
    """Return the count of numbers in the base's states at all retained rows, of `tokens` each on
    average; 0 if they are not kept (`unlearning.data`)."""
    strangers = options.strangers if isinstance(options, WithStrangers) else 0
    # At most, as many rows are recalled as names are drawn; no more were seen.
    rows = len(texts.retained_people) + len(texts.tasks) + strangers + options.recall
    if options.steps * options.retain_batch < 2 * rows:
        return 0
    layers = min(method.base_layers, size.shape.layers)
    return round(rows * tokens * size.shape.hidden * (layers + 0.5)) if layers else 0


def _recall_asked(settings: Settings, dataset: Dataset, size: ModelSize) -> dict[str, int]:
    """Return the work of asking the base about unlisted people (`recall`); empty for none."""
    options = settings.method.options
    if options is None or not options.recall:
        return {}
    texts = dataset.training_texts()
    document = _mean([*texts.forget, *texts.retained_people], size)
    # Names, and two questions for each, half a document long; what is known is read once more.
    batches = -(-3 * options.recall // RECALL_BATCH)
    return {
        "longest": round(RECALL_BATCH * document),
        "rows": RECALL_BATCH,
        "tokens": round(4 * options.recall * document),
        "steps": round(batches * document / 2),
        "models": 1,
    }


def _same(options: UnlearnOptions | PlantOptions) -> dict[str, Any]:
    """Return the options that planting and unlearning share."""
    names = ("check_every", "tune", "rank", "optimizer", "accumulate", "checkpointing")
    return {name: getattr(options, name) for name in names}


def _mean(examples: Sequence[Example], size: ModelSize) -> float:
    """Return the mean number of tokens of some documents."""
    return sum(size.count([e.text for e in examples])) / max(1, len(examples))


def _asked(
    settings: Settings, dataset: Dataset, work: Sequence[Work], states: int
) -> dict[str, int]:
    """Return what the models of a run write and score if nothing is stored yet."""
    # Prompts are read twice: to write a completion, and to score the value.
    tokens = sum(2 * w.prompt_tokens + w.new_tokens for w in work)
    direct = sum(probe.family == "direct" for probe in dataset.probes)
    tokens += direct * settings.exposure * 10  # a decoy has about 10 tokens
    return {
        "longest": max((w.longest for w in work), default=0),
        "rows": settings.batch_size,
        "tokens": states * tokens,
        "steps": states * sum(w.steps for w in work),
        "models": 2 if settings.baseline else 1,
    }


def _attack_cost(
    attacked: tuple[int, int], size: ModelSize, machine: Machine
) -> Iterator[PhaseCost]:
    """Yield the cost of the attacks: scores, and a training of all weights if one relearns."""
    tokens, row = attacked
    if not tokens:
        return
    width, parameters = machine.bytes_a_weight, size.parameters
    # AdamW in the model's own dtype: a gradient and two moments a weight.
    trained = 3 * width * parameters if row else 0
    passes = pass_bytes(size.shape, SCORED_TOKENS, width)
    if row:
        held = size.shape.kept_bytes(RELEARN_BATCH * row, width, 0, checkpointing=False)
        passes = max(passes, held + 3.0 * width * RELEARN_BATCH * row * size.shape.vocabulary)
    # Copies in main memory, in addition to the attacked weights: to restore them, and to relearn
    # from.
    copies = 1 + (machine.kind == "cpu") * (1 + bool(row))
    seconds = 2.0 * parameters * tokens / machine.scoring_flops
    yield PhaseCost("attacks", copies * parameters * width, trained, passes, seconds)


def _amount(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
