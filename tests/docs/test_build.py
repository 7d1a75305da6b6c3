"""The documentation builds without a warning."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.doc_blocks import ROOT


@pytest.mark.skipif(
    not all(map(find_spec, ("sphinx", "myst_parser", "furo"))), reason="needs the extra docs"
)
def test_the_documentation_builds(tmp_path: Path) -> None:
    """Every link leads somewhere, every page is in the contents, every generated part is valid."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(tmp_path)]
    built = subprocess.run(
        [*command, str(ROOT / "docs"), str(tmp_path / "html")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        check=False,
    )
    assert (built.returncode, built.stderr) == (0, "")
    page = (tmp_path / "html/reference/flags.html").read_text()
    assert "--unlearn-model" in page
    assert "unlearn_sandbox_imports" in page
