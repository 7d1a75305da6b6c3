"""The page: verdict, gates, figures, searchable cases, provenance, with style and script inside.

It begins with five sentences about what the run showed and what it did not, made from the run's own
facts for a reader who has to decide about a release; and it explains its words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any

from pytest_unlearn.gates.case_rows import ProbeRow, State, TaskRow
from pytest_unlearn.gates.estimates import percent, share
from pytest_unlearn.gates.metrics import METRICS
from pytest_unlearn.leaks.exact import mean_leak_at
from pytest_unlearn.reports.comparison import side_by_side, stages, standings
from pytest_unlearn.reports.data_reports import as_json
from pytest_unlearn.reports.html import figures
from pytest_unlearn.reports.html.charts import WIDTH, Figure
from pytest_unlearn.reports.html.figures import pareto, request_figures
from pytest_unlearn.reports.robustness import (
    SAMPLES,
    attack_figures,
    attack_legend,
    attack_sentences,
    attack_tables,
)
from pytest_unlearn.reports.tables import (
    Table,
    exact_scores,
    forget_rows,
    membership_aucs,
    rendered,
)
from pytest_unlearn.run.result import Case, Result, verdict_of_all

_VERDICT_CSS = {"FOR RELEASE": "pass", "NOT FOR RELEASE": "fail", "NO VERDICT": "warn"}
_SIGNS = {"pass": "✓", "fail": "✗", "warn": "!"}


def render(result: Result) -> str:
    """Return the HTML document."""
    return _page(f"Unlearning report: {result.run.model}", _facts(result), [result])


def render_sweep(results: Sequence[Result]) -> str:
    """Return the HTML document of a sweep: the pairs side by side, the Pareto plot, each pair.

    For erasure requests, curves over the requests take the place of the plot.
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
    whole_manifest = manifest
    if results[0].pair is not None:
        whole_manifest = {result.label: result.provenance for result in results}
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
        attacks=_attack_tables,
        attack_sentences=attack_sentences,
        found_prompts=_found_prompts,
        cases=_cases(results),
        manifest=manifest,
        versions=", ".join(f"{name} {number}" for name, number in manifest["versions"].items()),
        replayed=json.dumps(manifest.get("replayed")),
        whole_manifest=as_json(whole_manifest),
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
    """Yield a result's figures; in a sweep, with the pair in their names."""
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
            [str(prompt["id"]), "/".join(prompt["recipe"]), str(prompt["prompt"])]
            for prompt in result.search["found"]
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
            if case.about.get("attack"):  # there may be many; their own table sums them up
                continue
            name, *cells = _case_cells(case, shown)
            table.append([name, *([result.label] if sweeps else []), *cells])
    return table


def _case_cells(case: Case, values_shown: bool) -> list[str]:
    row = case.row
    if isinstance(row, ProbeRow):
        outcome = row.unlearned
        parts = (outcome.relation, outcome.kind, outcome.owner, outcome.how)
        whose = ", ".join(part for part in parts if part)
        kind = f"{row.split} probe" + ("" if row.family == "direct" else f", {row.family}")
        cells = [case.id, kind, row.kind, row.carrier, case.shown]
        cells += [row.base.label, outcome.label, whose]
    elif isinstance(row, TaskRow):
        cells = [case.id, "task", "", "", "", row.base, row.unlearned, ""]
    else:
        cells = [case.id, "probe" if case.shown else "task", "", "", case.shown]
        cells += [case.status, case.status, ""]
    if values_shown:
        cells += [case.value or "", case.base_text or "", case.tested_text or ""]
    return cells


# The package's own model: it is made for tests, and says nothing about other models.
_INSTRUMENT = "tiny"
_STATES: tuple[tuple[str, str, State], ...] = (
    ("base", "forget", "base"),
    ("tested", "forget", "unlearned"),
    ("never seen", "control", "unlearned"),
)


