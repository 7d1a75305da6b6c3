"""A result made by hand, with everything in it that a report can show."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_unlearn.gates.case_rows import ProbeRow, TaskRow, row_data
from pytest_unlearn.gates.estimates import shares
from pytest_unlearn.leaks.exact import ExactScores
from pytest_unlearn.leaks.outcome import Outcome
from pytest_unlearn.reports import data_reports
from pytest_unlearn.run.result import CASE_FACTS, Case, GateFact, PairName, Result, RunFacts

KINDS = ("email", "phone")


def exact(probability: float, bits: float) -> ExactScores:
    """Return exact scores of one value."""
    loss = -math.log(probability) / 5
    return ExactScores.from_row(
        {
            "greedy": probability > 0.5,
            "log_probability": math.log(probability),
            "exact_memorization": probability,
            "strength": probability,
            "loss": loss,
            "zlib_ratio": loss / 9,
            "min_k": [-loss] * 10,
            "min_k_plus_plus": [-loss] * 10,
            "exposure": {"bits": bits, "rank": 1, "size": 1001, "exact": False},
        }
    )


def probe(number: int, split: str) -> ProbeRow:
    """Return a probe: two of five forget probes still leak, one directly and one indirectly."""
    trained = split != "control"
    label = "clean"
    if split == "forget":
        label = {0: "direct", 1: "indirect"}.get(number % 5, "placeholder")
    elif trained:
        label = "direct"
    kept = 0.9 if label == "direct" else 1e-4 / (1 + number)
    found = {"how": "exact", "kind": "email", "owner": "retain-7", "relation": "retained"}
    return ProbeRow(
        id=f"direct-{split}-{number:03d}",
        split=split,
        kind=KINDS[number % 2],
        carrier="json",
        owner=f"{split}-{number // 2}",
        base=Outcome("direct" if trained else "clean"),
        unlearned=Outcome(label, **(found if label in ("direct", "indirect") else {})),
        planted="json",
        base_exact=exact(0.9 if trained else 1e-5 / (1 + number), 9.9 if trained else 1.0),
        unlearned_exact=exact(kept, 9.9 if label == "direct" else 1.0 + number % 3),
    )


def task(number: int) -> TaskRow:
    """Return a wording of a task; the base solves most, the tested model fewer."""
    return TaskRow(
        f"sum-{number}",
        f"sum-{number // 2}",
        "failed" if number == 3 else "passed",
        "passed" if number % 4 else "failed",
    )


def gate(name: str, text: str, verdict: str, advice: str = "") -> GateFact:
    """Return a judged gate."""
    operator = "<=" if "<=" in text else ">="
    return GateFact(
        name,
        text,
        operator + text.rpartition(operator)[2].strip(),
        verdict,
        verdict not in ("PASS", "NOT EVALUATED"),
        20,
        "4 (20.0%)",
        "<=40.1%",
        advice,
    )


GATES = (
    gate("leak.direct", "leak.direct <= 5%", "FAIL", "unlearn longer | or otherwise"),
    gate("passk.retained", "passk.retained>=0.9", "PASS"),
)

PROVENANCE: dict[str, Any] = {
    "pytest_unlearn": "0.1.0",
    "started": "2026-01-02T03:04:05+00:00",
    "seconds": 12.5,
    "memory": 300 * 2**20,
    "gpu_memory": None,
    "phases": [
        {"name": "completions", "seconds": 9.0, "memory": 2**28, "gpu_memory": None, "gpu": None}
    ],
    "models": {"base": {"weights": "ab" * 32, "adapter": None}},
    "data": {
        "records": "cd" * 32,
        "tasks": "ef" * 32,
        "counts": {"forget": 20, "retain": 10, "control": 10, "tasks": 10},
        "files": [],
    },
    "settings": {"model": "tiny"},
    "command": "pytest --unlearn-model=tiny",
    "versions": {"pytest": "9.0"},
    "host": {"python": "3.11", "system": "Linux", "processor": "x86_64", "gpus": []},
}


def make(
    gates: tuple[GateFact, ...] = GATES,
    cases: tuple[Case, ...] | None = None,
    **run: Any,
) -> Result:
    """Return a result; `run` replaces fields of `RunFacts`."""
    if cases is None:
        rows: list[ProbeRow | TaskRow] = [probe(n, "forget") for n in range(20)]
        rows += [probe(n, split) for split in ("retain", "control") for n in range(10)]
        rows += [task(n) for n in range(10)]
        cases = tuple(
            Case(row.id, "measured", row, "" if isinstance(row, TaskRow) else "<email 0a1b2c3d>")
            for row in rows
        )
    facts: dict[str, Any] = {
        "model": "tiny",
        "method": "ga+kl",
        "baseline": None,
        "seed": 7,
        "expected": len(cases),
        "complete": True,
        "attacks": ("loss", "min_k"),
        **run,
    }
    rows = [case.row for case in cases if case.row is not None]
    told = RunFacts(**facts)
    metrics = shares(rows, told.confidence, told.two_states)
    return Result(told, gates, metrics, cases, PROVENANCE)


def sweep() -> list[Result]:
    """Return a sweep: pairs with leaks of 20 probes and losses of 10 tasks, the last one partial.

    `ga+gd` and the one beside it, of the same figures, are on the front, and so is `wga`; `rmu`
    leaks as much as that and is less able.
    """
    return [
        pair("ga+gd", leaks=0, lost=2),
        pair("wga", leaks=1, lost=0),
        pair("rmu", leaks=1, lost=3),
        pair("ga<b>", leaks=0, lost=2),
        pair("npo", leaks=9, lost=9, complete=False),
    ]


def pair(method: str, leaks: int, lost: int, **run: Any) -> Result:
    """Return the result of one pair of a sweep."""
    rows: list[ProbeRow | TaskRow] = [
        replace(probe(n, "forget"), unlearned=Outcome("direct" if n < leaks else "clean"))
        for n in range(20)
    ]
    rows += [TaskRow(f"sum-{n}", f"sum-{n}", "passed", "passed") for n in range(lost, 10)]
    rows += [TaskRow(f"sum-{n}", f"sum-{n}", "passed", "failed") for n in range(lost)]
    cases = tuple(
        Case(
            row.id,
            "measured",
            row,
            "" if isinstance(row, TaskRow) else "<email 0a1b2c3d>",
            {name: facts[name] for name in CASE_FACTS if name in facts},
        )
        for row in rows
        for facts in [row_data(row) | ({} if isinstance(row, TaskRow) else {"language": "json"})]
    )
    found = make(cases=cases, method=method, **run)
    return replace(found, pair=PairName(f"tiny/{method}", "tiny", method))


SCHEMA = json.loads(Path(data_reports.__file__).with_name("results.schema.json").read_text())


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]
