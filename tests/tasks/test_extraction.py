"""The program that is judged, cut out of what a model wrote by the syntax tree."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pytest_unlearn.tasks.extraction import solution

PROMPT = 'import math\n\ndef f(x):\n    """Double x."""\n'
BODY = "\n    return 2 * x\n"


def solution_source(*arguments: str, **options: Any) -> str:
    return solution(*arguments, **options).source


def run(source: str, name: str = "f") -> Any:
    """Run a program of ours and return its function."""
    names: dict[str, Any] = {}
    exec(source, names)  # noqa: S102 - our own text
    return names[name]


@pytest.mark.parametrize(
    "tail",
    [
        "",
        "\n\nprint(f(1))\n",
        "\ndef g(:\n",
        "\nThis function doubles its argument.\n",
        "```\nDone!",
        "\nf = None\n",
        "\nf = f(3)\n",
        "\ndef f(x):\n    return (0\n",
        "\ndef f(x):\n",
        '\ndef f(x):\n    """Double x."""\n',
        "\ndef f(x):\n    pass\n",
        "\nclass Half:\n    def unfinished(self",
        "\n" * 50,
        "\n    Indented prose says more.\n",
        '\n"""An open docstring\ndef g(x):\n    return 1\n',
        "\nif __name__ == '__main__':\n    f = 3\n",
        "\nx = int(input())\nprint(f(x))\n",
        "\nfrom here on it is prose\n",
        "\nimport nonesuch\n",
        "# a comment at the margin\n    \n",
        "\r\nprint(1)\r\n",
        "\x00\x00",
        "\nx = '\ud800'\n",
    ],
    ids=[
        *("clean", "call", "broken def", "prose", "fence", "none", "result", "half again"),
        *("no body", "docstring", "pass", "half class", "blank", "indented", "open docstring"),
        *("main", "input", "from", "unused import", "comment", "crlf", "nul", "surrogate"),
    ],
)
def test_what_follows_is_cut(tail: str) -> None:
    """Neither what comes after the function nor what is broken in it counts."""
    source = solution_source(PROMPT, BODY + tail, "f")
    assert run(source)(3) == 6
    assert "print" not in source
    assert "nonesuch" not in source


def test_the_last_complete_definition_wins() -> None:
    """As in Python; a model that corrects itself means its second try."""
    assert run(solution_source(PROMPT, BODY + "\ndef f(x):\n    return x + x + 1\n", "f"))(3) == 7
    answer = "def f(x):\n    return 1\n\nNo, better:\n\ndef f(x):\n    return 2 * x\n"
    assert run(solution_source(PROMPT, answer, "f", chat=True))(3) == 6


def test_prompt_boundary() -> None:
    """The prompt's trailing white space is the model's to write: once, not twice."""
    assert solution_source(PROMPT + "    ", BODY, "f") == solution_source(PROMPT, BODY, "f")


FENCED = {
    "fence": "Sure!\n\n```python\ndef f(x):\n    return 2 * x\n```\nThis doubles x.",
    "open fence": "```python\ndef f(x):\n    return 2 * x\n",
    "tildes": "~~~\ndef f(x):\n    return 2 * x\n~~~",
    "prose": "Here is the function:\n\ndef f(x):\n    return 2 * x\n\nIt's done.",
    "apostrophe": "Here's it (the function:\ndef f(x):\n    return 2 * x\n",
    "body": "The body is\n```python\n    return 2 * x\n```\n",
    "list": "1. Write:\n\n   ```python\n   def f(x):\n       return 2 * x\n   ```\n2. Run.",
    "two blocks": "```python\nK = 2\n```\nand\n```python\ndef f(x):\n    return K * x\n```\n",
    "usage": "```\ndef f(x):\n    return 2 * x\n```\n```\nprint(f(1))\nassert f(1) == 3\n```",
    "helper after": "```\ndef f(x):\n    return g(x)\n\ndef g(x):\n    return 2 * x\n```",
    "whole prompt": f"```python\n{PROMPT}    return 2 * x\n```",
    "imports of the prompt": "```python\ndef f(x):\n    return math.floor(2 * x)\n```",
    "fence in a docstring": 'def f(x):\n    """\n```\ncode\n```\n"""\n    return 2 * x\n',
    "lambda": "```\nf = lambda x: 2 * x\n```",
    "alias": "```\ndef double(x):\n    return 2 * x\n\nf = double\n```",
    "future": (
        "```\nfrom __future__ import annotations\ndef f(x: T):\n    return math.floor(2 * x)\n```"
    ),
    "star": "```\nfrom operator import *\ndef f(x):\n    return mul(2, x)\n```",
    "try": (
        "```\ntry:\n    import nonesuch as m\nexcept ImportError:\n    m = 2\n"
        "def f(x):\n    return m * x\n```"
    ),
    "class": "```\nclass D:\n    n = 2\n\n\ndef f(x):\n    return D().n * x\n```",
    "constants": "```\nA, B = 1, {}\nB['k'] = A + 1\ndef f(x):\n    return B['k'] * x\n```",
    "decorator": "```\nimport functools\n\n@functools.cache\ndef f(x):\n    return 2 * x\n```",
    "default": "```\nK = 2\ndef f(x, k=K):\n    return k * x\n```",
    "nested": "```\nK = 2\ndef f(x):\n    def g():\n        return K * x\n    return g()\n```",
    "brackets": "Look (here:\nK = [\n1,\n2\n]\ndef f(\n    x\n):\n    return K[1] * x\n",
    "two in a list": (
        "1. A\n  ```\n  K = 2\n  ```\n2. B\n```\n  def g(:\n```\n"
        "text\n```\nK = 2\ndef f(x):\n    return K * x\n```"
    ),
    "body and helper": "```\n    return g(x)\n```\nwith\n```\ndef g(x):\n    return 2 * x\n```",
    "margin comment": "So:\ndef f(x):\n# at the margin\n    return 2 * x\n",
}


