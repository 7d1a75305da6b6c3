"""What the README shows works as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
