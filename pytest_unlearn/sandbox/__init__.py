"""Runs untrusted solutions in a separate process and judges their answers outside of it.

A solution cannot reach the verdict on any system. The layers of `layers.LAYERS` surround its
process, as far as the kernel supports them: `Sandbox.protection()` says which.
"""

from pytest_unlearn.sandbox.helper import ImportNotFoundError
from pytest_unlearn.sandbox.sandbox import Sandbox
from pytest_unlearn.sandbox.verdict import (
    Limits,
    Mode,
    Protection,
    SandboxError,
    SolutionVerdict,
    Status,
    UnsupportedSolution,
)

__all__ = [
    "ImportNotFoundError",
    "Limits",
    "Mode",
    "Protection",
    "Sandbox",
    "SandboxError",
    "SolutionVerdict",
    "Status",
    "UnsupportedSolution",
]
