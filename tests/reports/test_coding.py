"""What stands about coding beside the gates, against values by hand."""

from __future__ import annotations

import math

from pytest_unlearn.gates.case_rows import TaskRow
from pytest_unlearn.reports.tables import with_coding


def row(name: str, base: str, tested: str, **more: object) -> TaskRow:
    return TaskRow(name, name, base, tested, (base,), (tested,), **more)  # type: ignore[arg-type]


def test_shares_and_perplexity() -> None:
    """exp of the loss a token, over all tokens; a row without scores is left out."""
    rows = [
        row(
            "a",
            "passed",
            "passed",
            base_parses=1.0,
            unlearned_parses=0.5,
            base_degenerate=0.0,
            unlearned_degenerate=0.25,
            base_loss=(2 * math.log(2), 2),
            unlearned_loss=(4 * math.log(3), 2),
        ),
        row(
            "b",
            "passed",
            "crash",
            base_parses=0.0,
            unlearned_parses=0.0,
            base_loss=(0.0, 2),
            unlearned_loss=(0.0, 2),
        ),
        row("c", "passed", "crash", base_loss=(9.0, 1)),
    ]
    assert with_coding([], rows, two_states=True, confidence=0.95) == [
        ["also measured", "base", "tested", "n", "95% bound"],
        ["solutions: degenerate", "0.0%", "25.0%", "1", "-"],
        ["solutions: perplexity", "1.414", "3", "2", "-"],
    ]


def test_sets_and_ks_have_lines_of_their_own() -> None:
    """pass@k for each k, and the first k for each set; no bound without a second model."""
    rows = [
        TaskRow("a", "a", "passed", "passed", ("passed", "x"), ("x", "x"), (2, 1), "one"),
        TaskRow("b", "b", "x", "x", ("x", "passed"), ("x", "passed"), (2, 1), "two"),
    ]
    assert with_coding([["head"]], rows, two_states=False, confidence=0.95) == [
        ["head"],
        ["pass@2", "2 (100.0%)", "1 (50.0%)", "2", "-"],
        ["pass@1", "1 (50.0%)", "0.5 (25.0%)", "2", "-"],
        ["pass@2 one", "1 (100.0%)", "0 (0.0%)", "1", "-"],
        ["pass@2 two", "1 (100.0%)", "1 (100.0%)", "1", "-"],
    ]
    bound = with_coding([], rows * 20, two_states=True, confidence=0.95)[1][-1]
    assert bound.startswith(">=")


def test_nothing_measured_is_nothing_shown() -> None:
    assert with_coding([], [], two_states=True, confidence=0.95) == []
    assert with_coding([], [row("a", "passed", "passed")], two_states=True, confidence=0.95) == []
