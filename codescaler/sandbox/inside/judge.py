"""Runs tests in a process of its own, and asks the program's process for what only the program can answer.

Tests run as they are written. A name that the program has to define stands for a question to the other process, and so
does every value from there that has no equal here. Comparisons happen here, on values made here: the expected ones do
not leave, and no `==` of the program's has a say. Methods of its objects are asked only where the tests are of a class.
A test that hands what it expects to the program as an argument, or runs text that the program returns, is beyond help.
"""

import builtins
import dis
import importlib
import socket
import sys
import types
from collections import deque
from collections.abc import Iterator
from typing import Any, NoReturn

from codescaler.sandbox.inside.program import make_shared_namespace
from codescaler.sandbox.inside.wire import Codec, ConnectionClosed, ConnectionLost, receive, send

GONE = "gone"  # a report that stands for the rest: the program's process has ended


class NotSendable(Exception):
    """A test hands the program something that cannot be sent, such as a function."""


class Program:
    """The other process, seen from here.

    Every question goes into `dialogue`, with the numbers under which the program keeps the answer, or parts of it.
    """

    def __init__(
        self, link: socket.socket, classes: dict[str, type], dialogue: list[Any], own_classes: frozenset[str]
    ) -> None:
        self._link, self._dialogue, self._own_classes = link, dialogue, own_classes
        self.names: set[str] = set()  # that have been found here
        self.num_asked = 0
        self.failure: ConnectionLost | NotSendable | None = None  # which a test may not hide by an `except` of its own
        # Numbers of what may be used by its methods: classes that the tests name, their instances, what these hold.
        self._objects: set[int] = set()
        self._named: set[int] = set()  # numbers of what was found by name
        self._is_object = False  # whether what comes next is one
        self._codec = Codec(classes, _get_number, self._make_remote)

    def get_named(self, names: list[str]) -> dict[str, Any]:
        """Returns what the program calls by these names, as far as it defines them."""
        found = {}
        for name in names:
            self._is_object = name in self._own_classes
            answer = self._answer("names", [name])[0]
            if name in answer:  # and nothing that was not asked for
                found[name] = answer[name]
        self.names.update(found)
        self._named.update(_get_number(value) for value in found.values() if isinstance(value, Remote))
        return found

    def ask(self, operation: str, target: "Remote", *operands: Any) -> Any:
        """Has the program do an operation, and returns its value."""
        self.num_asked += 1
        self._is_object = self.is_object(target)
        try:
            asked = self._codec.encode((target, *operands))
        except NotSendable as error:
            if not self.is_object(target) and _get_number(target) not in self._named:  # an answer, in place of data
                raise TypeError(f"the program gave an object, and no data; {error}") from error
            self.failure = self.failure or error
            raise
        try:
            value, has_changed = self._answer(operation, asked)
        except ConnectionLost as error:
            self.failure = self.failure or error
            raise
        if has_changed:
            value, *after = value
            for given, other in zip(operands, after, strict=True):
                _update(given, other)
        return value

    def is_object(self, remote: "Remote") -> bool:
        """Whether the tests may use it by its methods."""
        return _get_number(remote) in self._objects

    def _make_remote(self, number: int) -> "Remote":
        if self._is_object:
            self._objects.add(number)
        return Remote(self, number)

    def _answer(self, operation: str, asked: Any) -> tuple[Any, bool]:
        send(self._link, [operation, asked])
        answer = receive(self._link)
        if not isinstance(answer, list) or len(answer) != 3:
            raise ConnectionLost("an answer of another form")
        if answer[0] == "raised":
            _raise_again(*map(str, answer[1:]))
        value, has_changed = self._codec.decode(answer[1]), answer[2] is True
        parts = value if operation == "names" else {"": value[0] if has_changed else value}
        if not isinstance(parts, dict) or any(type(name) is not str for name in parts):  # a key may not say what it is
            raise ConnectionLost("an answer of another form")
        numbers = {name: _get_number(part) for name, part in parts.items() if isinstance(part, Remote)}
        self._dialogue.append([[operation, asked], numbers])
        return value, has_changed


