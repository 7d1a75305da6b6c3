"""What an attack is, the registry of attacks, and how a tested model is changed and restored.

An attack makes other states of the tested model: `int4` rounds its weights to four bits. The same
values are scored on each state: those of people to be forgotten and, to see what the attack itself
does, those of control people. Other packages add attacks through entry points of the group
`pytest_unlearn.attacks`, which have the attack's name and point to an `Attack`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.extensions import add_offered, with_given
from pytest_unlearn.models.engine import abilities_of
from pytest_unlearn.people.record import Split

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.models.engine import RunnableModel
    from pytest_unlearn.models.texts import DecodingScheme, Example
    from pytest_unlearn.people.record import Record
    from pytest_unlearn.probes.families import Probe

GROUP = "pytest_unlearn.attacks"
# What an attacker needs: only a way to ask, or to ask in a chat; the tested weights; the adapter
# separate from its base; or also the base, in weights of the same names and shapes.
Needs = Literal["prompts", "chat", "weights", "adapter", "base"]
# What an attacker trains on, if anything: half of the people (the other half is probed), retained
# people, or code without people.
Trains = Literal["", "people", "retained", "code"]
# The sets that include it: `cheap` and `all`, only `all`, or none, so that it has to be named.
Effort = Literal["cheap", "all", "named"]
# Modules of this room with `ATTACKS`.
_OWN = ("quantization", "weights", "prompt_attacks", "decoders", "hidden_states")
BOTH: tuple[Split, ...] = ("forget", "control")


@dataclass(frozen=True, slots=True)
class Known:
    """What an attacker may put into a prompt: records of the person, and documents of others."""

    record: Record
    person: Sequence[Record]
    shots: Sequence[str]


@dataclass(frozen=True, slots=True)
class Reading:
    """What is passed to an attack that reads a model in its own way.

    `model` and `base` are ready to run; `base` is None unless the attack needs it. `people`: the
    person of each example; `members`: whether that person is to be forgotten; `known`: the records
    that prompts may be built from, for an attack that tries `prompts`.
    """

    model: RunnableModel
    base: RunnableModel | None
    people: Sequence[str]
    members: Sequence[bool]
    known: Sequence[Known] = ()

    def check_weights(self, attack: str, missing: str) -> None:
        """Raise AttackError for a model whose weights are not in this process.

        `missing`: what the attack needs from them, for the message.
        """
        for model in (self.model, *([self.base] if self.base is not None else [])):
            if "weights" not in abilities_of(model):
                raise AttackError(
                    f"{attack}: {type(model).__name__} gives no {missing}; leave it out of "
                    "--unlearn-attacks"
                )


Ask: TypeAlias = "Callable[[Probe, Known, str], Probe | None]"
# Returns plain JSON data for each example: `log_probability` and `greedy` as in an exact row, or a
# `score` that tells people apart; None for one that cannot be asked, which has no row.
Read: TypeAlias = "Callable[[Reading, Sequence[Example], str], Sequence[dict[str, Any] | None]]"
# A stage of an attack, and the splits to probe in it.
Stage = tuple[str, tuple[Split, ...]]
# The splits to probe, and the texts to train on before.
Texts: TypeAlias = "Sequence[tuple[tuple[Split, ...], Sequence[Example]]]"


class AttackError(UserError):
    """An attack is unknown, or cannot be made on this model; the message names it."""


# A model that gives no value because it is broken has not withstood anything.
BROKEN = "the attacked model predicts NaN: its weights are broken"


@dataclass(frozen=True, slots=True)
class Attack:
    """A change of the tested model's weights, or another way to ask, that tries to bring values
    back.

    `change` changes the weights of `target.model` in place, whose adapter is merged into them; the
    caller restores them. For an attack with `stages`, it is a generator: whenever the weights are
    those of a stage, it yields the stage and the splits to probe. `ask` returns a probe's other
    prompt at a stage, or the turns of a chat, or None if there is neither; the weights are then
    left alone. `scheme` returns the decoding scheme of a stage, if it is not that of the run.
    `read` reads values off the model at a stage in a way of its own; `whole`: off all examples at
    once, since it needs people of both splits. `beside`: the other models that are attacked in the
    same way. `calibrates`: the target's texts are read, and not trained on. `beams`: the number of
    continuations of each prompt that are followed, for the plan. `prompts`: how many prompts of its
    own it tries for each record, at most; each record is then asked for once. `about`: what is done
    and where it comes from. Increase `version` when the result for the same input changes: it is
    part of the key of every score.
    """

    name: str
    about: str
    change: Callable[[Target], Iterator[Stage] | None]
    needs: Needs = "weights"
    effort: Effort = "all"
    version: int = 1
    trains: Trains = ""
    stages: tuple[str, ...] = ()
    ask: Ask | None = None
    scheme: Callable[[str], DecodingScheme] | None = None
    read: Read | None = None
    whole: bool = False
    beside: tuple[Literal["base", "retrained"], ...] = ()
    beams: int = 0
    prompts: int = 0
    calibrates: bool = False

    @property
    def changes_weights(self) -> bool:
        """Return whether the weights are changed, and not only asked or read in another way."""
        return self.ask is None and self.read is None and self.scheme is None

    def key(self) -> dict[str, Any]:
        """Return plain JSON data with everything that can change the attacked weights."""
        return {"name": self.name, "version": self.version}

    @property
    def states(self) -> tuple[str, ...]:
        """Return its states of the tested model: `NAME`, or `NAME@STAGE` for each stage."""
        return tuple(f"{self.name}@{stage}" for stage in self.stages) or (self.name,)

    def made(self, target: Target) -> Generator[tuple[str, tuple[Split, ...]]]:
        """Make each state in turn, and yield its name and the splits to probe."""
        course: Any = self.change(target)
        if course is None:
            yield self.name, BOTH
        else:
            with contextlib.closing(course):  # so that it can restore what it changed
                for stage, splits in course:
                    yield f"{self.name}@{stage}" if stage else self.name, splits


@dataclass(frozen=True, slots=True)
class Target:
    """A tested model under attack.

    `model` is the transformers or PEFT model. `weights` are its parameters by name, without those
    of an adapter, which is merged into them. `base` are the weights before unlearning by the same
    names, on any device, or None. `texts`: what an attack may train on, each with the splits that
    are probed afterwards.
    """

    model: Any
    weights: Mapping[str, torch.nn.Parameter]
    base: Mapping[str, torch.Tensor] | None
    tokenizer: Any = None
    texts: Texts = ()

    def matrices(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the weights of the linear layers by name, one row per output, except the head's.

        Embeddings and head are left out, as in GPTQ, AWQ and bitsandbytes. If experts are kept in
        one tensor, each is a matrix, `NAME[NUMBER]`. Raises AttackError if these are less than half
        of the weights: weights that an attack does not change would seem to withstand it.
        """
        import torch
        from transformers.pytorch_utils import Conv1D

        head = self.model.get_output_embeddings()
        matrices: dict[str, torch.Tensor] = {}
        known = every = 0
        for name, module in self.model.named_modules():
            if module is head or isinstance(module, torch.nn.Embedding):
                continue
            turned = isinstance(module, Conv1D) or bool(getattr(module, "is_transposed", False))
            linear = isinstance(module, torch.nn.Linear | Conv1D)
            for key, _ in module.named_parameters(recurse=False):
                full = f"{name}.{key}" if name else key
                if (weight := self.weights.get(full)) is None:
                    continue
                every += weight.numel()
                if not is_plain(weight):
                    continue
                if linear and key == "weight" and weight.dim() == 2:
                    matrices[full] = weight.data.T if turned else weight.data
                elif _holds_matrices(module, weight):
                    for number, each in enumerate(weight.data):
                        matrices[f"{full}[{number}]"] = each.T if turned else each
                else:
                    continue
                known += weight.numel()
        if known < every / 2:
            raise AttackError(
                f"of the weights of {type(self.model).__name__}, only {known / every:.0%} are "
                "matrices of numbers that can be changed: the others have another form "
                "(quantized weights are packed); leave this attack out, or attack the "
                "unquantized model"
            )
        yield from matrices.items()


