"""`Program`: the other process, seen from the judge."""

import socket
import threading
from typing import Any, NoReturn

from codescaler.sandbox.inside.handing import Handing
from codescaler.sandbox.inside.handles import NotSendable, ProgramStopIteration, Remote, start_handle
from codescaler.sandbox.inside.shadows import get_builtin, get_number, make_class, make_error, make_standard_class
from codescaler.sandbox.inside.sharing import Sharing
from codescaler.sandbox.inside.wire import MAX_MESSAGE_BYTES, Codec, ConnectionLost, MessageTooLarge, receive, send

# Operations that Python does on the way to another one: an object that they return is still what it was.
_STEPS = {"iter", "enter"}
_IN_PLACE = {f"i{name}" for name in ("add", "sub", "mul", "or", "and", "xor", "truediv", "floordiv", "mod", "pow")}
_MAX_NESTED = 200  # questions within questions


class Program:
    """The other process, seen from here.

    Every question goes into `dialogue`, with the numbers under which the program keeps the answer, or parts of it.
    """

    def __init__(
        self, link: socket.socket, classes: dict[str, type], dialogue: list[Any], own_classes: frozenset[str]
    ) -> None:
        self._link, self._dialogue, self._own_classes = link, dialogue, own_classes
        self.names: set[str] = set()  # that have been found here
        self.data: set[str] = set()  # names of values that came as they are: a call may set such a name again
        self.num_asked = 0
        self.failure: ConnectionLost | NotSendable | None = None  # which a test may not hide by an `except` of its own
        self._handles: dict[int, Any] = {}  # handles and classes, by number: the same value is the same handle
        self._said: set[int] = set()  # numbers of what objects of named classes hold
        self._made: set[int] = set()  # numbers of what the test itself made
        self._makers: set[int] = set()  # numbers of what the tests name as a class, and may be a function
        self._standard: dict[str, type[Remote]] = {}
        self.handing = Handing()
        self._num_nested = 0
        self._sharing = Sharing(0)
        self._lock = threading.RLock()  # a test may have threads, whose questions come one by one
        self._codec = Codec(classes, self._describe, self._restore, self._sharing)

    def get_named(self, names: list[str]) -> dict[str, Any]:
        """Returns what the program calls by these names, as far as it defines them."""
        found = {}
        for name in names:
            answer = self._answer("names", [name])
            if name in answer:  # and nothing that was not asked for
                found[name] = answer[name]
                number = get_number(found[name])
                if number is None:
                    self.data.add(name)
                elif name in self._own_classes:
                    self._makers.add(number)
        self.names.update(found)
        return found

    def ask(self, operation: str, target: Any, *operands: Any) -> Any:
        """Has the program do an operation, and returns its value."""
        self.num_asked += 1
        number = get_number(target)
        was_made = number in self._made
        try:
            with self._lock:
                value = self._answer(operation, self._codec.encode((target, *operands)))
        except (ConnectionLost, NotSendable) as error:
            self.failure = self.failure or error
            raise
        is_same = was_made and ((operation in _STEPS and value is target) or operation in _IN_PLACE)
        if isinstance(value, Remote) and (is_same or (operation == "call" and number in self._makers)):
            self.note_made(value)
        return value

    def has_say(self, handle: Remote) -> bool:
        """Whether it is an object of a class that the tests name, or something that one of these holds."""
        number = get_number(handle)
        if handle.__is_limited__:
            return False
        return number in self._said or number in self._made or any(
            cls.__name__ in self._own_classes or vars(cls).get("__class_number__") in self._makers
            for cls in type(handle).__mro__
        )  # fmt: skip

    def is_made(self, handle: Remote) -> bool:
        """Whether the test itself made it, and no call has returned it."""
        return get_number(handle) in self._made and not handle.__is_limited__

    def note_made(self, handle: Remote) -> None:
        """The test made it."""
        self._made.add(get_number(handle) or 0)

    def note_held(self, handle: Remote) -> None:
        """An object of a class that the tests name holds it."""
        self._said.add(get_number(handle) or 0)

    def refuse(self, reason: str) -> NoReturn:
        """Gives up a test, which may not hide it by an `except` of its own."""
        self.failure = self.failure or NotSendable(reason)
        raise self.failure

    def _describe(self, value: Any) -> list[Any]:
        number = get_number(value)
        return [number] if number is not None else self.handing.describe(value)

    def _restore(self, number: Any, form: Any = None, *parts: Any) -> Any:
        """Returns what stands here for what the program describes: nothing that it says is taken for granted."""
        if form == "builtin":
            cls = get_builtin(parts[0])
            if cls is None:
                raise ConnectionLost(f"a class that Python does not have, {parts[0]!r:.50}")
            return cls
        if form in ("handed", "handed error"):
            return self.handing.get(parts[0])
        if form == "error":
            return make_error(number, *parts)
        if type(number) is not int:
            raise ConnectionLost(f"a value under the number {number!r:.50}")
        self._made.discard(number)
        if number not in self._handles:
            if form == "class":
                name, has_equality, *bases = parts
                self._handles[number] = make_class(self, number, str(name), has_equality is True, tuple(bases))
            else:
                self._handles[number] = start_handle(self._get_class(parts[0] if parts else None), self, number)
        return self._handles[number]

    def _get_class(self, cls: Any) -> type[Remote]:
        if isinstance(cls, type) and issubclass(cls, Remote):
            return cls
        return self._standard.setdefault(str(cls), make_standard_class(str(cls)))

    def _answer(self, operation: str, asked: Any) -> Any:
        try:
            send(self._link, [operation, asked, self._sharing.release_unused()], MAX_MESSAGE_BYTES)
        except MessageTooLarge as error:
            self._sharing.release([number for _, number in asked[2:3] and asked[2]])  # the program never saw these
            raise NotSendable(
                f"what the test hands to the program takes {error}; make it smaller, or hand over what makes it"
            ) from error
        answer = receive(self._link)
        while isinstance(answer, list) and len(answer) == 3 and answer[0] == "ask":
            send(self._link, self._answer_program(*answer[1:]))
            answer = receive(self._link)
        if not isinstance(answer, list) or len(answer) != 2 or answer[0] not in ("value", "raised"):
            raise ConnectionLost("an answer of another form")
        value = self._codec.decode(answer[1])
        if answer[0] == "raised":
            _raise_again(value)
        parts = value if operation == "names" else {"": value}
        if not isinstance(parts, dict) or any(type(name) is not str for name in parts):  # a key may not say what it is
            raise ConnectionLost("an answer of another form")
        numbers = {name: number for name, part in parts.items() if (number := get_number(part)) is not None}
        self._dialogue.append([[operation, asked], numbers])
        return value

    def _answer_program(self, operation: Any, asked: Any) -> list[Any]:
        """Does what the program asks of a value of the tests."""
        self._dialogue.append(None)  # which cannot be repeated without the tests
        try:
            target, *operands = self._codec.decode(asked)
            if self._num_nested >= _MAX_NESTED:
                raise RecursionError("maximum recursion depth exceeded")
            self._num_nested += 1
            try:
                return ["value", self._codec.encode(self.handing.answer(operation, target, tuple(operands)))]
            finally:
                self._num_nested -= 1
        except (ConnectionLost, NotSendable):
            raise
        except BaseException as error:
            return ["raised", self._codec.encode(error)]


def _raise_again(error: Any) -> NoReturn:
    """Raises what the program raised, as what it is."""
    if not isinstance(error, BaseException):
        raise ConnectionLost("an error that is none")
    if isinstance(error, (StopIteration, GeneratorExit)):
        raise ProgramStopIteration(*error.args)
    raise error