class Remote:
    """A value that lives in the program's process. It equals nothing but itself, and has no truth value.

    It can be called, counted, indexed and gone through; attributes and methods are for instances of the classes that
    the tests name. Else an object could be returned for data, and say of itself what a test wants to hear.
    """

    __slots__ = ("__number__", "__program__")

    def __init__(self, program: Program, number: int) -> None:
        object.__setattr__(self, "__program__", program)
        object.__setattr__(self, "__number__", number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__program__.ask("call", self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        is_pythons = name.startswith("__")  # asked on its own account
        if is_pythons or not self.__program__.is_object(self):
            raise AttributeError(f"the program gave an object, and no data; its {name} is not asked for")
        return self.__program__.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.__program__.ask("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self.__program__.ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__program__.ask("setitem", self, key, value)

    def __contains__(self, item: Any) -> bool:
        if self.__program__.is_object(self):
            return self.__program__.ask("contains", self, item) is True
        return any(item is other or item == other for other in self)

    def __len__(self) -> int:
        length = self.__program__.ask("len", self)
        return length if type(length) is int else -1  # which Python refuses

    def __iter__(self) -> Iterator[Any]:
        items = self.__program__.ask("iter", self)
        while True:
            try:
                yield self.__program__.ask("next", items)
            except ProgramStopIteration:
                return

    def __next__(self) -> Any:
        try:
            return self.__program__.ask("next", self)
        except ProgramStopIteration:
            raise StopIteration from None

    def __bool__(self) -> NoReturn:
        raise TypeError("the program gave an object, which is neither true nor false here")


class ProgramStopIteration(Exception):
    """The program's StopIteration, which must not end a loop of the tests unasked."""

    is_of_program = True


def _get_number(value: Any) -> int:
    if isinstance(value, Remote):
        number: int = object.__getattribute__(value, "__number__")
        return number
    raise NotSendable(f"a test hands the program a {type(value).__name__}; only data can be sent")


def _raise_again(name: str, message: str) -> NoReturn:
    """Raises what the program raised: tests may expect it, by the names that Python has for it."""
    name = name if name.isidentifier() else "Exception"  # or else no class can have it
    if name == "StopIteration":
        raise ProgramStopIteration(message)
    known = getattr(builtins, name, None)
    base = known if isinstance(known, type) and issubclass(known, Exception) else RuntimeError
    try:
        error = type(name, (base,), {"is_of_program": True, "__str__": lambda self: message})(message)
    except Exception:  # a few, such as UnicodeDecodeError, want other arguments
        error = type(name, (RuntimeError,), {"is_of_program": True})(message)
    raise error


def _update(given: Any, after: Any) -> Any:
    """Leaves in a container what the program left in its copy, and returns the container."""
    if not isinstance(given, type(after)):  # a subclass, such as defaultdict, came back as what it is at heart
        return after
    if isinstance(given, (list, tuple)):
        parts: Any = [_update(one, other) for one, other in zip(given, after, strict=False)] + list(after[len(given) :])
        if isinstance(given, tuple):
            return tuple(parts)
        given[:] = parts
    elif isinstance(given, (dict, set)):
        parts = {k: _update(given.get(k), v) for k, v in after.items()} if isinstance(given, dict) else after
        given.clear()
        given.update(parts)
    elif isinstance(given, (deque, bytearray)):
        given.clear()
        given.extend(after)
    elif isinstance(getattr(given, "__dict__", None), dict):
        vars(given).update(vars(after))
    else:
        return after
    return given


def judge(work: socket.socket, link: socket.socket) -> None:
    """Reports `[outcome, message]` of every test in order; ends where the program has gone, or breaks the rules.

    The last message is the dialogue, if it is asked for.
    """
    task = receive(work)
    dialogue: list[Any] = []
    try:
        for outcome, message in _run_tests(task, link, dialogue):
            send(work, [outcome, message[:500]])
        if task["has_to_record"]:
            send(work, dialogue)
    except ConnectionClosed:
        send(work, [GONE, ""])  # the host knows why
    except ConnectionLost as error:
        send(work, ["error", f"the program's process answers with {error}"[:500]])
    except BaseException as error:  # tests cannot raise here: only what the program gave can
        send(work, ["error", f"the program's answer cannot be handled: {type(error).__name__}"])


def _run_tests(task: dict[str, Any], link: socket.socket, dialogue: list[Any]) -> Iterator[tuple[str, str]]:
    statements = task["statements"]
    try:
        namespace, classes = make_shared_namespace(task["prelude"])
        setup = compile(task["setup"], "<setup>", "exec")
    except BaseException as error:
        yield from [("unjudged", f"the tests' own prelude or setup fails: {error!r}")] * len(statements)
        return
    program = Program(link, classes, dialogue, frozenset(task["classes"]))
    namespace["__name__"] = "tests"
    entry_points = set(task["entry_points"])
    outcome, message = _run_test(program, setup, namespace, entry_points)
    if outcome != "passed":
        yield from [("unjudged" if outcome == "unjudged" else "error", message)] * len(statements)
        return
    for statement in statements:
        try:
            code = compile(statement, "<test>", "exec")
        except Exception as error:
            yield "unjudged", f"the test does not compile: {error}"
        else:
            yield _run_test(program, code, namespace, entry_points)


def _run_test(
    program: Program, code: types.CodeType, namespace: dict[str, Any], entry_points: set[str]
) -> tuple[str, str]:
    """Runs one test. Raises ConnectionLost if the program is gone or breaks the rules.

    What a test, or the setup, has set after it asked the program counts as the program's in later tests.
    """
    names, num_asked = _find_names(code), program.num_asked
    try:
        return _run_code(program, code, namespace, entry_points, names)
    finally:
        if program.num_asked > num_asked or program.names.intersection(names):
            program.names |= _find_set_names(code)


def _run_code(
    program: Program, code: types.CodeType, namespace: dict[str, Any], entry_points: set[str], names: set[str]
) -> tuple[str, str]:
    num_asked = program.num_asked
    try:
        unknown = [name for name in names if name not in namespace and not hasattr(builtins, name)]
        for name in unknown:
            if name in sys.stdlib_module_names:  # or else a program's `math` could stand for Python's
                namespace[name] = importlib.import_module(name)
        asked = [n for n in unknown if n not in namespace] if not entry_points else entry_points.intersection(names)
        defined = program.get_named(sorted(asked))
        missing = sorted(entry_points.intersection(asked) - set(defined))
        if missing:
            return "error", f"the program does not define {', '.join(missing)}"
        namespace.update(defined)
        try:
            exec(code, namespace)
        finally:
            if program.failure is not None:
                failure, program.failure = program.failure, None
                raise failure
    except ConnectionLost:
        raise
    except NotSendable as error:
        return "unjudged", str(error)
    except AssertionError as error:
        return "error" if hasattr(error, "is_of_program") else "failed", _show_error(error)
    except NameError as error:  # of the program, or of the test, which looks in vain for what the program should define
        return "error", _show_error(error)
    except BaseException as error:
        if hasattr(error, "is_of_program"):
            return "error", _show_error(error)
        if program.num_asked == num_asked and not program.names.intersection(names):
            return "unjudged", f"the test asks nothing of the program, and fails: {_show_error(error)}"
        return "failed", _show_error(error)
    return "passed", ""


def _show_error(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:500].removesuffix(": ")
    except Exception:  # what a test says may hold what the program gave, of any depth
        return type(error).__name__


def _find_names(code: types.CodeType) -> set[str]:
    """Every global name that a piece of code looks up, and does not set itself at its top level."""
    looked_up = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_NAME", "LOAD_GLOBAL")}
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return looked_up.union(*map(_find_names, inner)) - _find_set_names(code)


def _find_set_names(code: types.CodeType) -> set[str]:
    """Every name that a piece of code sets at its top level."""
    return {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_NAME"}
