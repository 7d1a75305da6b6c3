"""The registry of unlearning methods, and the reading of `--unlearn-method`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_unlearn.unlearning import ga, ga_gd, ga_kl
from pytest_unlearn.unlearning.options import MethodError, UnlearnOptions, changed

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.unlearning.policy import Step

# Audits the model as it is.
NONE = "none"
# Trains the unplanted base without the forget split: no loss, but what every loss is measured by.
RETRAIN = "retrain"
DEFAULT = "ga+kl"


@dataclass(frozen=True, slots=True)
class Method:
    """A loss over one step's batches with its default options.

    `forget_mean`: what the loss's forget term is a mean over, so that the parts of a batch can be
    added up to the whole (`accumulate`); the retain term is always one over tokens.
    """

    name: str
    loss: Callable[[Step, UnlearnOptions], torch.Tensor]
    defaults: UnlearnOptions
    uses_retain: bool
    forget_mean: Literal["tokens", "rows"] = "tokens"


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("ga", ga.loss, ga.DEFAULTS, uses_retain=False),
        Method("ga+gd", ga_gd.loss, ga_gd.DEFAULTS, uses_retain=True),
        Method("ga+kl", ga_kl.loss, ga_kl.DEFAULTS, uses_retain=True),
    )
}


@dataclass(frozen=True, slots=True)
class MethodChoice:
    """A method with the options of this run; `method` is None when nothing is unlearned."""

    method: Method | None
    options: UnlearnOptions | None
    retrains: bool = False

    @property
    def name(self) -> str:
        """The method's name, or `none`, or `retrain`."""
        if self.retrains:
            return RETRAIN
        return self.method.name if self.method else NONE


def parse_method(text: str) -> MethodChoice:
    """Read `NAME` or `NAME:option=value,...`. Raises MethodError."""
    name, colon, options = text.strip().partition(":")
    if name == NONE:
        if colon:
            raise MethodError(f"{text!r}: method none takes no options")
        return MethodChoice(None, None)
    if name == RETRAIN:
        if colon:
            raise MethodError(
                f"{text!r}: method retrain takes no options; it follows the recipe of "
                "--unlearn-plant"
            )
        return MethodChoice(None, None, retrains=True)
    method = METHODS.get(name)
    if method is None:
        raise MethodError(
            f"{name!r} is not a method; write one of {', '.join(METHODS)}, {RETRAIN} or {NONE}"
        )
    return MethodChoice(method, changed(method.defaults, options) if colon else method.defaults)
