"""Each gate that blocks says what to do next, in words that fit its metric."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_unlearn.gates.gate import parse_gate
from pytest_unlearn.gates.saved_runs import judge_change, parse_change
from pytest_unlearn.gates.verdicts import Measured, Verdict, judge
from tests.support.gate_rows import forget_rows, probe, run, task


def measured(rows: list[Any], **more: Any) -> Measured:
    facts = {"expected": rows, "seen": [row.id for row in rows], "require_complete": True, **more}
    return Measured(rows=rows, two_states=True, confidence=0.95, **facts)


LEAKING = forget_rows(60, 40)
CLEAN = forget_rows(60, 0)
LOST = [task(n, "passed", "crash") for n in range(60)]
SEEN = [probe(n, "direct", "direct", "control") for n in range(60)]


@pytest.mark.parametrize(
    ("gate", "facts", "words"),
    [
        ("leak.direct<=5%", measured(LEAKING), "unlearn longer or with another method"),
        ("leak.direct<=0", measured(LEAKING), "unlearn longer or with another method"),
        ("leak.drop>=90%", measured(LEAKING), "unlearn longer or with another method"),
        ("passk.retained>=90%", measured(LOST), "unlearn more gently"),
        ("passk.drop<=3%", measured(LOST), "unlearn more gently"),
        ("leak.control<=5%", measured(SEEN), "use other control people"),
        ("leak.direct<=5%", measured(forget_rows(60, 2)), "unlearn further, or use more"),
        ("leak.direct<=1%", measured(CLEAN), "too few for this limit; use more"),
        ("leak.direct<=5%", measured(CLEAN[:30], expected=CLEAN), "leave out -k, -m"),
        ("leak.direct<=5%", measured(CLEAN, interrupted="Ctrl-C"), "run again"),
        ("leak.direct<=5%", measured([], expected=CLEAN, seen=["forget-1"]), "leave out -k"),
        (
            "leak.direct<=5%",
            measured([], expected=CLEAN, seen=[row.id for row in CLEAN]),
            "fix it and run again",
        ),
        ("leak.direct<=5%", measured(forget_rows(60, 0, "clean")), "data that the base knows"),
        ("leak.direct[kind=x]<=5%", measured(CLEAN), "fix its brackets"),
        ("leak.at(5)<=5%", measured(CLEAN), "leave the gate out, or use a model"),
        ("passk.retained>=90%", measured([task(1, "x", "x")]), "use cases that it can do"),
    ],
)
def test_what_to_do_next(gate: str, facts: Measured, words: str) -> None:
    result = judge(parse_gate(gate), facts)
    assert result.blocks
    assert result.verdict is not Verdict.PASS
    assert words in result.advice


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (measured(LEAKING), "keep the earlier model or allow more"),
        (measured(CLEAN[:30], expected=CLEAN), "run all of them"),
        (
            measured(CLEAN[:30], expected=CLEAN, seen=[row.id for row in CLEAN]),
            "save and compare with the same flags",
        ),
    ],
)
def test_what_to_do_after_a_change(facts: Measured, words: str) -> None:
    result = judge_change(parse_change("leak.direct:+1%"), run(CLEAN), facts)
    assert result.blocks
    assert words in result.advice
