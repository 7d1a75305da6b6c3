"""Losses over next-token predictions.

`token_mean_nll` takes a whole batch: `logits` of shape `[rows, tokens, vocabulary]`, `labels`
`[rows, tokens]` with `IGNORED` at prompt and padding; position `t` of the logits predicts token
`t + 1`, and the shift is done here. The others take the learnt tokens only, `[n, vocabulary]`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from pytest_unlearn.models.batches import IGNORED


def _predicted(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits `[n, vocabulary]` (float32) and labels `[n]` of the learnt tokens only.

    Raises ValueError when no token is learnt: a mean over nothing would be NaN, and a loss of
    zero would read as success.
    """
    targets = labels[:, 1:]
    learnt = targets != IGNORED
    if not bool(learnt.any()):
        raise ValueError("no token of the batch is learnt: every label is masked")
    return logits[:, :-1][learnt].float(), targets[learnt]


def token_mean_nll(
    logits: torch.Tensor, labels: torch.Tensor, bound: float = math.inf
) -> torch.Tensor:
    """Return the mean negative log-likelihood of the learnt tokens, in nats (a scalar).

    A token's loss counts at most `bound`, and no gradient comes from a token
    beyond it: ascent has no end otherwise, and what is forgotten already would drown the rest.
    """
    predicted, targets = _predicted(logits, labels)
    losses = F.cross_entropy(predicted, targets, reduction="none")
    return losses.clamp(max=bound).mean()


def token_kl(reference_logits: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return KL(reference || policy) of each of `n` tokens, in nats, `[n]`.

    Both arguments are logits `[n, vocabulary]`. The direction is the paper's and
    open-unlearning's (arXiv 2502.05739; `grad_diff.py`): the policy is asked to cover what the
    reference would say. Both are normalised here: raw logits in a KL give a number that is no
    divergence.
    """
    reference = F.log_softmax(reference_logits, dim=-1)
    return (reference.exp() * (reference - F.log_softmax(logits, dim=-1))).sum(dim=-1)


def token_kl_top(
    top_log_probs: torch.Tensor, top_ids: torch.Tensor, logits: torch.Tensor
) -> torch.Tensor:
    """Return KL(reference || policy) where all but the reference's `k` likeliest tokens are one.

    `top_log_probs`, `top_ids`: `[n, k]`; `logits`: `[n, vocabulary]`; the result is `[n]`, in nats.
    Lumping can only lower a divergence. With P the reference's mass outside the top, what is lost
    is P times the divergence of the two tails: at most P times the largest log-ratio in the tail
    of the renormalised reference to the renormalised policy.
    """
    policy = F.log_softmax(logits, dim=-1)
    inside = (top_log_probs.exp() * (top_log_probs - policy.gather(1, top_ids))).sum(dim=-1)
    if top_ids.shape[-1] == policy.shape[-1]:
        return inside  # nothing is outside, and a mass left by rounding would meet log 0
    rest = (1 - top_log_probs.exp().sum(dim=-1)).clamp(min=0.0)
    outside = policy.scatter(1, top_ids, -math.inf).logsumexp(dim=-1)
    return inside + torch.xlogy(rest, rest) - rest * outside


def without_target(logits: torch.Tensor, targets: torch.Tensor, lowered: float) -> torch.Tensor:
    """Return softmax probabilities `[n, vocabulary]` after the target's logit fell by `lowered`.

    With infinity the target has probability 0 and the others keep their ratios.
    """
    own = logits.gather(1, targets[:, None]) - lowered
    return logits.scatter(1, targets[:, None], own).softmax(dim=-1)


def top_share(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return `[n, vocabulary]` cut to the likeliest tokens that reach `top_p`, summing to 1 again.

    At least one token stays.
    """
    ordered, order = probabilities.sort(dim=-1, descending=True)
    reached_before = ordered.cumsum(dim=-1) - ordered >= top_p
    reached_before[:, 0] = False
    kept = ordered.masked_fill(reached_before, 0.0)
    return torch.zeros_like(kept).scatter(1, order, kept / kept.sum(dim=-1, keepdim=True))


def token_distillation(probabilities: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of logits `[n, vocabulary]` to given probabilities, nats, `[n]`."""
    return -(probabilities * F.log_softmax(logits, dim=-1)).sum(dim=-1)