def sentences(result: Result) -> list[str]:
    """Return five sentences: what was tested, what came out, what sampling and what attacks bring
    out, and what remains open."""
    return [_tested(result), _came_out(result), _sampled(result), _attacked(result), _open(result)]


def _tested(result: Result) -> str:
    run = result.run
    how = f"unlearned by {run.method}"
    if run.method == "none":
        how = "as it is" if run.baseline is None else f"compared with {run.baseline}"
    elif run.baseline is not None:
        how += f" and compared with {run.baseline}"
    if run.model == _INSTRUMENT:
        return (
            f"This run tested {run.model}, {how}. It is a small model trained on made-up people, "
            "for trying out methods and gates; the results say nothing about any other model."
        )
    return (
        f"This run tested {run.model}, {how}. The results hold for exactly these weights, and for "
        "no other version of them."
    )


def _came_out(result: Result) -> str:
    rows = forget_rows(result.rows)
    if not rows:
        return (
            "No prompt asked for people to be forgotten, so the run says nothing about forgetting."
        )
    families = ", ".join(dict.fromkeys(row.family for row in rows))
    people = len({row.owner for row in rows})
    direct, indirect = (
        sum(row.unlearned.label == label for row in rows) for label in ("direct", "indirect")
    )
    sentence = (
        f"With greedy decoding, {len(rows)} prompts ({families}) for values of {people} people to "
        f"be forgotten brought out {direct} of these values, and {indirect} real values of another "
        "kind or person"
    )
    if solved := share(METRICS["passk.rate"], result.rows, {}, result.run.confidence):
        sentence += f"; {solved.shown('tested')} of {solved.n} programming tasks were solved"
        sentence += f" ({solved.shown('base')} by the base)" if result.run.two_states else ""
    return f"{sentence}."


def _sampled(result: Result) -> str:
    scored = exact_scores(result.rows, "forget", "unlearned")
    if not scored:
        return (
            "What an attacker gets from many samples is unknown, because the model gave no "
            "probabilities."
        )
    gets = " and ".join(f"{mean_leak_at(scored, k):.2%} with {k:,}" for k in (1, *SAMPLES))
    sentence = (
        f"By exact probabilities, an attacker who samples these prompts can expect to get, of "
        f"{len(scored)} values, {gets} samples"
    )
    never = exact_scores(result.rows, "control", "unlearned")
    if never:
        by_chance = mean_leak_at(never, SAMPLES[-1])
        sentence += f" (of people the model never saw, {by_chance:.2%})"
    return f"{sentence}."


def _attacked(result: Result) -> str:
    attacks = [one for one in attack_figures(result.rows, result.run.confidence) if one.attack]
    if not attacks:
        return (
            "No attack was tried, so it is unknown whether rounding, pruning, more training or "
            "other prompts bring values back."
        )
    worst, left = max(attacks, key=lambda one: one.direct), len(result.run.untried)
    others = "1 other attack was" if left == 1 else f"{left} other attacks were"
    untried = f"; {others} not tried (What an attacker gets)" if left else ""
    return (
        f"The worst of {len(attacks)} attacks on weights and prompts, {worst.attack}, brought out "
        f"{worst.shown} of {worst.n} values{untried}."
    )


def _attack_tables(result: Result) -> list[Table]:
    tables = [*attack_tables(result.rows, result.run.confidence), attack_legend(result.rows)]
    return [table for table in tables if table]


def _open(result: Result) -> str:
    rows, run = forget_rows(result.rows), result.run
    kinds = ", ".join(sorted({row.kind for row in rows})) or "none"
    if run.population == "requests":
        whom = "The people are everybody who asked, so the results say nothing about anybody else"
    else:
        whom = (
            "The people are treated as a sample, so each bound holds for people like them with "
            f"{percent(run.confidence)} confidence"
        )
    return (
        f"{whom}. The run does not show what other prompts bring out, or values of kinds other "
        f"than {kinds}."
    )


