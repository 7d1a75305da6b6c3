"""Tests that are a program: run in a process of their own, with a stand-in for the solution."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytest_unlearn.sandbox import Limits, Sandbox, SandboxError, SolutionVerdict
from pytest_unlearn.tasks.format import Call, CheckProgram

RIGHT = "def f(a, b=1):\n    return a + b\n"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(Limits(wall_s=1)) as it:
        yield it


def check(sandbox: Sandbox, source: str, program: str) -> SolutionVerdict:
    return sandbox.run(source, "f", CheckProgram(program))


def test_passed(sandbox: Sandbox) -> None:
    program = "import math\nassert candidate(1) == 2\nassert f(1, b=math.floor(2.5)) == 3\n"
    verdict = check(sandbox, RIGHT, program)
    assert (verdict.status, verdict.detail, verdict.call) == ("passed", "", None)


def test_the_check_sees_a_function_with_the_name(sandbox: Sandbox) -> None:
    assert check(sandbox, RIGHT, "assert f.__name__ == 'f' and candidate is f and f(1) == 2").passed


def test_wrong_answer_names_line_and_call(sandbox: Sandbox) -> None:
    verdict = check(sandbox, RIGHT, "assert candidate(1) == 2\nx = candidate(40)\nassert x == 42\n")
    assert (verdict.status, verdict.call) == ("wrong_answer", 1)
    assert verdict.detail == "check, line 3: assert x == 42; f(40) gave 41"


def test_an_error_of_the_check_itself_is_a_wrong_answer(sandbox: Sandbox) -> None:
    verdict = check(sandbox, "def f(a): pass", "assert abs(candidate(1) - 2) < 1e-6")
    assert verdict.status == "wrong_answer"
    assert "TypeError: unsupported operand" in verdict.detail


@pytest.mark.parametrize(
    ("source", "status", "detail"),
    [
        ("def f(a):\n    return {}[a]\n", "exception", "KeyError (line 2)"),
        ("def f(a):\n    raise ValueError('no')\n", "exception", "ValueError: no (line 2)"),
        ("class Own(Exception): pass\ndef f(a):\n    raise Own('no')", "exception", "Own: no"),
        ("def f(a): return 'é'.encode('ascii')", "exception", "UnicodeEncodeError"),
        ("def f(a): open('/x', 'w')", "forbidden", ""),
        ("1 / 0", "exception", "ZeroDivisionError: division by zero (line 1)"),
        ("import socket\nsocket.socket()", "forbidden", "PermissionError"),
        ("def f(a) return a", "no_solution", "does not compile"),
        ("def g(a): return a", "no_solution", "does not define a function f"),
        ("import os\ndef f(a): os._exit(0)", "crash", "exited early (exit status 0)"),
        ("import sys\ndef f(a): sys.exit(0)", "crash", "exited early (SystemExit)"),
        ("def f(a): return 'x' * 10 ** 11", "memory", "MemoryError"),
        ("def f(a):\n    while True: pass", "timeout", "not done after 1 s"),
        ("while True: pass", "timeout", "not done after 1 s"),
        ("def f(a): return bytes(200 << 20)", "wrong_answer", "result too large"),
        ("def f(a):\n    a = []\n    a.append(a)\n    return a", "wrong_answer", "result nested"),
        ("import os\ndef f(a): os.write(3, b'?' * 99)", "crash", "channel"),
        ("import os\ndef f(a): os.write(3, b'R\\x7f\\xff\\xff\\xff')", "crash", "flooded"),
        (
            "import os\ndef f(a): os.write(3, b'R\\0\\0\\0\\1?')",
            "crash",
            "broke its result channel",
        ),
        ("import os\ndef f(a): os.write(3, b'E\\0\\0\\0\\1N')", "crash", "a strange exception"),
    ],
)
def test_every_other_status(sandbox: Sandbox, source: str, status: str, detail: str) -> None:
    verdict = check(sandbox, source, "assert candidate(1) == 1")
    assert verdict.status == status, verdict
    assert detail in verdict.detail
    assert verdict.seconds < 4
    assert check(sandbox, RIGHT, "assert f(1) == 2").passed


def test_a_check_may_want_an_exception(sandbox: Sandbox) -> None:
    program = """
try:
    candidate("x")
except ValueError as error:
    assert "invalid literal" in str(error)
else:
    assert False
