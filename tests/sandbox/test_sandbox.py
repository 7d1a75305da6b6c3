"""Verdicts on honest, failing and cheating solutions, and what they leave behind."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_unlearn.sandbox import Limits, Mode, Sandbox, SandboxError, SolutionVerdict
from pytest_unlearn.sandbox import helper as helper_module
from pytest_unlearn.sandbox import sandbox as sandbox_module
from pytest_unlearn.tasks.format import Call, CheckProgram
from tests.support.processes import gone

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and prctl")

RIGHT = "def f(a, b):\n    return a + b"


TESTS = [Call((1, 2), 3), Call((40, 2), 42)]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as it:
        yield it


@pytest.fixture(scope="module")
def quick() -> Iterator[Sandbox]:
    with Sandbox(Limits(wall_s=0.5)) as it:
        yield it


@pytest.fixture(scope="module")
def bare() -> Iterator[Sandbox]:
    """Without the kernel's layers: what is left has to hold alone."""
    with Sandbox(mode="off") as it:
        yield it


@pytest.fixture(scope="module")
def bare_quick() -> Iterator[Sandbox]:
    with Sandbox(Limits(wall_s=0.5), mode="off") as it:
        yield it


@pytest.fixture(autouse=True)
def _next_sample_is_judged_right(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test's solution did, the next one must not notice."""
    yield
    for name in {"sandbox", "quick", "bare", "bare_quick"} & set(request.fixturenames):
        it = request.getfixturevalue(name)
        assert it.run(RIGHT, "f", TESTS).passed
        assert it.run("def f(a, b): return 3", "f", TESTS).call == 1


def solve(sandbox: Sandbox, source: str, tests: list[Call] = TESTS) -> SolutionVerdict:
    return sandbox.run(textwrap.dedent(source), "f", tests)


# Every status


def test_passed(sandbox: Sandbox) -> None:
    verdict = solve(sandbox, RIGHT)
    assert (verdict.status, verdict.detail, verdict.call) == ("passed", "", None)
    assert verdict.passed
    assert 0 < verdict.seconds < 3


def test_wrong_answer(sandbox: Sandbox) -> None:
    verdict = solve(sandbox, "def f(a, b): return 3")
    assert (verdict.status, verdict.call) == ("wrong_answer", 1)
    assert verdict.detail == "arguments (40, 2): expected 42, got 3"
    assert not verdict.passed


def test_a_long_answer_is_cut(sandbox: Sandbox) -> None:
    verdict = solve(sandbox, "def f(a, b): return 'x' * 10000")
    assert verdict.status == "wrong_answer"
    assert len(verdict.detail) < 300
    verdict = solve(sandbox, "def f(a, b): return 10 ** 10000")
    assert verdict.detail.endswith("got a value with a huge integer")


def test_details_are_printable(sandbox: Sandbox) -> None:
    verdict = solve(sandbox, r"def f(a, b): raise ValueError('\x1b[2J\ud800\n')")
    assert verdict.status == "exception"
    assert verdict.detail == r"ValueError: \x1b[2J\ud800\n (line 1)"


@pytest.mark.parametrize(
    ("source", "detail"),
    [
        ("\n\ndef f(a, b):\n    return a + c\n", "NameError: name 'c' is not defined (line 4)"),
        ("def f(a, b):\n    return g(a)\ndef g(a):\n    return [][a]\n", "IndexError: list index"),
        ("def f(a):\n    return a\n", "TypeError: f() takes 1 positional argument"),
        ("class Odd(Exception): pass\ndef f(a, b):\n    raise Odd\n", "Odd (line 3)"),
        ("def f(a, b):\n    raise KeyboardInterrupt\n", "KeyboardInterrupt (line 2)"),
        ("def f(a, b):\n    return f(a, b)\n", "RecursionError: maximum recursion depth"),
        ("def f(a, b):\n    return input()\n", "EOFError"),
        ("def f(a, b):\n    import numpy\n", "ModuleNotFoundError: No module named 'numpy'"),
    ],
)
def test_exception(sandbox: Sandbox, source: str, detail: str) -> None:
    verdict = sandbox.run(source, "f", TESTS)
    assert (verdict.status, verdict.call) == ("exception", 0)
    assert verdict.detail.startswith(detail)


def test_exception_at_import(sandbox: Sandbox) -> None:
    verdict = solve(sandbox, "x = 1\n1 / 0\ndef f(a, b): return a + b")
    assert (verdict.status, verdict.call) == ("exception", None)
    assert verdict.detail == "ZeroDivisionError: division by zero (line 2)"


@pytest.mark.parametrize(
    "source",
    [
        "",
        "def f(a, b) return a",
        "def g(a, b): return a + b",
        "f = 3",
        "def f(a, b): return a + b\0",
        "def f(a, b): return '\ud800'",
        "(" * 100_000,
        "x" * 10 + "=" + "-" * 100_000 + "1",
        "  def f(a, b): return a + b",
        "async = 1",
    ],
    ids=lambda source: ascii(source)[:30],
)
def test_no_solution(sandbox: Sandbox, source: str) -> None:
    verdict = sandbox.run(source, "f", TESTS)
    assert (verdict.status, verdict.call) == ("no_solution", None)


def test_the_zygotes_future_imports_do_not_apply(sandbox: Sandbox) -> None:
    source = "def f(a, b):\n    def g(x: int): pass\n    return g.__annotations__['x'] is int"
    assert sandbox.run(source, "f", [Call((1, 2), True)]).passed


@pytest.mark.parametrize(
    "body",
    ["while True: pass", "import time; time.sleep(1e9)", "10 ** 10 ** 8"],
)
def test_timeout(quick: Sandbox, body: str) -> None:
    source = f"def f(a, b):\n    if a == 1: return 3\n    {body}"
    started = time.monotonic()
    verdict = quick.run(source, "f", TESTS)
    assert 0.5 <= time.monotonic() - started < 2.5  # twice, if it waited
    assert (verdict.status, verdict.call) == ("timeout", 1)
    assert verdict.detail.startswith("not done after 0.5 s")


@linux
def test_a_time_out_that_waited_is_run_again_once(bare_quick: Sandbox, tmp_path: Path) -> None:
    """As on a machine so busy that the solution hardly runs; here, it sleeps the first time."""
    runs = tmp_path / "runs"
    source = f"""
        import time
        def f(a, b):
            with open({str(runs)!r}, "a+") as file:
                file.write("x")
                file.seek(0)
                if len(file.read()) == 1:
                    time.sleep(1000)
            return a + b
    """
    verdict = solve(bare_quick, source)
    assert (verdict.passed, verdict.run_again) == (True, True)
    assert runs.read_text() in ("xx", "xxx")  # twice, with two calls
    verdict = solve(bare_quick, "import time\ndef f(a, b): time.sleep(1000)")
    assert (verdict.status, verdict.run_again) == ("timeout", True)
    assert verdict.detail.endswith("nor when it was run again")
    assert verdict.seconds < 2 * bare_quick.limits.wall_s + 3


def test_a_time_out_that_computed_costs_its_limit_once(
    quick: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_module, "STARVED", 0.05)  # this machine may be busy, too
    for tests in (TESTS, CheckProgram("assert candidate(1, 2) == 3")):
        verdict = quick.run("def f(a, b):\n    while True: pass\n", "f", tests)
        assert (verdict.status, verdict.run_again) == ("timeout", False)


def test_timeout_at_import(quick: Sandbox) -> None:
    verdict = solve(quick, "while True: pass")
    assert (verdict.status, verdict.call) == ("timeout", None)
    assert verdict.detail.startswith(
        "not done after 0.5 s"
    )  # Not the processor time limit, which is later.


def test_the_limit_is_for_all_calls_together(quick: Sandbox) -> None:
    source = "import time\ndef f(a, b):\n    time.sleep(0.1)\n    return a + b"
    verdict = quick.run(source, "f", [Call((1, 2), 3)] * 100)
    assert verdict.status == "timeout"
    assert verdict.seconds < 2.5
    assert 1 <= (verdict.call or 0) <= 5


def test_an_early_wrong_answer_counts_before_a_later_timeout(quick: Sandbox) -> None:
    source = "def f(a, b):\n    if a == 1: return 4\n    while True: pass"
    assert quick.run(source, "f", TESTS).status == "wrong_answer"


@pytest.mark.parametrize(
    "body",
    [
        "x = [0] * 10 ** 10",
        "x = []\n    while True: x.append(bytearray(1 << 20))",
        "'x' * 10 ** 10",
    ],
)
def test_memory(sandbox: Sandbox, body: str) -> None:
    verdict = sandbox.run(f"def f(a, b):\n    {body}", "f", TESTS)
    assert (verdict.status, verdict.call) == ("memory", 0)


def test_memory_below_the_limit_is_fine() -> None:
    source = "def f(a, b):\n    x = bytearray(300 << 20)\n    return a + b"
    with Sandbox(Limits(memory_mb=512)) as roomy, Sandbox(Limits(memory_mb=128)) as tight:
        assert roomy.run(source, "f", TESTS).passed
        assert tight.run(source, "f", TESTS).status == "memory"


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL", "SIGTERM", "SIGALRM", "SIGABRT"])
def test_crash_by_signal(bare: Sandbox, name: str) -> None:
    source = f"import os, signal\ndef f(a, b): os.kill(os.getpid(), signal.{name})"
    verdict = bare.run(source, "f", TESTS)
    assert (verdict.status, verdict.detail, verdict.call) == ("crash", f"killed by {name}", 0)


def test_processor_time_limit_is_a_timeout(bare: Sandbox) -> None:
    source = "import os, signal\ndef f(a, b): os.kill(os.getpid(), signal.SIGXCPU)"
    assert bare.run(source, "f", TESTS).status == "timeout"


@pytest.mark.parametrize(
    "body",
    ["sys.exit(0)", "sys.exit('x')", "os._exit(0)", "raise SystemExit", "become_true()"],
)
def test_exit(bare: Sandbox, body: str) -> None:
    helpers = "import os, sys\nbecome_true = lambda: os.execv('/bin/true', ['true'])\n"
    verdict = bare.run(f"{helpers}def f(a, b):\n    {body}", "f", TESTS)
    assert (verdict.status, verdict.call) == ("crash", 0)
    assert verdict.detail.startswith("exited early")
    verdict = bare.run(f"{helpers}{body}\ndef f(a, b): return a + b", "f", TESTS)
    assert (verdict.status, verdict.call) == ("crash", None)


# What crosses the border


def test_all_plain_types_cross(sandbox: Sandbox) -> None:
    value = [None, True, -(1 << 200), 1.5, float("inf"), 2j, "\ud800é", b"\xff", {1: {2}}]
    tests = [Call((value, value), value)]
    assert solve(sandbox, "def f(a, b): return a", tests).passed


def test_arguments_are_fresh_for_each_call(sandbox: Sandbox) -> None:
    shared = [1]
    source = "def f(a):\n    a.append(2)\n    return len(a)"
    tests = [Call((shared,), 2, ([1, 2],)), Call((shared,), 2, "any")]
    assert sandbox.run(source, "f", tests).passed
    assert shared == [1]


@pytest.mark.parametrize(
    ("body", "after", "passed"),
    [
        ("xs.sort()", [1, 2, 3], True),
        ("xs.sort(reverse=True)", [1, 2, 3], False),
        ("xs[:] = sorted(xs)", [1, 2, 3], True),
        ("xs = sorted(xs)", [1, 2, 3], False),
        ("sorted(xs)", None, True),
        ("xs.sort()", None, False),
        ("xs.sort()", "any", True),
        ("xs.append(xs)", None, False),
        ("xs.append(object())", None, False),
        ("xs += [0] * 2_000_000", None, False),
    ],
)
def test_how_a_call_leaves_its_arguments(
    sandbox: Sandbox, body: str, after: object, passed: bool
) -> None:
    """As its test says; without a word, as they were given."""
    left: Any = (after,) if isinstance(after, list) else after
    verdict = sandbox.run(f"def f(xs):\n    {body}\n", "f", [Call(([3, 1, 2],), None, left)])
    assert verdict.passed is passed, verdict
    assert passed or verdict.status == "wrong_answer"


def test_nested_arguments_are_compared(sandbox: Sandbox) -> None:
    source = "def f(d, t):\n    d['a'][0] = 2\n    t[0].add(3)\n    return 1"
    arguments = ({"a": [1]}, ({1},))
    assert sandbox.run(source, "f", [Call(arguments, 1, ({"a": [2]}, ({1, 3},)))]).passed
    assert not sandbox.run(source, "f", [Call(arguments, 1, ({"a": [2]}, ({1},)))]).passed


@pytest.mark.parametrize(
    ("result", "expected", "passed"),
    [
        ("collections.namedtuple('P', 'x y')(1, 2)", [1, 2], True),
        ("enum.IntEnum('C', 'RED').RED", 1, True),
        ("type('S', (str,), {})('ab')", "ab", True),
        ("type('N', (int,), {})(3)", 3, True),
        ("type('L', (list,), {})([3])", [3], True),
        ("type('D', (dict,), {})(a=3)", {"a": 3}, True),
        ("decimal.Decimal('2.50')", 2.5, True),
        ("decimal.Decimal(2)", 2, True),
        ("decimal.Decimal('sNaN')", 2, False),
        ("fractions.Fraction(1, 2)", 0.5, True),
        ("fractions.Fraction(4, 2)", 2, True),
        ("bytearray(b'ab')", b"ab", True),
        ("collections.deque([1])", [1], False),
        ("datetime.date(2024, 1, 2)", "2024-01-02", False),
        ("range(2)", [0, 1], False),
        ("type('N', (int,), {'__eq__': lambda a, b: True, '__hash__': None})(0)", 3, False),
    ],
)
def test_equality_is_pythons(sandbox: Sandbox, result: str, expected: object, passed: bool) -> None:
    source = (
        f"import collections, datetime, decimal, enum, fractions\ndef f():\n    return {result}\n"
    )
    assert sandbox.run(source, "f", [Call((), expected)]).passed is passed


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("async def f(): return 1", "unsupported"),
        ("def f(): yield 1", "unsupported"),
        ("async def f(): yield 1", "unsupported"),
        ("class f: pass", "unsupported"),
        ("def f(): return (x for x in [1])", "wrong_answer"),
        ("def f(): return f", "wrong_answer"),
        ("class Call:\n    def __call__(self): return 1\nf = Call()", "passed"),
    ],
)
def test_what_calls_cannot_judge(sandbox: Sandbox, source: str, status: str) -> None:
    """Neither passed nor failed; what a function of the ordinary kind returns is compared."""
    assert sandbox.run(source, "f", [Call((), 1)]).status == status


