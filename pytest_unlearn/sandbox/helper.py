"""The judge's end of one zygote process: start it, exchange messages, end it.

The process starts with a list of files that a solution may read to import installed packages: the
packages' own and those of their requirements.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any, Literal

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.sandbox.inside import codec
from pytest_unlearn.sandbox.inside.child import CLEAR_S
from pytest_unlearn.sandbox.inside.codec import END, FORK, HEAD, LENGTH

ZYGOTE = Path(__file__).parent / "inside" / "zygote.py"
# The name at the beginning of a requirement.
_NAME = re.compile(r"[A-Za-z0-9._-]+")
# A sample may use one core, and each thread's stack and buffers count against its memory.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Each of these layers alone keeps a solution from making a file.
SEALING = ("landlock", "seccomp", "namespaces")
START_S = 30.0
STOP_S = 3.0
# How long the zygote may take to end a sample and everything that it left behind.
PATIENCE_S = CLEAR_S + 2.0
MAX_MESSAGE = 1 << 17
# Without it, on other systems, another thread's subprocess may inherit the descriptors.
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class ImportNotFoundError(UserError):
    """A package that solutions should import is not installed."""

    flag = "unlearn_sandbox_imports"


@dataclass(frozen=True, slots=True)
class Packages:
    """Top-level modules, the folders they are in, and the paths that must be readable."""

    modules: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


def find_packages(names: Sequence[str]) -> Packages:
    """Return what is needed to import the modules `names`, including the packages they require.

    Raises ImportNotFoundError for a module that no installed package has.
    """
    if not names:
        return Packages()
    providers = metadata.packages_distributions()
    distributions: dict[str, metadata.Distribution] = {}
    for name in names:
        if name not in providers:
            raise ImportNotFoundError(f"{name}: no installed package has this module")
        for provider in providers[name]:
            _add(provider, distributions)
    modules, folders, paths = set(names), set(), set()
    for distribution in distributions.values():
        root = str(distribution.locate_file(""))
        folders.add(root)
        tops = {_top(file) for file in distribution.files or ()} - {""}
        paths |= {f"{root}/{top}" for top in tops}
        modules |= {name for name, owners in providers.items() if distribution.name in owners}
    return Packages(tuple(sorted(modules)), tuple(sorted(folders)), tuple(sorted(paths)))


def _add(name: str, distributions: dict[str, metadata.Distribution]) -> None:
    """Add a distribution and, if installed, those that it requires without extras."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in distributions:
        return
    try:
        distributions[key] = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return
    for requirement in distributions[key].requires or ():
        match = _NAME.match(requirement)
        if match and "extra ==" not in requirement:
            _add(match[0], distributions)


def _top(file: PurePath) -> str:
    """Return the top-level entry that a file is in; scripts are elsewhere and not needed."""
    return "" if file.parts[0] == ".." else file.parts[0]


class HelperDied(Exception):
    """The zygote ended, does not answer, or answers when it should not."""


class ForkFailed(Exception):
    """The system does not let the zygote start a process."""


@dataclass(frozen=True, slots=True)
class HelperSettings:
    """A helper process's configuration: the layers to apply, its processor core, the installed
    packages that can be imported, and the memory of one solution. A helper with the role `check`
    runs check programs."""

    layers: tuple[str, ...]
    core: int | None = None
    packages: Packages = field(default_factory=Packages)
    role: Literal["solution", "check"] = "solution"
    memory_mb: int = 0


class HelperLate(HelperDied):
    """The process does not answer in time."""


