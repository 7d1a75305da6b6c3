"""The forked process that runs one solution: it gives up privileges, runs it and reports values.

Nothing is decided here. The process holds no expected answers, and a solution that takes it over
can only send values, which the judge compares elsewhere. Names used after the solution ran are
bound beforehand, so that a solution that patches modules spoils less of its own answer.

The zygote loads this file by its path: it must import nothing but the standard library.

A process is forked before there is a solution for it, and sends one byte when it is ready. Reports
are one kind byte, a four-byte length and a body: `L` loaded, `A` the arguments as the call left
them (if it changed any), `R` one result, `E` exception (type, base classes, line, message, whether
it comes from something forbidden), `M` out of memory, `X` exit asked for, `N` no solution (why),
`U` one that calls cannot judge (why), `B` a result over the limits (why). If the calls are known
beforehand, reports go to the judge. Otherwise the judge passes its end of the socket to a process
that runs the check program and sends each call as a length and an encoded (arguments, keyword
arguments).
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import math
import os
import signal
import struct
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

# The function that sets a limit, the limit's number, its soft and hard value. The function is
# looked up beforehand, because importing takes long right after a fork.
Limit: TypeAlias = "tuple[Callable[[int, tuple[int, int]], None], int, tuple[int, int]]"
# The same for a limit whose values come later: the function, the number, the highest value.
Setter: TypeAlias = "tuple[Callable[[int, tuple[int, int]], None], int, int]"

SOLUTION_FILE = "<solution>"
GIVEN_FILE = "<given>"
MODULE = "solution"
# The entry point of a program: each call is a text on its standard input, its result the output.
PROGRAM = "__main__"
RESULT_FD = 3
HIGHEST_FD = 256
FILE_BYTES = 1 << 20
OPEN_FILES = 64
NOTE_BYTES = 1 << 14
ARGUMENT_BYTES = 1 << 26
MAX_REQUEST = 1 << 26
# Room for the notes and the five bytes in front of each report.
SPARE_BYTES = 1 << 15
# How long to keep killing processes that a sample left behind.
CLEAR_S = 5.0
MAX_FRAMES = 100_000
# How long to wait for a program's output if something still holds it open.
DRAIN_S = 1.0
_MOST_SECONDS = 1 << 30
# How many causes of an exception and how many of its base classes are examined.
MAX_CAUSES = 10
MAX_CLASSES = 12

# A call cannot change values of these types.
_FIXED = frozenset({type(None), bool, int, float, complex, str, bytes})

# By their flags: inspect.CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR.
_FUNCTIONS_OF_OTHER_KINDS = ((0x20, "a generator"), (0x80, "async"), (0x200, "async"))

READY = b"S"
# Most messages come in one piece of this size. For a larger read, the C library consolidates its
# whole heap, which copies it.
_PIECE = 1 << 13

_LENGTH = struct.Struct(">I")
_OUT_OF_MEMORY = b"M" + _LENGTH.pack(0)
_read = os.read
_write = os.write
_exit = os._exit
_getpid = os.getpid
_settrace = sys.settrace
_setprofile = sys.setprofile
_setrecursionlimit = sys.setrecursionlimit
_getrecursionlimit = sys.getrecursionlimit
_RECURSION_LIMIT = sys.getrecursionlimit()
# The C getters: an exception class cannot put its own code in front of them.
_name_of = type.__dict__["__name__"].__get__
_mro_of = type.__dict__["__mro__"].__get__
_module_of = type.__dict__["__module__"].__get__
_args_of = BaseException.__dict__["args"].__get__
_traceback_of = BaseException.__dict__["__traceback__"].__get__
_cause_of = BaseException.__dict__["__cause__"].__get__
_context_of = BaseException.__dict__["__context__"].__get__


def confine(layers: Any, limits: Sequence[Limit], end: int, parent: int, watched: bool) -> None:
    """Give up everything the solution does not need, in this order; `end` becomes number 3.

    `layers`: the module of that name, with the layers in force. `limits`: those of one process.
    `parent`: the zygote's number as this process sees it. `watched`: the zygote has a handler of
    its own for SIGTERM.
    """
    if watched:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setsid()
    layers.die_with_parent()
    if os.getppid() != parent:
        _exit(1)  # It died before the line above took effect.
    layers.give_up_privileges()
    layers.restrict_files()
    os.dup2(end, RESULT_FD)
    # The zygote holds a handful, all of them small numbers.
    os.closerange(RESULT_FD + 1, HIGHEST_FD)
    set_limits(limits)
    layers.filter_calls()


def await_request(control: socket.socket, c: Any) -> Any:
    """Say that this process is ready, and wait for its request; it ends when there is none.

    `control`: a socket with number 3, by now the one to the judge.
    """
    _write(RESULT_FD, READY)
    request = _message(control.recv(_PIECE), control.recv)
    return c.decode(request, max_bytes=MAX_REQUEST) if request else _exit(0)


def lasting_limits(files: int = OPEN_FILES) -> list[Limit]:
    """Return the limits that zygotes keep as well: on files and descriptors."""
    return _allowed({"RLIMIT_FSIZE": (FILE_BYTES,) * 2, "RLIMIT_NOFILE": (files,) * 2})


def processor_setter() -> Setter | None:
    """Return what sets the limit on processor time, where the system has one."""
    allowed = _allowed({"RLIMIT_CPU": (_MOST_SECONDS, _MOST_SECONDS)})
    return (allowed[0][0], allowed[0][1], allowed[0][2][1]) if allowed else None


def limit_processor(setter: Setter | None, seconds: int) -> None:
    """Limit this process's time on a processor; a sample may have a time limit of its own.

    The soft limit sends SIGXCPU, the hard limit SIGKILL. Both come after the wall-clock limit, for
    a solution that survives it.
    """
    if setter is not None:
        do, number, most = setter
        set_limits([(do, number, (min(seconds, most), min(seconds + 1, most)))])


def space_limit(memory_mb: int) -> list[Limit]:
    """Return the limit on address space."""
    return _allowed({"RLIMIT_AS": (memory_mb << 20,) * 2})


def no_core() -> list[Limit]:
    """Return the limit that keeps the system from writing a process's memory to a file."""
    return _allowed({"RLIMIT_CORE": (0, 0)})


