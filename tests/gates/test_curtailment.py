"""A settled verdict is the one that any complete run would have given."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_unlearn.gates.case_rows import ProbeRow, TaskRow
from pytest_unlearn.gates.curtailment import Curtailment
from pytest_unlearn.gates.gate import parse_gate
from pytest_unlearn.gates.verdicts import Measured, Verdict, judge, settled
from tests.gates.test_verdicts import measured, probe, task

GATES = [
    "leak.direct<=30%",
    "leak.direct<=0",
    "leak.indirect<=30%",
    "leak.drop>=50%",
    "passk.retained>=80%",
    "passk.drop<=20%",
    "passk.rate>=60%",
]


def random_rows(rng: random.Random) -> list[ProbeRow | TaskRow]:
    leak, base, able = rng.random() ** 2, rng.choice([0.1, 0.9, 1.0]), rng.random()
    rows: list[ProbeRow | TaskRow] = []
    for i in range(40):
        owner = f"person-{rng.randrange(25)}"
        before = "direct" if rng.random() < base else "clean"
        after = rng.choice(["direct", "indirect"]) if rng.random() < leak else "clean"
        rows.append(replace(probe(i, before, after), owner=owner))
        rows.append(
            task(
                i,
                "passed" if rng.random() < base else "crash",
                "passed" if rng.random() < able else "crash",
            )
        )
        control = "direct" if rng.random() < leak / 4 else "clean"
        rows.append(probe(100 + i, "clean", control, "control"))
    rng.shuffle(rows)
    return rows


@pytest.mark.parametrize("text", GATES)
def test_settled_verdicts_are_those_of_the_whole_run(text: str) -> None:
    """Rows arrive in any order; as soon as a gate is settled, its verdict never changes."""
    gate = parse_gate(text)
    early: set[Verdict] = set()
    rng = random.Random(8)
    for _ in range(40):
        rows = random_rows(rng)
        whole = judge(gate, measured(rows)).verdict
        for count in range(0, len(rows), 6):
            part = Measured(
                rows[:count], rows, [row.id for row in rows[:count]], True, curtailed=True
            )
            if settled(gate, part):
                assert judge(gate, part).verdict is whole, count
                early.add(whole)
    assert {Verdict.PASS, Verdict.FAIL} & early


def test_errors_so_far_are_not_forgotten() -> None:
    """A case that ended in an error keeps a gate from passing early."""
    rows: list[ProbeRow | TaskRow] = [probe(i, "direct", "clean") for i in range(100)]
    gate = parse_gate("leak.direct<=60%")
    seen = [row.id for row in rows[:80]]
    clean = Measured(rows[:80], rows, seen, True, curtailed=True)
    assert judge(gate, clean).verdict is Verdict.PASS
    erred = replace(clean, rows=rows[:79])
    result = judge(gate, erred)
    assert (result.verdict, result.blocks) == (Verdict.UNDECIDED, True)


def test_a_part_of_the_controls_takes_no_chance_off() -> None:
    """Which part was run may depend on what came out; a pass must not rest on it."""
    rows: list[ProbeRow | TaskRow] = [
        probe(i, "direct", "direct" if i < 24 else "clean") for i in range(200)
    ]
    controls = [probe(i, "clean", "direct" if i < 40 else "clean", "control") for i in range(400)]
    gate = parse_gate("leak.direct<=10%")
    part = [*rows, *controls[:40]]
    some = Measured(part, [*rows, *controls], [row.id for row in part], True, curtailed=True)
    assert not settled(gate, some)
    assert judge(gate, some).verdict is Verdict.UNDECIDED
    whole = measured([*rows, *controls])
    assert settled(gate, whole)
    assert judge(gate, whole).verdict is Verdict.PASS


def test_a_case_is_needless_when_no_open_gate_counts_it(tmp_path: Path) -> None:
    """Control cases count for gates whose chance they tell; cases of no gate wait for all."""
    rows: list[ProbeRow | TaskRow] = [probe(i, "direct", "clean") for i in range(100)]
    rows += [probe(i, "clean", "clean", "control") for i in range(100)]
    rows += [probe(i, "direct", "direct", "retain") for i in range(100)]
    rows += [task(i, "passed", "passed") for i in range(100)]
    gates = [parse_gate("leak.direct<=60%"), parse_gate("passk.retained>=50%")]
    controller = Curtailment.start(gates, rows, tmp_path)
    worker = Curtailment(gates, rows, controller.path)
    assert not worker.needless("forget-99")

    def seen(*some: ProbeRow | TaskRow) -> Measured:
        return Measured(some, rows, [row.id for row in some], True)

    controller.update(seen(*rows[:95]))
    for process in (controller, worker):
        assert process.needless("forget-99")
        assert process.needless("control-99")
        assert not process.needless("retain-99")
        assert not process.needless("task-99")
    controller.update(seen(*rows[:95], *rows[300:395]))
    assert worker.needless("retain-99")
    assert worker.needless("task-99")
    controller.end()
    assert worker.needless("retain-99")  # what was known stays known
    assert not list(tmp_path.iterdir())
