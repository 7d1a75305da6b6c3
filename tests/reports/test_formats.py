"""Each format says the same as the result, and is what readers of that format take."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import os
import stat
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from huggingface_hub import ModelCard

from pytest_unlearn.core import extensions
from pytest_unlearn.gates.case_rows import from_json
from pytest_unlearn.reports import data_reports, formats, markdown_reports, tables
from pytest_unlearn.reports.formats import FORMATS, ReportError, ReportFormat, choose_reports
from pytest_unlearn.run.result import Case
from tests.support.golden_rows import LINES, ROWS
from tests.support.results import GATES, PROVENANCE, SCHEMA, gate, lines, make


def test_the_verdict_of_all_gates() -> None:
    """All pass: release; one blocks: no release; else no verdict, also without a gate."""
    passed, blocked = GATES[1], GATES[0]
    untold = gate("leak.direct", "leak.direct<=5%", "NOT EVALUATED")
    assert make((passed,)).verdict == "FOR RELEASE"
    assert make((passed, blocked)).verdict == "NOT FOR RELEASE"
    assert make((passed, untold)).verdict == make(()).verdict == "NO VERDICT"


def test_shares_count_direct_probes_and_tasks() -> None:
    """4 of 20 forget probes leak directly and 4 indirectly; 7 of 10 task cases are solved."""
    found = {s.name: (s.n, s.base, s.tested) for s in make().metrics}
    assert found == {
        "leak.direct": (20, 20, 4),
        "leak.indirect": (20, 0, 4),
        "leak.control": (10, 0, 0),
        "degenerate.rate": (20, 0, 0),
        "passk.retained": (10, 9, 7),
        "people.retained": (10, 10, 10),
    }
    direct = make().metrics[0]
    assert direct.cells == ["20 (100.0%)", "4 (20.0%)", "20 (10)", "<=43.9%"]
    low, high = direct.interval("tested")
    assert (round(low, 4), round(high, 4)) == (0.075, 0.4383)  # four of ten people gave half


def test_every_line_of_the_results_keeps_the_schema() -> None:
    """Whole, cut short, and with values; the schema itself is one, and refuses what is wrong."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    about = dict.fromkeys(("family", "kind", "carrier", "planted", "knowledge", "owner"), "x")
    probe = {"shown": "<email 00000000>", "about": {"split": "forget", **about}}
    cut = (Case("a", "error", about={"task": "a"}), Case("b", "not run", **probe))
    told = Case("c", "not run", **probe, value="v", base_text="b", tested_text="t")
    for result in (make(), make(cases=cut, complete=False, expected=9), make((), (told,))):
        for line in lines(FORMATS["jsonl"].render(result)):
            validator.validate(line)
    run, *others = lines(FORMATS["jsonl"].render(make()))
    assert run["verdict"] == "NOT FOR RELEASE"
    assert run["provenance"]["data"]["records"] == "cd" * 32
    assert sum(line["record"] == "case" for line in others) == 50
    for wrong in (
        {**run, "version": 2},
        {**others[0], "verdict": "MAYBE"},
        {**others[-1], "status": "measured", "type": "nothing"},
        {name: value for name, value in others[-1].items() if name != "base"},
        {**others[2], "base": {"label": "unheard of"}},
    ):
        assert not validator.is_valid(wrong)


def test_a_replay_by_other_rules_says_so() -> None:
    """In each format that has room for a manifest; a GPU's memory is told where there was one."""
    rules = {"gates": ["leak.drop>=50%"], "confidence": 0.99}
    told = replace(
        make(), provenance={**PROVENANCE, "replayed": rules, "gpu_memory": 5 * 2**20, "files": []}
    )
    for name in ("html", "jsonl", "summary", "github", "modelcard"):
        text = html.unescape(FORMATS[name].render(told))
        assert "leak.drop>=50%" in text, name
        assert "GPU 5 MiB" in text or "5242880" in text, name


def test_json_has_no_infinity() -> None:
    """Python writes `Infinity`, which no other reader takes."""
    assert json.loads(data_reports.as_json({"a": math.inf, "b": [math.nan, 1.5]})) == {
        "a": None,
        "b": [None, 1.5],
    }


def test_summary_has_gates_metrics_and_manifest() -> None:
    """With intervals as numbers."""
    data = json.loads(FORMATS["summary"].render(make()))
    assert (data["schema"], data["version"]) == ("pytest-unlearn/summary", 1)
    assert [g["verdict"] for g in data["gates"]] == ["FAIL", "PASS"]
    direct = data["metrics"][0]
    assert (direct["name"], direct["n"], direct["tested"]) == ("leak.direct", 20, 4)
    assert direct["tested_bounds"] == pytest.approx([0.0750, 0.4383], abs=1e-4)
    assert (direct["units"], direct["confidence"], direct["bound"]) == (10, 0.95, "<=43.9%")
    assert data["provenance"]["command"] == "pytest --unlearn-model=tiny"


