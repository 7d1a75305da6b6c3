"""The flags, each also an ini key of the same name; declaring them loads nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from pytest_unlearn.gates.judging import GATE_OPTIONS
from pytest_unlearn.run.settings import Settings, SettingsError

if TYPE_CHECKING:
    import pytest

    from pytest_unlearn.gates.judging import Judging
    from pytest_unlearn.sandbox import Mode
    from pytest_unlearn.tasks.prompts import Sampling
    from pytest_unlearn.unlearning.methods import MethodChoice


# Where bare --unlearn-replay takes completions from.
STORE = "store"


@dataclass(frozen=True, slots=True)
class Flag:
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


FLAGS: tuple[Flag, ...] = (
    Flag(
        "unlearn_model",
        "NAME",
        "the model to test: a preset (tiny, codeqwen, codellama, aixcoder, qwen2.5-coder, "
        "starcoder2, deepseek-coder, smollm2), a model folder, a PEFT adapter folder, a GGUF file, "
        "or a hub id; switches the plugin on; repeatable: each model with each method",
        many=True,
    ),
    Flag(
        "unlearn_method",
        "METHOD",
        "how to unlearn before testing: wga, ga+gd, npo+kl, ... (a wrong name lists them all), "
        "retrain (the planted model's ideal), or none to audit the model as it is; options after a "
        "colon, as in ga+gd:steps=80,lr=1e-4; repeatable (default: wga, or none with "
        "--unlearn-baseline or --unlearn-adapter)",
        many=True,
    ),
    Flag(
        "unlearn_plant",
        "OPTIONS",
        "first fine-tune the forget and retain documents into the model until they leak; options "
        "as in target=0.9,cap=2000,repetitions=1/4/16/64,lr=5e-4, or none (in an ini file: "
        "default); write it after the paths",
        bare="default",
    ),
    Flag(
        "unlearn_baseline",
        "NAME",
        "another model to compare with, instead of the model before unlearning",
    ),
    Flag(
        "unlearn_adapter",
        "DIR",
        "a PEFT adapter of the model: the model with it is tested, and compared with the model "
        "without it",
    ),
    Flag(
        "unlearn_revision",
        "REV",
        "commit, branch or tag of a model of the hub (default: the preset's, or main)",
    ),
    Flag(
        "unlearn_trust_remote_code",
        "NAME",
        "run the Python code that comes with the model of exactly this name (default: never)",
    ),
    Flag(
        "unlearn_forget",
        "FILE",
        "records to be forgotten, JSON Lines, instead of the bundled people; repeatable",
        many=True,
    ),
    Flag(
        "unlearn_retain",
        "FILE",
        "the same for records to be kept; the name of a task set (see --unlearn-tasks) adds its "
        "tasks instead; repeatable",
        many=True,
    ),
    Flag(
        "unlearn_control",
        "FILE",
        "the same for records that the model never saw; repeatable",
        many=True,
    ),
    Flag(
        "unlearn_probes",
        "FAMILIES",
        "how records are asked for, separated by commas: direct (default), cross, nameless, twin, "
        "triplet, prefix, inverse, hop, test, question, lookup, chat, infill, or all",
    ),
    Flag(
        "unlearn_decoding",
        "SCHEME",
        "how an attacker samples, for the probability of a value: temperature=0.8,top_k=40,"
        "top_p=0.95 or a part of it (default: temperature=1)",
    ),
    Flag(
        "unlearn_membership",
        "ATTACKS",
        "membership inference, separated by commas: loss, zlib, min_k, min_k++, gradnorm, "
        "reference, or all, none (default: all that cost no further pass)",
    ),
    Flag(
        "unlearn_retrained",
        "NAME",
        "a model trained without the forget records: what forgetting should look like, for "
        "PrivLeak and the attack reference; with --unlearn-plant, the word retrain makes it by the "
        "planting's recipe",
    ),
    Flag(
        "unlearn_exposure",
        "N",
        "rank each value among N decoys of its kind put in the same prompt (at least 1000 for 10 "
        "bits; default: 0, no exposure)",
    ),
    Flag(
        "unlearn_search",
        "N",
        "look for prompts that leak what no probe leaked: at most N prompts a record, on forget "
        "and, to see what the attack itself does, on control people (default: 0, no search)",
    ),
    Flag(
        "unlearn_tasks",
        "FILE",
        "programming tasks: a file (HumanEval, MBPP, EvalPlus or the own JSON Lines; a Python "
        "file), or sets by name, separated by commas: bundled (default), neighbours (next to "
        "private data), humaneval (extra humaneval); repeatable",
        many=True,
    ),
    Flag(
        "unlearn_k",
        "K,...",
        "measure pass@k for each k; gates judge the first (default: 1)",
    ),
    Flag("unlearn_samples", "N", "solutions drawn for each task (default: 1, greedy)"),
    Flag(
        "unlearn_temperature",
        "T",
        "temperature of the samples (default: 0, greedy, for one sample; 0.8 for more)",
    ),
    Flag(
        "unlearn_top_p",
        "P",
        "share of probability that samples are drawn from (default: 0.95 at a temperature over 0)",
    ),
    Flag(
        "unlearn_task_style",
        "STYLE",
        "how tasks are asked: completion, chat (through the chat template) or infill (default: the "
        "preset's; completion where there is none)",
    ),
    Flag(
        "unlearn_task_tokens",
        "N",
        "tokens that a solution may take (default: 128, or what the canonical solution needs)",
    ),
    Flag(
        "unlearn_check_tasks",
        "",
        "run the canonical solutions first, and stop where one does not pass its own tests or a "
        "wrong one does",
        switch=True,
    ),
    Flag(
        "unlearn_replay",
        "FILE",
        "bare: judge the store's completions again; load, unlearn and generate nothing. With the "
        "--unlearn-report=jsonl of an earlier run: judge its rows by the gates given now, or by "
        "its own, and write reports; run no test. Put the bare flag after the paths",
        bare=STORE,
    ),
    *(Flag(*option) for option in GATE_OPTIONS),
    Flag(
        "unlearn_probe_outcome",
        "record|fail",
        "record: a leak is a result, and gates judge the rate (default); fail: each leak fails "
        "its test",
    ),
    Flag(
        "unlearn_sandbox",
        "auto|strict|off",
        "what is around the solutions of tasks. auto: every layer that this system has (default); "
        "strict: refuse to run unless it has all of them; off: DANGEROUS, solutions can read and "
        "write your files, use the network and start programs",
    ),
    Flag(
        "unlearn_report",
        "FORMAT[:PATH]",
        "write a report: html, jsonl (all cases), csv, summary (JSON), github (job summary) or "
        "modelcard; repeatable",
        many=True,
    ),
    Flag(
        "unlearn_show_values",
        "",
        "write personal values and completions into reports of cases and under failing tests",
        switch=True,
    ),
    Flag(
        "unlearn_fingerprint_key",
        "KEY",
        "16 characters or more; makes the fingerprints of values equal in all runs with this key, "
        "so that reports can be matched; better set in the environment, as UNLEARN_FINGERPRINT_KEY "
        "(default: a new key for each run)",
    ),
    Flag("unlearn_seed", "N", "seed of the unlearning (default: 0)"),
    Flag("unlearn_batch_size", "N", "prompts completed at once (default: 64)"),
    Flag(
        "unlearn_device",
        "DEVICE",
        "auto, cpu, cuda, cuda:N, or map to spread the model over all GPUs (default: auto; map "
        "where the model does not fit one of several)",
    ),
    Flag(
        "unlearn_dtype",
        "DTYPE",
        "auto, float32, bfloat16 or float16 (default: auto; float32 on a CPU, the preset's or "
        "bfloat16 on a GPU)",
    ),
    Flag(
        "unlearn_store",
        "DIR",
        "where completions and unlearned adapters are kept (default: in pytest's cache folder)",
    ),
)


def add_options(parser: pytest.Parser) -> None:
    """Declare all flags and ini keys; nothing is read here."""
    group = parser.getgroup("unlearn", "has the model forgotten, and can it still code?")
    for option in FLAGS:
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


def given(config: pytest.Config, name: str) -> Any:
    """Return what the command line gives, else the ini file, else None."""
    value = config.getoption(name)
    return value if value is not None else config.getini(name)


T = TypeVar("T")

# A key given here stands in no list of processes.
FINGERPRINT_KEY_VARIABLE = "UNLEARN_FINGERPRINT_KEY"
_SHORTEST_KEY = 16


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
    from pytest_unlearn.unlearning.training_options import MethodError

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
    from pytest_unlearn.unlearning.training_options import MethodError, parse_planting

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
    from pytest_unlearn.gates.gate import GateError
    from pytest_unlearn.gates.judging import read_judging
    from pytest_unlearn.gates.saved_runs import BaselineError

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
