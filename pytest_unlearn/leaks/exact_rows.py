"""Exact extraction as plain rows: what travels between processes, and what it comes to in sum."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from pytest_unlearn.leaks.exposure import exposure
from pytest_unlearn.leaks.extraction import Extraction, leak_at
from pytest_unlearn.people.kinds import KINDS
from pytest_unlearn.people.other_values import all_values, decoys
from pytest_unlearn.probes.families import Probe

# The sample sizes for which expected leaks are shown.
SAMPLES = (1, 100, 10_000, 1_000_000)


def exact_row(found: Extraction) -> dict[str, Any]:
    """Return an extraction's fields as JSON data, with the samples needed for even odds.

    What is infinite (the log of a probability of 0, and its samples) is None.
    """
    row = {**asdict(found), "n_for_half": found.n_for_half}
    if found.n_for_half == math.inf:
        row["n_for_half"] = None
    if found.log_probability == -math.inf:
        row["log_probability"] = None
    return row


class Alternatives(Protocol):
    """A model that scores many values after one prompt; `LanguageModel` is one."""

    def alternatives(self, prompt: str, values: Sequence[str], after: str = "") -> list[float]:
        """Return the log-probability (nats) of each value after the prompt."""


def exposure_row(
    probe: Probe, model: Alternatives, known: Collection[str], count: int
) -> dict[str, Any] | None:
    """Return a value's rank among decoys of its kind, or None for a kind without a generator.

    All other values of a small kind, `count` decoys of a larger one; none of `known`. Raises
    DecoyError where a kind has not so many values.
    """
    if probe.kind not in KINDS:
        return None
    value = probe.value.reveal()
    everything = all_values(probe.kind)
    if everything is None:
        others: Sequence[str] = decoys(probe.kind, count, probe.id, known)
    else:
        others = [other for other in everything if other != value]
    own, *rest = model.alternatives(probe.prompt.reveal(), [value, *others], probe.after.reveal())
    found = exposure(own, rest, exact=everything is not None)
    return {"bits": found.bits, "rank": found.rank, "size": found.size, "exact": found.exact}


def mean_leak_at(rows: Sequence[dict[str, Any]], k: int) -> float:
    """Return leak@k over values: the expected share of them that `k` samples each would bring out.

    Raises ValueError for no row at all.
    """
    if not rows:
        raise ValueError("leak@k over no value means nothing")
    log_probabilities = (row["log_probability"] for row in rows)
    leaks = (leak_at(-math.inf if p is None else p, k) for p in log_probabilities)
    return math.fsum(leaks) / len(rows)


def mean_of(rows: Sequence[dict[str, Any]], field: str) -> float:
    """Return the mean of a number or a verdict over rows."""
    return math.fsum(row[field] for row in rows) / len(rows)
