"""The program that is judged, cut out of what a model wrote by the syntax tree."""

from __future__ import annotations

import decimal
import gc
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
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


def test_a_class_body_needs_no_line_end_in_front() -> None:
    """As canonical solutions are written: the prompt's own line end is before them."""
    prompt = 'class Pair:\n    """Two."""\n'
    text = "    def __init__(self, a):\n        self.a = a\n"
    for body in (text, f"\n{text}"):
        assert run(solution_source(prompt, body, "Pair"), "Pair")(1).a == 1


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


# -- what fills and changes names while the module loads -------------------------------------------

LOADED = {
    "global counter": "    global n\n    n += 1\n    return 2 * x\n\n\nn = 0\n",
    "global set": "    global last\n    last = x\n    return g() * 2\n\n\nlast = 1\n\n\n"
    "def g():\n    return last\n",
    "append": "    return T[x]\n\n\nT = []\nfor i in range(9):\n    T.append(2 * i)\n",
    "append in while": "    return T[x]\n\n\nT = []\nn = 0\nwhile n < 9:\n    T.append(2 * n)\n"
    "    n += 1\n",
    "add": "    return 2 * x if x in S else 0\n\n\nS = set()\nfor i in range(9):\n    S.add(i)\n",
    "heappush": "    return H[x - 3] + 6\n\n\nimport heapq\nH = []\nfor i in range(9):\n"
    "    heapq.heappush(H, i)\n",
    "heappush by name": "    return H[0] + 6\n\n\nfrom heapq import heappush\nH = []\n"
    "for i in range(9):\n    heappush(H, i)\n",
    "setdefault": "    return T[x][0]\n\n\nT = {}\nfor i in range(9):\n"
    "    T.setdefault(i, []).append(2 * i)\n",
    "index": "    return T[x]\n\n\nT = {}\nfor i in range(9):\n    T[i] = 2 * i\n",
    "update": "    return T[x]\n\n\nT = {}\nT.update({i: 2 * i for i in range(9)})\n",
    "insort": "    return T[x]\n\n\nimport bisect\nT = []\nfor i in (8, 6, 4, 2, 0):\n"
    "    bisect.insort(T, i)\n",
    "sort": "    return T[x]\n\n\nT = [8, 6, 4, 2, 0]\nT.sort()\n",
    "del": "    return T[x]\n\n\nT = [9, 0, 2, 4, 6]\ndel T[0]\n",
    "comprehension": "    return T[x]\n\n\nT = []\n[T.append(2 * i) for i in range(9)]\n",
    "assigned": "    return T[x]\n\n\nT = []\n_ = [T.append(2 * i) for i in range(9)]\n",
    "map": "    return T[x]\n\n\nT = []\nlist(map(T.append, range(0, 18, 2)))\n",
    "method by another name": "    return T[x]\n\n\nT = []\nput = T.append\nfor i in range(9):\n"
    "    put(2 * i)\n",
    "rows": "    return T[x][0]\n\n\nT = [[] for _ in range(9)]\nfor i, row in enumerate(T):\n"
    "    row.append(2 * i)\n",
    "rows by name": "    return T[0][0] * x\n\n\nT = [[]]\nrow = T[0]\nrow.append(2)\n",
    "trie": "    node = R\n"
    "    for c in 'ab':\n        node = node[c]\n    return node['end'] * x\n\n\n"
    "R = {}\nfor word in ('ab', 'b'):\n    here = R\n    for c in word:\n"
    "        here = here.setdefault(c, {})\n    here['end'] = 2\n",
    "attribute": "    return f.by * x\n\n\nf.by = 2\n",
    "attribute by setattr": "    return f.by * x\n\n\nsetattr(f, 'by', 2)\n",
    "attribute table": "    return f.T[x]\n\n\nf.T = {}\nfor i in range(9):\n    f.T[i] = 2 * i\n",
    "attribute of a class": "    return C.by * x\n\n\nclass C:\n    by = 1\n\n\nC.by = 2\n",
    "filled by a function": "    return T[x]\n\n\nT = []\n\n\ndef fill():\n    for i in range(9):\n"
    "        T.append(2 * i)\n\n\nfill()\n",
    "made by a function": "    return T[x]\n\n\ndef make():\n    global T\n"
    "    T = [0, 2, 4, 6]\n\n\nmake()\n",
    "filled by a chain": "    return T[x]\n\n\nT = []\n\n\ndef outer():\n    inner(T)\n\n\n"
    "def inner(t):\n    t.extend([0, 2, 4, 6])\n\n\nouter()\n",
    "given to a function": "    return T[x]\n\n\nT = []\n\n\ndef fill(t, n):\n"
    "    for i in range(n):\n        t.append(2 * i)\n\n\nfill(T, 9)\n",
    "object of a class": "    return T.get(x)\n\n\nclass Table:\n    def __init__(self):\n"
    "        self.d = {}\n\n    def put(self, i):\n        self.d[i] = 2 * i\n\n"
    "    def get(self, i):\n        return self.d[i]\n\n\nT = Table()\nfor i in range(9):\n"
    "    T.put(i)\n",
    "registry": "    return OPS['double'](x)\n\n\nOPS = {}\n\n\ndef op(name):\n    def keep(g):\n"
    "        OPS[name] = g\n        return g\n\n"
    "    return keep\n\n\n@op('double')\ndef double(x):\n"
    "    return 2 * x\n",
    "dispatch": "    return g(x)\n\n\nimport functools\n\n\n@functools.singledispatch\ndef g(x):\n"
    "    return 0\n\n\n@g.register\ndef _(x: int):\n    return 2 * x\n",
    "subclasses": "    return sum(c.by for c in B.__subclasses__()) * x\n\n\n"
    "class B:\n    pass\n\n\n"
    "class C(B):\n    by = 2\n",
    "globals": "    return globals()['double'](x)\n\n\ndef double(x):\n    return 2 * x\n",
    "eval": "    return eval('K * x')\n\n\nK = 2\n",
    "wrapped": "    f.seen.append(x)\n    return 2 * x\n\n\ndef noted(g):\n    g.seen = []\n"
    "    return g\n\n\nf = noted(f)\n",
    "with": "    return T[x]\n\n\n"
    "import contextlib\nT = []\nwith contextlib.suppress(ValueError):\n"
    "    T.extend([0, 2, 4, 6])\n    raise ValueError\n",
    "match": "    return K * x\n\n\n"
    "match 3:\n    case 3:\n        K = 2\n    case _:\n        K = 0\n",
    "walrus": "    return K * x\n\n\nif (K := 2) > 1:\n    pass\n",
    "recursion limit": "    return 2 * x if sys.getrecursionlimit() == 4321 else 0\n\n\n"
    "import sys\n"
    "sys.setrecursionlimit(4321)\n",
    "digits": "    import sys\n"
    "    return 2 * x if sys.get_int_max_str_digits() == 4321 else 0\n\n\n"
    "import sys\ntry:\n    sys.set_int_max_str_digits(4321)\nexcept AttributeError:\n    pass\n",
    "lambda that fills": "    return T[x]\n\n\nT = []\nadd = lambda i: T.append(2 * i)\n"
    "for i in range(9):\n    add(i)\n",
    "partial": "    return T[x]\n\n\nfrom functools import partial\nT = []\n"
    "add = partial(list.append, T)\nfor i in range(9):\n    add(2 * i)\n",
    "method of a type": "    return T[x]\n\n\nT = []\nfor i in range(9):\n"
    "    list.append(T, 2 * i)\n",
    "reduce": "    return T[x]\n\n\nimport functools\nT = []\n"
    "functools.reduce(lambda t, i: (t.append(2 * i), t)[1], range(9), T)\n",
    "thread": "    return T[x]\n\n\nimport threading\nT = []\n\n\ndef fill():\n"
    "    T.extend([0, 2, 4, 6])\n\n\n"
    "t = threading.Thread(target=fill); t.start(); t.join()\n",
    "starred": "    return T[x]\n\n\nfirst, *T = range(-2, 18, 2)\n",
    "one line": "    return T[x] + S[0]\n\n\nT = []; S = [0]; n = 9\n"
    "for i in range(n): T.append(2 * i)\n",
    "exec": "    return double(x)\n\n\nexec('def double(x): return 2 * x')\n",
    "globals by text": "    return K * x\n\n\nglobals()['K'] = 2\n",
    "setting of any module": "    return 2 * x if not gc.isenabled() else 0\n\n\n"
    "import gc\ngc.disable()\n",
    "decimal": "    return 2 * x if decimal.getcontext().prec == 43 else 0\n\n\nimport decimal\n"
    "decimal.getcontext().prec = 43\n",
}


