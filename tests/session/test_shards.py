"""`--unlearn-shard`: a run cut into parts, merged, and judged as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.store import Store
from pytest_unlearn.merge import main as merge_main
from pytest_unlearn.run.noted_runs import check_shards, merge, note_shard
from pytest_unlearn.run.option_values import Shard
from tests.support.lookup_run import UnlearnRun, forget_ids


def run_shard(run: UnlearnRun, shard: str, *flags: str) -> pytest.RunResult:
    """Measure a part into a store of its own."""
    store = f"--unlearn-store={stores(run, shard)[0]}"
    return run(f"--unlearn-shard={shard}", store, "--unlearn-method=none", *flags)


def stores(run: UnlearnRun, *shards: str) -> list[Path]:
    return [run.pytester.path / f"store-{shard.replace('/', '-of-')}" for shard in shards]


def test_merged_shards_are_judged_as_the_whole_run(
    unlearn_run: UnlearnRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each case is measured once, on one of three machines; the verdict is the whole run's."""
    unlearn_run.lookup(leaking=forget_ids(20))
    names = ["1/3", "2/3", "3/3"]
    for name in names:
        result = run_shard(unlearn_run, name)
        assert result.ret == pytest.ExitCode.OK
        result.stdout.fnmatch_lines([f"shard {name}: * cases measured, in *store-*; no verdict: *"])
        result.stdout.no_fnmatch_line("*FOR RELEASE*")
    merged = unlearn_run.pytester.path / "merged"
    assert merge_main([str(merged), *map(str, stores(unlearn_run, *names))]) == 0
    assert "new entries from 3 stores" in capsys.readouterr().out
    written = len(unlearn_run.generated())
    flags = ["--unlearn-replay", "--unlearn-method=none"]
    replay = unlearn_run(f"--unlearn-store={merged}", *flags)
    assert replay.ret == pytest.ExitCode.TESTS_FAILED
    replay.stdout.fnmatch_lines(["leak.direct *20 (33.3%)*FAIL*", "NOT FOR RELEASE: *"])
    assert len(unlearn_run.generated()) == written
    whole = unlearn_run("--unlearn-method=none")
    lines = [line for line in whole.outlines if line.startswith(("leak.", "passk."))]
    replay.stdout.fnmatch_lines(lines)


def test_missing_shards_are_named(unlearn_run: UnlearnRun) -> None:
    unlearn_run.lookup()
    run_shard(unlearn_run, "2/4")
    (store,) = stores(unlearn_run, "2/4")
    flags = ["--unlearn-replay", "--unlearn-method=none"]
    result = unlearn_run(f"--unlearn-store={store}", *flags)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --unlearn-replay: of 4 shards 3 are not in this store: 1/4, 3/4, 4/4;*"]
    )


def test_a_shard_that_was_cut_short_is_named(unlearn_run: UnlearnRun) -> None:
    unlearn_run.lookup()
    result = run_shard(unlearn_run, "1/1", "-k", "add")
    result.stdout.fnmatch_lines(["shard 1/1: 30 cases measured, 120 of its own not run, in *"])
    (store,) = stores(unlearn_run, "1/1")
    replay = unlearn_run(f"--unlearn-store={store}", "--unlearn-replay", "--unlearn-method=none")
    assert replay.ret == pytest.ExitCode.USAGE_ERROR
    replay.stderr.fnmatch_lines(["*shard 1/1 is incomplete: 120 of its cases*"])


def test_shards_have_all_cases_and_none_twice(unlearn_run: UnlearnRun) -> None:
    """The user's own tests are the first shard's."""
    unlearn_run.lookup()
    unlearn_run.pytester.makepyfile(test_own="def test_own(unlearn_model): pass")
    seen: list[str] = []
    for name in ("1/2", "2/2"):
        flags = ["--collect-only", "-q", "--pyargs", "pytest_unlearn.suite", "test_own.py"]
        lines = run_shard(unlearn_run, name, *flags).outlines
        seen += [line for line in lines if "::" in line]
        assert any("test_own" in line for line in lines) == (name == "1/2")
    assert len(seen) == len(set(seen))
    assert sum("[direct-" in line or "[add-" in line for line in seen) == 150


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--unlearn-shard=3", "write which part of how many, as in 3/8"),
        ("--unlearn-shard=0/4", "parts are numbered from 1 to 4"),
        ("--unlearn-shard=5/4", "parts are numbered from 1 to 4"),
    ],
)
def test_wrong_shards_are_refused(unlearn_run: UnlearnRun, flag: str, said: str) -> None:
    unlearn_run.lookup()
    result = unlearn_run(flag)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: *{said}*"])


@pytest.mark.parametrize(
    "flag", ["--unlearn-replay", "--unlearn-stop=curtail", "--unlearn-save=last"]
)
def test_a_part_has_no_verdict(unlearn_run: UnlearnRun, flag: str) -> None:
    unlearn_run.lookup()
    result = run_shard(unlearn_run, "1/2", flag)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {flag}: --unlearn-shard=1/2 measures a part and *"])


def test_a_shard_trains_nothing(pytester: pytest.Pytester) -> None:
    """Each would train a model of its own; said before a model is loaded."""
    result = pytester.runpytest_inprocess("--unlearn-model=tiny", "--unlearn-shard=1/2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --unlearn-method=*python -m pytest_unlearn.train*"])


KEYS = {"base": {"weights": "w", "libraries": {"torch": "2.13"}}}


def test_shards_of_other_models_and_of_two_runs_are_refused(tmp_path: Path) -> None:
    one, two = (Store(tmp_path / name) for name in ("one", "two"))
    note_shard(one, "run", Shard(1, 2), 0, KEYS)
    note_shard(
        two, "run", Shard(2, 2), 0, {"base": {"weights": "w", "libraries": {"torch": "2.14"}}}
    )
    merge(tmp_path / "merged", [one.root, two.root])
    merged = Store(tmp_path / "merged")
    with pytest.raises(UserError, match=r"2/2.*base\.libraries\.torch: 2\.14 and 2\.13"):
        check_shards(merged, "run", 2, KEYS)
    note_shard(two, "run", Shard(2, 2), 0, KEYS)
    merge(tmp_path / "again", [one.root, two.root, two.root])
    check_shards(Store(tmp_path / "again"), "run", 2, KEYS)
    note_shard(two, "run", Shard(1, 2), 0, KEYS)
    with pytest.raises(UserError, match="two: another of these stores has one of its shards too"):
        merge(tmp_path / "overlap", [one.root, two.root])


def test_merging_copies_folders_and_refuses_what_cannot_be(tmp_path: Path) -> None:
    one, two = (Store(tmp_path / name) for name in ("one", "two"))
    key = "ab" * 32
    one.put("completions", key, {"text": "x"})
    one.put_folder("adapters", key, lambda folder: (folder / "w").write_text("1") and None)
    assert merge(tmp_path / "merged", [one.root]) == 2
    merged = Store(tmp_path / "merged")
    assert merged.get("completions", key) == {"text": "x"}
    folder = merged.folder("adapters", key)
    assert folder is not None
    assert (folder / "w").read_text() == "1"
    two.put("completions", key, {"text": "y"})
    with pytest.raises(UserError, match="two: one of its completions is a different text"):
        merge(tmp_path / "merged", [two.root])
    with pytest.raises(UserError, match="would be merged into itself"):
        merge(one.root, [one.root])
    with pytest.raises(UserError, match="not a store"):
        merge(one.root, [tmp_path])
    assert merge_main([str(one.root), str(tmp_path)]) == 2
