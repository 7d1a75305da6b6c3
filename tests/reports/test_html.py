"""The page: says what the result says, needs nothing else, and is there for everybody."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pytest_unlearn.gates.case_rows import ProbeRow
from pytest_unlearn.leaks.exact import ExactScores
from pytest_unlearn.reports.html import figures, page
from pytest_unlearn.run.result import Case
from tests.support.attack_rows import attacked
from tests.support.results import GATES, gate, make, sweep

STYLE = Path(page.__file__).with_name("style.css").read_text()
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
VOID = {"meta", "input", "link", "br", "hr", "img"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parent: Element | None = None
    parts: list[Element | str] = field(default_factory=list)

    @property
    def children(self) -> list[Element]:
        return [part for part in self.parts if isinstance(part, Element)]

    def all(self, *tags: str) -> Iterator[Element]:
        for child in self.children:
            if not tags or child.tag in tags:
                yield child
            yield from child.all(*tags)

    @property
    def said(self) -> str:
        return "".join(part if isinstance(part, str) else part.said for part in self.parts)


class Tree(HTMLParser):
    """Parses a page, and refuses tags that do not match."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.root = self.open = Element("", {})
        self.feed(source)
        assert self.open is self.root, f"<{self.open.tag}> is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, self.open)
        self.open.parts.append(element)
        if tag not in VOID:
            self.open = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.parts.append(Element(tag, {n: v or "" for n, v in attrs}, self.open))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.tag == tag, f"</{tag}> closes <{self.open.tag}>"
        assert self.open.parent is not None
        self.open = self.open.parent

    def handle_data(self, data: str) -> None:
        self.open.parts.append(data)


@pytest.fixture(scope="module")
def source() -> str:
    return page.render(make())


@pytest.fixture(scope="module")
def tree(source: str) -> Element:
    return Tree(source).root


def cells(tree: Element, name: str) -> list[list[str]]:
    """Return the cells of the table under a label."""
    (region,) = [e for e in tree.all("div") if e.attributes.get("aria-label") == f"{name}, table"]
    return [[c.said for c in row.all("th", "td")] for row in region.all("tr")]


# -- what it says ----------------------------------------------------------------------------


def leaks(base: str, before: str, tested: str, after: str, *others: str) -> list[str]:
    return [f"{base} (100.0%)", before, f"{tested} (20.0%)", after, *others]


def test_every_figure_with_its_numbers(tree: Element) -> None:
    """Seven figures, each with its table; the numbers are those of the rows."""
    assert [e.said for e in tree.all("h2")] == [
        "✗ NOT FOR RELEASE",
        "Before and after",
        "Direct leaks by kind, before and after",
        "What became of each outcome",
        "Leaks by number of samples (leak@k)",
        "Exposure against chance",
        "pass@1 of each task, before and after",
        "Membership inference (AUC)",
        "What an attacker gets",
        "All cases",
        "Provenance",
    ]
    assert cells(tree, "Direct leaks by kind, before and after")[1:3] == [
        # 20 probes of 10 people; a kind's 10 probes are of 10 people each.
        ["all", *leaks("20", "74.1% to 100.0%", "4", "7.5% to 43.9%", "20 (10)", "<=43.9%")],
        ["email", *leaks("10", "74.1% to 100.0%", "2", "3.6% to 50.7%", "10", "<=50.7%")],
    ]
    assert cells(tree, "What became of each outcome") == [
        ["base \\ tested", "direct", "indirect", "placeholder"],
        ["direct", "4", "4", "12"],
    ]
    samples = cells(tree, "Leaks by number of samples (leak@k)")
    assert samples[0][:3] == ["model", "k = 1", "k = 10"]
    assert [row[0] for row in samples[1:]] == [
        "people to be forgotten, base",
        "people to be forgotten, tested",
        "people never seen, tested",
    ]
    assert samples[1][1] == "90.000%"
    exposure = cells(tree, "Exposure against chance")
    assert exposure[1] == ["0 to 1", "0.0%", "0.0%", "50.0%"]
    assert exposure[-1] == ["9 to 10", "100.0%", "20.0%", "0.2%"]
    tasks = cells(tree, "pass@1 of each task, before and after")
    assert tasks[1] == ["sum-0", "2", "100%", "50%"]  # the worst loss of the one solved best
    assert tasks[-1] == ["sum-1", "2", "50%", "100%"]
    membership = cells(tree, "Membership inference (AUC)")
    assert [row[0] for row in membership[1:]] == ["loss", "min_k"]
    assert membership[1][2].startswith("1.00")


