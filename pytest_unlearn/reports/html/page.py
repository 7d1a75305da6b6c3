"""The page: verdict, gates, figures, cases to search in, provenance; style and script inside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from typing import Any

from pytest_unlearn.gates.case_rows import ProbeRow, TaskRow
from pytest_unlearn.reports.comparison import front_sentence, standings, sweep_table
from pytest_unlearn.reports.html.figures import figures
from pytest_unlearn.reports.html.pareto import pareto
from pytest_unlearn.reports.html.svg import table
from pytest_unlearn.reports.summary import as_json
from pytest_unlearn.run.result import Case, Result, verdict_of_all

_VERDICT_CSS = {"FOR RELEASE": "pass", "NOT FOR RELEASE": "fail", "NO VERDICT": "warn"}
_SIGNS = {"pass": "✓", "fail": "✗", "warn": "!"}
# Nothing from elsewhere is ever loaded: not even a changed copy of the page could.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def render(result: Result) -> str:
    """Return the HTML document."""
    return _document(
        f"Unlearning report: {result.run.model}",
        _facts(result),
        [
            _verdict(result),
            '<div class="figures">',
            *(figure.html() for figure in figures(result)),
            "</div>",
            *_search(result),
            *_cases([result]),
        ],
        _provenance([result]),
    )


def render_sweep(results: Sequence[Result]) -> str:
    """Return the HTML document of a sweep: the pairs side by side, the Pareto plot, each pair."""
    found = standings(results)
    plot = pareto(found)
    return _document(
        f"Unlearning report: {len(results)} pairs of model and method",
        _sweep_facts(results),
        [
            '<section aria-labelledby="verdict">',
            _heading("verdict", verdict_of_all(results)),
            *_warned(results),
            table(sweep_table(found), "Pairs"),
            "</section>",
            plot.html() if plot else f"<p>{escape(front_sentence(found))}.</p>",
            *(_pair(number, result) for number, result in enumerate(results, 1)),
            *_cases(results),
        ],
        _provenance(results),
    )


def _document(title: str, facts: str, main: Iterable[str], footer: str) -> str:
    here = files(__package__)
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(title)}</title>",
        f"<style>{here.joinpath('style.css').read_text('utf-8')}</style></head><body>",
        '<a class="skip" href="#main">Skip to the results</a>',
        f"<header><h1>{escape(title)}</h1>{facts}</header>",
        '<main id="main">',
        *main,
        "</main>",
        footer,
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
    return _terms(facts)


def _sweep_facts(results: Sequence[Result]) -> str:
    first = results[0]
    measured, expected = (
        sum(len(result.rows) for result in results),
        sum(result.run.expected for result in results),
    )
    return _terms(
        [
            ("pairs", str(len(results))),
            ("seed", str(first.run.seed)),
            ("cases measured", f"{measured} of {expected}"),
            ("started", first.provenance["started"]),
        ]
    )


def _terms(facts: Iterable[tuple[str, str]]) -> str:
    terms = "".join(f"<div><dt>{escape(a)}</dt><dd>{escape(b)}</dd></div>" for a, b in facts)
    return f'<dl class="facts">{terms}</dl>'


def _heading(id: str, verdict: str, of: str = "") -> str:
    css = _VERDICT_CSS[verdict]
    before = f"{escape(of)}: " if of else ""
    return (
        f'<h2 id="{id}" class="verdict {css}"><span aria-hidden="true">{_SIGNS[css]}</span> '
        f"{before}{verdict}</h2>"
    )


def _warned(results: Iterable[Result]) -> Iterator[str]:
    if any(result.run.values_shown for result in results):
        yield (
            '<p class="caveat">This report holds personal values (--unlearn-show-values): keep it '
            "where only those may read who may read the data.</p>"
        )


def _verdict(result: Result) -> str:
    return "".join(
        [
            '<section aria-labelledby="verdict">',
            _heading("verdict", result.verdict),
            *_caveat(result),
            *_warned([result]),
            _gates(result, "Gates"),
            "</section>",
        ]
    )


def _caveat(result: Result) -> Iterator[str]:
    if result.caveat:
        yield f'<p class="caveat">{escape(result.caveat)}</p>'


def _pair(number: int, result: Result) -> str:
    """Return the section of a sweep's pair: its gates, and its figures folded away."""
    at = f"pair-{number}"
    drawn = (
        replace(figure, id=f"{at}-{figure.id}", title=f"{result.label}: {figure.title}").html()
        for figure in figures(result)
    )
    return "".join(
        [
            f'<section aria-labelledby="{at}">',
            _heading(at, result.verdict, result.label),
            *_caveat(result),
            _gates(result, f"Gates of {result.label}"),
            f"<details><summary>{escape(result.label)}: the figures</summary>",
            '<div class="figures">',
            *drawn,
            "</div></details></section>",
            *_search(result, f"{at}-search"),
        ]
    )


