"""The settings of a run: `Settings`, with one field for each option.

This is the one table of options: a field of `Settings` holds its flag and ini key, help text,
parser, default and role. The command line, `--help`, the reference and the digests follow from it.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_unlearn.core.option import (
    Option,
    Role,
    a_path,
    one_of,
    paths,
    setting,
    switch,
    text,
    texts,
    whole_number,
)
from pytest_unlearn.gates.judging import GATE_OPTIONS
from pytest_unlearn.run import option_values
from pytest_unlearn.run.option_values import SAMPLING_OPTIONS

if TYPE_CHECKING:
    from pytest_unlearn.gates.judging import Judging
    from pytest_unlearn.models.texts import DecodingScheme
    from pytest_unlearn.people.generate import PeopleOptions
    from pytest_unlearn.run.erasure_requests import Requests
    from pytest_unlearn.sandbox import Mode
    from pytest_unlearn.tasks.task_prompts import Sampling
    from pytest_unlearn.unlearning.method import PlantOptions
    from pytest_unlearn.unlearning.methods import MethodChoice

# Where bare --unlearn-replay takes completions from.
STORE = "store"
# What `-k` cannot find: in the id of a test, a hyphen replaces it.
_NOT_IN_IDS = re.compile(r"[^\w.+:-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the user chose, checked. `Settings(model="tiny")` has all the defaults.

    `session.options.read_settings` makes them from a command line, and also reads what several
    options decide together.
    """

    model: str = setting(
        Option(
            "unlearn_model",
            "NAME",
            "the model to test: a preset (tiny, codeqwen, codellama, aixcoder, "
            "qwen2.5-coder, starcoder2, deepseek-coder, smollm2), a model folder, a PEFT "
            "adapter folder, a GGUF file, a hub id, or an endpoint as in "
            "http://127.0.0.1:8000/v1#name; turns the plugin on; "
            "repeatable: each model with each method",
            many=True,
        ),
        role="model",
    )
    method: MethodChoice = setting(
        Option(
            "unlearn_method",
            "METHOD",
            "how to unlearn before testing: anchored, wga, ga+gd, ... (a wrong name lists "
            "them all), retrain (train the planted model again without the people to forget), or "
            "none to audit the model as it is; options after a colon, as in "
            "ga+gd:steps=80,lr=1e-4; repeatable (default: anchored, or none with "
            "--unlearn-baseline or --unlearn-adapter)",
            many=True,
        ),
        factory=option_values.default_method,
        role="model",
    )
    plant: PlantOptions | None = setting(
        Option(
            "unlearn_plant",
            "OPTIONS",
            "first fine-tune the forget and retain documents into the model until they "
            "leak; options as in target=0.9,cap=2000,repetitions=1/4/16/64,lr=5e-4, or "
            "none (in an ini file: default); write it after the paths",
            bare="default",
            read=option_values.planting,
        ),
        default=None,
        role="model",
    )
    baseline: str | None = setting(
        Option(
            "unlearn_baseline",
            "NAME",
            "another model to compare with, instead of the model before unlearning",
            read=text,
        ),
        default=None,
        role="model",
    )
    adapter: Path | None = setting(
        Option(
            "unlearn_adapter",
            "DIR",
            "a PEFT adapter: test the model with it, and compare with the model without it",
            read=a_path,
        ),
        default=None,
        role="model",
    )
    revision: str | None = setting(
        Option(
            "unlearn_revision",
            "REV",
            "commit, branch or tag of a model on the hub (default: the preset's, or main)",
            read=text,
        ),
        default=None,
        role="model",
    )
    trusted: str | None = setting(
        Option(
            "unlearn_trust_remote_code",
            "NAME",
            "run the Python code that comes with the model of exactly this name (default: do not "
            "run any)",
            read=text,
        ),
        default=None,
        role="model",
    )
    forget: tuple[Path, ...] = setting(
        Option(
            "unlearn_forget",
            "[NAME:]FILE",
            "records to forget, as JSON Lines, instead of the bundled people; repeatable. With a "
            "name, each file is an erasure request, unlearned in this order as by "
            "--unlearn-requests",
            many=True,
        ),
        default=(),
        role="data",
    )
    retain: tuple[Path, ...] = setting(
        Option(
            "unlearn_retain",
            "FILE",
            "records to retain, in the same format; the name of a task set (see "
            "--unlearn-tasks) retains its tasks; repeatable",
            many=True,
        ),
        default=(),
        role="data",
    )
    control: tuple[Path, ...] = setting(
        Option(
            "unlearn_control",
            "FILE",
            "records that the model never saw, in the same format; repeatable",
            many=True,
            read=paths,
        ),
        default=(),
        role="data",
    )
    requests: Requests | None = setting(
        Option(
            "unlearn_requests",
            "DIR[:apart]",
            "a folder of erasure requests, one file of people each (DIR/*.jsonl, in the order of "
            "their names), instead of --unlearn-forget: each request is unlearned on the model "
            "that the one before it left, and all earlier ones are probed again; with :apart, each "
            "is unlearned on the original model, to compare requests of different sizes",
            read=option_values.requests,
        ),
        default=None,
        role="model",
    )
    people: PeopleOptions | None = setting(
        Option(
            "unlearn_people",
            "N[:OPTIONS]",
            "generate N people to forget, N to retain and N controls, instead of using the bundled "
            "people; options as in 5000:kinds=email/iban,carriers=files,"
            "locales=de_DE/ja_JP,per_person=3,repetitions=1/4,retain=1000,control=1000,seed=7",
            read=option_values.people,
        ),
        default=None,
        role="data",
    )
    own_names: tuple[str, ...] = setting(
        Option(
            "unlearn_own_names",
            "",
            "your own kinds and carriers with names that resemble a built-in one",
            ini_only=True,
            read=texts,
        ),
        default=(),
        role="show",
    )
    kept_code: tuple[Path, ...] = setting(option_values.KEPT_CODE, default=(), role="model")
    held_out: float = setting(
        Option(
            "unlearn_held_out",
            "SHARE",
            "share of the retained people and tasks that unlearning never sees, for gates to "
            "judge; with 0, gates judge what was trained on, and say so (default: 0.5)",
            read=option_values.share,
        ),
        default=option_values.DEFAULT_SHARE,
        role="model",
    )
    confirm: int | None = setting(
        option_values.CONFIRM,
        default=None,
        role="model",
    )
    rehearsed: tuple[Path, ...] = setting(
        Option(
            "unlearn_rehearsed",
            "FILE",
            "ids, one per line, of people and tasks that a model unlearned elsewhere was trained "
            "to keep: gates judge only the others; repeatable",
            many=True,
            read=paths,
        ),
        default=(),
        role="data",
    )
    probes: tuple[str, ...] = setting(
        Option(
            "unlearn_probes",
            "FAMILIES",
            "how records are probed, separated by commas: direct, cross, nameless, twin, triplet, "
            "prefix, inverse, hop, test, question, lookup, chat, infill, or all (default: direct; "
            "with unlearning also cross, for forget and control people)",
            read=option_values.families,
        ),
        default=(),
        role="measure",
    )
    decoding: DecodingScheme = setting(
        Option(
            "unlearn_decoding",
            "SCHEME",
            "how an attacker samples, for the probability of a value; any of "
            "temperature=0.8,top_k=40,top_p=0.95 (default: temperature=1)",
            read=option_values.decoding,
        ),
        factory=option_values.default_decoding,
        role="measure",
    )
    membership: tuple[str, ...] = setting(
        Option(
            "unlearn_membership",
            "ATTACKS",
            "membership inference attacks, separated by commas: loss, zlib, min_k, min_k++, "
            "gradnorm, reference; or all, or none (default: all that need no extra pass)",
        ),
        factory=option_values.default_membership,
        role="measure",
    )
    retrained: str | None = setting(
        Option(
            "unlearn_retrained",
            "NAME",
            "a model trained without the forget records, which shows what forgetting should look "
            "like; needed for PrivLeak and the membership attack reference; with --unlearn-plant, "
            "write retrain to train one by the recipe of the planting",
            read=text,
        ),
        default=None,
        role="model",
    )
    exposure: int = setting(
        Option(
            "unlearn_exposure",
            "N",
            "rank each value among N decoys of its kind in the same prompt (at least 1000 for 10 "
            "bits; default: 0, no exposure)",
            read=whole_number(least=0),
        ),
        default=0,
        role="measure",
    )
    search: int = setting(
        Option(
            "unlearn_search",
            "N",
            "look for prompts that leak what no probe leaked: at most N prompts per record of the "
            "people to forget, and as many for control people, to see what the search itself "
            "brings out (default: 0)",
            read=whole_number(least=0),
        ),
        default=0,
        role="measure",
    )
    attacks: tuple[str, ...] = setting(
        Option(
            "unlearn_attacks",
            "ATTACKS",
            "what an attacker does to the tested model before it is probed, separated by commas: "
            "int8, int4, nf4, scale0.5, ..., or cheap, all, none (a wrong name lists them; "
            "default: none, or the profile's)",
            read=option_values.attacks,
        ),
        default=(),
        role="measure",
    )
    leak_samples: int = setting(
        Option(
            "unlearn_leak_samples",
            "N",
            "texts sampled for each direct probe, for the gate leak.sampled(K) (default: 0)",
            read=whole_number(least=0),
        ),
        default=0,
        role="measure",
    )
    tasks: tuple[Path | str, ...] = setting(
        Option(
            "unlearn_tasks",
            "FILE",
            "programming tasks: a file (HumanEval, MBPP, EvalPlus or our own JSON Lines; "
            "a Python file), or sets by name, separated by commas: bundled (default), "
            "neighbours (next to private data), humaneval (extra humaneval); repeatable",
            many=True,
        ),
        default=(),
        role="data",
    )
    sampling: Sampling = setting(
        *SAMPLING_OPTIONS,
        factory=option_values.default_sampling,
        role="measure",
    )
    task_timeout: float | None = setting(
        Option(
            "unlearn_task_timeout",
            "SECONDS",
            "time that all tests of one solution may take together (default: 3, and 30 for "
            "EvalPlus, whose canonical solutions take up to 22); a task's own "
            '"timeout" counts first',
            read=option_values.task_timeout,
        ),
        default=None,
        role="measure",
    )
    check_tasks: bool = setting(
        Option(
            "unlearn_check_tasks",
            "",
            "run the canonical solutions first, and stop if one fails its own tests or a wrong "
            "solution passes; list the tasks that a function returning a constant would pass",
            switch=True,
            read=switch,
        ),
        default=False,
        role="show",
    )
    speeds: Path | None = setting(
        Option(
            "unlearn_speeds",
            "FILE",
            "speeds that benchmarks/gpu.py measured, for --unlearn-plan (default: assumed speeds)",
            read=a_path,
        ),
        default=None,
        role="show",
    )
    shard: option_values.Shard | None = setting(
        Option("unlearn_shard", "I/N", "measure only part I of N", read=option_values.shard),
        default=None,
        role="show",
    )
    replay: bool = setting(
        Option(
            "unlearn_replay",
            "FILE",
            "without FILE: judge the stored completions again, without loading a model. With the "
            "file that --unlearn-report=jsonl wrote: judge its rows by the gates given now, or by "
            "its own, and write reports without running a test. Without FILE, write the flag after "
            "the paths",
            bare=STORE,
        ),
        default=False,
        role="show",
    )
    judging: Judging = setting(
        *GATE_OPTIONS,
        factory=option_values.default_judging,
        role="judge",
    )
    fail_on_leak: bool = setting(
        Option(
            "unlearn_probe_outcome",
            "record|fail",
            "record: a leak does not fail its test, and gates judge the rate (default); fail: each "
            "leak fails its test",
            read=option_values.leaks_fail,
        ),
        default=False,
        role="judge",
    )
    sandbox: Mode = setting(
        Option(
            "unlearn_sandbox",
            "auto|strict|off",
            "how solutions of tasks are confined. auto: by every layer that this system has "
            "(default); strict: by all layers, or the run is refused; off: DANGEROUS, solutions "
            "can read and write your files, use the network and start programs",
            read=one_of("auto", "strict", "off"),
        ),
        default="auto",
        role="measure",
    )
    sandbox_imports: tuple[str, ...] = setting(
        Option(
            "unlearn_sandbox_imports",
            "",
            "installed packages that the solutions of tasks may import, such as numpy",
            ini_only=True,
            read=texts,
        ),
        default=(),
        role="measure",
    )
    reports: tuple[str, ...] = setting(
        Option(
            "unlearn_report",
            "FORMAT[:PATH]",
            "write a report: html, jsonl (all cases), csv, summary (JSON), github (job "
            "summary) or modelcard; repeatable",
            many=True,
            read=texts,
        ),
        default=(),
        role="show",
    )
    show_values: bool = setting(
        Option(
            "unlearn_show_values",
            "",
            "show personal values and completions in reports of cases and under failing tests",
            switch=True,
            read=switch,
        ),
        default=False,
        role="show",
    )
    fingerprint_key: str | None = setting(
        Option(
            "unlearn_fingerprint_key",
            "KEY",
            "at least 16 characters; values have the same fingerprint in all runs with this key, "
            "so that you can match reports; better set as the environment variable "
            "UNLEARN_FINGERPRINT_KEY (default: a new key for each run)",
            read=option_values.fingerprint_key,
        ),
        default=None,
        role="show",
    )
    seed: int = setting(
        Option(
            "unlearn_seed", "N", "seed of the unlearning (default: 0)", read=whole_number(least=0)
        ),
        default=0,
        role="model",
    )
    batch_size: int = setting(
        Option(
            "unlearn_batch_size",
            "N",
            "prompts completed at once (default: 64)",
            read=whole_number(least=1),
        ),
        default=64,
        role="measure",
    )
    engine: str = setting(
        Option(
            "unlearn_engine",
            "ENGINE",
            "what runs the models: transformers, vllm (extra vllm), endpoint, or an engine from an "
            "installed package; options after a colon, as in endpoint:concurrency=8,requests=20000 "
            "(default: transformers; endpoint for an address)",
            read=option_values.engine,
        ),
        default="transformers",
        role="model",
    )
    thinking: bool = setting(
        Option(
            "unlearn_thinking",
            "",
            "let chat models think before they answer (default: they answer at once)",
            switch=True,
            read=switch,
        ),
        default=False,
        role="model",
    )
    device: str = setting(
        Option(
            "unlearn_device",
            "DEVICE",
            "auto, cpu, cuda, cuda:N, or map to spread the model over all GPUs (default: "
            "auto, which is map if the model does not fit on one of several GPUs)",
            read=option_values.device,
        ),
        default="auto",
        role="model",
    )
    dtype: str = setting(
        Option(
            "unlearn_dtype",
            "DTYPE",
            "auto, float32, bfloat16 or float16 (default: auto; float32 on a CPU, the "
            "preset's or bfloat16 on a GPU)",
            read=one_of("auto", "float32", "bfloat16", "float16"),
        ),
        default="auto",
        role="model",
    )
    store: Path = setting(
        Option(
            "unlearn_store",
            "DIR",
            "where completions and unlearned adapters are stored (default: pytest's cache folder)",
            read=a_path,
        ),
        default=Path(".unlearn-store"),
        role="show",
    )

    @property
    def compares_two_states(self) -> bool:
        """Return whether base and tested model differ; an audit has only one model."""
        others = (self.method.method, self.method.retrains or None, self.baseline, self.adapter)
        return any(other is not None for other in others)


