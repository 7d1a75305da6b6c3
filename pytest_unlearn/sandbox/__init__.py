"""Runs untrusted solutions in a separate process and judges their answers outside of it.

The verdict is out of a solution's reach on every system. Around its process are the layers of
`layers.LAYERS`, as far as the kernel has them: `Sandbox.protection()` says which.
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