def _gates(result: Result, name: str) -> str:
    gates = [
        [g.name, g.observed or "-", g.size, g.bound or "-", g.limit_text, g.verdict, g.advice]
        for g in result.gates
    ]
    bound = result.run.bound_head
    head = ["gate", "observed", "n", bound, "limit", "verdict", "what to do next"]
    return table([head, *gates], name)


def _search(result: Result, id: str = "search") -> Iterator[str]:
    if not result.search:
        return
    report = result.search["report"]
    yield (
        f'<section aria-labelledby="{id}"><h2 id="{id}">Search for leaking prompts'
        f"{escape(f', {result.label}') if result.label else ''}</h2>"
        f"<p>{report['forget_found']} of {report['forget_searched']} silent forget records leak by "
        f"some prompt, and {report['control_found']} of {report['control_searched']} control "
        f"records: {escape(str(report['verdict']))}.</p>"
    )
    found = [
        [str(f["id"]), "/".join(f["recipe"]), str(f["prompt"])] for f in result.search["found"]
    ]
    if found:
        name = f"Prompts found, {result.label}" if result.label else "Prompts found"
        yield table([["record", "recipe", "prompt in safe words"], *found], name)
    yield "</section>"


def _cases(results: Sequence[Result]) -> Iterator[str]:
    shown, sweeps = results[0].run.values_shown, results[0].pair is not None
    head = ["case", "type", "kind", "carrier", "value", "base", "tested", "whose, and how"]
    if shown:
        head += ["the value", "base wrote", "tested wrote"]
    if sweeps:
        head.insert(1, "pair")
    yield (
        '<section aria-labelledby="all-cases"><h2 id="all-cases">All cases</h2>'
        '<p id="finder" hidden><label for="case-search">Search the cases</label> '
        '<input id="case-search" type="search" autocomplete="off" '
        'placeholder="direct email indirect …"> '
        '<output id="case-count" for="case-search"></output></p>'
    )
    lines = []
    for result in results:
        for case in result.cases:
            name, *cells = _case_cells(case, shown)
            lines.append([name, *([result.label] if sweeps else []), *cells])
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


def _provenance(results: Sequence[Result]) -> str:
    manifest = results[0].provenance
    whole = manifest
    if results[0].pair is not None:
        whole = {result.label: result.provenance for result in results}
    versions = ", ".join(f"{name} {number}" for name, number in manifest["versions"].items())
    return (
        '<footer><section aria-labelledby="provenance"><h2 id="provenance">Provenance</h2>'
        f"<p><code>{escape(manifest['command'])}</code></p>"
        f"<p>pytest-unlearn {escape(manifest['pytest_unlearn'])}, {escape(versions)}; "
        f"{manifest['seconds']:.0f} s, {manifest['memory'] / 2**20:.0f} MiB.</p>"
        f"{_replayed(manifest)}"
        "<details><summary>The whole manifest</summary>"
        '<pre class="scroll" tabindex="0" role="region" aria-label="Manifest">'
        f"{escape(as_json(whole))}</pre></details></section></footer>"
    )
