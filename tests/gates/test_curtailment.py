"""A gate that is settled early is FAIL, and FAIL is what any complete run would have given."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_unlearn.gates.case_rows import ProbeRow, TaskRow
from pytest_unlearn.gates.gate import parse_gate
from pytest_unlearn.gates.planning import Curtailment
from pytest_unlearn.gates.verdicts import Measured, Verdict, fails_whatever, judge
from tests.support.gate_rows import measured, probe, task

GATES = [
    "leak.direct<=10%",
    "leak.direct<=0",
    "leak.indirect<=10%",
    "leak.drop>=50%",
    "passk.retained>=80%",
    "passk.drop<=20%",
    "passk.rate>=60%",
    "degenerate.rate<=10%",
]


def random_rows(rng: random.Random) -> list[ProbeRow | TaskRow]:
    """Return cases of people and tasks of any size; pass@k takes fractions."""
    leak, base, able = rng.random(), rng.choice([0.1, 0.9, 1.0]), rng.random()
    rows: list[ProbeRow | TaskRow] = []
    for i in range(40):
        owner = f"person-{rng.randrange(25)}"
        before = "direct" if rng.random() < base else "clean"
        after = rng.choice(["direct", "indirect", "degenerate"]) if rng.random() < leak else "clean"
        rows.append(replace(probe(i, before, after), owner=owner))
        samples = [
            tuple("passed" if rng.random() < chance else "crash" for _ in range(3))
            for chance in (base, able)
        ]
        rows.append(
            replace(
                task(i, samples[0][0], samples[1][0]),
                task=f"task-{rng.randrange(25)}",
                base_samples=samples[0],
                unlearned_samples=samples[1],
            )
        )
        control = "direct" if rng.random() < leak / 30 else "clean"
        rows.append(probe(100 + i, "clean", control, "control"))
    rng.shuffle(rows)
    return sorted(rows, key=lambda row: not row.id.startswith("control"))


@pytest.mark.parametrize("text", GATES)
def test_what_fails_early_fails_whatever_comes(text: str) -> None:
    """Rows arrive in any order, and any case that is still missing may end in an error."""
    gate, rng = parse_gate(text), random.Random(8)
    settled = 0
    for _ in range(25):
        rows = random_rows(rng)
        for count in range(48, len(rows), 6):
            done = rows[:count]
            part = Measured(done, rows, [row.id for row in done], True, confidence=0.95)
            if not fails_whatever(gate, part):
                continue
            settled += 1
            assert judge(gate, part).verdict is Verdict.FAIL
            for errors in (0.0, 0.5, 1.0):
                later = [row for row in rows[count:] if rng.random() >= errors]
                whole = Measured(
                    [*done, *later], rows, [row.id for row in rows], True, confidence=0.95
                )
                result = judge(gate, whole)
                assert (result.verdict, result.blocks) == (Verdict.FAIL, True), (count, errors)
            break
    assert settled


def test_a_pass_is_never_settled_before_the_last_case() -> None:
    """The last case may end in an error, and then the run does not pass."""
    rows: list[Any] = [probe(i, "direct", "clean") for i in range(100)]
    gate = parse_gate("leak.direct<=60%")
    assert not fails_whatever(gate, measured(rows[:99], expected=rows))
    assert judge(gate, measured(rows[:99], expected=rows)).verdict is Verdict.NOT_EVALUATED


def test_controls_come_first_where_chance_could_undo_it() -> None:
    rows: list[Any] = [probe(i, "direct", "direct") for i in range(100)]
    controls = [probe(i, "clean", "clean", "control") for i in range(50)]
    part = measured(rows[:90], expected=[*rows, *controls])
    assert not fails_whatever(parse_gate("leak.direct<=5%"), part)
    assert fails_whatever(parse_gate("leak.direct<=0"), part)
    assert fails_whatever(
        parse_gate("leak.direct<=5%"),
        measured([*rows[:90], *controls], expected=[*rows, *controls]),
    )


def test_a_case_is_needless_when_all_gates_that_count_it_failed(tmp_path: Path) -> None:
    """Control cases count for gates whose chance they tell; cases of no gate wait for all."""
    rows: list[ProbeRow | TaskRow] = [probe(i, "direct", "direct") for i in range(100)]
    rows += [probe(i, "clean", "clean", "control") for i in range(100)]
    rows += [probe(i, "direct", "direct", "retain") for i in range(100)]
    rows += [task(i, "passed", "passed" if i > 50 else "crash") for i in range(100)]
    gates = [parse_gate("leak.direct<=0"), parse_gate("passk.retained>=80%")]
    controller = Curtailment.start(gates, rows, tmp_path)
    worker = Curtailment(gates, rows, controller.path)
    compared = Curtailment(gates, rows, controller.path, [parse_gate("leak.control<=50%")])
    assert not worker.needless("forget-99")

    def seen(*some: ProbeRow | TaskRow) -> Measured:
        return Measured(some, rows, [row.id for row in some], True, confidence=0.95)

    controller.update(seen(*rows[:95]))
    for process in (controller, worker):
        assert process.needless("forget-99")
        assert process.needless("control-99")
        assert not process.needless("retain-99")
        assert not process.needless("task-99")
    assert compared.needless("forget-99")
    assert not compared.needless("control-99")
    controller.update(seen(*rows[:95], *rows[300:395]))
    assert worker.needless("task-99")
    assert worker.needless("retain-99")
    controller.end()
    assert worker.needless("task-99")  # what was known stays known
    assert not list(tmp_path.iterdir())
