"""The page: verdict, gates, figures, cases to search in, provenance; style and script inside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any

from pytest_unlearn.gates.case_rows import ProbeRow, TaskRow
from pytest_unlearn.reports.comparison import side_by_side, standings
from pytest_unlearn.reports.findings import beside_gates, sentences, term_of, terms
from pytest_unlearn.reports.html import figures
from pytest_unlearn.reports.html.charts import WIDTH, Figure
from pytest_unlearn.reports.html.figures import pareto
from pytest_unlearn.reports.html.request_curves import request_figures
from pytest_unlearn.reports.rendering import rendered
from pytest_unlearn.reports.robustness import attack_sentences, attack_tables
from pytest_unlearn.reports.summary import as_json
from pytest_unlearn.reports.sustainability import stages
from pytest_unlearn.run.result import Case, Result, verdict_of_all

_VERDICT_CSS = {"FOR RELEASE": "pass", "NOT FOR RELEASE": "fail", "NO VERDICT": "warn"}
_SIGNS = {"pass": "✓", "fail": "✗", "warn": "!"}


def render(result: Result) -> str:
    """Return the HTML document."""
    return _page(f"Unlearning report: {result.run.model}", _facts(result), [result])


def render_sweep(results: Sequence[Result]) -> str:
    """Return the HTML document of a sweep: the pairs side by side, the Pareto plot, each pair.

    Of erasure requests, the curves over these in the plot's place.
    """
    tables, sentence = side_by_side(results)
    requests = stages(results)
    what = "models, one after each request" if requests else "pairs of model and method"
    plot = pareto(standings(results))
    return _page(
        f"Unlearning report: {len(results)} {what}",
        _sweep_facts(results),
        results,
        tables=tables,
        plots=list(request_figures(requests)) if requests else [plot] if plot else [],
        sentence=sentence,
    )


def _page(
    title: str, facts: Sequence[tuple[str, str]], results: Sequence[Result], **more: Any
) -> str:
    here = files(__package__)
    manifest = results[0].provenance
    whole = manifest
    if results[0].pair is not None:
        whole = {result.label: result.provenance for result in results}
    return rendered(
        "page.html",
        title=title,
        facts=facts,
        results=results,
        sweeps=results[0].pair is not None,
        verdict=verdict_of_all(results) if results[0].pair else results[0].verdict,
        css=_VERDICT_CSS,
        signs=_SIGNS,
        width=WIDTH,
        shows_values=any(result.run.values_shown for result in results),
        gates=_gates,
        sentences=sentences,
        beside=beside_gates,
        terms=terms(results[0]),
        term_of=term_of,
        figures=_figures,
        attacks=lambda result: attack_tables(result.rows, result.run.confidence),
        attack_sentences=attack_sentences,
        found_prompts=_found_prompts,
        cases=_cases(results),
        manifest=manifest,
        versions=", ".join(f"{name} {number}" for name, number in manifest["versions"].items()),
        replayed=json.dumps(manifest.get("replayed")),
        whole_manifest=as_json(whole),
        style=here.joinpath("style.css").read_text("utf-8"),
        script=here.joinpath("search.js").read_text("utf-8"),
        **more,
    )


def _facts(result: Result) -> list[tuple[str, str]]:
    run = result.run
    facts = [
        ("method", run.method),
        ("seed", str(run.seed)),
        ("cases measured", f"{len(result.rows)} of {run.expected}"),
        ("started", result.provenance["started"]),
    ]
    if run.baseline:
        facts.insert(1, ("compared with", run.baseline))
    if run.steps is not None:
        facts.insert(
            2, ("unlearned by", f"{run.steps} steps, made in {run.unlearning_seconds:.0f} s")
        )
    return facts


def _sweep_facts(results: Sequence[Result]) -> list[tuple[str, str]]:
    measured = sum(len(result.rows) for result in results)
    expected = sum(result.run.expected for result in results)
    return [
        ("pairs", str(len(results))),
        ("seed", str(results[0].run.seed)),
        ("cases measured", f"{measured} of {expected}"),
        ("started", results[0].provenance["started"]),
    ]


def _figures(result: Result, at: str) -> Iterator[Figure]:
    """Yield a result's figures; in a sweep with the pair in their names."""
    for figure in figures.figures(result):
        if at:
            title = f"{result.label}: {figure.title}"
            figure = replace(figure, id=f"{at}-{figure.id}", title=title)
        yield figure


def _gates(result: Result) -> list[list[str]]:
    head = ["gate", "observed", "n", result.run.bound_head, "limit", "verdict", "what to do next"]
    return [
        head,
        *(
            [g.name, g.observed or "-", g.size, g.bound or "-", g.limit_text, g.verdict, g.advice]
            for g in result.gates
        ),
    ]


def _found_prompts(result: Result) -> list[list[str]]:
    assert result.search is not None
    return [
        ["record", "recipe", "prompt in safe words"],
        *(
            [str(found["id"]), "/".join(found["recipe"]), str(found["prompt"])]
            for found in result.search["found"]
        ),
    ]


def _cases(results: Sequence[Result]) -> list[list[str]]:
    shown, sweeps = results[0].run.values_shown, results[0].pair is not None
    head = ["case", "type", "kind", "carrier", "value", "base", "tested", "whose, and how"]
    if shown:
        head += ["the value", "base wrote", "tested wrote"]
    if sweeps:
        head.insert(1, "pair")
    table = [head]
    for result in results:
        for case in result.cases:
            if case.about.get("attack"):  # in sum in a table of their own: there may be many
                continue
            name, *cells = _case_cells(case, shown)
            table.append([name, *([result.label] if sweeps else []), *cells])
    return table


def _case_cells(case: Case, values_shown: bool) -> list[str]:
    row = case.row
    if isinstance(row, ProbeRow):
        outcome = row.unlearned
        whose = ", ".join(
            str(outcome[key]) for key in ("relation", "kind", "owner", "how") if outcome.get(key)
        )
        kind = f"{row.split} probe" + ("" if row.family == "direct" else f", {row.family}")
        cells = [case.id, kind, row.kind, row.carrier, case.shown]
        cells += [row.base["label"], outcome["label"], whose]
    elif isinstance(row, TaskRow):
        cells = [case.id, "task", "", "", "", row.base, row.unlearned, ""]
    else:
        cells = [case.id, "probe" if case.shown else "task", "", "", case.shown]
        cells += [case.status, case.status, ""]
    if values_shown:
        cells += [case.value or "", case.base_text or "", case.tested_text or ""]
    return cells
