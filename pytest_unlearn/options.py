"""Flags and ini keys, read into one frozen `Settings`; every fault is named before any model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from pytest_unlearn.gates.options import GATE_OPTIONS

if TYPE_CHECKING:
    import pytest

    from pytest_unlearn.gates.options import Judging
    from pytest_unlearn.models.decoding_scheme import DecodingScheme
    from pytest_unlearn.sandbox import Mode
    from pytest_unlearn.unlearning.methods import MethodChoice
    from pytest_unlearn.unlearning.plant_options import PlantOptions

T = TypeVar("T")


class SettingsError(ValueError):
    """A flag or ini key is wrong; the message names it and says what to write."""


@dataclass(frozen=True, slots=True)
class _Option:
    """One flag and the ini key of the same name."""

    name: str
    metavar: str
    help: str
    many: bool = False
    switch: bool = False
    bare: str | None = None  # what the flag without a value stands for, where it may have none

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


_OPTIONS: tuple[_Option, ...] = (
    _Option(
        "unlearn_model",
        "NAME",
        "the model to test: a preset (tiny, codeqwen, codellama, aixcoder, qwen2.5-coder, "
        "starcoder2, deepseek-coder, smollm2), a model folder, a PEFT adapter folder, a GGUF file, "
        "or a hub id; switches the plugin on",
    ),
    _Option(
        "unlearn_method",
        "METHOD",
        "how to unlearn before testing: ga, ga+gd, ga+kl, retrain (the planted model's ideal), or "
        "none to audit the model as it is; "
        "options after a colon, as in ga+kl:steps=80,lr=1e-4 (default: ga+kl, or none with "
        "--unlearn-baseline or --unlearn-adapter)",
    ),
    _Option(
        "unlearn_plant",
        "OPTIONS",
        "first fine-tune the forget and retain documents into the model until they leak; options "
        "as in target=0.9,cap=2000,repetitions=1/4/16/64,lr=5e-4, or none (in an ini file: "
        "default); write it after the paths",
        bare="default",
    ),
    _Option(
        "unlearn_baseline",
        "NAME",
        "another model to compare with, instead of the model before unlearning",
    ),
    _Option(
        "unlearn_adapter",
        "DIR",
        "a PEFT adapter of the model: the model with it is tested, and compared with the model "
        "without it",
    ),
    _Option(
        "unlearn_revision",
        "REV",
        "commit, branch or tag of a model of the hub (default: the preset's, or main)",
    ),
    _Option(
        "unlearn_trust_remote_code",
        "NAME",
        "run the Python code that comes with the model of exactly this name (default: never)",
    ),
    _Option(
        "unlearn_forget",
        "FILE",
        "records to be forgotten, JSON Lines, instead of the bundled people; repeatable",
        many=True,
    ),
    _Option("unlearn_retain", "FILE", "the same for records to be kept; repeatable", many=True),
    _Option(
        "unlearn_control",
        "FILE",
        "the same for records that the model never saw; repeatable",
        many=True,
    ),
    _Option(
        "unlearn_probes",
        "FAMILIES",
        "how records are asked for, separated by commas: direct (default), cross, nameless, twin, "
        "triplet, prefix, inverse, hop, test, question, lookup, chat, infill, or all",
    ),
    _Option(
        "unlearn_decoding",
        "SCHEME",
        "how an attacker samples, for the probability of a value: temperature=0.8,top_k=40,"
        "top_p=0.95 or a part of it (default: temperature=1)",
    ),
    _Option(
        "unlearn_membership",
        "ATTACKS",
        "membership inference, separated by commas: loss, zlib, min_k, min_k++, gradnorm, "
        "reference, or all, none (default: all that cost no further pass)",
    ),
    _Option(
        "unlearn_retrained",
        "NAME",
        "a model trained without the forget records: what forgetting should look like, for "
        "PrivLeak and the attack reference",
    ),
    _Option(
        "unlearn_exposure",
        "N",
        "rank each value among N decoys of its kind put in the same prompt (at least 1000 for 10 "
        "bits; default: 0, no exposure)",
    ),
    _Option(
        "unlearn_search",
        "N",
        "look for prompts that leak what no probe leaked: at most N prompts a record, on forget "
        "and, to see what the attack itself does, on control people (default: 0, no search)",
    ),
    _Option(
        "unlearn_tasks",
        "FILE",
        "programming tasks, JSON Lines, instead of the bundled ones; repeatable",
        many=True,
    ),
    *(_Option(*option) for option in GATE_OPTIONS),
    _Option(
        "unlearn_probe_outcome",
        "record|fail",
        "record: a leak is a result, and gates judge the rate (default); fail: each leak fails "
        "its test",
    ),
    _Option(
        "unlearn_sandbox",
        "auto|strict|off",
        "what is around the solutions of tasks. auto: every layer that this system has (default); "
        "strict: refuse to run unless it has all of them; off: DANGEROUS, solutions can read and "
        "write your files, use the network and start programs",
    ),
    _Option("unlearn_seed", "N", "seed of the unlearning (default: 0)"),
    _Option("unlearn_batch_size", "N", "prompts completed at once (default: 64)"),
    _Option(
        "unlearn_device",
        "DEVICE",
        "auto, cpu, cuda, cuda:N, or map to spread the model over all GPUs (default: auto; map "
        "where the model does not fit one of several)",
    ),
    _Option(
        "unlearn_dtype",
        "DTYPE",
        "auto, float32, bfloat16 or float16 (default: auto; float32 on a CPU, the preset's or "
        "bfloat16 on a GPU)",
    ),
    _Option(
        "unlearn_store",
        "DIR",
        "where completions and unlearned adapters are kept (default: in pytest's cache folder)",
    ),
)


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
    tasks: tuple[Path, ...]
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

    @property
    def compares_two_states(self) -> bool:
        """Tell whether base and tested model differ; a mere audit has one model."""
        others = (self.method.method, self.method.retrains or None, self.baseline, self.adapter)
        return any(other is not None for other in others)


def add_options(parser: pytest.Parser) -> None:
    """Declare all flags and ini keys; nothing is read here."""
    group = parser.getgroup("unlearn", "has the model forgotten, and can it still code?")
    for option in _OPTIONS:
        given: dict[str, Any] = {"action": "store_true"}
        if not option.switch:
            action = "append" if option.many else "store"
            given = {"action": action, "metavar": option.metavar}
        if option.bare:
            given |= {"nargs": "?", "const": option.bare}
        group.addoption(option.flag, dest=option.name, default=None, help=option.help, **given)
        ini_type: Literal["linelist", "string", "bool"] = "string"
        ini_type = "linelist" if option.many else "bool" if option.switch else ini_type
        parser.addini(
            option.name,
            help=option.help.replace("%%", "%"),
            type=ini_type,
            default=None,
        )
    group.addoption(
        "--unlearn-plan",
        action="store_true",
        help="print what a run would do and need, and what each gate allows, and exit; loads no "
        "model",
    )
    group.addoption(
        "--unlearn-metrics",
        action="store_true",
        help="print the metrics that gates can use, and the profiles, and exit; needs no model",
    )
    parser.addini(
        "unlearn_testpaths",
        help="tests to collect beside the bundled suite when no path is given",
        type="linelist",
        default=[],
    )
    parser.addini(
        "unlearn_sandbox_imports",
        help="installed packages that the solutions of tasks may import, such as numpy",
        type="args",
        default=[],
    )


def is_active(config: pytest.Config) -> bool:
    """Tell whether a model was named, by flag or ini."""
    return bool(_given(config, "unlearn_model"))


def read_settings(config: pytest.Config) -> Settings:
    """Return the checked settings of an active run. Raises SettingsError."""
    from pytest_unlearn.leaks.membership import AttackError, parse_attacks
    from pytest_unlearn.models.decoding_scheme import DecodingError, parse_scheme
    from pytest_unlearn.probes.families import FamilyError, parse_families
    from pytest_unlearn.unlearning.methods import DEFAULT, NONE, parse_method
    from pytest_unlearn.unlearning.options import MethodError
    from pytest_unlearn.unlearning.plant_options import parse_planting

    base_folder = Path(config.invocation_params.dir)
    judging = _judging(config)
    fail_on_leak = _choice(config, "unlearn_probe_outcome", ("record", "fail")) == "fail"
    if judging.curtail and fail_on_leak:
        raise SettingsError(
            "--unlearn-stop=curtail leaves cases out, and --unlearn-probe-outcome=fail wants to "
            "see each leak; leave one of them out"
        )
    baseline = _given(config, "unlearn_baseline")
    retrained = _given(config, "unlearn_retrained")
    adapter = _given(config, "unlearn_adapter")
    plant = _given(config, "unlearn_plant")

    def folder_or_file(name: str) -> tuple[Path, ...]:
        return tuple(base_folder / path for path in _given(config, name) or ())

    settings = Settings(
        model=str(_given(config, "unlearn_model")),
        baseline=baseline,
        method=_checked(
            "--unlearn-method",
            MethodError,
            parse_method,
            _given(config, "unlearn_method") or (NONE if baseline or adapter else DEFAULT),
        ),
        plant=_checked("--unlearn-plant", MethodError, parse_planting, plant) if plant else None,
        forget=folder_or_file("unlearn_forget"),
        retain=folder_or_file("unlearn_retain"),
        control=folder_or_file("unlearn_control"),
        probes=_checked(
            "--unlearn-probes",
            FamilyError,
            parse_families,
            _given(config, "unlearn_probes") or "direct",
        ),
        decoding=_checked(
            "--unlearn-decoding",
            DecodingError,
            parse_scheme,
            _given(config, "unlearn_decoding") or "",
        ),
        membership=_checked(
            "--unlearn-membership",
            AttackError,
            parse_attacks,
            _given(config, "unlearn_membership") or "",
            retrained is not None,
        ),
        retrained=retrained,
        exposure=_whole(config, "unlearn_exposure", 0, least=0),
        search=_whole(config, "unlearn_search", 0, least=0),
        tasks=folder_or_file("unlearn_tasks"),
        judging=judging,
        fail_on_leak=fail_on_leak,
        seed=_whole(config, "unlearn_seed", 0, least=0),
        batch_size=_whole(config, "unlearn_batch_size", 64, least=1),
        device=_device(config),
        dtype=_choice(config, "unlearn_dtype", ("auto", "float32", "bfloat16", "float16")),
        store=_store_folder(config, base_folder),
        adapter=base_folder / str(adapter) if adapter else None,
        revision=_given(config, "unlearn_revision") or None,
        trusted=_given(config, "unlearn_trust_remote_code") or None,
        sandbox=cast("Mode", _choice(config, "unlearn_sandbox", ("auto", "strict", "off"))),
        sandbox_imports=tuple(config.getini("unlearn_sandbox_imports")),
    )
    _check_models(settings)
    return settings


def _check_models(settings: Settings) -> None:
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


def _given(config: pytest.Config, name: str) -> Any:
    """Return what the command line gives, else the ini file, else None."""
    value = config.getoption(name)
    return value if value is not None else config.getini(name)


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


def _judging(config: pytest.Config) -> Judging:
    from pytest_unlearn.gates.baselines import BaselineError
    from pytest_unlearn.gates.expressions import GateError
    from pytest_unlearn.gates.options import read_judging

    try:
        return read_judging(lambda name: _given(config, name), config.rootpath / "pyproject.toml")
    except (GateError, BaselineError) as error:
        raise SettingsError(str(error)) from error


def _choice(config: pytest.Config, name: str, choices: Sequence[str]) -> str:
    value = _given(config, name) or choices[0]
    if value not in choices:
        flag = "--" + name.replace("_", "-")
        raise SettingsError(f"{flag}={value}: write one of {', '.join(choices)}")
    return str(value)


def _whole(config: pytest.Config, name: str, default: int, least: int) -> int:
    value = _given(config, name)
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
    value = str(_given(config, "unlearn_device") or "auto")
    kind, colon, index = value.partition(":")
    known = value in ("auto", "cpu", "cuda", "map") or (
        kind == "cuda" and colon and index.isdigit()
    )
    if not known:
        raise SettingsError(f"--unlearn-device={value}: write auto, cpu, cuda, cuda:N or map")
    return value


def _store_folder(config: pytest.Config, base_folder: Path) -> Path:
    given = _given(config, "unlearn_store")
    if given:
        return base_folder / str(given)
    cache = getattr(config, "cache", None)
    if cache is not None:
        return Path(cache.mkdir("unlearn"))
    # Without pytest's cache plugin there is no folder of its own; a temporary one would forget
    # everything, so a hidden folder beside the tests serves.
    return config.rootpath / ".unlearn-store"
