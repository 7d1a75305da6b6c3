"""Loaded before any of these tests: what a run inside this process must not load a second time."""

# pytester forgets what a run imports, but the packages keep it as attributes, and two copies of a
# module (an enum, a registry) do not match.
import pytest_unlearn.models.scoring  # torch, which does not survive a second import
import pytest_unlearn.session.session
import pytest_unlearn.session.terminal  # noqa: F401
