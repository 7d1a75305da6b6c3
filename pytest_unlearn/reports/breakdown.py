"""Leaks taken apart: by family, kind, carrier and knowledge, and from which outcome to which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pytest_unlearn.gates.metrics import METRICS
from pytest_unlearn.gates.options import CONFIDENCE
from pytest_unlearn.gates.readings import percent
from pytest_unlearn.gates.rows import ProbeRow, TaskRow
from pytest_unlearn.gates.shares import share
from pytest_unlearn.leaks.exact_rows import SAMPLES, mean_leak_at, mean_of
from pytest_unlearn.leaks.outcomes import LABELS

Table = list[list[str]]


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Return a table's lines, with each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def forget_rows(rows: Iterable[ProbeRow | TaskRow], family: str | None = None) -> list[ProbeRow]:
    """Return the rows of forget probes, of one family or of all."""
    return [
        row
        for row in rows
        if isinstance(row, ProbeRow) and row.split == "forget" and family in (None, row.family)
    ]


def rates_by(rows: Sequence[ProbeRow | TaskRow], key: str, confidence: float = CONFIDENCE) -> Table:
    """Return direct and indirect rates of forget probes for each value of a row's attribute.

    Each line is what gates on `leak.direct` and `leak.indirect` with that restriction would be
    judged on; kinds and carriers are of the direct family. An empty table where there is one group
    only.
    """
    families = key in ("family", "knowledge")
    members = forget_rows(rows, None if families else "direct")
    groups = list(dict.fromkeys(str(getattr(row, key)) for row in members))
    if len(groups) < 2:
        return []
    name = "probe" if key == "family" else key
    bound = f"{percent(confidence)} bound"
    table = [
        [
            name,
            "n",
            "direct base",
            "direct tested",
            bound,
            "indirect base",
            "indirect tested",
            bound,
        ],
    ]
    for group in groups:
        filters = {"probe": "all" if families else "direct", name: group}
        direct, indirect = (
            share(METRICS[metric], rows, filters, confidence)
            for metric in ("leak.direct", "leak.indirect")
        )
        if direct and indirect:
            base, tested, n, upper = direct.cells
            before, after, _, other = indirect.cells
            table.append([group, n, base, tested, upper, before, after, other])
    return table


def transitions(rows: Sequence[ProbeRow]) -> Table:
    """Return the matrix of outcomes: a row for each of the base's, a column for the tested's.

    Outcomes that occur on neither model are left out.
    """
    pairs = Counter((row.base["label"], row.unlearned["label"]) for row in rows)
    before = [label for label in LABELS if any(b == label for b, _ in pairs)]
    after = [label for label in LABELS if any(a == label for _, a in pairs)]
    if not pairs:
        return []
    return [
        ["base \\ tested", *after],
        *([b, *(str(pairs[b, a]) for a in after)] for b in before),
    ]


def exact_table(rows: Iterable[ProbeRow | TaskRow], family: str = "direct") -> Table:
    """Return exact extraction of one family, split by split and before and after.

    Columns: greedy verdicts, leak@k for several k (the expected share of values that k samples
    would bring out), mean exact memorization, extraction strength and loss (nats a token), and
    mean exposure where it was asked for (1.44 bits are what an unknown value gets). An empty
    table where the models gave no scores.
    """
    table = [
        [
            "exact",
            "n",
            "greedy",
            *(f"leak@{k:g}" for k in SAMPLES),
            "memorized",
            "strength",
            "loss",
            "exposure (chance: 1.44)",
        ]
    ]
    for split in ("forget", "retain", "control"):
        for state, name in (("base_exact", "base"), ("unlearned_exact", "tested")):
            scored = [
                scores
                for row in rows
                if isinstance(row, ProbeRow) and row.split == split and row.family == family
                if (scores := getattr(row, state)) is not None
            ]
            if scored:
                table.append(
                    [
                        f"{split} {name}",
                        str(len(scored)),
                        f"{mean_of(scored, 'greedy'):.1%}",
                        *(f"{mean_leak_at(scored, k):.2%}" for k in SAMPLES),
                        f"{mean_of(scored, 'exact_memorization'):.1%}",
                        f"{mean_of(scored, 'strength'):.1%}",
                        f"{mean_of(scored, 'loss'):.2f}",
                        _mean_exposure(scored),
                    ]
                )
    if len(table) == 1:
        return []
    if all(line[-1] == "-" for line in table[1:]):
        return [line[:-1] for line in table]
    return table


def _mean_exposure(scored: Sequence[dict[str, Any]]) -> str:
    bits = [row["exposure"]["bits"] for row in scored if row.get("exposure")]
    return f"{sum(bits) / len(bits):.1f} bits" if bits else "-"


def relations(rows: Sequence[ProbeRow]) -> str:
    """Return whose values came out indirectly, on base and tested model, or an empty text."""
    lines = []
    for state, name in (("base", "base"), ("unlearned", "tested")):
        counts = Counter(
            f"{outcome['relation']} ({outcome['how']})"
            for row in rows
            if (outcome := getattr(row, state))["label"] == "indirect"
        )
        if counts:
            said = ", ".join(f"{whose} {count}" for whose, count in counts.most_common())
            lines.append(f"{name}: {said}")
    return "indirect leaks, whose value: " + "; ".join(lines) if lines else ""
