"""The process that runs check programs, which ask a solution in another process.

The programs are trusted; what a solution sends is not, and only plain values are built from it. The
result for a sample is a note, an encoded (status, detail, call). The status `ended` leaves the
verdict to the judge, which knows how the solution's process ended. One process runs many programs,
one after the other, because a fork for each would double the cost of a sample.

The zygote loads this file by its path: it must import nothing but the standard library.
"""

from __future__ import annotations

import _thread
import builtins
import functools
import linecache
import os
import struct
import sys
from collections.abc import Callable
from types import CodeType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    # The zygote puts it in place.
    from pytest_unlearn.sandbox.inside import child

CHECK_FILE = "<check>"
MODULE = "check"
SHOWN = 200
# Tasks come in the order of a file, one model after the other, or all samples of one task in a row.
MAX_COMPILED = 256
LONGEST_KEPT = 1 << 16
# At most four bytes per character: a note has room for it.
LONGEST_DETAIL = 900
PIECE, LARGE_PIECE = 1 << 16, 1 << 20
_LENGTH = struct.Struct(">I")


class Over(BaseException):
    """The verdict is known, whatever the program does now."""


class SolutionError(Exception):
    """The solution raised an exception of a class of its own, or one that ends an iteration: a
    StopIteration out of `all(map(candidate, ...))` would look like the end of the tests."""


def run(program: str, entry_point: str, channel: int, output_bytes: int, c: Any) -> bytes:
    """Run the program with the solution's stand-in, and return the note on the verdict.

    `channel`: the socket to the solution's process. `c`: the codec.
    """
    talk = _Talk(entry_point, channel, output_bytes, c)
    status, detail = _verdict(program, entry_point, talk)
    status, detail = talk.over or (status, detail)
    call = None if status == "passed" or not talk.calls else talk.calls - 1
    note: bytes = c.encode((status, detail[:LONGEST_DETAIL], call), max_bytes=child.NOTE_BYTES)
    return note


def _verdict(program: str, entry_point: str, talk: _Talk) -> tuple[str, str]:
    """Return status and detail, unless the talk has settled the verdict already."""
    try:
        talk.start()
        # Data classes, pickle and `typing` look the module of a class up.
        sys.modules[MODULE] = module = ModuleType(MODULE)
        names: dict[str, Any] = module.__dict__
        names["__builtins__"] = {**vars(builtins)}
        names["candidate"] = names[entry_point] = talk.stand_in()
        linecache.cache[CHECK_FILE] = (0, None, program.splitlines(keepends=True), CHECK_FILE)
        exec(_compiled(program), names)  # noqa: S102
    except Over:
        return "", ""
    except MemoryError:
        return "memory", "the check ran out of memory"
    except BaseException as error:
        line, text = _place_of(error)
        if error is talk.last_error:
            return "forbidden" if talk.refused else "exception", talk.error_detail
        if type(error) is NameError and _innermost(error) == CHECK_FILE:
            return "unsupported", f"check, line {line}: {error}; it may be only in the solution"
        if isinstance(error, SystemExit):
            return "broken", f"line {line} of the check program ends it"
        if isinstance(error, ModuleNotFoundError) and error is not talk.last_error:
            return "unsupported", f"check, line {line}: {error}; see unlearn_sandbox_imports"
        what = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}; "
        return "wrong_answer", f"check, line {line}: {what}{text}{talk.last_call}"
    if not talk.calls:
        return "broken", f"the check program never calls {entry_point}"
    return "passed", ""


def _compiled(program: str) -> CodeType:
    return _compile_once(program) if len(program) <= LONGEST_KEPT else _compile(program)


def _compile(program: str) -> CodeType:
    code: CodeType = compile(program, CHECK_FILE, "exec", dont_inherit=True)
    return code


# Once for all solutions of a task.
_compile_once = functools.lru_cache(maxsize=MAX_COMPILED)(_compile)


