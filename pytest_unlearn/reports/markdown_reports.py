"""Reports in Markdown: GitHub's job summary and annotations, and a section for a model card."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytest_unlearn.core.errors import plain
from pytest_unlearn.gates.case_rows import TaskRow
from pytest_unlearn.gates.estimates import percent
from pytest_unlearn.gates.metrics import METRICS
from pytest_unlearn.reports.comparison import side_by_side
from pytest_unlearn.reports.robustness import attack_legend, attack_sentences, attack_tables
from pytest_unlearn.reports.tables import (
    code,
    forget_rows,
    markdown,
    markdown_table,
    relations,
    rendered,
)
from pytest_unlearn.run.result import GateFact, Result, verdict_of_all

_MARKS = {"PASS": "✅", "FAIL": "❌"}
_OTHER_MARK = "⚠️"


def render_summary(result: Result) -> str:
    """Return the Markdown: verdict, gates, shares before and after, the manifest collapsed."""
    return rendered(
        "summary.md",
        result=result,
        run=result.run,
        gates=gate_table(result, marked=True),
        shares=share_table(result),
        attacked=attacked_lines(result),
        relations=relations(forget_rows(result.rows)),
        advice=[(gate.name, gate.advice) for gate in result.gates if gate.advice],
        provenance=provenance_lines(result),
    )


def render_summary_sweep(results: Sequence[Result]) -> str:
    """Return the Markdown of a sweep: the pairs side by side, then each one collapsed."""
    tables, sentence = side_by_side(results)
    return rendered(
        "sweep.md",
        verdict=verdict_of_all(results),
        pairs=len(results),
        sentence=plain(sentence),
        tables=[
            markdown_table(head, [map(markdown, row) for row in rows]) for head, *rows in tables
        ],
        results=[(result, render_summary(result)) for result in results],
    )


def gate_table(result: Result, marked: bool = False) -> list[str]:
    """Return the gates as a Markdown table. `marked`: with a sign before each verdict."""
    return markdown_table(
        ["gate", "observed", "n", result.run.bound_head, "limit", "verdict"],
        [
            [
                code(gate.name, cell=True),
                gate.observed or "-",
                gate.size,
                gate.bound or "-",
                gate.limit_text,
                f"{_MARKS.get(gate.verdict, _OTHER_MARK)} {gate.verdict}"
                if marked
                else gate.verdict,
            ]
            for gate in result.gates
        ],
    )


def share_table(result: Result) -> list[str]:
    """Return the shares before and after, with their bounds, as a Markdown table."""
    return markdown_table(
        ["measured", "base", "tested", "n", result.run.bound_head],
        [[code(share.name, cell=True), *share.cells] for share in result.metrics],
    )


def attacked_lines(result: Result) -> list[str]:
    """Return what an attacker gets: sentences, and Markdown tables if anything was tried."""
    lines = [plain(" ".join(attack_sentences(result.run, result.rows)))]
    tables = [*attack_tables(result.rows, result.run.confidence), attack_legend(result.rows)]
    for head, *rows in filter(None, tables):
        lines += ["", *markdown_table(head, [map(markdown, row) for row in rows])]
    return lines


def provenance_lines(result: Result) -> list[str]:
    """Return the manifest as a Markdown list: digests, settings, versions, where, when, how long.

    Settings without a value are left out, and digests are shortened; `summary` has everything.
    """
    manifest = result.provenance
    settings = {name: value for name, value in manifest["settings"].items() if value}
    lines = [f"- command: {code(manifest['command'])}"]
    for state, key in manifest["models"].items():
        facts = ", ".join(f"{name} {code(_short(value))}" for name, value in key.items() if value)
        lines.append(f"- {state} model: {facts}")
    data = manifest["data"]
    lines += [
        f"- data: records `{data['records'][:12]}`, tasks `{data['tasks'][:12]}`",
        *(f"- file {code(file['name'])}: `{_short(file['sha256'])}`" for file in data["files"]),
        f"- settings: {_code(settings)}",
        f"- started {manifest['started']}, {manifest['seconds']:.0f} s, {_memory(manifest)}",
        *(f"- {p['name']}: {p['seconds']:.1f} s, {_memory(p)}" for p in manifest["phases"]),
        f"- pytest-unlearn {manifest['pytest_unlearn']}, "
        + ", ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
        f"- Python {manifest['host']['python']} on {manifest['host']['system']}, "
        f"{manifest['host']['processor']}",
    ]
    if "replayed" in manifest:
        lines.append(f"- judged again by: {_code(manifest['replayed'])}")
    return lines


def _memory(cost: Mapping[str, Any]) -> str:
    text = f"memory {cost['memory'] / 2**20:.0f} MiB"
    return (
        text if cost["gpu_memory"] is None else f"{text}, GPU {cost['gpu_memory'] / 2**20:.0f} MiB"
    )


def _code(data: Any) -> str:
    """Return JSON data as code in a line of Markdown."""
    return code(json.dumps(data))


def annotate(gates: Iterable[GateFact], pair: str = "") -> list[str]:
    """Return GitHub's workflow commands, shown on the run: an error for each gate that blocks, a
    warning for each undecided gate that does not.

    `pair`: the pair of a sweep that the gates belong to.
    """
    where = f" @ {pair}" if pair else ""
    return [
        f"::{'error' if gate.blocks else 'warning'} "
        f"title={_escaped(f'unlearn {gate.name}{where}', property=True)}::"
        + _escaped(f"{gate.verdict}: {gate.text}; observed {gate.observed or '-'} of {gate.n}")
        + (_escaped(f"; {gate.advice}") if gate.advice else "")
        for gate in gates
        if gate.blocks or gate.verdict == "UNDECIDED"
    ]


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text  # a SHA-256


def _escaped(text: str, property: bool = False) -> str:
    """Escape a line as GitHub's toolkit does (`packages/core/src/command.ts`)."""
    text = plain(text).replace("%", "%25")
    return text.replace(":", "%3A").replace(",", "%2C") if property else text


TASK_TYPE = "text-generation"
DATASET_TYPE = "pytest-unlearn"


def render_card(result: Result) -> str:
    """Return metadata (YAML, made by huggingface_hub's own classes) and the section.

    An incomplete run gives no results for the index: a leaderboard could not tell the difference.
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
    """Return the name that the hub knows: it has pass@k, but not the share of it retained."""
    if not name.startswith("passk."):
        return name
    ks = {row.ks[0] for row in result.rows if isinstance(row, TaskRow)}
    return f"pass@{min(ks)}"


def _hub_id(name: str) -> str | None:
    """Return a name that can be a repository on the hub; None for a preset or a folder."""
    return name if re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) else None
