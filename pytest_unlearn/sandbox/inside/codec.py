"""Plain values as bytes, and messages, for the channels between the judge and its processes.

Values that can cross are those of builtin types, the standard library's numbers and dates, and
values that equal a builtin one because they inherit its `__eq__`: a named tuple, an IntEnum, a kind
of dict. Anything else arrives as an `Opaque` that equals nothing, so an object that claims to equal
everything cannot reach a comparison. Decoding builds only plain values; bytes, depth and nodes are
limited on both ends.

A value is one tag byte, for most tags followed by a count of four bytes and the bytes or values.
A message to the zygote of solutions is a single byte: FORK, or END for the child that runs. Every
answer is a length and an encoded tuple that begins with a word.

The sandbox's processes load this file by its path: it must import nothing but the standard library.
"""

from __future__ import annotations

import collections
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, TypeGuard

MAX_DEPTH = 64
# The largest answers of HumanEval+ have a million values.
MAX_NODES = 1 << 20
# Integers that differ but share a hash make a dict quadratic. Plain data does not have this many.
MAX_SAME_HASH = 64
MAX_NAME = 100
# Making a fraction computes a common divisor, which takes quadratic time.
MAX_FRACTION_BITS = 1 << 14

_COUNT = struct.Struct(">I")
_FLOAT = struct.Struct(">d")
_COMPLEX = struct.Struct(">dd")

# The C getters: a metaclass cannot put its own code in front of them, as it could for
# `kind.__name__`.
_name_of = type.__dict__["__name__"].__get__
_mro_of = type.__dict__["__mro__"].__get__
_names_in = type.__dict__["__dict__"].__get__

_KINDS_OF_DICT = (collections.Counter, collections.defaultdict, collections.OrderedDict)
# A solution could replace the methods of its classes.
_items_of = dict.items
# How to turn a value of a subclass into a builtin one, without the subclass's own methods.
_PLAIN: tuple[tuple[type, Callable[[Any], object]], ...] = (
    (int, int.__int__),
    (float, float.__float__),
    (str, str.__str__),
    (bytes, lambda value: bytes.__getitem__(value, slice(None))),
    (list, lambda value: list.__getitem__(value, slice(None))),
    (tuple, lambda value: tuple.__getitem__(value, slice(None))),
    (dict, dict.copy),
    (set, lambda value: set(set.__iter__(value))),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
)
# Containers, and types that may hold some.
_NESTED = (list, tuple, dict, set)


class CodecError(ValueError):
    """The bytes are not a value in this format, or the value cannot be sent."""


class TooLarge(CodecError):
    """The value is over one of the limits."""


class Opaque:
    """Stands for a value that is not plain data. It equals nothing, not even itself."""

    __slots__ = ("type_name",)

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<object of type {self.type_name}>"


def encode(value: object, *, max_bytes: int, strict: bool = False) -> bytes:
    """Encode `value`, or raise `TooLarge`. `strict` refuses what would arrive as an `Opaque`."""
    encoder = _Encoder(max_bytes, strict)
    encoder.put(value, 0)
    if len(encoder.out) > max_bytes:
        raise TooLarge(f"too large (over {max_bytes} bytes)")
    return bytes(encoder.out)


# Makes the stand-in for a value of a subclass from the builtin value and the class's name.
Variant = Callable[[Any, str], object]


def decode(
    data: bytes,
    *,
    max_bytes: int,
    opaque: type[Opaque] = Opaque,
    variant: Variant | None = None,
    known: list[Any] | None = None,
) -> object:
    """Decode bytes that may come from a hostile process, or raise `CodecError`.

    `opaque`: the class that replaces values that are not plain data. `variant` makes the
    replacement of a value of a subclass; the builtin value itself if left out. `known`: see
    `containers`.
    """
    if len(data) > max_bytes:
        raise TooLarge(f"too large (over {max_bytes} bytes)")
    decoder = _Decoder(data, opaque, variant, known or [])
    value = decoder.get(0)
    if decoder.position != len(data):
        raise CodecError("bytes left over after the value")
    return value


def containers(value: object) -> list[Any]:
    """Return the lists, dicts and sets in a plain value, in an order that its copies share."""
    collected: list[Any] = []
    waiting: list[Any] = [value]
    while waiting:
        item = waiting.pop()
        if type(item) is not tuple:
            collected.append(item)
        if type(item) is not set:
            inner = item.values() if type(item) is dict else item
            waiting += [part for part in inner if type(part) in _NESTED]
    return collected


