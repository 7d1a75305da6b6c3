"""Leaks taken apart: by family, kind, carrier and knowledge, and from which outcome to which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pytest_unlearn.gates.rows import ProbeRow, TaskRow
from pytest_unlearn.gates.statistics import clopper_pearson_lower, clopper_pearson_upper
from pytest_unlearn.leaks.exact_rows import SAMPLES, mean_leak_at, mean_of
from pytest_unlearn.leaks.outcomes import LABELS

Table = list[list[str]]
# Each side of a two-sided 95 % interval.
_SIDE = 0.975


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


def rates_by(rows: Sequence[ProbeRow], key: str) -> Table:
    """Return direct and indirect rates before and after for each value of a row's attribute.

    The interval is Clopper and Pearson's, two-sided at 95 %, on the tested model's direct rate.
    An empty table where there is one group only.
    """
    groups: dict[str, list[ProbeRow]] = {}
    for row in rows:
        groups.setdefault(getattr(row, key), []).append(row)
    if len(groups) < 2:
        return []
    name = "probe" if key == "family" else key
    table = [[name, "n", "direct base", "direct tested", "95%", "indirect base", "indirect tested"]]
    for group, members in groups.items():
        n = len(members)
        counts = {
            (state, label): sum(getattr(row, state)["label"] == label for row in members)
            for state in ("base", "unlearned")
            for label in ("direct", "indirect")
        }
        direct = counts["unlearned", "direct"]
        low, high = clopper_pearson_lower(direct, n, _SIDE), clopper_pearson_upper(direct, n, _SIDE)
        table.append(
            [
                group,
                str(n),
                _share(counts["base", "direct"], n),
                _share(counts["unlearned", "direct"], n),
                f"{low:.1%} to {high:.1%}",
                _share(counts["base", "indirect"], n),
                _share(counts["unlearned", "indirect"], n),
            ]
        )
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


def _share(count: int, n: int) -> str:
    return f"{count} ({count / n:.1%})"
