"""transformers as an engine: the default, which can measure everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.models.engine import METHODS, TRANSFORMERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_unlearn.models.engine import RunnableModel
    from pytest_unlearn.models.sources import ModelSource


class TransformersEngine:
    """transformers' own `generate` and forward pass, which can measure everything.

    Base and unlearned model share their weights, so `run.models` opens them itself.
    """

    name = TRANSFORMERS
    abilities: frozenset[str] = frozenset(METHODS) | {"ends"}

    def configured(self, text: str) -> TransformersEngine:
        """Raise UserError, since everything that can be chosen has a flag."""
        raise UserError("this engine has no options; write --unlearn-engine=transformers")

    def key(self) -> dict[str, Any]:
        """Return nothing, since the library versions are in every key."""
        return {}

    def check(self, source: ModelSource, flag: str) -> None:
        """Raise ModelNotFoundError for a model whose files do not fit each other."""
        from pytest_unlearn.models.loading import check_loadable

        check_loadable(source, flag)

    def open(
        self,
        source: ModelSource,
        device: str,
        dtype: str,
        progress: Callable[[str], None],
    ) -> RunnableModel:
        """Return a model with its adapter merged."""
        from pytest_unlearn.models.loading import LanguageModel, load

        return LanguageModel(load(source, device, dtype), adapted=False, progress=progress)


ENGINE = TransformersEngine()
