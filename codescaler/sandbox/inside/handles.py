"""What stands, on the judge's side, for values that stay in the program's process: handles, and classes of handles.

A handle has no value of its own: each operation on it is a question to the program. Which questions may be asked is a
matter of what they give away. What a test compares an answer with is data, and is not told to the program:

- Of any handle: its attributes, length, items, text, and calls of functions. The answers are compared here.
- Of an object of a class that the tests name: its truth, methods, and operators with other objects.
- Of an object that the test itself made: operators with data too. Once a call returns it, it counts as an answer.
"""

import builtins
import dis
import types
from collections.abc import Iterator
from typing import Any, NoReturn, Protocol, TypeVar, cast

from codescaler.sandbox.inside.wire import fill

# Methods of data that take what a test expects. An answer that is an object is not asked for them.
_PREDICATES = {"startswith", "endswith", "issubset", "issuperset", "isdisjoint", "count", "index", "find", "match"}
# Of functions and classes, and so on: what Python keeps under such names, and tests read.
_READABLE = {"__name__", "__qualname__", "__annotations__", "__dict__", "__wrapped__", "__members__", "__fields__"}
# What `isinstance` has to say of a value whose class is Python's.
_CLASSES: dict[str, type] = {
    cls.__name__: cls for cls in (
        types.FunctionType, types.GeneratorType, types.CoroutineType, types.MethodType, types.ModuleType,
        types.BuiltinFunctionType, types.AsyncGeneratorType, map, filter, zip, enumerate, reversed,
    )
}  # fmt: skip


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


class ShadowType(type):
    """The class of classes that stand for those of the program. To make an instance is a question to the program."""

    __class_program__: Peer

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if "__class_number__" not in vars(cls):
            cls.__class_program__.refuse(f"a test derives the class {cls.__name__} from the program's")
        return cls.__class_program__.ask("call", cls, args, kwargs)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__") and name not in _READABLE:
            raise AttributeError(name)
        return cls.__class_program__.ask("getattr", cls, name)

    def __setattr__(cls, name: str, value: Any) -> None:
        cls.__class_program__.ask("setattr", cls, name, value)

    def __iter__(cls) -> Iterator[Any]:
        return _iterate(cls.__class_program__, cls)  # type: ignore[attr-defined]

    def __len__(cls) -> int:
        return _require(int, cls.__class_program__.ask("len", cls))

    def __bool__(cls) -> bool:
        return True

    def __getitem__(cls, key: Any) -> Any:
        return cls.__class_program__.ask("getitem", cls, key)

    def __contains__(cls, item: Any) -> bool:
        return any(item is other or item == other for other in cls)


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
        if name.startswith("__") and name not in _READABLE:  # asked by Python on its own account
            raise AttributeError(name)
        value, has_say = self.__program__.ask("getattr", self, name), self.__program__.has_say(self)
        is_predicate = name in _PREDICATES and not self.__program__.is_made(self)
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
        return _require(int, self.__program__.ask("len", self))

    def __iter__(self) -> Iterator[Any]:
        return _iterate(self.__program__, self)

    def __reversed__(self) -> Iterator[Any]:
        return _iterate(self.__program__, self.__program__.ask("reversed", self))

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
        return _require(str, self.__program__.ask("str", self))

    def __repr__(self) -> str:
        return _require(str, self.__program__.ask("repr", self))

    def __format__(self, form: str) -> str:
        return _require(str, self.__program__.ask("format", self, form))

    def __hash__(self) -> int:
        if not (type(self).__is_compared__ and self.__program__.has_say(self)):  # type: ignore[attr-defined]
            return object.__hash__(self)
        return _require(int, self.__program__.ask("hash", self))

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
    return start_handle(type(handle), handle.__program__, get_number(handle) or 0, is_limited=True)


def get_number(value: Any) -> int | None:
    """The number under which the program keeps the value of a handle or a class; None of anything else."""
    if isinstance(value, ShadowType):
        return vars(value).get("__class_number__")
    if isinstance(type(value), ShadowType) and isinstance(value, BaseException):
        return vars(value).get("__number__")
    number: int | None = object.__getattribute__(value, "__number__") if _is_handle(value) else None
    return number


def _is_handle(value: Any) -> bool:
    return issubclass(type(value), Remote)


def _iterate(program: Peer, target: Any) -> Iterator[Any]:
    items = program.ask("iter", target)
    while True:
        try:
            yield program.ask("next", items)
        except ProgramStopIteration:
            return


def _require(kind: type[Kind], value: Any) -> Kind:
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
        return value if kind is None else _require(kind, value)

    return operate


def _make_binary(name: str) -> Any:
    def operate(self: Remote, other: Any) -> Any:
        return self.__program__.ask(name, self, other) if self._may_use(other) else NotImplemented

    return operate


def make_class(program: Peer, number: int, name: str, is_compared: bool, bases: tuple[type, ...]) -> type:
    """Returns the class that stands for one of the program's: of exceptions, if one of its bases is, or of handles."""
    name = name if name.isidentifier() else "Exception"  # or else no class can have it
    own = {"__class_number__": number, "__class_program__": program, "__module__": "program"}
    errors = tuple(base for base in bases if issubclass(base, BaseException))
    if errors:
        own |= {"__str__": _show_text, "__getattr__": _ask_attribute}
        bases = errors
    else:
        own |= {"__is_compared__": is_compared, "__slots__": ()}
        bases = tuple(base for base in bases if issubclass(base, Remote)) or (Remote,)
    try:
        return ShadowType(name, bases, own)
    except TypeError:  # bases that do not go together here
        return ShadowType(name, (Exception if errors else Remote,), own)


def _ask_attribute(self: Any, name: str) -> Any:
    number = vars(self).get("__number__")
    if name.startswith("__") or type(number) is not int:
        raise AttributeError(name)
    return type(self).__class_program__.ask("getattr", self, name)


def _show_text(self: Any) -> str:
    text = vars(self).get("__text__")
    return text if isinstance(text, str) else BaseException.__str__(self)


def make_standard_class(name: str) -> type[Remote]:
    """Returns the class of handles of a value whose class is Python's, such as a generator's."""
    own: dict[str, Any] = {"__slots__": (), "__doc__": property(lambda self: _ask_doc(self))}
    if name in _CLASSES:
        own["__class__"] = property(lambda self: _CLASSES[name])
    return type(name if name.isidentifier() else "Remote", (Remote,), own)


def _ask_doc(handle: Remote) -> Any:
    return handle.__program__.ask("getattr", handle, "__doc__")


def make_error(number: Any, cls: Any, args: Any, text: Any, *attributes: Any) -> BaseException:
    """Returns an exception of a class, with what the program's holds."""
    if not (isinstance(cls, type) and issubclass(cls, BaseException)) or type(args) is not tuple:
        raise TypeError("an exception of no class")
    if isinstance(cls, ShadowType):
        error: BaseException = cast(Any, cls).__new__(cls, *args)
        vars(error).update(__number__=number, __text__=text)
    else:
        try:
            error = cls(*args)
        except Exception:  # a few, such as UnicodeDecodeError, want arguments that are not these
            error = RuntimeError(text)
    vars(error)["is_of_program"] = True
    fill(error, list(attributes))
    return error


def get_builtin(name: Any) -> type | None:
    """Python's class of this name, if it is one that a message may name: an exception's, or `object`."""
    cls = vars(builtins).get(name) if isinstance(name, str) else None
    is_error = isinstance(cls, type) and issubclass(cls, BaseException)
    return cls if is_error or cls is object else None


_RAISE = dis.opmap["RAISE_VARARGS"]
_add_operators()
