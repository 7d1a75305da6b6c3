"""The grid of a run: each named model with each named method, and the names of these pairs.

A run of one model and one method is a grid of one pair. Each erasure request makes a pair of its
own: the model after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.gates.gate import GateError
from pytest_unlearn.models.endpoint_client import parse_address
from pytest_unlearn.models.engine import is_address
from pytest_unlearn.run.checks import check_models, trustable
from pytest_unlearn.run.settings import Pair, Settings
from pytest_unlearn.session.options import named_methods, named_models, read_settings

if TYPE_CHECKING:
    import pytest

    from pytest_unlearn.run.erasure_requests import Requests
    from pytest_unlearn.unlearning.methods import MethodChoice


def read_grid(config: pytest.Config) -> tuple[Pair, ...]:
    """Return the pairs of an active run, model by model. Raises UserError."""
    settings = read_settings(config)
    models, methods = named_models(config), named_methods(config)
    _check_no_twins("--unlearn-model", models, list(map(_place, models)))
    _check_no_twins("--unlearn-method", [text for text, _ in methods], [m for _, m in methods])
    stages = settings.requests.stages if settings.requests else (None,)
    alone = len(models) * len(methods) * len(stages) == 1
    if not alone:
        _check_grid(settings, len(models))
    return tuple(
        Pair(short, text, alone, _after(_settings_of(settings, models, model, method), stage))
        for model, short in zip(models, short_names(models), strict=True)
        for text, method in methods
        for stage in stages
    )


def _after(settings: Settings, stage: Requests | None) -> Settings:
    """Return the settings of the model after a request, without gates on later requests.

    Raises GateError for a gate on a request that does not exist.
    """
    judging = settings.judging
    if stage is None:
        return settings
    asked = {gate: dict(gate.filters).get("request") for gate in judging.gates}
    for gate, name in asked.items():
        if name not in (None, *stage.names):
            raise GateError(
                f"--unlearn-gate: {gate.text}: no request has this name; there are "
                + ", ".join(stage.names)
            )
    gates = tuple(gate for gate, name in asked.items() if name in (None, *stage.erased))
    return replace(settings, requests=stage, judging=replace(judging, gates=gates))


def _settings_of(
    settings: Settings, models: Sequence[str], model: str, method: MethodChoice
) -> Settings:
    """Return the settings of one pair. Trusting one model's code does not extend to the others."""
    mine = replace(settings, model=model, method=method)
    if mine.trusted is not None and mine.trusted not in trustable(mine):
        others = (replace(mine, model=other) for other in models)
        if any(mine.trusted in trustable(other) for other in others):
            mine = replace(mine, trusted=None)
    check_models(mine)
    return mine


def short_names(models: Sequence[str]) -> list[str]:
    """Return a short, unique name for each model, without a path in it."""
    names: list[str] = []
    for model in models:
        short = last = model.rstrip("/").rpartition("/")[2] or Path(model).resolve().name
        if is_address(model):
            address = parse_address(model, "--unlearn-model")
            short = last = address.model.rpartition("/")[2] or f"{address.host}-{address.port}"
        if last in (".", ".."):
            short = last = Path(model).resolve().name
        number = 1
        while short in names:
            number += 1
            short = f"{last}.{number}"
        names.append(short)
    return names


def _place(model: str) -> str:
    """Return the resolved path of a folder, so that two names of it compare equal, or the name."""
    return str(Path(model).resolve()) if "/" in model and Path(model).exists() else model


def _check_no_twins(flag: str, texts: Sequence[str], meanings: Sequence[object]) -> None:
    for number, meaning in enumerate(meanings):
        first = meanings.index(meaning)
        if first < number:
            same = texts[first] if texts[first] != texts[number] else "it"
            raise UserError(
                f"{flag}={texts[number]}: {same} was already named, and nothing would tell the two "
                "apart; name it once (the command line adds to addopts)"
            )


def _check_grid(settings: Settings, models: int) -> None:
    """Raise UserError for flags that apply to one model, or to one pair."""
    single = {
        "--unlearn-revision": (settings.revision, "is a commit of one model"),
        "--unlearn-adapter": (settings.adapter, "is an adapter of one model"),
    }
    for flag, (value, what) in single.items():
        if value is not None and models > 1:
            raise UserError(
                f"{flag}={value} {what}, and {models} are named; name one with --unlearn-model"
            )
    judging = settings.judging
    for flag, value in {"save": judging.save, "compare": judging.compare}.items():
        if value:
            raise UserError(
                f"--unlearn-{flag}={value} applies to the run of one model, one method and at most "
                "one request; name only one with --unlearn-model and one with --unlearn-method"
            )
