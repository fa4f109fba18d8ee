"""What the program's process keeps, and how a value that stays there is described to the judge."""

import builtins
import importlib
from collections.abc import Callable
from typing import Any

_BUILTIN_ERRORS = {name: cls for name, cls in vars(builtins).items() if isinstance(cls, type)}


class Keeper:
    """Values of the program, by number; and what stands here for values of the judge.

    Args:
        ask: asks the judge for an operation on a value that it has handed over.
    """

    def __init__(self, ask: Callable[..., Any] | None = None) -> None:
        self._kept: list[Any] = []
        self._number_of: dict[int, int] = {}
        self._ask = ask
        self._handed: dict[int, Handed] = {}

    def describe(self, value: Any) -> list[Any]:
        """Returns a value's number, and what it is: a class with its bases, an exception with its parts, an object."""
        cls = type(value)
        if cls is Handed:
            return [None, "handed", value.__number__]
        if issubclass(cls, type):
            return self._describe_class(value)
        if not issubclass(cls, BaseException):
            return [self._keep(value), "object", cls if _is_own(cls) else cls.__name__]
        if "__handed__" in vars(value):
            return [None, "handed error", vars(value)["__handed__"]]
        number = None if _is_builtin(cls) else self._keep(value)
        attributes = [part for pair in vars(value).items() for part in pair]
        return [number, "error", cls, _list_args(value), _show_error(value), *attributes]

    def _describe_class(self, cls: type) -> list[Any]:
        if _is_builtin(cls):
            return [None, "builtin", cls.__name__]
        bases = [base for base in cls.__bases__ if issubclass(base, BaseException) or _is_own(base)]
        has_equality = not issubclass(cls, BaseException) and cls.__eq__ is not object.__eq__
        return [self._keep(cls), "class", cls.__name__, has_equality, *bases]

    def _keep(self, value: Any) -> int:
        number = self._number_of.setdefault(id(value), len(self._kept))
        if number == len(self._kept):
            self._kept.append(value)
        return number

    def restore(self, number: int | None, form: str = "", *parts: Any) -> Any:
        """Returns the value of a number, or what the judge describes: a thing of the library, an error, its own value.

        The judge is to be trusted.
        """
        if number is not None:
            return self._kept[number]
        if form == "named":
            module, name = parts
            value = importlib.import_module(module)
            for part in name.split(".") if name else ():
                value = getattr(value, part)
            return value
        if form == "error":
            cls, args, handed = parts
            error = cls(*args)
            if handed is not None:
                error.__handed__ = handed
            return error
        return self._handed.setdefault(parts[0], Handed(self._ask, parts[0]))


class Handed:
    """A value of the tests that is no data, such as a function: each operation on it is a question to the judge."""

    def __init__(self, ask: Any, number: int) -> None:
        vars(self).update(__ask__=ask, __number__=number)

    def __getattr__(self, name: str) -> Any:
        return vars(self)["__ask__"]("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        vars(self)["__ask__"]("setattr", self, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return vars(self)["__ask__"]("call", self, args, kwargs)

    def __next__(self) -> Any:
        return vars(self)["__ask__"]("next", self)

    def __enter__(self) -> Any:
        return vars(self)["__ask__"]("enter", self)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> Any:
        return vars(self)["__ask__"]("exit", self, error)

    def __eq__(self, other: object) -> Any:
        return self is other or vars(self)["__ask__"]("eq", self, other)

    def __hash__(self) -> int:
        return object.__hash__(self)


_OPERATIONS = (
    "len iter bool str repr getitem setitem delitem contains lt le gt ge int float index and rand or ror add radd sub "
    "rsub mul rmul truediv rtruediv mod rmod pow rpow neg abs"
)


def _make_operation(name: str) -> Any:
    def operate(self: Any, *operands: Any) -> Any:
        return vars(self)["__ask__"](name, self, *operands)

    return operate


for _name in _OPERATIONS.split():
    setattr(Handed, f"__{_name}__", _make_operation(_name))


def _is_builtin(cls: type) -> bool:
    return _BUILTIN_ERRORS.get(cls.__name__) is cls and (issubclass(cls, BaseException) or cls is object)


def _is_own(cls: type) -> bool:
    return cls.__module__ in ("program", "prelude")


def _list_args(error: BaseException) -> tuple[Any, ...]:
    """What makes an exception again: that of a file is not in its `args`."""
    if isinstance(error, OSError) and error.filename is not None:
        return (*error.args[:2], error.filename)
    return error.args


def _show_error(error: BaseException) -> str:
    try:
        return str(error)[:10_000]
    except BaseException:  # a program's own exception may do anything when it is asked for its text
        return ""
