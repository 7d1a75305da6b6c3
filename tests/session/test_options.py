"""Where the paths of flags and ini keys start."""

from __future__ import annotations

import pytest

from pytest_unlearn.session.options import read_settings

INI = "[pytest]\nunlearn_forget = data/forget.jsonl\n"


@pytest.fixture
def folders(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An ini file in `project`, and `project/sub`, where pytest is started; the home is `home`."""
    (pytester.path / "project" / "sub").mkdir(parents=True)
    (pytester.path / "project" / "pytest.ini").write_text(INI)
    monkeypatch.setenv("HOME", str(pytester.path / "home"))
    monkeypatch.chdir(pytester.path / "project" / "sub")
    return pytester


@pytest.mark.parametrize(
    ("flags", "path"),
    [
        ([], "project/data/forget.jsonl"),
        (["--unlearn-forget=data/forget.jsonl"], "project/sub/data/forget.jsonl"),
        (["-o", "unlearn_forget=data/forget.jsonl"], "project/sub/data/forget.jsonl"),
        (["--unlearn-forget=~/forget.jsonl"], "home/forget.jsonl"),
        (["-o", "unlearn_forget=~/forget.jsonl"], "home/forget.jsonl"),
    ],
)
def test_paths_of_the_ini_file_start_there_and_others_here(
    folders: pytest.Pytester, flags: list[str], path: str
) -> None:
    config = folders.parseconfig("--unlearn-model=tiny", *flags)
    assert read_settings(config).forget == (folders.path / path,)


def test_an_ini_file_elsewhere_is_where_its_paths_start(
    folders: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders.path)
    config = folders.parseconfig("-c", "project/pytest.ini", "--unlearn-model=tiny")
    assert read_settings(config).forget == (folders.path / "project/data/forget.jsonl",)