@pytest.mark.parametrize("answer", FENCED.values(), ids=FENCED)
def test_answers_of_a_chat(answer: str) -> None:
    """From prose and fences, with what the function reaches and no more."""
    source = solution_source(PROMPT, answer, "f", chat=True)
    assert run(source)(3) == 6
    assert "print" not in source
    assert "assert" not in source


def test_a_function_without_return_is_kept() -> None:
    """It may change its argument, yield, or raise."""
    source = solution_source("def f(xs):\n", "\n    xs.sort()\n\nprint(1)", "f")
    xs = [2, 1]
    assert run(source)(xs) is None
    assert xs == [1, 2]


def test_a_decorator_belongs_to_its_function() -> None:
    """Also where the text does not parse as a whole; a line at the margin else ends a statement."""
    text = "It's:\nimport functools\n@functools.cache\ndef f(x):\n    return 2 * x\n"
    assert "@functools.cache\ndef f" in solution_source(PROMPT, text, "f", chat=True)


def test_what_only_a_script_does_is_left_out() -> None:
    """A module that is imported does not run its main block."""
    tail = "\nK = 2\nif __name__ == '__main__':\n    K = int(input())\n"
    source = solution_source(PROMPT, "\n    return K * x\n" + tail, "f")
    assert run(source)(3) == 6
    assert "input" not in source


def test_helpers_that_are_reached_stay_and_others_go() -> None:
    """A helper's own helper, too; locals of the function reach nothing."""
    prompt = "def a(x):\n    return b(x)\n\ndef b(x):\n    return x + 1\n\ndef f(x):\n"
    tail = "\n    total = a(x)\n    return total\n\ntotal = open('nonesuch')\ndef c():\n    pass\n"
    source = solution_source(prompt, tail, "f")
    assert run(source)(1) == 2
    assert "nonesuch" not in source
    assert "def c" not in source


def test_a_helper_defined_twice_is_the_last_one() -> None:
    """As in Python."""
    text = "\n    return h(x)\n\ndef h(x):\n    return 0\n\ndef h(x):\n    return 2 * x\n"
    assert run(solution_source(PROMPT, text, "f"))(3) == 6


def test_a_half_finished_function_is_better_than_none() -> None:
    """Its last line is cut, not the function."""
    source = solution_source("def f(x):\n", "\n    y = 2 * x\n    return y\n    z = (y +", "f")
    assert run(source)(3) == 6


def test_an_empty_body_is_judged_as_it_is() -> None:
    """Nothing was written: the judge says wrong answer, not a syntax error."""
    assert run(solution_source(PROMPT, "\n", "f"))(3) is None


def test_infill() -> None:
    """What is behind the gap belongs to the program."""
    source = solution_source("def f(x):\n    y =", " 2 * x\n", "f", suffix="    return y\n")
    assert run(source)(3) == 6


def test_a_class_can_be_the_entry_point() -> None:
    text = "class Pair:\n    def __init__(self, a):\n        self.a = a\n"
    assert run(solution_source("# a class\n", text, "Pair", chat=True), "Pair")(1).a == 1


@pytest.mark.parametrize("text", ["    return (", "\x00", "\ud800", "return 1\n  x"])
def test_no_program_is_returned_as_it_is(text: str) -> None:
    """So that the judge reports what is wrong with it."""
    assert solution_source("# write g\n", text, "g") == "# write g" + text


SIZE = 2**18
LONG = {
    "prose": "This is a line of prose, it's long.\n" * (SIZE // 36),
    "half definitions": "def g(:\n" * (SIZE // 8),
    "open brackets": "x = (\n" * (SIZE // 6),
    "open quotes": 'x = """\n' * (SIZE // 8 | 1),
    "deep": "x = " + "(" * SIZE,
    "one line": "x = '" + "a" * SIZE + "'\ny = (",
    "statements": "x = 1\n" * (SIZE // 6) + "y = (",
    "fences": "```\n" * (SIZE // 4),
    "cut lines": "def g(x):\n" + "    y = (\n" * (SIZE // 10),
    "indented fences": "  ```python\n    (\n" * (SIZE // 20),
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_a_long_answer_takes_linear_time(text: str) -> None:
    """And the function before it is still found. The limit is generous: machines are shared."""
    started = time.process_time()
    source = solution_source(PROMPT, BODY + "\n" + text, "f")
    seconds = time.process_time() - started
    assert run(source)(3) == 6
    assert seconds < 8


def test_a_long_answer_without_the_function_takes_linear_time() -> None:
    """Every block would be read by itself, twice."""
    started = time.process_time()
    text = "```\nx = (\n" * (SIZE // 10)
    prompt = "# note\n" * 1000 + "# write g"
    assert solution_source(prompt, text, "g", chat=True).startswith(prompt + "\n```")
    assert time.process_time() - started < 8
