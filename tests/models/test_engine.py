"""Abilities are declared, or follow from what is there; what is wrong is named."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch

from pytest_unlearn.core import extensions
from pytest_unlearn.core.errors import UserError
from pytest_unlearn.models import engine
from pytest_unlearn.models.engine import METHODS, abilities_of, engine_named
from pytest_unlearn.models.generation import TooLongError
from pytest_unlearn.models.loading import LanguageModel, Weights


class Completes:
    def complete(self, prompts: list[str], max_new_tokens: int = 64) -> list[str]:
        return ["" for _ in prompts]


def test_a_transformers_model_can_do_everything(llama: Weights) -> None:
    """And has a method for each."""
    model = LanguageModel(llama, adapted=False)
    assert abilities_of(model) == frozenset(METHODS) | {"ends"}
    assert model.context() == 256
    states = model.hidden_states(["abc", "x"], depth=0.5)
    assert [tuple(state.shape) for state in states] == [(4, 32), (2, 32)]
    ids = torch.tensor([llama.tokenizer("abc")["input_ids"]])
    inner: Any = llama.model
    with torch.inference_mode():
        every = inner(input_ids=ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(states[0], every[1][0])
    with pytest.raises(TooLongError, match="a text of 301 tokens does not fit"):
        model.hidden_states(["x" * 300])


def test_abilities_that_nobody_declared_follow_from_methods() -> None:
    """A model that completes and nothing else is enough."""
    assert abilities_of(Completes()) == {"generate"}
    model: Any = Completes()
    model.score = lambda examples, scheme: []
    assert abilities_of(model) == {"generate", "scores", "z_scores"}
    model.abilities = ("generate",)  # it has the method, and does not vouch for it
    assert abilities_of(model) == {"generate"}


@pytest.mark.parametrize(
    ("abilities", "message"),
    [
        (["telepathy"], "declares the ability 'telepathy'; known are alternatives, chat"),
        (["scores"], r"declares the ability scores, and has no score\(\)"),
    ],
)
def test_abilities_that_cannot_be(abilities: list[str], message: str) -> None:
    """Named before anything is asked of the model."""
    model: Any = Completes()
    model.abilities = abilities
    with pytest.raises(UserError, match=message):
        abilities_of(model)
    with pytest.raises(UserError, match=r"class NoneType has no complete\("):
        abilities_of(None)


class Mine:
    name = "mine"
    abilities = frozenset({"generate"})

    def configured(self, text: str) -> Mine:
        raise UserError("no options")

    def key(self) -> dict[str, Any]:
        return {"mine": 1}

    def check(self, source: Any, flag: str) -> None:
        """Take every model."""

    def open(self, source: Any, device: str, dtype: str, progress: Any) -> Completes:
        return Completes()


MINE = Mine()
NONE = 3


def test_engines_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """By entry points, as presets are; a name that nobody has is refused."""

    def points(name: str, value: str) -> None:
        point = EntryPoint(name, value, engine.GROUP)
        monkeypatch.setattr(extensions, "entry_points", lambda group: [point])
        engine.engines.cache_clear()

    try:
        points("mine", f"{__name__}:MINE")
        assert engine_named("mine") is MINE
        with pytest.raises(UserError, match=r"--unlearn-engine=turbo: no .*mine"):
            engine_named("turbo")
        with pytest.raises(UserError, match="--unlearn-engine=mine: no options"):
            engine_named("mine:speed=9")
        for name, value, message in (
            ("transformers", "MINE", "whose name is 'transformers'"),
            ("none", "NONE", "must name a pytest_unlearn.models.engine.Engine"),
            ("gone", "GONE", "has no attribute 'GONE'"),
        ):
            points(name, f"{__name__}:{value}")
            with pytest.raises(UserError, match=message):
                engine.engines()
    finally:
        engine.engines.cache_clear()