def test_a_tolerance_is_of_its_task(sandbox: Sandbox) -> None:
    source = "def f():\n    return [1.004]"
    for tolerance, passed in ((0.0, False), (0.003, False), (0.01, True)):
        assert sandbox.run(source, "f", [Call((), [1.0], tolerance=tolerance)]).passed is passed


HONEST = {
    "data class": """
        from __future__ import annotations
        from dataclasses import dataclass
        @dataclass
        class P:
            x: int
        def f(x): return P(x).x
    """,
    "pickle": """
        import pickle
        class P:
            def __init__(self, x): self.x = x
        def f(x): return pickle.loads(pickle.dumps(P(x))).x
    """,
    "its own module": """
        import sys
        K = 0
        def f(x): return x + sys.modules[__name__].K
    """,
    "type hints": """
        import typing
        class P:
            x: "int"
        def f(x): return typing.get_type_hints(P)["x"](x)
    """,
    "digits": """
        import sys
        sys.set_int_max_str_digits(0)
        def f(x): return x if str(10**5000) else 0
    """,
    "depth": """
        import sys
        sys.setrecursionlimit(20_000)
        def deep(n): return n and deep(n - 1)
        def f(x): return x + deep(9_000)
    """,
    "threads": """
        from concurrent.futures import ThreadPoolExecutor
        import threading
        barrier = threading.Barrier(32)
        def f(x):
            def work(_):
                kept = [bytes(1000) for _ in range(1000)]  # from the thread's own heap
                return barrier.wait() and len(kept)
            with ThreadPoolExecutor(32) as pool:
                list(pool.map(work, range(32)))
            return x
    """,
}


