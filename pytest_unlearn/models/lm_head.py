"""A causal model in two parts, body (hidden states) and head (logits), and losses over its
predictions.

A vocabulary is a hundred times wider than a hidden state. Losses need logits only at the learned
tokens, so the body runs on its own and the head is applied to these tokens, a chunk at a time: no
tensor of shape `[rows, tokens, vocabulary]` is ever made.

For a model that is spread over several devices, states and logits come back to the inputs' device,
where the labels are, as they would from the model as a whole.

`token_mean_nll` takes a whole batch: `logits` of shape `[rows, tokens, vocabulary]`, `labels`
`[rows, tokens]` with `IGNORED` at prompt and padding; position `t` of the logits predicts token `t
+ 1`, and the shift is done here. The other losses take only learned tokens, `[n, vocabulary]`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from pytest_unlearn.models.footprint import CHUNK_ELEMENTS as CHUNK_ELEMENTS

# The label that torch's cross-entropy and every Hugging Face model leave out.
IGNORED = -100


def is_adapted(model: Any) -> bool:
    """Return whether a model is PEFT's wrapper with an adapter, and not a transformers model.

    This looks for a method of the wrapper, because importing PEFT takes seconds.
    """
    return hasattr(model, "get_base_model")


def causal_model(model: Any) -> Any:
    """Return the transformers model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if is_adapted(model) else model


def vocabulary_of(model: Any) -> int:
    """Return the number of logits per token."""
    return int(causal_model(model).get_output_embeddings().weight.shape[0])


def head_is_fixed(model: Any) -> bool:
    """Return whether training leaves the head as it is."""
    head = causal_model(model).get_output_embeddings()
    return not any(weight.requires_grad for weight in head.parameters())


def hidden_states(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the last hidden states, `[rows, tokens, hidden]`, ready for the head."""
    states: torch.Tensor = body_of(model)(**inputs, use_cache=False).last_hidden_state
    return states.to(inputs["input_ids"].device)


def body_of(model: Any) -> Any:
    """Return the part of a model that computes hidden states. Raises ValueError without one."""
    inner = causal_model(model)
    return inner._modules[_body_name(inner)]


def _body_name(inner: Any) -> str:
    """Return the name of a model's body among its parts. Raises ValueError if there is none."""
    parts: dict[str, Any] = inner._modules
    if inner.base_model_prefix in parts:
        return str(inner.base_model_prefix)
    for name, part in parts.items():
        if any(isinstance(module, torch.nn.ModuleList) for module in part.modules()):
            return name
    raise ValueError(f"{type(inner).__name__}: its body was not found")


def logits_of(model: Any, states: torch.Tensor) -> torch.Tensor:
    """Return the logits `[n, vocabulary]` (float32) of hidden states `[n, hidden]`.

    The model's own forward pass computes them, with the states in place of its body, so that
    whatever an architecture does before and after its head (scaling, soft-capping, a layer in
    between) is still done.
    """
    inner = causal_model(model)
    name = _body_name(inner)
    body = inner._modules[name]
    inner._modules[name] = _Given(body, states[None])
    try:
        ids = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
        output = inner.forward(input_ids=ids, use_cache=False)
    finally:
        inner._modules[name] = body
    logits: torch.Tensor = output.logits.to(states.device)[0].float()
    return logits


class _Given(torch.nn.Module):
    """A stand-in for a model's body that returns given hidden states."""

    def __init__(self, body: torch.nn.Module, states: torch.Tensor) -> None:
        super().__init__()
        # Not as a submodule, so that nothing in the body is run or moved.
        self.__dict__["_body"] = body
        self.__dict__["_states"] = states

    def forward(self, *arguments: Any, **inputs: Any) -> Any:
        """Return the states as a body's output."""
        return _States(self.__dict__["_states"])

    def __getattr__(self, name: str) -> Any:
        """Return what a model asks its body for: `decoder` of OPT is the body itself."""
        part = getattr(self.__dict__["_body"], name)
        is_body = any(isinstance(m, torch.nn.ModuleList) for m in _parts_of(part))
        return _Given(part, self.__dict__["_states"]) if is_body else part


def _parts_of(value: Any) -> list[torch.nn.Module]:
    return list(value.children()) if isinstance(value, torch.nn.Module) else []


class _States:
    """Hidden states as a body's output; None for everything else that a body might return."""

    def __init__(self, states: torch.Tensor) -> None:
        self.last_hidden_state = states

    def __getitem__(self, place: Any) -> Any:
        return (self.last_hidden_state,)[place]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def check_logits(model: Any) -> None:
    """Raise ValueError unless `hidden_states` and `logits_of` give the model's own logits.

    Every training loss is made of them.
    """
    inner = causal_model(model)
    device = inner.get_input_embeddings().weight.device
    ids = torch.arange(1, 17, device=device)[None] % vocabulary_of(model)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        own = inner(**inputs, use_cache=False).logits[0].float().to(device)
        try:
            own_logits = logits_of(model, hidden_states(model, inputs)[0])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{type(inner).__name__}: its head cannot be run apart from its body ({error})"
            ) from error
    if not own.isfinite().all():  # broken weights: the training loss will show it
        return
    off = float((own_logits - own).norm() / own.norm().clamp(min=1e-12))
    if not off <= (1e-3 if own.dtype == inner.dtype else 0.05):  # also NaN
        raise ValueError(
            f"{type(inner).__name__}: its head, run apart from its body, gives other logits than "
            f"the model (by {off:.1%})"
        )


