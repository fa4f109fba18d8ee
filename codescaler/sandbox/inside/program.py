"""The side of the untrusted program. What it says is only ever an answer to a question: no verdict is taken from here.

The program may do in this process what it likes, and may find here all that this process was told: its own text, and
the arguments that it is called with. What is expected of it is elsewhere.
"""

import ast
import atexit
import os
import socket
import sys
import threading
import traceback
import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from codescaler.sandbox.inside.keeping import Keeper
from codescaler.sandbox.inside.operations import OPERATIONS
from codescaler.sandbox.inside.sharing import Sharing
from codescaler.sandbox.inside.wire import Codec, ConnectionLost, receive, send

PRELUDE = "prelude"


def make_module_namespace(name: str) -> dict[str, Any]:
    """The names of a new module that can be found: dataclasses and annotations look for where a class is from."""
    module = sys.modules[name] = types.ModuleType(name)
    return vars(module)


def make_shared_namespace(prelude: str) -> tuple[dict[str, Any], dict[str, type]]:
    """Runs a prelude and returns its names, and of these the classes that it defines."""
    namespace = make_module_namespace(PRELUDE)
    exec(compile(prelude, f"<{PRELUDE}>", "exec"), namespace)
    classes = {value.__name__: value for value in namespace.values() if isinstance(value, type)}
    return namespace, {name: cls for name, cls in classes.items() if cls.__module__ == PRELUDE}


def find_redefined(classes: dict[str, type], namespace: dict[str, Any]) -> dict[str, type]:
    """Returns what the names of these classes stand for now: a program may define one again, and then means its own."""
    return {name: value for name in classes if isinstance(value := namespace.get(name), type)}


def serve_calls(work: socket.socket, link: socket.socket) -> None:
    """Runs a program's text, then answers what the judge asks of it until the judge has gone."""
    task = receive(work)
    judge = _Judge(link)
    judge.share_classes({})
    failure: BaseException | None = None
    namespace: dict[str, Any] = {}
    try:
        shared, classes = make_shared_namespace(task["prelude"])
        # Not __main__: what a program does when it is run is not asked for.
        namespace = make_module_namespace("program")
        namespace.update(shared, __name__="program")
        exec(compile(task["code"], "<program>", "exec"), namespace)
        judge.share_classes(find_redefined(classes, namespace))
    except BaseException as error:
        failure = error

    def answer(operation: str, asked: Any) -> list[Any]:
        if failure is not None:
            raise failure
        return ["value", _answer(judge.codec, namespace, operation, asked)]

    judge.answer = answer
    with suppress(ConnectionLost):
        judge.serve(is_first=True)


class _Judge:
    """The other process, seen from here. Each side may ask while it is asked: questions end in the reverse order."""

    codec: Codec
    answer: Callable[[str, Any], list[Any]]

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._lock = threading.RLock()  # of who reads: a thread of the program may ask while another one answers
        self._keeper, self._sharing = Keeper(self.ask), Sharing(1)

    def share_classes(self, classes: dict[str, type]) -> None:
        """Instances of these classes go by their attributes from now on."""
        self.codec = Codec(classes, self._keeper.describe, self._keeper.restore, self._sharing)

    def ask(self, operation: str, *operands: Any) -> Any:
        """Has the judge do an operation on what it has handed over."""
        with self._lock:
            send(self._link, ["ask", operation, self.codec.encode(operands)])
            outcome, answer = self.serve(is_first=False)
        value = self.codec.decode(answer)
        if outcome == "raised":
            raise value
        return value

    def serve(self, *, is_first: bool) -> Any:
        """Answers questions until an answer comes to one of our own."""
        self._lock.acquire()
        try:
            while True:
                kind, asked, *released = message = receive(self._link)
                if kind in ("value", "raised") and not is_first:
                    return message
                self._sharing.release(released[0])
                self._lock.release()
                try:
                    answer = self._try(kind, asked)
                finally:
                    self._lock.acquire()
                send(self._link, answer)
        finally:
            self._lock.release()

    def _try(self, operation: str, asked: Any) -> list[Any]:
        try:
            return self.answer(operation, asked)
        except BaseException as error:
            try:
                return ["raised", self.codec.encode(error)]
            except BaseException:  # what it holds may do anything when it is looked at
                return ["raised", self.codec.encode(RuntimeError(type(error).__name__))]


def _answer(codec: Codec, namespace: dict[str, Any], operation: str, asked: Any) -> list[Any]:
    """Returns the message that holds the value."""
    if operation == "names":
        return codec.encode({name: namespace[name] for name in asked if name in namespace})
    target, *operands = codec.decode(asked)
    value = OPERATIONS[operation](target, *operands)
    if operation == "call" and isinstance(target, type) and target.__module__ == "program":
        codec = codec.keep_value(value)  # what a test makes, it uses by its methods, whatever it derives from
    return codec.encode(value)


def _compile_program(code: str, allows_return: bool) -> types.CodeType:
    """A program that returns at top level becomes the body of a function, but for its imports."""
    try:
        return compile(code, "program.py", "exec")
    except SyntaxError:
        if not allows_return:
            raise
    tree, wrapped = ast.parse(code), ast.parse("def program(): pass\nprogram()")
    function = wrapped.body[0]
    assert isinstance(function, ast.FunctionDef)
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    function.body = [node for node in tree.body if node not in imports] or function.body
    wrapped.body[:0] = imports
    return compile(wrapped, "program.py", "exec")


def _run_program(task: dict[str, Any], namespace: dict[str, Any]) -> None:
    if task["input_file"]:
        with open(task["input_file"], "w", encoding="utf-8", errors="surrogateescape") as copy:
            copy.write(sys.stdin.read())
    exec(compile(task["prelude"], f"<{PRELUDE}>", "exec"), namespace)
    exec(_compile_program(task["code"], task["allows_return"]), namespace)


def _print_file(name: str) -> None:
    """Prints what a program wrote to a file in place of standard output, if it did."""
    if os.path.exists(name):
        with open(name, "rb") as written:
            os.write(1, written.read())


def run_main(work: socket.socket, stdin: int, stdout: int, stderr: int) -> None:
    """Runs a program's text as Python runs a script, from these files, and ends the process."""
    task = receive(work)
    work.close()
    for number, file in enumerate((stdin, stdout, stderr)):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)  # noqa: SIM115
    sys.argv = ["program.py"]
    main = sys.modules["__main__"]
    vars(main).clear()
    vars(main).update({"__name__": "__main__", "__builtins__": __builtins__})
    status = 0
    try:
        _run_program(task, vars(main))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        trace = error.__traceback__.tb_next if error.__traceback__ else None  # without this function
        traceback.print_exception(type(error), error, trace)
        status = 1
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter does at its end: wait for its threads
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.__stdout__):  # the first may be of the program's making, and need its names
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        vars(main).clear()  # with its names go its files, and what waits in them is written
        if task["output_file"]:
            _print_file(task["output_file"])
    except BaseException:
        status = status or 1
    os._exit(status & 0xFF)
