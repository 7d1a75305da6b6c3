"""What an attacker gets, in figures and words that agree with the gates."""

from __future__ import annotations

from pytest_unlearn.gates.case_rows import AttackRow, Row
from pytest_unlearn.reports.robustness import (
    attack_data,
    attack_figures,
    attack_table,
    half_way,
)
from tests.gates.test_attacked_gates import attacked, probes


def course(*back: int) -> list[AttackRow]:
    stages = zip(("1", "5", "10"), back, strict=False)
    return [row for stage, n in stages for row in attacked(f"relearn@{stage}", n)]


def test_a_line_for_each_state_and_one_without() -> None:
    rows: list[Row] = [*probes(), *attacked("int4", 30), *attacked("int4", 2, split="control")]
    (plain, int4) = attack_figures(rows)
    assert (plain.attack, plain.direct, plain.leak_at) == ("", 0.0, {})
    assert (int4.direct, int4.control, int4.n) == (0.5, 2 / 60, 60)
    assert 0.5 <= int4.leak_at["1000"] < int4.leak_at["1000000"] < 0.51
    head, first, second = attack_table(rows)
    assert first[0] == "none"
    assert second[:3] == ["int4", "60", "30 (50.0%)"]
    assert len(head) == len(first) == len(second)
    assert [one["attack"] for one in attack_data(rows)] == ["", "int4"]


def test_nothing_without_attacks() -> None:
    assert attack_table(probes()) == []
    assert attack_data(probes()) == []


def test_steps_to_half() -> None:
    assert half_way(attack_figures(course(0, 31, 60))) == [
        "relearn: half of the values are back after 5 steps"
    ]
    assert half_way(attack_figures(course(0, 3, 6))) == [
        "relearn: half of the values are not back within 10 steps (10.0%)"
    ]
    assert half_way(attack_figures(attacked("int4", 60))) == []