class _Talk:
    """The channel to the solution's process, and what came over it."""

    def __init__(self, entry_point: str, channel: int, output_bytes: int, c: Any) -> None:
        self.calls = 0
        self.over: tuple[str, str] | None = None
        self.last_error: BaseException | None = None
        self.error_detail = ""
        self.refused = False
        self._name = entry_point
        self._channel = channel
        self._codec = c
        self._room = output_bytes
        self._shown: tuple[str, str] | None = None
        self._opaque = _opaque_class(c.Opaque)
        self._received = bytearray()
        self._opaque.talk = self  # type: ignore[attr-defined]
        # A check may call from several threads; the solution has one.
        self._lock = _thread.allocate_lock()

    @property
    def last_call(self) -> str:
        """Return the last call and its result, as text."""
        return "" if self._shown is None else f"; {self._shown[0]} gave {self._shown[1]}"

    def variant(self, value: Any, name: str) -> object:
        """Return the stand-in for a value of a subclass of a builtin class."""
        base: type = type(value)
        kind = _variant_class(base)
        kind.talk = self  # type: ignore[attr-defined]
        made: Any = kind(value)
        made.type_name = name
        return made

    def start(self) -> None:
        """Wait until the solution is loaded. Raises Over when it does not load."""
        kind, body = self._report()
        if kind == b"E":
            self._raise(body)
        if kind != b"L":
            self._stop(kind, body)

    def stand_in(self) -> Callable[..., object]:
        """Return what asks the solution's function."""
        kind = _stand_in_class()
        kind.talk = self  # type: ignore[attr-defined]
        made: Any = kind()
        made.__name__ = made.__qualname__ = self._name
        made.__annotations__, made.__type_params__ = {}, ()
        function: Callable[..., object] = made
        return function

    def end(self, status: str, detail: str) -> NoReturn:
        """Settle the verdict; the first one stays."""
        self.over = self.over or (status, detail)
        raise Over

    def ask(self, arguments: tuple[object, ...], keywords: dict[str, object]) -> object:
        """Have the solution's function called, and return what it gave."""
        with self._lock:
            return self._ask(arguments, keywords)

    def _ask(self, arguments: tuple[object, ...], keywords: dict[str, object]) -> object:
        if self.over is not None:
            raise Over
        self.calls += 1
        shown = [_short(a) for a in arguments]
        shown += [f"{k}={_short(v)}" for k, v in keywords.items()]
        call = f"{self._name}({', '.join(shown)})"[:SHOWN]
        self._shown = None
        try:
            body = self._codec.encode(
                (arguments, keywords), max_bytes=child.ARGUMENT_BYTES, strict=True
            )
        except self._codec.CodecError as error:
            self.end("unsupported", f"an argument of {call} cannot be sent: {error}")
        data = memoryview(_LENGTH.pack(len(body)) + body)
        try:
            while data:
                data = data[os.write(self._channel, data) :]
        except OSError:
            self.end("ended", "")
        kind, body = self._report()
        if kind == b"A":
            self._restore(body, self._codec.containers((arguments, keywords)))
            kind, body = self._report()
        if kind == b"E":
            self._raise(body)
        if kind != b"R":
            self._stop(kind, body)
        value = self._decoded(body)
        self._shown = (call, _short(value))
        return value

    def _report(self) -> tuple[bytes, bytes]:
        head = self._take(5)
        size = _LENGTH.unpack_from(head, 1)[0]
        self._room -= size
        if self._room < -child.SPARE_BYTES:
            self.end("crash", "flooded its result channel")
        return head[:1], self._take(size)

    def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            try:
                missing = size - len(self._received)
                chunk = os.read(self._channel, min(max(PIECE, missing), LARGE_PIECE))
            except OSError:
                chunk = b""
            if not chunk:
                self.end("ended", "")
            self._received += chunk
        with memoryview(self._received) as received:
            data = bytes(received[:size])
        del self._received[:size]
        return data

    def _decoded(self, body: bytes) -> Any:
        try:
            return self._codec.decode(
                body, max_bytes=len(body), opaque=self._opaque, variant=self.variant
            )
        except self._codec.CodecError as error:
            self._unreadable(error)

    def _restore(self, body: bytes, known: list[Any]) -> None:
        """Set the check's own arguments to the contents that the call left in them."""
        try:
            self._codec.restore_contents(body, known, opaque=self._opaque, variant=self.variant)
        except self._codec.CodecError as error:
            self._unreadable(error)

    def _unreadable(self, error: Exception) -> NoReturn:
        if isinstance(error, self._codec.TooLarge):
            self.end("wrong_answer", f"result {error}")
        self.end("crash", f"broke its result channel ({error})")

    def _stop(self, kind: bytes, body: bytes) -> NoReturn:
        if kind == b"M":
            self.end("memory", "MemoryError")
        if kind == b"X":
            self.end("crash", "exited early (SystemExit)")
        note = self._decoded(body) if kind in (b"N", b"B") else None
        if kind == b"N" and isinstance(note, str):
            self.end("no_solution", note)
        if kind == b"B" and isinstance(note, str):
            self.end("wrong_answer", f"result {note}")
        self.end("crash", f"broke its result channel (report {kind!r})")

    def _raise(self, body: bytes) -> NoReturn:
        """Raise the solution's exception here: a check may want it."""
        note = self._decoded(body)
        if not (isinstance(note, tuple) and len(note) == 5 and isinstance(note[1], list)):
            self.end("crash", "broke its result channel (a strange exception)")
        name, classes, line, message, self.refused = note
        where = f" (line {line})" if isinstance(line, int) else ""
        self.error_detail = (f"{name}" if message is None else f"{name}: {message}") + where
        kind = _exception_class(name, classes)
        # Its own initializer may ask for more than a message.
        self.last_error = error = kind.__new__(kind)
        error.args = () if message is None else (message,)
        if not self.calls:  # While it was loaded: no check wants that.
            self.end("forbidden" if self.refused else "exception", self.error_detail)
        raise error