def cpu_limit(wall_s: float) -> int:
    return math.ceil(wall_s) + 1


def _allowed(limits: dict[str, tuple[int, int]]) -> list[Limit]:
    """Return each limit, or the nearest one that is allowed, without those the system lacks."""
    try:
        import resource
    except ImportError:
        return []
    allowed = []
    for name, (soft, hard) in limits.items():
        number = getattr(resource, name, None)
        if number is not None:
            highest = resource.getrlimit(number)[1]
            most = hard if highest == resource.RLIM_INFINITY else highest
            allowed.append((resource.setrlimit, number, (min(soft, most), min(hard, most))))
    return allowed


def set_limits(limits: Sequence[Limit]) -> None:
    """Set limits; what the system does not take is skipped."""
    for setter, number, values in limits:
        try:
            setter(number, values)
        except (ValueError, OSError):
            continue


def run(
    source: str,
    entry_point: str,
    calls: Sequence[bytes],
    output_bytes: int,
    given: str,
    c: Any,
) -> None:
    """Run the solution and report on each call. `c` is the codec; `calls` are encoded argument
    tuples, decoded for each call, so that a changed argument stays with its call. `given`:
    see `_load`."""
    reporter = _Reporter(c, output_bytes)
    entry = (
        _program(source, reporter)
        if entry_point == PROGRAM
        else _load(source, entry_point, given, reporter)
    )
    if entry is None:
        return
    if kind := _kind_of(entry):
        reporter.note(b"U", f"the function is {kind}; give its task a check() that uses it")
        return
    for encoded in calls:
        try:
            arguments = c.decode(encoded, max_bytes=ARGUMENT_BYTES)
            reporter.resume()
            result = entry(*arguments)
            _settrace(None)  # before any function of ours is called
        except BaseException as error:
            _settrace(None)
            reporter.raised(error)
            return
        if not (reporter.left(arguments, encoded) and reporter.result(result)):
            return


def answer(source: str, entry_point: str, output_bytes: int, given: str, c: Any) -> None:
    """Run the solution and answer the calls that come over the channel until it is closed.

    After an exception the next call is answered as well: a check may want the exception.
    """
    reporter = _Reporter(c, output_bytes)
    entry = _load(source, entry_point, given, reporter)
    while entry is not None and (encoded := _take()):
        known: list[Any] = []
        asked: Any = None
        try:
            asked = c.decode(encoded, max_bytes=ARGUMENT_BYTES)
            arguments, keywords = asked
            known = c.containers(asked)
            reporter.resume()
            result = entry(*arguments, **keywords)
            _settrace(None)
        except BaseException as error:
            _settrace(None)
            if reporter.left(asked, encoded, known):
                reporter.raised(error)
        else:
            if reporter.left(asked, encoded, known):
                reporter.result(result)


def _take() -> bytes:
    """The next call of the channel, encoded; nothing when it was closed."""
    return _message(_read(RESULT_FD, _PIECE), lambda size: _read(RESULT_FD, size))


def _message(data: bytes, read: Callable[[int], bytes]) -> bytes:
    """What follows a length, of which the first piece is there; nothing at the end."""
    size = _LENGTH.size
    if len(data) >= size and len(data) == size + _LENGTH.unpack_from(data)[0]:
        return data[size:]
    message = bytearray(data)
    while len(message) < size or len(message) < size + _LENGTH.unpack_from(message)[0]:
        chunk = read(1 << 18)
        if not chunk:
            return b""
        message += chunk
    return bytes(message[size:])


