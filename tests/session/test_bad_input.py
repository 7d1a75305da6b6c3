"""Bad input ends in a usage error that names the flag or the line, before any model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.lookup_run import FORGET, UnlearnRun, record_lines, refused, write_lines


@pytest.fixture(autouse=True)
def _no_addopts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unlearn-model=tinny"], "--unlearn-model=tinny: neither a preset (tiny, codeqwen, "),
        *(
            (["--unlearn-model=tiny", f"{flag}="], f"{flag}= has no value; write one, or leave ")
            for flag in (
                "--unlearn-forget",
                "--unlearn-confirm",
                "--unlearn-requests",
                "--unlearn-gate",
            )
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-seed=1_0"],
            "--unlearn-seed=1_0: write a whole number",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-samples=20", "--unlearn-k=1_0"],
            "--unlearn-k=1_0: write whole numbers with commas",
        ),
        (["--unlearn-model=./nowhere"], "--unlearn-model=./nowhere: neither a preset"),
        (
            ["--unlearn-model=tiny", "--unlearn-baseline=x"],
            "--unlearn-baseline=x: neither a preset",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-method=gaa"],
            "--unlearn-method: 'gaa' is not a method; write one of ga, ga+gd, ga+kl, wga, ",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-method=ga:lr"],
            "--unlearn-method: 'lr' is not an option of ga; write name=value with lr, steps",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-method=ga:lr=fast"],
            "--unlearn-method: lr=fast: write float",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-method=ga:steps=0"],
            "--unlearn-method: steps=0 is out of range",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-method=none:lr=1"],
            "--unlearn-method: 'none:lr=1': method none takes no options",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-method=ga:accumulate=33"],
            "--unlearn-method: accumulate=33 is out of range",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-method=ga:optimizer=adamw8bit"],
            "--unlearn-method: optimizer=adamw8bit needs a CUDA device, and this run is on cpu",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-dtype=float16"],
            "--unlearn-dtype=float16: gradients underflow in training; write bfloat16 or float32",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-plant=target=2"],
            "--unlearn-plant: target=2.0 is out of range",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-plant", "tests"],
            "--unlearn-plant: 'tests' is not an option; write name=value, or nothing, and a path "
            "before the flag",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-baseline=tiny", "--unlearn-plant"],
            "--unlearn-plant and --unlearn-baseline exclude each other",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-method=retrain"],
            "--unlearn-method=retrain needs --unlearn-plant: without it the model has the forget "
            "set in its own training data",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-retrained=retrain"],
            "--unlearn-retrained=retrain needs --unlearn-plant: without it the model has the ",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-method=retrain:lr=1"],
            "--unlearn-method: 'retrain:lr=1': method retrain takes no options",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-gate=leak.direct"],
            "--unlearn-gate: 'leak.direct' is not a gate; write METRIC<=LIMIT",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-gate=leak.dirct<=5%"],
            "--unlearn-gate: 'leak.dirct<=5%': unknown metric 'leak.dirct'; known: leak.direct",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-gate=leak.direct<=1%"],
            "--unlearn-gate: leak.direct<=1% needs at least 299 forget people to be shown with "
            "95% confidence, and the data have 128 (in 256 forget probes)",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-gate=passk.retained>=99%"],
            "--unlearn-gate: passk.retained>=99% needs at least 299 tasks",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-gate=leak.direct[kind=email]<=5%"],
            "--unlearn-gate: leak.direct[kind=email]<=5% needs at least 59 forget people",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-forget=none.jsonl"],
            "none.jsonl: the file does not exist",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-rehearsed=none.txt"],
            "none.txt: cannot be read: No such file or directory; give a text file with one owner",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-method=ga", "--unlearn-gate=people.rehearsed>=90%"],
            "; only those whom the method trains on to keep them count, half of the retained ones;",
        ),
        (["--unlearn-model=tiny", "--unlearn-seed=x"], "--unlearn-seed=x: write a whole number"),
        (
            ["--unlearn-model=tiny", "--unlearn-batch-size=0"],
            "--unlearn-batch-size=0: write a whole number of at least 1",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-task-tokens=0"],
            "--unlearn-task-tokens=0: write a whole number of at least 1",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-device=gpu"],
            "--unlearn-device=gpu: write auto, cpu, cuda, cuda:N or map",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-dtype=fp8"],
            "--unlearn-dtype=fp8: write one of auto, float32",
        ),
        (
            ["--unlearn-model=tiny", "--unlearn-probe-outcome=maybe"],
            "--unlearn-probe-outcome=maybe: write one of record, fail",
        ),
    ],
)
def test_flags(pytester: pytest.Pytester, arguments: list[str], message: str) -> None:
    """Each wrong flag is named with what to write instead."""
    assert message in refused(pytester, *arguments)


def test_ini_values_are_checked_too(pytester: pytest.Pytester) -> None:
    """An ini key is read and checked when the session starts, not when it is first used."""
    pytester.makeini("[pytest]\nunlearn_model = tiny\nunlearn_seed = many\n")
    assert "--unlearn-seed=many: write a whole number" in refused(pytester)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "data.jsonl:2: invalid JSON at column 2"),
        ("[1]", "data.jsonl:2: the line is a list; write a JSON object"),
        ('{"prompt": "a"}', 'data.jsonl:2: "value": the key is missing'),
        (
            '{"prompt": "a", "value": "abcdef", "kind": "email", "owner": "o", "x": "y"}',
            'data.jsonl:2: "x": unknown key; use only "prompt", "value"',
        ),
        (
            '{"prompt": "a", "value": 7, "kind": "email", "owner": "o"}',
            'data.jsonl:2: "value": a number is given; write a string',
        ),
        (
            '{"prompt": " ", "value": "abcdef", "kind": "email", "owner": "o"}',
            'data.jsonl:2: "prompt": the text is empty',
        ),
        (
            '{"prompt": "a", "value": "abc", "kind": "email", "owner": "o"}',
            'data.jsonl:2: "value": fewer than 4 characters',
        ),
        (
            '{"prompt": "x=abcdef", "value": "abcdef", "kind": "email", "owner": "o"}',
            'data.jsonl:2: "prompt": it shows the value already; end it where the value starts',
        ),
        (
            '{"prompt": "a", "value": "abcdef", "kind": "e-mail", "owner": "o"}',
            'data.jsonl:2: "kind": it is printed in reports, so it must match',
        ),
        (
            '{"prompt": "a", "value": "abcdef", "kind": "email", "owner": "o", "id": "a@b"}',
            'data.jsonl:2: "id": it is printed in reports, so it must match',
        ),
        (
            '{"prompt": "a", "value": "abcdef", "kind": "email", "owner": "o", "id": "first"}',
            "data.jsonl:2: \"id\": 'first' is already the id of line 1",
        ),
    ],
)
def test_broken_records_are_named_by_line(
    pytester: pytest.Pytester, line: str, message: str
) -> None:
    """The message names file, line and field, and never quotes a value."""
    good = '{"prompt": "a", "value": "abcdef", "kind": "email", "owner": "o", "id": "first"}'
    (pytester.path / "data.jsonl").write_text(f"{good}\n{line}\n")
    error = refused(pytester, "--unlearn-model=tiny", "--unlearn-forget=data.jsonl")
    assert message in error
    assert "abcdef" not in error


def test_too_few_records(pytester: pytest.Pytester) -> None:
    """The default gates need 59 people; the message says so, and what to do with fewer."""
    write_lines(pytester.path / "few.jsonl", record_lines("forget", 10))
    error = refused(pytester, "--unlearn-model=tiny", "--unlearn-forget=few.jsonl")
    assert "leak.direct<=5% needs at least 59 forget people" in error
    assert "--unlearn-population=requests" in error
    assert "the data have 5 (in 10 forget probes)" in error


def test_unlearning_needs_something_to_forget(pytester: pytest.Pytester) -> None:
    """With retained records only, there is nothing that a method could act on."""
    write_lines(pytester.path / "keep.jsonl", record_lines("retain", 10))
    error = refused(
        pytester,
        "--unlearn-model=tiny",
        "--unlearn-retain=keep.jsonl",
        "--unlearn-gate=passk.retained>=90%",
    )
    assert "--unlearn-method=anchored needs records to forget" in error


def test_values_without_another_one(pytester: pytest.Pytester) -> None:
    """DPO needs other values to teach: where none can be made, that is said before loading."""
    rows = record_lines("forget", FORGET)
    for number, row in enumerate(rows):
        row.update(kind="mark", value="é" * (number + 4))
    write_lines(pytester.path / "f.jsonl", rows)
    error = refused(
        pytester,
        "--unlearn-model=tiny",
        "--unlearn-method=dpo",
        "--unlearn-forget=f.jsonl",
        "--unlearn-gate=passk.retained>=90%",
    )
    assert "--unlearn-method=dpo: mark: the method needs 1 other values" in error


def split_files(folder: Path, retain: list[dict[str, str]]) -> list[str]:
    """Write forget records and the given retained ones; return the flags."""
    write_lines(folder / "forget.jsonl", record_lines("forget", FORGET))
    write_lines(folder / "keep.jsonl", retain)
    return [
        "--unlearn-model=tiny",
        "--unlearn-forget=forget.jsonl",
        "--unlearn-retain=keep.jsonl",
        "--unlearn-gate=leak.direct<=10%",
        "--collect-only",
        "-q",
    ]


def test_a_record_to_forget_and_to_keep(pytester: pytest.Pytester) -> None:
    """It cannot be both; both rows are named, and no value."""
    same = {**record_lines("forget", 4)[3], "id": "kept-row", "owner": "somebody"}
    flags = split_files(pytester.path, [*record_lines("retain", 3), same])
    error = refused(pytester, *flags)
    assert "badge-forget-003 is to be forgotten and kept-row is to be kept" in error
    assert same["value"] not in error
    audit = pytester.runpytest_inprocess(*flags, "--unlearn-method=none")
    assert audit.ret == pytest.ExitCode.OK  # nothing is trained


def test_a_value_that_both_splits_share_is_a_warning(pytester: pytest.Pytester) -> None:
    """Two people may share a phone; the run goes on, but whoever reads it should know."""
    shared = {**record_lines("retain", 4)[3], "value": record_lines("forget", 4)[3]["value"]}
    flags = split_files(pytester.path, [*record_lines("retain", 3), shared])
    result = pytester.runpytest_subprocess(*flags)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        ["*1 records to forget have the value of a record to keep: badge-forget-003 and badge-*"]
    )
    result.stdout.no_fnmatch_line(f"*{shared['value']}*")


def test_unseen_people_are_needed_where_they_measure(pytester: pytest.Pytester) -> None:
    """`stop=unseen` without control people has nothing to stop at."""
    flags = split_files(pytester.path, record_lines("retain", 3))
    error = refused(pytester, *flags, "--unlearn-method=ga:stop=unseen")
    assert "stop=unseen measures on people that the model never saw; give --unlearn-con" in error


def test_same_id_in_two_files(pytester: pytest.Pytester) -> None:
    """Ids are unique over all files, since rows are counted by id."""
    rows = record_lines("forget", FORGET)
    write_lines(pytester.path / "a.jsonl", rows)
    write_lines(pytester.path / "b.jsonl", rows)
    error = refused(
        pytester, "--unlearn-model=tiny", "--unlearn-forget=a.jsonl", "--unlearn-forget=b.jsonl"
    )
    assert "id 'email-forget-000' occurs in two files" in error


def make_folder(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_text("{}")
    return path


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no config.json in this folder"),
        (["config.json"], "no weights (*.safetensors) in it"),
        (["config.json", "pytorch_model.bin"], "pickled weights (*.bin, *.pt) run code"),
        (["config.json", "model.safetensors"], "no tokenizer in it"),
    ],
)
def test_incomplete_model_folder(pytester: pytest.Pytester, names: list[str], message: str) -> None:
    """A folder without weights or tokenizer is refused before anything is loaded."""
    folder = make_folder(pytester.path / "model", *names)
    assert message in refused(pytester, f"--unlearn-model={folder}")


def test_a_file_is_no_model(pytester: pytest.Pytester) -> None:
    """A file is refused with a hint at the folder."""
    file = pytester.makefile(".bin", model="")
    assert "this is a file; give the folder" in refused(pytester, f"--unlearn-model={file}")


def test_hub_id_without_network_or_cache(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says where the cache is and what to run elsewhere."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(pytester.path / "hub"))
    result = pytester.runpytest_subprocess("--unlearn-model=Qwen/CodeQwen1.5-7B")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            f"ERROR: --unlearn-model=Qwen/CodeQwen1.5-7B: not in the cache ({pytester.path}/hub)"
            "*hf download Qwen/CodeQwen1.5-7B*"
        ]
    )


def test_more_workers_than_gpus(unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker loads the model, so each needs a GPU of its own."""
    monkeypatch.setattr("pytest_unlearn.session.xdist.visible_gpus", lambda: 1)
    unlearn_run.lookup()
    result = unlearn_run("-n3")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: -n 3: 3 workers need a GPU each, and there is 1; *"])
