"""Runs tests in a process of its own, and asks the program's process for what only the program can answer.

Tests run as they are written. A name that the program has to define stands for a question to the other process, and so
does every value from there that has no equal here. Comparisons happen here, on values made here: the expected ones do
not leave, and no `==` of the program's has a say. Methods of its objects are asked only where the tests are of a class.
A test that hands what it expects to the program as an argument, or runs text that the program returns, is beyond help.
"""

import builtins
import dis
import importlib
import itertools
import socket
import sys
import types
from collections.abc import Iterator
from typing import Any

from codescaler.sandbox.inside.asking import Program
from codescaler.sandbox.inside.comparison import choose_comparison
from codescaler.sandbox.inside.handles import NotSendable
from codescaler.sandbox.inside.program import make_shared_namespace
from codescaler.sandbox.inside.wire import ConnectionClosed, ConnectionLost, receive, send

ONE_PROCESS = "allow_one_process"  # named by reports on tests that could be judged by it
GONE = "gone"  # a report that stands for the rest: the program's process has ended


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
        yield from [("unjudged", f"the tests' own prelude or setup fails: {_describe_missing(error)}")] * len(
            statements
        )
        return
    program = Program(link, classes, dialogue, frozenset(task["classes"]))
    namespace |= {"__name__": "tests", **choose_comparison(task["comparison"])}
    entry_points = set(task["entry_points"])
    outcome, message = _run_test(program, setup, namespace, entry_points)
    if outcome != "passed":
        yield from [("unjudged" if outcome == "unjudged" else "error", message)] * len(statements)
        return
    for statement in statements:
        try:
            code = compile(statement, "<test>", "exec")
        except Exception as error:
            shown = f"its {len(statement)} characters take too much memory" if isinstance(error, MemoryError) else error
            yield "unjudged", f"the test does not compile: {shown}"
        else:
            program.handing.foreign = None
            outcome, message = _run_test(program, code, namespace, entry_points)
            if outcome != "passed" and program.handing.foreign is not None:
                handed = f"a test hands the program a {program.handing.foreign}, which {ONE_PROCESS} can share"
                outcome, message = "unjudged", f"{handed}: {message}"
            yield outcome, message


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
        for name in _find_owners(code).intersection(unknown, sys.stdlib_module_names):
            namespace[name] = importlib.import_module(name)  # or else a program's `math` could stand for Python's
        asked = {name for name in unknown if name not in namespace} | (program.data & names)
        asked = asked if not entry_points else entry_points & names
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
        return "unjudged", f"{error}; {ONE_PROCESS} judges it, forgeably"
    except AssertionError as error:
        return "error" if hasattr(error, "is_of_program") else "failed", _show_error(error)
    except NameError as error:  # of the program, or of the test, which looks in vain for what the program should define
        return "error", _show_error(error)
    except BaseException as error:
        if hasattr(error, "is_of_program"):
            return "error", _show_error(error)
        if isinstance(error, ModuleNotFoundError):
            return "unjudged", f"the test needs what is not there: {_describe_missing(error)}"
        if program.num_asked == num_asked and not program.names.intersection(names):
            return "unjudged", f"the test asks nothing of the program, and fails: {_describe_missing(error)}"
        return "failed", _show_error(error)
    return "passed", ""


def _describe_missing(error: BaseException) -> str:
    """An error; of a package that the tests import and that is not there, the option that may help."""
    is_missing = isinstance(error, ModuleNotFoundError) and not hasattr(error, "is_of_program")
    return f"{error!r}{'; --allow-site-packages lets them import what is installed' if is_missing else ''}"


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


def _find_owners(code: types.CodeType) -> set[str]:
    """Every global name that a piece of code asks for an attribute: `math` of `math.pi`, and not of `math(1)`."""
    steps = [each for each in dis.get_instructions(code) if each.opname not in ("CACHE", "EXTENDED_ARG")]
    owners = {
        step.argval
        for step, following in itertools.pairwise(steps)
        if step.opname in ("LOAD_NAME", "LOAD_GLOBAL") and following.opname in ("LOAD_ATTR", "LOAD_METHOD")
    }
    return owners.union(*(_find_owners(each) for each in code.co_consts if isinstance(each, types.CodeType)))


def _find_set_names(code: types.CodeType) -> set[str]:
    """Every name that a piece of code sets at its top level."""
    return {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_NAME"}
