"""Flags and ini keys, read into one frozen `Settings`; every fault is named before any model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    import pytest

    from pytest_unlearn.gates.expressions import Gate
    from pytest_unlearn.unlearning.methods import MethodChoice

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

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


_OPTIONS: tuple[_Option, ...] = (
    _Option(
        "unlearn_model",
        "NAME",
        "the model to test: a preset (tiny), a model folder, or a hub id; switches the plugin on",
    ),
    _Option(
        "unlearn_method",
        "METHOD",
        "how to unlearn before testing: ga+kl, npo+gd, rmu, ... (a wrong name lists them all), or "
        "none to audit the model as it is; options after a colon, as in npo+gd:steps=80,lr=1e-4 "
        "(default: ga+gd, or none with --unlearn-baseline)",
    ),
    _Option(
        "unlearn_baseline",
        "NAME",
        "another model to compare with, instead of the model before unlearning",
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
    _Option(
        "unlearn_gate",
        "GATE",
        "a condition of release such as 'leak.direct<=5%%'; repeatable, replaces the default gates",
        many=True,
    ),
    _Option(
        "unlearn_probe_outcome",
        "record|fail",
        "record: a leak is a result, and gates judge the rate (default); fail: each leak fails "
        "its test",
    ),
    _Option("unlearn_seed", "N", "seed of the unlearning (default: 0)"),
    _Option("unlearn_batch_size", "N", "prompts completed at once (default: 64)"),
    _Option("unlearn_device", "DEVICE", "auto, cpu, cuda or cuda:N (default: auto)"),
    _Option(
        "unlearn_dtype",
        "DTYPE",
        "auto, float32, bfloat16 or float16 (default: auto; float32 on a CPU, bfloat16 on a GPU)",
    ),
    _Option(
        "unlearn_store",
        "DIR",
        "where completions and unlearned adapters are kept (default: in pytest's cache folder)",
    ),
)

_DEFAULT_GATES = ("leak.direct<=5%", "leak.indirect<=5%", "passk.retained>=90%")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the user chose, checked; made only when a model was named."""

    model: str
    baseline: str | None
    method: MethodChoice
    forget: tuple[Path, ...]
    retain: tuple[Path, ...]
    control: tuple[Path, ...]
    probes: tuple[str, ...]
    exposure: int
    search: int
    tasks: tuple[Path, ...]
    gates: tuple[Gate, ...]
    fail_on_leak: bool
    seed: int
    batch_size: int
    device: str
    dtype: str
    store: Path

    @property
    def compares_two_states(self) -> bool:
        """Tell whether base and tested model differ; an audit without a baseline has one model."""
        return self.method.method is not None or self.baseline is not None


def add_options(parser: pytest.Parser) -> None:
    """Declare all flags and ini keys; nothing is read here."""
    group = parser.getgroup("unlearn", "has the model forgotten, and can it still code?")
    for option in _OPTIONS:
        group.addoption(
            option.flag,
            dest=option.name,
            metavar=option.metavar,
            action="append" if option.many else "store",
            default=None,
            help=option.help,
        )
        ini_type: Literal["linelist", "string"] = "linelist" if option.many else "string"
        parser.addini(
            option.name,
            help=option.help.replace("%%", "%"),
            type=ini_type,
            default=None,
        )
    parser.addini(
        "unlearn_testpaths",
        help="tests to collect beside the bundled suite when no path is given",
        type="linelist",
        default=[],
    )


def is_active(config: pytest.Config) -> bool:
    """Tell whether a model was named, by flag or ini."""
    return bool(_given(config, "unlearn_model"))


def read_settings(config: pytest.Config) -> Settings:
    """Return the checked settings of an active run. Raises SettingsError."""
    from pytest_unlearn.gates.expressions import GateError, parse_gate
    from pytest_unlearn.probes.families import FamilyError, parse_families
    from pytest_unlearn.unlearning.methods import DEFAULT, NONE, parse_method
    from pytest_unlearn.unlearning.options import MethodError

    base_folder = Path(config.invocation_params.dir)
    baseline = _given(config, "unlearn_baseline")

    def folder_or_file(name: str) -> tuple[Path, ...]:
        return tuple(base_folder / path for path in _given(config, name) or ())

    return Settings(
        model=str(_given(config, "unlearn_model")),
        baseline=baseline,
        method=_checked(
            "--unlearn-method",
            MethodError,
            parse_method,
            _given(config, "unlearn_method") or (NONE if baseline else DEFAULT),
        ),
        forget=folder_or_file("unlearn_forget"),
        retain=folder_or_file("unlearn_retain"),
        control=folder_or_file("unlearn_control"),
        probes=_checked(
            "--unlearn-probes",
            FamilyError,
            parse_families,
            _given(config, "unlearn_probes") or "direct",
        ),
        exposure=_whole(config, "unlearn_exposure", 0, least=0),
        search=_whole(config, "unlearn_search", 0, least=0),
        tasks=folder_or_file("unlearn_tasks"),
        gates=tuple(
            _checked("--unlearn-gate", GateError, parse_gate, text)
            for text in _given(config, "unlearn_gate") or _DEFAULT_GATES
        ),
        fail_on_leak=_choice(config, "unlearn_probe_outcome", ("record", "fail")) == "fail",
        seed=_whole(config, "unlearn_seed", 0, least=0),
        batch_size=_whole(config, "unlearn_batch_size", 64, least=1),
        device=_device(config),
        dtype=_choice(config, "unlearn_dtype", ("auto", "float32", "bfloat16", "float16")),
        store=_store_folder(config, base_folder),
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
    known = value in ("auto", "cpu", "cuda") or (kind == "cuda" and colon and index.isdigit())
    if not known:
        raise SettingsError(f"--unlearn-device={value}: write auto, cpu, cuda or cuda:N")
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
