"""The registry of unlearning methods, and the reading of `--unlearn-method`.

Other packages add methods through entry points of the group `pytest_unlearn.methods`, which have
the method's name and point to a `Method`. Each is loaded only when it is used, so that a broken one
does not affect the others.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_unlearn.core.extensions import offered_by_name, offered_names, with_given
from pytest_unlearn.unlearning.method import (
    Alternates,
    Method,
    MethodError,
    UnlearnOptions,
    WithAlternates,
    WithCarriers,
    WithStrangers,
    changed,
    check_training_options,
    option_names,
)
from pytest_unlearn.unlearning.methods import (
    distillation,
    gradient_ascent,
    preference,
    representation,
    task_arithmetic,
)

# Audits the model as it is.
NONE = "none"
# Trains the unplanted base without the forget split: not a loss, but the ideal of every loss.
RETRAIN = "retrain"
DEFAULT = "anchored"
GROUP = "pytest_unlearn.methods"

METHODS: dict[str, Method] = {
    method.name: method
    for family in (
        gradient_ascent,
        preference,
        distillation,
        representation,
        task_arithmetic,
    )
    for method in family.METHODS
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

    @property
    def alternates(self) -> tuple[Alternates | None, int]:
        """Which other values the method teaches in place of each true one, and how many."""
        kind = self.method.alternates if self.method else None
        return kind, self.options.alternates if isinstance(self.options, WithAlternates) else 1

    @property
    def strangers(self) -> int:
        """Return how many documents of made-up people the method uses."""
        return self.options.strangers if isinstance(self.options, WithStrangers) else 0

    @property
    def carriers(self) -> int:
        """In how many carriers each forget record is trained on."""
        return self.options.carriers if isinstance(self.options, WithCarriers) else 1


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
    method = find_method(name)
    if not colon:
        return MethodChoice(method, method.defaults)
    names = option_names(method.defaults, method.uses_retain)
    chosen = changed(method.defaults, options, method.name, names)
    check_training_options(method, chosen)
    return MethodChoice(method, chosen)


def find_method(name: str) -> Method:
    """Return the method of exactly this name, built in, given, or of an entry point.

    Raises MethodError for a name that is unknown or taken twice, and for an entry point that does
    not load.
    """
    own = with_given(METHODS, "a method", Method, MethodError)
    if name in own and name not in METHODS:
        return own[name]
    offered = offered_by_name(name, METHODS, GROUP, "a method", Method, MethodError)
    method: Method | None = offered or own.get(name)
    if method is None:
        known = ", ".join(dict.fromkeys([*own, *offered_names(GROUP)]))
        raise MethodError(f"{name!r} is not a method; write one of {known}, {RETRAIN} or {NONE}")
    return method
