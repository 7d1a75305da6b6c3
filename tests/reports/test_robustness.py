"""What an attacker gets, in figures and words that agree with the gates."""

from __future__ import annotations

from dataclasses import replace

from pytest_unlearn.gates.case_rows import AttackRow, Row, TaskRow
from pytest_unlearn.leaks.exact import ExactScores
from pytest_unlearn.leaks.outcome import Outcome
from pytest_unlearn.reports.robustness import (
    Way,
    attack_data,
    attack_figures,
    attack_legend,
    attack_sentences,
    attack_table,
    attack_tables,
    half_way,
    indirect_under_attack,
    inside_figures,
    inside_table,
    way_sentence,
    way_table,
    ways,
)
from tests.support.attack_rows import attacked, probes
from tests.support.distance_rows import people, under
from tests.support.results import make


def course(*back: int) -> list[AttackRow]:
    stages = zip(("1", "5", "10"), back, strict=False)
    return [row for stage, n in stages for row in attacked(f"relearn@{stage}", n)]


def test_a_line_for_each_state_and_one_without() -> None:
    rows: list[Row] = [*probes(), *attacked("int4", 30), *attacked("int4", 2, split="control")]
    (plain, int4) = attack_figures(rows, 0.95)
    assert (plain.attack, plain.direct, plain.leak_at) == ("", 0.0, {})
    assert (int4.direct, int4.control, int4.n) == (0.5, 2 / 60, 60)
    assert 0.5 <= int4.leak_at["1000"] < int4.leak_at["1000000"] < 0.51
    head, first, second = attack_table(rows, 0.95)
    assert first[0] == "none"
    assert second[:3] == ["int4", "60", "30 (50.0%)"]
    assert len(head) == len(first) == len(second)
    assert [one["attack"] for one in attack_data(rows, 0.95)] == ["", "int4"]


def test_a_column_for_the_retrained_model_where_it_was_asked() -> None:
    taught = [
        replace(row, retrained_exact=ExactScores(-1.0, greedy=n < 3))
        for n, row in enumerate(attacked("relearn@5", 30))
    ]
    head, *lines = attack_table([*probes(), *taught, *attacked("int4", 0)], 0.95)
    assert head[-1] == "retrained"
    assert [line[-1] for line in lines] == ["-", "5.0%", "-"]


def test_indirect_leaks_are_told_and_not_counted() -> None:
    """As clues brings them out: beside those of control people, and in no share."""
    rows: list[Row] = [
        *attacked("clues", 0, count=4),
        *attacked("clues", 0, split="control", count=3),
        *attacked("int8", 4, count=4),
    ]
    assert indirect_under_attack(rows) == []
    rows[:2] = [replace(row, unlearned=Outcome("indirect")) for row in rows[:2]]
    rows[4] = replace(rows[4], unlearned=Outcome("indirect"))
    (line,) = indirect_under_attack(rows)
    assert line.startswith("clues: 2 of 4 answers give a part of the value")
    assert line.endswith("(control people: 1 of 3); no gate counts these")
    by_name = {one.attack: one for one in attack_figures(rows, 0.95)}
    assert (by_name["clues"].direct, by_name["clues"].control) == (0.0, 0.0)


def test_readers_are_told_what_attacks_do_and_what_none_finds() -> None:
    rows: list[Row] = [
        *attacked("int4", 3),
        *attacked("int4", 6, split="control"),
        *attacked("reworded@cross", 1),
        *attacked("reworded@question", 1),
    ]
    head, *legend = attack_legend(rows)
    assert head == ["attack", "what is done"]
    assert [name for name, _ in legend] == ["int4", "reworded"]
    assert legend[0][1].startswith("weights rounded to 4 bits")
    said = " ".join(attack_sentences(make().run, rows))
    assert "int4, brings out 3 (5.0%) of 60 values to be forgotten, and 10.0% of control" in said
    assert "a secret word would not have been found" in said
    assert "secret word" not in " ".join(attack_sentences(make().run, [*rows, *course(0, 1)]))
    assert attack_legend([]) == []


def test_nothing_without_attacks() -> None:
    assert attack_table(probes(), 0.95) == []
    assert attack_data(probes(), 0.95) == []


