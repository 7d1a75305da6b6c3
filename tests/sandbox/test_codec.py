"""The codec and the comparison: plain values survive, everything else is refused or opaque."""

from __future__ import annotations

import collections
import contextlib
import datetime
import decimal
import enum
import fractions
import math
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_unlearn.sandbox.inside import codec
from pytest_unlearn.sandbox.inside.compare import same

ROOM = 1 << 20

# All code points, surrogates included, which a strategy for text leaves out by itself.
anything_text = st.text(st.characters(exclude_categories=()))
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | anything_text
    | st.binary()
)
keys = st.recursive(
    scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=4), max_leaves=6
)
values = st.recursive(
    scalars | st.sets(keys, max_size=5) | st.frozensets(keys, max_size=5),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(keys, inner, max_size=5)
    ),
    max_leaves=30,
)


def kind(value: object) -> str:
    """A test's name: some of these values cannot be written in decimal."""
    return str(type.__dict__["__name__"].__get__(type(value)))


def through(value: object) -> object:
    return codec.decode(codec.encode(value, max_bytes=ROOM), max_bytes=ROOM)


@given(values)
def test_a_value_survives(value: object) -> None:
    # By repr, because that tells apart what == does not: 1 and True, 0.0 and -0.0, nan.
    got = through(value)
    assert _canonical(got) == _canonical(value)


def _canonical(value: object) -> object:
    """The value's exact types and contents, with the order of sets taken away."""
    if isinstance(value, (set, frozenset)):
        return (type(value), sorted(repr(_canonical(item)) for item in value))
    if isinstance(value, (list, tuple)):
        return (type(value), [_canonical(item) for item in value])
    if isinstance(value, dict):
        return (dict, [(_canonical(k), _canonical(v)) for k, v in value.items()])
    return (type(value), repr(value))


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    with contextlib.suppress(codec.CodecError):
        codec.decode(data, max_bytes=ROOM)


@given(values, st.data())
def test_a_damaged_message_decodes_or_is_refused(value: object, data: st.DataObject) -> None:
    message = bytearray(codec.encode(value, max_bytes=ROOM))
    message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(codec.CodecError):
        codec.decode(bytes(message), max_bytes=ROOM)


@pytest.mark.parametrize(
    "value", [math.inf, -math.inf, math.nan, -0.0, 5e-324, 1 << 70_000, -255], ids=kind
)
def test_special_numbers_survive(value: float) -> None:
    got = through(value)
    assert type(got) is type(value)
    assert same(value, got)
    assert (got == 0 and str(got)[0] == "-") == (value == 0 and str(value)[0] == "-")


class Number(int):
    pass


class Colour(enum.IntEnum):
    RED = 1


class Equal(int):
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 3


class EqualText(str):
    __slots__ = ()

    def __hash__(self) -> int:
        return 3


class Point(NamedTuple):
    x: int
    y: list[int]


class Loud:
    def __getattribute__(self, name: str) -> object:
        raise AssertionError(f"{name} was asked for")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    __hash__ = None  # type: ignore[assignment]


class LoudMeta(type):
    def __eq__(cls, other: object) -> bool:
        raise AssertionError("the metaclass was asked to compare")

    __hash__ = type.__hash__

    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise AssertionError("the metaclass was asked for a name")


class LoudClass(metaclass=LoudMeta):
    pass


@pytest.mark.parametrize(
    "make",
    [
        lambda: Equal(3),
        lambda: EqualText("a"),
        lambda: Loud(),
        lambda: LoudClass(),
        lambda: LoudClass,
        lambda: len,
        lambda: {}.keys(),
    ],
)
def test_other_types_become_opaque_without_a_method_call(make: Callable[[], object]) -> None:
    value = [make()]
    got = through(value)
    assert isinstance(got, list)
    assert type(got[0]) is codec.Opaque
    with pytest.raises(codec.CodecError):
        codec.encode(value, max_bytes=ROOM, strict=True)


