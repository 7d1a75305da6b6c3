"""Solutions in JavaScript and Java, run by node and a JDK if these are installed.

As with Python, expected answers never get near a solution: its process gets the source and the
arguments, as code in its language, and reports the result of each call, which is compared here. It
can report anything, but has nothing to copy from. The layers around it are those of Python
solutions (`inside/launcher.py`), and all of them are required unless the sandbox is off.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_unlearn.sandbox.inside.codec import FAILED
from pytest_unlearn.sandbox.inside.layers import LAYERS
from pytest_unlearn.sandbox.verdict import Limits, Mode, SandboxError, SolutionVerdict, Status
from pytest_unlearn.tasks.format import JAVA, JAVASCRIPT, NAMES, Call

_INSIDE = Path(__file__).with_name("inside")
_LAUNCHER = _INSIDE / "launcher.py"
# How long a runtime may take to start the solution; a JVM compiles it first.
START_S = 60.0
# The memory of the runtime itself, in addition to the solution's.
RUNTIME_MB = 512
# How often its memory is checked, in seconds.
_LOOK_S = 0.05
_PIECE = 1 << 16
# Room for the marks of a line.
_SPARE = 1 << 16
_SHOWN = 160
_IMPORT = re.compile(r"^\s*import\s+[^;]+;[^\n]*\n", re.MULTILINE)
# Imports of packages that are not part of any JDK.
_FOREIGN = re.compile(r"^\s*import\s+org\.javatuples\.[^\n]*\n", re.MULTILINE)
# Layers that stay when the sandbox is off: they protect the machine, not the data on it.
OFF = ("parent-death", "limits")
# Without these, a runtime could reach the user's files and processes.
_NEEDED = ("namespaces", "pid-namespace", "seccomp", "limits", "privileges")


@dataclass(frozen=True, slots=True)
class Runtime:
    """What runs a language: its program, and every path that it reads."""

    command: tuple[str, ...]
    paths: tuple[str, ...]
    environment: dict[str, str]


@functools.cache
def find_runtime(language: str) -> Runtime | str:
    """Return what runs a language, or why nothing does."""
    libraries = ("/lib64", *(str(path) for path in _library_folders()))
    if language == JAVASCRIPT:
        node = shutil.which("node")
        if node is None:
            return "node is not installed"
        path = os.path.realpath(node)
        return Runtime(
            (path, f"--max-old-space-size={RUNTIME_MB}", "driver.js"),
            (path, *libraries, "/usr/share/nodejs"),
            {"OPENSSL_CONF": "/dev/null"},
        )
    compiler = shutil.which("javac")
    if language != JAVA or compiler is None:
        return "no JDK is installed (no javac)" if language == JAVA else f"{language} is not run"
    home = Path(os.path.realpath(compiler)).parents[1]
    settings = {os.path.realpath(path) for path in (home / "conf").rglob("*")}
    return Runtime(
        (
            str(home / "bin" / "java"),
            f"-Xmx{RUNTIME_MB}m",
            *(
                "-Xss64m",
                "-XX:+UseSerialGC",
                "-XX:-UsePerfData",
                "-XX:TieredStopAtLevel=1",
                "-Dfile.encoding=UTF-8",
            ),
            "Main.java",  # it is compiled in memory, without annotation processors
        ),
        (str(home), *libraries, *sorted({os.path.dirname(path) for path in settings})),
        {},
    )


def _library_folders() -> Iterator[Path]:
    architecture = getattr(sys.implementation, "_multiarch", "")
    for folder in ("/lib", "/usr/lib", "/usr/lib64"):
        path = Path(folder, architecture) if architecture else Path(folder)
        if path.is_dir():
            yield path


def lacking(language: str, mode: Mode) -> str:
    """Return why solutions in a language cannot be run here; empty if they can."""
    runtime = find_runtime(language)
    return runtime if isinstance(runtime, str) else _tried(language, mode)


@functools.cache
def _tried(language: str, mode: Mode) -> str:
    """Run a known solution: only this shows whether a runtime works in the sandbox."""
    source = {
        JAVASCRIPT: "function f(x) { return x + 1; }",
        JAVA: "class Problem { public static long f(long x) { return x + 1; } }",
    }[language]
    try:
        verdict = run_calls(source, "f", [Call(("1",), 2)], language, Limits(wall_s=30.0), mode)
    except SandboxError as error:
        return str(error)
    return "" if verdict.passed else f"{NAMES[language]} does not run in the sandbox"


def run_calls(
    source: str, entry: str, calls: Sequence[Call], language: str, limits: Limits, mode: Mode
) -> SolutionVerdict:
    """Return the verdict on a solution whose function `entry` must give each call's value.

    The only argument of a call is the code of all arguments. Raises SandboxError if there can be no
    verdict.
    """
    started = time.monotonic()
    runtime = find_runtime(language)
    if isinstance(runtime, str):
        raise SandboxError(f"{NAMES[language]} solutions cannot be run: {runtime}")
    with tempfile.TemporaryDirectory(prefix="unlearn-") as folder:
        _write_task(Path(folder), source, entry, calls, language)
        output, end = _run(runtime, folder, limits, mode)
    status, detail, call = _verdict(output, end, calls, limits)
    return SolutionVerdict(status, detail, call, time.monotonic() - started)


def _write_task(
    folder: Path, source: str, entry: str, calls: Sequence[Call], language: str
) -> None:
    arguments = [str(call.args[0]) for call in calls]
    if language == JAVASCRIPT:
        task = {"source": source, "entry": entry, "calls": arguments}
        (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
        shutil.copyfile(_INSIDE / "driver.js", folder / "driver.js")
        return
    source = _FOREIGN.sub("", source)
    head, at, rest = source.partition("class ")
    imports = "".join(match[0] for match in _IMPORT.finditer(head))
    called = ",\n".join(f"() -> Problem.{entry}({given})" for given in arguments)
    driver = (_INSIDE / "driver.java").read_text(encoding="utf-8").replace("/*CALLS*/", called)
    text = f"{imports}{driver}{_IMPORT.sub('', head)}{at}{rest}"
    (folder / "Main.java").write_text(text, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class _End:
    """How a runtime ended: its status, why it was ended, and its error output."""

    status: int
    how: str
    complaint: str


def _run(runtime: Runtime, folder: str, limits: Limits, mode: Mode) -> tuple[bytes, _End]:
    """Run the program in a folder; return its output, and how it ended."""
    config = {
        "layers": OFF if mode == "off" else LAYERS,
        "needed": () if mode == "off" else LAYERS if mode == "strict" else _NEEDED,
        "paths": (*runtime.paths, folder),
        "command": runtime.command,
        "environment": runtime.environment,
    }
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", str(_LAUNCHER), json.dumps(config)],
        env={},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, complaint, how = _listen(process, limits)
    finally:
        # All processes are in one session, and in a namespace that ends with its first process.
        for number in (*_tree(process.pid)[::-1], process.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(number, 9)
        status = process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    return output, _End(status, how, complaint.decode(errors="replace"))


def _listen(process: subprocess.Popen[bytes], limits: Limits) -> tuple[bytes, bytes, str]:
    """Collect a process's output until it ends or has to be ended; `how` says which."""
    assert process.stdout is not None
    assert process.stderr is not None
    parts = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    output, complaint = parts.values()
    most = limits.output_bytes + _SPARE
    deadline, runs = time.monotonic() + START_S, False
    poller = select.poll()
    for number in parts:
        poller.register(number, select.POLLIN)
    while parts:
        if time.monotonic() > deadline:
            return bytes(output), bytes(complaint), "timeout" if runs else "no start"
        for number, _ in poller.poll(1000 * _LOOK_S):
            piece = os.read(number, _PIECE)
            if not piece:
                poller.unregister(number)
                del parts[number]
            elif number == process.stderr.fileno():
                complaint += piece[: max(0, _SPARE - len(complaint))]
            else:
                output += piece
        if len(output) > most:
            return bytes(output), bytes(complaint), "flood"
        if not runs and output:
            deadline, runs = time.monotonic() + limits.wall_s, True
        if runs and _memory_mb(process.pid) > limits.memory_mb + RUNTIME_MB:
            return bytes(output), bytes(complaint), "memory"
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=1.0)
    return bytes(output), bytes(complaint), "ended"


