"""The program that is judged, cut out of what a model wrote by the syntax tree."""

from __future__ import annotations

import pytest

from pytest_unlearn.tasks.extraction import solution_source

PROMPT = 'import math\n\ndef f(x):\n    """Double x."""\n'
BODY = "\n    return 2 * x\n"


@pytest.mark.parametrize(
    "tail",
    [
        "",
        "\n\nprint(f(1))\n",
        "\ndef g(:\n",
        "\nThis function doubles its argument.\n",
        "```\nDone!",
        "\nf = None\n",
        "\ndef f(x):\n    return 0\n",
        "\nclass Half:\n    def unfinished(self",
        "\n" * 50,
    ],
    ids=["clean", "call", "broken def", "prose", "fence", "rebound", "again", "half", "blank"],
)
def test_what_follows_is_cut(tail: str) -> None:
    """The function ends where its syntax tree ends."""
    source = solution_source(PROMPT, BODY + tail, "f")
    names: dict[str, object] = {}
    exec(source, names)  # noqa: S102 - our own text
    function = names["f"]
    assert callable(function)
    assert function(3) == 6
    assert "print" not in source


def test_prompt_boundary() -> None:
    """The prompt's trailing white space is the model's to write: once, not twice."""
    assert solution_source(PROMPT + "    ", BODY, "f") == solution_source(PROMPT, BODY, "f")


def test_helpers_before_the_function_stay() -> None:
    """Imports and definitions above are part of the program."""
    prompt = "def helper(x):\n    return x + 1\n\ndef f(x):\n"
    assert "def helper" in solution_source(prompt, "    return helper(x)\n", "f")


@pytest.mark.parametrize("text", ["", "    return (", "\x00", "\ud800"])
def test_no_program_is_returned_as_it_is(text: str) -> None:
    """So that the judge reports what is wrong with it."""
    assert solution_source(PROMPT, text, "f").startswith("import math")
