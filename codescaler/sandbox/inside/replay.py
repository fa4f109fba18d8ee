"""Asks a program again and again what its tests asked, in bursts, and says what CPU time a burst took.

A repetition runs the program's text anew, so that what its own names remember of the one before does not help, then
asks the same questions. A burst without calls does all that but the program's part: the difference is the program's.
The clock is read here, in the program's process: a program that looks for the measurement can falsify it, as it cannot
a verdict. Costs are for programs that were written without it in mind.
"""

import marshal
import socket
import time
from collections.abc import Callable
from typing import Any

from codescaler.sandbox.inside.operations import OPERATIONS
from codescaler.sandbox.inside.program import find_redefined, make_module_namespace, make_shared_namespace
from codescaler.sandbox.inside.wire import Codec, ConnectionLost, receive, send

Step = Callable[[], Any]


def replay(work: socket.socket) -> None:
    """Repeats a dialogue: questions, each with the numbers under which its answer was kept (see `judge.Program`)."""
    task = receive(work)
    clock_ns = time.thread_time_ns  # under RLIMIT_CPU the clock of the process stands still between ticks
    shared, classes = make_shared_namespace(task["prelude"])
    code = compile(task["code"], "<program>", "exec")
    namespace = make_module_namespace("program")
    kept: dict[int, Any] = {}

    def start() -> None:
        namespace.clear()
        namespace.update(shared, __name__="program")
        exec(code, namespace)

    start()
    codec = Codec(find_redefined(classes, namespace), lambda value: [None], kept.__getitem__)
    steps: list[tuple[Step, Step]] = [(lambda: None, start)]
    for (operation, asked), numbers in task["dialogue"]:
        if operation == "names":
            prepare, act = _plan_naming(namespace, kept, numbers)
        else:
            prepare, act = _plan_asking(codec, kept, operation, asked, numbers)
        steps.append((prepare, act))
        act()
    send(work, "ready")
    while True:
        try:
            num_repetitions, has_calls = receive(work)
        except ConnectionLost:
            return
        chosen = [act if has_calls else prepare for prepare, act in steps]
        start_ns = clock_ns()
        for _ in range(num_repetitions):
            for step in chosen:
                step()
        send(work, clock_ns() - start_ns)


def _plan_naming(namespace: dict[str, Any], kept: dict[int, Any], numbers: dict[str, int]) -> tuple[Step, Step]:
    def act() -> None:
        for name, number in numbers.items():
            kept[number] = namespace[name]

    return act, act


def _plan_asking(
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