def is_plain(weight: torch.Tensor) -> bool:
    """Return whether arithmetic can change a tensor: it is neither packed nor of 8 bits."""
    import torch

    kinds = (torch.Tensor, torch.nn.Parameter)
    return type(weight) in kinds and weight.is_floating_point() and weight.dtype.itemsize > 1


def _holds_matrices(module: Any, weight: torch.Tensor) -> bool:
    """Return whether a weight is a stack of matrices, as for experts, and not a convolution
    filter."""
    return weight.dim() == 3 and min(weight.shape) > 1 and "Conv" not in type(module).__name__


def unchanged(target: Target) -> None:
    """Leave the weights as they are, for an attack that only asks or decodes differently."""


def attacked_row(log_probability: float, greedy: bool) -> dict[str, Any]:
    """Return the fields of an exact row; the log of 0 is None, and no log is above that of 1.

    Raises AttackError for NaN, which would be a value that never comes out.
    """
    if math.isnan(log_probability):
        raise AttackError(BROKEN)
    finite = None if log_probability == -math.inf else min(0.0, log_probability)
    return {
        "log_probability": finite,
        "greedy": greedy,
        "exact_memorization": float(greedy),
    }


def attacks() -> Mapping[str, Attack]:
    """Return all attacks by name. Raises AttackError for an entry point that is not an attack."""
    return with_given(installed_attacks(), "an attack", Attack, AttackError)


