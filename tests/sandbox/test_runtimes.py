"""Solutions in JavaScript and Java: verdicts, and what a hostile one can do."""

from __future__ import annotations

import pytest

from pytest_unlearn.sandbox import Sandbox, SolutionVerdict
from pytest_unlearn.sandbox.runtimes import lacking
from pytest_unlearn.sandbox.verdict import Limits
from pytest_unlearn.tasks.extraction import solution_of
from pytest_unlearn.tasks.format import Call
from pytest_unlearn.tasks.multipl_e import multipl_e_case
from tests.support.multipl_e import JAVA, JAVA_SOLUTION, JS, JS_SOLUTION


def run(language: str, source: str, *calls: Call, wall_s: float = 20.0) -> SolutionVerdict:
    if why := lacking(language, "auto"):
        pytest.skip(f"{language}: {why}")
    with Sandbox(Limits(wall_s=wall_s, memory_mb=256)) as sandbox:
        return sandbox.run(source, "f", calls or (Call(("1",), 4242),), language=language)


@pytest.mark.parametrize(
    ("line", "body"), [(JS, JS_SOLUTION), (JAVA, JAVA_SOLUTION)], ids=["js", "java"]
)
def test_a_task_of_multipl_e(line: dict[str, object], body: str) -> None:
    case = multipl_e_case(line, "m:1", "m")
    if why := lacking(case.language, "auto"):
        pytest.skip(why)
    with Sandbox(Limits(wall_s=20.0)) as sandbox:
        for text, status in ((body, "passed"), (body.replace("return", "return null; //"), None)):
            source = solution_of(case, text, "completion").source
            tests = case.tests
            assert isinstance(tests, tuple)
            found = sandbox.run(source, case.entry_point, tests, language=case.language)
            assert found.status == status or (status is None and not found.passed), found


# What each tries, and the statuses that are no success. The expected answer is 4242.
HOSTILE_JS = {
    "exits early": ("function f() { process.exit(0); }", {"crash"}),
    "exits while it loads": ("process.exit(0); function f() { return 4242 }", {"crash"}),
    "ends itself": ("function f() { process.abort(); }", {"crash"}),
    "prints what looks like a result": (
        "require('fs').writeSync(1, 'R1\\nR1\\n'); function f() { process.exit(0) }",
        {"wrong_answer"},
    ),
    "is equal to everything": (
        "function f() { return { toJSON() { return 4242 }, valueOf() { return 4242 } } }",
        {"wrong_answer"},
    ),
    "patches what encodes": (
        "JSON.stringify = () => '4242'; Array.isArray = () => true; function f() { return 1 }",
        {"wrong_answer"},
    ),
    "looks for the answers": (
        "function f() { const fs = require('fs'); let found = 0;"
        " for (const name of fs.readdirSync('.'))"
        " if (fs.readFileSync(name, 'utf8').includes('42' + '42')) found = 42 * 101;"
        " return found || JSON.stringify(process.env).length + process.argv.length }",
        {"wrong_answer"},
    ),
    "never ends": ("function f() { for (;;); }", {"timeout"}),
    "takes all memory": (
        "function f() { const a = []; for (;;) a.push(Buffer.alloc(1 << 24, 1)); }",
        {"memory", "crash", "exception"},
    ),
    "floods": (
        "function f() { for (;;) require('fs').writeSync(1, 'x'.repeat(1 << 16)); }",
        {"crash"},
    ),
    "is no program": ("function f( {", {"no_solution"}),
    "is not there": ("function g() {}", {"no_solution"}),
    "throws": ("function f() { throw new Error('no'); }", {"exception"}),
}
# Each gives 4242 where it is stopped.
STOPPED_JS = {
    "reads files": "require('fs').readFileSync('/etc/passwd')",
    "lists folders": "require('fs').readdirSync('/')",
    "writes a file": "require('fs').writeFileSync('note', 'x')",
    "starts a program": "(e => { if (e) throw e })"
    "(require('child_process').spawnSync(process.execPath, ['-v']).error)",
    "signals others": "process.kill(process.ppid || 4242, 9)",
    "opens a socket": "require('dgram').createSocket('udp4').bind(0); "
    "require('net').createServer().listen(0)._handle.fd",
}


@pytest.mark.parametrize("what", HOSTILE_JS)
def test_hostile_javascript(what: str) -> None:
    source, statuses = HOSTILE_JS[what]
    found = run("javascript", source, wall_s=3.0)
    assert found.status in statuses, found


@pytest.mark.parametrize("what", STOPPED_JS)
def test_javascript_is_confined(what: str) -> None:
    source = f"function f() {{ try {{ {STOPPED_JS[what]} }} catch (e) {{ return 4242 }} return 1 }}"
    found = run("javascript", source)
    assert found.passed, found


HOSTILE_JAVA = {
    "exits early": ("System.exit(0); return 1;", {"crash"}),
    "prints what looks like a result": (
        'try { new java.io.FileOutputStream(java.io.FileDescriptor.out).write("R1\\n".getBytes());'
        " } catch (Exception e) { } Runtime.getRuntime().halt(0); return 1;",
        {"wrong_answer"},
    ),
    "never ends": ("while (true) { }", {"timeout"}),
    "does not compile": ("return x +;", {"no_solution"}),
}


@pytest.mark.parametrize("what", HOSTILE_JAVA)
def test_hostile_java(what: str) -> None:
    body, statuses = HOSTILE_JAVA[what]
    found = run("java", f"class Problem {{ static long f(long x) {{ {body} }} }}", wall_s=5.0)
    assert found.status in statuses, found


def test_java_is_confined() -> None:
    """Files, programs and sockets, in one JVM."""
    tries = (
        'new java.io.FileInputStream("/etc/passwd")',
        'new java.io.FileOutputStream("note")',
        'new ProcessBuilder("/usr/bin/env").start()',
        "new java.net.ServerSocket(0)",
    )
    body = "".join(
        f"try {{ {one}; return {n}; }} catch (Throwable e) {{ }} " for n, one in enumerate(tries)
    )
    source = f"class Problem {{ static long f(long x) {{ {body} return 4242; }} }}"
    found = run("java", source)
    assert found.passed, found
