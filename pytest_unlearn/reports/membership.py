"""Can one tell from a model's scores who was in its training data? Six attacks, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pytest_unlearn.gates.options import CONFIDENCE
from pytest_unlearn.gates.rows import ProbeRow, TaskRow
from pytest_unlearn.leaks.membership import Auc, attack_score, auc, privleak
from pytest_unlearn.reports.breakdown import Table

_STATES = {"base": "base", "unlearned": "tested", "retrained": "retrained"}


def membership_table(
    rows: Iterable[ProbeRow | TaskRow], attacks: Sequence[str], confidence: float = CONFIDENCE
) -> Table:
    """Return the AUC of each attack on each model, forget against control people.

    1 is perfect recognition, 0.5 chance; the two-sided interval treats a person's records as one
    cluster. With a retrained model also PrivLeak (percent of its AUC, below 0 where members still
    stand out, above where they stand out by being unlikely) and what its interval says. An empty
    table without scored records on both sides.
    """
    aucs = membership_aucs(rows, attacks, confidence)
    table: Table = []
    for attack, found in aucs.items():
        if not table:
            table = [["membership AUC", "n", *(_STATES[state] for state in found)]]
            if "retrained" in found:
                table[0].append("PrivLeak")
        sizes = f"{found['base'].members}+{found['base'].nonmembers}"
        line = [attack, sizes, *map(_interval, found.values())]
        if "retrained" in found:
            line.append(_privleak(found["unlearned"], found["retrained"]))
        table.append(line)
    return table


def membership_aucs(
    rows: Iterable[ProbeRow | TaskRow], attacks: Sequence[str], confidence: float = CONFIDENCE
) -> dict[str, dict[str, Auc]]:
    """Return each attack's AUC by model: `base`, `unlearned`, and `retrained` where it was scored.

    Empty without scored records on both sides.
    """
    scored = [
        row
        for row in rows
        if isinstance(row, ProbeRow) and row.family == "direct" and row.base_exact is not None
    ]
    members = [row for row in scored if row.split == "forget"]
    others = [row for row in scored if row.split == "control"]
    if not (members and others):
        return {}
    states = [s for s in _STATES if getattr(members[0], f"{s}_exact") is not None]
    return {
        attack: {state: _auc(attack, state, members, others, confidence) for state in states}
        for attack in attacks
    }


def _auc(
    attack: str,
    state: str,
    members: Sequence[ProbeRow],
    others: Sequence[ProbeRow],
    confidence: float,
) -> Auc:
    sides = [
        [attack_score(attack, _scores(row, state)) for row in side] for side in (members, others)
    ]
    # A name may stand in two files of a user for two people.
    owners = [[f"{row.split} {row.owner}" for row in side] for side in (members, others)]
    return auc(sides[0], sides[1], owners=(owners[0], owners[1]), confidence=confidence)


def _scores(row: ProbeRow, state: str) -> dict[str, Any]:
    """Return a record's scores on one model, with the reference's loss where there is one."""
    own: dict[str, Any] = getattr(row, f"{state}_exact")
    if row.retrained_exact is None:
        return own
    return {**own, "reference_loss": row.retrained_exact["loss"]}


def _interval(found: Auc) -> str:
    return f"{found.estimate:.2f} ({found.low:.2f} to {found.high:.2f})"


def _privleak(tested: Auc, retrained: Auc) -> str:
    if retrained.estimate == 1.0:
        return "undefined: the retrained model knows them apart, so the texts differ"
    found = privleak(tested, retrained)
    return f"{found.estimate:+.0f} % ({found.low:+.0f} to {found.high:+.0f}): {found.verdict}"