@functools.cache
def installed_attacks() -> Mapping[str, Attack]:
    """Return the attacks of this package and of installed ones. Raises AttackError."""
    known: dict[str, Attack] = {}
    for module in _OWN:
        for attack in importlib.import_module(f"pytest_unlearn.attacks.{module}").ATTACKS:
            known[attack.name] = attack
    add_offered(known, GROUP, "an attack", Attack, AttackError)
    return known


def parse_attacks(text: str) -> tuple[str, ...]:
    """Read names separated by commas; `cheap`, `all` and `none` are sets.

    Raises AttackError for a name that no attack has.
    """
    known = attacks()
    sets = {
        "none": [],
        "cheap": [name for name, attack in known.items() if attack.effort == "cheap"],
        "all": [name for name, attack in known.items() if attack.effort != "named"],
    }
    chosen: dict[str, None] = {}
    for name in (part.strip() for part in text.split(",")):
        if name not in known and name not in sets:
            raise AttackError(
                f"{name!r} is not an attack; write cheap, all, none, or some of {', '.join(known)}"
            )
        chosen |= dict.fromkeys(sets.get(name, [name]))
    return tuple(chosen)


@contextlib.contextmanager
def under_attack(
    model: Any,
    base: Mapping[str, torch.Tensor] | None = None,
    tokenizer: Any = None,
    texts: Texts = (),
    merge: bool = True,
) -> Iterator[Target]:
    """Yield a model to attack, and restore its weights bit by bit when the block ends.

    Inside the block, an adapter is merged into the weights, and main memory holds a copy of all
    weights. `base`: the weights before unlearning, if they are not the base of an adapter. `merge`
    False: the adapter is left out, to attack the base. Raises AttackError for an adapter that
    cannot be merged in place.
    """
    import torch

    from pytest_unlearn.models.lm_head import is_adapted

    adapted = is_adapted(model)
    prefix = model.base_model.prefix if adapted else None
    adapted = adapted and merge
    weights = {
        name: weight
        for name, weight in model.named_parameters()
        if prefix is None or prefix not in name
    }
    with torch.no_grad():
        originals = {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}
        try:
            if adapted:
                _merge(model)
            yield Target(model, weights, originals if adapted else base, tokenizer, texts)
        finally:
            if adapted:
                model.unmerge_adapter()  # for PEFT's state; subtracting it leaves rounding errors
            for name, weight in weights.items():
                weight.data.copy_(originals[name])


def _merge(model: Any) -> None:
    """Merge an adapter in place. Raises AttackError if the model then predicts something else.

    That happens if the adapter changes one of two tied matrices.
    """
    from pytest_unlearn.models.patching import sample_logits

    before = sample_logits(model)
    model.merge_adapter()
    after = sample_logits(model)
    off = float((after - before).norm() / before.norm().clamp(min=1e-12))
    if not off <= (1e-3 if model.dtype.itemsize > 2 else 0.1):  # also NaN
        raise AttackError(
            f"the adapter cannot be merged into its base in place (logits differ by {off:.1%}); "
            "save the merged model and test it with --unlearn-model, or leave --unlearn-attacks out"
        )


def needs_met(attack: Attack, adapter: bool, two_states: bool) -> str:
    """Return why an attack cannot be made on a run's model, or an empty text.

    `adapter`: the tested model is a base with an adapter. `two_states`: there is a base to compare
    with.
    """
    if attack.needs == "adapter" and not adapter:
        return "the tested model has no adapter apart from its base"
    if attack.needs == "base" and not two_states:
        return "there is no model before unlearning"
    return ""