def test_null_of_the_exposure_adds_up(tree: Element) -> None:
    """The last bin takes what is above it."""
    shares = [float(row[3][:-1]) for row in cells(tree, "Exposure against chance")[1:]]
    assert sum(shares) == pytest.approx(100, abs=0.3)


def test_widths_of_the_flow(tree: Element) -> None:
    """A ribbon is as wide as its share of the probes: 4, 4 and 12 of 20, together the node."""
    (chart,) = [
        e
        for e in tree.all("svg")
        if e.attributes.get("aria-labelledby", "").startswith("flow-title")
    ]
    widths = {}
    for ribbon in chart.all("path"):
        y0, y1 = re.findall(r"[ML]([\d.]+),([\d.]+)", ribbon.attributes["d"])
        end = re.search(r"C[\d.]+,[\d.]+ [\d.]+,([\d.]+)", ribbon.attributes["d"])
        assert end
        widths[ribbon.said] = float(y1[1]) - float(end[1])
        assert y0
    assert widths == pytest.approx(
        {"direct to direct: 4": 48, "direct to indirect: 4": 48, "direct to placeholder: 12": 144}
    )


def test_all_cases_stand_in_the_table(tree: Element) -> None:
    """With redacted values; those that gave no row too."""
    rows = cells(tree, "Cases")
    assert len(rows) == 51
    assert rows[1] == [
        "direct-forget-000",
        "forget probe",
        "email",
        "json",
        "<email 0a1b2c3d>",
        "direct",
        "direct",
        "retained, email, retain-7, exact",
    ]
    cut = (Case("a", "error", shown="<email 00000000>"), Case("b", "not run"))
    assert cells(Tree(page.render(make((), cut))).root, "Cases")[1:] == [
        ["a", "probe", "", "", "<email 00000000>", "error", "error", ""],
        ["b", "task", "", "", "", "not run", "not run", ""],
    ]


def test_no_figure_without_data() -> None:
    """A run without scores, tasks or forget probes leaves figures out; no figure is empty."""
    result = make()
    plain = tuple(
        replace(case, row=replace(case.row, base_exact=None, unlearned_exact=None))
        for case in result.cases
        if isinstance(case.row, ProbeRow)
    )
    ids = [figure.id for figure in figures.figures(make(cases=plain))]
    assert ids == ["shares", "leaks-by-kind", "flow"]
    assert list(figures.figures(make((), ()))) == []
    assert "NO VERDICT" in page.render(make((), ()))


def test_training_is_a_curve() -> None:
    """Of people to be forgotten, of control people, and of a retrained model where there is one."""
    rows = [
        replace(row, retrained_exact=ExactScores(-9.0, greedy=n == 0))
        for stage, back in (("1", 0), ("5", 10), ("20", 20))
        for split, share in (("forget", 1), ("control", 0))
        for n, row in enumerate(attacked(f"relearn@{stage}", back * share, split=split, count=20))
    ]
    cases = tuple(Case(row.id, "measured", row, "<email 0a1b2c3d>") for row in rows)
    (figure,) = (one for one in figures.figures(make(cases=cases)) if one.id == "relearning")
    assert figure.lead == "relearn: half of the values are back after 5 steps."
    found = Tree(page.render(make(cases=cases))).root
    table = cells(found, "What training brings back")
    assert table[1:] == [
        ["relearn", "1", "0.0%", "0.0%", "5.0%"],
        ["relearn", "5", "50.0%", "0.0%", "5.0%"],
        ["relearn", "20", "100.0%", "0.0%", "5.0%"],
    ]
    assert "relearning" not in [one.id for one in figures.figures(make())]


