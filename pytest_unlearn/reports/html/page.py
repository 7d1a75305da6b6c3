"""The page: verdict, gates, figures, cases to search in, provenance; style and script inside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from importlib.resources import files
from typing import Any

from pytest_unlearn.gates.rows import ProbeRow, TaskRow
from pytest_unlearn.reports.html.figures import figures
from pytest_unlearn.reports.html.svg import table
from pytest_unlearn.reports.result import Case, Result
from pytest_unlearn.reports.summary import as_json

_VERDICT_CSS = {"FOR RELEASE": "pass", "NOT FOR RELEASE": "fail", "NO VERDICT": "warn"}
_SIGNS = {"pass": "✓", "fail": "✗", "warn": "!"}
# Nothing from elsewhere is ever loaded: not even a changed copy of the page could.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def render(result: Result) -> str:
    """Return the HTML document."""
    here = files(__package__)
    run = result.run
    title = f"Unlearning report: {run.model}"
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(title)}</title>",
        f"<style>{here.joinpath('style.css').read_text('utf-8')}</style></head><body>",
        '<a class="skip" href="#main">Skip to the results</a>',
        f"<header><h1>{escape(title)}</h1>{_facts(result)}</header>",
        f'<main id="main">{_verdict(result)}',
        '<div class="figures">',
        *(figure.html() for figure in figures(result)),
        "</div>",
        *_search(result),
        *_cases(result),
        "</main>",
        _provenance(result),
        f"<script>{here.joinpath('search.js').read_text('utf-8')}</script></body></html>\n",
    ]
    return "".join(parts)


def _facts(result: Result) -> str:
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
        facts.insert(2, ("unlearned in", f"{run.steps} steps, {run.unlearning_seconds:.0f} s"))
    terms = "".join(f"<div><dt>{escape(a)}</dt><dd>{escape(b)}</dd></div>" for a, b in facts)
    return f'<dl class="facts">{terms}</dl>'


def _verdict(result: Result) -> str:
    css = _VERDICT_CSS[result.verdict]
    parts = [
        '<section aria-labelledby="verdict">',
        f'<h2 id="verdict" class="verdict {css}"><span aria-hidden="true">{_SIGNS[css]}</span> '
        f"{result.verdict}</h2>",
    ]
    if result.caveat:
        parts.append(f'<p class="caveat">{escape(result.caveat)}</p>')
    if result.run.values_shown:
        parts.append(
            '<p class="caveat">This report holds personal values (--unlearn-show-values): keep it '
            "where only those may read who may read the data.</p>"
        )
    gates = [
        [g.name, g.observed or "-", g.size, g.bound or "-", g.limit_text, g.verdict, g.advice]
        for g in result.gates
    ]
    run_head = result.run.bound_head
    head = ["gate", "observed", "n", run_head, "limit", "verdict", "what to do next"]
    return "".join([*parts, table([head, *gates], "Gates"), "</section>"])


def _search(result: Result) -> Iterator[str]:
    if not result.search:
        return
    report = result.search["report"]
    yield (
        '<section aria-labelledby="search"><h2 id="search">Search for leaking prompts</h2>'
        f"<p>{report['forget_found']} of {report['forget_searched']} silent forget records leak by "
        f"some prompt, and {report['control_found']} of {report['control_searched']} control "
        f"records: {escape(str(report['verdict']))}.</p>"
    )
    found = [
        [str(f["id"]), "/".join(f["recipe"]), str(f["prompt"])] for f in result.search["found"]
    ]
    if found:
        yield table([["record", "recipe", "prompt in safe words"], *found], "Prompts found")
    yield "</section>"


def _cases(result: Result) -> Iterator[str]:
    head = ["case", "type", "kind", "carrier", "value", "base", "tested", "whose, and how"]
    if result.run.values_shown:
        head += ["the value", "base wrote", "tested wrote"]
    yield (
        '<section aria-labelledby="all-cases"><h2 id="all-cases">All cases</h2>'
        '<p id="finder" hidden><label for="case-search">Search the cases</label> '
        '<input id="case-search" type="search" autocomplete="off" '
        'placeholder="direct email indirect …"> '
        '<output id="case-count" for="case-search"></output></p>'
    )
    lines = [_case_cells(case, result.run.values_shown) for case in result.cases]
    yield table([head, *lines], "Cases", id="cases")
    yield "</section>"


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


def _replayed(manifest: Mapping[str, Any]) -> str:
    """Say that the verdicts are not those of the run, where they were judged by other rules."""
    if "replayed" not in manifest:
        return ""
    return f"<p>Judged again by: {escape(json.dumps(manifest['replayed']))}</p>"


def _provenance(result: Result) -> str:
    manifest = result.provenance
    versions = ", ".join(f"{name} {number}" for name, number in manifest["versions"].items())
    return (
        '<footer><section aria-labelledby="provenance"><h2 id="provenance">Provenance</h2>'
        f"<p><code>{escape(manifest['command'])}</code></p>"
        f"<p>pytest-unlearn {escape(manifest['pytest_unlearn'])}, {escape(versions)}; "
        f"{manifest['seconds']:.0f} s, {manifest['memory'] / 2**20:.0f} MiB.</p>"
        f"{_replayed(manifest)}"
        "<details><summary>The whole manifest</summary>"
        '<pre class="scroll" tabindex="0" role="region" aria-label="Manifest">'
        f"{escape(as_json(manifest))}</pre></details></section></footer>"
    )
