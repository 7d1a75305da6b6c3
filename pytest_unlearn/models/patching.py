"""What transformers and PEFT leave to us: strict and fast adapters, and unpacked GGUF files."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from pytest_unlearn.models.footprint import MERGED_SHARE
from pytest_unlearn.models.model_files import CONFIG, WEIGHTS, base_of, json_object, shapes_in

if TYPE_CHECKING:
    from pathlib import Path

    from peft import PeftModel


class ModelLoadError(RuntimeError):
    """A model exists but cannot be loaded, or not on this machine's devices."""


@contextlib.contextmanager
def peft_quietly() -> Iterator[None]:
    """Hide what does not concern users: a warning that peft 0.21 causes in transformers 5, its
    advice about tied weights, which are untied here before anything is merged, and how it puts an
    adapter on GPT-2's layers and on experts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        warnings.filterwarnings("ignore", message=".*ensure_weight_tying.*")
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to.*")
        warnings.filterwarnings("ignore", message=".*(rank|alpha)_pattern keys did not match.*")
        yield


@contextlib.contextmanager
def transformers_quietly() -> Iterator[None]:
    """Hide what transformers logs in a block."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def check_kind(adapter: Path | None) -> None:
    """Raise ModelLoadError for an adapter of a kind that the installed PEFT does not know."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = json_object(adapter / CONFIG).get("peft_type") if adapter is not None else None
    if kind is not None and kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise ModelLoadError(
            f"the adapter {adapter} is of the kind {kind}, which peft {version('peft')} does not "
            "know; run `pip install --upgrade peft`, or merge it where it was trained"
        )


def check_quantization(kind: str | None) -> None:
    """Raise ModelLoadError for quantized weights that transformers would treat as plain ones.

    It only warns about a method that it does not know; if the tensors have the usual names, their
    codes would be used as weights.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING as METHODS

    known = {name.removesuffix("_4bit").removesuffix("_8bit") for name in METHODS}
    if kind is not None and kind not in known:
        raise ModelLoadError(
            f"its weights are quantized by {kind}, which transformers {version('transformers')} "
            f"cannot read ({', '.join(sorted(known))}); name the model as it was before it was "
            "quantized, or write --unlearn-engine=vllm if vLLM can"
        )


def with_adapter(model: Any, adapter: Path) -> PeftModel:
    """Return a model with the adapter of a folder on it.

    PEFT drops matrices for modules that the model lacks, and fills in those that the folder lacks,
    with only a warning; here both are errors. Embeddings are resized to those that the adapter was
    trained with. The adapter gets the model's dtype, in which it was trained here, without casts
    around it. Raises ModelLoadError.
    """
    from peft import PeftModel, get_peft_model_state_dict

    trained_on = base_of(adapter) or "another model"
    shapes = shapes_in(adapter / WEIGHTS)
    try:
        _resize(model, shapes)
        with peft_quietly(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*missing adapter keys.*")
            adapted = PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=False)
    except Exception as error:  # PEFT raises all kinds of errors
        raise ModelLoadError(
            f"the adapter {adapter} does not fit this model; it was trained on {trained_on}: "
            f"{error}"
        ) from error
    if adapted.active_peft_config.is_prompt_learning:
        kind = adapted.active_peft_config.peft_type
        raise ModelLoadError(f"the adapter {adapter} is of the kind {kind}, which is not supported")
    tensors = {name for name in shapes if ".lora_" in name}
    state: Any = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    differing = tensors ^ {name for name in state if ".lora_" in name}
    if differing:
        raise ModelLoadError(
            f"the adapter {adapter} does not fit this model: {len(differing)} matrices have no "
            f"counterpart, for example {min(differing)}; it was trained on {trained_on}"
        )
    return adapted


