"""Every code block of the README and of docs/ is run, or read by what would read it.

A page is a scenario: its blocks are taken in order, in one folder. A block whose first line is a
comment with a file's name is that file. In console blocks, pytest is run where a comment above the
block says so (`<!-- lookup: leaking=3, exit=1 -->`: on the lookup backend, with so many leaks, to
that exit code), and what the page shows must be what it prints, `*` standing for anything.
All other flags go through pytest's parser and the plugin's checks: a wrong flag, method, gate or
profile fails.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_unlearn.models.presets import installed_presets
from tests.support.doc_blocks import (
    PAGES,
    ROOT,
    Block,
    Scene,
    blocks,
)

# Shown, and read by nobody but people.
PROSE = {"", "text", "{toctree}", "{unlearn-reference}", "{literalinclude}"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks(page: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page work, in the order in which a reader meets them."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    scene = Scene(pytester, monkeypatch)
    for block in blocks(page):
        if block.language in PROSE:
            continue
        run: Callable[[Block], None] = getattr(scene, block.language)
        try:
            run(block)
        except (Exception, SystemExit, pytest.fail.Exception) as error:
            raise AssertionError(f"{page}:{block.line}: {error}") from error
    installed_presets.cache_clear()