@pytest.mark.parametrize("source", HONEST.values(), ids=HONEST)
def test_what_python_allows_is_allowed(sandbox: Sandbox, source: str) -> None:
    """In every call: what the module sets for itself holds for the second as for the first."""
    source = textwrap.dedent(source)
    assert sandbox.run(source, "f", [Call((n,), n) for n in (1, 2, 3)]).passed
    program = CheckProgram("for n in (1, 2, 3):\n    assert f(n) == n\n")
    assert sandbox.run(source, "f", program).passed


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_large_answers_are_compared_elsewhere(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """With the same verdict; and what takes too long to compare is a time-out."""
    monkeypatch.setattr(sandbox_module, "INLINE_BYTES", 100)
    text = "x" * size
    source = f"def f(n):\n    return 'x' * {size} + 'y' * n"
    assert sandbox.run(source, "f", [Call((0,), text)]).passed
    verdict = sandbox.run(source, "f", [Call((0,), text), Call((1,), text)])
    assert (verdict.status, verdict.call) == ("wrong_answer", 1)
    assert sandbox.run("def f(n): raise KeyError(n)", "f", [Call((0,), 1)]).status == "exception"
    if size == 10:
        monkeypatch.setattr(sandbox_module, "COMPARE_S", 0.0)
        slow = sandbox.run("def f(n):\n    return ['x'] * 100", "f", [Call((0,), 1)])
        assert (slow.status, slow.detail) == (
            "timeout",
            "comparing its answers takes more than 0 s",
        )
        assert sandbox.run("def f(n): return n", "f", [Call((0,), 0)]).passed


def test_printing_has_no_effect(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    source = """
        import os, sys
        print("passed")
        def f(a, b):
            print("x" * 100000, flush=True)
            print("x", file=sys.stderr)
            os.write(1, b"x")
            os.write(2, b"x")
            return a + b
    """
    assert solve(sandbox, source).passed
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("return 'x' * (2 << 20)", "large"),
        ("return [0] * 10 ** 6", "large"),
        ("return 1 << (1 << 25)", "large"),
        ("x = []\n    x.append(x)\n    return x", "deep"),
    ],
)
def test_results_over_the_limits(sandbox: Sandbox, body: str, word: str) -> None:
    verdict = sandbox.run(f"def f(a, b):\n    {body}", "f", TESTS)
    assert (verdict.status, verdict.call) == ("wrong_answer", 0)
    assert verdict.detail.startswith("result ")
    assert word in verdict.detail