def encode_contents(known: list[Any], *, max_bytes: int) -> bytes:
    """Encode what is in each of the containers by now; one inside another by its number."""
    encoder = _Encoder(max_bytes, False, {id(item): n for n, item in enumerate(known)})
    encoder.put_contents(known)
    return bytes(encoder.out)


def restore_contents(
    data: bytes, known: list[Any], *, opaque: type[Opaque] = Opaque, variant: Variant | None = None
) -> None:
    """Give containers the contents of their copies elsewhere. Raises `CodecError`."""
    contents = decode(data, max_bytes=len(data), opaque=opaque, variant=variant, known=known)
    if type(contents) is not list or [*map(type, contents)] != [*map(type, known)]:
        raise CodecError("the contents are not those of these containers")
    for item, content in zip(known, contents, strict=True):
        if type(item) is list:
            item[:] = content
        else:
            item.clear()
            item.update(content)


def _is_dict(value: object) -> TypeGuard[dict[object, object]]:
    return type(value) is dict


def _is_kind_of_dict(value: object) -> TypeGuard[dict[object, object]]:
    kind = type(value)  # compared by `is`: a metaclass may have an `__eq__`
    return kind is _KINDS_OF_DICT[0] or kind is _KINDS_OF_DICT[1] or kind is _KINDS_OF_DICT[2]


def _check(nodes: int, depth: int) -> None:
    if nodes > MAX_NODES:
        raise TooLarge(f"too large (over {MAX_NODES} values)")
    if depth > MAX_DEPTH:
        raise TooLarge(f"nested too deep (over {MAX_DEPTH} levels)")


def _plain_form(kind: type) -> Callable[[Any], object] | None:
    """Return what makes a class's values the builtin ones that they are equal to; None if the class
    defines its own equality."""
    for parent in _mro_of(kind):
        for base, plain in _PLAIN:
            if parent is base:
                return plain
        own = _names_in(parent)
        if "__eq__" in own or "__hash__" in own:
            break
    return None


