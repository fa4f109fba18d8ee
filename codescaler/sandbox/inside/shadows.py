"""Classes that stand, on the judge's side, for those of the program: of handles, and of exceptions."""

import builtins
import types
from collections.abc import Iterator
from typing import Any, cast

from codescaler.sandbox.inside.handles import READABLE, Peer, Remote, iterate, require
from codescaler.sandbox.inside.wire import fill

# What `isinstance` has to say of a value whose class is Python's.
_CLASSES: dict[str, type] = {
    str(cls.__name__): cls for cls in (
        types.FunctionType, types.GeneratorType, types.CoroutineType, types.MethodType, types.ModuleType,
        types.BuiltinFunctionType, types.AsyncGeneratorType, map, filter, zip, enumerate, reversed,
    )
}  # fmt: skip


class ShadowType(type):
    """The class of classes that stand for those of the program. To make an instance is a question to the program."""

    __class_program__: Peer

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if "__class_number__" not in vars(cls):
            cls.__class_program__.refuse(f"a test derives the class {cls.__name__} from the program's")
        return cls.__class_program__.ask("call", cls, args, kwargs)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__") and name not in READABLE:
            raise AttributeError(name)
        return cls.__class_program__.ask("getattr", cls, name)

    def __setattr__(cls, name: str, value: Any) -> None:
        cls.__class_program__.ask("setattr", cls, name, value)

    def __iter__(cls) -> Iterator[Any]:
        return iterate(cls.__class_program__, cls)

    def __len__(cls) -> int:
        return require(int, cls.__class_program__.ask("len", cls))

    def __bool__(cls) -> bool:
        return True

    def __getitem__(cls, key: Any) -> Any:
        return cls.__class_program__.ask("getitem", cls, key)

    def __contains__(cls, item: Any) -> bool:
        return any(item is other or item == other for other in cls)


def get_number(value: Any) -> int | None:
    """The number under which the program keeps the value of a handle or a class; None of anything else."""
    if isinstance(value, ShadowType):
        return vars(value).get("__class_number__")
    if isinstance(type(value), ShadowType) and isinstance(value, BaseException):
        return vars(value).get("__number__")
    number: int | None = object.__getattribute__(value, "__number__") if issubclass(type(value), Remote) else None
    return number


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


def make_standard_class(path: str) -> type[Remote]:
    """Returns the class of handles of a value whose class is of a library, such as a generator's."""
    module, _, name = path.rpartition(".")
    own: dict[str, Any] = {"__slots__": (), "__module__": module, "__doc__": property(_ask_doc)}
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