def _resize(model: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    """Resize a model's embeddings to the size in an adapter's tensors.

    An adapter trained with more tokens has whole embeddings, or LoRA matrices of their size.
    """
    names = _ends_of(model)
    rows = model.get_input_embeddings().weight.shape[0]
    for key, shape in shapes.items():
        if not any(f".{name}." in key for name in names):
            continue
        if key.endswith(("lora_embedding_A", "lora_embedding_A.weight")):
            wide = shape[1]
        elif key.endswith(tuple(f"{name}.weight" for name in names)) or (
            key.endswith("lora_B.weight") and f".{names[-1]}." in key
        ):
            wide = shape[0]
        else:
            continue
        if wide != rows:
            model.resize_token_embeddings(wide, mean_resizing=False)
            return


def _ends_of(model: Any) -> list[str]:
    """Return the names of a model's input embeddings and of its head."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    names = {id(module): name for name, module in model.named_modules()}
    return [names[id(module)] for module in ends if module is not None]


def save_adapter(
    model: PeftModel, folder: Path, state: dict[str, torch.Tensor] | None = None
) -> None:
    """Write a model's adapter into a folder; `state`: its weights, if they are elsewhere.

    Embeddings are left out, since no adapter here changes them: to check them, PEFT would look for
    the base's configuration at its path and on the hub, and warn if it finds none.
    """
    model.save_pretrained(str(folder), save_embedding_layers=False, state_dict=state)


def merged(model: Any, adapter: Path) -> Any:
    """Return a model with the adapter of a folder added to its weights.

    If an adapter changes only one of a tied embedding and head, these are untied first: added to
    both, the adapter would make another model. The result must predict what the two predict
    together. Raises ModelLoadError otherwise.
    """
    _untie(model, adapter)
    adapted: Any = with_adapter(model, adapter).eval()
    merge: Any = getattr(adapted, "merge_and_unload", None)
    advice = "give it by --unlearn-adapter, and its base by --unlearn-model"
    if merge is None:
        raise ModelLoadError(f"the adapter {adapter} is of a kind that cannot be merged; {advice}")
    before = sample_logits(adapted)
    try:
        merged_model = merge()
    except Exception as error:  # PEFT raises all kinds of errors
        raise ModelLoadError(
            f"the adapter {adapter} cannot be merged into its base ({error}); {advice}"
        ) from error
    after = sample_logits(merged_model)
    off = float((after - before).norm() / before.norm().clamp(min=1e-12))
    if not off <= (1e-3 if is_exact(merged_model) else 0.1):  # also NaN
        raise ModelLoadError(
            f"the adapter {adapter}, merged into its base, predicts something else than on top of "
            f"it (logits differ by {off:.1%}); {advice}"
        )
    return merged_model


def _untie(model: Any, adapter: Path) -> None:
    """Give a model with tied weights a head of its own if an adapter changes either of the two."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or head.weight is not embeddings.weight:
        return
    touched = any(
        f".{name}." in key
        for key in shapes_in(adapter / WEIGHTS)
        if "trainable_tokens" not in key  # PEFT trains these tokens in both of two tied matrices
        for name in _ends_of(model)
    )
    if not touched or json_object(adapter / CONFIG).get("ensure_weight_tying"):
        return
    head.weight = torch.nn.Parameter(
        head.weight.detach().clone(), requires_grad=head.weight.requires_grad
    )
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}  # what transformers leaves out when it saves