def _exception_class(name: object, classes: list[object]) -> type[Exception]:
    """Return a class that a check which expects the solution's exception catches: the standard one
    of that name, or one below the nearest standard one above it."""
    standard = [kind for kind in map(_standard_exception, classes) if kind is not None]
    ends = (StopIteration, StopAsyncIteration)
    if (
        not standard
        or not isinstance(name, str)
        or any(issubclass(kind, ends) for kind in standard)
    ):
        return SolutionError
    if standard[0].__name__ == name:
        return standard[0]
    own: type[Exception] = type(
        name if name.isidentifier() else "SolutionError", (standard[0],), {}
    )
    return own


def _standard_exception(path: object) -> type[Exception] | None:
    """Return the exception class of that name, in a module that the check has loaded."""
    if not isinstance(path, str):
        return None
    module, _, name = path.rpartition(".")
    if module == MODULE or module.split(".")[0] not in sys.stdlib_module_names | {"builtins"}:
        return None
    kind = vars(sys.modules.get(module, builtins)).get(name)
    if not isinstance(kind, type) or issubclass(kind, BaseExceptionGroup):
        return None
    return kind if issubclass(kind, Exception) else None


@functools.cache
def _stand_in_class() -> type:
    """Return the class of the function that asks the solution's; `talk` is set on it.

    What a check does with it beyond calling it may be right for the solution's own: as a class, by
    an attribute that it sets.
    """

    def refuse(self: Any, *arguments: object) -> NoReturn:
        talk: _Talk = type(self).talk
        named = f".{arguments[0]}" if arguments and isinstance(arguments[0], str) else ""
        talk.end("unsupported", f"the check does more than call the function{named}")

    def call(self: Any, *arguments: object, **keywords: object) -> object:
        return type(self).talk.ask(arguments, keywords)

    refused = "getattr instancecheck subclasscheck mro_entries getitem".split()
    methods: dict[str, Any] = {f"__{name}__": refuse for name in refused}
    return type("function", (), {"__call__": call, "__doc__": None, **methods})


@functools.cache
def _variant_class(base: type) -> type:
    """Return the class of stand-ins for values of subclasses of `base`; `talk` is set on it.

    It equals what the builtin value equals. What its own class may have made otherwise, its text
    and its attributes, cannot be judged here.
    """

    def refuse(self: Any, *_: object) -> NoReturn:
        talk: _Talk = type(self).talk
        talk.end("unsupported", f"a result of type {self.type_name} cannot be sent whole")

    return type("Variant", (base,), dict.fromkeys(("__getattr__", "__str__", "__format__"), refuse))


@functools.cache
def _opaque_class(base: type) -> type:
    """Return the class of stand-ins for values that are not plain data; `talk` is set on it.

    It equals nothing. Every other use cannot be judged here, and says so instead of failing: the
    solution may be right.
    """

    def refuse(self: Any, *_: object) -> NoReturn:
        talk: _Talk = type(self).talk
        talk.end("unsupported", f"a result of type {self.type_name} cannot be sent")

    def equal(self: Any, other: object) -> bool:
        # Two objects of the solution's own classes may be equal.
        return refuse(self) if type(other) is type(self) and other is not self else False

    methods = """
        bool str format len iter next contains getitem call float int index complex abs round neg
        pos invert lt le gt ge add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod
        rmod pow rpow and rand or ror xor rxor divmod rdivmod trunc floor ceil enter exit getattr
        await aiter anext aenter aexit reversed setitem delitem fspath bytes
    """.split()
    refused: dict[str, Any] = {f"__{name}__": refuse for name in methods}
    # `isinstance` asks for the class: a coroutine, a generator.
    refused |= {"__class__": property(refuse), "__eq__": equal, "__hash__": base.__hash__}
    return type("Opaque", (base,), refused)


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:  # an integer with more digits than Python agrees to write
        text = f"a value without a repr ({type(error).__name__})"
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _place_of(error: BaseException) -> tuple[int | None, str]:
    """Line and text of the check program where an exception came up."""
    line = None
    step: TracebackType | None = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == CHECK_FILE:
            line = step.tb_lineno
        step = step.tb_next
    if line is None:
        return getattr(error, "lineno", None), ""
    return line, linecache.getline(CHECK_FILE, line).strip()[:SHOWN]


def _innermost(error: BaseException) -> str:
    step = error.__traceback__
    name = ""
    while step is not None:
        name = step.tb_frame.f_code.co_filename
        step = step.tb_next
    return name