def _load(
    source: str, entry_point: str, given: str, reporter: _Reporter
) -> Callable[..., object] | None:
    """Run the solution's module, and return its function or report why there is none.

    `given`: source that is run before, in the same module, as far as it runs. An entry point
    `Class.method` is called on a new object each time.
    """
    try:
        # Without `dont_inherit` this file's own __future__ imports would apply to the solution.
        code = compile(source, SOLUTION_FILE, "exec", dont_inherit=True)
    except BaseException as error:
        reporter.no_solution(f"does not compile: {type(error).__name__}: {error}")
        return None
    # Data classes, pickle and `typing` look the module of a class up.
    module = type(sys)(MODULE)
    sys.modules[MODULE] = module
    namespace = module.__dict__
    # This module has builtins of its own; the solution must get the real ones.
    namespace["__builtins__"] = vars(builtins)
    with contextlib.suppress(BaseException):  # it may do without
        exec(compile(given, GIVEN_FILE, "exec", dont_inherit=True), namespace)  # noqa: S102
    try:
        exec(code, namespace)  # noqa: S102 - running the solution is what this process is for
        owner, _, method = entry_point.partition(".")
        entry = namespace.get(owner)
        if method and callable(entry):
            entry = _method(entry, method)
    except BaseException as error:
        reporter.raised(error)
        return None
    if not callable(entry):
        reporter.no_solution(f"does not define a function {entry_point}")
        return None
    reporter.reset()
    reporter.send(b"L", b"")
    function: Callable[..., object] = entry
    return function


def _kind_of(entry: object) -> str:
    """What an entry point is whose calls give no plain values; nothing for an ordinary function."""
    if issubclass(type(entry), type):
        return "a class"
    flags = getattr(getattr(entry, "__code__", None), "co_flags", 0)
    for flag, name in _FUNCTIONS_OF_OTHER_KINDS:
        if type(flags) is int and flags & flag:
            return name
    return ""


def _program(source: str, reporter: _Reporter) -> Callable[[str], str] | None:
    """Return what runs a program from its beginning, as `python FILE` does; None as `_load`."""
    import atexit
    import io
    import threading

    try:
        code = compile(source, SOLUTION_FILE, "exec", dont_inherit=True)
    except BaseException as error:
        reporter.no_solution(f"does not compile: {type(error).__name__}: {error}")
        return None
    closed = os.dup(0), os.dup(1)  # /dev/null
    most = reporter.room

    def run_once(text: str) -> str:
        written = bytearray()
        done = threading.Event()
        (reading, feeding), (draining, writing) = os.pipe(), os.pipe()

        def feed() -> None:
            with contextlib.suppress(OSError), os.fdopen(feeding, "wb") as file:
                file.write(text.encode("utf-8", "surrogatepass"))

        def drain() -> None:
            with contextlib.suppress(OSError), os.fdopen(draining, "rb", 0) as file:
                while len(written) <= most and (chunk := file.read(1 << 16)):
                    written.extend(chunk)
            done.set()

        for given, number in ((reading, 0), (writing, 1)):
            os.dup2(given, number)
            os.close(given)
        read, write = io.FileIO(0, closefd=False), io.FileIO(1, "w", closefd=False)
        sys.stdin = io.TextIOWrapper(io.BufferedReader(read), encoding="utf-8")
        sys.stdout = out = io.TextIOWrapper(io.BufferedWriter(write), encoding="utf-8")
        for ours in (feed, drain):
            threading.Thread(target=ours, daemon=True).start()
        module = type(sys)(PROGRAM)
        sys.modules[PROGRAM] = module
        module.__dict__["__builtins__"] = vars(builtins)
        try:
            exec(code, module.__dict__)  # noqa: S102 - what this process is for
        except SystemExit:
            pass
        finally:
            _settrace(None)
            for thread in threading.enumerate():
                if thread is not threading.current_thread() and not thread.daemon:
                    thread.join()
            atexit._run_exitfuncs()
            for stream in (sys.stdout, out):
                with contextlib.suppress(Exception):
                    stream.flush()
            for saved, number in zip(closed, (0, 1), strict=True):
                os.dup2(saved, number)
            done.wait(DRAIN_S)
        return written.decode("utf-8", "replace")

    reporter.reset()
    reporter.send(b"L", b"")
    return run_once


def _method(owner: Callable[[], object], name: str) -> Callable[..., object]:
    def call(*arguments: object, **keywords: object) -> object:
        return getattr(owner(), name)(*arguments, **keywords)

    return call


