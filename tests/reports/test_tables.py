"""The tables beside the gates: leaks taken apart, and coding, against values by hand."""

from __future__ import annotations

import math
from dataclasses import replace

from pytest_unlearn.gates.case_rows import ProbeRow, TaskRow
from pytest_unlearn.leaks.exact import ExactScores
from pytest_unlearn.leaks.outcome import Outcome
from pytest_unlearn.reports.tables import (
    exact_table,
    forget_rows,
    rates_by,
    relations,
    transitions,
    with_coding,
)


def row(
    number: int, base: str, tested: str, *, kind: str = "email", split: str = "forget"
) -> ProbeRow:
    def outcome(label: str) -> Outcome:
        found = {"how": "exact", "relation": "retained"} if label == "indirect" else {}
        return Outcome.from_row({"label": label, **found})

    return ProbeRow(
        id=f"direct-{number}",
        split=split,
        kind=kind,
        carrier="json",
        owner=f"person-{number}",
        base=outcome(base),
        unlearned=outcome(tested),
    )


ROWS = [
    row(1, "direct", "clean"),
    row(2, "direct", "indirect"),
    row(3, "direct", "direct", kind="phone"),
    row(4, "clean", "clean", kind="phone"),
    row(5, "direct", "direct", split="retain"),
    TaskRow("t", "t", "passed", "passed"),
]


def test_only_forget_probes_are_leaks() -> None:
    """A retained person's value is to be kept; a task is no probe."""
    assert [r.id for r in forget_rows(ROWS)] == ["direct-1", "direct-2", "direct-3", "direct-4"]
    assert not forget_rows(ROWS, "cross")


def test_rates_before_and_after_by_kind() -> None:
    """Each line is the gate's: 0 and 1 of 2 people are at most 77.6 % and 97.5 %."""
    header, email, phone = rates_by(ROWS, "kind", confidence=0.95)
    assert header[:2] == ["kind", "n"]
    assert header[4] == header[7] == "95% bound"
    assert email[:5] == ["email", "2", "2 (100.0%)", "0 (0.0%)", "<=77.7%"]
    assert email[5:] == ["0 (0.0%)", "1 (50.0%)", "<=97.5%"]
    assert phone[:5] == ["phone", "2", "1 (50.0%)", "1 (50.0%)", "<=97.5%"]
    assert rates_by(ROWS, "kind", 0.99)[1][4] == "<=90.0%"  # 1 - sqrt(0.01)
    assert rates_by(ROWS, "carrier", confidence=0.95) == []


def test_transition_matrix() -> None:
    """Each pair of outcomes once; labels that never occur are left out."""
    assert transitions(forget_rows(ROWS)) == [
        ["base \\ tested", "direct", "indirect", "clean"],
        ["direct", "1", "1", "1"],
        ["clean", "0", "0", "1"],
    ]
    assert transitions([]) == []


def test_whose_values_came_out() -> None:
    """The base's indirect leaks are told too: a shift needs both."""
    assert relations(forget_rows(ROWS)) == (
        "indirect leaks, whose value: tested: retained (exact) 1"
    )
    assert relations([ROWS[0]]) == ""  # type: ignore[list-item]


def test_exact_extraction_before_and_after() -> None:
    """A line a split and state, and no table where the models gave no scores."""
    base = {
        "greedy": True,
        "log_probability": 0.0,
        "exact_memorization": 1.0,
        "strength": 1.0,
        "loss": 0.0,
    }
    tested = {**base, "greedy": False, "log_probability": None, "strength": 0.0, "loss": 9.0}
    rows = [
        replace(
            row(n, "direct", "clean"),
            base_exact=ExactScores.from_row(base),
            unlearned_exact=ExactScores.from_row(tested),
        )
        for n in range(2)
    ]
    header, before, after = exact_table(rows)
    assert header[:5] == ["exact", "n", "greedy", "leak@1", "leak@100"]
    assert before == ["forget base", "2", "100.0%", *["100.00%"] * 4, "100.0%", "100.0%", "0.00"]
    assert after == ["forget tested", "2", "0.0%", *["0.00%"] * 4, "100.0%", "0.0%", "9.00"]
    assert exact_table(ROWS) == []


def task_row(name: str, base: str, tested: str, **more: object) -> TaskRow:
    return TaskRow(name, name, base, tested, (base,), (tested,), **more)  # type: ignore[arg-type]


def test_shares_and_perplexity() -> None:
    """exp of the loss a token, over all tokens; a row without scores is left out."""
    rows = [
        task_row(
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
        task_row(
            "b",
            "passed",
            "crash",
            base_parses=0.0,
            unlearned_parses=0.0,
            base_loss=(0.0, 2),
            unlearned_loss=(0.0, 2),
        ),
        task_row("c", "passed", "crash", base_loss=(9.0, 1)),
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
    assert (
        with_coding([], [task_row("a", "passed", "passed")], two_states=True, confidence=0.95) == []
    )
