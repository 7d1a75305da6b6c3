"""One run, every format: the same quantity has the same n, the same figures, the same bounds."""

from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from pytest_unlearn.gates.case_rows import ProbeRow, TaskRow
from pytest_unlearn.gates.estimates import percent, share, shares
from pytest_unlearn.gates.gate import parse_gate
from pytest_unlearn.gates.metrics import METRICS
from pytest_unlearn.gates.verdicts import Measured, judge
from pytest_unlearn.leaks.outcome import Outcome
from pytest_unlearn.reports.formats import FORMATS
from tests.support.lookup_run import UnlearnRun, forget_ids, record_lines

CONTROL_VALUE = record_lines("control", 1)[0]["value"]


class Tables(HTMLParser):
    """The rows of all tables of a page, as lists of texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._open and self.rows:
            self.rows[-1][-1] += data


def cells(line: str) -> list[str]:
    return [cell.strip(" `") for cell in line.strip("| \n").split(" | ")]


def test_all_formats_agree(unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """People have two probes each, and a control's value came out by chance: bounds by person, and
    over chance, wherever they stand; also at another confidence than the usual one."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    said = {"direct-email-control-000": CONTROL_VALUE, **dict.fromkeys(forget_ids(9)[6:], "")}
    unlearn_run.lookup(leaking=forget_ids(5), said=said, lost=["add-3", "direct-email-retain-002"])
    gates = ("leak.direct<=40%", "leak.direct[kind=email]<=45%", "passk.retained>=75%")
    result = unlearn_run(
        *(f"--unlearn-gate={gate}" for gate in gates),
        "--unlearn-confidence=0.9",
        "-v",
        "--junitxml=junit.xml",
        *(f"--unlearn-report={name}" for name in FORMATS),
    )
    assert result.ret == pytest.ExitCode.OK
    folder = unlearn_run.pytester.path
    shown = [re.split(r"  +", line.strip()) for line in result.outlines]
    summary = json.loads((folder / "unlearn-summary.json").read_text())
    markdown = [
        cells(line)
        for name in ("unlearn-summary.md", "unlearn-model-card.md")
        for line in (folder / name).read_text().splitlines()
        if line.startswith("|")
    ]
    tables = Tables((folder / "unlearn-report.html").read_text()).rows
    card = ModelCard.load(folder / "unlearn-model-card.md", ignore_metadata_errors=False)
    indexed = {r.metric_type: r for r in card.data.eval_results or ()}
    lines = [json.loads(x) for x in (folder / "unlearn-results.jsonl").read_text().splitlines()]

    assert {metric["name"] for metric in summary["metrics"]} == {
        *("leak.direct", "leak.indirect", "leak.control", "degenerate.rate"),
        *("passk.retained", "parse.rate", "people.retained"),
        *("leak.rehearsed", "people.rehearsed"),
    }
    for metric in summary["metrics"]:
        name, n, units = metric["name"], metric["n"], metric["units"]
        figures = [f"{metric[s]:g} ({metric[s] / n:.1%})" for s in ("base", "tested")]
        size = f"{n} ({units:.4g})" if units < n else str(n)
        told = [name, *figures, size, metric["bound"]]
        assert markdown.count(told) == 2, name
        show = METRICS["leak.direct"].show_bound
        ends = [
            f"{show(low, False)} to {show(high, True)}"
            for low, high in (metric[f"{s}_bounds"] for s in ("base", "tested"))
        ]
        (drawn,) = (row for row in tables if row[0] == name and len(row) == 8)
        assert drawn[2:] == [figures[0], ends[0], figures[1], ends[1], size, metric["bound"]]
        entry = indexed[{"passk.retained": "pass@1"}.get(name, name)]
        assert entry.metric_value == pytest.approx(metric["tested"] / n, abs=1e-6)
        assert entry.metric_args["bounds"] == pytest.approx(metric["tested_bounds"], abs=1e-6)
        assert (entry.metric_args["units"], entry.metric_args["confidence"]) == (units, 0.9)
        if name not in ("leak.direct", "passk.retained"):  # a gate judges these
            assert told in shown, name

    by_name = {metric["name"]: metric for metric in summary["metrics"]}
    suite = ET.parse(folder / "junit.xml").getroot()
    for gate in summary["gates"]:
        size = f"{gate['n']} ({gate['units']:.4g})" if gate["units"] < gate["n"] else str(gate["n"])
        told = [gate["name"], gate["observed"], size, gate["bound"], gate["limit_text"], "PASS"]
        assert told in shown
        assert [*told[:-1], "✅ PASS"] in markdown
        assert told in markdown
        assert any(row[:-1] == told for row in tables)
        assert {"record": "gate", **gate} in lines
        case = suite.find(f".//testcase[@name='gate[{gate['name']}]']/properties")
        assert case is not None
        found = {p.get("name"): p.get("value") for p in case}
        assert (found["unlearn_n"], found["unlearn_bound"]) == (str(gate["n"]), gate["bound"])
        assert found["unlearn_units"] == str(gate["units"])
    # What a gate judges is what is shown of it without one.
    judged = {gate["name"]: gate["bound"] for gate in summary["gates"]}
    assert judged["leak.direct"] == by_name["leak.direct"]["bound"]
    assert f"{judged['passk.retained']} of base" == by_name["passk.retained"]["bound"]
    (kind,) = (line for line in shown if line[0] == "email" and len(line) == 8)
    (drawn,) = (row for row in tables if row[0] == "email" and len(row) == 7)
    assert kind[4] == drawn[-1] == judged["leak.direct[kind=email]"]
    assert (kind[1], kind[2], kind[3]) == (drawn[5], drawn[1], drawn[3])

    with (folder / "unlearn-results.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name, split, label in (
        ("leak.direct", "forget", "direct"),
        ("leak.control", "control", "direct"),
        ("degenerate.rate", "forget", "degenerate"),
        ("people.retained", "retain", "direct"),
        ("passk.retained", "", "passed"),
    ):
        of_it = [row for row in rows if row["split"] == split]
        if split == "retain":  # judged on those whom unlearning never saw
            of_it = [row for row in of_it if row["rehearsed"] == "no"]
        metric = by_name[name]
        assert len(of_it) == metric["n"]
        for state in ("base", "tested"):
            assert sum(row[state] == label for row in of_it) == metric[state], name
    assert percent(0.9) in (folder / "unlearn-report.html").read_text()
    for path in sorted(Path(folder).glob("unlearn-*")):
        assert "95%" not in path.read_text(), path.name


