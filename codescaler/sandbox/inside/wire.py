"""Python values as messages between processes that do not trust each other. Neither side runs code of the other's.

A message is a 4-byte length and JSON: `[child, table]`. A child is null, a boolean, a number, a string, or `[i]`, the
i-th entry of the table. An entry is a kind and its children, so that neither depth nor cycles matter. A value of a type
that has no kind stays where it is, and goes as its number ("kept").
"""

import functools
import json
import re
import socket
import struct
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePath
from typing import Any

from codescaler.sandbox.inside.arrays import list_array_parts, make_array
from codescaler.sandbox.inside.frames import MAKERS as FRAME_MAKERS
from codescaler.sandbox.inside.frames import list_frame_parts
from codescaler.sandbox.inside.sharing import Sharing

MAX_MESSAGE_BYTES = 1 << 26

_MUTABLE: dict[str, type] = {
    "list": list, "OrderedDict": OrderedDict, "Counter": Counter, "defaultdict": defaultdict, "dict": dict, "set": set,
    "deque": deque, "bytearray": bytearray,
}  # fmt: skip


def _make_datetime(*parts: int) -> datetime:
    *clock, fold, offset = parts
    return datetime(*clock, tzinfo=None if offset is None else timezone(timedelta(seconds=offset)), fold=fold)  # type: ignore[misc,arg-type]


def _split_datetime(value: datetime) -> tuple[Any, ...]:
    offset = value.utcoffset()
    clock = (value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond)
    return *clock, value.fold, None if offset is None else offset.total_seconds()


@functools.lru_cache(maxsize=256)
def _make_tuple_class(name: str, *fields: str) -> type:
    return namedtuple(name, fields, rename=True)


def _make_named_tuple(name: str, fields: tuple[str, ...], *values: Any) -> Any:
    return _make_tuple_class(name, *fields)(*values)


def _find_match(pattern: re.Pattern[Any], text: Any, start: int, end: int, last: int) -> re.Match[Any]:
    """Matches again, at a known place."""
    match = pattern.match(text, start, last)
    if match is None or match.end() != end:
        raise ValueError("no match at this place")
    return match


# Immutable values, by what makes them again.
_PARTS: dict[str, tuple[type, Callable[[Any], Iterable[Any]]]] = {
    "tuple": (tuple, tuple),
    "slice": (slice, lambda value: (value.start, value.stop, value.step)),
    "Path": (PurePath, lambda value: (str(value),)),
    "Pattern": (re.Pattern, lambda value: (value.pattern, value.flags)),
    "Match": (re.Match, lambda value: (value.re, value.string, value.start(), value.end(), value.endpos)),
    "frozenset": (frozenset, tuple),
    "bytes": (bytes, tuple),
    "complex": (complex, lambda value: (value.real, value.imag)),
    "keys": (type({}.keys()), tuple),
    "items": (type({}.items()), tuple),
    "Ellipsis": (type(...), lambda value: ()),
    "NotImplemented": (type(NotImplemented), lambda value: ()),
    "range": (range, lambda value: (value.start, value.stop, value.step)),
    "Decimal": (Decimal, lambda value: (str(value),)),
    "Fraction": (Fraction, lambda value: (value.numerator, value.denominator)),
    "datetime": (datetime, _split_datetime),
    "date": (date, lambda value: (value.year, value.month, value.day)),
    "time": (time, lambda value: (value.hour, value.minute, value.second, value.microsecond)),
    "timedelta": (timedelta, lambda value: (value.days, value.seconds, value.microseconds)),
}
# Types that a test may hand over, such as `int`. No function may pass: a program could have the judge call it.
_TYPES = {cls.__name__: cls for cls in (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)}
# What makes a value of a kind, if it is not its class.
_MAKERS: dict[str, Callable[..., Any]] = {
    "datetime": _make_datetime, "Path": Path, "Pattern": re.compile, "Match": _find_match,
    "keys": lambda *keys: dict.fromkeys(keys).keys(), "items": lambda *pairs: dict(pairs).items(),
    "Ellipsis": lambda: ..., "NotImplemented": lambda: NotImplemented,
}  # fmt: skip
_FROM_ONE = ("tuple", "frozenset", "bytes")  # made from one iterable; the others from several arguments
# Values of classes that are not known beforehand.
_FORMS: dict[str, Callable[..., Any]] = {"ndarray": make_array, "namedtuple": _make_named_tuple, **FRAME_MAKERS}
_MAX_DEPTH = 10_000  # of tuples in tuples: Python hashes them by recursion, unchecked
_MAX_JSON_INT = 1 << 53


class ConnectionLost(Exception):
    """The other side sent what is no message."""


class ConnectionClosed(ConnectionLost):
    """The other side is gone."""


class MessageTooLarge(ValueError):
    """A message has more bytes than may be sent; the text says how many."""