def test_the_verdict_is_more_than_a_colour() -> None:
    """In words and by a sign."""
    for gates, said in (
        ((GATES[1],), "✓ FOR RELEASE"),
        ((gate("leak.direct", "leak.direct<=5%", "NOT EVALUATED"),), "! NO VERDICT"),
    ):
        assert next(Tree(page.render(make(gates))).root.all("h2")).said == said


def test_search_findings_are_shown() -> None:
    """Counts on both sides, and each prompt in safe words."""
    search = {
        "report": {
            "forget_found": 2,
            "forget_searched": 9,
            "control_found": 1,
            "control_searched": 9,
            "verdict": "weak",
        },
        "found": [{"id": "r1", "recipe": ["json", "name"], "prompt": '{"x": <...>'}],
    }
    tree = Tree(page.render(replace(make(), search=search))).root
    assert cells(tree, "Prompts found")[1] == ["r1", "json/name", '{"x": <...>']
    assert "2 of 9 silent forget records leak by some prompt" in tree.said


def test_texts_from_outside_are_text(tree: Element) -> None:
    """A model's name or a completion cannot become a part of the page."""
    evil = "</script><img src=x onerror=alert(1)>"
    told = Case(evil, "not run", shown=evil, value=evil, base_text=evil, tested_text=evil)
    result = make(
        (gate(evil, f"{evil}<=5%", "FAIL", evil),), (told,), model=evil, values_shown=True
    )
    again = Tree(page.render(result)).root
    assert not list(again.all("img"))
    assert len(list(again.all("script"))) == len(list(tree.all("script"))) == 1
    assert cells(again, "Cases")[1][8:] == [evil] * 3
    assert "This report holds personal values" in again.said
    assert "personal values" not in tree.said


# -- self-contained --------------------------------------------------------------------------


