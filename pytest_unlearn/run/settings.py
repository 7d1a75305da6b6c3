"""What a run was asked to do: `Settings`, and what can be refused before any model is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_unlearn.gates.judging import Judging
    from pytest_unlearn.models.sampling import DecodingScheme
    from pytest_unlearn.sandbox import Mode
    from pytest_unlearn.tasks.prompts import Sampling
    from pytest_unlearn.unlearning.methods import MethodChoice
    from pytest_unlearn.unlearning.training_options import PlantOptions


# What `-k` can find; anything else in a name becomes a hyphen in a test's id.
_NOT_IN_IDS = re.compile(r"[^\w.+:-]+", re.ASCII)


class SettingsError(ValueError):
    """A flag or ini key is wrong; the message names it and says what to write."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the user chose, checked; made only when a model was named."""

    model: str
    baseline: str | None
    method: MethodChoice
    plant: PlantOptions | None
    forget: tuple[Path, ...]
    retain: tuple[Path, ...]
    control: tuple[Path, ...]
    probes: tuple[str, ...]
    decoding: DecodingScheme
    membership: tuple[str, ...]
    retrained: str | None
    exposure: int
    search: int
    tasks: tuple[Path | str, ...]
    sampling: Sampling
    check_tasks: bool
    replay: bool
    judging: Judging
    fail_on_leak: bool
    seed: int
    batch_size: int
    device: str
    dtype: str
    store: Path
    adapter: Path | None = None
    revision: str | None = None
    trusted: str | None = None
    sandbox: Mode = "auto"
    sandbox_imports: tuple[str, ...] = ()
    reports: tuple[str, ...] = ()
    show_values: bool = False
    fingerprint_key: str | None = field(default=None, repr=False)

    @property
    def compares_two_states(self) -> bool:
        """Tell whether base and tested model differ; a mere audit has one model."""
        others = (self.method.method, self.method.retrains or None, self.baseline, self.adapter)
        return any(other is not None for other in others)


@dataclass(frozen=True, slots=True)
class Pair:
    """A model and the method that it is unlearned by, with the settings of this pair alone.

    `model` is a preset's name, or the last part of a path or hub id, with a number where two end
    alike; `method` is as the user wrote it. `alone`: the grid has no other pair, and nothing needs
    to name it.
    """

    model: str
    method: str
    alone: bool
    settings: Settings = field(repr=False)

    @property
    def label(self) -> str:
        """The pair's name in tables, gates and reports."""
        return f"{self.model}/{self.method}"

    @property
    def id(self) -> str:
        """The pair's name in ids of tests."""
        return _NOT_IN_IDS.sub("-", f"{self.model}-{self.method}")

    def named(self, gate: str) -> str:
        """Return a gate's name, with the pair where there are others."""
        return gate if self.alone else f"{gate} @ {self.label}"


def check_models(settings: Settings) -> None:
    """Raise SettingsError for flags about models that exclude each other."""
    if settings.adapter is not None and settings.method.method is not None:
        raise SettingsError(
            f"--unlearn-adapter={settings.adapter} is tested as it is, and --unlearn-method="
            f"{settings.method.name} would train another one: leave the method out, or start from "
            f"the adapted model by --unlearn-model={settings.adapter}"
        )
    if settings.trusted not in (None, settings.model, settings.baseline, settings.retrained):
        raise SettingsError(
            f"--unlearn-trust-remote-code={settings.trusted}: no model of this run has that name; "
            f"write what --unlearn-model names, {settings.model}"
        )
