"""What transformers and PEFT leave to the caller: strict adapters, and unpacked GGUF files."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_unlearn.models.adapters import WEIGHTS, base_of
from pytest_unlearn.models.safetensors_header import shapes_in

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from peft import PeftModel


class ModelLoadError(RuntimeError):
    """A model is there but cannot be loaded, or not on this machine's devices."""


@contextlib.contextmanager
def peft_quietly() -> Iterator[None]:
    """Leave out a warning that peft 0.21 draws from transformers 5; it concerns no user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        yield


def with_adapter(model: Any, adapter: Path) -> PeftModel:
    """Return a model with the adapter of a folder on it.

    PEFT leaves out matrices for modules that the model lacks, and fills in those that the folder
    lacks, with no more than a warning; here either is an error. The adapter gets the model's dtype,
    in which it was trained here, and no casts around it. Raises ModelLoadError.
    """
    from peft import PeftModel, get_peft_model_state_dict

    trained_on = base_of(adapter) or "another model"
    try:
        with peft_quietly(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*missing adapter keys.*")
            adapted = PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=False)
    except Exception as error:  # PEFT raises what its many parts raise
        raise ModelLoadError(
            f"the adapter {adapter} does not go on this model; it was trained on {trained_on}: "
            f"{error}"
        ) from error
    given = {name for name in shapes_in(adapter / WEIGHTS) if ".lora_" in name}
    state: Any = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    differing = given ^ {name for name in state if ".lora_" in name}
    if differing:
        raise ModelLoadError(
            f"the adapter {adapter} does not fit this model: {len(differing)} matrices have no "
            f"counterpart, {min(differing)} for one; it was trained on {trained_on}"
        )
    return adapted


def save_adapter(
    model: PeftModel, folder: Path, state: dict[str, torch.Tensor] | None = None
) -> None:
    """Write a model's adapter into a folder; `state`: its weights, where they are elsewhere.

    Without embeddings, which no adapter here changes: to find out about them, PEFT would look for
    the base's configuration at its path and on the hub, and warn where it finds none.
    """
    model.save_pretrained(str(folder), save_embedding_layers=False, state_dict=state)


def merged(model: PeftModel, adapter: Path) -> Any:
    """Return the model with its adapter added to its weights. Raises ModelLoadError."""
    merge: Any = getattr(model, "merge_and_unload", None)
    if merge is None:
        raise ModelLoadError(
            f"the adapter {adapter} is of a kind that cannot be merged; give it by "
            "--unlearn-adapter, and its base by --unlearn-model"
        )
    return merge()


def dequantized() -> dict[str, Any]:
    """Return what makes transformers unpack a GGUF file, one weight after the other.

    transformers 5.24 would keep the blocks packed where it finds kernels for them, and packed
    weights cannot be trained; versions before it always unpack.
    """
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {"quantization_config": config(dequantize=True)} if config else {}
