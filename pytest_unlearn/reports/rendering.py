"""Templates and escaping, so that text from outside is only text in a page or a summary.

Model names, methods, file names and prompts come from the user. Jinja2 escapes HTML itself; the
filters below escape Markdown.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pytest_unlearn.core.errors import plain

if TYPE_CHECKING:
    from jinja2 import Environment

# What Markdown, or HTML inside it, would read as markup.
_MARKDOWN = re.compile(r"([\\`*_\[\]|~]|<(?=[A-Za-z/!?])|&(?=#?\w))")


def markdown(text: str) -> str:
    """Return Markdown that shows the text literally."""
    return _MARKDOWN.sub(r"\\\1", plain(text))


def code(text: str, cell: bool = False) -> str:
    """Return a text as Markdown code. `cell`: in a table, where a bar ends a cell even in code."""
    text = plain(text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    shown = f"{fence}{pad}{text}{pad}{fence}"
    return shown.replace("|", "\\|") if cell else shown


def markdown_table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the lines of a table in GitHub's Markdown; cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines]


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)


def _shown_in_html(autoescape: bool, value: Any) -> Any:
    """Spell out characters that a page cannot hold or that change the text's direction."""
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
    """Return a template of `reports/templates`, filled in; `*.html` is escaped."""
    return _environment().get_template(template).render(**context)
