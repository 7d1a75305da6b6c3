"""Tests that are a program: run in a process of their own, with a stand-in for the solution."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_unlearn.sandbox import Limits, Sandbox, SandboxError, Verdict
from pytest_unlearn.tasks.format import Call
from pytest_unlearn.tasks.programs import CheckProgram

RIGHT = "def f(a, b=1):\n    return a + b\n"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(Limits(wall_s=1)) as it:
        yield it


def check(sandbox: Sandbox, source: str, program: str) -> Verdict:
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
    assert verdict.seconds < 5
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
        inside = [w._process.pid for w in it._workers.values()]
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
        found: list[Verdict] = []
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
