"""What a loaded model predicts, tried before anything is asked of it: numbers; in a batch what it
predicts alone; and with a cache, as it writes, what it predicts without one."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import Any

import torch
from transformers import GenerationConfig

from pytest_unlearn.models.generation import is_out_of_memory
from pytest_unlearn.models.patching import ModelLoadError, is_exact, sample_logits


def check_predictions(model: Any, name: str) -> None:
    """Raise ModelLoadError if a model predicts nothing, or cannot write. `name`: for messages, with
    the folder."""
    try:
        logits = sample_logits(model)
        reason = _nothing(logits) or batch_fault(model)
    except Exception as error:  # kernels and a model's own code raise all kinds of errors
        text = f"{name} cannot be run: {_in_one_line(error)}"
        if isinstance(error, IndexError | RuntimeError) and not is_out_of_memory(error):
            text += "; its config.json does not belong to its weights"
        raise ModelLoadError(text) from error
    reason = reason or cache_fault(model)
    if reason is not None:
        raise ModelLoadError(f"{name}: {reason}")


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _masks(model: Any, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a mask `[rows, tokens]` as a model takes it, with positions if it takes them."""
    masks = {"attention_mask": mask}
    if "position_ids" in inspect.signature(model.forward).parameters:
        masks["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return masks


def _nothing(logits: torch.Tensor) -> str | None:
    """Return why these logits `[tokens, vocabulary]` are not predictions, or None."""
    if not bool(torch.isfinite(logits).any(dim=-1).all()) or bool(torch.isnan(logits).any()):
        return "its predictions are not numbers (NaN): its weights are broken"
    if bool((logits.amax(dim=-1) == logits.amin(dim=-1)).all()):
        return "it gives every token the same score: its weights are zero"
    return None


# How far logits may differ just because of rounding, as a share of their deviation.
_ROUNDING, _HALF_ROUNDING = 0.01, 0.25


@torch.inference_mode()
def batch_fault(model: Any) -> str | None:
    """Return why a model does not write in a batch what it writes alone, or None.

    Batches are padded on the left. A model that treats padding as text, or counts positions from
    it, writes something else in a batch, which could hide a leak. A model that sees later tokens
    cannot write text at all.
    """
    size, device = model.get_input_embeddings().weight.shape[0], model.device
    short, tail, other = (torch.arange(24, device=device) + 1).remainder(size).view(3, 8)
    seen, unseen = torch.ones_like(short), torch.zeros_like(short)

    def predicted(*rows: tuple[torch.Tensor, torch.Tensor], **masks: torch.Tensor) -> torch.Tensor:
        """Return `[rows, tokens, vocabulary]`: of one shape, since kernels round by shape."""
        ids = torch.stack([torch.cat(row) for row in rows])
        logits: torch.Tensor = model(input_ids=ids, use_cache=False, **masks).logits
        return logits.float()

    mask = torch.stack([torch.cat([unseen, seen]), torch.cat([seen, unseen])])
    whole = predicted((short, tail), (short, other))[:, 7]
    padded = predicted((unseen, short), (short, unseen), **_masks(model, mask))
    slack = _ROUNDING if is_exact(model) else _HALF_ROUNDING
    slack *= max(float(whole[0].std()), 1e-3)
    if float((whole[0] - whole[1]).abs().max()) > slack:
        return (
            "its predictions depend on the tokens that follow: it does not write text token by "
            "token (BERT and similar models need is_decoder=true, and training with it)"
        )
    if float((padded[0, -1] - padded[1, 7]).abs().max()) > slack:
        return (
            "in a batch it writes different text than alone, since it does not ignore padding "
            f"({type(model).__name__}): this could hide a leak, so it cannot be tested"
        )
    return None


# How much logits may differ with a cache, as a share of their norm. In half precision, rounding
# changes them and may send a token to another expert; int8 layers change them by 4 %; those of
# another text differ by 1.4 times their norm.
_CACHED, _HALF_CACHED = 0.05, 0.5
_NEW = 3


@torch.inference_mode()
def cache_fault(model: Any) -> str | None:
    """Return why a model does not write what it predicts, or None.

    Texts are written token by token, with a cache of what was read. A model that cannot, or that
    goes on from something else, would write noise after its first token, and a leak would read as
    silence.
    """
    size, device = model.get_input_embeddings().weight.shape[0], model.device
    ids = (torch.arange(16, device=device) + 1).remainder(size).view(2, 8)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    settings: Any = GenerationConfig
    how = settings(
        do_sample=False,
        max_new_tokens=_NEW,
        min_new_tokens=_NEW,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    try:
        made = model.generate(input_ids=ids, attention_mask=mask, generation_config=how)
        logits = torch.stack(made.logits[1:], dim=1).float()
    except Exception as error:  # transformers raises all kinds of errors
        return (
            f"transformers {version('transformers')} cannot write text with it "
            f"({type(model).__name__}): {_in_one_line(error)}"
        )
    written = made.sequences[:, :-1]
    masks = _masks(model, torch.cat([mask, mask.new_ones(2, _NEW - 1)], dim=1))
    uncached = model(input_ids=written, use_cache=False, **masks).logits[:, 1 - _NEW :].float()
    uncached, logits = (each - each.mean(dim=-1, keepdim=True) for each in (uncached, logits))
    most = _CACHED if is_exact(model) else _HALF_CACHED
    if not float((logits - uncached).norm() / uncached.norm().clamp(min=1e-3)) <= most:  # also NaN
        return (
            "token by token it writes other text than it predicts for the whole "
            f"({type(model).__name__}): its cache does not work, and a leak would read as silence, "
            "so it cannot be tested"
        )
    return None
