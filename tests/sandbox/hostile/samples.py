"""The collection. Every sample is `f(x)`, to be judged by `f(1) == 2` and `f(41) == 42`.

A *probe* tries something forbidden and answers rightly only when it was stopped, so `passed` means
that it was contained; `BREACH` in an answer means that it was not. Places of the test stand in
braces: {secret} a file with a canary, {folder} one to write to, {port} a listener's port, {pid} the
test process, {address} of a canary in its memory.
"""

# ruff: noqa: E501 - a sample that is one text reads better than one in pieces

from __future__ import annotations

import textwrap
from dataclasses import dataclass

PASSED = frozenset({"passed"})
WRONG = frozenset({"wrong_answer"})
CRASH = frozenset({"crash"})
TIMEOUT = frozenset({"timeout"})
MEMORY = frozenset({"memory"})
FORBIDDEN = frozenset({"forbidden"})
EXCEPTION = frozenset({"exception"})
NO_SOLUTION = frozenset({"no_solution"})


@dataclass(frozen=True)
class Sample:
    """One solution and the verdicts that are right for it."""

    family: str
    name: str
    source: str
    expected: frozenset[str]


def _probe(action: str, right: str = "OSError") -> str:
    """A solution that is right only if `action`, an expression or statements, raises `right`."""
    body = textwrap.indent(textwrap.dedent(action).strip(), " " * 8)
    return f"def f(x):\n    try:\n{body}\n    except {right}:\n        return x + 1\n    return 'BREACH'\n"


