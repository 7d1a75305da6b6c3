"""The name under which scripts outside this package import `solution`."""

from pytest_unlearn.tasks.program import Solution, solution

__all__ = ["Solution", "solution"]
