"""What stands, on the judge's side, for values that stay in the program's process: handles.

A handle has no value of its own: each operation on it is a question to the program. Which questions may be asked is a
matter of what they give away. What a test compares an answer with is data, and is not told to the program:

- Of any handle: its attributes, length, items, text, and calls of functions. The answers are compared here.
- Of an object of a class that the tests name: its truth, methods, and operators with other objects.
- Of an object that the test itself made: operators with data too. Once a call returns it, it counts as an answer.
"""

import dis
import types
from collections.abc import Iterator
from typing import Any, NoReturn, Protocol, TypeVar

# Methods of data that say yes or no, or take what a test expects. An answer that is an object is not asked for them.
_PREDICATES = {
    *(name for data in (str, bytes, int, float, set) for name in dir(data) if name.startswith("is")),
    *("startswith", "endswith", "count", "index", "find", "match"),
}
# Of functions and classes, and so on: what Python keeps under such names, and tests read.
READABLE = {"__name__", "__qualname__", "__annotations__", "__dict__", "__wrapped__", "__members__", "__fields__"}

Kind = TypeVar("Kind")


class Peer(Protocol):
    """The program's process, as handles see it."""

    def ask(self, operation: str, target: Any, *operands: Any) -> Any:
        """Has the program do an operation, and returns its value."""

    def has_say(self, handle: "Remote") -> bool:
        """Whether it is an object of a class that the tests name, or something that one of these gave."""

    def is_made(self, handle: "Remote") -> bool:
        """Whether the test itself made it."""

    def note_made(self, handle: "Remote") -> None:
        """The test made it."""

    def note_held(self, handle: "Remote") -> None:
        """An object of a class that the tests name holds it."""

    def refuse(self, reason: str) -> NoReturn:
        """Gives up a test, which may not hide it by an `except` of its own."""


class NotSendable(Exception):
    """A test does what only one process with the program can do."""


class NotAsked(TypeError):
    """A test does with an answer what would give away what it expects, or what only data can do."""


