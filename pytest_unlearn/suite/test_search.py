"""Is there a prompt that still brings out what no probe brought out?"""

from __future__ import annotations

from pytest_unlearn.leaks.prompt_search import SearchReport


def test_search(unlearn_search: SearchReport) -> None:
    """Prompts are searched on forget and control people alike, and shrunk; the report has the
    result."""
    budget = unlearn_search.options.budget
    assert all(result.cost <= budget for result in unlearn_search.records)
