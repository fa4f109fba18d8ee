"""Values to messages and back, and untrusted messages."""

import json
import math
import socket
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codescaler.sandbox.inside.wire import Codec, ConnectionClosed, ConnectionLost, receive, send


class Node:
    def __init__(self, value, following=None):
        self.value, self.following = value, following

    def is_correct(self):
        return False


Pair = namedtuple("Pair", "a b")
Color = IntEnum("Color", "RED")


class Loud(str):
    def __str__(self):
        return "loud"


def refuse(*value):
    raise TypeError(type(value[0]).__name__)


CODEC = Codec({"Node": Node}, refuse, lambda number: ("kept", number))


def there_and_back(value):
    return CODEC.decode(json.loads(json.dumps(CODEC.encode(value))))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=20)
KEYS = st.recursive(SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4)
VALUES = st.recursive(
    KEYS,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(KEYS, inner)
        | st.tuples(inner, inner)
        | st.lists(inner).map(deque)
        | st.sets(KEYS)
    ),
)


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_a_value_comes_back_equal_and_of_its_type(value):
    back = there_and_back(value)
    assert back == value
    assert repr(back) == repr(value) or isinstance(value, (set, frozenset, dict, list, tuple, deque))


@pytest.mark.parametrize(
    "value",
    [
        1 << 20_000, -(2**53) - 1, 1j, range(3, 10, 2), bytearray(b"x"), Decimal("1.10"), Fraction(1, 3), math.inf,
        Counter("aab"), OrderedDict(b=1, a=2), datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))),
        datetime(2026, 1, 2, 3, 4, 5, 6), date(2026, 1, 2), timedelta(days=1, microseconds=3), "\ud800", int, [dict],
        {(1, (2, frozenset({3}))): [{4}]},
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_kinds(value):
    back = there_and_back(value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Color.RED, 1),
        (defaultdict(lambda: 1, a=[1]), {"a": [1]}), (Loud("x"), "x"),
    ],
)  # fmt: skip
def test_a_subclass_goes_as_what_it_is_at_heart(value, plain):
    back = there_and_back(value)
    assert back == plain
    assert type(back) is type(plain)


def test_a_named_tuple_keeps_its_names():
    back = there_and_back(Pair(1, [2]))
    assert back == (1, [2])
    assert (back.a, back.b, type(back).__name__) == (1, [2], "Pair")


def test_nan_stays():
    assert math.isnan(there_and_back([math.nan])[0])


def test_depth_circles_and_identity():
    deep = []
    for _ in range(50_000):
        deep = [deep]
    back, depth = there_and_back(deep), 0
    while back:
        back, depth = back[0], depth + 1
    assert depth == 50_000
    circle = [1]
    circle.append((circle, {"again": circle}))
    back = there_and_back(circle)
    assert back[1][0] is back
    assert back[1][1]["again"] is back
    shared = [5]
    first, second = there_and_back([shared, shared])
    assert first is second


def test_an_object_goes_by_its_attributes():
    last = Node(2)
    back = there_and_back(Node([1], last))
    assert type(back) is Node
    assert (back.value, back.following.value, back.following.following) == ([1], 2, None)


def test_what_a_class_defines_is_not_hidden_by_an_attribute():
    back = CODEC.decode([[0], [["object Node", "is_correct", True, "value", 3]]])
    assert back.is_correct() is False
    assert back.value == 3


def test_what_another_class_defines_is_not_given_as_a_function():
    codec = Codec({"Node": Node, "Other": type("Other", (), {})}, refuse, lambda number: print)
    back = codec.decode([[1], [["kept", 7], ["object Other", "is_correct", [0], "value", [2]], ["type", "int"]]])
    assert vars(back) == {"value": int}
    assert vars(codec.decode([[0], [["object Other", "is_correct", True]]])) == {"is_correct": True}


def test_tuples_that_hashing_could_not_stand_are_refused():
    table = [["tuple"], *(["tuple", [place]] for place in range(150_000)), ["set", [150_000]]]
    with pytest.raises(ConnectionLost, match="more than 10000 levels"):
        CODEC.decode([[150_001], table])
    assert CODEC.decode([[100], table[:101]])
    hidden = [
        ["tuple"],
        *([kind, [place]] for place, kind in enumerate(["plain", "tuple"] * 75_000)),
        ["set", [150_000]],
    ]
    with pytest.raises(ConnectionLost, match="more than 10000 levels"):
        CODEC.decode([[150_001], hidden])


def test_an_object_that_is_hashed_by_its_attributes():
    @dataclass(frozen=True)
    class Point:
        x: int

    codec = Codec({"Point": Point}, refuse, refuse)
    assert codec.decode(codec.encode({Point(1): {Point(2)}})) == {Point(1): {Point(2)}}


def test_a_value_of_another_type_is_kept():
    codec = Codec({}, lambda value: [7], lambda number: ("kept", number))
    assert codec.decode(codec.encode([print, print])) == [("kept", 7), ("kept", 7)]
    with pytest.raises(TypeError, match="builtin_function"):
        CODEC.encode([print])


@pytest.mark.parametrize(
    "message",
    [
        None, 3, [], [1], [[0], []], [[5], [["list"]]], [[0], [["list", [9]]]], [[0], [["nonsense"]]], [[0], [[]]],
        [[0], [["type", "type"]]], [[0], [["type", "eval"]]], [[0], [["object Other"]]], [[0], [["dict", 1]]],
        [[0], [["set", [1]], ["list"]]], [[0], [["Fraction", 1, 0]]], [[0], [["date", 1, 2, 3000]]], [["0xzz"], []],
        [[0], [["bytes", 300]]], [[0], [["range"]]],
        [[0], [["object Node", "value"]]], [[0], [["Decimal", "x"]]],
    ],
)  # fmt: skip
def test_a_message_that_holds_no_value_is_refused(message):
    with pytest.raises(ConnectionLost):
        CODEC.decode(message)


def test_messages_over_a_connection():
    here, there = socket.socketpair()
    with here, there:
        send(here, ["a", 1, None, "\ud800"])
        assert receive(there) == ["a", 1, None, "\ud800"]
        send(here, "x" * 100)
        with pytest.raises(ConnectionLost, match="a message of 102 bytes, more than 50"):
            receive(there, 50)
    here, there = socket.socketpair()
    with there:
        here.sendall(b"\x05\0\0\0[[")
        here.close()
        with pytest.raises(ConnectionClosed):
            receive(there)
        with pytest.raises(ConnectionClosed):
            send(there, "x" * 1_000_000)
    here, there = socket.socketpair()
    with here, there:
        here.sendall(b"\x02\0\0\0[[")
        with pytest.raises(ConnectionLost, match="no message"):
            receive(there)
