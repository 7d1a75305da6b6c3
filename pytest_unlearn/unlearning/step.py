"""The model being unlearned (a LoRA adapter, or all weights next to their base), its reference at
no extra memory, and the terms of one step's loss."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from pytest_unlearn.core.errors import UnlearningError
from pytest_unlearn.models.batches import (
    IGNORED,
    Batch,
    Encoded,
    collate,
    joined,
    tree_states,
)
from pytest_unlearn.models.lm_head import (
    head_is_fixed,
    hidden_states,
    logits_of,
    over_chunks,
    recorded_states,
    states_at,
    token_kl,
    token_kl_top,
    vocabulary_of,
)
from pytest_unlearn.models.loading import peft_quietly

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


# Names of modules, or PEFT's word for all linear layers but the head.
Targets = list[str] | str
_MAMBA = frozenset({"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"})


def with_new_adapter(
    model: PreTrainedModel, rank: int, targets: Targets = "all-linear"
) -> PeftModel:
    """Return `model` with a new LoRA adapter on some modules, alpha twice the rank.

    The adapter has the model's dtype, without the casts that PEFT would add; steps that bfloat16
    would round away add up in the trainer's master weights.
    """
    from peft import LoraConfig, get_peft_model

    # PEFT refuses these of Mamba's layers, by whose own kernels an adapter on them would be passed
    # over, and takes them for linear layers like all others.
    mamba = model.config.model_type in _MAMBA and targets == "all-linear"
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=targets,
        exclude_modules=["out_proj", "conv1d"] if mamba else None,
        task_type="CAUSAL_LM",
    )
    with peft_quietly():
        return cast("PeftModel", get_peft_model(model, config, autocast_adapter_dtype=False))


class FullPolicy(torch.nn.Module):
    """A model of which every weight is trained; `disable_adapter` switches to the base, as PEFT's
    does.

    Only a method that uses the base pays for it: a frozen copy of the weights is made the first
    time, which must be before the first step, and swapped in for a block.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model.requires_grad_(True)
        self._base: list[torch.Tensor] | None = None
        self.started = False
        # Where the weights are in memory, and how they are swapped with the base's; different for
        # shards.
        self.own: Callable[[], Sequence[torch.Tensor]] = lambda: list(self.model.parameters())
        self.exchange = self._swap

    def forward(self, *arguments: Any, **inputs: Any) -> Any:
        """Run the model."""
        return self.model(*arguments, **inputs)

    def get_base_model(self) -> PreTrainedModel:
        """Return the model itself, in its current state."""
        return self.model

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    @property
    def keeps_base(self) -> bool:
        """Return whether the base has been requested."""
        return self._base is not None

    def keep_base(self) -> None:
        """Copy the current weights. Raises RuntimeError once training has changed them."""
        if self._base is None:
            if self.started:
                raise RuntimeError(
                    "the base was requested after the first step, when it no longer exists"
                )
            self._base = [p.detach().clone() for p in self.own()]

    def start(self) -> None:
        """Note that the weights change from here on."""
        self.started = True

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Put the base's weights in place for a block.

        The tensors are swapped, so that a graph built before still finds its own in `backward`.
        """
        self.keep_base()
        base = self._base or []
        self.exchange(base)
        try:
            yield
        finally:
            self.exchange(base)

    def _swap(self, base: list[torch.Tensor]) -> None:
        for number, parameter in enumerate(self.model.parameters()):
            parameter.data, base[number] = base[number], parameter.data


@contextlib.contextmanager
def checkpointed(model: torch.nn.Module) -> Iterator[None]:
    """Recompute activations in the backward pass instead of keeping them, for a block.

    transformers does so only in training mode, and silently not in evaluation mode, in which the
    loop keeps the model to avoid dropout. So only the layers are put in training mode; what is
    inside them, including dropout, stays in evaluation mode. The embeddings' output is made to
    require a gradient: otherwise a frozen embedding cuts LoRA off from every checkpointed layer,
    and `lora_B` stays zero. Raises UnlearningError for a model without such layers.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise UnlearningError(
            f"checkpointing=true: {type(model).__name__} has no layers that can be checkpointed; "
            "leave it out, and lower batch or raise accumulate to save memory"
        )
    embeddings: Any = cast(Any, model).get_base_model().get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda module, inputs, out: out.requires_grad_(True))
    dropouts = [
        (layer, name, value)
        for layer in layers
        for name, value in vars(layer).items()
        if "drop" in name and isinstance(value, float)
    ]
    recompute: Any = partial(checkpoint, use_reentrant=False)
    try:
        for layer in layers:
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = recompute
            layer.training = True
        for layer, name, _ in dropouts:
            setattr(layer, name, 0.0)
        yield
    finally:
        hook.remove()
        for layer in layers:
            layer.gradient_checkpointing = False
            layer.training = False
        for layer, name, value in dropouts:
            setattr(layer, name, value)


