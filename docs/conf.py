"""Settings of the documentation: `sphinx-build -W docs docs/_build`."""

from __future__ import annotations

import sys
from pathlib import Path

from pygments.lexers.data import JsonLexer
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from pytest_unlearn import __version__

project = "pytest-unlearn"
author = "The pytest-unlearn developers"
release = version = __version__
extensions = ["myst_parser", "unlearn_reference"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_ext"]
nitpicky = True
html_theme = "furo"
html_title = f"pytest-unlearn {release}"


def setup(app: Sphinx) -> None:
    """Colour JSON Lines as JSON."""
    app.add_lexer("jsonl", JsonLexer)