def test_output_bytes_are_for_all_calls_together() -> None:
    source = "def f(a): return 'x' * a"
    with Sandbox(Limits(output_bytes=1000)) as it:
        # What the expected answers take is not counted.
        assert it.run(source, "f", [Call((400,), "x" * 400)] * 5).passed
        verdict = it.run(source, "f", [Call((400,), [])] * 3)
        assert (verdict.status, verdict.call) == ("wrong_answer", 0)
        verdict = it.run(source, "f", [Call((400,), "x" * 400)] * 3 + [Call((2000,), [])])
        assert (verdict.status, verdict.call) == ("wrong_answer", 3)
        assert "too large" in verdict.detail


def test_tuple_for_a_list_but_no_generator(sandbox: Sandbox) -> None:
    tests = [Call((2,), [0, 1])]
    assert solve(sandbox, "def f(a): return tuple(range(a))", tests).passed
    verdict = solve(sandbox, "def f(a): yield from range(a)", tests)
    assert verdict.status == "unsupported"


# Cheats

CHEATS = {
    "always equal": """
        class Any:
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __hash__(self): return 3
        def f(a, b): return Any()
    """,
    "always equal in a list": """
        class Any(list):
            def __eq__(self, other): return True
        def f(a, b): return Any([3])
    """,
    "int subclass": """
        class Number(int):
            def __eq__(self, other): return True
            def __hash__(self): return 3
        def f(a, b): return Number(0)
    """,
    "float that is close to all": """
        class Close(float):
            def __sub__(self, other): return 0.0
            __rsub__ = __sub__
            def __float__(self): return 3.0
        def f(a, b): return Close(0)
    """,
    "class attribute": """
        class Fake:
            __class__ = int
            def __index__(self): return 3
            def __reduce__(self): return (int, (3,))
        def f(a, b): return Fake()
    """,
    "metaclass": """
        class Meta(type):
            __name__ = "int"
            def __eq__(self, other): return True
            def __instancecheck__(self, x): return True
            def __hash__(self): return hash(int)
        class Fake(metaclass=Meta): pass
        def f(a, b): return Fake()
    """,
    "patched builtins": """
        import builtins, math
        def f(a, b):
            builtins.abs = lambda x: 0
            builtins.len = lambda x: 0
            builtins.all = lambda x: True
            builtins.isinstance = lambda x, y: True
            builtins.type = lambda x: int
            math.isclose = lambda *a, **k: True
            return 0
    """,
    "patched encoder": """
        import gc
        def f(a, b):
            for thing in gc.get_objects():
                if type(thing) is dict and "encode" in thing and "Opaque" in thing:
                    thing["encode"] = lambda value, **k: b"i\\0\\0\\0\\1" + b"3"
            return 0
    """,
    "trace function": """
        import sys
        def trace(frame, event, arg):
            if "value" in frame.f_locals and event == "line":
                frame.f_locals["value"] = 3
            return trace
        def f(a, b):
            sys.settrace(trace)
            sys._getframe(1).f_trace = trace
            return 0
    """,
}


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_gives_a_wrong_answer(sandbox: Sandbox, name: str) -> None:
    # The second test's answer is 42, so that a cheat which forges the value 3 fails there.
    verdict = solve(sandbox, CHEATS[name])
    assert verdict.status == "wrong_answer", verdict


