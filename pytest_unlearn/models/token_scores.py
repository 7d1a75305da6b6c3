"""From logits to the scores of tokens: log-probabilities, decoding schemes, min-k++'s z-scores."""

from __future__ import annotations

import math

import torch

from pytest_unlearn.models.sampling import DecodingScheme


def token_scores(
    logits: torch.Tensor, targets: torch.Tensor, scheme: DecodingScheme
) -> tuple[torch.Tensor, ...]:
    """Return log p, log p under the scheme, z-score, first choice, and margin, `[n]` each.

    The margin (nats) is by how much a token is ahead of the best other one, negative behind it.
    """
    logits, targets = logits.float(), targets.to(logits.device)
    log_probs = logits.log_softmax(dim=-1)
    own = log_probs.gather(1, targets[:, None])[:, 0]
    chosen = logits.argmax(dim=-1)
    if scheme == DecodingScheme():
        of_scheme = own
    else:
        of_scheme = scheme_log_probs(logits, scheme).gather(1, targets[:, None])[:, 0]
    weights = log_probs.exp()
    finite = log_probs.clamp(min=-1e6)  # 0 * infinity is NaN
    mean = (weights * finite).sum(dim=-1)
    variance = (weights * (finite - mean[:, None]).square()).sum(dim=-1)
    # A distribution without spread says nothing about a token: its score is 0.
    z = torch.where(variance > 1e-12, (own - mean) / variance.sqrt().clamp(min=1e-6), 0.0)
    others = logits.scatter(1, targets[:, None], -math.inf).amax(dim=-1)
    margin = logits.gather(1, targets[:, None])[:, 0] - others
    return own, of_scheme, z, chosen, margin


def scheme_log_probs(logits: torch.Tensor, scheme: DecodingScheme) -> torch.Tensor:
    """Return the log-probabilities from which a scheme samples, `[n, vocabulary]`.

    Minus infinity where a token is left out. The rules are those of transformers' logits warpers,
    ties included.
    """
    if scheme.temperature == 0:
        out = torch.full_like(logits, -math.inf)
        return out.scatter(1, logits.argmax(dim=-1, keepdim=True), 0.0)
    kept = logits / scheme.temperature
    if scheme.top_k is not None and scheme.top_k < kept.shape[-1]:
        least = kept.topk(scheme.top_k, dim=-1).values[:, -1:]
        kept = kept.masked_fill(kept < least, -math.inf)
    if scheme.top_p < 1:
        ascending, order = kept.sort(dim=-1, descending=False)
        dropped = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - scheme.top_p
        dropped[:, -1] = False
        kept = kept.masked_fill(dropped.scatter(1, order, dropped), -math.inf)
    return kept.log_softmax(dim=-1)
