"""What the project's own tests share: Hypothesis profiles, marks, and the lookup fixture.

pytest also loads this file when it collects the bundled suite of an editable install, in another
project. Nothing here may show there: everything asks whether it is about this project's tests.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.lookup_run import UnlearnRun

ROOT = Path(__file__).parent
TESTS = ROOT / "tests"
# Files whose tests take seconds each: real subprocesses, training, whole builds.
SLOW = (
    "acceptance",
    "docs/test_build.py",
    "models/test_llama_server.py",
    "sandbox/test_runtimes.py",
    "sandbox/hostile",
    "session/test_other_plugins.py",
    "session/test_train.py",
    "unlearning/test_distributed.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark, and choose Hypothesis' profile: UNLEARN_PROFILE=thorough looks further."""
    if config.rootpath != ROOT:
        return
    config.addinivalue_line(
        "markers", 'slow: takes seconds; `pytest -m "not slow"` leaves it out while you work'
    )
    from hypothesis import settings

    # A busy machine is no failure, and a test must fail for everybody or for nobody.
    settings.register_profile("project", deadline=None, derandomize=True, database=None)
    settings.register_profile("thorough", deadline=None, max_examples=2000, print_blob=True)
    settings.load_profile(os.environ.get("UNLEARN_PROFILE", "project"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make a warning an error in these tests, and mark the slow ones; not in a user's run."""
    for item in items:
        if TESTS in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("error"), append=False)
            if any((TESTS / name) in (item.path, *item.path.parents) for name in SLOW):
                item.add_marker(pytest.mark.slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`, give each slow file to one worker: its tests share a model or a build.

    Not by xdist_group, which xdist 3.8 ignores under pytest 9.2.
    """
    if config.rootpath != ROOT:
        return None
    from xdist.scheduler import LoadScopeScheduling

    class SlowFilesWhole(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            slow = nodeid.startswith(tuple(f"tests/{name}" for name in SLOW))
            return nodeid.split("::")[0] if slow else nodeid

    return SlowFilesWhole(config, log)


@pytest.fixture
def unlearn_run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> UnlearnRun:
    """A run of the plugin whose models look their answers up: milliseconds instead of minutes."""
    from tests.support.lookup_run import UnlearnRun

    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return UnlearnRun(pytester)
