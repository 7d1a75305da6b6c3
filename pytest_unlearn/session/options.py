"""Options of the command line and ini file: declared from the table, read into `Settings`."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytest_unlearn.core.errors import UserError, naming, nearest
from pytest_unlearn.core.option import Given, flag_of, paths, whole_number
from pytest_unlearn.models.engine import ENDPOINT, TRANSFORMERS, is_address
from pytest_unlearn.run.option_values import FINGERPRINT_KEY_VARIABLE
from pytest_unlearn.run.settings import (
    OPTIONS,
    STORE,
    Settings,
    options_of,
)

if TYPE_CHECKING:
    import pytest

    from pytest_unlearn.gates.judging import Judging
    from pytest_unlearn.run.erasure_requests import Requests
    from pytest_unlearn.tasks.task_prompts import Sampling
    from pytest_unlearn.unlearning.methods import MethodChoice

# At the start of a path, which may follow a format: `html:~/report.html`.
_HOME = re.compile(r"\A((?:[\w.-]+:)?)~/")
# What could be the misspelt name of a task set: a word, not a path.
_SET_NAME = re.compile(r"[A-Za-z0-9_+-]+")


@contextlib.contextmanager
def refusals(*others: type[Exception]) -> Iterator[None]:
    """End pytest with a usage error (exit code 4) for a refusal in a block or decorated function.

    The one place of the session that does. `others`: classes that are refusals here as well.
    """
    import pytest

    refused: tuple[type[Exception], ...] = (UserError, *others)
    try:
        yield
    except refused as error:
        raise pytest.UsageError(str(error)) from error


def add_options(parser: pytest.Parser) -> None:
    """Declare all flags and ini keys; nothing is read here."""
    group = parser.getgroup("unlearn", "has the model forgotten, and can it still code?")
    for option in OPTIONS:
        if not option.ini_only:
            arguments: dict[str, Any] = {"action": "store_true"}
            if not option.switch:
                action = "append" if option.many else "store"
                arguments = {"action": action, "metavar": option.metavar}
            if option.bare:
                arguments |= {"nargs": "?", "const": option.bare}
            group.addoption(
                option.flag, dest=option.name, default=None, help=option.help, **arguments
            )
        ini: Literal["args", "linelist", "bool", "string"] = "string"
        if option.ini_only:
            ini = "args"
        elif option.many:
            ini = "linelist"
        elif option.switch:
            ini = "bool"
        parser.addini(option.name, help=option.help.replace("%%", "%"), type=ini, default=None)
    group.addoption(
        "--unlearn-plan",
        action="store_true",
        help="print what a run would do and need, and what each gate allows, then exit without "
        "loading a model",
    )
    group.addoption(
        "--unlearn-metrics",
        action="store_true",
        help="print the metrics that gates can use, and the profiles, then exit; needs no model",
    )
    parser.addini(
        "unlearn_testpaths",
        help="tests to collect besides the bundled suite when no path is given",
        type="linelist",
        default=[],
    )
    parser.addini(
        "unlearn_require_model",
        help="exit with a usage error if no model is named, for example because a variable is not "
        "set in CI",
        type="bool",
        default=False,
    )


@refusals()
def take_extensions(config: pytest.Config) -> None:
    """Ask conftests and plugins for methods, metrics and so on. Raises pytest.UsageError."""
    from pytest_unlearn.core.extensions import give

    extensions = [one for some in config.hook.pytest_unlearn_extensions() for one in some or ()]
    give(extensions)
    if not extensions:
        return
    from pytest_unlearn.attacks.attack import Attack
    from pytest_unlearn.gates.metrics import METRICS, Metric
    from pytest_unlearn.models.presets import Preset
    from pytest_unlearn.reports.formats import ReportFormat
    from pytest_unlearn.unlearning.method import Method

    classes = (Method, Attack, Metric, Preset, ReportFormat)
    metrics: dict[str, Metric] = {}

    def forget() -> None:
        give(())
        for name in metrics:
            del METRICS[name]

    config.add_cleanup(forget)
    for one in extensions:
        if not isinstance(one, classes):
            raise UserError(
                f"pytest_unlearn_extensions returned an object of the class {type(one).__name__}; "
                f"return objects of {', '.join(each.__name__ for each in classes)}"
            )
        if isinstance(one, Metric):
            if one.name in METRICS:
                raise UserError(f"{one.name}: there already is a metric with this name")
            metrics[one.name] = METRICS[one.name] = one


@refusals()
def refuse_without_model(config: pytest.Config) -> None:
    """Raise pytest.UsageError if the command line asks for a verdict and names no model."""
    flags = (f"unlearn_{name}" for name in ("gate", "profile", "report", "require_complete"))
    asked = [flag_of(name) for name in flags if config.getoption(name, None) is not None]
    if config.getoption("unlearn_model") is not None:
        asked.append("--unlearn-model=")
    if config.getini("unlearn_require_model"):
        asked.append("unlearn_require_model")
    if asked:
        raise UserError(
            f"{asked[0]} asks for a verdict, but no model is named, so nothing would be tested; "
            "write --unlearn-model=NAME (in CI, check that the variable with its name is set)"
        )


@refusals()
def refuse_misspelt(config: pytest.Config) -> None:
    """Raise pytest.UsageError for an unknown ini key that resembles one of ours.

    pytest only warns, and the gate or file that the key should set would silently be missing.
    """
    known = {*(option.name for option in OPTIONS), "unlearn_testpaths", "unlearn_require_model"}
    for name in sorted(() if config.option.help else config._get_unknown_ini_keys()):
        like = nearest(name, known, 0.85)
        if like or name.startswith(("unlearn_", "unlearn-")):
            words = {option.removeprefix("unlearn_"): option for option in known}
            like = like or words.get(nearest(name[len("unlearn_") :], words, 0.6), "")
            advice = f"write {like}" if like else "docs/reference/flags.md has them all"
            where = config.inipath.name if config.inipath else "-o"
            raise UserError(f"{where}: unknown key {name}; {advice}")


def given(config: pytest.Config, name: str) -> Any:
    """Return the value of an option from the command line, else from the ini file, else None.

    `~/` is the home folder: shells leave it alone after a flag's `=`, and ini files know no shell.
    """
    value = config.getoption(name, None)
    return _at_home(value if value is not None else config.getini(name))


def _at_home(value: Any) -> Any:
    if isinstance(value, str):
        return _HOME.sub(lambda match: match[1] + os.path.expanduser("~/"), value)
    return [_at_home(item) for item in value] if isinstance(value, list) else value


def _folder(config: pytest.Config, name: str) -> Path:
    """Return the folder that a relative path starts from: that of the ini file with the path, or
    the one pytest was started in."""
    overridden = any(str(o).startswith(f"{name}=") for o in config.option.override_ini or ())
    if config.getoption(name, None) is None and config.inipath is not None and not overridden:
        return config.inipath.parent
    return Path(config.invocation_params.dir)


def left_by(config: pytest.Config) -> str:
    """Return the flags of this command line that leave tests out, as a message names them."""
    import pytest

    option = config.option
    flags = {
        "the paths": config.args_source is pytest.Config.ArgsSource.ARGS,
        "-k": option.keyword,
        "-m": option.markexpr,
        "--lf": getattr(option, "lf", False),
        "--deselect": option.deselect,
        "--ignore": option.ignore or option.ignore_glob,
        "-x": option.maxfail,
    }
    named = [flag for flag, used in flags.items() if used]
    return " and ".join(named) or "what selects tests"


def is_active(config: pytest.Config) -> bool:
    """Return whether a model was named, by flag or ini."""
    return any(named_models(config))


def replays(config: pytest.Config) -> bool:
    """Return whether to judge an earlier run again, by flag or ini."""
    return given(config, "unlearn_replay") not in (None, "", STORE)


def named_models(config: pytest.Config) -> list[str]:
    """Return the models that were named, by flag or ini."""
    return [str(name).strip() for name in given(config, "unlearn_model") or ()]


def named_methods(config: pytest.Config) -> list[tuple[str, MethodChoice]]:
    """Return the methods that were named, as written and as read. Raises UserError."""
    from pytest_unlearn.unlearning.methods import DEFAULT, NONE, parse_method

    audits = (
        given(config, "unlearn_baseline")
        or given(config, "unlearn_adapter")
        or all(map(is_address, named_models(config)))
    )
    texts = given(config, "unlearn_method") or [NONE if audits else DEFAULT]
    with naming("--unlearn-method"):
        return [(text.strip(), parse_method(text)) for text in texts]


def _refuse_empty(config: pytest.Config) -> None:
    """Raise UserError for a flag without its value, as of a variable that is not set in CI.

    Without `--unlearn-forget` the bundled people would be judged, and without a seed of
    `--unlearn-confirm` the same ones again.
    """
    for option in OPTIONS:
        value = config.getoption(option.name, None)
        if value == "" or (isinstance(value, list) and "" in value):
            raise UserError(
                f"{option.flag}= has no value; write one, or leave the flag out (in CI, see "
                "whether its variable is set)"
            )


def read_settings(config: pytest.Config) -> Settings:
    """Return the checked settings of an active run, with the first named model and method.

    `sweep.read_grid` makes the settings of all pairs. Raises UserError.
    """
    _refuse_empty(config)
    chosen: dict[str, Any] = {}
    for name in Settings.__dataclass_fields__:
        for option in options_of(name):
            value = given(config, option.name)
            if option.read is not None and value not in (None, "", [], ()):
                with naming(option.flag):
                    chosen[name] = option.read(
                        Given(option.flag, value, _folder(config, option.name))
                    )
    (fingerprint,) = options_of("fingerprint_key")
    if "fingerprint_key" not in chosen and os.environ.get(FINGERPRINT_KEY_VARIABLE):
        key = os.environ[FINGERPRINT_KEY_VARIABLE]
        assert fingerprint.read is not None
        chosen["fingerprint_key"] = fingerprint.read(Given(fingerprint.flag, key, Path()))
    judging = judging_of(config)
    if judging.curtail and chosen.get("fail_on_leak"):
        raise UserError(
            "--unlearn-stop=curtail leaves cases out, and --unlearn-probe-outcome=fail needs to "
            "see each leak; leave one of them out"
        )
    engine = engine_of(named_models(config), chosen.pop("engine", None))
    if "store" not in chosen:
        chosen["store"] = _store_folder(config)
    if (requests := _named_requests(config)) is not None:
        if "requests" in chosen:
            raise UserError(
                "--unlearn-requests names the people to forget, and so does --unlearn-forget; "
                "leave one of them out"
            )
        chosen["requests"] = requests
    return Settings(
        **chosen | _data(config, requests is not None),
        model=named_models(config)[0],
        engine=engine,
        method=named_methods(config)[0][1],
        membership=_membership(config, engine),
        sampling=_sampling(config),
        replay=given(config, "unlearn_replay") == STORE,
        judging=judging,
        **_attacks(config, judging),
    )


def engine_of(models: Sequence[str], named: str | None) -> str:
    """Return the engine that runs the models: an endpoint for addresses.

    Raises UserError for a named engine that cannot run them, and for models of both kinds.
    """
    remote = [name for name in models if is_address(name)]
    if remote and len(remote) < len(models):
        raise UserError(
            f"--unlearn-model={remote[0]} is an address, and other models are loaded here; test "
            "them in separate runs"
        )
    asked = (named or (ENDPOINT if remote else TRANSFORMERS)).partition(":")[0]
    if remote and asked != ENDPOINT:
        raise UserError(
            f"--unlearn-engine={named} loads models, and --unlearn-model={models[0]} is an "
            "address; leave the flag out"
        )
    if asked == ENDPOINT and not remote:
        raise UserError(
            f"--unlearn-engine={named}: --unlearn-model={models[0]} is not an address; write "
            "--unlearn-model=http://HOST:PORT/v1#NAME"
        )
    return named or asked


def _attacks(config: pytest.Config, judging: Judging) -> dict[str, Any]:
    """Return the setting `attacks` of the profile, if no attacks are named."""
    from pytest_unlearn.attacks.attack import parse_attacks
    from pytest_unlearn.gates.gate import PROFILES

    if judging.profile is None or given(config, "unlearn_attacks"):
        return {}
    return {"attacks": parse_attacks(PROFILES[judging.profile].attacks)}


def _forget(config: pytest.Config) -> Given:
    files = given(config, "unlearn_forget") or ()
    return Given("--unlearn-forget", files, _folder(config, "unlearn_forget"))


def _named_requests(config: pytest.Config) -> Requests | None:
    """Return the requests of `--unlearn-forget=NAME:FILE`. Raises UserError."""
    from pytest_unlearn.run.erasure_requests import named_requests

    return named_requests(_forget(config))


def _data(config: pytest.Config, requests: bool) -> dict[str, tuple[Path | str, ...]]:
    """Return files to forget and to retain, and tasks. The latter two options take the name of a
    task set or a file. `requests`: the files to forget are requests."""
    from pytest_unlearn.tasks.files import set_names

    retained = {name: set_names(name) for name in given(config, "unlearn_retain") or ()}
    tasks: list[Path | str] = [name for names in retained.values() for name in names or ()]
    for value in given(config, "unlearn_tasks") or ():
        tasks += set_names(value) or (_file(config, "unlearn_tasks", value),)
    return {
        "forget": () if requests else paths(_forget(config)),
        "retain": tuple(
            _file(config, "unlearn_retain", name) for name, names in retained.items() if not names
        ),
        "tasks": tuple(tasks),
    }


def _file(config: pytest.Config, name: str, value: str) -> Path:
    """Return a file's path. Raises UserError for a name that is neither a set's nor a file's."""
    from pytest_unlearn.tasks.files import TASK_SETS

    path = _folder(config, name) / value
    words = [word.strip() for word in value.split(",")]
    if path.exists() or not all(_SET_NAME.fullmatch(word) for word in words):
        return path
    unknown = next(word for word in words if word not in TASK_SETS)
    like = nearest(unknown.lower(), TASK_SETS)
    raise UserError(
        f"{flag_of(name)}={value}: {unknown} is neither a task set ({', '.join(TASK_SETS)}) nor a "
        f"file; {f'did you mean {like}?' if like else 'write one of these, or the path of a file'}"
    )