def send(connection: socket.socket, message: Any, max_bytes: int | None = None) -> None:
    """Sends what JSON can hold. Raises ConnectionClosed, and MessageTooLarge if a limit is given."""
    data = json.dumps(message).encode()
    if max_bytes is not None and len(data) > max_bytes:
        raise MessageTooLarge(f"{len(data)} bytes as a message, more than {max_bytes}")
    try:
        connection.sendall(struct.pack("<I", len(data)) + data)
    except OSError as error:
        raise ConnectionClosed(str(error)) from error


def receive(connection: socket.socket, max_bytes: int = MAX_MESSAGE_BYTES) -> Any:
    """Receives what `send` sent. Raises ConnectionLost, at the latest after `max_bytes`."""
    try:
        (length,) = struct.unpack("<I", _receive_exactly(connection, 4))
        if length > max_bytes:
            raise ConnectionLost(f"a message of {length} bytes, more than {max_bytes}")
        return json.loads(_receive_exactly(connection, length))
    except OSError as error:
        raise ConnectionClosed(str(error)) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConnectionLost(f"no message: {error!r:.200}") from error


def _receive_exactly(connection: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = connection.recv(min(length - len(data), 1 << 20))
        if not part:
            raise ConnectionClosed("the other side has closed the connection")
        data += part
    return bytes(data)


class Codec:
    """Encodes and decodes values.

    Args:
        classes: by name, whose instances go by their attributes: both sides know them.
        keep: how a value of any other type is described; it may raise.
        kept: what stands for what the other side has described.
        sharing: of the containers that both sides hold; without, every container comes as a new one.
    """

    def __init__(
        self,
        classes: Mapping[str, type],
        keep: Callable[[Any], list[Any]],
        kept: Callable[..., Any],
        sharing: Sharing | None = None,
    ) -> None:
        self._classes, self._keep, self._kept, self._sharing = classes, keep, kept, sharing
        self._staying: Any = None

    def keep_value(self, value: Any) -> "Codec":
        """The same codec, but one value stays where it is."""
        other = Codec(self._classes, self._keep, self._kept, self._sharing)
        other._staying = value
        return other

    def encode(self, value: Any) -> list[Any]:
        """Returns the message that holds a value."""
        index: dict[int, int] = {}
        entries: list[tuple[str, list[Any]]] = []
        alive: list[Any] = []  # an id may not be given to another object
        shared: list[tuple[int, Any]] = []
        changed = self._sharing.find_changed() if self._sharing else ()
        stack: list[tuple[Any, tuple[str, list[Any]] | None]] = [(container, None) for container in changed]
        stack.append((value, None))
        while stack:
            item, left = stack.pop()
            is_left = left is not None
            if _is_scalar(item) or (not is_left and id(item) in index):
                continue
            kind, children = left or self._take_apart(item)
            # An immutable value stands after what it is made of; a mutable one is filled when everything is there.
            if (kind in _PARTS or kind in ("kept", *_FORMS) or kind.startswith("object ")) and not is_left:
                index[id(item)] = -1  # on its way
                stack.append((item, (kind, children)))
            else:
                if kind in _MUTABLE or kind.startswith("object "):
                    shared.append((len(entries), item))
                index[id(item)] = len(entries)
                entries.append((kind, children))
            if not is_left:
                alive += [item, children]
                stack += [(child, None) for child in reversed(children)]
        message = [
            _describe_child(value, index),
            [[kind, *(_describe_child(child, index) for child in children)] for kind, children in entries],
        ]
        if self._sharing and shared:
            message.append([(place, self._sharing.share(item)) for place, item in shared])
        return message

    def _take_apart(self, value: Any) -> tuple[str, list[Any]]:
        name = type(value).__name__
        if self._classes.get(name) is type(value):
            attributes = [part for pair in vars(value).items() for part in pair]
            return f"object {name}", attributes
        if value is self._staying:
            return "kept", self._keep(value)
        if isinstance(value, type) and value in _TYPES.values():
            return "type", [value.__name__]
        for kind, base in _MUTABLE.items():
            if isinstance(value, base):
                if isinstance(value, defaultdict):
                    return _split_default_dict(value)
                if isinstance(value, dict):
                    return kind, [part for pair in dict.items(value) for part in pair]
                return kind, list(base.__iter__(value))  # type: ignore[attr-defined]
        fields = getattr(type(value), "_fields", None)
        if isinstance(value, tuple) and isinstance(fields, tuple) and len(fields) == tuple.__len__(value):
            return "namedtuple", [name, fields, *tuple.__iter__(value)]
        for kind, (base, parts_of) in _PARTS.items():
            if isinstance(value, base) and (not isinstance(value, time) or value.tzinfo is None):
                return kind, list(parts_of(value))
        array = list_array_parts(value)
        if array is not None:
            return "ndarray", array
        frame = list_frame_parts(value)
        if frame is not None:
            return frame
        # Of a subclass, such as an enumeration, what it is at heart, whatever its own methods say.
        if isinstance(value, str):
            return "plain", [str.__str__(value)]
        if isinstance(value, (int, float)):
            return "plain", [int.__pos__(value) if isinstance(value, int) else float.__pos__(value)]
        if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
            return "plain", [value.item()]
        return "kept", self._keep(value)

    def decode(self, message: Any) -> Any:
        """Returns the value that a message holds. Raises ConnectionLost if it holds none."""
        try:
            root, table, *rest = message
            numbers = dict(rest[0]) if rest and self._sharing else {}
            values = [self._make_empty(entry[0], numbers.get(place)) for place, entry in enumerate(table)]
            depths = [0] * len(table)

            def get_child(item: Any) -> Any:
                if not isinstance(item, list):
                    return item
                return int(item[0], 16) if isinstance(item[0], str) else values[item[0]]

            for place, (kind, *children) in enumerate(table):
                parts = map(get_child, children)
                if kind in _PARTS or kind == "plain":
                    depths[place] = 1 + max((depths[c[0]] for c in children if _is_reference(c)), default=0)
                    if depths[place] > _MAX_DEPTH:
                        raise ConnectionLost(f"a value of more than {_MAX_DEPTH} levels")
                if kind in _PARTS:
                    make: Callable[..., Any] = _MAKERS.get(kind) or _PARTS[kind][0]
                    values[place] = make(parts) if kind in _FROM_ONE else make(*parts)
                elif kind == "plain":
                    values[place] = get_child(children[0])
                elif kind == "type":
                    values[place] = _TYPES[children[0]]
                elif kind in _FORMS:
                    values[place] = _FORMS[kind](*parts)
                elif kind == "kept":
                    values[place] = self._kept(*parts)
                elif kind.startswith("object "):
                    fill(values[place], list(parts), self._classes)  # before it is hashed; below again, for circles
            for place, (value, (kind, *children)) in enumerate(zip(values, table, strict=True)):
                if kind in _MUTABLE or kind.startswith("object "):
                    if place in numbers:
                        clear(value)
                    fill(value, list(map(get_child, children)), self._classes)
            for number in numbers.values():
                self._get_sharing().note(number)
            return get_child(root)
        except ConnectionLost:
            raise
        except Exception as error:  # whatever an untrusted message leads to
            raise ConnectionLost(f"a message that holds no value: {error!r:.200}") from error

    def _make_empty(self, kind: str, number: int | None) -> Any:
        if kind in _PARTS or kind in ("plain", "type", "kept", *_FORMS):
            return None
        is_object = kind.startswith("object ")
        cls = self._classes[kind.removeprefix("object ")] if is_object else _MUTABLE[kind]
        if number is not None:
            return self._get_sharing().get(number, cls)
        return object.__new__(cls) if is_object else cls()

    def _get_sharing(self) -> Sharing:
        assert self._sharing is not None
        return self._sharing


def _split_default_dict(value: defaultdict[Any, Any]) -> tuple[str, list[Any]]:
    """With what makes its values, if both sides have it; else as a dict."""
    parts = [part for pair in dict.items(value) for part in pair]
    factory = value.default_factory
    return ("defaultdict", [factory, *parts]) if factory in _TYPES.values() else ("dict", parts)


def _is_scalar(value: Any) -> bool:
    return value is None or type(value) in (bool, int, float, str)


def _is_reference(child: Any) -> bool:
    return isinstance(child, list) and isinstance(child[0], int)


def _describe_child(value: Any, index: Mapping[int, int]) -> Any:
    if not _is_scalar(value):
        return [index[id(value)]]
    if type(value) is int and abs(value) > _MAX_JSON_INT:
        return [hex(value)]  # decimal digits beyond 4300 are refused, and slow
    return value


def clear(value: Any) -> None:
    """Takes everything out of a container, or all attributes from an object."""
    if isinstance(value, (list, dict, set, deque, bytearray)):
        value.clear()
    else:
        vars(value).clear()


def fill(value: Any, parts: list[Any], classes: Mapping[str, type] | None = None) -> None:
    """Puts parts into a container, or attributes into an object."""
    if isinstance(value, defaultdict):
        value.default_factory, *parts = parts
    pairs = zip(parts[::2], parts[1::2], strict=True)
    if isinstance(value, dict):
        for key, part in pairs:
            value[key] = part
    elif isinstance(value, set):
        value.update(parts)
    elif isinstance(value, (list, deque, bytearray)):
        value.extend(parts)
    else:
        for name, part in pairs:
            # Of a method or a cached property, the class has the say. Nor can an object of another class be given it.
            owners = [type(value), *((classes or {}).values() if callable(part) else ())]
            own = [getattr(owner, name, None) for owner in owners]
            if not any(callable(each) or hasattr(each, "__get__") for each in own):
                vars(value)[name] = part