def over_chunks(
    function: Callable[..., torch.Tensor],
    width: int,
    *tensors: torch.Tensor,
    fixed: bool = False,
) -> torch.Tensor:
    """Return `function(*tensors)`, computed over chunks of the first dimension, which all tensors
    share.

    `width`: the numbers that `function` computes for one row (the vocabulary). With more than one
    chunk, none is kept for the backward pass. `fixed`: `function` returns one number per row, which
    depends on that row and on no trained weight; the gradient is then computed with the value, and
    nothing is computed again. Otherwise, each chunk is computed again in the backward pass.
    """
    size = max(1, CHUNK_ELEMENTS // width)
    count = len(tensors[0])
    if count <= size:
        return function(*tensors)
    if fixed and torch.is_grad_enabled() and tensors[0].requires_grad:
        result: torch.Tensor = _WithGradient.apply(function, size, *tensors)  # type: ignore[no-untyped-call]
        return result
    parts = []
    for chunk in _chunks(size, tensors):
        if torch.is_grad_enabled():
            parts.append(checkpoint(function, *chunk, use_reentrant=False))
        else:
            parts.append(function(*chunk))
    return torch.cat(parts)


def _chunks(size: int, tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    for start in range(0, len(tensors[0]), size):
        yield [tensor[start : start + size] for tensor in tensors]


class _WithGradient(torch.autograd.Function):
    """A number for each row of a tensor, computed together with the gradient of each.

    A row's gradient is that of its number times the gradient from the loss, so it can be computed
    before the loss is known. This saves a pass of the head (the idea of Liger's fused linear
    cross-entropy, arXiv 2410.10989).
    """

    @staticmethod
    def forward(
        context: Any,
        function: Callable[..., torch.Tensor],
        size: int,
        *tensors: torch.Tensor,
    ) -> torch.Tensor:
        numbers: list[torch.Tensor] = []
        gradients: list[torch.Tensor] = []
        for rows, *more in _chunks(size, tensors):
            leaf = rows.detach().requires_grad_()
            with torch.enable_grad():
                number = function(leaf, *more)
                gradients += torch.autograd.grad(number.sum(), leaf)
            numbers.append(number.detach())
        context.save_for_backward(torch.cat(gradients))
        context.others = len(tensors) - 1
        return torch.cat(numbers)

    @staticmethod
    def backward(context: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradients,) = context.saved_tensors
        scaled = (gradients * upstream[0][:, None]).to(gradients.dtype)
        return (None, None, scaled, *[None] * context.others)


class _Reached(Exception):
    """Ends a forward pass at the requested layer."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__()
        self.states = states


def states_at(model: Any, inputs: dict[str, torch.Tensor], depth: float) -> torch.Tensor:
    """Return the hidden states `[rows, tokens, hidden]` after a share `depth` of the layers.

    Layers above are not run. Raises ValueError if the model's layers are not found.
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


@contextlib.contextmanager
def recorded_states(model: Any, most: int) -> Iterator[list[torch.Tensor]]:
    """Yield a list to which each pass in the block adds its hidden states, `[rows, tokens,
    hidden]`.

    There is one tensor per layer, for at most `most` evenly spread layers that include the last.
    Raises ValueError if the model's layers are not found.
    """
    layers = layers_of(model)
    count = min(most, len(layers))
    chosen = [layers[(number + 1) * len(layers) // count - 1] for number in range(count)]
    states: list[torch.Tensor] = []

    def record(module: Any, arguments: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    with contextlib.ExitStack() as hooks:
        for layer in chosen:
            hooks.enter_context(_hooked(layer, record))
        yield states


def layers_of(model: Any) -> Any:
    """Return the list of a model's layers. Raises ValueError if it is not found."""
    body, name = _place_of_layers(model)
    return body._modules[name]


def _place_of_layers(model: Any) -> tuple[Any, str]:
    """Return the module that has the list of layers, and its name there.

    It is the body itself or, as in OPT, a decoder in it.
    """
    inner = causal_model(model)
    count = inner.config.num_hidden_layers
    body = inner._modules[_body_name(inner)]
    for holder in (body, *body.children()):
        for name, module in holder.named_children():
            if isinstance(module, torch.nn.ModuleList) and len(module) == count:
                return holder, name
    raise ValueError(f"{type(inner).__name__}: no list of its {count} layers was found")


@contextlib.contextmanager
def cut_off(model: Any, depth: float) -> Iterator[None]:
    """Remove the layers above a share `depth` of a model in the block.

    The output of the last remaining layer goes through the model's final norm and its head (the
    logit lens). If there are two layers or more, at least one is removed and at least one remains.
    Raises ValueError if the model's layers are not found.
    """
    body, name = _place_of_layers(model)
    layers = body._modules[name]
    left = min(max(1, round(depth * len(layers))), max(1, len(layers) - 1))
    body._modules[name] = torch.nn.ModuleList(list(layers)[:left])
    try:
        yield
    finally:
        body._modules[name] = layers


@contextlib.contextmanager
def inputs_seen(
    modules: Mapping[str, torch.nn.Module], see: Callable[[str, torch.Tensor], None]
) -> Iterator[None]:
    """Call `see` with a module's name and its first input, `[..., width]`, at each pass of a block.

    Of a layer of experts, an expert gets some tokens only, in rows of its own.
    """

    def hook(name: str) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], None]:
        return lambda module, inputs: see(name, inputs[0])

    with contextlib.ExitStack() as hooks:
        for name, module in modules.items():
            hooks.callback(module.register_forward_pre_hook(hook(name)).remove)
        yield


@contextlib.contextmanager
def _hooked(module: torch.nn.Module, hook: Callable[..., None]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _predicted(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits `[n, vocabulary]` (float32) and labels `[n]` of the learned tokens only.

    Raises ValueError if no token is learned: a mean over nothing would be NaN, and a loss of zero
    would read as success.
    """
    targets = labels[:, 1:]
    learnt = targets != IGNORED
    if not bool(learnt.any()):
        raise ValueError("no token of the batch is learnt: every label is masked")
    return logits[:, :-1][learnt].float(), targets[learnt]


def token_mean_nll(
    logits: torch.Tensor, labels: torch.Tensor, bound: float = math.inf
) -> torch.Tensor:
    """Return the mean negative log-likelihood of the learned tokens, in nats (a scalar).

    A token's loss counts at most `bound`, and no gradient comes from a token beyond it: otherwise
    ascent would have no end, and what is already forgotten would outweigh the rest.
    """
    predicted, targets = _predicted(logits, labels)
    losses = F.cross_entropy(predicted, targets, reduction="none")
    return losses.clamp(max=bound).mean()


def token_kl(reference_logits: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return KL(reference || policy) of each of `n` tokens, in nats, `[n]`.

    Both arguments are logits `[n, vocabulary]`. The direction is the paper's and open-unlearning's
    (arXiv 2502.05739; `grad_diff.py`): the policy has to cover what the reference would say. Both
    are normalised here: raw logits in a KL give a number that is not a divergence.
    """
    reference = F.log_softmax(reference_logits, dim=-1)
    return (reference.exp() * (reference - F.log_softmax(logits, dim=-1))).sum(dim=-1)


def token_kl_top(
    top_log_probs: torch.Tensor, top_ids: torch.Tensor, logits: torch.Tensor
) -> torch.Tensor:
    """Return KL(reference || policy), with all but the reference's `k` likeliest tokens as one.

    `top_log_probs`, `top_ids`: `[n, k]`; `logits`: `[n, vocabulary]`; the result is `[n]`, in nats.
    Lumping can only lower a divergence. If P is the reference's mass outside the top, the loss is P
    times the divergence of the two tails: at most P times the largest log-ratio in the tail of the
    renormalized reference to the renormalized policy.
    """
    policy = F.log_softmax(logits, dim=-1)
    inside = (top_log_probs.exp() * (top_log_probs - policy.gather(1, top_ids))).sum(dim=-1)
    if top_ids.shape[-1] == policy.shape[-1]:
        # Nothing is outside, and a mass left by rounding would be multiplied by log 0.
        return inside
    rest = (1 - top_log_probs.exp().sum(dim=-1)).clamp(min=0.0)
    outside = policy.scatter(1, top_ids, -math.inf).logsumexp(dim=-1)
    return inside + torch.xlogy(rest, rest) - rest * outside


def without_target(logits: torch.Tensor, targets: torch.Tensor, lowered: float) -> torch.Tensor:
    """Return softmax probabilities `[n, vocabulary]` after lowering the target's logit by
    `lowered`.

    With infinity, the target has probability 0 and the others keep their ratios.
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
    top = ordered.masked_fill(reached_before, 0.0)
    return torch.zeros_like(top).scatter(1, order, top / top.sum(dim=-1, keepdim=True))


def token_distillation(probabilities: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of logits `[n, vocabulary]` to given probabilities, nats, `[n]`."""
    return -(probabilities * F.log_softmax(logits, dim=-1)).sum(dim=-1)