SEARCH = """
    import gc, sys
    def reachable():
        seen, todo = set(), list(gc.get_objects())
        frame = sys._getframe()
        while frame:
            todo += [frame.f_globals, frame.f_locals]
            frame = frame.f_back
        while todo and len(seen) < 400000:
            thing = todo.pop()
            if id(thing) in seen: continue
            seen.add(id(thing))
            yield thing
            try: todo += gc.get_referents(thing)
            except Exception: pass
    def f(key):
        needle = key[::-1]
        for thing in reachable():
            if type(thing) is str and needle in thing and thing != needle:
                return thing[max(0, thing.index(needle) - 20):][:60]
            if type(thing) in (bytes, bytearray) and needle.encode() in thing:
                return repr(thing[max(0, thing.index(needle.encode()) - 20):][:60])
        return "nothing found"
"""


def test_expected_answers_are_not_in_the_process(sandbox: Sandbox) -> None:
    # The argument spells a part of the answer backwards, so only the answer itself matches.
    verdict = solve(sandbox, SEARCH, [Call(("prolgyx",), "the-xyglorp-answer")])
    assert verdict.status == "wrong_answer"
    assert "got 'nothing found'" in verdict.detail
    # The search does find what is there: here the answer is also an argument of a later call.
    tests = [Call(("prolgyx",), "the-xyglorp-answer"), Call(("the-xyglorp-answer",), 1)]
    assert "xyglorp" in solve(sandbox, SEARCH, tests).detail.partition("got ")[2]


@pytest.mark.parametrize(
    "body",
    [
        "os.write(fd, b'garbage' * 10)",
        "os.write(fd, b'passed')",
        "os.write(fd, b'R\\0\\0\\0\\5i\\0\\0\\0')",
        "os.write(fd, b'M\\0\\0\\0\\0')",
        "os.write(fd, b'L\\0\\0\\0\\0')",
        "os.write(fd, b'E\\0\\0\\0\\1N')",
        "os.write(fd, b'R\\0\\0\\0\\1?')",
        "os.write(fd, b'S' * (3 << 20))",
        "os.close(fd)",
        "os.dup2(os.open('/dev/null', 2), fd)",
        "os.set_blocking(fd, False) or os.write(fd, b'R')",
    ],
)
def test_a_spoiled_channel_never_passes(sandbox: Sandbox, body: str) -> None:
    source = f"""
        import os
        def f(a, b):
            for fd in range(256):
                try: {body}
                except OSError: pass
            return 0
    """
    assert not solve(sandbox, source).passed
    # Nor does it stop the judge when the answers themselves would be right.
    assert not solve(sandbox, source.replace("return 0", "return a + b")).passed


def test_closing_the_channel_does_not_cost_the_time_limit(bare: Sandbox) -> None:
    source = "import os, time\ndef f(a, b):\n    os.closerange(0, 256)\n    time.sleep(1e9)"
    verdict = bare.run(source, "f", TESTS)
    assert (verdict.status, verdict.detail) == ("crash", "closed its result channel")
    assert verdict.seconds < 1.5


def test_flooding_the_channel(sandbox: Sandbox) -> None:
    source = "import os\ndef f(a, b):\n    while True: os.write(3, b'R\\x7f' + bytes(10000))"
    verdict = sandbox.run(source, "f", TESTS)
    assert (verdict.status, verdict.detail) == ("crash", "flooded its result channel")
    assert verdict.seconds < 2.5


@pytest.mark.parametrize("limit", [10**9, 40])
def test_recursion_bombs(quick: Sandbox, limit: int) -> None:
    source = f"import sys\ndef f(a, b):\n    sys.setrecursionlimit({limit})\n    return f(a, b)"
    assert quick.run(source, "f", TESTS).status in {"exception", "crash", "memory", "timeout"}


def test_a_low_recursion_limit_does_not_spoil_the_answer(sandbox: Sandbox) -> None:
    source = "import sys\ndef f(a):\n    sys.setrecursionlimit(30)\n    return a"
    deep: list[object] = []
    for _ in range(50):
        deep = [deep]
    assert sandbox.run(source, "f", [Call((deep,), deep)]).passed