class Remote:
    # No docstring: that of the value is asked for.
    __slots__ = ("__is_limited__", "__number__", "__program__")
    __is_limited__: bool
    __number__: int
    __program__: Peer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.__is_limited__ and (args or kwargs):
            raise NotAsked("the program gave an object, and no data; its methods are not asked about data")
        return self.__program__.ask("call", self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in READABLE:  # asked by Python on its own account
            raise AttributeError(name)
        is_predicate = name in _PREDICATES and not self.__program__.is_made(self)
        if is_predicate and name.startswith("is"):
            raise NotAsked(f"the program gave an object, and no data; its {name} is not asked for")
        value, has_say = self.__program__.ask("getattr", self, name), self.__program__.has_say(self)
        if isinstance(value, Remote):
            if is_predicate or not has_say:
                return limit(value)
            self.__program__.note_held(value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        self.__program__.ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        self.__program__.ask("delattr", self, name)

    def __getitem__(self, key: Any) -> Any:
        return self.__program__.ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__program__.ask("setitem", self, key, value)

    def __delitem__(self, key: Any) -> None:
        self.__program__.ask("delitem", self, key)

    def __contains__(self, item: Any) -> bool:
        if self.__program__.is_made(self) or (_is_handle(item) and self.__program__.has_say(self)):
            return self.__program__.ask("contains", self, item) is True
        return any(item is other or item == other for other in self)

    def __len__(self) -> int:
        return require(int, self.__program__.ask("len", self))

    def __iter__(self) -> Iterator[Any]:
        return iterate(self.__program__, self)

    def __reversed__(self) -> Iterator[Any]:
        return iterate(self.__program__, self.__program__.ask("reversed", self))

    def __next__(self) -> Any:
        try:
            return self.__program__.ask("next", self)
        except ProgramStopIteration:
            raise StopIteration from None

    def __bool__(self) -> bool:
        if not self.__program__.has_say(self):
            raise NotAsked("the program gave an object, which is neither true nor false here")
        return self.__program__.ask("bool", self) is True

    def __str__(self) -> str:
        return require(str, self.__program__.ask("str", self))

    def __repr__(self) -> str:
        return require(str, self.__program__.ask("repr", self))

    def __format__(self, form: str) -> str:
        return require(str, self.__program__.ask("format", self, form))

    def __hash__(self) -> int:
        if not (type(self).__is_compared__ and self.__program__.has_say(self)):  # type: ignore[attr-defined]
            return object.__hash__(self)
        return require(int, self.__program__.ask("hash", self))

    def __eq__(self, other: Any) -> Any:
        return self is other or (self._is_comparable(other) and self.__program__.ask("eq", self, other) is True)

    def __ne__(self, other: Any) -> Any:
        if not self._is_comparable(other):
            return self is not other
        return self.__program__.ask("ne", self, other) is True

    def _is_comparable(self, other: Any) -> bool:
        may_ask = type(self).__is_compared__ or getattr(type(other), "__is_compared__", False)  # type: ignore[attr-defined]
        return may_ask and self._may_use(other)

    def _may_use(self, other: Any) -> bool:
        """Whether this object's operators may be asked about the other operand."""
        program = self.__program__
        return program.is_made(self) or (_is_handle(other) and program.has_say(self) and program.has_say(other))

    def __enter__(self) -> Any:
        entered = self.__program__.ask("enter", self)
        if entered is self or self.__program__.is_made(self):
            self.__program__.note_made(entered)
        return entered

    def __exit__(self, kind: Any, error: BaseException | None, trace: types.TracebackType | None) -> bool:
        """The program may hide an error that the test or the program raised, and no other: not what a test found."""
        may_hide = error is not None and (hasattr(error, "is_of_program") or _is_raised_by_statement(error, trace))
        told = error if may_hide or error is None else Exception()
        return self.__program__.ask("exit", self, told) is True and may_hide

    def __instancecheck__(self, value: Any) -> bool:
        return _is_handle(value) and self.__program__.ask("isinstance", self, value) is True

    def __copy__(self) -> Any:
        return self.__program__.ask("copy", self)

    def __deepcopy__(self, memo: Any) -> Any:
        return self.__program__.ask("deepcopy", self)

    def __dir__(self) -> list[str]:
        return list(map(str, self.__program__.ask("dir", self)))


Remote.__is_compared__ = False  # type: ignore[attr-defined]  # whether its class defines `==`


class ProgramStopIteration(Exception):
    """The program's StopIteration, which must not end a loop of the tests unasked."""

    is_of_program = True


def start_handle(cls: type[Remote], program: Peer, number: int, is_limited: bool = False) -> Remote:
    """Returns a new handle. (To call its class asks the program for a new object.)"""
    handle = object.__new__(cls)
    for name, value in (("__program__", program), ("__number__", number), ("__is_limited__", is_limited)):
        object.__setattr__(handle, name, value)
    return handle


def limit(handle: Remote) -> Remote:
    """Returns the same handle, for which no question about data is asked."""
    return start_handle(type(handle), handle.__program__, handle.__number__, is_limited=True)


def _is_handle(value: Any) -> bool:
    return issubclass(type(value), Remote)


def iterate(program: Peer, target: Any) -> Iterator[Any]:
    """Yields the items of what the program keeps."""
    items = program.ask("iter", target)
    while True:
        try:
            yield program.ask("next", items)
        except ProgramStopIteration:
            return


def require(kind: type[Kind], value: Any) -> Kind:
    """Returns a value of exactly this class. Raises TypeError if the program gave another one."""
    if type(value) is not kind:
        raise TypeError(f"the program gave a {type(value).__name__}, and no {kind.__name__}")
    return value


def _is_raised_by_statement(error: BaseException, trace: types.TracebackType | None) -> bool:
    """Whether a statement `raise` of the tests raised it, and no expression that met with what the program gave."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or isinstance(error, AssertionError) or not trace.tb_frame.f_code.co_filename.startswith("<"):
        return False
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == _RAISE


def _add_operators() -> None:
    """Operators of one and of two operands."""
    unary = ("neg", "pos", "invert", "abs", "int", "float", "complex", "index", "round", "trunc", "floor", "ceil")
    binary = (
        "add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "matmul", "lshift", "rshift", "and", "or",
        "xor",
    )  # fmt: skip
    for name in unary:
        setattr(Remote, f"__{name}__", _make_unary(name))
    for name in (*binary, *(f"r{name}" for name in binary), *(f"i{name}" for name in binary), "lt", "le", "gt", "ge"):
        if name not in ("idivmod",):
            setattr(Remote, f"__{name}__", _make_binary(name))


def _make_unary(name: str) -> Any:
    kind = {"int": int, "float": float, "complex": complex, "index": int}.get(name)

    def operate(self: Remote, *operands: Any) -> Any:
        value = self.__program__.ask(name, self, *operands)
        return value if kind is None else require(kind, value)

    return operate


def _make_binary(name: str) -> Any:
    def operate(self: Remote, other: Any) -> Any:
        return self.__program__.ask(name, self, other) if self._may_use(other) else NotImplemented

    return operate


_RAISE = dis.opmap["RAISE_VARARGS"]
_add_operators()
