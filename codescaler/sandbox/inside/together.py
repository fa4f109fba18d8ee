"""Runs a program and its tests in one process, as plain Python does. A program can forge a verdict here."""

import socket

from codescaler.sandbox.inside.program import make_module_namespace
from codescaler.sandbox.inside.wire import receive, send


def run_together(work: socket.socket) -> None:
    """Reports `[outcome, message]` of every test in order. The program, the setup and the tests share their names."""
    task = receive(work)
    namespace = make_module_namespace("program")
    try:
        for part in ("prelude", "code", "setup"):
            exec(compile(task[part], f"<{part}>", "exec"), namespace)
    except BaseException as error:
        for _ in task["statements"]:
            send(work, ["error", _show(error)])
        return
    for statement in task["statements"]:
        try:
            exec(compile(statement, "<test>", "exec"), namespace)
        except AssertionError as error:
            send(work, ["failed", _show(error)])
        except BaseException as error:
            send(work, ["error", _show(error)])
        else:
            send(work, ["passed", ""])


def _show(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:500].removesuffix(": ")
    except Exception:  # an exception of the program may do anything when it is asked for its text
        return type(error).__name__
