"""Tests that are a program, as HumanEval's and MBPP's are, instead of a list of calls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CheckProgram:
    """Trusted Python source that raises when a solution is wrong.

    It is run with the solution's function bound to `candidate` and to the entry point's own name:
    a stand-in, which sends arguments to the process of the solution and brings back plain values.
    """

    source: str