class HelperProcess:
    """A running zygote with a scratch folder as its working directory.

    `missing` says which layers the system lacks, with the reasons.
    """

    def __init__(self, settings: HelperSettings) -> None:
        self.owner = os.getpid()
        scratch = tempfile.mkdtemp(prefix="unlearn-sandbox-")
        # By descriptor, because a solution can put a link in place of the folder.
        self._folder = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = _start(theirs.fileno(), scratch, settings)
            except BaseException:
                ours.close()
                os.close(self._folder)
                os.rmdir(scratch)
                raise
        self._socket = ours
        self._scratch = scratch
        # What came over the socket and has not been read yet.
        self._received = bytearray()
        self._given: list[int] = []
        # Also runs when this object is forgotten and when the interpreter exits.
        self._finalizer = weakref.finalize(
            self, _stop, self._process, ours, self._given, self._folder, scratch, self.owner
        )
        try:
            self.missing = _read_hello(self._receive(START_S))
            self._asked = False
            if settings.role == "solution":
                self._ask_for_a_child()
            # If no file can be made, none has to be looked for.
            self._sealed = any(
                name in settings.layers and name not in self.missing for name in SEALING
            )
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        return self._finalizer.alive and self._process.poll() is None

    def close(self) -> None:
        self._finalizer()

    def kill(self) -> None:
        """End a process that does not react."""
        if self.alive:
            _kill_tree(self._process.pid)
        self.close()

    @property
    def connection(self) -> socket.socket:
        """The socket to the process: readable when it has written something."""
        return self._socket

    def child(self) -> socket.socket:
        """Return the socket to the process of the next sample, which waits for its request.

        Raises ForkFailed. A helper that fails in another way or is interrupted is closed, because a
        late answer would be taken for the next sample's.
        """
        with self._closing_on_failure():
            self._ask_for_a_child()
            self._asked = False
            word, *fields = self._message(START_S)
            if word != "no fork" and not (word == "child" and self._given):
                raise HelperDied(f"says {word!r} instead of giving a child")
        if word == "no fork":
            raise ForkFailed(*fields)
        return socket.socket(fileno=self._given.pop())

    def ended(self, how: str) -> tuple[int, float, int]:
        """Return wait status, CPU seconds and peak KiB of the child, which is ended if it runs.

        The process of the next sample is requested immediately. Fails as `child`.
        """
        with self._closing_on_failure():
            if how != "ended":
                self._socket.sendall(END)
            word, *fields = self._message(PATIENCE_S)
            if word != "ended" or len(fields) != 3:
                raise HelperDied(f"says {word!r} instead of how the child ended")
            self._ask_for_a_child()
        status, cpu_s, peak_kb = fields
        return int(status), float(cpu_s), int(peak_kb)

    def _ask_for_a_child(self) -> None:
        if not self._asked:
            self._socket.sendall(FORK)
            self._asked = True

    def check(self, request: bytes, channel: int, wall_s: float, most: int) -> None:
        """Have a check program run, with the socket to the solution's process. Fails as `child`."""
        with self._closing_on_failure():
            self._wait_at_most(START_S)
            data = memoryview(HEAD.pack(len(request), wall_s, most) + request)
            data = data[socket.send_fds(self._socket, [data], [channel]) :]
            if data:  # Sending nothing fails as well once the process has ended, and it may have.
                self._socket.sendall(data)

    def compare(self, request: bytes) -> None:
        """Have answers compared. Fails as `child`."""
        with self._closing_on_failure():
            self._wait_at_most(START_S)
            self._socket.sendall(HEAD.pack(len(request), 0.0, 0) + request)

    def checked(self, seconds: float) -> bytes:
        """Wait for the note on the verdict. Raises HelperLate if none comes; fails as `child`."""
        with self._closing_on_failure():
            word, *fields = self._message(seconds)
            if word != "checked" or len(fields) != 1 or type(fields[0]) is not bytes:
                raise HelperDied(f"says {word!r} instead of a verdict")
            return fields[0]

    def says_something_within(self, seconds: float) -> bool:
        """Return whether a message comes within this time."""
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        return bool(self._received) or bool(poller.poll(1000 * seconds))

    def _message(self, seconds: float) -> tuple[Any, ...]:
        body = self._receive(seconds)
        try:
            fields = codec.decode(body, max_bytes=MAX_MESSAGE)
        except codec.CodecError as error:
            raise HelperDied(f"sent something that is not a message: {error}") from error
        if not (isinstance(fields, tuple) and fields):
            raise HelperDied("sent something that is not a message")
        return fields

    @contextlib.contextmanager
    def _closing_on_failure(self) -> Iterator[None]:
        try:
            yield
        except HelperLate:
            self.kill()
            raise
        except OSError as error:
            self.close()
            raise HelperDied(str(error)) from error
        except BaseException:
            self.close()
            raise

    def tidy(self) -> None:
        """Remove what a sample left in the scratch folder; if that fails, end the helper."""
        if self._sealed:
            return
        if not (_empty(self._folder) and _is_folder(self._scratch, self._folder)):
            self.close()

    def _receive(self, seconds: float) -> bytes:
        """The next message, as it came. Raises HelperDied, HelperLate."""
        deadline = time.monotonic() + seconds
        data, size = self._received, LENGTH.size
        while len(data) < size or len(data) < size + LENGTH.unpack_from(data)[0]:
            if len(data) >= size and LENGTH.unpack_from(data)[0] > MAX_MESSAGE:
                raise HelperDied(f"a message of {LENGTH.unpack_from(data)[0]} bytes")
            data += self._some(deadline - time.monotonic())
        end = size + LENGTH.unpack_from(data)[0]
        body = bytes(data[size:end])
        del data[:end]
        return body

    def _some(self, seconds: float) -> bytes:
        try:
            if seconds <= 0:
                raise TimeoutError
            self._wait_at_most(seconds)
            chunk, given, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE, 1, _CLOSE_ON_EXEC)
        except TimeoutError as error:
            raise HelperLate("no answer in time") from error
        except OSError as error:
            raise HelperDied(str(error)) from error
        for number in given:
            os.set_inheritable(number, False)
        self._given += given
        if not chunk:
            raise HelperDied("the process ended")
        return chunk

    def _wait_at_most(self, seconds: float) -> None:
        if self._socket.gettimeout() != seconds:  # setting it is a system call
            self._socket.settimeout(seconds)