def test_steps_to_half() -> None:
    assert half_way(attack_figures(course(0, 31, 60), 0.95)) == [
        "relearn: half of the values are back after 5 steps"
    ]
    assert half_way(attack_figures(course(0, 3, 6), 0.95)) == [
        "relearn: half of the values are not back within 10 steps (10.0%)"
    ]
    for name in ("int4", "wrapped@role", "lens@50"):  # which do not train
        assert half_way(attack_figures(attacked(name, 60), 0.95)) == []


def three_models() -> list[Row]:
    """A method that went half of the way in tasks, and all of it in what comes out."""
    tasks: list[Row] = [
        TaskRow(
            f"t{n}",
            f"t{n}",
            base="passed",
            unlearned="passed" if n % 2 else "failed",
            retrained="failed",
        )
        for n in range(10)
    ]
    return [*people(), *under("lens@50", 0.60, 0.25), *under("linear-probe@100", 0.5, 0.0), *tasks]


def test_each_metric_has_a_column_for_the_retrained_model() -> None:
    found = {way.name: way for way in ways(three_models(), 0.95)}
    assert found["passk.rate"] == Way("passk.rate", 1.0, 0.5, 0.0)
    assert found["leak.at(1,000)"].share == 1.0
    lens = found["lens.share (lens@50)"]
    assert [round(n, 2) for n in (lens.base, lens.tested, lens.retrained)] == [0.95, 0.6, 0.25]
    assert lens.share is not None
    assert abs(lens.share - 0.5) < 1e-9
    assert found["states.auc (linear-probe@100)"].auc
    (membership,) = [way for name, way in found.items() if name.startswith("membership.auc")]
    assert membership.cells[1] == "1.00"
    table = way_table(three_models(), 0.95)
    assert table[0] == ["against retrained", "base", "tested", "retrained", "progress"]
    assert ["passk.rate", "100.0%", "50.0%", "0.0%", "50%"] in table


def test_the_way_in_one_sentence() -> None:
    sentence = way_sentence(three_models(), 0.95)
    assert sentence.startswith("Progress of the tested model from base to retrained: ")
    assert "lens.share (lens@50) 50%" in sentence
    assert "passk.rate 50%" in sentence
    assert sentence.count(".") == sentence.count("leak.") + sentence.count(".auc") + 3


def test_where_there_is_no_way_no_share_of_it_is_told() -> None:
    """Base and retrained model alike: nothing was to be forgotten there."""
    assert Way("x", 0.5, 0.4, 0.49).share is None
    assert Way("x", 0.5, 0.4, 0.49).cells[-1] == "-"
    assert Way("x", 0.9, 0.1, 0.3).share is not None
    assert (Way("x", 0.9, 0.1, 0.3).share or 0) > 1  # beyond the goal


def test_without_a_retrained_model_there_is_no_table() -> None:
    rows = people(retrained=False)
    assert way_table(rows, 0.95) == []
    assert way_sentence(rows, 0.95) == ""
    bare = [replace(row, retrained=None) for row in three_models() if isinstance(row, TaskRow)]
    assert ways(bare, 0.95) == []


def test_hidden_states_are_a_table_of_their_own() -> None:
    """With base, retrained model and chance beside each figure; no value comes out by a probe."""
    rows = three_models()
    head, lens, probe = inside_table(rows, 0.95)
    assert head[:5] == ["hidden states", "n", "base", "tested", "retrained"]
    assert lens[:6] == ["lens@50 (lens.share)", "60", "95.00%", "60.00%", "25.00%", "25.00%"]
    assert probe[0] == "linear-probe@100 (states.auc)"
    assert probe[5] == "0.50"
    assert [one.attack for one in inside_figures(rows, 0.95)] == ["lens@50", "linear-probe@100"]
    names = [table[0][0] for table in attack_tables(rows, 0.95)]
    assert names == ["under attack", "hidden states", "against retrained"]
    (attacks,) = [table for table in attack_tables(rows, 0.95) if table[0][0] == "under attack"]
    assert [line[0] for line in attacks[1:]] == ["none", "lens@50"]