_SAMPLES: list[tuple[str, str, str, frozenset[str]]] = [
    # Honest ones: a sandbox that stops these is of no use.
    ("control", "right", "def f(x):\n    return x + 1\n", PASSED),
    ("control", "wrong", "def f(x):\n    return x + 2\n", WRONG),
    (
        "control",
        "lazy imports",
        "def f(x):\n    import decimal, csv, email.message, xml.dom, ast\n    return int(decimal.Decimal(x) + 1)\n",
        PASSED,
    ),
    (
        "control",
        "threads",
        "from concurrent.futures import ThreadPoolExecutor\ndef f(x):\n    with ThreadPoolExecutor(2) as pool: return pool.submit(lambda: x + 1).result()\n",
        PASSED,
    ),
    (
        "control",
        "asyncio",
        "import asyncio\ndef f(x):\n    async def g():\n        await asyncio.sleep(0)\n        return x + 1\n    return asyncio.run(g())\n",
        PASSED,
    ),
    (
        "control",
        "randomness",
        "import os, secrets, uuid\ndef f(x):\n    os.urandom(8), secrets.token_hex(), uuid.uuid4()\n    return x + 1\n",
        PASSED,
    ),
    (
        "control",
        "time zones",
        "import datetime, zoneinfo, time\ndef f(x):\n    time.localtime(), datetime.datetime.now().astimezone()\n    return x + 1\n",
        PASSED,
    ),
    (
        "control",
        "prints a lot",
        "import sys\ndef f(x):\n    print('x' * 10 ** 6)\n    sys.stderr.write('y' * 10 ** 6)\n    return x + 1\n",
        PASSED,
    ),
    (
        "control",
        "null device",
        "import contextlib, os\ndef f(x):\n    with open(os.devnull, 'w') as sink, contextlib.redirect_stdout(sink): print(x)\n    return x + 1\n",
        PASSED,
    ),
    ("control", "raises", "def f(x):\n    raise KeyError(x)\n", EXCEPTION),
    ("control", "no function", "def g(x):\n    return x + 1\n", NO_SOLUTION),
    # Ending early, where an exit code or silence might be taken for success.
    ("early exit", "sys.exit(0)", "import sys\ndef f(x):\n    sys.exit(0)\n", CRASH),
    ("early exit", "os._exit(0)", "import os\ndef f(x):\n    os._exit(0)\n", CRASH),
    ("early exit", "at import", "import os\nos._exit(0)\ndef f(x):\n    return x + 1\n", CRASH),
    (
        "early exit",
        "after the first answer",
        "import os\ndef f(x):\n    if x != 1: os._exit(0)\n    return x + 1\n",
        CRASH,
    ),
    ("early exit", "os.abort", "import os\ndef f(x):\n    os.abort()\n", CRASH),
    ("early exit", "null pointer", "import ctypes\ndef f(x):\n    ctypes.string_at(0)\n", CRASH),
    (
        "early exit",
        "from a thread",
        "import os, threading, time\ndef f(x):\n    threading.Thread(target=os._exit, args=(0,)).start()\n    time.sleep(5)\n",
        CRASH,
    ),
    (
        "early exit",
        "at exit",
        "import atexit, sys\ndef f(x):\n    atexit.register(print, 'passed')\n    raise SystemExit('passed')\n",
        CRASH,
    ),
    # Forged verdicts.
    (
        "forge",
        "always equal",
        "class E:\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n    __hash__ = lambda s: 2\ndef f(x):\n    return E()\n",
        WRONG,
    ),
    (
        "forge",
        "int subclass",
        "class I(int):\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__\ndef f(x):\n    return I(0)\n",
        WRONG,
    ),
    (
        "forge",
        "float that is close",
        "class F(float):\n    def __sub__(self, o): return 0.0\n    __rsub__ = __sub__\n    def __eq__(self, o): return True\n    __hash__ = float.__hash__\ndef f(x):\n    return F(0)\n",
        WRONG,
    ),
    (
        "forge",
        "list of equals",
        "class L(list):\n    def __eq__(self, o): return True\ndef f(x):\n    return L([E]) if (E := 0) else L()\n",
        WRONG,
    ),
    (
        "forge",
        "patched builtins",
        "import builtins\ndef f(x):\n    for name in ('abs', 'all', 'len', 'isinstance', 'type', 'repr'): setattr(builtins, name, lambda *a: True)\n    return 0\n",
        WRONG,
    ),
    (
        "forge",
        "patched operator",
        "import operator, math\ndef f(x):\n    operator.eq = math.isclose = lambda *a, **k: True\n    return 0\n",
        WRONG,
    ),
    (
        "forge",
        "trace of the caller",
        "import sys\ndef t(frame, event, arg):\n    for n in frame.f_locals: frame.f_locals[n] = 2\n    return t\ndef f(x):\n    sys.settrace(t)\n    sys._getframe(1).f_trace = t\n    return 0\n",
        WRONG,
    ),
    (
        "forge",
        "result list by gc",
        "import gc\ndef f(x):\n    for o in gc.get_objects():\n        if type(o) is list and len(o) < 3 and type(o) is not str: \n            try: o.append('passed')\n            except Exception: pass\n    return 0\n",
        WRONG | CRASH | EXCEPTION,
    ),
    (
        "forge",
        "writes passed everywhere",
        "import os\ndef f(x):\n    for fd in range(64):\n        try: os.write(fd, b'passed')\n        except OSError: pass\n    return 0\n",
        CRASH,
    ),
    (
        "forge",
        "a right report before a wrong answer",
        "import os, struct\ndef f(x):\n    os.write(3, b'R' + struct.pack('>I', 6) + b'i' + struct.pack('>I', 1) + b'2')\n    return 0\n",
        WRONG,
    ),
    (
        "forge",
        "exception that calls itself passed",
        "class passed(Exception):\n    def __str__(self): return 'passed'\ndef f(x):\n    raise passed('passed')\n",
        EXCEPTION,
    ),
    (
        "forge",
        "patched encoder",
        "import gc\ndef f(x):\n    for o in gc.get_objects():\n        if type(o) is dict and 'encode' in o and 'TooLarge' in o: o['encode'] = lambda *a, **k: b'T'\n    return 0\n",
        WRONG,
    ),
    (
        "forge",
        "deep hash collisions",
        "def f(x):\n    return {(2 ** 61 - 1) * n: 1 for n in range(2000)}\n",
        CRASH | WRONG,
    ),
    (
        "forge",
        "looks like the judge",
        "import sys\nsys.modules['pytest_unlearn'] = sys\ndef f(x):\n    sys.same = sys.passed = True\n    return True\n",
        WRONG,
    ),
    # Stealing answers: the second one is 42, and the only way to know it is to compute it.
    (
        "steal",
        "frames",
        "import sys\ndef f(x):\n    frame, seen = sys._getframe(), []\n    while frame:\n        seen += [v for v in frame.f_locals.values() if type(v) is int]\n        frame = frame.f_back\n    return next((v for v in seen if v in (2, 42)), 0)\n",
        WRONG,
    ),
    (
        "steal",
        "garbage collector",
        "import gc\ndef f(x):\n    for o in gc.get_objects():\n        if hasattr(o, 'expected'): return o.expected\n    return 0\n",
        WRONG,
    ),
    (
        "steal",
        "bundled answers",
        "import os, sys\ndef f(x):\n    for top in {tests}:\n        open(top).read()\n    return 'BREACH'\n",
        FORBIDDEN,
    ),
    (
        "steal",
        "installed packages",
        "import os, sys\ndef f(x):\n    sys.path += {sites}\n    try:\n        import pytest_unlearn.tasks.format\n    except (ImportError, OSError):\n        return x + 1\n    return 'BREACH'\n",
        PASSED,
    ),
    (
        "steal",
        "memory of the parent",
        "import os\ndef f(x):\n    with open(f'/proc/{os.getppid()}/mem', 'rb') as m: m.seek({address}); return m.read(16)\n",
        FORBIDDEN | EXCEPTION,
    ),
    (
        "steal",
        "later calls",
        "import sys\ndef f(x):\n    calls = sys._getframe(1).f_locals.get('calls') or [b'']\n    return len(calls) and 2\n",
        WRONG,
    ),
    # Never ending.
    ("hang", "loop", "def f(x):\n    while True: pass\n", TIMEOUT),
    ("hang", "sleep", "import time\ndef f(x):\n    time.sleep(1000)\n", TIMEOUT),
    ("hang", "at import", "while True: pass\ndef f(x):\n    return x + 1\n", TIMEOUT),
    ("hang", "in C", "def f(x):\n    return 10 ** 10 ** 9\n", TIMEOUT | MEMORY),
    (
        "hang",
        "regular expression",
        "import re\ndef f(x):\n    return re.match(r'(a+)+$', 'a' * 40 + 'b')\n",
        TIMEOUT,
    ),
    (
        "hang",
        "deadlock",
        "import threading\ndef f(x):\n    lock = threading.Lock()\n    lock.acquire(); lock.acquire()\n",
        TIMEOUT,
    ),
    (
        "hang",
        "ignores signals",
        "import signal\ndef f(x):\n    for n in range(1, 65):\n        try: signal.signal(n, signal.SIG_IGN)\n        except (OSError, ValueError): pass\n    while True: pass\n",
        TIMEOUT,
    ),
    (
        "hang",
        "catches everything",
        "def f(x):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass\n",
        TIMEOUT,
    ),
    (
        "hang",
        "stops itself",
        "import os, signal\ndef f(x):\n    os.kill(os.getpid(), signal.SIGSTOP)\n    return 0\n",
        TIMEOUT | WRONG,
    ),
    ("hang", "reads its input", "import sys\ndef f(x):\n    return sys.stdin.read()\n", WRONG),
    ("hang", "reads its channel", "import os\ndef f(x):\n    return os.read(3, 1)\n", WRONG),
    (
        "hang",
        "endless repr",
        "class R:\n    def __repr__(self):\n        while True: pass\ndef f(x):\n    return R()\n",
        WRONG,
    ),
    (
        "hang",
        "closes its channel",
        "import os, time\ndef f(x):\n    os.closerange(0, 256)\n    time.sleep(1000)\n",
        CRASH,
    ),
    # Resources.
    ("resource", "memory at once", "def f(x):\n    return bytearray(8 << 30)\n", MEMORY),
    (
        "resource",
        "memory by and by",
        "def f(x):\n    a = []\n    while True: a.append(bytearray(16 << 20))\n",
        MEMORY,
    ),
    ("resource", "memory at import", "a = [0] * (1 << 33)\ndef f(x):\n    return x + 1\n", MEMORY),
    (
        "resource",
        "memory by mmap",
        "import mmap\ndef f(x):\n    a = [mmap.mmap(-1, 64 << 20) for _ in range(100)]\n",
        MEMORY | EXCEPTION,
    ),
    (
        "resource",
        "raised limit",
        "import resource\ndef f(x):\n    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n    return bytearray(4 << 30)\n",
        EXCEPTION | FORBIDDEN,
    ),
    (
        "resource",
        "recursion",
        "import sys\ndef f(x):\n    sys.setrecursionlimit(10 ** 9)\n    return f(x)\n",
        CRASH | MEMORY | EXCEPTION | TIMEOUT,
    ),
    ("resource", "huge integer", "def f(x):\n    return 1 << (1 << 26)\n", WRONG),
    ("resource", "huge text", "def f(x):\n    return 'x' * (64 << 20)\n", WRONG),
    (
        "resource",
        "deep list",
        "def f(x):\n    a = []\n    for _ in range(10 ** 5): a = [a]\n    return a\n",
        WRONG,
    ),
    (
        "resource",
        "list that holds itself",
        "def f(x):\n    a = []\n    a.append(a)\n    return a\n",
        WRONG,
    ),
    (
        "resource",
        "flood of reports",
        "import os\ndef f(x):\n    while True: os.write(3, b'R\\0\\0\\0\\0' * 1000)\n",
        CRASH,
    ),
    (
        "resource",
        "many files",
        "import os\ndef f(x):\n    a = [os.dup(1) for _ in range(10 ** 5)]\n",
        EXCEPTION,
    ),
    (
        "resource",
        "many threads",
        "import threading, time\ndef f(x):\n    for _ in range(10 ** 4): threading.Thread(target=time.sleep, args=(99,), daemon=True).start()\n",
        MEMORY | EXCEPTION | TIMEOUT,
    ),
    (
        "resource",
        "shared memory that stays",
        _probe(
            "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nif libc.shmget(0x5EC2E7, 4096, 0o1600) < 0: raise OSError"
        ),
        PASSED,
    ),
    ("resource", "files in memory", _probe("import os\nos.memfd_create('x')"), PASSED),
    (
        "resource",
        "source of one long line",
        "def f(x):\n    return x + 1 #" + "x" * (1 << 20) + "\n",
        PASSED,
    ),
    (
        "resource",
        "parser bomb",
        "def f(x):\n    return " + "(" * 5000 + ")" * 5000 + "\n",
        NO_SOLUTION | MEMORY | CRASH,
    ),
    # Processes.
    ("process", "fork", _probe("import os\nif os.fork() == 0: os._exit(0)"), PASSED),
    ("process", "fork bomb", "import os\ndef f(x):\n    while True: os.fork()\n", FORBIDDEN),
    (
        "process",
        "subprocess",
        "import subprocess\ndef f(x):\n    return subprocess.run(['id'], capture_output=True).stdout\n",
        FORBIDDEN,
    ),
    (
        "process",
        "shell",
        "import os\ndef f(x):\n    return x + 1 if os.system('true') != 0 else 'BREACH'\n",
        PASSED,
    ),
    ("process", "exec", _probe("import os\nos.execv('/bin/true', ['true'])"), PASSED),
    ("process", "spawn", _probe("import os\nos.posix_spawn('/bin/true', ['true'], {})"), PASSED),
    (
        "process",
        "multiprocessing",
        "import multiprocessing\ndef f(x):\n    with multiprocessing.Pool(2) as pool: return pool.map(abs, [x])[0] + 1\n",
        FORBIDDEN,
    ),
    (
        "process",
        "raw clone",
        _probe(
            "import ctypes, signal\nlibc = ctypes.CDLL(None)\nn = {'x86_64': 56, 'aarch64': 220}[__import__('os').uname().machine]\npid = libc.syscall(n, signal.SIGCHLD, 0, 0, 0, 0)\nif pid < 0: raise OSError\nif pid == 0: libc._exit(0)"
        ),
        PASSED,
    ),
    (
        "process",
        "clone3",
        _probe(
            "import ctypes\nif ctypes.CDLL(None).syscall(435, (ctypes.c_uint64 * 8)(), 64) < 0: raise OSError"
        ),
        PASSED,
    ),
    ("process", "kills the test process", _probe("import os\nos.kill({pid}, 15)"), PASSED),
    (
        "process",
        "kills its parent",
        "import os\ndef f(x):\n    try: os.kill(os.getppid() or -1, 9)\n    except OSError: return x + 1\n    return 'BREACH'\n",
        PASSED,
    ),
    ("process", "kills everybody", _probe("import os\nos.kill(-1, 9)"), PASSED),
    (
        "process",
        "traces its parent",
        _probe(
            "import ctypes, os\nif ctypes.CDLL(None).ptrace(16, os.getppid() or {pid}, 0, 0) < 0: raise OSError"
        ),
        PASSED,
    ),
    (
        "process",
        "new namespaces",
        _probe("import ctypes\nif ctypes.CDLL(None).unshare(0x10000000) < 0: raise OSError"),
        PASSED,
    ),
    (
        "process",
        "priority of others",
        _probe("import os\nos.setpriority(os.PRIO_PROCESS, {pid}, 19)"),
        PASSED,
    ),
    (
        "process",
        "limits of others",
        _probe("import resource\nresource.prlimit({pid}, resource.RLIMIT_CORE)"),
        PASSED,
    ),
    # The file system.
    ("write", "new file", _probe("open('{folder}/new', 'w')"), PASSED),
    ("write", "here", _probe("open('new', 'w')"), PASSED),
    ("write", "temporary file", _probe("import tempfile\ntempfile.NamedTemporaryFile()"), PASSED),
    ("write", "appends", _probe("open('{secret}', 'a')"), PASSED),
    ("write", "deletes", _probe("import os\nos.unlink('{secret}')"), PASSED),
    ("write", "truncates", _probe("import os\nos.truncate('{secret}', 0)"), PASSED),
    ("write", "renames", _probe("import os\nos.rename('{secret}', '{folder}/moved')"), PASSED),
    ("write", "folder", _probe("import os\nos.mkdir('{folder}/new')"), PASSED),
    ("write", "links", _probe("import os\nos.link('{secret}', '{folder}/link')"), PASSED),
    (
        "write",
        "symbolic link",
        _probe("import os\nos.symlink('{secret}', '{folder}/link')"),
        PASSED,
    ),
    ("write", "mode", _probe("import os\nos.chmod('{secret}', 0o777)"), PASSED),
    ("write", "owner", _probe("import os\nos.chown('{secret}', os.getuid(), os.getgid())"), PASSED),
    ("write", "time", _probe("import os\nos.utime('{secret}', (0, 0))"), PASSED),
    ("write", "attribute", _probe("import os\nos.setxattr('{secret}', 'user.x', b'y')"), PASSED),
    ("write", "named pipe", _probe("import os\nos.mkfifo('{folder}/pipe')"), PASSED),
    (
        "write",
        "shared memory file",
        _probe(
            "from multiprocessing import shared_memory\nshared_memory.SharedMemory(create=True, size=64)"
        ),
        PASSED,
    ),
    (
        "write",
        "mount",
        _probe(
            "import ctypes\nif ctypes.CDLL(None).mount(b'none', b'{folder}', b'tmpfs', 0, None) < 0: raise OSError"
        ),
        PASSED,
    ),
    ("read", "file", _probe("open('{secret}').read()"), PASSED),
    ("read", "folder", _probe("import os\nos.listdir('{folder}')"), PASSED),
    ("read", "users", _probe("open('/etc/passwd').read()"), PASSED),
    ("read", "root", _probe("import os\nos.listdir('/')"), PASSED),
    (
        "read",
        "through a link of /proc",
        _probe("import os\nopen('/proc/self/root{secret}').read()"),
        PASSED,
    ),
    (
        "read",
        "by sqlite",
        _probe(
            "import sqlite3\nsqlite3.connect('{secret}').execute('select 1 from sqlite_master')",
            "sqlite3.OperationalError",
        ),
        PASSED,
    ),
    (
        "read",
        "by ctypes",
        _probe("import ctypes\nif ctypes.CDLL(None).open(b'{secret}', 0) < 0: raise OSError"),
        PASSED,
    ),
    (
        "read",
        "by io_uring",
        _probe(
            "import ctypes\nif ctypes.CDLL(None).syscall(425, 4, (ctypes.c_char * 120)()) < 0: raise OSError"
        ),
        PASSED,
    ),
    # The network.
    (
        "network",
        "tcp",
        _probe("import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)"),
        PASSED,
    ),
    (
        "network",
        "udp",
        _probe(
            "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))"
        ),
        PASSED,
    ),
    (
        "network",
        "http",
        "from urllib.request import urlopen\ndef f(x):\n    return urlopen('http://127.0.0.1:{port}').status\n",
        FORBIDDEN,
    ),
    ("network", "listens", _probe("import socket\nsocket.create_server(('127.0.0.1', 0))"), PASSED),
    (
        "network",
        "unix socket",
        _probe("import socket\nsocket.socket(socket.AF_UNIX).connect('\\0x')"),
        PASSED,
    ),
    ("network", "names", _probe("import socket\nsocket.getaddrinfo('example.com', 80)"), PASSED),
    ("network", "netlink", _probe("import socket\nsocket.socket(socket.AF_NETLINK)"), PASSED),
    (
        "network",
        "datagram pair",
        _probe("import socket\nsocket.socketpair(type=socket.SOCK_DGRAM)"),
        PASSED,
    ),
    (
        "network",
        "multipath tcp",
        _probe("import socket\nsocket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)"),
        PASSED,
    ),
    # Secrets.
    (
        "secret",
        "environment",
        "import os\ndef f(x):\n    return 'BREACH' if '{canary}' in str(os.environ) else x + 1\n",
        PASSED,
    ),
    (
        "secret",
        "own environ file",
        _probe(
            "print(open('/proc/self/environ').read().index('{canary}'))", "(OSError, ValueError)"
        ),
        PASSED,
    ),
    (
        "secret",
        "parent's environ file",
        _probe(
            "print(open('/proc/{pid}/environ').read().index('{canary}'))", "(OSError, ValueError)"
        ),
        PASSED,
    ),
    (
        "secret",
        "memory of the test process",
        _probe("m = open('/proc/{pid}/mem', 'rb'); m.seek({address}); m.read(16)"),
        PASSED,
    ),
    (
        "secret",
        "memory by process_vm_readv",
        "import ctypes\ndef f(x):\n    class V(ctypes.Structure): _fields_ = [('a', ctypes.c_void_p), ('n', ctypes.c_size_t)]\n    b = ctypes.create_string_buffer(16)\n    libc = ctypes.CDLL(None)\n    n = libc.process_vm_readv({pid}, ctypes.byref(V(ctypes.addressof(b), 16)), 1, ctypes.byref(V({address}, 16)), 1, 0)\n    return 'BREACH' if n == 16 else x + 1\n",
        PASSED,
    ),
    (
        "secret",
        "command lines",
        _probe(
            "import glob\nif not glob.glob('/proc/[0-9]*/cmdline'): raise OSError\nfor p in glob.glob('/proc/[0-9]*/cmdline'): open(p).read()"
        ),
        PASSED,
    ),
    (
        "secret",
        "inherited descriptors",
        "import os\ndef f(x):\n    found = [fd for fd in range(4, 1024) if os.path.exists(f'/dev/fd/{fd}')]\n    for fd in range(4, 1024):\n        try: os.read(fd, 1); found.append(fd)\n        except OSError: pass\n    return 'BREACH' if found else x + 1\n",
        PASSED,
    ),
    (
        "secret",
        "kernel log",
        _probe(
            "import ctypes\nif ctypes.CDLL(None).klogctl(3, ctypes.create_string_buffer(64), 64) < 0: raise OSError"
        ),
        PASSED,
    ),
    (
        "secret",
        "keyring",
        _probe(
            "import ctypes\nn = {'x86_64': 250, 'aarch64': 219}[__import__('os').uname().machine]\nif ctypes.CDLL(None).syscall(n, 0, -3, 0) < 0: raise OSError"
        ),
        PASSED,
    ),
]

SAMPLES = tuple(Sample(*row) for row in _SAMPLES)
FAMILIES = tuple(dict.fromkeys(sample.family for sample in SAMPLES))