def rows_of(people: int) -> list[ProbeRow | TaskRow]:
    """Return clustered rows with leaks, chance, losses, samples and two kinds."""
    rows: list[ProbeRow | TaskRow] = []
    for split in ("forget", "retain", "control"):
        for n in range(3 * people):
            base = Outcome("clean" if split == "control" else "direct")
            keeps = n % 7 == 0 if split == "forget" else n % (20 if split == "control" else 9) == 0
            tested = Outcome("direct" if keeps is (split != "retain") else "clean")
            kind = ("email", "phone")[n % 2]
            owner = f"{split} {n // 3}"
            rows.append(ProbeRow(f"{split}{n}", split, kind, "sql", owner, base, tested))
    for n in range(2 * people):
        both = ("passed", "wrong_answer"), ("wrong_answer", "passed" if n % 3 else "timeout")
        samples = {"base_samples": both[0], "unlearned_samples": both[1], "ks": (2, 1)}
        first = both[0][0], both[1][0]
        rows.append(TaskRow(f"t{n}", f"task {n // 2}", *first, **samples))  # type: ignore[arg-type]
    return rows


@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_a_share_is_what_its_gate_would_be_judged_on(confidence: float) -> None:
    """For every metric that is shown, with and without a restriction."""
    rows = rows_of(30)
    measured = Measured(rows, rows, [row.id for row in rows], True, confidence=confidence)
    for found in shares(rows, confidence):
        gate = parse_gate(f"{found.name}{'<=' if found.bound[0] == '<' else '>='}1e-9")
        if found.bound[0] == "<":  # a limit that is kept, so that the upper bound is shown
            gate = parse_gate(f"{found.name}<=99.99%")
        result = judge(gate, measured)
        assert (result.n, result.units) == (found.n, found.units)
        assert found.bound.removesuffix(" of base") == result.bound, found.name
    gate = parse_gate("leak.direct[kind=phone]<=99%")
    part = share(gate.metric, rows, dict(gate.filters), confidence)
    assert part is not None
    assert judge(gate, measured).bound == part.bound
    assert part.tested_bounds != part.base_bounds