@pytest.mark.parametrize(
    "value",
    [
        collections.Counter("abca"),
        collections.OrderedDict([("b", 1), ("a", [2])]),
        collections.defaultdict(list, {"x": [1]}),
    ],
)
def test_kinds_of_dict_arrive_as_what_they_are_equal_to(value: dict[object, object]) -> None:
    """What a solution may as well return; as an argument, its methods would be missed."""
    got = through([value])
    assert got == [dict(value)]
    assert type(got[0]) is dict  # type: ignore[index]
    with pytest.raises(codec.CodecError, match="is not plain data"):
        codec.encode(value, max_bytes=ROOM, strict=True)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Number(3), 3),
        (Colour.RED, 1),
        (Point(1, [2]), (1, [2])),
        (type("Text", (str,), {"__str__": None})("ab"), "ab"),
        (type("Bytes", (bytes,), {"__getitem__": None})(b"ab"), b"ab"),
        (type("Items", (list,), {"__iter__": None, "__getitem__": None})([1]), [1]),
        (type("Table", (dict,), {"copy": None, "items": None})({1: 2}), {1: 2}),
        (type("Float", (float,), {"__float__": None})(0.5), 0.5),
        (type("Unit", (set,), {"__iter__": None})({1}), {1}),
        (type("Fixed", (frozenset,), {"__iter__": None})({1}), frozenset({1})),
    ],
)
def test_subclasses_arrive_as_what_they_are_equal_to(value: object, plain: object) -> None:
    """By no method of their own; as arguments, their methods would be missed."""
    got = through([value])
    assert got == [plain]
    assert type(got[0]) is type(plain)  # type: ignore[index]
    named: list[str] = []
    message = codec.encode(value, max_bytes=ROOM)
    codec.decode(message, max_bytes=ROOM, variant=lambda _, name: named.append(name))
    assert named == [type(value).__name__]
    with pytest.raises(codec.CodecError, match="is not plain data"):
        codec.encode(value, max_bytes=ROOM, strict=True)


@pytest.mark.parametrize(
    "value",
    [
        decimal.Decimal("1.50"),
        decimal.Decimal("-Infinity"),
        fractions.Fraction(-3, 7),
        datetime.date(2024, 2, 29),
        datetime.datetime(2024, 2, 29, 1, 2, 3, 4, datetime.UTC, fold=1),
        datetime.datetime(2024, 2, 29, 1, 2),
        datetime.time(1, 2, 3),
        datetime.timedelta(-1, 2, 3),
        range(1, 10, 3),
        bytearray(b"ab"),
        collections.deque([1, [2]]),
    ],
    ids=repr,
)
def test_the_standard_librarys_values_survive(value: object) -> None:
    got = through([value, {"a": value}])
    assert got == [value, {"a": value}]
    assert type(got[0]) is type(value)  # type: ignore[index]
    assert same(value, through(value))


def test_a_fraction_of_huge_numbers_is_opaque() -> None:
    """To look for a common divisor would take long."""
    huge = codec.encode((1 << 20_000, 3), max_bytes=ROOM)
    assert type(through(fractions.Fraction(1 << 20_000, 3))) is codec.Opaque
    with pytest.raises(codec.CodecError, match="Fraction"):
        codec.decode(b"x\0\0\0\x08Fraction" + huge, max_bytes=ROOM)


@pytest.mark.parametrize("value", [bytearray(b"a"), collections.deque([1])])
def test_what_could_be_changed_unseen_is_no_argument(value: object) -> None:
    with pytest.raises(codec.CodecError, match="could not be brought back"):
        codec.encode([value], max_bytes=ROOM, strict=True)


def test_containers_get_the_contents_of_their_copies() -> None:
    """Each keeps its identity: rows that change places do, and a row that holds itself may."""
    rows = [[1], [2, {"a": {3}}]]
    first, second = rows
    copy: Any = through((rows, {"k": rows[0]}))
    known = codec.containers(copy)
    copy[0].reverse()
    copy[0][0][1]["a"].add(4)
    copy[0].append(copy[0])
    data = codec.encode_contents(known, max_bytes=ROOM)
    codec.restore_contents(data, codec.containers((rows, {"k": rows[0]})))
    assert rows[0] is second
    assert rows[1] is first
    assert rows[2] is rows
    assert second == [2, {"a": {3, 4}}]
    with pytest.raises(codec.CodecError):
        codec.restore_contents(data, [[], {}])
    with pytest.raises(codec.CodecError):
        codec.restore_contents(b"l\0\0\0\1m\0\0\0\7", [[]])


def test_a_counter_with_items_of_its_own_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collections.Counter, "items", lambda _: [("forged", 1)], raising=False)
    assert through(collections.Counter("a")) == {"a": 1}


def test_an_opaque_value_equals_nothing_and_names_its_type() -> None:
    got = through(Equal(3))
    assert got != got
    assert got != 3
    assert not same(3, got)
    assert repr(got) == "<object of type Equal>"


def test_a_class_name_that_is_not_a_str_is_not_used() -> None:
    class Name(str):
        def encode(self, *args: object) -> bytes:
            raise AssertionError("encode was called")

        def __getitem__(self, key: object) -> str:
            raise AssertionError("the name was sliced")

    class Thing:
        pass

    Thing.__name__ = Name("evil")
    assert repr(through(Thing())) == "<object of type ?>"


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


