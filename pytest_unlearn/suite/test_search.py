"""Is there a prompt that still draws out what no probe drew out?"""

from __future__ import annotations

from pytest_unlearn.leaks.prompt_search import SearchReport


def test_search(unlearn_search: SearchReport) -> None:
    """Prompts are searched and shrunk, on forget and control people alike; the report tells."""
    budget = unlearn_search.options.budget
    assert all(result.cost <= budget for result in unlearn_search.records)