@dataclass(frozen=True, slots=True)
class Predictions:
    """The `n` learned tokens of a batch, after one pass of the model's body.

    states: `[n, hidden]`, the hidden states that predict them. targets: `[n]`, the tokens. rows:
    `[n]`, the row of the batch that each token is in, of `count` rows. head: maps hidden states to
    logits `[n, vocabulary]` in float32, for the model in its current state. width: the vocabulary.
    fixed: whether training leaves the head as it is.
    """

    states: torch.Tensor
    targets: torch.Tensor
    rows: torch.Tensor
    count: int
    head: Callable[[torch.Tensor], torch.Tensor]
    width: int
    fixed: bool

    def each(self, function: Callable[..., torch.Tensor], *more: torch.Tensor) -> torch.Tensor:
        """Return `function(logits, *more)` for all tokens, computed a chunk at a time.

        `function` gets logits `[c, vocabulary]` and `c` rows of each tensor in `more`, none of
        which is trained, and must return `c` rows; if a gradient is needed, `c` numbers, each from
        its own row.
        """
        return over_chunks(
            lambda states, *rest: function(self.head(states), *rest),
            self.width,
            self.states,
            *more,
            fixed=self.fixed,
        )

    def only(self, chosen: torch.Tensor | slice) -> Predictions:
        """Return some of the tokens, by a mask `[n]` or a slice; rows keep their indices."""
        return replace(
            self,
            states=self.states[chosen],
            targets=self.targets[chosen],
            rows=self.rows[chosen],
        )

    def nll(self) -> torch.Tensor:
        """Return the negative log-likelihood of each token, in nats, `[n]`."""
        return self.each(
            lambda logits, targets: F.cross_entropy(logits, targets, reduction="none"),
            self.targets,
        )

    def row_sums(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sums over each row's tokens, `[count]`."""
        return values.new_zeros(self.count).index_add(0, self.rows, values)

    def row_means(self, values: torch.Tensor) -> torch.Tensor:
        """Return the means over each row's tokens, `[count]`; each row has learned tokens."""
        return self.row_sums(values) / self.row_sums(torch.ones_like(values))


def predictions(
    model: Any, batch: Batch, head: Callable[[torch.Tensor], torch.Tensor]
) -> Predictions:
    """Run the body of `model` on a batch, and return its learned tokens.

    Position `t` predicts token `t + 1`: the first token of an answer is predicted by the last one
    of the prompt, and counts. Raises ValueError if no token is learned: a mean over nothing would
    be NaN, and a loss of zero would read as success.
    """
    targets = batch.labels[:, 1:]
    learnt = targets != IGNORED
    if not bool(learnt.any()):
        raise ValueError("no token of the batch is learnt: every label is masked")
    if batch.tree is None:
        states = hidden_states(model, batch.model_inputs())[:, :-1][learnt]
    else:
        states = tree_states(model, batch.tree).index_select(0, batch.tree.places[:, :-1][learnt])
    rows = learnt.nonzero()[:, 0]
    width, fixed = vocabulary_of(model), head_is_fixed(model)
    return Predictions(states, targets[learnt], rows, len(batch.labels), head, width, fixed)


@dataclass(slots=True)
class RunState:
    """State that outlives a loss: the run's seed; `numbers` that a method carries from step to step
    (a dual variable), plain floats by name, so that a checkpoint can store them; and `sums` over
    the losses of one step, which may be several (option `accumulate`, several processes)."""

    seed: int
    numbers: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, term: float) -> None:
        """Add to a sum of this step."""
        self.sums[name] = self.sums.get(name, 0.0) + term