def _of(value: object, module: str, name: str) -> bool:
    """Return whether a value is of exactly this class, which the process may not have loaded."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and type(value) is kind


def _parts_of(value: Any) -> tuple[str, tuple[object, ...]] | None:
    """Return a name for `_MAKERS` and what it takes; None for other values."""
    if type(value) is range:
        return "range", (value.start, value.stop, value.step)
    if type(value) is bytearray:
        return "bytearray", (bytes(value),)
    if type(value) is collections.deque:
        return "deque", tuple(value)
    if _of(value, "decimal", "Decimal"):
        return "Decimal", (str(value),)
    if _of(value, "fractions", "Fraction"):
        parts = (value.numerator, value.denominator)
        small = all(part.bit_length() <= MAX_FRACTION_BITS for part in parts)
        return ("Fraction", parts) if small else None
    if _of(value, "datetime", "timedelta"):
        return "timedelta", (value.days, value.seconds, value.microseconds)
    if _of(value, "datetime", "date"):
        return "date", (value.year, value.month, value.day)
    if _of(value, "datetime", "datetime") or _of(value, "datetime", "time"):
        zone = value.tzinfo
        if zone is None or _of(zone, "datetime", "timezone"):
            return type(value).__name__, (value.isoformat(), value.fold)
    return None


def _made(kind: str, parts: tuple[Any, ...]) -> object:
    """Return the value of `_parts_of`."""
    import datetime
    import decimal
    import fractions

    if kind == "range" and len(parts) == 3:
        return range(*parts)
    if kind == "bytearray" and len(parts) == 1 and type(parts[0]) is bytes:
        return bytearray(parts[0])
    if kind == "deque":
        return collections.deque(parts)
    if kind == "Decimal" and len(parts) == 1 and type(parts[0]) is str:
        return decimal.Decimal(parts[0])
    small = (type(part) is int and part.bit_length() <= MAX_FRACTION_BITS for part in parts)
    if kind == "Fraction" and len(parts) == 2 and all(small):
        return fractions.Fraction(*parts)
    if kind == "timedelta" and len(parts) == 3:
        return datetime.timedelta(*parts)
    if kind == "date" and len(parts) == 3:
        return datetime.date(*parts)
    if kind in ("datetime", "time") and len(parts) == 2:
        return getattr(datetime, kind).fromisoformat(parts[0]).replace(fold=parts[1])
    raise ValueError(f"no value of kind {kind!r}")


class _Encoder:
    """Runs next to untrusted code, so it never calls a method of an object it was given unless
    the object's type is exactly a builtin one."""

    def __init__(self, max_bytes: int, strict: bool, known: dict[int, int] | None = None) -> None:
        self.out = bytearray()
        self.nodes = 0
        self.max_bytes = max_bytes
        self.strict = strict
        self.known = known or {}

    def put_contents(self, known: list[Any]) -> None:
        self._head(b"l", len(known))
        for item in known:
            self.nodes += 1
            self._put_container(item, 1)

    def put(self, value: object, depth: int) -> None:
        self.nodes += 1
        _check(self.nodes, depth)
        self._room(0)
        if value is None:
            self.out += b"N"
        elif value is True:
            self.out += b"T"
        elif value is False:
            self.out += b"F"
        elif type(value) is int:
            # Check the room before building the text: the integer may be gigabytes long.
            self._room(value.bit_length() // 4)
            self._block(b"i", b"%x" % value)
        elif type(value) is float:
            self.out += b"f" + _FLOAT.pack(value)
        elif type(value) is complex:
            self.out += b"c" + _COMPLEX.pack(value.real, value.imag)
        elif type(value) is str:
            self._room(len(value))
            self._block(b"s", value.encode("utf-8", "surrogatepass"))
        elif type(value) is bytes:
            self._room(len(value))
            self._block(b"b", value)
        elif self.known and id(value) in self.known:
            self._room(0)
            self.out += b"m" + _COUNT.pack(self.known[id(value)])
        else:
            self._put_container(value, depth)

    def _put_container(self, value: object, depth: int) -> None:
        if type(value) is list:
            self._put_items(b"l", value, depth)
        elif type(value) is tuple:
            self._put_items(b"t", value, depth)
        elif type(value) is set:
            self._put_items(b"S", value, depth)
        elif type(value) is frozenset:
            self._put_items(b"Z", value, depth)
        elif _is_dict(value) or (not self.strict and _is_kind_of_dict(value)):
            items = _items_of(value)
            self._head(b"d", len(items))
            for key, item in items:
                self.put(key, depth + 1)
                self.put(item, depth + 1)
        else:
            self._put_other(value, depth)

    def _put_items(
        self,
        tag: bytes,
        items: list[object] | tuple[object, ...] | set[object] | frozenset[object],
        depth: int,
    ) -> None:
        self._head(tag, len(items))
        for item in items:
            self.put(item, depth + 1)

    def _put_other(self, value: object, depth: int) -> None:
        standard = _parts_of(value)
        if standard is not None:
            kind, parts = standard
            if self.strict and kind in ("bytearray", "deque"):
                raise CodecError(f"changes to a {kind} could not be brought back")
            self._block(b"x", kind.encode())
            self.put(parts, depth + 1)
            return
        # A numpy number, if a solution may import numpy, means the plain number.
        numbers = getattr(sys.modules.get("numpy"), "generic", None)
        if type(numbers) is type and issubclass(type(value), numbers):
            plain = value.item()  # type: ignore[attr-defined]
            if type(plain) in (bool, int, float, complex, str, bytes):
                self.put(plain, depth)
                return
        name = _name_of(type(value))
        # A class may have been given a name that is itself a subclass of str.
        name = name[:MAX_NAME] if type(name) is str else "?"
        if self.strict:
            raise CodecError(f"a value of type {name} is not plain data")
        plain_of = _plain_form(type(value))
        self._block(b"o" if plain_of is None else b"v", name.encode("utf-8", "surrogatepass"))
        if plain_of is not None:
            self.put(plain_of(value), depth + 1)

    def _head(self, tag: bytes, count: int) -> None:
        self._room(count)
        self.out += tag + _COUNT.pack(count)

    def _block(self, tag: bytes, block: bytes) -> None:
        self._head(tag, len(block))
        self.out += block

    def _room(self, size: int) -> None:
        if len(self.out) + size > self.max_bytes:
            raise TooLarge(f"too large (over {self.max_bytes} bytes)")


class _Decoder:
    def __init__(
        self, data: bytes, opaque: type[Opaque], variant: Variant | None, known: list[Any]
    ) -> None:
        self.data = data
        self.opaque = opaque
        self.variant = variant
        self.known = known
        self.position = 0
        self.nodes = 0

    def get(self, depth: int) -> object:
        self.nodes += 1
        _check(self.nodes, depth)
        tag = self._take(1)
        if tag == b"N":
            return None
        if tag == b"T":
            return True
        if tag == b"F":
            return False
        if tag == b"f":
            return _FLOAT.unpack(self._take(8))[0]
        if tag == b"c":
            return complex(*_COMPLEX.unpack(self._take(16)))
        count: int = _COUNT.unpack(self._take(4))[0]
        if tag in b"isbo":
            return self._scalar(tag, self._take(count))
        if tag == b"l":
            return [self.get(depth + 1) for _ in range(count)]
        if tag == b"t":
            return tuple([self.get(depth + 1) for _ in range(count)])
        if tag == b"d":
            return self._dict(count, depth)
        if tag == b"S":
            return set(self._keys(count, depth))
        if tag == b"Z":
            return frozenset(self._keys(count, depth))
        if tag == b"x":
            return self._standard(self._take(count), depth)
        if tag == b"v":
            name = self._scalar(b"s", self._take(count))
            value = self.get(depth + 1)
            return value if self.variant is None else self.variant(value, str(name)[:MAX_NAME])
        if tag == b"m" and count < len(self.known):
            return self.known[count]
        raise CodecError(f"unknown tag {tag!r}")

    def _standard(self, kind: bytes, depth: int) -> object:
        parts = self.get(depth + 1)
        try:
            if type(parts) is tuple:
                return _made(kind.decode(), parts)
        except (ValueError, TypeError, ArithmeticError) as error:
            raise CodecError(f"no value of kind {kind[:MAX_NAME]!r}") from error
        raise CodecError("the parts are not a tuple")

    def _scalar(self, tag: bytes, block: bytes) -> object:
        try:
            if tag == b"i":
                return int(block, 16)
            if tag == b"b":
                return block
            text = block.decode("utf-8", "surrogatepass")
        except ValueError as error:
            raise CodecError(f"bad value after tag {tag!r}") from error
        return text if tag == b"s" else self.opaque(text[:MAX_NAME])

    def _dict(self, count: int, depth: int) -> dict[object, object]:
        hashes: dict[int, int] = {}
        result: dict[object, object] = {}
        for _ in range(count):
            key = self._key(depth, hashes)
            result[key] = self.get(depth + 1)
        return result

    def _keys(self, count: int, depth: int) -> list[object]:
        hashes: dict[int, int] = {}
        return [self._key(depth, hashes) for _ in range(count)]

    def _key(self, depth: int, hashes: dict[int, int]) -> object:
        key = self.get(depth + 1)
        try:
            number = hash(key)
        except TypeError as error:
            raise CodecError("a key cannot be hashed") from error
        hashes[number] = hashes.get(number, 0) + 1
        if hashes[number] > MAX_SAME_HASH:
            raise CodecError("too many keys share one hash")
        return key

    def _take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self.data):
            raise CodecError("the bytes end inside a value")
        block = self.data[self.position : end]
        self.position = end
        return block