def test_misbehaving_exceptions(sandbox: Sandbox) -> None:
    source = """
        import os
        class Bad(Exception):
            def __str__(self): os._exit(0)
            __repr__ = __str__
            def __getattribute__(self, name): os._exit(0)
            @property
            def __class__(self): os._exit(0)
        def f(a, b): raise Bad("why")
    """
    verdict = solve(sandbox, source)
    assert (verdict.status, verdict.detail) == ("exception", "Bad: why (line 9)")


def test_deleted_builtins(sandbox: Sandbox) -> None:
    source = """
        import builtins
        def f(a, b):
            for name in list(vars(builtins)):
                if name not in {"a", "b"}:
                    try: delattr(builtins, name)
                    except NameError: pass
            return a + b
    """
    verdict = solve(sandbox, source, TESTS[:1])
    # Not a cheat: it returns the right value, and the encoder has builtins of its own.
    assert verdict.passed, verdict
    assert not solve(sandbox, source.replace("a + b", "0")).passed


def test_both_halves_of_a_fork_report_once(bare: Sandbox) -> None:
    source = "import os\ndef f(a, b):\n    os.fork()\n    return a + b"
    assert bare.run(source, "f", [Call((1, i), 1 + i) for i in range(5)]).passed


def test_a_thread_does_not_hold_the_process(sandbox: Sandbox) -> None:
    source = """
        import threading, time
        def f(a, b):
            threading.Thread(target=time.sleep, args=(100,)).start()
            return a + b
    """
    verdict = solve(sandbox, source)
    assert verdict.passed
    assert verdict.seconds < 2


# A later sample is forked from a process that has never seen an earlier one

SCAN = """
import ctypes, os
def pieces():
    # What is mapped: by /proc where it is there, else by asking the kernel to read it.
    try:
        with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
            for line in maps:
                span, rights, *_ = line.split()
                if not rights.startswith("rw") or "[v" in line: continue
                start, end = (int(n, 16) for n in span.split("-"))
                memory.seek(start)
                try: yield memory.read(end - start)
                except OSError: continue
        return
    except OSError:
        pass
    libc = ctypes.CDLL(None)
    libc.sbrk.restype = ctypes.c_void_p
    top = libc.sbrk(0)
    around = {id(o) >> 20 for o in [object(), 10 ** 20, "x" * 9, [], {}, b"x" * 300, pieces]}
    spans = [(top - (24 << 20), top)] + [((n - 2) << 20, (n + 3) << 20) for n in around]
    ours, theirs = os.pipe()
    for start, end in spans:
        for page in range(start & ~4095, end, 4096):
            if libc.write(theirs, ctypes.c_void_p(page), ctypes.c_size_t(4096)) == 4096:
                yield os.read(ours, 4096)
def f(needles):
    # Each is given with the next letter for every letter, or it would find itself.
    following = bytes((n + 1) % 256 for n in range(256))
    found = set()
    for piece in pieces():
        for place, needle in enumerate(needles):
            if needle.encode() in piece.translate(following): found.add(place)
    return sorted(found)
"""


@linux
@pytest.mark.parametrize("mode", ["off", "auto"])
@pytest.mark.parametrize("by_program", [False, True])
def test_nothing_of_an_earlier_sample_is_in_memory(mode: Mode, by_program: bool) -> None:
    """Not its source, nor its arguments, nor its answers: the base's solution would be there."""
    words = [os.urandom(6).hex() for _ in range(3)]
    source = f"# {words[0]}\ndef f(a): return a.replace({words[1]!r}, '')[::-1]\n"
    call = Call((words[1] + words[2][::-1],), words[2])
    needles = ["".join(chr(ord(letter) + 1) for letter in word) for word in words]
    with Sandbox(Limits(wall_s=20), mode=mode) as it:
        for _ in range(3):
            if by_program:
                program = f"assert f({call.args[0]!r}) == {call.expected!r}"
                assert it.run(source, "f", CheckProgram(program)).passed
            assert it.run(source, "f", [call]).passed
            verdict = it.run(SCAN, "f", [Call((needles,), [])])
            assert verdict.passed, verdict
        # The search does find what is there.
        there = f"x = b{words[1]!r} * 2\ny = bytearray(x * 99)\n" + SCAN
        assert it.run(there, "f", [Call((needles,), [1])]).passed


# Containment


def test_signals_cannot_be_ignored_away(quick: Sandbox) -> None:
    source = """
        import signal
        def f(a, b):
            for number in range(1, 65):
                try: signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError): pass
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
            while True: pass
    """
    verdict = solve(quick, source)
    assert verdict.status == "timeout"
    assert verdict.seconds < 2.5


@linux
def test_the_environment_is_empty(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "sings")
    source = """
        import os, ctypes
        def f():
            with open("/proc/self/environ") as file: initial = file.read()
            with open(f"/proc/{os.getppid()}/environ") as file: initial += file.read()
            return [dict(os.environ), initial]
    """
    with Sandbox(mode="off") as it:  # Started while the canary is set.
        verdict = solve(it, source, [Call((), [{}, ""])])
    assert verdict.passed, verdict


@linux
def test_only_the_standard_library_and_known_descriptors(sandbox: Sandbox) -> None:
    source = """
        import os, sys
        def f():
            fds = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))
            return [fds[:4], len(fds), any("site-packages" in p for p in sys.path), os.listdir()]
    """
    # The fifth descriptor is the listing itself. The working folder is empty.
    extra = [os.open("/dev/null", os.O_RDONLY) for _ in range(30)]
    for fd in extra:
        os.set_inheritable(fd, True)
    try:
        with Sandbox(mode="off") as it:
            verdict = solve(it, source, [Call((), [[0, 1, 2, 3], 5, False, []])])
    finally:
        for fd in extra:
            os.close(fd)
    assert verdict.passed, verdict