assert candidate("3") == 3
"""
    assert check(sandbox, "def f(a): return int(a)", program).passed
    assert not check(sandbox, "def f(a): return 3", program).passed


@pytest.mark.parametrize(
    "end", ["os._exit(0)", "raise SystemExit", "raise MemoryError", "os.closerange(0, 99)"]
)
def test_a_check_that_catches_everything_does_not_hide_the_end(sandbox: Sandbox, end: str) -> None:
    program = "for _ in range(3):\n    try: candidate(1)\n    except: pass\n"
    assert not check(sandbox, f"import os\ndef f(a):\n    {end}\n", program).passed


@pytest.mark.parametrize(
    "use",
    [
        "f(1).group()",
        "list(f(1))",
        "f(1)[0]",
        "assert f(1)",
        "assert not f(1)",
        "str(f(1)) == 'x'",
        "f(1) + 1",
        "1 - f(1)",
        "f(1) < 2",
        "2 in f(1)",
        "f'{f(1)}'",
        "float(f(1))",
        "try: f(1).x\nexcept: pass",
    ],
)
def test_a_value_that_cannot_cross_is_unsupported(sandbox: Sandbox, use: str) -> None:
    source = "class Odd:\n    def __eq__(self, other): return True\ndef f(a): return Odd()"
    verdict = check(sandbox, source, use)
    assert verdict.status == "unsupported", verdict
    assert verdict.detail == "a result of type Odd cannot be sent"


def test_an_object_equals_nothing(sandbox: Sandbox) -> None:
    source = "class Odd:\n    def __eq__(self, other): return True\ndef f(a): return [Odd()]"
    assert check(sandbox, source, "assert f(1) == [3]").status == "wrong_answer"
    assert check(sandbox, source, "assert f(1)[0] == 3").status == "wrong_answer"
    assert check(sandbox, source, "assert f(1)[0] is None").status == "wrong_answer"
    assert check(sandbox, source, "x = f(1)[0]\nassert x == x").status == "wrong_answer"


def test_an_argument_that_cannot_cross_is_unsupported(sandbox: Sandbox) -> None:
    verdict = check(sandbox, "def f(a): return 1", "assert f(int) == 1")
    assert verdict.status == "unsupported"
    assert "cannot be sent: a value of type type" in verdict.detail


def test_a_name_of_the_solution_is_unsupported(sandbox: Sandbox) -> None:
    source = "class Pair: pass\ndef f(a): return 1"
    verdict = check(sandbox, source, "assert f(1) == 1\nPair()\n")
    assert verdict.status == "unsupported"
    assert "name 'Pair' is not defined" in verdict.detail


# Tests that are broken: never a pass, and the judge lives on.


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("pass", "never calls f"),
        ("import sys\nf(1)\nsys.exit(0)", "line 3 of the check program ends it"),
        ("import os\nf(1)\nos._exit(0)", "ended early"),
        ("import ctypes\nctypes.string_at(0)", "ended early"),
    ],
)
def test_a_broken_check_is_an_error(sandbox: Sandbox, program: str, problem: str) -> None:
    with pytest.raises(SandboxError, match=problem):
        check(sandbox, RIGHT, program)
    assert check(sandbox, RIGHT, "assert f(1) == 2").passed


def test_a_check_that_ends_at_once_is_not_the_solutions_fault(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if it has ended before all of its request counts as sent."""
    send = socket.send_fds

    def slowly(*arguments: Any) -> int:
        sent = send(*arguments)
        time.sleep(0.3)
        return sent

    monkeypatch.setattr(socket, "send_fds", slowly)
    with pytest.raises(SandboxError, match="ended early"):
        check(sandbox, RIGHT, "import os\nf(1)\nos._exit(0)")


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("f(1)\nwhile True: pass", "timeout"),
        ("f(1)\nimport time; time.sleep(99)", "timeout"),
        ("f(1)\nx = []\nwhile True: x.append(bytes(1 << 28))", "memory"),
        ("f(1)\nx = [0] * 10 ** 10", "memory"),
        ("f(1)\nassert (", "wrong_answer"),
    ],
)
def test_a_check_that_hangs_or_eats_memory(sandbox: Sandbox, program: str, status: str) -> None:
    verdict = check(sandbox, RIGHT, program)
    assert verdict.status == status, verdict
    assert "check" in verdict.detail
    assert verdict.seconds < 20  # and not 99; machines are busy
    assert check(sandbox, RIGHT, "assert f(1) == 2").passed


def test_the_solution_does_not_see_the_check(sandbox: Sandbox) -> None:
    source = """
import gc, sys
def f(a):
    found = [o for o in gc.get_objects() if type(o) is dict and "candidate" in o]
    names = [n for m in list(sys.modules.values()) for n in vars(m) if n == "MARKER"]
    return [len(found), len(names)]
"""
    assert check(sandbox, source, "MARKER = 3\nassert f(1) == [0, 0]").passed


