"""The model being unlearned, its reference for free, and what one step's loss is made of."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from pytest_unlearn.models.batches import IGNORED, Batch, Encoded, collate, joined
from pytest_unlearn.models.lm_head import (
    head_is_fixed,
    hidden_states,
    logits_of,
    over_chunks,
    recorded_states,
    states_at,
    vocabulary_of,
)
from pytest_unlearn.models.losses import token_kl, token_kl_top

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True, slots=True)
class Predictions:
    """The `n` learnt tokens of a batch, after one pass of the model's body.

    states: `[n, hidden]`, the hidden states that predict them. targets: `[n]`, the tokens.
    rows: `[n]`, the row of the batch each stands in; `count` rows in all.
    head: from hidden states to logits `[n, vocabulary]` in float32, of the model in its state.
    width: the vocabulary. fixed: whether training leaves the head as it is.
    """

    states: torch.Tensor
    targets: torch.Tensor
    rows: torch.Tensor
    count: int
    head: Callable[[torch.Tensor], torch.Tensor]
    width: int
    fixed: bool

    def each(self, function: Callable[..., torch.Tensor], *more: torch.Tensor) -> torch.Tensor:
        """Return `function(logits, *more)` for all tokens, made a chunk at a time.

        `function` sees logits `[c, vocabulary]` and `c` rows of each tensor of `more`, none of
        which is trained, and must give `c` rows; where a gradient is wanted, `c` numbers, each of
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
        """Return some of the tokens, by a mask `[n]` or a slice; rows keep their numbers."""
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
        """Return the means over each row's tokens, `[count]`; each row has learnt tokens."""
        return self.row_sums(values) / self.row_sums(torch.ones_like(values))


def predictions(
    model: Any, batch: Batch, head: Callable[[torch.Tensor], torch.Tensor]
) -> Predictions:
    """Run the body of `model` on a batch and return its learnt tokens.

    Position `t` predicts token `t + 1`: the first token of an answer is predicted by the last of
    the prompt, and counts. Raises ValueError when no token is learnt: a mean over nothing would be
    NaN, and a loss of zero would read as success.
    """
    targets = batch.labels[:, 1:]
    learnt = targets != IGNORED
    if not bool(learnt.any()):
        raise ValueError("no token of the batch is learnt: every label is masked")
    states = hidden_states(model, batch.model_inputs())[:, :-1][learnt]
    rows = learnt.nonzero()[:, 0]
    width, fixed = vocabulary_of(model), head_is_fixed(model)
    return Predictions(states, targets[learnt], rows, len(batch.labels), head, width, fixed)


@dataclass(slots=True)
class RunState:
    """What outlasts a loss: the run's seed, `numbers` that a method carries from step to step (a
    dual variable), plain floats by name, so that a checkpoint can hold them, and `sums` over the
    losses of one step, which may be many (option `accumulate`, several processes)."""

    seed: int
    numbers: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, term: float) -> None:
        """Add to a sum of this step."""
        self.sums[name] = self.sums.get(name, 0.0) + term


