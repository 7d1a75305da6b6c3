"""One model in training: its weights, optimizer, steps and evaluations, and its state on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pytest_unlearn.core.errors import UnlearningError, room_for
from pytest_unlearn.core.text_files import replacing
from pytest_unlearn.models.lm_head import check_logits
from pytest_unlearn.models.patching import save_adapter
from pytest_unlearn.unlearning import distributed
from pytest_unlearn.unlearning.distributed import ShardedPolicy, own_shard, sharded, whole
from pytest_unlearn.unlearning.evaluation import Evaluation
from pytest_unlearn.unlearning.method import OPTIMIZERS, MethodError
from pytest_unlearn.unlearning.preconditioning import Preconditioner
from pytest_unlearn.unlearning.step import FullPolicy, Targets, with_new_adapter

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

# Increase when a change to this package changes the content of a saved state.
STATE_VERSION = 1


@dataclass(frozen=True, slots=True)
class SavedState:
    """Tensors by name, and JSON data: steps, evaluations, the optimizer's numbers."""

    tensors: Mapping[str, torch.Tensor]
    notes: Mapping[str, Any]


def save_state(path: Path, state: SavedState) -> None:
    """Write a state; a reader sees the old one or the new one, never half of it.

    The format is safetensors, so reading it runs no code. Raises UnlearningError on a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (
        room_for("a checkpoint of the training", path.parent),
        replacing(path) as temporary,
    ):
        tensors = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
        notes = json.dumps(dict(state.notes))
        save_file(tensors, temporary, metadata={"notes": notes, "sha256": _digest(tensors, notes)})


def load_state(path: Path) -> SavedState | None:
    """Return a saved state, on the CPU, or None if there is no intact one."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about["sha256"] != _digest(tensors, about["notes"]):
            return None
        return SavedState(tensors, json.loads(about["notes"]))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _digest(tensors: Mapping[str, torch.Tensor], notes: str) -> str:
    """Return the SHA-256 of a state: names, types and shapes of its tensors, and all their bytes.

    Nothing else would show a flipped bit in a weight, which would still be a number.
    """
    digest = hashlib.sha256(json.dumps([STATE_VERSION, notes]).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        data: Any = flat.view(torch.uint8).numpy()
        digest.update(data)
    return digest.hexdigest()


def gathered(policy: Any) -> dict[str, torch.Tensor] | None:
    """Return the complete tensors of a sharded policy, to be written, on the CPU; None for another
    policy.

    All processes must call this at once. The keys are those of the unsharded policy.
    """
    if not isinstance(policy, ShardedPolicy):
        return None
    if not isinstance(policy.policy, FullPolicy):
        named = policy.policy.named_parameters()
        return {name: whole(weight) for name, weight in named if weight.requires_grad}
    model = policy.get_base_model()
    # Tied weights once, and the buffers that a file holds.
    names = dict(model.named_parameters()).keys() | dict(model.named_buffers()).keys()
    return {name: whole(weight) for name, weight in model.state_dict().items() if name in names}


def save_trained(
    policy: Any, tokenizer: Any, folder: Path, state: dict[str, torch.Tensor] | None
) -> None:
    """Write a policy's adapter or, if all weights were trained, its model with the tokenizer.

    `state`: what `gathered` returned for it.
    """
    inner = policy.policy if isinstance(policy, ShardedPolicy) else policy
    if isinstance(inner, FullPolicy):
        inner.get_base_model().save_pretrained(str(folder), state_dict=state)
        tokenizer.save_pretrained(str(folder))
    else:
        save_adapter(inner, folder, state)


MAX_NORM = 1.0


class TrainingChoices(Protocol):
    """The options that a `Trainer` reads, for unlearning or planting."""

    @property
    def lr(self) -> float: ...
    @property
    def warmup(self) -> int: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def tune(self) -> str: ...
    @property
    def rank(self) -> int: ...
    @property
    def accumulate(self) -> int: ...


class Trainer:
    """Trains a LoRA adapter (`tune=lora`) or all weights (`tune=full`) of a model.

    The optimizer only sees float32. For a model in bfloat16, steps are applied to master weights in
    float32, and the model gets them rounded: a step of 1e-5 of a weight is below bfloat16's 8 bits,
    and would be lost each time. Gradients of several batches are summed in float32 for the same
    reason.

    With several processes, each holds a shard of the weights; steps, checks and states are those of
    its own shards, while norms and decisions are shared.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        choices: TrainingChoices,
        flag: str,
        targets: Targets = "all-linear",
    ) -> None:
        """`flag`: what the user wrote, such as `--unlearn-method=ga`, for messages. `targets`: the
        modules that an adapter changes."""
        try:
            check_logits(model)
        except ValueError as error:
            raise UnlearningError(f"{flag}: {error}; it can be tested, and not trained") from error
        self._full = FullPolicy(model) if choices.tune == "full" else None
        policy = self._full or with_new_adapter(model, choices.rank, targets)
        self.policy = cast("PeftModel", sharded(policy) if distributed.count() > 1 else policy)
        self.policy.eval()  # no dropout: the reference must be the base itself, and runs repeat
        self._choices = choices
        self._flag = flag
        self._weights = [p for p in self.policy.parameters() if p.requires_grad]
        self._own = [own_shard(p) for p in self._weights]
        self._masters = [p if p.dtype == torch.float32 else p.detach().float() for p in self._own]
        self._preconditioners: dict[int, Preconditioner] = {}  # by a weight's number
        self._optimizer = make_optimizer(choices.optimizer, self._masters, choices.lr)
        self._start = self._fingerprint()
        self.lr = choices.lr  # after a warmup; `start_again` lowers it
        self.steps = 0

    def precondition(self, chosen: Mapping[str, Preconditioner]) -> None:
        """Train the weights of these names through preconditioners; call this before the first
        step.

        Such a weight is then computed from the optimizer's copy of it.
        """
        names = [name for name, p in self.policy.named_parameters() if p.requires_grad]
        self._preconditioners = {n: chosen[name] for n, name in enumerate(names) if name in chosen}
        for number in self._preconditioners:
            self._masters[number] = self._own[number].detach().float().clone()
        choices = self._choices
        self._optimizer = make_optimizer(choices.optimizer, self._masters, choices.lr)
        self._write()
        self._start = self._fingerprint()

    # -- steps -------------------------------------------------------------------------------

    def step(self, losses: Iterable[torch.Tensor], share: float = 1.0) -> float:
        """Take one optimizer step on the sum of losses, and return that sum.

        `share`: the factor of the learning rate, less than 1 in a cooldown.

        Losses are computed one by one, and each graph is freed before the next is built; this is
        how gradient accumulation saves memory. Raises UnlearningError if the loss or the gradient
        is not finite.
        """
        gradients: list[torch.Tensor | None] = [None] * len(self._weights)
        try:
            total = self._backward(losses, gradients)
        except torch.OutOfMemoryError as error:
            raise UnlearningError(
                f"{self._flag}: out of memory in step {self.steps + 1}; write checkpointing=true, "
                f"accumulate={self._choices.accumulate * 2} where the loss allows it, or a smaller "
                f"batch ({error})"
            ) from error
        for number, (master, gradient) in enumerate(zip(self._masters, gradients, strict=True)):
            master.grad = None if gradient is None else self._preconditioned(number, gradient)
        total = distributed.summed(total)
        norm = self._norm()
        torch.nn.utils.clip_grads_with_norm_(self._masters, MAX_NORM, norm)
        if not bool(torch.isfinite(total + norm)):
            raise UnlearningError(
                f"{self._flag}: step {self.steps + 1} diverged: the loss is {float(total)}, the "
                f"gradient's norm {float(norm)}; lower the learning rate "
                f"(lr={self.lr / 4:.1e}) or add warmup=20"
            )
        self.steps += 1
        if self._full:
            self._full.start()
        for group in self._optimizer.param_groups:
            group["lr"] = share * rate_at(self.steps, self.lr, self._choices.warmup)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._write()
        return float(total)

    def _backward(
        self, losses: Iterable[torch.Tensor], gradients: list[torch.Tensor | None]
    ) -> torch.Tensor:
        """Add up the gradients of losses, and return the losses' sum."""
        total: torch.Tensor | None = None
        for loss in losses:
            # Each process's loss is a part of the sum, but shards get the mean of the gradients.
            (loss * distributed.count()).backward()  # type: ignore[no-untyped-call]
            self._gather(gradients)
            total = loss.detach() if total is None else total + loss.detach()
        if total is None:
            raise ValueError("a step needs at least one loss")
        return total

    def _gather(self, gradients: list[torch.Tensor | None]) -> None:
        """Move the weights' gradients into float32 sums."""
        for number, weight in enumerate(self._weights):
            if weight.grad is not None:
                before = gradients[number]
                gradient = own_shard(weight.grad).float()
                gradients[number] = gradient if before is None else before.add_(gradient)
                weight.grad = None

    def _norm(self) -> torch.Tensor:
        """Return the norm of the whole gradient."""
        gradients = [m.grad for m in self._masters if m.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        return norm if distributed.count() == 1 else distributed.summed(norm.square()).sqrt()

    @torch.no_grad()
    def _write(self) -> None:
        """Set the model's weights from the master weights, if the two differ: rounded, or through a
        preconditioner."""
        for number, (weight, master) in enumerate(zip(self._own, self._masters, strict=True)):
            if weight is not master:
                weight.copy_(self._preconditioned(number, master))

    def _preconditioned(self, number: int, tensor: torch.Tensor) -> torch.Tensor:
        """Return a master weight, or its gradient, through the weight's preconditioner, if any."""
        made = self._preconditioners.get(number)
        return tensor if made is None else made.apply(tensor)

    # -- state -------------------------------------------------------------------------------

    def snapshot(self) -> list[torch.Tensor]:
        """Return a copy of the trained weights on the CPU, float32."""
        return [master.detach().cpu().clone() for master in self._masters]

    @torch.no_grad()
    def put(self, weights: Iterable[torch.Tensor]) -> None:
        """Put the weights from `snapshot` in place. Raises UnlearningError if they are another
        model's."""
        for master, weight in zip(self._masters, weights, strict=True):
            if master.shape != weight.shape:
                raise UnlearningError(
                    f"{self._flag}: the saved training is of another model (a weight of shape "
                    f"{tuple(weight.shape)} for one of {tuple(master.shape)})"
                )
            master.copy_(weight)
        self._write()

    def start_again(self, weights: Iterable[torch.Tensor], lr: float) -> None:
        """Begin the training anew with another learning rate, from a snapshot of the start."""
        self.put(weights)
        self._optimizer = make_optimizer(self._choices.optimizer, self._masters, lr)
        self.lr = lr
        self.steps = 0

    def state(self) -> SavedState:
        """Return what another process needs to resume: weights, optimizer, random numbers."""
        tensors = {f"weight.{n}": w for n, w in enumerate(self.snapshot())}
        numbers: dict[str, Any] = {}
        for key, entry in self._optimizer.state_dict()["state"].items():
            for name, value in entry.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer.{key}.{name}"] = value.detach().cpu().clone()
                else:
                    numbers[f"{key}.{name}"] = value
        tensors["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        base = self._full is not None and self._full.keeps_base
        notes = {"steps": self.steps, "lr": self.lr, "numbers": numbers, "base": base}
        return SavedState(tensors, notes)

    def go_on(self, saved: SavedState) -> None:
        """Resume from a state returned by `state()`; call this before the first step."""
        if saved.notes["base"] and self._full:
            self._full.keep_base()
        tensors = saved.tensors
        self.put(tensors[f"weight.{n}"] for n in range(len(self._masters)))
        entries: dict[int, dict[str, Any]] = {}
        values = {**saved.notes["numbers"]}
        values |= {
            name.removeprefix("optimizer."): tensor
            for name, tensor in tensors.items()
            if name.startswith("optimizer.")
        }
        for name, value in values.items():
            number, _, field = name.partition(".")
            entries.setdefault(int(number), {})[field] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": entries, "param_groups": groups})
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"])
        self.steps, self.lr = int(saved.notes["steps"]), float(saved.notes["lr"])

    # -- checks ------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise UnlearningError if the trained weights are broken or never moved.

        LoRA's B matrices start at zero; with a wrong gradient path they stay there, and the
        "unlearned" model is the base.
        """
        named = [name for name, p in self.policy.named_parameters() if p.requires_grad]
        # On the CPU: with a device map, weights are on several devices.
        broken = torch.stack([(~torch.isfinite(weight)).sum().cpu() for weight in self._own])
        for name, some in zip(named, distributed.summed(broken).tolist(), strict=True):
            if some:
                raise UnlearningError(
                    f"{self._flag}: {name} is not finite; lower the learning rate "
                    f"(lr={self.lr / 4:.1e})"
                )
        if self._fingerprint() == self._start:
            what = "adapter" if self._choices.tune == "lora" else "model"
            raise UnlearningError(
                f"{self._flag}: the {what} did not move: no gradient reached it, or lr is too small"
                f"; raise it (lr={self.lr * 4:.1e})"
            )

    @torch.no_grad()
    def _fingerprint(self) -> list[float]:
        """Return a number per weight that changes when the weight moves; for LoRA, only for the B
        matrices."""
        lora = self._choices.tune == "lora"
        named = [(n, p) for n, p in self.policy.named_parameters() if p.requires_grad]
        masters = zip(named, self._masters, strict=True)
        squares = [
            master.double().square().sum().cpu()
            for (name, _), master in masters
            if not lora or "lora_B" in name
        ]
        return [float(square) for square in distributed.summed(torch.stack(squares))]


ADAMW, ADAMW_8BIT = OPTIMIZERS


def check_optimizer(name: str, device: str) -> None:
    """Raise MethodError if an optimizer cannot run on a device (`cpu`, `cuda:1`, `map`).

    This does not need torch, so it can be called before a model is loaded.
    """
    if name != ADAMW_8BIT:
        return
    if not device.startswith(("cuda", "map")):
        raise MethodError(
            f"optimizer={name} needs a CUDA device, and this run is on {device}; write "
            f"optimizer={ADAMW}"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MethodError(
            f"optimizer={name} needs the package bitsandbytes; `pip install bitsandbytes`, or "
            f"write optimizer={ADAMW}"
        )


def make_optimizer(
    name: str, parameters: Sequence[torch.Tensor], lr: float
) -> torch.optim.Optimizer:
    """Return an optimizer over float32 `parameters`, without weight decay.

    `adamw8bit` keeps its moments in 8 bits and in memory that CUDA pages out to the host when the
    GPU is full (Dettmers et al. 2022, arXiv 2110.02861). Raises MethodError; see `check_optimizer`.
    """
    import torch

    if name == ADAMW:
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    check_optimizer(name, parameters[0].device.type)
    bitsandbytes: Any = importlib.import_module("bitsandbytes")
    optimizer = bitsandbytes.optim.PagedAdamW8bit(parameters, lr=lr, weight_decay=0.0)
    return cast("torch.optim.Optimizer", optimizer)


def rate_at(step: int, lr: float, warmup: int) -> float:
    """Return the learning rate of a step (from 1): it rises for `warmup` steps, then stays."""
    return lr * min(1.0, step / warmup) if warmup else lr


Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class TrainingPlan(Generic[Batch]):
    """The course of a training.

    batches: what each step sees, the same for the same seed. losses: the losses of one batch,
    computed one by one. look: the evaluation after this many steps. done: whether an evaluation is
    good enough to stop. rank: the evaluation with the greatest rank is kept; None keeps the last.
    steps: the most steps. check_every: steps between evaluations. saved: the file to resume from
    after a kill, or None. numbers: what the losses carry from step to step; saved as well.
    cooldown: the number of steps at the end over which the learning rate falls; they begin when an
    evaluation is good enough, or when only this many steps are left.
    """

    batches: Iterator[Batch]
    losses: Callable[[Batch], Iterable[Any]]
    look: Callable[[int], Evaluation]
    done: Callable[[Evaluation], bool]
    rank: Callable[[Evaluation], tuple[Any, ...]] | None
    steps: int
    check_every: int
    saved: Path | None
    numbers: dict[str, float] = field(default_factory=dict)
    cooldown: int = 0


@dataclass(frozen=True, slots=True)
class Trained:
    """How a training ended: the evaluation whose weights are now in place, the number of steps, and
    seconds."""

    look: Evaluation
    steps: int
    seconds: float


def train(trainer: Trainer, plan: TrainingPlan[Batch], progress: Callable[[str], None]) -> Trained:
    """Carry out a plan, and put the weights of its best evaluation in place.

    The state is saved at each evaluation; another process with the same arguments resumes from
    there, and ends with the weights of an uninterrupted run. Raises UnlearningError.
    """
    started = time.perf_counter()
    look: Evaluation | None = None
    best: Evaluation | None = None
    weights: list[Any] = []
    before = 0.0
    end = plan.steps
    state = _agreed(load_state(plan.saved)) if plan.saved else None
    if state is not None:
        trainer.go_on(state)
        best, before = Evaluation(**state.notes["best"]), float(state.notes["seconds"])
        end = int(state.notes["end"])
        weights = [state.tensors[f"best.{n}"] for n in range(state.notes["bests"])]
        plan.numbers.update(state.notes["carried"])
        for _ in range(trainer.steps):
            next(plan.batches)
        progress(f"continuing after step {trainer.steps}, where the last run was cut off")
    while trainer.steps < end:
        left = end - trainer.steps
        trainer.step(plan.losses(next(plan.batches)), min(1.0, left / max(1, plan.cooldown)))
        last = trainer.steps == end
        if trainer.steps % plan.check_every and not last:
            continue
        look = plan.look(trainer.steps)
        if best is None or plan.rank is None or plan.rank(look) > plan.rank(best):
            best = look
            weights = trainer.snapshot() if plan.rank else []
        if end == plan.steps and plan.done(look):  # the cooldown begins, if it has not
            end = min(end, trainer.steps + plan.cooldown)
            last = trainer.steps == end
        if plan.saved and not last:
            seconds = before + time.perf_counter() - started
            notes = {"seconds": seconds, "carried": plan.numbers, "end": end}
            save_state(plan.saved, _with_best(trainer.state(), best, weights, notes))
    if best is None:
        raise ValueError("a plan needs at least one step")
    if best != look and weights:
        trainer.put(weights)
    return Trained(best, trainer.steps, before + time.perf_counter() - started)


def _agreed(state: SavedState | None) -> SavedState | None:
    """Return this process's state if all processes have a state of the same step; a kill may have
    come between writing one and another."""
    steps = state.notes["steps"] if state else None
    everywhere = set(distributed.merged({distributed.number(): steps}).values())
    return state if everywhere == {steps} else None


def _with_best(
    state: SavedState, best: Evaluation, weights: list[Any], more: dict[str, Any]
) -> SavedState:
    notes = {"best": dataclasses.asdict(best), "bests": len(weights), **more}
    tensors = {f"best.{n}": weight for n, weight in enumerate(weights)}
    return SavedState({**state.tensors, **tensors}, {**state.notes, **notes})