def test_many_samples_leave_nothing_behind() -> None:
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    with Sandbox(Limits(wall_s=2)) as it:
        for number in range(40):
            source = RIGHT if number % 2 else "import os\ndef f(a): os._exit(1)"
            assert check(it, source, "assert f(1) == 2").passed == bool(number % 2)
        inside = [w._process.pid for w in it._helpers.values()]
        assert len(inside) == 2
    assert set(os.listdir("/proc/self/fd")) == before
    assert not any(os.path.exists(f"/proc/{pid}") for pid in inside)


def test_threads_share_a_sandbox(sandbox: Sandbox) -> None:
    def judge(number: int) -> bool:
        if number % 3 == 0:
            return sandbox.run(RIGHT, "f", [Call((number,), number + 1)]).passed
        return check(sandbox, RIGHT, f"assert f({number}) == {number + 1}").passed

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(judge, range(24)))


def test_an_endless_solution_holds_no_other_sandbox_up() -> None:
    with Sandbox(Limits(wall_s=1.5)) as slow, Sandbox() as other:
        assert check(other, RIGHT, "assert f(1) == 2").passed
        assert check(slow, RIGHT, "assert f(1) == 2").passed
        found: list[SolutionVerdict] = []
        thread = threading.Thread(
            target=lambda: found.append(check(slow, "def f(a):\n    while True: pass", "f(1)"))
        )
        thread.start()
        started, done = time.monotonic(), 0
        while time.monotonic() < started + 1:
            done += check(other, RIGHT, "assert f(1) == 2").passed
        thread.join()
    assert done >= 10
    assert found[0].status == "timeout"
    assert 1.5 <= found[0].seconds < 4.5


IN_PLACE = """
xs = [3, [2], 1]
same, inner = xs, xs[1]
assert candidate(xs, d={"a": xs}) is None
assert same is xs and inner is xs[0], "identity"
assert xs == [[2], 1, 3, "new"], xs
"""


def test_changes_to_arguments_come_back(sandbox: Sandbox) -> None:
    source = """
def f(xs, d):
    first = xs.pop(0)
    xs += [first, "new"]
"""
    assert check(sandbox, source, IN_PLACE).passed
    unlike = check(sandbox, source.replace("new", "old"), IN_PLACE)
    assert unlike.status == "wrong_answer"
    assert check(sandbox, "def f(xs, d): pass", IN_PLACE).status == "wrong_answer"


def test_changes_before_an_exception_come_back(sandbox: Sandbox) -> None:
    source = "def f(xs):\n    xs.clear()\n    raise ValueError"
    program = "xs = [1]\ntry:\n    candidate(xs)\nexcept ValueError:\n    assert xs == []\n"
    assert check(sandbox, source, program).passed
    assert not check(sandbox, source.replace("xs.clear()", ""), program).passed


@pytest.mark.parametrize(
    "body",
    [
        "return next(x for x in xs if x > 10**9)",
        "raise StopIteration",
        "raise type('Own', (StopIteration,), {})",
        "raise StopAsyncIteration",
        "raise GeneratorExit",
    ],
)
@pytest.mark.parametrize(
    "program",
    [
        "assert all(map(candidate, [[1], [2]]))",
        "assert all(candidate(xs) == 3 for xs in map(list, ['ab']))",
        "assert [*map(candidate, [[1], [2]])] == []",
        "for _ in iter(lambda: candidate([1]), 5):\n    assert False",
    ],
)
def test_the_end_of_an_iteration_ends_no_check(sandbox: Sandbox, body: str, program: str) -> None:
    assert check(sandbox, f"def f(xs):\n    {body}\n", program).status == "exception"


@pytest.mark.parametrize(
    ("raised", "caught"),
    [
        ("type('Own', (ValueError,), {})('no')", "ValueError"),
        ("type('Own', (KeyError,), {})('no')", "LookupError"),
        ("json.JSONDecodeError('no', '', 0)", "ValueError"),
        ("json.JSONDecodeError('no', '', 0)", "json.JSONDecodeError"),
        ("decimal.InvalidOperation('no')", "ArithmeticError"),
        ("UnicodeDecodeError('utf-8', b'', 0, 1, 'no')", "UnicodeError"),
        ("FileNotFoundError(2, 'no')", "OSError"),
    ],
)
def test_an_exception_below_the_expected_one_is_caught(
    sandbox: Sandbox, raised: str, caught: str
) -> None:
    program = (
        f"import json\ntry:\n    candidate(1)\nexcept {caught}:\n    pass\n"
        "else:\n    assert False\n"
    )
    source = f"import decimal, json\ndef f(x):\n    raise {raised}\n"
    assert check(sandbox, source, program).passed
    other = program.replace(f"except {caught}", "except ZeroDivisionError")
    assert check(sandbox, source, other).status == "exception"


