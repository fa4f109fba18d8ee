"""What tests hand to a program that is no data: it stays with the judge, and the program asks for what it does.

Only what a function of the tests does when it is called, and what an object of the tests shows by its public names, may
be asked for. No name that begins with an underscore leads to the names of the tests, or to what they expect.
"""

import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

from codescaler.sandbox.inside.operations import OPERATIONS

# Objects that lead from public names to frames or to the names of a module, and functions: these may be called alone.
_OPAQUE = (
    types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType, types.FrameType, types.CodeType,
    types.GeneratorType, types.CoroutineType, types.TracebackType, type,
)  # fmt: skip
_OWN_MODULES = ("tests", "prelude", "functools", "itertools", "builtins", "operator")
_SHOWN = ("__name__", "__qualname__", "__module__", "__doc__")  # of functions: what `functools.wraps` copies
_OF_OPAQUE = {"call", "next", "iter", "str", "repr", "eq", "bool"}


class Handing:
    """Values of the tests, by the number that the program knows."""

    def __init__(self) -> None:
        self._values: list[Any] = []
        self._number_of: dict[int, int] = {}
        self.foreign: str | None = None  # the class of an object of a library: a program may need the object itself

    def describe(self, value: Any) -> list[Any]:
        """How the program gets a value of the tests: by its name in the standard library, as an error, or by number."""
        if isinstance(value, BaseException):
            return self.describe_error(value)
        name = _find_in_library(value)
        if name is not None:
            return [None, "named", *name]
        if not (isinstance(value, _OPAQUE) or _is_mock(value)) and type(value).__module__ not in _OWN_MODULES:
            self.foreign = type(value).__name__
        return [None, "handed", self._keep(value)]

    def describe_error(self, error: BaseException) -> list[Any]:
        """An error without what it says, if it is of an assertion: that may be what is expected."""
        base = next(cls for cls in type(error).__mro__ if cls.__module__ == "builtins")
        args = () if isinstance(error, AssertionError) or base is not type(error) else error.args
        return [None, "error", base, args, self._keep(error)]

    def _keep(self, value: Any) -> int:
        number = self._number_of.setdefault(id(value), len(self._values))
        if number == len(self._values):
            self._values.append(value)
        return number

    def get(self, number: Any) -> Any:
        """Returns the value of a number."""
        if type(number) is not int or not 0 <= number < len(self._values):
            raise ValueError(f"nothing has been handed over as {number!r:.20}")
        return self._values[number]

    def answer(self, operation: str, target: Any, operands: tuple[Any, ...]) -> Any:
        """Does what the program asks of a value of the tests. Raises what that raises, and TypeError if it may not."""
        if id(target) not in self._number_of or operation not in OPERATIONS:
            raise TypeError(f"{operation!r:.20} is asked of a value that no test has handed over")
        is_shown = operation == "getattr" and isinstance(target, types.FunctionType) and operands[0] in _SHOWN
        if isinstance(target, _OPAQUE) and operation not in _OF_OPAQUE and not is_shown:
            raise AttributeError(f"a {type(target).__name__} of the tests can be called, and no more")
        if operation in ("getattr", "setattr", "delattr") and not is_shown:
            _check_name(target, operation, operands)
        answer: Callable[..., Any] = OPERATIONS[operation]
        return answer(target, *operands)


def _check_name(target: Any, operation: str, operands: tuple[Any, ...]) -> None:
    name = operands[0]
    if type(name) is not str or name.startswith("_"):
        raise AttributeError(f"{name!r:.50} of an object of the tests is not shown")
    own = inspect.getattr_static(type(target), name, None)
    if operation != "getattr" and (callable(own) or hasattr(own, "__get__") or _is_mock(target)):
        raise AttributeError(f"{name!r:.50} of an object of the tests cannot be replaced")


def _is_mock(value: Any) -> bool:
    """Whether it is a mock. Tests that use mocks import them: here they would load half the library into each box."""
    mock = sys.modules.get("unittest.mock")
    return mock is not None and isinstance(value, mock.NonCallableMock)


def _find_in_library(value: Any) -> tuple[str, str] | None:
    """The module and the name of a class, a function or a module of the standard library or a builtin one."""
    if isinstance(value, types.ModuleType):
        module, name = value.__name__, ""
    elif isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType, types.MethodDescriptorType)):
        owner = getattr(value, "__objclass__", None) or value
        module, name = getattr(owner, "__module__", None) or "", value.__qualname__
    else:
        return None
    found: Any = sys.modules.get(module) if isinstance(module, str) else None
    if found is None or module.partition(".")[0] not in sys.stdlib_module_names or module == "__main__":
        return None
    for part in name.split(".") if name else ():
        found = inspect.getattr_static(found, part, None)
    return (module, name) if found is value else None