def _read_hello(hello: bytes) -> dict[str, str]:
    """Return what is missing. Raises HelperDied when solutions could not run."""
    try:
        word, missing, broken = codec.decode(hello, max_bytes=MAX_MESSAGE)  # type: ignore[misc]
    except (codec.CodecError, TypeError, ValueError):
        word = missing = broken = None
    if word != "ready" or not isinstance(missing, dict):
        raise HelperDied(f"strange first message {hello[:100]!r}")
    if broken:
        raise HelperDied(f"solutions cannot import the standard library in it: {broken}")
    return missing


def _start(fd: int, scratch: str, settings: HelperSettings) -> subprocess.Popen[bytes]:
    config: dict[str, Any] = {"fd": fd, "parent": os.getpid(), **asdict(settings)}
    config |= config.pop("packages")
    # An exec, not a fork, with an empty environment: after clearing os.environ in the process, the
    # old one would still be readable in /proc/self/environ.
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", str(ZYGOTE), json.dumps(config)],
        env=dict(ONE_THREAD) if settings.packages.modules else {},
        cwd=scratch,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(fd,),
        start_new_session=True,
    )


def _stop(
    process: subprocess.Popen[bytes],
    connection: socket.socket,
    given: list[int],
    folder: int,
    scratch: str,
    owner: int,
) -> None:
    connection.close()
    while given:
        os.close(given.pop())
    if os.getpid() != owner:  # A fork of the test process must not end its parent's zygote.
        os.close(folder)
        process.returncode = 0
        return
    try:
        # Without its connection the zygote kills the current sample, if any, and ends.
        process.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        _kill_tree(process.pid)
        process.wait()
    _empty(folder)
    with contextlib.suppress(OSError):
        os.rmdir(scratch)
    os.close(folder)


def _kill_tree(root: int) -> None:
    """Kill a zygote that does not react because a solution stopped it, and all its descendants."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(root, signal.SIGSTOP)
    tree = [root]
    parents = _parents()
    for number in tree:
        tree += [child for child, parent in parents.items() if parent == number]
    # The root last, since its end would hand the others to init.
    for number in reversed(tree):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(number, signal.SIGKILL)


def _parents() -> dict[int, int]:
    """Return the parent of every process; empty without /proc."""
    parents = {}
    with contextlib.suppress(OSError):
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                # The command's name, in parentheses, may hold anything.
                stat = Path("/proc", name, "stat").read_text(errors="replace")
                parents[int(name)] = int(stat.rpartition(")")[2].split()[1])
    return parents


def _empty(folder: int) -> bool:
    """Remove everything in a folder given by descriptor; whether that worked."""
    with os.scandir(folder) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in names:
        with contextlib.suppress(OSError):
            if is_folder:
                shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
            else:
                os.unlink(name, dir_fd=folder)
    return not names or not os.listdir(folder)


def _is_folder(path: str, folder: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(folder))
    except OSError:
        return False