@pytest.fixture(autouse=True)
def limits() -> Any:
    """What the programs here set for all of Python is put back."""
    recursion, digits, precision = (
        sys.getrecursionlimit(),
        sys.get_int_max_str_digits(),
        decimal.getcontext().prec,
    )
    yield
    gc.enable()
    sys.setrecursionlimit(recursion)
    sys.set_int_max_str_digits(digits)
    decimal.getcontext().prec = precision


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "among prose"])
@pytest.mark.parametrize("text", LOADED.values(), ids=LOADED)
def test_what_fills_a_name_is_kept(text: str, whole: bool) -> None:
    """In a text that parses, and in one of which only its statements do; `print` never is."""
    tail = "\nprint(f(1))\nassert f(1) == 3\n" + ("" if whole else "\nThat's it, (I think.\n")
    source = solution_source("def f(x):\n", f"\n{text}{tail}", "f")
    assert "print" not in source
    assert "assert" not in source
    assert run(source)(3) == 6


NOT_RUN = {
    "other table": "T = []\nfor i in range(9):\n    T.append(nonesuch)\n",
    "example": "memo = {}\nf(nonesuch)\n",
    "main": "def main():\n    nonesuch()\n\n\nmain()\n",
    "tester": "def test(g):\n    assert g(1) == nonesuch\n\n\ntest(f)\n",
    "result": "xs = []\nxs.append(f(nonesuch))\n",
    "exit": "import sys\nsys.exit(nonesuch)\n",
    "local of the same name": "y = nonesuch()\n",
    "comprehension's own": "T = [nonesuch for y in range(3)]\n",
}