@dataclass(frozen=True, slots=True)
class Step:
    """One step: the policy (a model with a LoRA adapter), a forget and a retain batch.

    Each call of a term runs one forward pass, so a method pays for what it uses: GA one, GA+GD two,
    GA+KL two and one without gradient. `alternate` has the forget documents with other values, row
    by row, for the methods that need them.
    """

    policy: PeftModel
    forget: Batch
    retain: Batch | None
    state: RunState = field(default_factory=lambda: RunState(0))

    # -- passes ------------------------------------------------------------------------------

    def predicted(self, batch: Batch) -> Predictions:
        """Run the policy on a batch."""
        return predictions(self.policy, batch, lambda states: logits_of(self.policy, states))

    @torch.no_grad()
    def predicted_by_base(self, batch: Batch) -> Predictions:
        """Run the base on a batch, without gradient."""
        return base_predictions(self.policy, batch)

    def states(self, batch: Batch, depth: float) -> torch.Tensor:
        """Return the policy's states `[n, hidden]` after a share `depth` of the layers, where
        learned tokens are predicted."""
        return _learnt_states(self.policy, batch, depth)

    @torch.no_grad()
    def base_states(self, batch: Batch, depth: float) -> torch.Tensor:
        """Return the same for the base, without gradient."""
        with base_state(self.policy) as base:
            return _learnt_states(base, batch, depth)

    # -- terms -------------------------------------------------------------------------------

    def forget_nll(self, bound: float) -> torch.Tensor:
        """Return the token-mean NLL of the forget batch, in nats, each token at most `bound`.

        No gradient comes from a token beyond the bound: otherwise ascent would have no end, and
        what is already forgotten would outweigh the rest.
        """
        return self.predicted(self.forget).nll().clamp(max=bound).mean()

    def weighted_forget_nll(self, beta: float) -> torch.Tensor:
        """Return the mean of p^beta NLL over the forget batch's tokens, p the token's likelihood.

        No gradient goes through the weight (WGA, arXiv 2502.19301).
        """
        nll = self.predicted(self.forget).nll()
        return ((-beta * nll.detach()).exp() * nll).mean()

    def retain_nll(self) -> torch.Tensor:
        """Return the token-mean NLL of the retain batch, in nats."""
        return self.predicted(self.retained()).nll().mean()

    def retain_kl(self) -> torch.Tensor:
        """Return the token-mean KL(base || policy) of the retain batch, in nats.

        If the base's likeliest tokens are attached to the rows (option `kl_top`), all others count
        as one and the base is not run.
        """
        batch = self.retained()
        if batch.rows and batch.rows[0].base_top is not None:
            tops = [row.base_top for row in batch.rows if row.base_top is not None]
            policy = self.predicted(batch)
            device = policy.states.device
            return policy.each(
                lambda logits, log_probs, ids: token_kl_top(log_probs, ids, logits),
                torch.cat([top.log_probs for top in tops]).to(device),
                torch.cat([top.ids for top in tops]).to(device),
            ).mean()
        base = self.predicted_by_base(batch)
        return kl(base, self.predicted(batch)).mean()

    def retain_drift(self, most: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return how far the policy is from the base on the retain batch: KL and states.

        The first number is the token-mean KL(base || policy) over the learned tokens, in nats. The
        second is how far the hidden states of at most `most` layers rotated: the mean, over all
        tokens of a row, of the squared difference of states divided by their root mean square (2 -
        2 cos, from 0 to 4). Rows are weighted by their learned tokens, so that the parts of a batch
        add up. One pass of each model gives both.
        """
        batch = self.retained()
        real = batch.attention_mask
        with recorded_states(self.policy, most) as own:
            policy = self.predicted(batch)
        before, last = self._base_states(batch, most)
        base = replace(policy, states=last, head=partial(_base_logits, self.policy))
        learnt = (batch.labels[:, 1:] != IGNORED).sum(dim=1)
        weights = (real * (learnt / real.sum(dim=1))[:, None])[real.bool()]
        if batch.tree is not None:  # a token in several rows counts for each of them
            places = batch.tree.places[real.bool()]
            weights = weights.new_zeros(len(batch.tree.tokens)).index_add(0, places, weights)
            firsts = (real.flatten().cumsum(dim=0) - 1)[batch.tree.firsts]
            before = before.index_select(1, firsts)
        turned = [
            2 - 2 * F.cosine_similarity(a.float(), b.float(), dim=-1)
            for a, b in zip(_tokens(batch, own), before, strict=True)
        ]
        return kl(base, policy).mean(), (torch.stack(turned).mean(dim=0) @ weights) / weights.sum()

    def _base_states(self, batch: Batch, most: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the base's states at all tokens and for the head: those attached to the rows, or
        those from a pass."""
        stored = [row.base_states for row in batch.rows if row.base_states is not None]
        if not stored or len(stored) < len(batch.rows):
            return seen_by_base(self.policy, batch, most)
        device = batch.input_ids.device
        layers = torch.cat([states.layers for states in stored], dim=1)
        return layers.to(device), torch.cat([states.last for states in stored]).to(device)

    def base_nll(self) -> torch.Tensor:
        """Return the base's summed NLL of each forget row, in nats, `[rows]`, which was computed
        before."""
        return _attached(self.forget.rows, self.forget.labels.device)

    def retained(self) -> Batch:
        """Return the retain batch. Raises ValueError if there is none."""
        if self.retain is None:
            raise ValueError("this method needs a retain set")
        return self.retain

    def paired(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return how far the summed NLL of each forget row and of its alternate rose above the
        base's, in nats, `[rows]` each; from one pass of the policy over both. Raises ValueError if
        an alternate is missing."""
        rows = [row.alternate for row in self.forget.rows if row.alternate is not None]
        if len(rows) < len(self.forget.rows) or not rows:
            raise ValueError("this method needs documents with other values, and has none")
        device = self.forget.labels.device
        both = self.predicted(joined(self.forget, collate(rows, 0, device)))
        sums = both.row_sums(both.nll())
        count = len(rows)
        return sums[:count] - self.base_nll(), sums[count:] - _attached(rows, device)


@torch.no_grad()
def seen_by_base(policy: Any, batch: Batch, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the base's states at a batch's tokens, without padding: those of at most `most`
    layers, `[layers, tokens, hidden]`, and those that predict its `n` learned tokens, `[n,
    hidden]`."""
    with recorded_states(policy, most) as states:
        last = base_predictions(policy, batch).states
    layers = torch.stack(_tokens(batch, states))
    if batch.tree is not None:
        layers = layers.index_select(1, batch.tree.places[batch.attention_mask.bool()])
    return layers, last


def _tokens(batch: Batch, states: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the states `[tokens, hidden]` of a pass without padding, or of its tree's tokens, on
    the inputs' device; a model may be on several devices."""
    device = batch.input_ids.device
    if batch.tree is not None:
        return [each[0].to(device) for each in states]
    return [each.to(device)[batch.attention_mask.bool()] for each in states]


@torch.no_grad()
def _base_logits(policy: Any, states: torch.Tensor) -> torch.Tensor:
    with base_state(policy) as base:
        return logits_of(base, states)


def kl(base: Predictions, policy: Predictions) -> torch.Tensor:
    """Return KL(base || policy) of each token, in nats, `[n]`, for the same batch."""
    return policy.each(lambda logits, states: token_kl(base.head(states), logits), base.states)


def _learnt_states(model: Any, batch: Batch, depth: float) -> torch.Tensor:
    states = states_at(model, batch.model_inputs(), depth)
    return states[:, :-1][batch.labels[:, 1:] != IGNORED]


def base_predictions(policy: Any, batch: Batch) -> Predictions:
    """Run the base on a batch; its head is applied with the adapter off, too."""
    with torch.no_grad(), base_state(policy) as base:
        return predictions(base, batch, partial(_base_logits, policy))


def _attached(rows: Sequence[Encoded], device: torch.device) -> torch.Tensor:
    """Return `base_nll` of each row. Raises ValueError if a row has none."""
    sums = [row.base_nll for row in rows]
    if not sums or None in sums:
        raise ValueError("the base's log-probabilities of the forget rows were not computed")
    return torch.tensor(sums, device=device)


@contextlib.contextmanager
def base_state(policy: PeftModel) -> Iterator[Any]:
    """Yield the base model for a block: the policy with its adapter off.

    Dropout is off in both states (the caller keeps the model in `eval` mode), so that the reference
    is the base's prediction and not a sample of it.
    """
    with policy.disable_adapter():
        yield policy


@contextlib.contextmanager
def scaled_adapter(policy: Any, factor: float) -> Iterator[None]:
    """Multiply the adapter's effect by a factor for a block. Raises ValueError without one."""
    layers = [module.scaling for module in policy.modules() if hasattr(module, "lora_B")]
    if not layers:
        raise ValueError("the model has no LoRA adapter to scale")
    before = [dict(scaling) for scaling in layers]
    try:
        for scaling in layers:
            for name in scaling:
                scaling[name] *= factor
        yield
    finally:
        for scaling, unscaled in zip(layers, before, strict=True):
            scaling.update(unscaled)