def _tree(root: int) -> list[int]:
    """Return the numbers of all descendants of a process."""
    numbers = [root]
    for number in numbers:
        with contextlib.suppress(OSError, ValueError):
            text = Path(f"/proc/{number}/task/{number}/children").read_text()
            numbers += map(int, text.split())
    return numbers[1:]


def _memory_mb(root: int) -> int:
    """Return the memory that all descendants of a process use."""
    pages = 0
    for number in _tree(root):
        with contextlib.suppress(OSError, ValueError, IndexError):
            pages += int(Path(f"/proc/{number}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def _verdict(
    answers: bytes, end: _End, calls: Sequence[Call], limits: Limits
) -> tuple[Status, str, int | None]:
    """Return the verdict on a process's output, which is untrusted."""
    lines = answers.decode(errors="replace").split("\n")
    if lines[0] != "S":
        return _not_started(end)
    for number, call in enumerate(calls):
        line = lines[number + 1] if number + 1 < len(lines) - 1 else ""
        kind, value = line[:1], _decoded(line[1:])
        if kind == "N":
            return "no_solution", str(value)[:_SHOWN], None
        if kind == "E":
            return "exception", str(value)[:_SHOWN], number
        if kind != "R":
            return (*_stopped(end, limits), number)
        if not _equal(value, call.expected):
            return "wrong_answer", f"gave {value!r}"[:_SHOWN], number
    return "passed", "", None


def _not_started(end: _End) -> tuple[Status, str, int | None]:
    if end.status == 1 and "error: compilation failed" in end.complaint:
        fault = next((line for line in end.complaint.splitlines() if "error:" in line), "")
        return "no_solution", f"does not compile:{fault.partition('error:')[2]}"[:_SHOWN], None
    if end.status == FAILED:
        raise SandboxError(f"the sandbox for the runtime cannot be made: {end.complaint[:300]}")
    raise SandboxError(
        f"the runtime did not start ({end.how}, status {end.status}): {end.complaint[:300]}"
    )


def _stopped(end: _End, limits: Limits) -> tuple[Status, str]:
    if end.how == "timeout":
        return "timeout", f"not done after {limits.wall_s:g} s"
    if end.how == "memory":
        return "memory", f"more than {limits.memory_mb} MiB beyond the runtime's"
    if end.how == "flood":
        return "crash", "flooded its result channel"
    return "crash", f"ended early (status {end.status})"


def _decoded(text: str) -> Any:
    """Return the value of a line; `_Strange` if it is not plain data."""
    try:
        return _plain(json.loads(text))
    except (ValueError, RecursionError, KeyError, TypeError, IndexError):
        return _Strange(text[:_SHOWN])


@dataclass(frozen=True, slots=True)
class _Strange:
    """A value that is not plain data, and equals nothing."""

    text: str


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "o":
        return {_key(_plain(name)): _plain(item) for name, item in content}
    if kind == "p":
        return tuple(_plain(item) for item in content)
    if kind == "i":
        return int(content)
    if kind == "f":
        return float(content)
    if kind == "s":
        from pytest_unlearn.tasks.multipl_e import single

        return single(float(content))
    return _Strange(str(content))


def _key(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) else str(value)


def _equal(got: Any, expected: Any) -> bool:
    """Return whether two values are the same: numbers by value, everything else also by type."""
    if isinstance(got, bool) or isinstance(expected, bool):
        return got is expected
    if isinstance(got, int | float) and isinstance(expected, int | float):
        return got == expected
    if type(got) is not type(expected):
        return False
    if isinstance(got, list | tuple):
        return len(got) == len(expected) and all(map(_equal, got, expected))
    if isinstance(got, dict):
        return got.keys() == expected.keys() and all(_equal(got[k], expected[k]) for k in got)
    return bool(got == expected) and not isinstance(got, _Strange)
