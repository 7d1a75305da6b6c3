"""The project's own conftest.py: no other project's run of the bundled suite sees it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import settings

from tests.support.doc_blocks import ROOT
from tests.support.lookup_run import UnlearnRun


def test_the_bundled_suite_of_an_editable_install_is_not_disturbed(
    unlearn_run: UnlearnRun,
) -> None:
    """pytest loads our conftest.py with the suite: profile, marks and warnings stay the user's."""
    unlearn_run.lookup(
        also="""
from hypothesis import settings
MINE = settings.get_current_profile_name()
def pytest_sessionfinish(session):
    loaded = [plugin for plugin in session.config.pluginmanager.get_plugins()
              if getattr(plugin, "__file__", "").endswith("conftest.py")]
    marks = {mark.name for item in session.items for mark in item.iter_markers()}
    print("\\nCONFTESTS", len(loaded))
    print("PROFILE KEPT", MINE == settings.get_current_profile_name())
    print("MARKS", marks & {"filterwarnings", "slow"})
"""
    )
    result = unlearn_run("-s", "-p", "no:randomly", subprocess=True)
    result.stdout.fnmatch_lines(["CONFTESTS 2", "PROFILE KEPT True", "MARKS set()"])
    assert result.ret == pytest.ExitCode.OK


def test_these_tests_have_the_projects_profile() -> None:
    """What fails here fails for everybody."""
    assert settings.get_current_profile_name() in {"project", "thorough"}
    assert settings().deadline is None


def test_slow_tests_can_be_left_out() -> None:
    """`pytest` runs all of them; the mark says which take seconds."""
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--co",
            "-q",
            "-m",
            "not slow",
            "tests/docs/test_build.py",
        ],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 deselected" in run.stdout