@dataclass(frozen=True, slots=True)
class Step:
    """One step: the policy (a model with a LoRA adapter), a forget and a retain batch.

    Each call of a term runs one forward pass, so a method pays for what it uses: GA one, GA+GD
    two, GA+KL two and one without gradient. `alternate` holds the forget documents with other
    values, row by row, for the methods that ask for them.
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
        learnt tokens are predicted."""
        return _learnt_states(self.policy, batch, depth)

    @torch.no_grad()
    def base_states(self, batch: Batch, depth: float) -> torch.Tensor:
        """Return the same of the base, without gradient."""
        with base_state(self.policy) as base:
            return _learnt_states(base, batch, depth)

    # -- terms -------------------------------------------------------------------------------

    def forget_nll(self, bound: float) -> torch.Tensor:
        """Return the token-mean NLL of the forget batch, in nats, each token at most `bound`.

        No gradient comes from a token beyond the bound: ascent has no end otherwise, and what is
        forgotten already would drown the rest.
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

        Where the base's likeliest tokens are attached to the rows (option `kl_top`), all others
        count as one and the base is not run.
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

        First the token-mean KL(base || policy) over the learnt tokens, in nats. Then how far the
        hidden states of at most `most` layers turned: the mean over all tokens of a row of the
        squared difference of states that are divided by their root mean square (2 - 2 cos, from 0
        to 4). Rows count by their learnt tokens, so that the parts of a batch add up. One pass of
        each model gives both.
        """
        batch = self.retained()
        with recorded_states(self.policy, most) as own:
            policy = self.predicted(batch)
        with recorded_states(self.policy, most) as before:  # the same layers, the adapter off
            base = self.predicted_by_base(batch)
        real = batch.attention_mask
        learnt = (batch.labels[:, 1:] != IGNORED).sum(dim=1)
        weights = (real * (learnt / real.sum(dim=1))[:, None])[real.bool()]
        turned = [
            2 - 2 * F.cosine_similarity(a[real.bool()].float(), b[real.bool()].float(), dim=-1)
            for a, b in zip(_on(real.device, own), _on(real.device, before), strict=True)
        ]
        return kl(base, policy).mean(), (torch.stack(turned).mean(dim=0) @ weights) / weights.sum()

    def base_nll(self) -> torch.Tensor:
        """Return the base's summed NLL of each forget row, in nats, `[rows]`; computed before."""
        return _attached(self.forget.rows, self.forget.labels.device)

    def retained(self) -> Batch:
        """Return the retain batch. Raises ValueError where there is none."""
        if self.retain is None:
            raise ValueError("this method needs a retain set")
        return self.retain

    def paired(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return how far the summed NLL of each forget row and of its alternate rose above the
        base's, in nats, `[rows]` each; one pass of the policy over both. Raises ValueError where
        an alternate is missing."""
        rows = [row.alternate for row in self.forget.rows if row.alternate is not None]
        if len(rows) < len(self.forget.rows) or not rows:
            raise ValueError("this method needs documents with other values, and has none")
        device = self.forget.labels.device
        both = self.predicted(joined(self.forget, collate(rows, 0, device)))
        sums = both.row_sums(both.nll())
        count = len(rows)
        return sums[:count] - self.base_nll(), sums[count:] - _attached(rows, device)


def _on(device: torch.device, states: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return states where the inputs are; a model may lie on several devices."""
    return [each.to(device) for each in states]


def kl(base: Predictions, policy: Predictions) -> torch.Tensor:
    """Return KL(base || policy) of each token, in nats, `[n]`; both saw the same batch."""
    return policy.each(lambda logits, states: token_kl(base.head(states), logits), base.states)


def _learnt_states(model: Any, batch: Batch, depth: float) -> torch.Tensor:
    states = states_at(model, batch.model_inputs(), depth)
    return states[:, :-1][batch.labels[:, 1:] != IGNORED]


def base_predictions(policy: Any, batch: Batch) -> Predictions:
    """Run the base on a batch; its head, too, is applied with the adapter off."""

    def head(states: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), base_state(policy) as base:
            return logits_of(base, states)

    with torch.no_grad(), base_state(policy) as base:
        return predictions(base, batch, head)


def _attached(rows: Sequence[Encoded], device: torch.device) -> torch.Tensor:
    """Return `base_nll` of each row. Raises ValueError where a row has none."""
    sums = [row.base_nll for row in rows]
    if not sums or None in sums:
        raise ValueError("the base's log-probabilities of the forget rows were not computed")
    return torch.tensor(sums, device=device)


@contextlib.contextmanager
def base_state(policy: PeftModel) -> Iterator[Any]:
    """Give the base model for a block: the policy with its adapter off.

    Dropout is off in both states (the caller keeps the model in `eval` mode), so that the
    reference is the base's prediction and no sample of it.
    """
    with policy.disable_adapter():
        yield policy