@pytest.mark.parametrize("tail", NOT_RUN.values(), ids=NOT_RUN)
def test_what_does_not_reach_the_function_is_not_run(tail: str) -> None:
    text = "\n    y = [y for y in (x, x)]\n    return sum(y)\n\n\n" + tail
    source = solution_source("def f(x):\n", text, "f")
    assert run(source)(3) == 6
    assert "nonesuch" not in source


DEFINED = {
    "in try": "try:\n"
    "    import nonesuch\nexcept ImportError:\n    def f(x):\n        return 2 * x\n",
    "in if": "if True:\n    def f(x):\n        return 2 * x\n",
    "annotated": "f: object = lambda x: 2 * x\n",
    "partial": "import functools\nimport operator\nf = functools.partial(operator.mul, 2)\n",
    "made": "def by(n):\n    return lambda x: n * x\n\nf = by(2)\n",
}


@pytest.mark.parametrize("answer", DEFINED.values(), ids=DEFINED)
def test_definitions_of_other_kinds(answer: str) -> None:
    text = f"Here:\n```python\n{answer}```\nIt's done.\n"
    found = solution("# write f", text, "f", chat=True)
    assert found.whole
    assert run(found.source)(3) == 6


def test_a_class_of_empty_methods_is_no_solution() -> None:
    skeleton = 'class f:\n    """Doubles."""\n\n    def twice(self, x):\n        """Double x."""\n'
    assert not solution(skeleton, "\nI cannot do this.", "f", chat=True).whole
    cut = f"\n{skeleton}        return 2 * x\n\n    def open(self"
    assert run(solution_source(skeleton, cut, "f", chat=True))().twice(3) == 6


