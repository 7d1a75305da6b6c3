"""The report `modelcard`: a section for a Hugging Face model card, with `model-index` results."""

from __future__ import annotations

import re

from pytest_unlearn.core.errors import plain
from pytest_unlearn.gates.case_rows import TaskRow
from pytest_unlearn.gates.estimates import percent
from pytest_unlearn.gates.metrics import METRICS
from pytest_unlearn.reports.github import attacked_lines, gate_table, provenance_lines, share_table
from pytest_unlearn.reports.rendering import rendered
from pytest_unlearn.run.result import Result

TASK_TYPE = "text-generation"
DATASET_TYPE = "pytest-unlearn"


def render(result: Result) -> str:
    """Return metadata (YAML, made by huggingface_hub's own classes) and the section.

    A run that was not whole gives no results for the index: a leaderboard could not tell them.
    """
    from huggingface_hub import EvalResult, ModelCardData

    run = result.run
    results = [
        EvalResult(
            task_type=TASK_TYPE,
            task_name="Code generation after unlearning",
            dataset_type=DATASET_TYPE,
            dataset_name=f"pytest-unlearn: {_split(share.name)}",
            dataset_split=_split(share.name),  # results of one split make one entry of the index
            dataset_args={"records": result.provenance["data"]["records"], "n": share.n},
            metric_type=_metric_type(share.name, result),
            metric_name=share.about,
            metric_value=round(share.rate("tested"), 6),
            metric_args={
                "base": round(share.rate("base"), 6),
                "confidence": share.confidence,  # of each bound by itself
                "bounds": [round(end, 6) for end in share.interval("tested")],
                "units": share.units,
            },
        )
        for share in result.metrics
        if not result.caveat
    ]
    card = ModelCardData(
        model_name=plain(run.model),
        base_model=_hub_id(run.baseline or run.model),
        tags=["unlearning", "pytest-unlearn"],
        eval_results=results or None,
    )
    return rendered(
        "card.md",
        metadata=card.to_yaml(),
        result=result,
        run=run,
        gates=gate_table(result),
        shares=share_table(result),
        attacked=attacked_lines(result),
        confidence=percent(run.confidence),
        provenance=provenance_lines(result),
    )


def _split(name: str) -> str:
    """Return the cases on which a metric is counted."""
    return METRICS[name].split or "tasks"


def _metric_type(name: str, result: Result) -> str:
    """Return the name that the hub knows: pass@k is one, what is retained of it is not."""
    if not name.startswith("passk."):
        return name
    ks = {row.ks[0] for row in result.rows if isinstance(row, TaskRow)}
    return f"pass@{min(ks)}"


def _hub_id(name: str) -> str | None:
    """Return a name that can be a repository of the hub; a preset or a folder is none."""
    return name if re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) else None
