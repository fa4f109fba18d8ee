"""The reaper of a job: process 1 of its namespace. It starts the program, and ends and counts all that it starts.

    reaper -> program: a fork, without any privilege.   reaper -> watcher: how the program ended, and what it took

A program cannot end process 1 of its namespace, and process 1 waits for every process that the program leaves. So the
time of all of them is counted, also of those that are killed here. What is known of the program's own end is read
before anything is killed. The kernel kills what is in the namespace when the reaper ends.
"""

import itertools
import json
import os
import resource
import select
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from codescaler.sandbox.inside import syscalls
from codescaler.sandbox.inside.commands import compile_program, execute
from codescaler.sandbox.inside.judge import judge
from codescaler.sandbox.inside.program import run_main, serve_calls
from codescaler.sandbox.inside.replay import replay
from codescaler.sandbox.inside.together import run_together

_ORPHAN_SECONDS = 0.1  # between two looks for processes whose parents have ended

_ROLES: dict[str, Callable[..., None]] = {
    "program": serve_calls, "judge": judge, "main": run_main, "replay": replay, "together": run_together,
    "compile": compile_program, "execute": execute,
}  # fmt: skip
_ROLES_WITH_FILES = ("main", "compile", "execute")  # in place of a connection to another process


def get_limits(settings: dict[str, Any], role: str) -> dict[str, Any]:
    """What a role may use, of those that have limits of their own."""
    limits: dict[str, dict[str, Any]] = settings["limits"]
    return limits.get(role, limits["any"])


def get_time_factor(role: str) -> int:
    """How many times the limits on time a role may use: costs are measured again and again."""
    return 4 if role == "replay" else 1


def choose_user(settings: dict[str, Any], role: str) -> int | None:
    """The tests have a user of their own, so that neither side uses up what the other may."""
    return None if settings["user"] is None else settings["user"] + (role == "judge")


def reap(settings: dict[str, Any], role: str, files: list[int], scratch: str, report: int, stop: int) -> NoReturn:
    """Starts the program, and ends everything when it ends or when `stop` closes, whichever is first."""
    # The user of the program may be this one's, and process 1 is deaf only to signals that it has no handler for.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if not settings["has_namespaces"]:
        os.setsid()  # what the watcher ends is this group
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _run(settings, role, files, scratch, report)
    for file in files:
        os.close(file)
    status, was_stopped = end_all(pid, _await_end(pid, stop), everyone=settings["has_namespaces"])
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    with suppress(OSError):
        said = [status, was_stopped, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]
        os.write(report, json.dumps(said).encode() + b"\n")
    os._exit(0)


def end_all(pid: int, status: int | None, *, everyone: bool) -> tuple[int | None, bool]:
    """Ends the program `pid`, or all processes that can be, and waits for all children of this one.

    Returns how the program ended, and whether it was ended here. `status` is how, if that has shown: connections close
    a moment before. A signal changes nothing for a program on its way out, so what it ended with tells. SIGKILL of any
    other sender in that moment counts as sent from here.
    """
    if everyone or status is None:  # or else the number may be another process's by now
        with suppress(ProcessLookupError):
            os.kill(-1 if everyone else pid, signal.SIGKILL)
    was_stopped = False
    with suppress(ChildProcessError):
        while True:
            ended, its_status = os.wait()
            if ended == pid and status is None:
                status, was_stopped = its_status, os.waitstatus_to_exitcode(its_status) == -signal.SIGKILL
    return status, was_stopped


def _await_end(pid: int, stop: int) -> int | None:
    """Returns how the program ended, or None if it still runs when `stop` closes."""
    process, status = os.pidfd_open(pid), None
    is_stopped = False
    while status is None and not is_stopped:
        is_stopped = stop in select.select([stop, process], [], [], _ORPHAN_SECONDS)[0]
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                status = ended[1] if status is None and ended[0] == pid else status
    return status


def _run(settings: dict[str, Any], role: str, files: list[int], scratch: str, report: int) -> NoReturn:
    try:
        if settings["has_namespaces"]:
            os.setsid()
        kept = sorted((2, report, *files, 64))
        for low, high in itertools.pairwise(kept):
            os.closerange(low + 1, high)
        os.dup2(0, 1)
        os.dup2(0, 2)
        for name, value in get_limits(settings, role)["resources"].items():
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            limit = value * get_time_factor(role) if name == "RLIMIT_CPU" else value
            limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            # Deep recursion asks for a larger stack; memory is bounded anyway.
            resource.setrlimit(kind, (limit, hard if name == "RLIMIT_STACK" else limit))
        user = choose_user(settings, role)
        if user is not None:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        syscalls.drop_privileges()
        syscalls.refuse_calls()
        os.chdir(scratch)
        if settings.get("shares_scratch"):
            os.umask(0)  # the tests and the program are two users
        os.environ["HOME"] = os.environ["TMPDIR"] = scratch
        work = socket.socket(fileno=files[0])
        links = [socket.socket(fileno=file) for file in files[1:]] if role not in _ROLES_WITH_FILES else files[1:]
    except BaseException as error:
        os.write(report, json.dumps(["broken", f"{type(error).__name__}: {error}", 0, 0]).encode() + b"\n")
        os._exit(1)
    os.close(report)
    try:
        _ROLES[role](work, *links)
    except BaseException:
        os._exit(1)
    os._exit(0)
