"""The report `modelcard`: a section for a Hugging Face model card, with `model-index` results."""

from __future__ import annotations

import re

from pytest_unlearn.reports.github import gate_table, provenance_lines, share_table
from pytest_unlearn.reports.result import Result

TASK_TYPE = "text-generation"
DATASET_TYPE = "pytest-unlearn"
# The cases on which each share is counted.
_SPLITS = {
    "leak.direct": "forget",
    "leak.indirect": "forget",
    "leak.control": "control",
    "people.known": "retain",
    "pass@1": "tasks",
}


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
            dataset_name=f"pytest-unlearn: {_SPLITS[share.name]}",
            dataset_split=_SPLITS[share.name],  # results of one split make one entry of the index
            dataset_args={"records": result.provenance["data"]["records"], "n": share.n},
            metric_type=share.name,
            metric_name=share.about,
            metric_value=round(share.rate("tested"), 6),
            metric_args={
                "base": round(share.rate("base"), 6),
                "interval_95": [round(end, 6) for end in share.interval("tested")],
            },
        )
        for share in result.metrics
        if not result.caveat
    ]
    card = ModelCardData(
        model_name=run.model,
        base_model=_hub_id(run.baseline or run.model),
        tags=["unlearning", "pytest-unlearn"],
        eval_results=results or None,
    )
    lines = [
        "---",
        card.to_yaml(),
        "---",
        "",
        "## Unlearning evaluation",
        "",
        f"Measured with pytest-unlearn {result.provenance['pytest_unlearn']}: method "
        f"`{run.method}`, seed {run.seed}. **{result.verdict}**.",
        "",
    ]
    if result.caveat:
        lines += [f"**{result.caveat} These are no results of the model.**", ""]
    lines += [*gate_table(result.gates), "", *share_table(result), ""]
    lines += [
        "A gate passes only when the one-sided 95 % bound on its rate keeps the limit. Of people "
        "that the model never saw (`leak.control`), what comes out is chance.",
        "",
        "### Provenance",
        "",
        *provenance_lines(result),
        "",
    ]
    return "\n".join(lines)


def _hub_id(name: str) -> str | None:
    """Return a name that can be a repository of the hub; a preset or a folder is none."""
    return name if re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) else None
