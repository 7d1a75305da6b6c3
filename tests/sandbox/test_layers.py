"""Each layer alone stops something; what a system lacks is found, named and done without."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_unlearn
from pytest_unlearn.sandbox import Limits, Sandbox, SandboxError
from pytest_unlearn.sandbox.inside import seccomp
from pytest_unlearn.sandbox.inside.layers import LAYERS
from pytest_unlearn.session.items import sandbox_line as protection_line
from pytest_unlearn.tasks.format import Call, CheckProgram
from tests.support.processes import gone

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux has these layers"
)
ROOT = Path(pytest_unlearn.__file__).parents[1]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")


def only(*layers: str) -> Sandbox:
    """A sandbox with these layers and no others."""
    return Sandbox(Limits(wall_s=3), without=set(LAYERS) - set(layers))


def need(sandbox: Sandbox, layer: str) -> None:
    """Skip where this system lacks a layer."""
    if reason := sandbox.protection().missing.get(layer):
        pytest.skip(f"no {layer} here: {reason}")


def value(sandbox: Sandbox, body: str) -> str:
    """What `f`, whose body is given, returned or raised."""
    verdict = sandbox.run(f"import os, socket\ndef f():\n    {body}\n", "f", [Call((), "?")])
    return verdict.detail.partition("got ")[2] or f"{verdict.status}: {verdict.detail}"


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def stops(layer: str, body: str, done: str, stopped: str) -> None:
    """The body does it without any layer, and fails with only this one."""
    with only() as none:
        assert value(none, body) == done
    with only(layer) as one:
        need(one, layer)
        assert re.match(stopped, value(one, body))


def test_limits_alone_stop_memory() -> None:
    stops("limits", "import mmap; return len(mmap.mmap(-1, 4 << 30))", str(4 << 30), "memory")


def test_limits_alone_stop_big_files(tmp_path: Path) -> None:
    body = f"return open({str(tmp_path / 'big')!r}, 'wb', 0).write(bytes(3 << 20))"
    stops("limits", body, str(3 << 20), str(1 << 20))


@as_root
def test_privileges_alone_stop_root(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.write_text("content")
    locked.chmod(0)
    stops("privileges", f"return open({str(locked)!r}).read()", "'content'", "forbidden")


def test_landlock_alone_stops_reading_and_writing(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("content")
    stops("landlock", f"return open({str(secret)!r}).read()", "'content'", "forbidden")
    stops("landlock", f"return open({str(secret)!r}, 'a').write('x')", "1", "forbidden")
    assert secret.read_text() == "contentx"


def test_landlock_alone_stops_tcp_and_signals(port: int) -> None:
    body = f"return socket.create_connection(('127.0.0.1', {port}), 1).close()"
    stops("landlock", body, "None", "forbidden")
    stops("landlock", f"return os.kill({os.getpid()}, 0)", "None", "forbidden")


def test_seccomp_alone_stops_sockets_and_processes() -> None:
    stops("seccomp", "return socket.socket(type=socket.SOCK_DGRAM).close()", "None", "forbidden")
    stops("seccomp", "return os.fork() and 1 or os._exit(0)", "1", "forbidden")
    stops("seccomp", "return os.system('exit 0')", "0", "-1|32512")
    stops("seccomp", f"return os.kill({os.getpid()}, 0)", "None", "forbidden")


def test_seccomp_alone_stops_changing_files(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("content")
    stops("seccomp", f"return open({str(file)!r}, 'a').write('x')", "1", "forbidden")
    stops("seccomp", f"return os.chmod({str(file)!r}, 0o600)", "None", "forbidden")
    with only("seccomp") as it:
        assert value(it, f"os.unlink({str(file)!r})").startswith("forbidden")
        assert value(it, f"return open({str(file)!r}).read()") == "'contentx'"  # as it says


@pytest.mark.parametrize(
    ("body", "done"),
    [
        ("r, w = os.pipe(); fcntl.fcntl(r, 8, {pid}); return 1", "1"),
        ("r, w = os.pipe(); return fcntl.fcntl(r, 10, 9)", "0"),
        ("r, w = os.pipe(); return fcntl.fcntl(r, fcntl.F_SETFL, 0o20000)", "0"),
        ("a, b = socket.socketpair(); fcntl.ioctl(a, 0x5452, struct.pack('i', 1)); return 1", "1"),
        (
            "a, _ = socket.socketpair(); fcntl.ioctl(a, 0x8901, struct.pack('i', {pid})); return 1",
            "1",
        ),
        (
            "a, b = socket.socketpair()\n    import array; m = array.array('B', bytes(4096))\n"
            "    q = fcntl.ioctl(a, 0x8912, struct.pack('iL', 4096, m.buffer_info()[0]))\n"
            "    return struct.unpack('iL', q)[0] > 0",
            "True",
        ),
        ("os.close(os.open({file!r}, os.O_RDONLY | os.O_TRUNC)); return 1", "1"),
        ("return len(os.listxattr({file!r})) >= 0", "True"),
        ("return os.readlink({link!r})", "'file'"),
        ("return os.statvfs({file!r}).f_bsize > 0", "True"),
        ("return libc.inotify_init() > 0 or calls()", "True"),
        ("f = os.open({folder!r}, os.O_RDONLY); return fcntl.fcntl(f, 1026, 2)", "0"),
        ("return libc.msgctl({queue}, 2, bytes(4096)) == 0 or calls()", "True"),
    ],
    ids=(
        "setown setsig async fioasync fiosetown addresses truncate xattr link disk inotify dnotify "
        "sysv"
    ).split(),
)
def test_seccomp_alone_stops_what_namespaces_would(tmp_path: Path, body: str, done: str) -> None:
    """On old kernels and in containers there are none."""
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("file")
    libc = ctypes.CDLL(None, use_errno=True)
    queue = libc.msgget(0, 0o1600) if "{queue}" in body else -1
    head = (
        "import ctypes, fcntl, struct; libc = ctypes.CDLL(None, use_errno=True)\n"
        "    def calls(): raise OSError(ctypes.get_errno(), 'refused')\n    "
    )
    names = {"file": str(tmp_path / "file"), "link": str(tmp_path / "link")}
    body = body.format(pid=os.getpid(), folder=str(tmp_path), queue=queue, **names)
    try:
        stops("seccomp", head + body, done, "forbidden")
    finally:
        libc.msgctl(queue, 0, None)


def test_landlock_and_seccomp_leave_no_file_to_empty(tmp_path: Path) -> None:
    """Landlock alone lets files that may be read be emptied, before its third version."""
    with only("landlock", "seccomp") as it:
        need(it, "landlock")
        body = "return os.open(os.__file__, os.O_RDONLY | os.O_TRUNC)"
        assert value(it, body).startswith("forbidden")
        assert value(it, "return open('/dev/null', 'w').write('x')") == "1"


def test_a_limit_from_outside_is_a_limit(tmp_path: Path) -> None:
    """`ulimit -v` below what is tried: the layer holds, and strict runs."""
    script = (
        "from pytest_unlearn.sandbox import Sandbox\nfrom pytest_unlearn.tasks.format import Call\n"
        "with Sandbox(mode='strict') as it:\n"
        "    print(it.protection().missing)\n"
        "    print(it.run('def f(): return bytes(4 << 30)', 'f', [Call((), 1)]).status)\n"
        "    print(it.run('def f(): return 1', 'f', [Call((), 1)]).status)\n"
    )
    command = f"ulimit -v 4000000; exec {sys.executable} -c {shlex.quote(script)}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    if "this system lacks" in done.stderr and "limits" not in done.stderr:
        pytest.skip("no strict sandbox here")
    assert done.stdout.split("\n")[:3] == ["{}", "memory", "passed"], done.stderr


def test_a_call_of_another_machine_ends_the_process() -> None:
    # An x32 call, by its bit in the number, must not slip past the table.
    with only("seccomp") as it:
        assert value(it, "import ctypes; ctypes.CDLL(None).syscall(0x40000000 | 41, 2, 1, 0)") == (
            "forbidden: made a system call of another machine"
        )


def test_namespaces_alone_stop_the_network_writing_and_proc(tmp_path: Path, port: int) -> None:
    body = f"return socket.create_connection(('127.0.0.1', {port}), 1).close()"
    stops("namespaces", body, "None", "exception: .*unreachable|exception: .*refused")
    body = f"return open({str(tmp_path / 'new')!r}, 'w').write('x')"
    stops("namespaces", body, "1", "forbidden: OSError: Read-only file system")
    stops("namespaces", "return os.path.exists('/proc/self/environ')", "True", "False")


def test_a_pid_namespace_hides_the_zygote() -> None:
    with only("namespaces") as it:
        need(it, "namespaces")
        assert value(it, "return os.getppid() > 0") == "True"
    with only("namespaces", "pid-namespace") as it:
        assert value(it, "return os.getpid(), os.getppid()") == "(1, 0)"


@pytest.mark.parametrize("layers", [(), ("parent-death",)])
def test_parent_death_alone_ends_a_sample(tmp_path: Path, layers: tuple[str, ...]) -> None:
    pids = tmp_path / "pids"
    source = (
        f"import os, time\ndef f():\n    if os.path.exists({str(pids)!r}): return 1\n"
        f"    open({str(pids)!r}, 'w').write(str(os.getpid()) + ' ')\n    time.sleep(4)\n"
    )
    with only(*layers) as it:
        it.protection()
        thread = threading.Thread(target=it.run, args=(source, "f", [Call((), 1)]))
        thread.start()
        while not (pids.exists() and pids.read_text().endswith(" ")):
            time.sleep(0.01)
        pid = int(pids.read_text())
        os.kill(it._helpers["solution"]._process.pid, signal.SIGKILL)
        thread.join()
        alive = not gone(pid, patience_s=5.0 if layers else 0.1)
        if alive:
            os.kill(pid, signal.SIGKILL)
    assert alive == (not layers)


@pytest.mark.parametrize("name", ["asm/unistd_64.h", "asm-generic/unistd.h"])
def test_the_tables_agree_with_the_headers(name: str) -> None:
    found = [p / name for p in (Path("/usr/include"), Path("/usr/include/x86_64-linux-gnu"))]
    found = [path for path in found if path.exists()]
    if not found:
        pytest.skip("no headers here")
    table = seccomp.TABLES["x86_64" if "64" in name else "aarch64"]
    defined = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", found[0].read_text()))
    assert {n: int(defined.get(n, number)) for n, number in table.items()} == table
    assert len(set(table) & set(defined)) > 100


def run_filter(program: bytes, arch: int, number: int, arguments: tuple[int, ...]) -> int:
    """What a filter's program says of a call, run by hand: another machine's cannot be run here."""
    steps = list(struct.iter_unpack("<HBBI", program))
    data = struct.pack("<IIQ6Q", number, arch, 0, *arguments, *[0] * (6 - len(arguments)))
    accumulator, at = 0, 0
    while True:
        code, yes, no, k = steps[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x54:
            accumulator &= k
        elif code == 0x06:
            return int(k)
        else:
            truth = {
                0x15: accumulator == k,
                0x25: accumulator > k,
                0x35: accumulator >= k,
                0x45: bool(accumulator & k),
            }[code]
            at += yes if truth else no


@pytest.mark.parametrize("machine", sorted(seccomp.TABLES))
@pytest.mark.parametrize("deny_writing", [True, False])
def test_the_filters_decide(machine: str, deny_writing: bool) -> None:
    """Of the two that are around a solution, the stricter one counts."""
    common = seccomp.build(machine, deny_writing)
    own = seccomp.build_own(machine, 77)
    table = seccomp.TABLES[machine]
    arch = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]  # linux/audit.h

    def decide(call: str | int, *arguments: int, arch: int = arch) -> int:
        number = table[call] if isinstance(call, str) else call
        said = [run_filter(program, arch, number, arguments) for program in (common, own)]
        # The kernel compares actions as signed numbers: kill, errno, allow.
        return min(said, key=lambda k: k - (1 << 32 if k >> 31 else 0) & ~0xFFFF)

    def zygote(call: str, *arguments: int) -> int:
        return run_filter(common, arch, table[call], arguments)

    allowed, denied, absent, killed = 0x7FFF0000, 0x50001, 0x50026, 0x80000000
    assert decide(3 if machine == "x86_64" else 57) == allowed  # close
    assert decide("socket") == decide("execve") == decide("ptrace") == denied
    assert decide("clone3") == decide("openat2") == decide(451) == decide(10**6) == absent
    assert decide("socket", arch=0x40000003) == killed
    assert decide("clone", 17) == denied
    assert decide("clone", 0x3D0F00) == allowed
    assert decide("kill", 77, 9) == decide("tgkill", 77, 78, 9) == allowed
    assert decide("kill", 78, 9) == decide("kill", 2**32 - 1, 9) == denied
    assert decide("prlimit64", 0) == decide("prlimit64", 77) == allowed
    assert decide("prlimit64", 1) == denied
    assert decide("prctl", 15) == decide("prctl", 0x53564D41) == allowed
    assert decide("prctl", 1) == denied
    for request in (0x5412, 0x541C, 0x5452, 0x8901, 0x8902, 0x8912):
        assert decide("ioctl", 0, request) == denied
    assert decide("ioctl", 0, 0x5401) == decide("ioctl", 0, 0x802C542A) == allowed
    for command in (8, 10, 15, 1024, 1026):
        assert decide("fcntl", 0, command) == denied
    assert decide("fcntl", 0, 4, 0o20000) == decide("fcntl", 0, 4, 0o24000) == denied
    assert decide("fcntl", 0, 4, 0o4000) == decide("fcntl", 0, 3) == allowed
    assert decide("fcntl", 0, 1030) == decide("fcntl", 0, 1) == allowed
    assert decide("openat", 0, 0, 0o1000) == denied
    assert decide("socketpair", 1, 1 | 0o2000000) == allowed
    assert decide("socketpair", 1, 2) == decide("socketpair", 2, 1) == denied
    writing = denied if deny_writing else allowed
    assert decide("openat", 0, 0, 0o1) == decide("openat", 0, 0, 0o102) == writing
    assert decide("openat", 0, 0, 0o2000000) == allowed
    assert decide("unlinkat") == decide("mkdirat") == writing
    # Of what is common to both, the zygote keeps what it needs to start, watch and end solutions.
    assert zygote("socket") == zygote("execve") == zygote("ptrace") == denied
    assert zygote("clone", 17) == zygote("kill", 78, 9) == zygote("prctl", 22) == allowed
    assert zygote("unshare") == zygote("setns") == zygote("pidfd_open") == allowed
    assert decide("unshare") == decide("setns") == decide("pidfd_open") == denied
    if machine == "x86_64":
        assert decide("fork") == decide("vfork") == denied
        assert decide(0x40000000 | 57) == decide(0x40000000 | 1) == killed  # x32


# Systems that lack something, by a filter around a whole process that fails one call.

LACKING = {
    # What docker's filter does to namespaces.
    "namespaces": ({"x86_64": 272, "aarch64": 97}, None, 1, ["namespaces", "pid-namespace"]),
    "landlock": ({"x86_64": 444, "aarch64": 444}, None, 38, ["landlock"]),
    "seccomp": ({"x86_64": 157, "aarch64": 167}, 22, 22, ["seccomp"]),
}
SCRIPT = """
import json, os, struct, sys
sys.path.insert(0, sys.argv[1])
number, argument, error = json.loads(sys.argv[2])
from pytest_unlearn.sandbox import Sandbox, SandboxError, Limits
from pytest_unlearn.sandbox.inside import kernel
from pytest_unlearn.tasks.format import Call
if number is not None:
    steps = [(0x20, 0, 0, 0), (0x15, 0, 3, number), (0x20, 0, 0, 16)]
    steps += [(0x15, 0, 1, argument)] if argument is not None else [(0x25, 0, 0, 0)]
    steps += [(6, 0, 0, 0x50000 | error), (6, 0, 0, 0x7fff0000)]
    kernel.no_new_privileges()
    kernel.Filter(b"".join(struct.pack("<HBBI", *step) for step in steps)).install(0)
