"""Rows of attacks, made by hand."""

from __future__ import annotations

from pytest_unlearn.gates.case_rows import (
    AttackRow,
    ProbeRow,
)
from pytest_unlearn.leaks.exact import ExactScores
from pytest_unlearn.leaks.outcome import Outcome


def probes(count: int = 60) -> list[ProbeRow]:
    """Forget probes that the base gives away and the tested model does not."""
    return [
        ProbeRow(
            id=f"direct-{n}",
            split="forget",
            kind="email",
            carrier="json",
            owner=f"person {n}",
            base=Outcome("direct"),
            unlearned=Outcome("clean"),
        )
        for n in range(count)
    ]


def attacked(
    attack: str, back: int, *, split: str = "forget", count: int = 60, log_probability: float = -30
) -> list[AttackRow]:
    """Rows of an attack that brings `back` of `count` values back."""
    return [
        AttackRow(
            id=f"{attack}/direct-{split}-{n}",
            attack=attack,
            split=split,
            kind="email",
            carrier="json",
            owner=f"{split} person {n}",
            base=Outcome("direct"),
            unlearned=Outcome("direct" if n < back else "clean"),
            base_exact=ExactScores(0.0, greedy=True),
            unlearned_exact=ExactScores(0.0 if n < back else log_probability, greedy=n < back),
        )
        for n in range(count)
    ]
