"""A gate's result as test reports, as pytest would make them for a test of that name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from pytest_unlearn.gates.estimates import percent
from pytest_unlearn.gates.verdicts import GateResult, Verdict
from pytest_unlearn.run.settings import Pair
from pytest_unlearn.session.collection import PAIR_PROPERTY

# A gate's verdict among the properties of its report.
VERDICT_PROPERTY = "unlearn_verdict"


def explain(result: GateResult, confidence: float) -> str:
    """Return a gate's verdict in one sentence."""
    parts = [f"{result.verdict.value}: {result.gate.text}"]
    if result.observed:
        parts.append(
            f"observed {result.observed} of {result.n}, {percent(confidence)} bound {result.bound}"
        )
    if result.advice:
        parts.append(result.advice)
    return "; ".join(parts)


def gate_reports(
    result: GateResult,
    source: Path,
    rootpath: Path,
    pair: Pair,
    confidence: float,
) -> Iterator[pytest.TestReport]:
    """Yield set-up, call and tear-down of a gate: passed, failed, or skipped.

    `source` is the file in which gates are set; annotations on a pull request land there. A gate
    that is not evaluated because only some tests were selected is skipped, as is one that is
    undecided where that is let through; every other verdict but PASS fails.
    """
    for when in ("setup", "call", "teardown"):
        yield _report(result, when, source, rootpath, pair, confidence)


def _report(
    result: GateResult, when: str, source: Path, rootpath: Path, pair: Pair, confidence: float
) -> pytest.TestReport:
    outcome: Literal["passed", "failed", "skipped"] = "passed"
    longrepr: Any = None
    if when == "call" and result.blocks:
        outcome, longrepr = "failed", explain(result, confidence)
    elif when == "call" and result.verdict is not Verdict.PASS:
        outcome, longrepr = "skipped", (str(source), 1, explain(result, confidence))
    name = f"gate[{pair.named(result.gate.name)}]"
    return pytest.TestReport(
        nodeid=f"unlearn::{name}",
        location=(
            os.path.relpath(source, rootpath) if source.is_absolute() else str(source),
            0,
            name,
        ),
        keywords={name: 1},
        outcome=outcome,
        longrepr=longrepr,
        when=when,  # type: ignore[arg-type]
        sections=[],
        duration=0.0,
        user_properties=[  # on all three, because JUnit reads them from the last
            (VERDICT_PROPERTY, result.verdict.value),
            ("unlearn_observed", result.observed),
            ("unlearn_bound", result.bound),
            ("unlearn_n", result.n),
            ("unlearn_units", result.units),
            ("unlearn_confidence", confidence),
            *([] if pair.alone else [(PAIR_PROPERTY, pair.label)]),
        ],
    )
