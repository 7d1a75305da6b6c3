"""Losses over next-token predictions; all leave out prompt and padding by the label mask.

`logits` have shape `[rows, tokens, vocabulary]`, `labels` `[rows, tokens]` with `IGNORED` where
nothing is learnt. Position `t` of the logits predicts token `t + 1`; the shift is done here.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from pytest_unlearn.models.batching import IGNORED


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


def token_mean_kl(
    reference_logits: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Return the mean over learnt tokens of KL(reference || policy), in nats (a scalar).

    The direction is the paper's and open-unlearning's (arXiv 2502.05739; `grad_diff.py`): the
    policy is asked to cover what the reference would say. Both are normalised here: raw logits
    in a KL give a number that is no divergence.
    """
    reference, _ = _predicted(reference_logits, labels)
    policy, _ = _predicted(logits, labels)
    return F.kl_div(
        F.log_softmax(policy, dim=-1),
        F.log_softmax(reference, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
