"""`--unlearn-plan`: what a run would do, and what its gates allow, before anything is paid for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pytest_unlearn.gates.gate import parse_gate
from pytest_unlearn.gates.planning import plan_gate
from pytest_unlearn.gates.verdicts import Verdict, judge
from pytest_unlearn.models.presets import presets
from pytest_unlearn.run.estimate import count_bytes, model_size
from tests.support.gate_rows import forget_rows, measured, task
from tests.support.lookup_run import UnlearnRun, record_lines, write_lines

LARGE = [name for name, preset in presets().items() if preset.unlearn_gib > 15]


def test_plan_of_small_data(unlearn_run: UnlearnRun) -> None:
    """Cases, chunks, tokens, gates; nothing is generated, nothing collected, exit code 0."""
    unlearn_run.lookup()
    unlearn_run.pytester.makepyfile(test_never="raise RuntimeError('collected')")
    result = unlearn_run("--unlearn-plan", "--unlearn-gate=leak.direct<=20%", "test_never.py")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "unlearn: model tiny, *gates 1",
            "models to run: 2; tokens counted by the model's tokenizer",
            "CPU, * cores: about * MB of memory and * (3.4 M parameters, 32 bits each)",
            "GPU: about *",
            "on each model * cases * chunks * prompt tokens * new tokens, at most",
            "direct probes *120 *8 *",
            "tasks *30 *2 *",
            "gate * cases * people or tasks * needed * may leak or be lost",
            "leak.direct<=20% * 60 * 30 * 14 * 4 of 60",
        ]
    )
    assert "collected" not in result.stdout.str()
    assert unlearn_run.generated() == []
    flags = ["--unlearn-device=cpu", "--unlearn-method=none", "--unlearn-stop=curtail"]
    cpu = unlearn_run("--unlearn-plan", *flags)
    assert not list(unlearn_run.pytester.path.rglob("settled-*"))
    cpu.stdout.fnmatch_lines(["models to run: 1;*", "CPU, *"])
    cpu.stdout.no_fnmatch_line("GPU*")


def test_plan_of_a_7b_preset_that_is_not_here(pytester: pytest.Pytester) -> None:
    """Planting, unlearning, probes and attacks, by the published configuration."""
    result = pytester.runpytest_inprocess(
        "--unlearn-model=codeqwen",
        "--unlearn-plan",
        "--unlearn-plant",
        "--unlearn-method=ga+kl:checkpointing=true,accumulate=8",
        "--unlearn-attacks=relearn,int4",
        "--unlearn-device=cuda",
    )
    result.stdout.fnmatch_lines(
        [
            "models to run: 2; tokens estimated (3.5 bytes each)",
            "GPU: about * GB of memory and * (* M parameters, by the preset's configuration, 16*",
            "GPU * weights * trained, with optimizer * passes * memory * time, at most",
            "plant *14.5 GB *1.4 GB * GB *",
            "unlearn by ga+kl *14.5 GB *1.4 GB * MB *",
            "probes and tasks *14.5 GB *0 MB *",
            "attacks *14.5 GB *43.5 GB *",
        ]
    )


@pytest.mark.parametrize("name", LARGE)
def test_size_of_a_preset_that_is_not_here_is_its_configurations(name: str) -> None:
    size = model_size(name)
    assert size is not None
    assert not size.here
    assert size.targets == presets()[name].lora_targets
    assert 6.5e9 < size.parameters < 8e9


def test_plan_refuses_what_a_run_would_refuse(pytester: pytest.Pytester) -> None:
    impossible = pytester.runpytest_inprocess(
        "--unlearn-model=tiny", "--unlearn-plan", "--unlearn-gate=leak.direct<=1%"
    )
    assert impossible.ret == pytest.ExitCode.USAGE_ERROR
    impossible.stderr.fnmatch_lines(["ERROR: *needs at least 299 forget people*"])
    nameless = pytester.runpytest_inprocess("--unlearn-plan")
    assert nameless.ret == pytest.ExitCode.USAGE_ERROR
    nameless.stderr.fnmatch_lines(["ERROR: --unlearn-plan: name a model*"])


def test_plan_imports_no_torch(pytester: pytest.Pytester) -> None:
    """The point of a plan is to cost nothing."""
    script = (
        "import sys, pytest\n"
        "code = pytest.main(['--unlearn-model=tiny', '--unlearn-plan'])\n"
        "print('loaded', sorted({'torch', 'transformers'} & set(sys.modules)), int(code))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=pytester.path, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "loaded [] 0", done.stderr


def test_sizes_are_read_from_headers() -> None:
    """The tiny model: 4 layers of 2 x 4 heads of 64 values a token in the cache."""
    size = model_size("tiny")
    assert size is not None
    assert 3_300_000 < size.parameters < 3_500_000
    assert (size.shape.layers, size.shape.hidden) == (4, 256)
    assert size.shape.cache_bytes(1, 4) == 4 * 2 * 4 * 4 * 64
    assert size.here
    assert size.exact
    assert size.count(["def f(x):\n", "x"])[0] > size.count(["def f(x):\n", "x"])[1] >= 1
    assert model_size("nobody/has-this-model") is None
    assert count_bytes(["x" * 35]) == [10]


@pytest.mark.parametrize(
    "text",
    "leak.direct<=10% leak.drop>=50% leak.direct<=0 passk.retained>=80% passk.drop<=20% "
    "passk.rate>=80%".split(),
)
def test_allowed_is_what_judging_allows(text: str) -> None:
    """One leak or loss more than the plan says, and the gate does not pass."""
    gate, n = parse_gate(text), 100

    def verdict(events: int) -> Verdict:
        rows = forget_rows(n, events)
        if gate.metric.split is None:
            rows = [task(i, "passed", "crash" if i < events else "passed") for i in range(n)]
        return judge(gate, measured(rows)).verdict

    allowed = plan_gate(
        gate, forget_rows(n, 0) + [task(i, "", "") for i in range(n)], confidence=0.95
    ).allowed
    assert allowed is not None
    assert verdict(allowed) is Verdict.PASS
    assert verdict(allowed + 1) is not Verdict.PASS


def test_nothing_is_allowed_where_the_data_are_too_few() -> None:
    assert (
        plan_gate(parse_gate("leak.direct<=1%"), forget_rows(50, 0), confidence=0.95).allowed
        is None
    )
    assert plan_gate(parse_gate("leak.direct<=1%"), [], confidence=0.95).allowed is None


def test_the_plan_names_what_does_not_fit_the_context(pytester: pytest.Pytester) -> None:
    """Before anything is paid for; the tiny model takes 512 tokens."""
    rows = record_lines("forget", 4)
    rows[2] = {**rows[2], "id": "long-one", "prompt": "x = 1\n" * 400 + rows[2]["prompt"]}
    write_lines(pytester.path / "forget.jsonl", rows)
    result = pytester.runpytest(
        "--unlearn-model=tiny",
        "--unlearn-forget=forget.jsonl",
        "--unlearn-plan",
        "--unlearn-gate=leak.direct<=95%",
    )
    result.stdout.fnmatch_lines(
        ["will end in an error, since they do not fit the model's context of 512 *long-one*"]
    )
