"""The side of the untrusted program. What it says is only ever an answer to a question: no verdict is taken from here.

The program may do in this process what it likes, and may find here all that this process was told: its own text, and
the arguments that it is called with. What is expected of it is elsewhere.
"""

import ast
import atexit
import operator
import os
import socket
import sys
import threading
import traceback
import types
from collections.abc import Callable
from typing import Any

from codescaler.sandbox.inside.wire import Codec, ConnectionLost, receive, send

PRELUDE = "prelude"

OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda target, args, kwargs: target(*args, **kwargs),
    "getattr": getattr,
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "contains": operator.contains,
    "len": len,
    "iter": iter,
    "next": next,
}


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
    kept: list[Any] = []
    number_of: dict[int, int] = {}

    def keep(value: Any) -> int:
        number = number_of.setdefault(id(value), len(kept))
        if number == len(kept):
            kept.append(value)
        return number

    failure: BaseException | None = None
    namespace: dict[str, Any] = {}
    codec = Codec({}, keep, kept.__getitem__)
    try:
        shared, classes = make_shared_namespace(task["prelude"])
        # Not __main__: what a program does when it is run is not asked for.
        namespace = make_module_namespace("program")
        namespace.update(shared, __name__="program")
        exec(compile(task["code"], "<program>", "exec"), namespace)
        codec = Codec(find_redefined(classes, namespace), keep, kept.__getitem__)
    except BaseException as error:
        failure = error
    while True:
        try:
            operation, asked = receive(link)
        except ConnectionLost:
            return
        try:
            if failure is not None:
                raise failure
            answer = ["value", *_answer(codec, namespace, operation, asked)]
        except BaseException as error:
            answer = ["raised", type(error).__name__, _show_error(error)]
        send(link, answer)


def _answer(codec: Codec, namespace: dict[str, Any], operation: str, asked: Any) -> tuple[Any, bool]:
    """Returns the message that holds the value, and whether it holds the operands too, since they have changed."""
    if operation == "names":
        return codec.encode({name: namespace[name] for name in asked if name in namespace}), False
    target, *operands = codec.decode(asked)
    before = codec.encode(operands)
    value = OPERATIONS[operation](target, *operands)
    if operation == "call" and isinstance(target, type) and target.__module__ == "program":
        codec = codec.keep_value(value)  # what a test makes, it uses by its methods, whatever it derives from
    # What a program does to the lists that it is given is seen by the caller, as it would be without a sandbox.
    has_changed = codec.encode(operands) != before
    return codec.encode((value, *operands) if has_changed else value), has_changed


def _show_error(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except BaseException:  # a program's own exception may do anything when it is asked for its text
        return ""


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