def test_csv_has_a_line_a_case_and_no_formula() -> None:
    """A text that begins like a formula is quoted; values stand there only where asked for."""
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"].render(make()))))
    assert len(rows) == 50
    assert rows[0]["tested"] == "direct"
    assert float(rows[0]["tested_log_probability"]) == pytest.approx(math.log(0.9))
    assert rows[-1]["task"] == "sum-4"
    assert "value" not in rows[0]
    told = Case("a", "not run", value="=cmd()", base_text="-1", tested_text="fine")
    (row,) = csv.DictReader(
        io.StringIO(FORMATS["csv"].render(make((), (told,), values_shown=True)))
    )
    assert (row["value"], row["base_text"], row["tested_text"]) == ("'=cmd()", "'-1", "fine")


def test_job_summary() -> None:
    """Tables of GitHub's Markdown; a bar in a text does not end a cell; the manifest is folded."""
    text = FORMATS["github"].render(make())
    assert text.startswith("## Unlearning: NOT FOR RELEASE\n")
    assert "| `leak.direct` | 4 (20.0%) | 20 | <=40.1% | <=5% | ❌ FAIL |" in text
    assert "| `passk.retained` | 9 (90.0%) | 7 (70.0%) | 10 (5) | >=37.5% of base |" in text
    assert "- `leak.direct`: unlearn longer | or otherwise" in text
    assert "Indirect leaks, whose value: tested: retained (exact) 4." in text
    assert text.index("<details>") < text.index("records `cdcdcdcdcdcd`") < text.index("</details>")
    assert tables.markdown_table(["a"], [["x|y"]])[2] == "| x\\|y |"
    assert len(text.encode()) < 2**20  # what GitHub takes


def test_annotations_of_blocking_gates() -> None:
    """Only those; escaped as GitHub's toolkit does."""
    wrong = gate("leak.direct[kind=a,probe=b]", "leak.direct<=5%", "FAIL", "do\nthis")
    assert list(markdown_reports.annotate((wrong, GATES[1]))) == [
        "::error title=unlearn leak.direct[kind=a%2Cprobe=b]::FAIL: leak.direct<=5%25; observed "
        "4 (20.0%25) of 20; do\\nthis"
    ]
    through = replace(gate("leak.direct", "leak.direct<=5%", "UNDECIDED"), blocks=False)
    (line,) = markdown_reports.annotate((through,))
    assert line.startswith("::warning title=unlearn leak.direct::UNDECIDED: ")


def test_the_model_card_is_read_by_the_hubs_own_reader() -> None:
    """`model-index` results come back with their values; the section names verdict and manifest."""
    card = ModelCard(
        FORMATS["modelcard"].render(make(model="acme/coder")), ignore_metadata_errors=False
    )
    assert card.data.base_model == "acme/coder"
    found = {r.metric_type: r for r in card.data.eval_results or ()}
    assert found["leak.direct"].metric_value == 0.2
    assert found["leak.direct"].metric_args["base"] == 1.0
    assert found["pass@1"].dataset_split == "tasks"
    assert found["pass@1"].metric_value == 0.7
    assert "**NOT FOR RELEASE**" in card.text
    assert "records `cdcdcdcdcdcd`" in card.text


@pytest.mark.parametrize(
    "run", [{"complete": False, "expected": 99}, {"interrupted": "KeyboardInterrupt"}]
)
def test_a_part_of_a_run_says_so_everywhere(run: dict[str, Any]) -> None:
    """And gives the hub no result."""
    result = make(**run)
    assert result.caveat
    for name in ("github", "modelcard", "html"):
        assert result.caveat.partition("(")[0] in FORMATS[name].render(result)
    assert json.loads(FORMATS["summary"].render(result))["caveat"] == result.caveat
    assert "model-index" not in FORMATS["modelcard"].render(result)
    assert "model-index" in FORMATS["modelcard"].render(make())


# -- asking and writing ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            ["pdf"],
            "--unlearn-report=pdf: 'pdf' is not a report format; write FORMAT or FORMAT:PATH with",
        ),
        ([""], "'' is not a report format"),
        (["html:there"], "there: this is a folder; write FORMAT:FILE"),
        (["html:file/report.html"], "file is a file, not a folder"),
        (["html:a", "jsonl:a"], "html:* writes to the same file; give each its own"),
        (["csv:a", "jsonl:a.manifest.json"], "writes to the same file"),
        (["html", "html"], "writes to the same file"),
    ],
)
def test_wrong_wishes(tmp_path: Path, wanted: list[str], message: str) -> None:
    """Refused with what to write instead."""
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError) as caught:
        choose_reports(wanted, tmp_path, {})
    head, _, tail = message.partition("*")
    assert head in str(caught.value)
    assert tail in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path: Path) -> None:
    """Found before the run, not after it."""
    tmp_path.chmod(0o500)
    with pytest.raises(ReportError, match="no permission to write there"):
        choose_reports(["html"], tmp_path, {})


