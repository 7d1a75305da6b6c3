"""Loaded before any of these tests: what a run inside this process must not load a second time."""

import os

# Each worker of `pytest -n` has one core. Torch would start a thread for every core in each of them
# and in every run that they start, and threads that wait for a core take longer than one alone.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# pytester forgets what a run imports, but the packages keep it as attributes, and two copies of a
# module (an enum, a registry) do not match.
import pytest_unlearn.models.scoring
import pytest_unlearn.session.session
import pytest_unlearn.session.terminal  # noqa: F401
