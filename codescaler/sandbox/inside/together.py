"""Runs a program and its tests in one process, as plain Python does. A program can forge a verdict here."""

import socket
import types
from typing import Any

from codescaler.sandbox.inside.comparison import choose_comparison
from codescaler.sandbox.inside.program import make_module_namespace
from codescaler.sandbox.inside.wire import receive, send

_PROGRAM = "<program>"


def run_together(work: socket.socket) -> None:
    """Reports `[outcome, message]` of every test in order. The program, the setup and the tests share their names."""
    task = receive(work)
    namespace = make_module_namespace("program")
    namespace.update(choose_comparison(task["comparison"]))
    for part in ("prelude", "code", "setup"):
        outcome, message = _run(task[part], _PROGRAM if part == "code" else f"<{part}>", namespace)
        if outcome != "passed":
            outcome = "error" if part == "code" or outcome == "failed" else outcome
            for _ in task["statements"]:
                send(work, [outcome, message])
            return
    for statement in task["statements"]:
        send(work, list(_run(statement, "<test>", namespace)))


def _run(text: str, name: str, namespace: dict[str, Any]) -> tuple[str, str]:
    """Where the tests do not compile, or miss a package, they say nothing of the program."""
    try:
        code = compile(text, name, "exec")
    except Exception as error:
        return "error" if name == _PROGRAM else "unjudged", _show(error)
    try:
        exec(code, namespace)
    except AssertionError as error:
        return "failed", _show(error)
    except BaseException as error:
        is_missing = isinstance(error, ImportError) and not _has_frame(error.__traceback__, _PROGRAM)
        return "unjudged" if is_missing or name == "<prelude>" else "error", _show(error)
    return "passed", ""


def _has_frame(trace: types.TracebackType | None, name: str) -> bool:
    while trace is not None and trace.tb_frame.f_code.co_filename != name:
        trace = trace.tb_next
    return trace is not None


def _show(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:500].removesuffix(": ")
    except Exception:  # an exception of the program may do anything when it is asked for its text
        return type(error).__name__