def test_default_paths_and_the_job_summary_by_itself(tmp_path: Path) -> None:
    """Paths are relative to where pytest was called; GitHub's file is added to, not replaced."""
    step = tmp_path / "step.md"
    step.write_text("before\n")
    environment = {formats.STEP_SUMMARY: str(step)}
    reports = choose_reports(["html", "csv:x/y.csv"], tmp_path, environment)
    assert [r.path.relative_to(tmp_path).as_posix() for r in reports] == [
        "unlearn-report.html",
        "x/y.csv",
        "step.md",
    ]
    assert formats.write_reports(reports, make()) == []
    assert step.read_text().startswith("before\n## Unlearning")
    manifest = json.loads((tmp_path / "x/y.csv.manifest.json").read_text())
    assert manifest["data"]["tasks"] == "ef" * 32
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step.md", "unlearn-report.html", "x"]


def test_files_with_values_are_the_owners(tmp_path: Path) -> None:
    """Others may read a report as the umask says, but not one with values."""
    reports = choose_reports(["jsonl"], tmp_path, {})
    umask = os.umask(0o022)
    try:
        modes = []
        for shown in (False, True):
            formats.write_reports(reports, make(values_shown=shown))
            modes.append(stat.S_IMODE(reports[0].path.stat().st_mode))
    finally:
        os.umask(umask)
    assert modes == [0o644, 0o600]


def test_what_cannot_be_written_is_told_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk loses one report, not the others, and no report is ever half there."""
    reports = choose_reports(["jsonl", "summary"], tmp_path, {})
    reports[0].path.write_text("old")
    replace = os.replace

    def full(source: str, target: Path) -> None:
        if Path(target).suffix == ".jsonl":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    (line,) = formats.write_reports(reports, make())
    assert line.endswith("unlearn-results.jsonl: not written: No space left on device")
    assert reports[0].path.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "unlearn-results.jsonl",
        "unlearn-summary.json",
    ]
    assert json.loads(reports[1].path.read_text())["verdict"] == "NOT FOR RELEASE"


def test_what_is_appended_is_told_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GitHub's summary cannot be written again, so it is when it is known what else failed."""
    summary = tmp_path / "step.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    reports = choose_reports(["jsonl"], tmp_path, os.environ)
    passed = make(tuple(gate for gate in GATES if gate.verdict == "PASS"))
    assert passed.verdict == "FOR RELEASE"
    assert formats.write_reports(reports[1:], passed) == []
    assert "NOT FOR RELEASE" not in summary.read_text()
    reports[0].path.mkdir()
    assert len(formats.write_reports(reports, passed)) == 1
    assert summary.read_text().count("NOT FOR RELEASE") == 1


def test_another_package_adds_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an entry point whose object is a ReportFormat; anything else is refused by name."""
    monkeypatch.setattr(
        extensions,
        "entry_points",
        lambda group: [
            EntryPoint(name, f"tests.reports.test_formats:{name}", group)
            for name in ("VERDICT", "NO_FORMAT")
        ],
    )
    (report,) = choose_reports(["VERDICT"], tmp_path, {})
    formats.write_reports([report], make())
    assert (tmp_path / "verdict.txt").read_text() == "NOT FOR RELEASE"
    with pytest.raises(
        ReportError, match=r"--unlearn-report=NO_FORMAT: the report format NO_FORMAT .* must name a"
    ):
        choose_reports(["NO_FORMAT"], tmp_path, {})


VERDICT = ReportFormat("VERDICT", "verdict.txt", lambda result: result.verdict)
NO_FORMAT = "text"


@pytest.mark.parametrize("kind", LINES)
def test_the_line_of_a_case_is_frozen(kind: str) -> None:
    """What other programs read is the same, byte for byte."""
    row = from_json(ROWS[kind])
    about = {
        "probe": {"split": "forget", "family": "direct"},
        "task": {"rehearsed": False, "cluster": "", "task": "sum"},
        "attack": {"split": "forget", "attack": "int8"},
    }[kind]
    case = Case(row.id, "measured", row, "" if kind == "task" else "<email 1>", about)
    line = data_reports.as_json(data_reports.case_data(case), indent=None)
    assert line == LINES[kind] + "\n"
