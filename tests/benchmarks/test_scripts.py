"""Benchmarks run: what nothing runs, rots."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.support.lookup_run import UnlearnRun

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_papers_table(unlearn_run: UnlearnRun) -> None:
    """Counts before and after, a plot that is XML, and an error that is no number."""
    lost = [f"add-{n}" for n in range(15)]
    unlearn_run.lookup(leaking=[f"direct-email-forget-{n:03d}" for n in range(0, 24, 2)], lost=lost)
    run = subprocess.run(
        [sys.executable, str(BENCHMARKS / "paper.py"), "--methods", "ga", "gaa", "--out", "out",
         # The script names the model.
         "--", *unlearn_run.arguments()[1:], *unlearn_run.gates(()), "-p", "no:cacheprovider"],
        cwd=unlearn_run.pytester.path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert "'gaa' is not a method" in run.stderr
    out = unlearn_run.pytester.path / "out"
    table = (out / "paper.md").read_text().splitlines()
    assert table[2] == (
        "| tiny | `ga` | 60 (100.0 %) | 12 (20.0 %) | 0 (0.0 %) | 0 (0.0 %) | 50.0 % | 100.0 % |"
    )
    assert table[3] == "| tiny | `gaa` | error | | | | | |"
    assert len(ET.fromstring((out / "paper.svg").read_text()).findall(".//{*}circle")) == 1


def test_the_papers_table_has_no_figures_of_a_broken_run(unlearn_run: UnlearnRun) -> None:
    """Rates over what happened to be measured would read as results."""
    unlearn_run.lookup(
        also="""
def pytest_collection_modifyitems(items):
    items[3].runtest = lambda: 1 / 0
"""
    )
    run = subprocess.run(
        [sys.executable, str(BENCHMARKS / "paper.py"), "--methods", "ga", "--out", "out",
         "--", *unlearn_run.arguments()[1:], *unlearn_run.gates(()), "-p", "no:cacheprovider"],
        cwd=unlearn_run.pytester.path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert "| tiny | `ga` | error |" in (unlearn_run.pytester.path / "out" / "paper.md").read_text()