@pytest.mark.parametrize(
    ("source", "use"),
    [
        ("async def f(x): return x", "import asyncio\nassert asyncio.run(candidate(1)) == 1"),
        (
            "async def f(x): return x",
            "async def main():\n    assert await candidate(1) == 1\n"
            "import asyncio\nasyncio.run(main())",
        ),
        ("def f(x): yield x", "assert list(candidate(1)) == [1]"),
        ("def f(x): yield x", "assert next(candidate(1)) == 1"),
        ("def f(x): yield x", "import types\nassert isinstance(candidate(1), types.GeneratorType)"),
        ("def f(x): return map(int, [x])", "assert sorted(candidate(1)) == [1]"),
        (
            "async def f(x): yield x",
            "async def main():\n    async for x in candidate(1): pass\n"
            "import asyncio\nasyncio.run(main())",
        ),
        ("class f:\n    def get(self): return 1", "assert candidate().get() == 1"),
        ("class f:\n    def get(self): return 1", "assert isinstance(candidate(), candidate)"),
        ("class f:\n    K = 1", "assert candidate.K == 1"),
        ("class f(Exception): pass", "class E(candidate): pass"),
        ("class f:\n    def __eq__(self, o): return True", "assert candidate() == candidate()"),
        (
            "import collections\ndef f(x): return collections.namedtuple('P', 'x')(x)",
            "assert candidate(1).x == 1",
        ),
        (
            "import enum\nclass C(enum.IntEnum):\n    A = 1\ndef f(x): return C.A",
            "assert candidate(1).name == 'A'",
        ),
        ("def f(x): return 1", "import nonesuch\nassert candidate(1) == 1"),
    ],
)
def test_what_cannot_be_judged_is_no_fault(sandbox: Sandbox, source: str, use: str) -> None:
    verdict = check(sandbox, source + "\n", use + "\n")
    assert verdict.status == "unsupported", verdict


@pytest.mark.parametrize(
    ("source", "use"),
    [
        (
            "import collections\ndef f(x): return collections.namedtuple('P', 'x')(x)",
            "x, = candidate(1)\nassert x == 1 and candidate(1) == (1,) and hash(candidate(1))",
        ),
        (
            "import enum\nclass C(enum.IntEnum):\n    A = 1\ndef f(x): return C.A",
            "assert candidate(1) == 1 and candidate(1) + 1 == 2 and [candidate(1)] == [1]",
        ),
        (
            "from fractions import Fraction\ndef f(x): return Fraction(x, 2)",
            "from fractions import Fraction\nassert candidate(1) == Fraction(1, 2)",
        ),
        (
            "import datetime\ndef f(d): return d + datetime.timedelta(1)",
            "from datetime import date\nassert candidate(date(2024, 2, 28)) == date(2024, 2, 29)",
        ),
        ("def f(x): return range(x)", "assert list(candidate(3)) == [0, 1, 2]"),
        (
            "def f(x): return x",
            "from concurrent.futures import ThreadPoolExecutor\n"
            "with ThreadPoolExecutor(16) as pool:\n"
            "    assert list(pool.map(candidate, range(64))) == list(range(64))",
        ),
        (
            "def f(x): return x",
            "from __future__ import annotations\n"
            "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
            "assert P(candidate(1)).x == 1",
        ),
    ],
)
def test_results_of_more_kinds(sandbox: Sandbox, source: str, use: str) -> None:
    verdict = check(sandbox, source + "\n", use + "\n")
    assert verdict.passed, verdict
    wrong = check(sandbox, "def f(x): return 7\n", use + "\n")
    assert wrong.status == "wrong_answer", wrong


def test_what_the_tests_supply(sandbox: Sandbox) -> None:
    """A harness that runs both in one module lets a solution use it; as far as it runs."""
    source = "def f(x):\n    return re.sub('a', 'b', x)\n"
    program = "assert candidate('a') == 'b'"
    for given, status in (
        ("import re\n", "passed"),
        ("import re\nimport nonesuch\n", "passed"),
        ("import re\nraise SystemExit\n", "passed"),
        ("import (", "exception"),
        ("", "exception"),
    ):
        verdict = sandbox.run(source, "f", CheckProgram(program, given))
        assert verdict.status == status


def test_a_method_of_a_class_is_called_on_a_new_object(sandbox: Sandbox) -> None:
    source = (
        "class Solution:\n    def __init__(self): self.n = 0\n"
        "    def f(self, x):\n        self.n += x\n        return self.n\n"
    )
    assert sandbox.run(source, "Solution.f", [Call((1,), 1), Call((2,), 2)]).passed
    assert sandbox.run(source, "Solution.g", [Call((1,), 1)]).status == "exception"
    assert sandbox.run("x = 1", "Solution.f", [Call((1,), 1)]).status == "no_solution"
