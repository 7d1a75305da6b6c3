"""The reference names everything that there is, and what is written by hand beside it is right."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from collections.abc import Iterable

import pytest

from pytest_unlearn.gates.gate import DEFAULT, PROFILES
from pytest_unlearn.gates.metrics import METRICS
from pytest_unlearn.leaks.outcome import LABELS
from pytest_unlearn.models.presets import presets
from pytest_unlearn.people.kinds import KINDS
from pytest_unlearn.people.record import CARRIERS
from pytest_unlearn.probes.families import FAMILIES
from pytest_unlearn.reports.formats import FORMATS
from pytest_unlearn.run.settings import OPTIONS
from pytest_unlearn.sandbox.inside.layers import LAYERS
from pytest_unlearn.sandbox.verdict import Status
from pytest_unlearn.session import fixtures, hookspecs
from pytest_unlearn.session.fixtures import MARKERS
from pytest_unlearn.tasks.files import TASK_SETS
from pytest_unlearn.unlearning.methods import METHODS, NONE, RETRAIN
from tests.support.doc_blocks import PAGES, ROOT

DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))
unlearn_reference = importlib.import_module("unlearn_reference")
sys.path.pop(0)


def page(name: str) -> str:
    """Return a page with its generated parts filled in."""
    text = (DOCS / f"{name}.md").read_text()
    return re.sub(
        r"```\{unlearn-reference\} ([\w-]+)\n```",
        lambda found: unlearn_reference.PARTS[found.group(1)](),
        text,
    )


HOOKS = [name for name in vars(hookspecs) if name.startswith("pytest_unlearn_")]


@pytest.mark.parametrize(
    ("name", "things"),
    [
        ("reference/flags", [option.flag for option in OPTIONS if not option.ini_only]),
        ("reference/flags", ["--unlearn-plan", "--unlearn-metrics", "unlearn_testpaths"]),
        ("reference/gates", [metric.form for metric in METRICS.values()]),
        ("explanation/measures", METRICS),
        ("reference/gates", [*PROFILES, *PROFILES["strict"].gates]),
        ("reference/methods", [*METHODS, NONE, RETRAIN]),
        ("explanation/unlearning", [*METHODS, NONE, RETRAIN]),
        ("reference/models", presets()),
        ("reference/people", [*KINDS, *CARRIERS]),
        ("reference/probes", [*FAMILIES, *LABELS]),
        ("reference/reports", [*FORMATS, *(fmt.path for fmt in FORMATS.values())]),
        ("reference/reports", ["schema", "limit_text", "unlearned_exact", "provenance"]),
        ("reference/python", [*fixtures.__all__, *MARKERS, *HOOKS]),
        ("reference/exit-codes", [code.name for code in pytest.ExitCode]),
        ("reference/sandbox", LAYERS),
        ("how-to/tasks", TASK_SETS),
    ],
)
def test_everything_is_named(name: str, things: Iterable[str]) -> None:
    """A new flag, metric, method, ... is in the reference as soon as it is there."""
    text = page(name)
    assert not [
        thing
        for thing in things
        if not re.search(rf"(?<![\w.+-]){re.escape(thing)}(?![\w+-])", text)
    ]


def test_every_verdict_of_the_sandbox_is_explained() -> None:
    words = set(re.findall(r"\w+", page("reference/sandbox")))
    assert set(Status.__args__) <= words  # type: ignore[attr-defined]


def test_the_defaults_of_gates_are_right() -> None:
    """Where the README shows a run, its gates are the default ones."""
    shown = (ROOT / "README.md").read_text()
    limits = [re.split("([<>]=)", gate) for gate in DEFAULT.gates]
    assert not [
        (name, limit)
        for name, operator, limit in limits
        if not re.search(
            rf"^{re.escape(name)} .*{operator}{limit[:-1]}\.0% ", shown, flags=re.MULTILINE
        )
    ]


@pytest.mark.parametrize("part", unlearn_reference.PARTS)
def test_every_part_stands_in_one_page(part: str) -> None:
    """Nothing is generated for nobody, and nothing twice."""
    used = [p.name for p in PAGES if f"{{unlearn-reference}} {part}\n" in p.read_text()]
    assert len(used) == 1


def test_flags_in_the_text_are_real() -> None:
    """No page speaks of a flag that the plugin does not have."""
    known = set(unlearn_reference.declared().flags)
    spoken = {
        (path.name, flag)
        for path in PAGES
        for flag in re.findall(r"--unlearn-[a-z-]+[a-z]", path.read_text())
    }
    assert not [found for found in spoken if found[1] not in known]


def test_extras_in_the_text_are_real() -> None:
    """What a page tells to install is in pyproject.toml."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    known = set(table["project"]["optional-dependencies"])
    spoken = {
        (path.name, extra)
        for path in (*PAGES, DOCS / "how-to/release-gate.yml")
        for found in re.findall(
            r"(?:pytest-unlearn|\.)\[([a-z,]+)\]|[Ee]xtra\s+`([\w-]+)`", path.read_text()
        )
        for extra in "".join(found).split(",")
    }
    assert {"dev", "docs"} <= {extra for _, extra in spoken}
    assert not [found for found in spoken if found[1] not in known]


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([\w/.-]+)(?:#[\w-]+)?\)", (ROOT / "README.md").read_text())
    assert len(links) > 20
    assert not [link for link in links if not (ROOT / link).is_file()]
