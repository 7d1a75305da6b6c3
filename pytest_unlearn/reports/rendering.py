"""Templates and escaping: what a text from outside may do to a page, a summary or a terminal.

Model names, methods, file names and prompts are the user's; in a report they are text and nothing
else. HTML is escaped by Jinja2 itself, Markdown by the filters below.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pytest_unlearn.core.errors import plain

if TYPE_CHECKING:
    from jinja2 import Environment

# What Markdown or the HTML in it would read as markup.
_MARKDOWN = re.compile(r"([\\`*_\[\]|~]|<(?=[A-Za-z/!?])|&(?=#?\w))")


def markdown(text: str) -> str:
    """Return a text as Markdown that shows it and nothing else."""
    return _MARKDOWN.sub(r"\\\1", plain(text))


def code(text: str, cell: bool = False) -> str:
    """Return a text as Markdown code. `cell`: in a table, where a bar ends even code."""
    text = plain(text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    shown = f"{fence}{pad}{text}{pad}{fence}"
    return shown.replace("|", "\\|") if cell else shown


def markdown_table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return a table in GitHub's Markdown, a line each; cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines]


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)


def _shown_in_html(autoescape: bool, value: Any) -> Any:
    """Spell out, in a page, what no page can hold or what turns text around; lines stay lines."""
    if not autoescape or not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "".join(c if c in "\n\t" else plain(c) for c in value)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined, pass_eval_context
    from jinja2.nodes import EvalContext

    @pass_eval_context
    def finalize(context: EvalContext, value: Any) -> Any:
        return _shown_in_html(context.autoescape, value)

    environment = Environment(
        loader=PackageLoader("pytest_unlearn.reports"),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": markdown, "code": code, "plain": plain}
    return environment


def rendered(template: str, **context: Any) -> str:
    """Return a template of `reports/templates` filled in; `*.html` is escaped."""
    return _environment().get_template(template).render(**context)