def test_nothing_is_loaded(source: str, tree: Element) -> None:
    """No address, no import, no file; the policy forbids what a mistake would add."""
    assert "://" not in source
    assert "@import" not in source
    assert "url(" not in source
    for element in tree.all():
        assert "src" not in element.attributes
        assert element.attributes.get("href", "#").startswith("#")
        assert not [name for name in element.attributes if name.startswith("on")]
    (policy,) = [
        e.attributes["content"]
        for e in tree.all("meta")
        if e.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy


# -- a sweep ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sweep_source() -> str:
    return page.render_sweep(sweep())


@pytest.fixture(scope="module")
def sweep_tree(sweep_source: str) -> Element:
    return Tree(sweep_source).root


def test_a_sweep_has_the_table_and_the_plot(sweep_tree: Element) -> None:
    """The pairs side by side, the front by shape, number and words, and a section a pair."""
    assert [e.said for e in sweep_tree.all("h2")][:3] == [
        "✗ NOT FOR RELEASE",
        "Leak against ability",
        "✗ tiny/ga+gd: NOT FOR RELEASE",
    ]
    pairs = cells(sweep_tree, "Pairs")
    assert [(row[0], row[1], row[-1]) for row in pairs[1:]] == [
        ("tiny/ga+gd", "0 (0.0%) <=25.9%", "front"),
        ("tiny/wga", "1 (5.0%) <=30.9%", "front"),
        ("tiny/rmu", "1 (5.0%) <=30.9%", "-"),
        ("tiny/ga<b>", "0 (0.0%) <=25.9%", "front"),
        ("tiny/npo", "9 (45.0%) <=72.8%", "-"),
    ]
    assert cells(sweep_tree, "Leak against ability") == [
        ["number", "pair", "leak", "ability", "Pareto front"],
        ["1", "tiny/ga+gd", "0.0%", "80.0%", "yes"],
        ["2", "tiny/wga", "5.0%", "100.0%", "yes"],
        ["3", "tiny/rmu", "5.0%", "70.0%", "no"],
        ["4", "tiny/ga<b>", "0.0%", "80.0%", "yes"],
        ["5", "tiny/npo", "-", "-", "no"],
    ]
    named = "pareto-title pareto-desc"
    (plot,) = [e for e in sweep_tree.all("svg") if e.attributes.get("aria-labelledby") == named]
    assert [e.said for e in plot.all("polygon")] == [
        "tiny/ga+gd, tiny/ga<b>: 0.0% leak, 80.0% retained",
        "tiny/wga: 5.0% leak, 100.0% retained",
    ]
    assert [e.said for e in plot.all("circle")] == ["tiny/rmu: 5.0% leak, 70.0% retained"]
    numbers = [e.said for e in plot.all("text") if e.attributes.get("class") == "number"]
    assert numbers == ["1, 4", "3", "2"]
    (line,) = plot.all("polyline")
    places = [tuple(map(float, point.split(","))) for point in line.attributes["points"].split()]
    assert places[0][1] == places[1][1] > places[2][1]
    assert places[0][0] < places[1][0] == places[2][0]
    described = next(plot.all("desc")).said
    assert "1 of 5 pairs were not run completely" in described
    assert "Pareto front of leak (direct or indirect) against ability: tiny/ga+gd" in described
    rows = cells(sweep_tree, "Cases")
    assert rows[0][:3] == ["case", "pair", "type"]
    assert len(rows) == 1 + 5 * 30


def test_a_sweep_is_built_as_well(sweep_tree: Element) -> None:
    """The rules for all pages hold for it: ids once, headings without a gap, names for tables."""
    test_structure(sweep_tree)
    charts = [e for e in sweep_tree.all("svg") if "aria-hidden" not in e.attributes]
    assert all(chart.attributes["role"] == "img" for chart in charts)
    names = [e.attributes["aria-label"] for e in sweep_tree.all() if "tabindex" in e.attributes]
    assert len(names) == len(set(names))


# -- for everybody (WCAG 2.2) ----------------------------------------------------------------


def test_structure(tree: Element) -> None:
    """A language, one h1, headings without a gap, landmarks, ids that are there once."""
    (html,) = tree.all("html")
    assert html.attributes["lang"] == "en"
    levels = [int(e.tag[1]) for e in tree.all("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert [sum(1 for _ in tree.all(tag)) for tag in ("header", "main", "footer")] == [1, 1, 1]
    ids = [e.attributes["id"] for e in tree.all() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for element in tree.all():
        for name in ("aria-labelledby", "for"):
            assert set(element.attributes.get(name, "").split()) <= set(ids)
    skip = next(tree.all("a"))
    assert skip.attributes["href"] == "#main"


def test_each_drawing_has_words_and_a_table(tree: Element) -> None:
    """A title, a description with the finding, and the numbers below."""
    charts = [e for e in tree.all("svg") if "aria-hidden" not in e.attributes]
    assert len(charts) == 7
    for chart in charts:
        assert chart.attributes["role"] == "img"
        title, description = chart.children[:2]
        assert (title.tag, description.tag) == ("title", "desc")
        assert title.said
        assert len(description.said) > 80
        section = chart.parent.parent if chart.parent else None
        assert section is not None
        (numbers,) = section.all("table")
        assert len(list(numbers.all("tr"))) > 1


def test_tables_and_fields_are_named(tree: Element) -> None:
    """Head cells have a scope; what scrolls can be reached and has a name; the field a label."""
    for cell in tree.all("th"):
        assert cell.attributes["scope"] in ("col", "row")
    scrolling = [e for e in tree.all() if e.attributes.get("class") == "scroll"]
    assert len(scrolling) == 11
    for element in scrolling:
        assert element.attributes["tabindex"] == "0"
        assert element.attributes["role"] == "region"
        assert element.attributes["aria-label"]
    labels = {e.attributes["for"] for e in tree.all("label")}
    assert [e.attributes["id"] in labels for e in tree.all("input")] == [True]


def luminance(colour: str) -> float:
    """Return the relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_measured_rightly() -> None:
    """Black on white is 21, #767676 on white the well-known 4.54."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("number", [0, 1], ids=["light", "dark"])
def test_contrast(number: int) -> None:
    """Text has 4.5 against both grounds (1.4.3), marks have 3 against theirs (1.4.11)."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", blocks[number]))
    written = {"text", "muted", "link", "pass", "fail", "warn"}
    grounds = {"page", "surface"}
    marks = colours.keys() - written - grounds - {"rule"}
    assert len(marks) == 11
    for name in written:
        for ground in grounds:
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    for name in marks:
        assert contrast(colours[name], colours["surface"]) >= 3, name


def test_colours_come_from_the_two_themes_only() -> None:
    """So that no colour escapes the test of contrast."""
    rules = re.sub(r":root \{.*?\}", "", STYLE, flags=re.DOTALL)
    assert not re.findall(r"#[0-9a-fA-F]{3,6}\b(?=[;\s])|\brgb|\bhsl", rules)


# -- in a browser ----------------------------------------------------------------------------

_ASK = """
<script>
const box = document.getElementById("case-search");
const said = {};
said.all = document.getElementById("case-count").textContent;
box.value = "INDIRECT phone"; box.dispatchEvent(new Event("input"));
said.found = document.getElementById("case-count").textContent;
said.visible = [...document.querySelectorAll("#cases tbody tr")].filter(r => r.offsetHeight).length;
said.finder = document.getElementById("finder").offsetHeight > 0;
said.wide = document.documentElement.scrollWidth <= innerWidth;
said.ground = getComputedStyle(document.body).backgroundColor;
said.reach = [...document.querySelectorAll(".scroll, summary, input, a")].every((e) => {
  e.focus(); return document.activeElement === e || !e.checkVisibility(); });
said.letters = Math.min(...[...document.querySelectorAll("svg text")].map(
  (t) => t.getBoundingClientRect().height));
said.inside = [...document.querySelectorAll("svg.chart text")].every((t) => {
  const a = t.getBoundingClientRect(), b = t.ownerSVGElement.getBoundingClientRect();
  return a.left >= b.left - 1 && a.right <= b.right + 1 && a.bottom <= b.bottom + 1; });
document.body.dataset.said = JSON.stringify(said);
</script>"""


def in_browser(source: str, tmp_path: Path, *flags: str) -> dict[str, object]:
    """Open a page in chromium and return what a script in it saw."""
    file = tmp_path / "page.html"
    file.write_text(source.replace("</body>", f"{_ASK}</body>"))
    assert CHROMIUM
    ran = subprocess.run(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            "--dump-dom",
            *flags,
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "CONSOLE" not in ran.stderr, ran.stderr
    (body,) = Tree(ran.stdout).root.all("body")
    said: dict[str, object] = json.loads(body.attributes["data-said"])
    return said


needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="needs chromium")


@needs_chromium
def test_a_phone(source: str, tmp_path: Path) -> None:
    """390 pixels wide: nothing sticks out, letters are legible, the search finds, all by key."""
    said = in_browser(source, tmp_path, "--window-size=390,844")
    assert said["all"] == "50 of 50"
    assert said["found"] == "2 of 50"
    assert said["visible"] == 2
    assert said["finder"]
    assert said["wide"]
    assert said["inside"]
    assert said["reach"]
    assert float(str(said["letters"])) >= 9
    assert said["ground"] == "rgb(246, 247, 248)"


@needs_chromium
def test_a_sweep_on_a_phone(sweep_source: str, tmp_path: Path) -> None:
    """The plot's numbers are inside and legible, and all can be reached by key."""
    said = in_browser(
        sweep_source.replace("<details>", "<details open>"), tmp_path, "--window-size=390,844"
    )
    assert said["all"] == "150 of 150"
    assert said["wide"]
    assert said["inside"]
    assert said["reach"]
    assert float(str(said["letters"])) >= 9


@needs_chromium
def test_dark(source: str, tmp_path: Path) -> None:
    """Who prefers dark gets it, on a wide screen too."""
    said = in_browser(
        source, tmp_path, "--window-size=1280,900", "--blink-settings=preferredColorScheme=0"
    )
    assert said["ground"] == "rgb(16, 20, 24)"
    assert said["wide"]
    assert said["inside"]