# -- messages -----------------------------------------------------------------------------------

FORK, END, GONE = b"F", b"E", b""
LENGTH = struct.Struct(">I")
# The head of a request for a check program: its length, its time limit in seconds, and the most
# bytes that it may produce.
HEAD = struct.Struct(">IdI")
# The status of a launcher (`launcher.py`) that lacks a layer, or finds nothing to run.
FAILED = 97


def framed(body: bytes) -> bytes:
    return LENGTH.pack(len(body)) + body


def send(control: socket.socket, body: bytes) -> None:
    control.sendall(framed(body))


def send_socket(control: socket.socket, body: bytes, end: socket.socket) -> None:
    number = end.fileno().to_bytes(4, sys.byteorder)
    # A message this short is sent whole.
    control.sendmsg([framed(body)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, number)])


def receive(control: socket.socket) -> tuple[bytes, int | None, float, int] | None:
    """The next request, the descriptor that came with it, its seconds and the bytes that may come
    of it; None at the end."""
    start, fds, _, _ = socket.recv_fds(control, HEAD.size, 1)
    head = read(control, HEAD.size, start)
    if head is None:
        return None
    size, wall_s, most = HEAD.unpack(head)
    body = read(control, size)
    return None if body is None else (body, fds[0] if fds else None, wall_s, most)


def read(control: socket.socket, size: int, start: bytes = b"") -> bytes | None:
    data = bytearray(start)
    while len(data) < size:
        chunk = control.recv(min(size - len(data), 1 << 20))
        if not chunk:
            return None
        data += chunk
    return bytes(data)