GRANDCHILD = """
    import os, time
    def f(path):
        if os.fork() == 0:
            {escape}
            if os.fork() == 0:
                {escape}
                time.sleep(1)
                with open(path, "w") as file: file.write("alive")
            os._exit(0)
        {end}
"""


@linux
@pytest.mark.parametrize("escape", ["pass", "os.setsid()", "os.closerange(0, 256); os.setsid()"])
@pytest.mark.parametrize("end", ["return 1", "os._exit(0)", "time.sleep(1e9)"])
def test_a_grandchild_is_dead_afterwards(
    bare_quick: Sandbox, tmp_path: Path, escape: str, end: str
) -> None:
    marker = tmp_path / "marker"
    source = GRANDCHILD.format(escape=escape, end=end)
    solve(bare_quick, source, [Call((str(marker),), 1)])
    time.sleep(1.2)
    assert not marker.exists()


@linux
def test_the_grandchild_would_have_written(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    source = GRANDCHILD.format(escape="os.setsid()", end="time.sleep(1.5)\n        return 1")
    with Sandbox(mode="off") as it:
        assert solve(it, source, [Call((str(marker),), 1)]).passed
    assert marker.read_text() == "alive"


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def settled_fds(zygote: int) -> list[str]:
    """The descriptors of a zygote that has started the process for the next sample."""
    while not children_of(zygote):
        time.sleep(0.01)
    time.sleep(0.2)
    return os.listdir(f"/proc/{zygote}/fd")


@linux
def test_many_samples_leave_nothing_behind() -> None:
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    children = set(children_of(os.getpid()))
    with Sandbox(Limits(wall_s=2), mode="off") as it:
        assert it.run(RIGHT, "f", TESTS).passed
        (zygote,) = set(children_of(os.getpid())) - children
        zygote_fds = settled_fds(zygote)
        sources = [
            RIGHT,
            "def f(a, b): return 3",
            "import os\ndef f(a, b): os._exit(1)",
            "import os\ndef f(a, b):\n    os.fork()\n    os.fork()\n    os.abort()",
        ]
        for number in range(300):
            it.run(sources[number % len(sources)], "f", TESTS)
        assert set(children_of(os.getpid())) - children == {zygote}
        assert settled_fds(zygote) == zygote_fds
        assert len(children_of(zygote)) == 1  # The process for the next sample.
    assert set(children_of(os.getpid())) == children
    assert set(os.listdir("/proc/self/fd")) == before


def test_files_do_not_stay_for_the_next_sample(bare: Sandbox) -> None:
    source = """
        import os
        def f(a, b):
            os.makedirs("deep/er")
            open("deep/er/file", "w").write("x")
            open("file", "w").write("x")
            os.symlink("/", "link")
            return a + b
    """
    assert solve(bare, source, TESTS[:1]).passed
    listing = "import os\ndef f(): return os.listdir()"
    assert solve(bare, listing, [Call((), [])]).passed


def test_a_replaced_working_folder_is_not_followed(bare: Sandbox, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep")
    source = """
        import os
        def f(path):
            here = os.getcwd()
            os.rename(here, here + "-moved")
            os.symlink(path, here)
            return here
    """
    verdict = solve(bare, source, [Call((str(tmp_path),), "")])
    here = verdict.detail.partition("got ")[2].strip("'")
    try:
        assert precious.read_text() == "keep"
        listing = "import os\ndef f(): return os.listdir()"
        assert solve(bare, listing, [Call((), [])]).passed
    finally:
        os.unlink(here)
    assert not os.path.exists(here + "-moved")


def test_big_files_are_refused(bare: Sandbox) -> None:
    source = """
        def f(a, b):
            with open("big", "wb", buffering=0) as file:
                while True: file.write(b"x" * 100000)
    """
    verdict = solve(bare, source)
    assert verdict.status == "exception"
    assert "OSError" in verdict.detail


# The sandbox's own troubles


def zygote_of(sandbox: Sandbox) -> int:
    sandbox.protection()  # which starts it
    return sandbox._helpers["solution"]._process.pid


@linux
def test_a_solution_that_kills_the_zygote(bare: Sandbox) -> None:
    verdict = solve(bare, "import os, time\ndef f(a, b): os.kill(os.getppid(), 9); time.sleep(9)")
    assert (verdict.status, verdict.call) == ("crash", None)
    assert verdict.detail == "killed the sandbox it ran in"
    assert solve(bare, RIGHT).passed


@linux
def test_a_solution_that_stops_the_zygote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(helper_module, "PATIENCE_S", 0.3)
    monkeypatch.setattr(helper_module, "STOP_S", 0.2)
    pids = tmp_path / "pids"
    source = f"""
        import os, signal, time
        def f(a, b):
            with open({str(pids)!r}, "a") as file: file.write(str(os.getpid()) + " ")
            os.kill(os.getppid(), signal.SIGSTOP)
            time.sleep(1e9)
    """
    with Sandbox(Limits(wall_s=0.3), mode="off") as it:
        assert solve(it, source).status == "crash"
        assert solve(it, RIGHT).passed
    written = [int(pid) for pid in pids.read_text().split()]
    assert len(written) == 2
    assert all(gone(pid) for pid in written)


@linux
def test_the_end_of_a_thread_does_not_end_its_zygote() -> None:
    with Sandbox() as it:
        # The system tells a process when the thread that started it ends.
        thread = threading.Thread(target=it.run, args=(RIGHT, "f", TESTS))
        thread.start()
        thread.join()
        first = zygote_of(it)
        time.sleep(0.1)
        assert it.run(RIGHT, "f", TESTS).passed
        assert zygote_of(it) == first


@linux
def test_a_zygote_killed_between_samples_is_replaced(sandbox: Sandbox) -> None:
    first = zygote_of(sandbox)
    os.kill(first, signal.SIGKILL)
    assert gone(first)  # A loaded machine takes its time to end a process.
    assert solve(sandbox, RIGHT).passed
    assert zygote_of(sandbox) != first


@linux
@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(0)"])
def test_nothing_survives_the_parent(tmp_path: Path, end: str) -> None:
    pid_file = tmp_path / "pid"
    source = (
        "import os, time\ndef f(path):\n    if os.fork() == 0: os.setsid()\n"
        "    open(path, 'a').write(f'{os.getpid()} {os.getppid()} ')\n    time.sleep(60)"
    )
    script = f"""
import os, threading, time
from pytest_unlearn.tasks.format import Call
from pytest_unlearn.sandbox import Limits, Sandbox
call = Call(({str(pid_file)!r},), 1)
it = Sandbox(Limits(wall_s=60), mode="off")
threading.Thread(target=it.run, args=({source!r}, "f", [call]), daemon=True).start()
while not (os.path.exists({str(pid_file)!r}) and open({str(pid_file)!r}).read().count(" ") == 4):
    time.sleep(0.02)
{end}
"""
    root = Path(__file__).parents[2]
    # A folder for the scratch folder, to see that it is removed.
    env = os.environ | {"TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], cwd=root, env=env, timeout=60, check=False)
    pids = {int(pid) for pid in pid_file.read_text().split()}
    assert len(pids) == 3  # The zygote, the sample, and what it forked.
    assert all(gone(pid) for pid in pids)
    assert os.listdir(tmp_path) == ["pid"]


def test_an_interrupted_run_does_not_spoil_the_next(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    assert solve(sandbox, RIGHT).passed
    with monkeypatch.context() as patch:
        patch.setattr(helper_module.HelperProcess, "_receive", interrupt)
        with pytest.raises(KeyboardInterrupt):
            solve(sandbox, "def f(a, b): return 77")
    time.sleep(0.2)  # By now its answer would be there.
    assert solve(sandbox, RIGHT).passed


@pytest.mark.parametrize(
    "zygote", ["import sys; sys.exit(1)", "raise ValueError", "import os; os.write(3, b'x' * 99)"]
)
def test_a_zygote_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, zygote: str
) -> None:
    path = tmp_path / "zygote.py"
    path.write_text(zygote)
    monkeypatch.setattr(helper_module, "ZYGOTE", path)
    with Sandbox() as it, pytest.raises(SandboxError, match="does not start"):
        solve(it, RIGHT)


def test_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with Sandbox() as it, pytest.raises(SandboxError, match="does not start"):
        solve(it, RIGHT)


@pytest.mark.parametrize("value", [object(), {1: object()}, "x" * (1 << 27)], ids=["a", "b", "c"])
def test_tests_that_cannot_be_sent(sandbox: Sandbox, value: object) -> None:
    for test in (Call((value,), 1), Call((1,), value)):
        with pytest.raises(SandboxError, match="cannot be sent"):
            sandbox.run("1 / 0", "f", [test])


def test_no_tests_is_not_a_pass(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="without tests"):
        sandbox.run(RIGHT, "f", [])


def test_closing() -> None:
    it = Sandbox()
    it.close()
    it.close()
    with pytest.raises(SandboxError, match="closed"):
        it.run(RIGHT, "f", TESTS)
    with Sandbox() as it:
        assert it.run(RIGHT, "f", TESTS).passed
        zygote = it._helpers["solution"]._process
        scratch = it._helpers["solution"]._scratch
        assert Path(scratch).is_dir()
    assert zygote.returncode == 0
    assert not Path(scratch).exists()


@linux
def test_a_forgotten_sandbox_ends_quietly() -> None:
    it = Sandbox()
    assert it.run(RIGHT, "f", TESTS).passed
    zygote = zygote_of(it)
    del it
    gc.collect()
    assert gone(zygote)


@linux
def test_a_fork_of_the_test_process_gets_its_own_zygote(sandbox: Sandbox) -> None:
    zygote = zygote_of(sandbox)
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            good = solve(sandbox, RIGHT).passed and zygote_of(sandbox) != zygote
            sandbox.close()
            code = 0 if good else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert solve(sandbox, RIGHT).passed
    assert zygote_of(sandbox) == zygote


@pytest.mark.parametrize(
    "make",
    [
        lambda: Limits(wall_s=0),
        lambda: Limits(wall_s=float("nan")),
        lambda: Limits(memory_mb=10),
        lambda: Limits(output_bytes=0),
    ],
)
def test_impossible_limits(make: Callable[[], Limits]) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()