# An adapter of rank r on a layer from m to n numbers costs r(m + n) multiplications per token in
# addition to the layer's mn, once forward and twice backward, and a few passes over all
# activations. At rank 64, this is two fifths more on a layer from 256 to 256, and 3 % more on one
# of 4,096. So a small layer runs with W + sBA, computed once per training step or batch of
# completions. The gradient to its input goes through this sum as well, and those of A and B are
# those of LoRA, up to rounding.
class _Merged(torch.autograd.Function):
    """x (W + sBA)^T, given the sum and its parts."""

    @staticmethod
    def forward(
        context: Any,
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        merged: torch.Tensor,
        bias: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor:
        context.save_for_backward(x, a, b, merged)
        context.scale = scale
        return F.linear(x, merged, bias)

    @staticmethod
    def backward(context: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, a, b, merged = context.saved_tensors
        (up,) = upstream
        rows, above = x.flatten(0, -2), up.flatten(0, -2)
        of_a = context.scale * (above @ b).T @ rows
        of_b = context.scale * above.T @ (rows @ a.T)
        of_x = up @ merged if context.needs_input_grad[0] else None
        return of_x, of_a, of_b, None, None, None


def _merges(layer: Any) -> bool:
    """Return whether a module is plain LoRA on a linear layer in float32, and not small compared
    with it.

    With fewer bits, the sum would round the adapter away. AdaLoRA, DoRA and other variants, several
    adapters, a bias in the adapter and layers whose `forward` is already replaced (by accelerate)
    are left to PEFT.
    """
    if not hasattr(layer, "lora_A"):
        return False
    from peft.tuners.lora import Linear

    linear = layer.get_base_layer()
    if (type(layer), type(linear)) != (Linear, torch.nn.Linear):
        return False
    if "forward" in vars(layer) or "forward" in vars(linear):
        return False
    if layer.merged or len(layer.lora_A) != 1 or layer.active_adapters != list(layer.lora_A):
        return False
    if layer.lora_magnitude_vector or layer.lora_variant:
        return False
    base = linear.weight
    parts = [each for part in (layer.lora_A, layer.lora_B) for each in part.values()]
    if any(part.weight.dtype != torch.float32 or part.bias is not None for part in parts):
        return False
    size: int = base.numel()
    share: float = sum(part.weight.numel() for part in parts) / size
    return base.dtype == torch.float32 and share >= MERGED_SHARE


@contextlib.contextmanager
def merged_lora(model: Any) -> Iterator[None]:
    """In a block, run layers with merged weights if that is cheaper.

    Weights and scale must not change in the block. A model without an adapter runs unchanged.
    """
    layers = [layer for layer in model.modules() if _merges(layer)]
    try:
        for layer in layers:
            (name,) = layer.lora_A
            a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
            base, scale = layer.get_base_layer(), float(layer.scaling[name])
            with torch.no_grad():
                merged = torch.addmm(base.weight, b, a, alpha=scale)
            layer.forward = partial(_forward, layer, name, merged, scale)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _forward(
    layer: Any, name: str, merged: torch.Tensor, scale: float, x: torch.Tensor
) -> torch.Tensor:
    base = layer.get_base_layer()
    if layer.disable_adapters:
        plain: torch.Tensor = base(x)
        return plain
    if not torch.is_grad_enabled():
        return F.linear(x, merged, base.bias)
    # Read each time: if they are computed from other weights, a backward pass frees that graph.
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    made: torch.Tensor = _Merged.apply(x, a, b, merged, base.bias, scale)  # type: ignore[no-untyped-call]
    return made


def is_exact(model: Any) -> bool:
    """Return whether a model computes in float32 throughout. Quantized layers may also round what
    goes through them, depending on what else is in the batch: bitsandbytes' int8 does."""
    return model.dtype == torch.float32 and not getattr(model, "is_quantized", False)


@torch.inference_mode()
def sample_logits(model: Any, ids: Sequence[int] = tuple(range(1, 17))) -> torch.Tensor:
    """Return the logits `[tokens, vocabulary]` (float32) of a row of token ids."""
    rows = model.get_input_embeddings().weight.shape[0]
    row = torch.tensor([[token % rows for token in ids]], device=model.device)
    logits: torch.Tensor = model(input_ids=row, use_cache=False).logits[0].float()
    return logits


def dequantized() -> dict[str, Any]:
    """Return what makes transformers unpack a GGUF file, one weight after the other.

    transformers 5.24 would keep the blocks packed if it finds kernels for them, and packed weights
    cannot be trained; earlier versions always unpack.
    """
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {"quantization_config": config(dequantize=True)} if config else {}
