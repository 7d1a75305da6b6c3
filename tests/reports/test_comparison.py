"""The reports of a sweep: each row and gate says its pair, and the front is where it should be."""

from __future__ import annotations

import csv
import io
import json
import random
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from pytest_unlearn.reports import markdown_reports
from pytest_unlearn.reports.comparison import front_sentence, standings
from pytest_unlearn.reports.data_reports import ResultsFileError, read_results
from pytest_unlearn.reports.formats import FORMATS, ReportError, choose_reports
from pytest_unlearn.run.result import Result, verdict_of_all
from tests.support.results import GATES, SCHEMA, lines, pair, sweep


def rendered(name: str, results: list[Result]) -> str:
    render = FORMATS[name].render_sweep
    assert render is not None
    return render(results)


def test_every_line_keeps_the_schema_and_has_its_pair() -> None:
    """Version 2, which a reader of one run's lines does not take; without its pair it is none."""
    validator = jsonschema.Draft202012Validator(SCHEMA)
    found = lines(rendered("jsonl", sweep()))
    for line in found:
        validator.validate(line)
    heads = [line for line in found if line["record"] == "run"]
    assert [(h["version"], h["pairs"], h["pair"]["method"]) for h in heads] == [
        (2, 5, method) for method in ("ga+gd", "wga", "rmu", "ga<b>", "npo")
    ]
    for wrong in ({**heads[0], "pair": {"label": "x"}}, {**heads[0], "version": 3}):
        assert not validator.is_valid(wrong)
    del heads[0]["pair"]
    assert not validator.is_valid(heads[0])


def test_rows_are_read_back_pair_by_pair(tmp_path: Path) -> None:
    """All of it; a file that was cut between two pairs is known as such."""
    path = tmp_path / "results.jsonl"
    whole = rendered("jsonl", sweep())
    path.write_text(whole)
    assert [(one.pair, one.run.complete) for one in read_results(path, False)] == [
        (one.pair, one.run.complete) for one in sweep()
    ]
    path.write_text("".join(rendered("jsonl", sweep()).splitlines(keepends=True)[: 4 * 33]))
    with pytest.raises(ResultsFileError, match=r"it has 4 of 5 runs"):
        read_results(path, False)


def test_lines_that_were_changed_are_refused(tmp_path: Path) -> None:
    """A case that leaked, replaced by a copy of one that did not: the count is still right."""
    path = tmp_path / "results.jsonl"
    whole = rendered("jsonl", sweep()).splitlines(keepends=True)
    cases = [number for number, line in enumerate(whole) if '"record": "case"' in line]
    for changed in (
        [*whole[: cases[0]], whole[cases[1]], *whole[cases[1] :]],
        [line.replace('"direct"', '"clean"') for line in whole],
    ):
        path.write_text("".join(changed))
        with pytest.raises(ResultsFileError, match="changed or left out"):
            read_results(path, False)


def test_csv_and_markdown() -> None:
    """The pair in the first columns; a table whose cells are text, not Markdown or HTML."""
    rows = list(csv.reader(io.StringIO(rendered("csv", sweep()))))
    assert rows[0][:4] == ["pair", "model", "method", "request"]
    assert rows[1][:3] == ["tiny/ga+gd", "tiny", "ga+gd"]
    assert len(rows) == 1 + 5 * 30
    text = rendered("github", sweep())
    assert text.startswith("## Unlearning: NOT FOR RELEASE\n\n5 pairs of model and method. Pareto")
    assert "| tiny/wga | 1 (5.0%) <=30.9% |" in text
    assert "<summary>tiny/ga&lt;b&gt;: NOT FOR RELEASE</summary>" in text
    assert text.count("<details>") == text.count("</details>") == 2 * 5
    (line, *_) = markdown_reports.annotate(GATES[:1], "tiny/npo")
    assert line.startswith("::error title=unlearn leak.direct @ tiny/npo::")


def test_summary_has_the_standing_of_each_pair() -> None:
    data = json.loads(rendered("summary", sweep()))
    assert [(p["leak"], p["ability"], p["front"]) for p in data["pairs"]] == [
        (0.0, 0.8, True),
        (0.05, 1.0, True),
        (0.05, 0.7, False),
        (0.0, 0.8, True),
        (None, None, False),
    ]


def test_the_front_is_what_nothing_dominates() -> None:
    """Of random pairs, by the definition: no other is at least as good in both, better in one."""
    numbers = random.Random(5)
    results = [pair(str(n), numbers.randrange(8), numbers.randrange(6)) for n in range(12)]
    found = standings(results)
    for one in found:
        better = [
            other
            for other in found
            if (other.leak or 0) <= (one.leak or 0)
            and (other.ability or 0) >= (one.ability or 0)
            and ((other.leak or 0) < (one.leak or 0) or (other.ability or 0) > (one.ability or 0))
        ]
        assert one.front == (not better), one
    assert 0 < sum(one.front for one in found) < len(found)


def test_no_front_without_a_whole_pair() -> None:
    """What was run in part, or has no task that the base solves, is compared with nothing."""
    partial = pair("npo", 0, 0, complete=False)
    untried = pair("npo", 0, 0)
    untried = replace(untried, cases=tuple(c for c in untried.cases if c.shown))
    for one in (partial, untried):
        assert "no Pareto front" in front_sentence(standings([one]))


def test_one_pair_that_blocks_blocks_all() -> None:
    """And all have to pass."""
    bad, good = pair("a", 0, 0), replace(pair("b", 0, 0), gates=GATES[1:])
    none = replace(good, gates=())
    assert verdict_of_all([good, bad]) == "NOT FOR RELEASE"
    assert verdict_of_all([good, none]) == "NO VERDICT"
    assert verdict_of_all([good, good]) == "FOR RELEASE"


def test_a_report_about_one_model_is_refused(tmp_path: Path) -> None:
    """Before anything is loaded, with the formats that can hold a sweep."""
    assert choose_reports(["modelcard"], tmp_path, {})
    with pytest.raises(ReportError, match=r"modelcard.*write one of html, jsonl, csv, summary"):
        choose_reports(["modelcard"], tmp_path, {}, sweeps=True)