# -- bodies ----------------------------------------------------------------------------------------

SPACES = 'def f(x):\n    """Double x."""\n'
BODIES = {
    "one space less": (SPACES, "\n   return 2 * x\n"),
    "one space less, first line": (SPACES, "\n   y = x\n    return 2 * y\n"),
    "one space less, all lines": (SPACES, "\n   y = x\n   if y:\n       y = 2 * y\n   return y\n"),
    "one space more": (SPACES, "\n     y = x\n    return 2 * y\n"),
    "no line end": (SPACES, "    return 2 * x\n"),
    "tabs": (SPACES, "\n\ty = x\n\tif y:\n\t\ty = 2 * y\n\treturn y\n"),
    "tabs after the first line": (SPACES, "\n    y = x\n\tif y:\n\t\ty = 2 * y\n\treturn y\n"),
    "tabs of eight": (SPACES, "\n    y = x\n    if y:\n\ty = 2 * y\n    return y\n"),
    "spaces under a tab": (SPACES.replace("    ", "\t"), "\n    y = x\n    return 2 * y\n"),
    "two spaces": (
        SPACES.replace("    ", "  "),
        "\n    if x:\n        return 2 * x\n    return 0\n",
    ),
    "no def": (SPACES, "\ny = x\nfor _ in range(1):\n    y = 2 * y\nreturn y\n"),
    "first line stripped": (SPACES, "y = x\n    return 2 * y\n"),
    "no def, helper": (SPACES, "\nreturn g(x)\n\n\ndef g(x):\n    return 2 * x\n"),
    "no def, own helper": (SPACES, "\ndef g(x):\n    return 2 * x\nreturn g(x)\n"),
    "no def, use": (SPACES, "\nreturn 2 * x\n\nprint(f(3))\n"),
    "no docstring": ("def f(x):\n", "\nreturn 2 * x\n"),
    "signature of lines": ("def f(\n    x: int,\n) -> int:  # double\n", "\nreturn 2 * x\n"),
}


@pytest.mark.parametrize("chat", [False, True], ids=["completion", "chat"])
@pytest.mark.parametrize(("prompt", "body"), BODIES.values(), ids=BODIES)
def test_a_body_of_another_indentation(prompt: str, body: str, chat: bool) -> None:
    """Alone; in an answer, in a block."""
    text = f"Sure:\n```python{body}```\nDone." if chat and body[0] == "\n" else body
    found = solution(prompt, text, "f", chat=chat)
    assert found.whole
    assert run(found.source)(3) == 6


def test_a_method_body_of_another_indentation() -> None:
    prompt = 'class S:\n    def f(self, x):\n        """Double x."""\n'
    for body in ("\n       return 2 * x\n", "\n\t\treturn 2 * x\n", "\nreturn 2 * x\n"):
        assert run(solution_source(prompt, body, "S"), "S")().f(3) == 6


def test_a_body_that_is_wrong_stays_wrong() -> None:
    """Only the place of the body is corrected."""
    assert run(solution_source(SPACES, "\nreturn 3 * x\n", "f"))(3) == 9
    assert not solution(SPACES, "\n   return 2 * x +\n", "f").whole
    assert not solution(SPACES, "\nI cannot say.\n", "f").whole


# -- texts of any kind -----------------------------------------------------------------------------