def _membership(config: pytest.Config, engine: str) -> tuple[str, ...]:
    from pytest_unlearn.leaks.membership import parse_attacks
    from pytest_unlearn.models.engine import engine_named

    text = given(config, "unlearn_membership") or ""
    with naming("--unlearn-membership"):
        attacks = parse_attacks(text, given(config, "unlearn_retrained") is not None)
    if engine == TRANSFORMERS or "z_scores" in engine_named(engine).abilities:
        return attacks
    if "min_k++" in text.split(","):
        raise UserError(
            "--unlearn-membership: min_k++ needs the probabilities of the whole vocabulary, and "
            f"--unlearn-engine={engine.partition(':')[0]} gives none; leave it out"
        )
    return tuple(name for name in attacks if name != "min_k++")


def _sampling(config: pytest.Config) -> Sampling:
    from pytest_unlearn.tasks.task_prompts import parse_sampling

    def whole(name: str, default: int, least: int) -> int:
        value = given(config, name)
        if value in (None, ""):
            return default
        return whole_number(least)(Given(flag_of(name), value, Path()))

    style = given(config, "unlearn_task_style") or _task_style(named_models(config))
    with naming("--unlearn-samples"):
        return parse_sampling(
            whole("unlearn_samples", 1, 1),
            given(config, "unlearn_k"),
            given(config, "unlearn_temperature"),
            given(config, "unlearn_top_p"),
            style,
            whole("unlearn_task_tokens", 0, 1) or None,
        )