try:
    with Sandbox(mode="strict") as strict: strict.protection()
    refusal = ""
except SandboxError as caught:
    refusal = str(caught)
calls = [Call((1,), 2), Call((41,), 42)]
with Sandbox(Limits(wall_s=5)) as it:
    missing = it.protection().missing
    verdicts = {s: it.run(s, "f", calls).status for s in json.loads(sys.argv[3])}
print(json.dumps([missing, refusal, verdicts]))
"""
RIGHT = "def f(x):\n    import colorsys, csv\n    return x + 1\n"
HARM = [
    "import subprocess\ndef f(x):\n    subprocess.run(['true'])\n",
    "import socket\ndef f(x):\n    socket.create_connection(('127.0.0.1', 9), 1)\n",
    "def f(x):\n    open('new', 'w')\n",
]


def run_script(
    interpreter: str, root: Path, fault: object, *, user: int | None = None
) -> tuple[dict[str, str], str, dict[str, str]]:
    done = subprocess.run(
        [interpreter, "-c", SCRIPT, str(root), json.dumps(fault), json.dumps([RIGHT, *HARM])],
        cwd="/",
        user=user,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    missing, refusal, verdicts = json.loads(done.stdout)
    return missing, refusal, verdicts


@pytest.mark.parametrize("name", LACKING)
def test_a_system_without_a_layer(name: str) -> None:
    numbers, argument, error, expected = LACKING[name]
    if os.uname().machine not in numbers:
        pytest.skip("no number for this machine")
    fault = [numbers[os.uname().machine], argument, error]
    missing, refusal, verdicts = run_script(sys.executable, ROOT, fault)
    with Sandbox() as it:
        assert set(missing) == {*expected, *it.protection().missing}
    assert refusal.startswith("--unlearn-sandbox=strict: this system lacks ")
    assert all(layer in refusal for layer in expected)
    assert verdicts.pop(RIGHT) == "passed"
    # The other layers still stop these; without seccomp, programs are Landlock's to stop.
    assert all(status in ("forbidden", "exception") for status in verdicts.values()), verdicts


@as_root
def test_an_ordinary_user_has_the_same(tmp_path: Path) -> None:
    interpreter = next((p for p in (sys.executable, "/usr/bin/python3") if _public(p)), None)
    if interpreter is None:
        pytest.skip("no interpreter that another user may run")
    folder = Path("/tmp") / f"unlearn-user-{os.getpid()}"
    shutil.copytree(ROOT / "pytest_unlearn", folder / "pytest_unlearn")
    folder.chmod(0o755)
    try:
        missing, _, verdicts = run_script(interpreter, folder, [None, None, None], user=65534)
        with Sandbox() as it:
            assert missing == it.protection().missing
    finally:
        shutil.rmtree(folder)
    assert verdicts.pop(RIGHT) == "passed"
    assert set(verdicts.values()) == {"forbidden"}


def _public(interpreter: str) -> bool:
    """Whether everybody may run it, at 3.11 or newer."""
    command = [interpreter, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    try:
        return subprocess.run(command, user=65534, cwd="/", check=False).returncode == 0
    except OSError:
        return False


def test_a_layer_that_hides_python_itself_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "pytest_unlearn/sandbox/inside", tmp_path / "copy")
    file = tmp_path / "copy/layers.py"
    file.write_text(file.read_text().replace("return list(dict.fromkeys(paths))", "return []"))
    monkeypatch.setattr("pytest_unlearn.sandbox.helper.ZYGOTE", tmp_path / "copy/zygote.py")
    secret = tmp_path / "secret"
    secret.write_text("content")
    with Sandbox() as it:
        assert "Python's library is out of reach" in it.protection().missing["landlock"]
        assert it.run(RIGHT, "f", [Call((1,), 2)]).passed
        assert value(it, f"open({str(secret)!r}, 'w')").startswith("forbidden")


def test_a_system_that_is_not_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS: limits are all there is, the header names the rest, and verdicts are the same."""
    shutil.copytree(ROOT / "pytest_unlearn/sandbox/inside", tmp_path / "copy")
    file = tmp_path / "copy/kernel.py"
    linux = 'return sys.platform.startswith("linux")'
    assert linux in file.read_text()
    file.write_text(file.read_text().replace(linux, "return False"))
    monkeypatch.setattr("pytest_unlearn.sandbox.helper.ZYGOTE", tmp_path / "copy/zygote.py")
    with Sandbox(Limits(wall_s=2)) as it:
        protection = it.protection()
        assert protection.active == ("limits",)
        assert protection.missing == {
            "parent-death": "this system has no PR_SET_PDEATHSIG",
            "privileges": "this system has no capabilities to give up",
            "landlock": "syscall is a call of Linux",
            "seccomp": "prctl is a call of Linux",
            "namespaces": "unshare is a call of Linux",
            "pid-namespace": "needs namespaces",
        }
        line = protection_line("auto", protection)
        assert line.startswith("\nsandbox: auto, limits; MISSING: ")
        assert all(name in line for name in protection.missing)
        for tests in ([Call((1,), 2)], CheckProgram("assert candidate(1) == 2")):
            assert it.run(RIGHT, "f", tests).passed
            assert it.run("def f(x): return x", "f", tests).status == "wrong_answer"
            assert it.run("def f(x): return bytes(8 << 30)", "f", tests).status == "memory"
    with Sandbox(mode="strict") as it, pytest.raises(SandboxError, match="this system lacks"):
        it.protection()


def test_an_unknown_mode_or_layer() -> None:
    for arguments in ({"mode": "maybe"}, {"without": ["walls"]}):
        with pytest.raises(ValueError, match="is unknown"):
            Sandbox(**arguments)  # type: ignore[arg-type]


def test_strict_goes_on_refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_unlearn.sandbox.helper._read_hello", lambda _: {"landlock": "no"})
    with Sandbox(mode="strict") as it:
        for _ in range(2):
            with pytest.raises(SandboxError, match=r"lacks landlock \(no\)"):
                it.run(RIGHT, "f", [Call((1,), 2)])


def test_each_sandbox_is_pinned_to_a_core_of_its_own() -> None:
    cores = sorted(os.sched_getaffinity(0))
    body = "return sorted(os.sched_getaffinity(0))"
    for number in range(3):
        with Sandbox(core=number) as it:
            assert value(it, body) == f"[{cores[number % len(cores)]}]"