def test_parsing_never_warns() -> None:
    """An invalid escape, `is` with a number and the like are the model's own business."""
    body = (
        "\n    import re\n    assert re.match('\\d', '1')\n    return 2 * x if x is not 1 else 2\n"
    )
    for tail in ("", "\nT = '\\d'\nThat's (it\n```\n    return '\\d'\n```"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = solution(PROMPT, body + tail, "f")
            assert found.whole
            with pytest.raises(SyntaxError):  # the filter is still there
                compile("'\\d'", "x", "exec")


def test_threads_parse_side_by_side() -> None:
    """One thread's filters are not put back by another."""
    before = list(warnings.filters)
    with ThreadPoolExecutor(16) as pool:
        texts = list(
            pool.map(lambda n: solution_source(PROMPT, f"{BODY}\n'\\d'\n", "f"), range(64))
        )
    assert len(set(texts)) == 1
    assert list(warnings.filters) == before


DEEP = {
    "elif": "    if x == -1:\n        pass\n"
    + "".join(f"    elif x == {-n}:\n        pass\n" for n in range(2, 2500)),
    "else if": "    if x:\n        pass\n" + "    elif x:\n        pass\n" * 4_000,
    "decorators": "    pass\n" + "@a\n" * 1600,
    "decorators of a function": "    pass\n" + "@a\n" * 1600 + "def g():\n    pass\n",
    "calls of decorators": "    pass\n" + "@a(\n" * 1600,
    "operators": "    y = " + "not " * 5000 + "x\n",
    "sum": "    y = " + "x + " * 5000 + "x\n",
    "attributes": "    y = x" + ".a" * 5000 + "\n",
    "calls": "    y = x" + "()" * 5000 + "\n",
    "blocks": "".join(" " * (4 + n) + "if x:\n" for n in range(120)),
    "functions": "    pass\n" + "def g():\n    T.append(1)\n    h()\n\n\n" * 400 + "T = []\ng()\n",
    "chain": "    pass\n"
    + "".join(f"def g{n}():\n    g{n + 1}()\n" for n in range(3000))
    + "g0()\n",
    "aliases": "    pass\n" + "".join(f"a{n} = a{n + 1}[0]\n" for n in range(1000)) + "a0.pop()\n",
}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
@pytest.mark.parametrize("tail", ["", "It's (open\n"], ids=["", "open"])
def test_depth_is_bounded_and_raises_nothing(text: str, tail: str) -> None:
    started = time.process_time()
    solution(PROMPT, f"\n{text}{tail}", "f")
    source = solution_source(PROMPT, f"{BODY}\n\ndef g(x):\n{text}\n{tail}", "f")
    assert time.process_time() - started < 4
    assert run(source)(3) == 6


DEFINITION = "def f(x):\n    return 2 * x\n"


@pytest.mark.parametrize(
    ("answer", "chat"),
    [
        ("\n    return 2 * x<|endoftext|>def f(x): return 1", False),
        ("\n    return 2 * x</s>", False),
        (f"```python\n{DEFINITION}```<|im_end|>\n", True),
        ("\n\u00a0\u00a0\u00a0\u00a0return 2 * x\n", False),
        ("\u200b\n    return 2 * x\n", False),
        (">>> def f(x):\n...     return 2 * x\n...\n>>> f(4)\n8\n", True),
        ("```pycon\n>>> def f(x):\n...     return 2 * x\n...\n>>> f(4)\n8\n```", True),
        ("In [1]: def f(x):\n   ...:     return 2 * x\n\nIn [2]: f(4)\nOut[2]: 8\n", True),
    ],
)
def test_what_tokenizers_and_sessions_add_is_left_out(answer: str, chat: bool) -> None:
    assert run(solution_source(PROMPT, answer, "f", chat=chat))(21) == 42


def test_tokens_in_quotes_are_the_programs_own() -> None:
    source = solution_source(PROMPT, "\n    return '<|endoftext|>' * x + '</s>'\n", "f")
    assert run(source)(1) == "<|endoftext|></s>"