def names_of_role(*roles: Role) -> tuple[str, ...]:
    """Return the names of the settings that have one of these roles, in their order."""
    return tuple(
        item.name for item in dataclasses.fields(Settings) if item.metadata["role"] in roles
    )


def options_of(name: str) -> tuple[Option, ...]:
    """Return the options that make a setting."""
    (item,) = (item for item in dataclasses.fields(Settings) if item.name == name)
    options: tuple[Option, ...] = item.metadata["options"]
    return options


# Every option, in the order of `--help`.
OPTIONS = tuple(
    option for item in dataclasses.fields(Settings) for option in item.metadata["options"]
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A model and the method that unlearns it, with the settings of this pair.

    `model` is a preset's name, or the last part of a path or hub id, with a number if two are the
    same; `method` is as the user wrote it. `alone`: the grid has no other pair, so nothing needs to
    name it. Each erasure request has a pair of its own: the model after it.
    """

    model: str
    method: str
    alone: bool
    settings: Settings = field(repr=False)

    @property
    def request(self) -> str:
        """The request that was unlearned last; empty in a run without requests."""
        return self.settings.requests.newest if self.settings.requests else ""

    @property
    def label(self) -> str:
        """The pair's name in tables, gates and reports."""
        return "/".join(filter(None, (self.model, self.method, self.request)))

    @property
    def id(self) -> str:
        """The pair's name in ids of tests."""
        return _NOT_IN_IDS.sub("-", self.label)

    def named(self, gate: str) -> str:
        """Return a gate's name, with the pair if there are several."""
        return gate if self.alone else f"{gate} @ {self.label}"
