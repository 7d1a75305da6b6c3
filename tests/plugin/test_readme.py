"""What the README shows works as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_unlearn.gates.profiles import DEFAULT, gates_in_table
from pytest_unlearn.gates.reference import metric_table, profile_table
from tests.conftest import UnlearnRun

README = Path(__file__).parents[2] / "README.md"


def test_the_test_file_of_the_readme_runs(pytester: pytest.Pytester) -> None:
    """The README's example, on the bundled people and tasks with a lookup backend."""
    source = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)[0]
    pytester.makepyfile(test_mine=source)
    UnlearnRun(pytester).lookup()
    result = pytester.runpytest_inprocess(
        "--unlearn-model=tiny", "test_mine.py", "-k", "not still_writes"
    )
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*NO VERDICT*", "*161 passed, 2 skipped*"])


def test_every_flag_is_real(pytester: pytest.Pytester) -> None:
    """No flag stands in the README that the plugin does not have."""
    flags = set(re.findall(r"--unlearn-[a-z-]+", README.read_text()))
    shown = pytester.runpytest_inprocess("--help").stdout.str()
    assert not [flag for flag in flags if flag not in shown]


def test_tables_of_gates_are_the_registries() -> None:
    """Metrics, profiles and default gates stand in the README as the code has them."""
    readme = README.read_text()
    assert metric_table() in readme
    assert profile_table() in readme
    first, second, third = (f"`{gate}`" for gate in DEFAULT.gates)
    assert f"{first},\n{second} and {third}" in readme


def test_the_table_of_the_readme_is_read(tmp_path: Path) -> None:
    """The example for pyproject.toml holds gates."""
    source = re.findall(r"```toml\n(.*?)```", README.read_text(), flags=re.DOTALL)[0]
    (tmp_path / "pyproject.toml").write_text(source)
    assert gates_in_table(tmp_path / "pyproject.toml") == (
        "leak.direct<=0.01",
        "passk.drop<=3%",
        "leak.direct[kind=api_key]<=0",
    )
