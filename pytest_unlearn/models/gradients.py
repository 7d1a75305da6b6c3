"""The gradient norm of a single record, which is small for what was trained on.

arXiv 2402.17012 uses it for membership inference. Unlike open-unlearning's `gradnorm.py`, the model
is in evaluation mode (dropout would make the score random), the norm is that of the whole gradient
(not the mean of the norms of tensors, which depends on how weights are cut into tensors), and
nothing in the model is changed, neither `.grad` nor a flag.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from pytest_unlearn.models.generation import GenerationError, check_ids, context_of
from pytest_unlearn.models.scoring import ValueRow, value_rows

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pytest_unlearn.models.texts import Example

# Name of a parameter -> whether the norm includes it.
Choice = Callable[[str], bool]


def every_weight(name: str) -> bool:
    """Choose all parameters but those of LoRA.

    The gradient of a weight is the same whether LoRA is a layer next to it or merged into it, so
    base, unlearned and retrained models are measured alike, whatever each of them was trained on.
    (Which parameters a loaded model would train does not help: with an adapter, none of its own.)
    """
    return not any(part.startswith("lora_") for part in name.split("."))


def last_block(model: PreTrainedModel | PeftModel) -> Choice:
    """Return a choice of the last block's parameters, for a model too large for `every_weight`.

    The backward pass ends there, and gradients of the other weights are not held. Raises ValueError
    for a model without a list of blocks.
    """
    # The outermost list comes first; a list of experts is inside a block.
    block = next(
        ((n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m)),
        None,
    )
    if block is None:
        raise ValueError("the model has no list of blocks: choose parameters by name")
    prefix = f"{block[0]}.{len(block[1]) - 1}."
    return lambda name: name.startswith(prefix) and every_weight(name)


def gradient_norms(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    choice: Choice = every_weight,
    p: int = 2,
) -> list[float]:
    """Return the p-norm of the gradient of each example's loss, in order.

    The loss is the mean negative log-likelihood (nats) of the value's tokens after its prompt, the
    same tokens as in `ValueScores.log_probs`. One example goes through the model at a time: a
    batch's gradient is a sum, in which single records cannot be distinguished. `choice` picks
    parameters by name; weights that are not floating-point numbers (quantized) are left out, and
    so are those that the model does not use.

    Raises ValueError for `p` other than 1 or 2, a choice of nothing, an empty prompt or answer;
    GenerationError if the gradient is not finite, a text does not fit the model's context, or the
    gradient does not fit in memory.
    """
    if p not in (1, 2):
        raise ValueError(f"p is {p}: it must be 1 or 2")
    rows = value_rows(tokenizer, examples, context_of(model))
    check_ids(model, [row.ids + row.answer for row in rows])
    # The caller may be in inference mode, in which nothing has a gradient.
    with torch.inference_mode(False), torch.enable_grad(), _only(model, choice) as parameters:
        return [_norm(model, row, parameters, p) for row in rows]


@contextlib.contextmanager
def _only(model: Any, choice: Choice) -> Iterator[list[torch.nn.Parameter]]:
    """Let only the chosen parameters have gradients, in evaluation mode, in a `with` block."""
    named = [(n, w) for n, w in model.named_parameters() if w.is_floating_point()]
    chosen = [weight for name, weight in named if choice(name)]
    if not chosen:
        raise ValueError("no floating point parameter of the model is chosen")
    flags = [(weight, weight.requires_grad) for _, weight in named]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        for weight, _ in flags:
            weight.requires_grad_(False)
        for weight in chosen:
            weight.requires_grad_(True)
        yield chosen
    finally:
        for weight, flag in flags:
            weight.requires_grad_(flag)
        for module, training in modes:
            module.training = training


def _norm(model: Any, row: ValueRow, parameters: list[torch.nn.Parameter], p: int) -> float:
    """Return the norm of one row's gradient; `.grad` stays as it is."""
    answer = row.answer[row.lead :]
    ids = torch.tensor([row.ids + row.answer], device=model.device)
    try:
        # Without a cache, whose tensors would be kept for nothing. The last token predicts nothing.
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0, -len(answer) :].float()
        loss = F.cross_entropy(logits, ids[0, -len(answer) :].to(logits.device))
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    except torch.OutOfMemoryError as error:
        raise GenerationError(
            f"the gradient of a row of {ids.shape[1]} tokens does not fit the memory; choose fewer "
            "parameters (`last_block`)"
        ) from error
    parts = [
        float(torch.linalg.vector_norm(gradient.detach(), ord=p, dtype=torch.float32))
        for gradient in gradients
        if gradient is not None
    ]
    norm = math.fsum(parts) if p == 1 else math.hypot(*parts)
    if not math.isfinite(norm) or not parts:
        raise GenerationError("the gradient is not finite: the model's weights are broken")
    return norm
