"""Flags and ini keys, read into one frozen `Settings`; every fault is named before any model."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pytest_unlearn.flags import STORE, given

if TYPE_CHECKING:
    import pytest

    from pytest_unlearn.gates.options import Judging
    from pytest_unlearn.models.sampling import DecodingScheme
    from pytest_unlearn.sandbox import Mode
    from pytest_unlearn.tasks.prompts import Sampling
    from pytest_unlearn.unlearning.methods import MethodChoice
    from pytest_unlearn.unlearning.plant_options import PlantOptions

T = TypeVar("T")

# A key given here stands in no list of processes.
FINGERPRINT_KEY_VARIABLE = "UNLEARN_FINGERPRINT_KEY"
_SHORTEST_KEY = 16


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


def is_active(config: pytest.Config) -> bool:
    """Tell whether a model was named, by flag or ini."""
    return bool(given(config, "unlearn_model"))


def replays(config: pytest.Config) -> bool:
    """Tell whether an earlier run is to be judged again, by flag or ini."""
    return given(config, "unlearn_replay") not in (None, "", STORE)


def named_models(config: pytest.Config) -> list[str]:
    """Return the models that were named, by flag or ini."""
    return [str(name) for name in given(config, "unlearn_model")]


def named_methods(config: pytest.Config) -> list[tuple[str, MethodChoice]]:
    """Return the methods that were named, as written and as read. Raises SettingsError."""
    from pytest_unlearn.unlearning.methods import DEFAULT, NONE, parse_method
    from pytest_unlearn.unlearning.options import MethodError

    audits = given(config, "unlearn_baseline") or given(config, "unlearn_adapter")
    texts = given(config, "unlearn_method") or [NONE if audits else DEFAULT]
    return [
        (text.strip(), _checked("--unlearn-method", MethodError, parse_method, text))
        for text in texts
    ]


def read_settings(config: pytest.Config) -> Settings:
    """Return the checked settings of an active run, of the first model and method that are named.

    `grid.read_grid` makes those of all. Raises SettingsError.
    """
    from pytest_unlearn.leaks.membership import AttackError, parse_attacks
    from pytest_unlearn.models.sampling import DecodingError, parse_scheme
    from pytest_unlearn.probes.families import FamilyError, parse_families
    from pytest_unlearn.tasks.sets import set_names
    from pytest_unlearn.unlearning.options import MethodError
    from pytest_unlearn.unlearning.plant_options import parse_planting

    base_folder = Path(config.invocation_params.dir)
    judging = judging_of(config)
    fail_on_leak = _choice(config, "unlearn_probe_outcome", ("record", "fail")) == "fail"
    if judging.curtail and fail_on_leak:
        raise SettingsError(
            "--unlearn-stop=curtail leaves cases out, and --unlearn-probe-outcome=fail wants to "
            "see each leak; leave one of them out"
        )
    baseline = given(config, "unlearn_baseline")
    retrained = given(config, "unlearn_retrained")
    adapter = given(config, "unlearn_adapter")
    plant = given(config, "unlearn_plant")

    def folder_or_file(name: str) -> tuple[Path, ...]:
        return tuple(base_folder / path for path in given(config, name) or ())

    # A task set's name, for tasks or as what is to be retained; anything else is a file.
    kept = {name: set_names(name) for name in given(config, "unlearn_retain") or ()}
    tasks: list[Path | str] = [name for names in kept.values() for name in names or ()]
    for value in given(config, "unlearn_tasks") or ():
        tasks += set_names(value) or (base_folder / value,)

    return Settings(
        model=named_models(config)[0],
        baseline=baseline,
        method=named_methods(config)[0][1],
        plant=_checked("--unlearn-plant", MethodError, parse_planting, plant) if plant else None,
        forget=folder_or_file("unlearn_forget"),
        retain=tuple(base_folder / name for name, names in kept.items() if names is None),
        control=folder_or_file("unlearn_control"),
        probes=_checked(
            "--unlearn-probes",
            FamilyError,
            parse_families,
            given(config, "unlearn_probes") or "direct",
        ),
        decoding=_checked(
            "--unlearn-decoding",
            DecodingError,
            parse_scheme,
            given(config, "unlearn_decoding") or "",
        ),
        membership=_checked(
            "--unlearn-membership",
            AttackError,
            parse_attacks,
            given(config, "unlearn_membership") or "",
            retrained is not None,
        ),
        retrained=retrained,
        exposure=_whole(config, "unlearn_exposure", 0, least=0),
        search=_whole(config, "unlearn_search", 0, least=0),
        tasks=tuple(tasks),
        sampling=_sampling(config),
        check_tasks=bool(given(config, "unlearn_check_tasks")),
        replay=given(config, "unlearn_replay") == STORE,
        judging=judging,
        fail_on_leak=fail_on_leak,
        seed=_whole(config, "unlearn_seed", 0, least=0),
        batch_size=_whole(config, "unlearn_batch_size", 64, least=1),
        device=_device(config),
        dtype=_choice(config, "unlearn_dtype", ("auto", "float32", "bfloat16", "float16")),
        store=_store_folder(config, base_folder),
        adapter=base_folder / str(adapter) if adapter else None,
        revision=given(config, "unlearn_revision") or None,
        trusted=given(config, "unlearn_trust_remote_code") or None,
        sandbox=cast("Mode", _choice(config, "unlearn_sandbox", ("auto", "strict", "off"))),
        sandbox_imports=tuple(config.getini("unlearn_sandbox_imports")),
        reports=tuple(given(config, "unlearn_report") or ()),
        show_values=bool(given(config, "unlearn_show_values")),
        fingerprint_key=_fingerprint_key(config),
    )


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


def _sampling(config: pytest.Config) -> Sampling:
    from pytest_unlearn.tasks.prompts import SamplingError, parse_sampling

    return _checked(
        "--unlearn-samples",
        SamplingError,
        parse_sampling,
        _whole(config, "unlearn_samples", 1, least=1),
        given(config, "unlearn_k"),
        given(config, "unlearn_temperature"),
        given(config, "unlearn_top_p"),
        given(config, "unlearn_task_style") or _task_style(named_models(config)),
        _whole(config, "unlearn_task_tokens", 0, least=0) or None,
    )


def _task_style(models: Sequence[str]) -> str:
    """How the models' presets are asked for solutions; what has no preset continues code.

    Raises SettingsError where they differ: solutions of different prompts are not compared unasked.
    """
    from pytest_unlearn.models.presets import PresetError, presets

    try:
        known = presets()
    except PresetError as error:
        raise SettingsError(str(error)) from error
    styles = {name: known[name].task_style if name in known else "completion" for name in models}
    if len(set(styles.values())) > 1:
        raise SettingsError(
            "the models are asked for solutions in different styles ("
            + ", ".join(f"{name}: {style}" for name, style in styles.items())
            + "); name one for all by --unlearn-task-style"
        )
    return styles[models[0]]


def _checked(
    flag: str, expected: type[Exception], function: Callable[..., T], *arguments: Any
) -> T:
    try:
        return function(*arguments)
    except expected as error:
        message = str(error)
        raise SettingsError(
            message if message.startswith("--") else f"{flag}: {message}"
        ) from error


def judging_of(config: pytest.Config, recorded: Judging | None = None) -> Judging:
    """Return how a run is judged; what is not given is as `recorded`. Raises SettingsError."""
    from pytest_unlearn.gates.baselines import BaselineError
    from pytest_unlearn.gates.expressions import GateError
    from pytest_unlearn.gates.options import read_judging

    try:
        table = config.rootpath / "pyproject.toml"
        return read_judging(lambda name: given(config, name), table, recorded)
    except (GateError, BaselineError) as error:
        raise SettingsError(str(error)) from error


def _choice(config: pytest.Config, name: str, choices: Sequence[str]) -> str:
    value = given(config, name) or choices[0]
    if value not in choices:
        flag = "--" + name.replace("_", "-")
        raise SettingsError(f"{flag}={value}: write one of {', '.join(choices)}")
    return str(value)


def _whole(config: pytest.Config, name: str, default: int, least: int) -> int:
    value = given(config, name)
    if value in (None, ""):
        return default
    flag = "--" + name.replace("_", "-")
    try:
        number = int(value)
    except ValueError:
        raise SettingsError(f"{flag}={value}: write a whole number") from None
    if number < least:
        raise SettingsError(f"{flag}={value}: write a whole number of at least {least}")
    return number


def _device(config: pytest.Config) -> str:
    value = str(given(config, "unlearn_device") or "auto")
    kind, colon, index = value.partition(":")
    known = value in ("auto", "cpu", "cuda", "map") or (
        kind == "cuda" and colon and index.isdigit()
    )
    if not known:
        raise SettingsError(f"--unlearn-device={value}: write auto, cpu, cuda, cuda:N or map")
    return value


def _fingerprint_key(config: pytest.Config) -> str | None:
    key = given(config, "unlearn_fingerprint_key") or os.environ.get(FINGERPRINT_KEY_VARIABLE)
    if key and len(key) < _SHORTEST_KEY:  # the message does not repeat it
        raise SettingsError(
            f"--unlearn-fingerprint-key: write {_SHORTEST_KEY} characters or more; who guesses the "
            "key can find short values (phone numbers) by their fingerprints"
        )
    return str(key) if key else None


def _store_folder(config: pytest.Config, base_folder: Path) -> Path:
    folder = given(config, "unlearn_store")
    if folder:
        return base_folder / str(folder)
    cache = getattr(config, "cache", None)
    if cache is not None:
        return Path(cache.mkdir("unlearn"))
    # Without pytest's cache plugin there is no folder of its own; a temporary one would forget
    # everything, so a hidden folder beside the tests serves.
    return config.rootpath / ".unlearn-store"
