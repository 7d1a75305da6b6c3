"""Whether the model can still code. Each test measures one task; the gates judge pass@1."""

from __future__ import annotations

from pytest_unlearn.run.answers import Completions
from pytest_unlearn.sandbox import SolutionVerdict


def test_solved(unlearn_completions: Completions[SolutionVerdict], unlearn_task: object) -> None:
    """A programming task, judged by its tests in a separate process."""
    assert unlearn_completions.unlearned.outcome.status
