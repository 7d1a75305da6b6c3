"""What a text from outside may do to a report: be shown, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_unlearn.core.errors import plain
from pytest_unlearn.reports.formats import FORMATS
from pytest_unlearn.reports.tables import code, markdown, markdown_table
from tests.support.results import make

HOSTILE = "a`b|c\n::error::x\x1b[31m<script>\u202eevil\ud800"


@given(st.text(st.characters(exclude_categories=())))
def test_plain_text_steers_nothing(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable() or not shown
    shown.encode("utf-8")
    assert len(shown.splitlines()) <= 1


def test_markdown_is_no_markup() -> None:
    shown = r"\*a\* \<b> \[c\](d) \`e\` \| <=5% \&lt; & "
    assert markdown("*a* <b> [c](d) `e` | <=5% &lt; & ") == shown


@pytest.mark.parametrize(
    ("text", "shown"), [("a", "`a`"), ("a`b", "``a`b``"), ("`a", "`` `a ``"), ("a|b", r"`a\|b`")]
)
def test_code(text: str, shown: str) -> None:
    assert code(text, cell=True) == shown


def test_a_bar_does_not_end_a_cell() -> None:
    assert markdown_table(["a"], [["x|y"], ["x\\|y"]])[2:] == ["| x\\|y |", "| x\\|y |"]


@pytest.mark.parametrize("name", ["html", "github", "modelcard"])
def test_a_hostile_name_is_text(name: str) -> None:
    """A report with it is written, and no line, tag, command or escape of it comes through."""
    text = FORMATS[name].render(make(model=HOSTILE))
    text.encode("utf-8")
    assert "\x1b" not in text
    assert "<script>\u202e" not in text
    lines = text.splitlines() if name != "html" else []  # GitHub reads no commands in a page
    assert not any(line.startswith("::error::") for line in lines)