class _Reporter:
    def __init__(self, codec: Any, output_bytes: int) -> None:
        self.codec = codec
        self.room = output_bytes
        self.pid = os.getpid()
        self.depth = _RECURSION_LIMIT

    def reset(self) -> None:
        """Take back settings that would get in the way of reporting."""
        _settrace(None)
        _setprofile(None)
        self.depth = _getrecursionlimit()
        _setrecursionlimit(_RECURSION_LIMIT)

    def resume(self) -> None:
        """Put back the recursion limit that the solution has set, for its next call."""
        if self.depth != _RECURSION_LIMIT:
            _setrecursionlimit(self.depth)

    def left(self, arguments: Any, encoded: bytes, known: list[Any] | None = None) -> bool:
        """Report the arguments as a call left them, unless they are as they were given.

        `known`: their containers from before the call, whose contents are reported then.
        """
        self.reset()
        if known is None and all(type(argument) in _FIXED for argument in arguments):
            return True
        if known is not None and len(known) < 2:  # the keyword arguments' own dict
            return True
        try:
            with contextlib.suppress(self.codec.TooLarge):
                if self.codec.encode(arguments, max_bytes=ARGUMENT_BYTES) == encoded:
                    return True
            if known is None:
                body = self.codec.encode(arguments, max_bytes=self.room)
            else:
                body = self.codec.encode_contents(known, max_bytes=self.room)
        except self.codec.TooLarge as error:
            self.note(b"B", f"{error}, in an argument that was changed")
            return False
        except BaseException as error:
            self.raised(error)
            return False
        self.room -= len(body)
        self.send(b"A", body)
        return True

    def result(self, value: object) -> bool:
        try:
            body = self.codec.encode(value, max_bytes=self.room)
        except self.codec.TooLarge as error:
            self.note(b"B", str(error))
            return False
        except BaseException as error:
            self.raised(error)
            return False
        self.room -= len(body)
        self.send(b"R", body)
        return True

    def raised(self, error: BaseException) -> None:
        self.reset()
        # `isinstance` would also ask the object's own `__class__`.
        kind = type(error)
        if issubclass(kind, MemoryError) or _number_of(error) == errno.ENOMEM:
            self._write(_OUT_OF_MEMORY)
        elif issubclass(kind, SystemExit):
            self.send(b"X", b"")
        else:
            name = _name_of(kind)
            name = name[:100] if type(name) is str else "?"
            args = _args_of(error)
            message = args[0][:200] if len(args) == 1 and type(args[0]) is str else None
            if issubclass(kind, OSError) and len(args) == 2 and type(args[1]) is str:
                message = args[1][:200]
            classes = _classes_of(kind)
            self.note(b"E", (name, classes, _line_of(error), message, _forbidden(error)))

    def no_solution(self, why: str) -> None:
        self.note(b"N", why[:400])

    def note(self, kind: bytes, value: object) -> None:
        self.send(kind, self.codec.encode(value, max_bytes=NOTE_BYTES))

    def send(self, kind: bytes, body: bytes) -> None:
        self._write(kind + _LENGTH.pack(len(body)) + body)

    def _write(self, data: bytes) -> None:
        if _getpid() != self.pid:
            _exit(1)  # The solution forked, and the other process must not report too.
        sent = _write(RESULT_FD, data)
        if sent < len(data):
            rest = memoryview(data)  # a copy of all that is left for each piece would take long
            while sent < len(data):
                sent += _write(RESULT_FD, rest[sent:])


def _classes_of(kind: type) -> list[str]:
    """Modules and names of a class and of those above it, as "builtins.ValueError"."""
    names = []
    for parent in _mro_of(kind)[:MAX_CLASSES]:
        module, name = _module_of(parent), _name_of(parent)
        if type(module) is str and type(name) is str:
            names.append(f"{module[:100]}.{name[:100]}")
    return names


def _line_of(error: BaseException) -> int | None:
    """The line of the solution where the exception was raised, as far as the traceback tells."""
    line = None
    step: TracebackType | None = _traceback_of(error)
    for _ in range(MAX_FRAMES):
        if step is None:
            break
        if step.tb_frame.f_code.co_filename == SOLUTION_FILE:
            line = step.tb_lineno
        step = step.tb_next
    return line


def _forbidden(error: BaseException) -> bool:
    """Return whether the system refused something; libraries wrap that in errors of their own."""
    step: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if step is None:
            break
        if issubclass(type(step), PermissionError) or _number_of(step) == errno.EROFS:
            return True
        step = _cause_of(step) or _context_of(step)
    return False


def _number_of(error: BaseException) -> int:
    """Return the system's number of an error; 0 if there is none."""
    args = _args_of(error)
    known = issubclass(type(error), OSError) and len(args) > 1 and type(args[0]) is int
    return args[0] if known else 0