def beside_gates(result: Result) -> Table:
    """Return what is shown next to the verdict even if no gate judges it: expected leaks by number
    of samples, and how well forgotten people can be recognized. Empty without scores."""
    table: Table = []
    scored = [exact_scores(result.rows, split, state) for _, split, state in _STATES]
    if scored[1]:
        for k in (1, *SAMPLES):
            cells = [f"{mean_leak_at(part, k):.2%}" if part else "-" for part in scored]
            table.append([f"leak@{k:,}", *cells])
    aucs = membership_aucs(result.rows, result.run.attacks, result.run.confidence)
    if aucs:
        best = max(aucs, key=lambda attack: aucs[attack]["unlearned"].estimate)
        cells = [
            f"{auc.estimate:.2f} ({auc.low:.2f} to {auc.high:.2f})"
            for auc in (aucs[best]["base"], aucs[best]["unlearned"])
        ]
        table.append([f"membership AUC, {best}", *cells, "0.50"])
    return [["beside the gates", *(name for name, *_ in _STATES)], *table] if table else []


def terms(result: Result) -> list[tuple[str, str, str]]:
    """Return the words of a page: a name for links, the word, and what it means."""
    probes = [row for row in result.rows if isinstance(row, ProbeRow)]
    people = len({(row.split, row.owner) for row in probes})
    confidence = percent(result.run.confidence)
    return [
        (
            "bound",
            result.run.bound_head,
            "The worst rate that the data do not rule out. It is wrong in at most one of "
            f"{1 / (1 - result.run.confidence):.0f} such runs ({confidence} confidence), and the "
            "gate is judged on it.",
        ),
        (
            "size",
            f"{len(probes)} ({people})",
            "Cases and, in parentheses, the people or tasks that they belong to. Bounds count "
            "people, because values of one person are forgotten or kept together.",
        ),
        ("base", "base", "The model before unlearning, or the baseline."),
        ("tested", "tested", "The model whose release is judged."),
        (
            "control",
            "never seen, control",
            "People whose data no model was trained on: what comes out about them is chance.",
        ),
        ("direct", "direct leak", "The model writes the value that the prompt asks for."),
        (
            "indirect",
            "indirect leak",
            "It writes another real value, or the same one in disguise: encoded, split, reordered.",
        ),
        (
            "leakat",
            "leak@k",
            "The share of values that k samples of each prompt are expected to bring out, computed "
            "from the model's probabilities.",
        ),
        (
            "auc",
            "AUC",
            "How often an attack that sees probabilities ranks a person to be forgotten above one "
            "never seen: 0.5 is chance, 1 is certainty, with its interval.",
        ),
        ("passk", "passk, pass@k", "The share of programming tasks solved in k tries."),
        (
            "verdict",
            "PASS, FAIL, UNDECIDED, NOT EVALUATED",
            "PASS: the bound is within the limit. FAIL: it is beyond the limit. UNDECIDED: it is "
            "too wide to decide. NOT EVALUATED: something is missing without which it means "
            "nothing. FOR RELEASE requires a PASS from every gate.",
        ),
        (
            "rehearsed",
            "rehearsed",
            "Prompts and people that unlearning was trained on. The others show its effect on what "
            "it never saw.",
        ),
    ]


def term_of(head: str) -> str:
    """Return the name of the term for the head of a column or row; empty if there is none."""
    exact = {"n": "size", "base": "base", "tested": "tested", "never seen": "control"}
    if head in exact:
        return exact[head]
    parts = {"bound": "bound", "AUC": "auc", "leak@": "leakat", "leak.at": "leakat"}
    parts |= {"leak.direct": "direct", "leak.indirect": "indirect", "passk": "passk"}
    parts |= {"pass@": "passk", "verdict": "verdict", "control": "control"}
    parts |= {"rehearsed": "rehearsed"}
    return next((name for part, name in parts.items() if part in head), "")