def test_depth_is_limited_on_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    message = codec.encode(nested(codec.MAX_DEPTH), max_bytes=ROOM)
    assert through(nested(codec.MAX_DEPTH)) == nested(codec.MAX_DEPTH)
    with pytest.raises(codec.TooLarge, match="deep"):
        codec.encode(nested(codec.MAX_DEPTH + 1), max_bytes=ROOM)
    with pytest.raises(codec.TooLarge, match="deep"):
        codec.decode(b"l\0\0\0\1" + message, max_bytes=ROOM)


def test_a_list_inside_itself_is_too_deep() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(codec.TooLarge, match="deep"):
        codec.encode(loop, max_bytes=ROOM)


def test_nodes_are_limited_on_both_ends() -> None:
    wide = [None] * 500
    with pytest.raises(codec.TooLarge, match="values"):
        codec.encode([wide] * 3000, max_bytes=2 * ROOM)
    inner = codec.encode(wide, max_bytes=ROOM)
    with pytest.raises(codec.TooLarge, match="values"):
        codec.decode(b"l" + struct.pack(">I", 3000) + inner * 3000, max_bytes=2 * ROOM)


@pytest.mark.parametrize("value", ["x" * 101, b"x" * 101, 1 << 4000, [0] * 101, "é" * 60], ids=kind)
def test_bytes_are_limited_on_both_ends(value: object) -> None:
    with pytest.raises(codec.TooLarge, match="100 bytes"):
        codec.encode(value, max_bytes=100)
    message = codec.encode(value, max_bytes=ROOM)
    with pytest.raises(codec.TooLarge, match="100 bytes"):
        codec.decode(message, max_bytes=100)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"?",
        b"NN",
        b"l\xff\xff\xff\xff",
        b"s\0\0\0\1\xff",
        b"i\0\0\0\1z",
        b"d\0\0\0\1l\0\0\0\0N",
        b"S\0\0\0\1d\0\0\0\0",
        b"f\0",
    ],
)
def test_broken_messages_are_refused(data: bytes) -> None:
    with pytest.raises(codec.CodecError):
        codec.decode(data, max_bytes=ROOM)


def test_keys_with_one_hash_are_refused() -> None:
    # Each lookup among them would compare with all others.
    message = codec.encode({i * (2**61 - 1): 0 for i in range(1000)}, max_bytes=ROOM)
    with pytest.raises(codec.CodecError, match="hash"):
        codec.decode(message, max_bytes=ROOM)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (None, None),
        (1, 1),
        (True, True),
        (1.0, 1),
        (1.0, 1.0 + 1e-12),
        (math.nan, math.nan),
        (math.inf, math.inf),
        (1 + 2j, 1 + 2j),
        ([1, [2]], (1, (2,))),
        ((1, 2), (1, 2)),
        ({"a": [1.0]}, {"a": [1]}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1, 2}, {2, 1}),
        ({0.3}, {0.1 + 0.2}),
        ({math.nan}, {float("nan")}),
        ({math.nan: 1, 0.3: 2}, {0.1 + 0.2: 2, float("nan"): 1}),
        (frozenset("ab"), frozenset("ba")),
        ("ab", "ab"),
        (b"ab", b"ab"),
    ],
)
def test_same(expected: object, got: object) -> None:
    assert same(expected, got)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (None, 0),
        (1, True),
        (True, 1),
        (0, False),
        (1, 1.0),
        (1.0, True),
        (1.0, "1.0"),
        (1.0, 1.0 + 1e-6),
        (1.0, math.nan),
        (math.nan, 1.0),
        (math.inf, 1e308),
        (1e308, 10**400),
        (1 + 2j, 1.0),
        ("a", b"a"),
        ("a", ["a"]),
        ([1, 2], [1]),
        ([1], [1, 2]),
        ([1], [True]),
        ([], {}),
        ([], set()),
        ((1, 2), [1, 2]),
        ({}, []),
        ({"a": 1}, {"a": True}),
        ({1: "a"}, {True: "a"}),
        ({1: "a"}, {1.0: "a"}),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({1}, {True}),
        ({1, 2}, {1, 3}),
        ({0.3, 0.1 + 0.2}, {0.3, 0.5}),
        ({1}, [1]),
        ({1}, frozenset({1})),
    ],
)
def test_not_same(expected: object, got: object) -> None:
    assert not same(expected, got)


@given(values)
def test_every_plain_value_is_the_same_as_its_copy(value: object) -> None:
    assert same(value, through(value))


@pytest.mark.parametrize("expected", [object(), Number(3), Colour.RED])
def test_an_expected_answer_must_be_plain(expected: object) -> None:
    with pytest.raises(TypeError, match="not plain data"):
        same(expected, 3)