def _task_style(models: Sequence[str]) -> str:
    """Return the task style of the models' presets; a model without a preset continues code.

    Raises UserError if they differ: solutions to different prompts are only compared on request.
    """
    from pytest_unlearn.models.presets import presets

    known = presets()
    styles = {name: known[name].task_style if name in known else "completion" for name in models}
    if len(set(styles.values())) > 1:
        raise UserError(
            "the models are asked for solutions in different styles ("
            + ", ".join(f"{name}: {style}" for name, style in styles.items())
            + "); name one for all with --unlearn-task-style"
        )
    return styles[models[0]]


def judging_of(config: pytest.Config, recorded: Judging | None = None) -> Judging:
    """Return how a run is judged; defaults come from `recorded`, if given. Raises UserError."""
    from pytest_unlearn.gates.judging import read_judging
    from pytest_unlearn.run.erasure_requests import split_name

    def asked(name: str) -> Any:
        value = given(config, name)
        if name == "unlearn_requests" and not value:  # each with a name of its own
            files = _forget(config)
            return any(split_name(str(text), files.folder) for text in files.value)
        return value

    return read_judging(asked, config.rootpath / "pyproject.toml", recorded)


def _store_folder(config: pytest.Config) -> Path:
    cache = getattr(config, "cache", None)
    if cache is not None:
        try:
            return Path(cache.mkdir("unlearn"))
        except OSError as error:
            from pytest_unlearn.core.store import StoreError

            raise StoreError(
                "--unlearn-store: pytest's cache folder, the default place of the store, cannot "
                f"be made ({error.strerror or type(error).__name__}); write --unlearn-store=DIR "
                "with a folder that you can write to"
            ) from error
    # Without pytest's cache plugin, use a hidden folder beside the tests: a temporary one would
    # lose everything.
    return config.rootpath / ".unlearn-store"
