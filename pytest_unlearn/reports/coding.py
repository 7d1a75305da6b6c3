"""What is shown about coding beside the gates: pass@k, degenerate answers, perplexity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from pytest_unlearn.gates.options import CONFIDENCE
from pytest_unlearn.gates.readings import percent
from pytest_unlearn.gates.rows import ProbeRow, TaskRow
from pytest_unlearn.gates.shares import pass_at
from pytest_unlearn.reports.breakdown import Table


def with_coding(
    table: Table,
    rows: Iterable[ProbeRow | TaskRow],
    two_states: bool,
    confidence: float = CONFIDENCE,
) -> Table:
    """Return the table of what is shown beside the gates, with lines about tasks at its end.

    pass@k for each k where there are several samples; pass@k of each set where there are several;
    the share of degenerate answers; perplexity of the canonical solutions. (The share of whole
    programs is a metric, `parse.rate`.)
    `two_states`: base and tested model differ.
    """
    tasks = [row for row in rows if isinstance(row, TaskRow)]
    lines = [*_passed(tasks, two_states, confidence), *_degenerate(tasks), *_perplexity(tasks)]
    head = ["also measured", "base", "tested", "n", f"{percent(confidence)} bound"]
    return [*(table or [head] if lines else table), *lines]


def _passed(tasks: Sequence[TaskRow], two_states: bool, confidence: float) -> Table:
    if not tasks:
        return []
    ks = tasks[0].ks
    wanted: list[tuple[str, Sequence[TaskRow], int]] = []
    if ks != (1,) or len(tasks[0].base_samples) > 1:
        wanted += [(f"pass@{k}", tasks, k) for k in ks]
    wanted += [(f"pass@{ks[0]}{group}", part, ks[0]) for group, part in _groups(tasks) if group]
    found = (pass_at(name, part, k, confidence, two_states) for name, part, k in wanted)
    return [[share.name, *share.cells] for share in found if share]


def _groups(tasks: Sequence[TaskRow]) -> list[tuple[str, list[TaskRow]]]:
    """Return the rows of each set or file, with its name; all without a name if there is one."""
    groups: dict[str, list[TaskRow]] = {}
    for row in tasks:
        groups.setdefault(row.group, []).append(row)
    if len(groups) < 2:
        return [("", list(tasks))]
    return [(f" {name}", part) for name, part in groups.items()]


def _degenerate(tasks: Sequence[TaskRow]) -> Table:
    pairs = [
        (row.base_degenerate, row.unlearned_degenerate)
        for row in tasks
        if row.base_degenerate is not None and row.unlearned_degenerate is not None
    ]
    if not pairs:
        return []
    cells = [f"{fmean(column):.1%}" for column in zip(*pairs, strict=True)]
    return [["solutions: degenerate", *cells, str(len(pairs)), "-"]]


def _perplexity(tasks: Sequence[TaskRow]) -> Table:
    """Return exp of the mean loss a token, on solutions that both models scored."""
    lines = []
    for group, part in _groups([row for row in tasks if row.base_loss and row.unlearned_loss]):
        if not part:
            continue
        cells = []
        for state in ("base_loss", "unlearned_loss"):
            losses = [getattr(row, state) for row in part]
            mean = math.fsum(loss for loss, _ in losses) / sum(tokens for _, tokens in losses)
            cells.append(f"{math.exp(min(mean, 700.0)):.4g}")
        lines.append([f"solutions: perplexity{group}", *cells, str(len(part)), "-"])
    return lines
