"""Asks a program again and again what its tests asked. Its processor time is taken from outside, of the whole process.

A repetition runs the program's text anew, so that nothing which it remembers of the one before makes it cheaper, then
asks the same questions. Without `has_calls` a repetition does all that but the program's part: the difference is that.
"""

import marshal
import socket
from collections.abc import Callable
from typing import Any

from codescaler.sandbox.inside.codec import Codec, receive, send
from codescaler.sandbox.inside.program import OPERATIONS, redefined, shared_namespace

Step = Callable[[], Any]


def replay(work: socket.socket) -> None:
    """Repeats a dialogue: questions, each with the numbers under which its answer was kept (see `judge.Program`)."""
    task = receive(work)
    shared, classes = shared_namespace(task["prelude"])
    code = compile(task["code"], "<program>", "exec")
    namespace: dict[str, Any] = {}
    kept: dict[int, Any] = {}

    def start() -> None:
        namespace.clear()
        namespace.update(shared, __name__="program")
        exec(code, namespace)

    start()
    codec = Codec(redefined(classes, namespace), lambda value: None, kept.__getitem__)
    steps: list[tuple[Step, Step]] = [(lambda: None, start)]
    for (operation, asked), numbers in task["dialogue"]:
        if operation == "names":
            prepare, act = _naming(namespace, kept, numbers)
        else:
            prepare, act = _asking(codec, kept, operation, asked, numbers)
        steps.append((prepare, act))
        act()
    chosen = [act if task["has_calls"] else prepare for prepare, act in steps]
    for _ in range(task["num_repetitions"]):
        for step in chosen:
            step()
    send(work, "done")


def _naming(namespace: dict[str, Any], kept: dict[int, Any], numbers: dict[str, int]) -> tuple[Step, Step]:
    def act() -> None:
        for name, number in numbers.items():
            kept[number] = namespace[name]

    return act, act


def _asking(
    codec: Codec, kept: dict[int, Any], operation: str, asked: Any, numbers: dict[str, int]
) -> tuple[Step, Step]:
    """What prepares the operands, which the program may change; and what does so and has the program answer."""
    function, number = OPERATIONS[operation], numbers.get("")
    target, *operands = codec.decode(asked)
    place = next((n for n, value in kept.items() if value is target), None)
    try:
        data = marshal.dumps(operands)  # some thirty times as fast as decoding, for what it can hold
    except ValueError:
        place = None

    def prepare() -> Any:
        return codec.decode(asked) if place is None else (kept[place], *marshal.loads(data))

    def act() -> None:
        value = function(*prepare())
        if number is not None:
            kept[number] = value

    return prepare, act
