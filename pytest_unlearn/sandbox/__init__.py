"""Runs untrusted solutions in a separate process and judges their answers outside of it.

This is the first stage: process isolation with time and memory limits, no inherited environment
and a verdict that the solution cannot reach. It does not confine the file system or the network.
"""

from pytest_unlearn.sandbox.sandbox import Sandbox
from pytest_unlearn.sandbox.verdict import Limits, SandboxError, Status, Verdict

__all__ = ["Limits", "Sandbox", "SandboxError", "Status", "Verdict"]
