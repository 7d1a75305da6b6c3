"""The flags, each also an ini key of the same name; declaring them loads nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pytest_unlearn.gates.options import GATE_OPTIONS

if TYPE_CHECKING:
    import pytest


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
