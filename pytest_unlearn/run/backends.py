"""The object that a conftest puts in the models' place, whatever it leaves out."""

from __future__ import annotations

import contextlib
import uuid
from typing import TYPE_CHECKING, Any

from pytest_unlearn.attacks.attack import BOTH
from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.store import digest_of
from pytest_unlearn.models.engine import abilities_of
from pytest_unlearn.run.models import AttackedState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from pytest_unlearn.attacks.attack import Attack
    from pytest_unlearn.run.models import Completer, State, UnlearnedModel
    from pytest_unlearn.run.planted import Planting


class Backend:
    """What a conftest gave in the models' place, with everything that it may leave out.

    `key` and `model` are asked of it, all else is optional. An object with `complete` alone is one
    model in every state; without a key, nothing that it writes is found by a later run.
    """

    def __init__(self, given: object) -> None:
        """Raise UserError for an object that is neither models nor a model."""
        name = type(given).__name__
        self._given: Any = given
        self._name = f"pytest_unlearn_models returned an object of the class {name}"
        self._one = not callable(getattr(given, "model", None))
        if self._one:
            if not callable(getattr(given, "complete", None)):
                raise UserError(
                    f"{self._name}, which has neither model(state) nor complete(prompts, "
                    "max_new_tokens); see pytest_unlearn.run.models.Models"
                )
            abilities_of(given)
        elif not callable(getattr(given, "key", None)):
            raise UserError(
                f"{self._name}, which has model(state) and no key(state): return plain JSON data "
                "that name all that can change what the model writes, so that the store can tell "
                "it from others"
            )
        self._own_key = {"backend": name, "process": uuid.uuid4().hex}

    def _call(self, method: str, *arguments: Any) -> Any:
        found = getattr(self._given, method, None)
        return found(*arguments) if callable(found) else None

    def prepare(self, state: State) -> None:
        """Let the object make a model, if it does."""
        self._call("prepare", state)

    def key(self, state: State) -> dict[str, Any]:
        """Return the object's key. Raises UserError for one that is no JSON object."""
        if not callable(getattr(self._given, "key", None)):
            return {**self._own_key}
        key: Any = self._given.key(state)
        try:
            digest_of(key)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{self._name}: key({state!r}) is not plain JSON data: {error}"
            ) from None
        if not isinstance(key, dict) or not key:
            raise UserError(f"{self._name}: key({state!r}) must be a dict with something in it")
        return key

    def resolve(self) -> None:
        """Let the object find its models, if it does."""
        self._call("resolve")

    def model(self, state: State) -> Completer:
        """Return a model. Raises UserError for one that cannot complete a prompt."""
        model: Completer = self._given if self._one else self._given.model(state)
        try:
            abilities_of(model)
        except UserError as error:
            raise UserError(f"{self._name}: model({state!r}): {error}") from error
        return model

    def attacked(
        self, attack: Attack, of: State = "unlearned"
    ) -> AbstractContextManager[Iterator[AttackedState]]:
        """Let the object attack its model; of one that cannot, only other prompts are asked.

        Raises UserError for an attack on weights that it does not give.
        """
        own = callable(getattr(self._given, "attacked", None))
        if not (own or attack.changes_weights):
            model = self.model(of)
            states = [AttackedState(state, BOTH, model) for state in attack.states]
            return contextlib.nullcontext(iter(states))
        if not own:
            raise UserError(
                f"{self._name}, which has no attacked(attack): leave --unlearn-attacks out, or "
                "return a context manager that gives an iterator of AttackedState"
            )
        other = () if of == "unlearned" else (of,)  # asked for by few attacks only
        given: AbstractContextManager[Iterator[AttackedState]]
        given = self._given.attacked(attack, *other)
        return given

    def stored_unlearning(self) -> UnlearnedModel | None:
        """Return what the object says of its unlearning, or None."""
        found: UnlearnedModel | None = self._call("stored_unlearning")
        return found

    def stored_planting(self) -> Planting | None:
        """Return what the object says of its planting, or None."""
        found: Planting | None = self._call("stored_planting")
        return found

    def release(self) -> None:
        """Let the object let go of its models, if it does."""
        self._call("release")
