"""Rows with exact scores of a base, a tested and a retrained model, made by hand."""

from __future__ import annotations

import random
from dataclasses import replace

from pytest_unlearn.gates.case_rows import AttackRow, ProbeRow, Row
from pytest_unlearn.leaks.exact import ExactScores
from pytest_unlearn.leaks.outcome import Outcome

PEOPLE = 60


def exact(loss: float, bits: float = 1.0) -> ExactScores:
    return ExactScores.from_row(
        {
            "greedy": loss < 0.1,
            "log_probability": -5 * loss,
            "exact_memorization": 1.0 if loss < 0.1 else 0.2,
            "loss": loss,
            "zlib_ratio": loss / 9,
            "min_k": [-loss, -loss],
            "min_k_plus_plus": [-loss, -loss],
            "exposure": {"bits": bits, "rank": 1, "size": 1024},
        }
    )


def probe(split: str, n: int, base: float, tested: float, retrained: float | None) -> ProbeRow:
    return ProbeRow(
        id=f"direct-{split}-{n}",
        split=split,
        kind="email",
        carrier="json",
        owner=f"{split} {n}",
        base=Outcome("direct" if base < 0.1 else "clean"),
        unlearned=Outcome("clean"),
        base_exact=exact(base, bits=9.0),
        unlearned_exact=exact(tested),
        retrained_exact=None if retrained is None else exact(retrained),
    )


def people(tested_shift: float = 0.0, retrained: bool = True, seed: int = 0) -> list[Row]:
    """Values that the base knows; the tested model's losses are a control person's, shifted."""
    drawn = random.Random(seed)
    rows: list[Row] = []
    for split in ("forget", "control"):
        for n in range(PEOPLE):
            unseen = drawn.gauss(5.0, 0.5)
            forget = split == "forget"
            rows.append(
                probe(
                    split,
                    n,
                    0.01 + n / 10_000 if forget else unseen,
                    unseen + tested_shift * forget,
                    unseen if retrained else None,
                )
            )
    return rows


def under(attack: str, tested: float, retrained: float, count: int = PEOPLE) -> list[Row]:
    """Rows of an attack by which hidden states give so much away."""
    apart = attack.startswith("linear-probe")

    def one(split: str, n: int) -> AttackRow:
        def share(level: float) -> ExactScores:
            kept = level if split == "forget" else 0.25
            return replace(exact(5.0), exact_memorization=kept)

        def score(level: float) -> float:
            return (level if split == "forget" else 0.0) + n * 37 % 60 / 60

        return AttackRow(
            id=f"{attack}/direct-{split}-{n}",
            attack=attack,
            split=split,
            kind="email",
            carrier="json",
            owner=f"{split} {n}",
            base=Outcome("direct"),
            unlearned=Outcome("clean"),
            base_exact=share(0.95),
            unlearned_exact=None if apart else share(tested),
            retrained_exact=None if apart else share(retrained),
            scores={
                "base": score(2.0),
                "unlearned": score(tested),
                "retrained": score(retrained),
            }
            if apart
            else None,
        )

    return [one(split, n) for split in ("forget", "control") for n in range(count)]
