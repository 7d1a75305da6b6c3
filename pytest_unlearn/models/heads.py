"""A causal model in two parts: the body that gives hidden states, and the head that gives logits.

A vocabulary is a hundred times wider than a hidden state. Losses need logits at the learnt tokens
only, so the body runs on its own and the head is applied to those tokens, a chunk at a time: no
tensor of shape `[rows, tokens, vocabulary]` is ever made.

Of a model that is spread over several devices, states and logits come back to the inputs' device,
where labels are, as they would from the model as a whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

# Logits made at once: 64 MiB in float32.
CHUNK_ELEMENTS = 2**24


def causal_model(model: Any) -> Any:
    """Return the transformers model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def vocabulary_of(model: Any) -> int:
    """Return the number of logits of a token."""
    return int(causal_model(model).get_output_embeddings().weight.shape[0])


def hidden_states(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the last hidden states, `[rows, tokens, hidden]`, ready for the head."""
    states: torch.Tensor = (
        causal_model(model).base_model(**inputs, use_cache=False).last_hidden_state
    )
    return states.to(inputs["input_ids"].device)


def logits_of(model: Any, states: torch.Tensor) -> torch.Tensor:
    """Return the logits `[n, vocabulary]` (float32) of hidden states `[n, hidden]`.

    What some architectures do to their logits is done here as well: Granite divides, Cohere
    multiplies, Gemma 2 caps.
    """
    inner = causal_model(model)
    logits: torch.Tensor = inner.get_output_embeddings()(states).to(states.device).float()
    divisor = getattr(inner.config, "logits_scaling", None)
    factor = getattr(inner.config, "logit_scale", None)
    cap = getattr(inner.config, "final_logit_softcapping", None)
    if divisor:
        logits = logits / divisor
    if factor:
        logits = logits * factor
    if cap:
        logits = torch.tanh(logits / cap) * cap
    return logits


def over_chunks(
    function: Callable[..., torch.Tensor], width: int, *tensors: torch.Tensor
) -> torch.Tensor:
    """Return `function(*tensors)` taken over chunks of the first dimension, which all share.

    `width`: the numbers that `function` makes of one row (the vocabulary). With more than one
    chunk, each is made again in the backward pass instead of being kept.
    """
    size = max(1, CHUNK_ELEMENTS // width)
    count = len(tensors[0])
    if count <= size:
        return function(*tensors)
    parts = []
    for start in range(0, count, size):
        chunk = [tensor[start : start + size] for tensor in tensors]
        if torch.is_grad_enabled():
            parts.append(checkpoint(function, *chunk, use_reentrant=False))
        else:
            parts.append(function(*chunk))
    return torch.cat(parts)


class _Reached(Exception):
    """Ends a forward pass at the layer that was asked for."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__()
        self.states = states


def states_at(model: Any, inputs: dict[str, torch.Tensor], depth: float) -> torch.Tensor:
    """Return the hidden states `[rows, tokens, hidden]` after a share `depth` of the layers.

    Layers above are not run. Raises ValueError for a model whose layers are not found.
    """
    layers = layers_of(model)
    layer = layers[max(1, round(depth * len(layers))) - 1]

    def stop(module: Any, arguments: Any, output: Any) -> None:
        raise _Reached(output[0] if isinstance(output, tuple) else output)

    with _hooked(layer, stop):
        try:
            hidden_states(model, inputs)
        except _Reached as reached:
            return reached.states.to(inputs["input_ids"].device)
    raise ValueError(f"{type(layer).__name__} was never run")


def layers_of(model: Any) -> Any:
    """Return the list of a model's layers. Raises ValueError where it is not found."""
    inner = causal_model(model)
    count = inner.config.num_hidden_layers
    for module in inner.base_model.children():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"{type(inner).__name__}: no list of its {count} layers was found")


@contextlib.contextmanager
def _hooked(module: torch.nn.Module, hook: Callable[..., None]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
