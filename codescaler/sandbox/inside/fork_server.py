"""The fork server of a box: starts one process a job, alone in namespaces of its own, and reports how it ended.

    host -> fork server: a role, with the job's sockets and files.   fork server -> watcher: a fork, one a job
    watcher -> reaper: a fork, process 1 of a new process namespace.   reaper -> program: a fork, without any privilege
    watcher -> host: how the program ended, when everything that it started is gone

The fork server never reads a job, so that no job finds an earlier one in memory that it inherits. The reaper ends what
the program leaves, and counts its time; the kernel kills what is in the namespace when the reaper ends. The watcher
keeps the time from outside.
"""

import _sitebuiltins
import builtins
import ctypes  # noqa: F401  what programs often import is loaded once, here
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from codescaler.sandbox.inside import syscalls
from codescaler.sandbox.inside.judge import judge
from codescaler.sandbox.inside.program import run_main, serve_calls
from codescaler.sandbox.inside.replay import replay
from codescaler.sandbox.inside.rootfs import SCRATCH, enter_new_root
from codescaler.sandbox.inside.together import run_together
from codescaler.sandbox.inside.wire import ConnectionLost, send

builtins.exit, builtins.quit = (_sitebuiltins.Quitter(name, "Ctrl-D") for name in ("exit", "quit"))  # as a script has
for _name in ("bisect", "collections", "copy", "datetime", "fractions", "functools", "heapq", "itertools", "math",
              "random", "re", "statistics", "string", "typing"):  # fmt: skip
    __import__(_name)
if hasattr(sys, "set_int_max_str_digits"):
    sys.set_int_max_str_digits(0)  # limits on time hold for long numbers too

_MAX_FILES = 8

_ROLES: dict[str, Callable[..., None]] = {
    "program": serve_calls, "judge": judge, "main": run_main, "replay": replay, "together": run_together,
}  # fmt: skip


def keep(settings: dict[str, Any]) -> None:
    """Starts jobs until the host closes the connection, which is its standard input."""
    control = socket.socket(fileno=0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control.send(b"ready")
    while True:
        data, files, _, _ = socket.recv_fds(control, 16, _MAX_FILES)
        if not data:
            os._exit(0)  # with the box's process 1, everything in it ends
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            _watch(settings, data.decode(), files)
        for file in files:
            os.close(file)


def _watch(settings: dict[str, Any], role: str, files: list[int]) -> NoReturn:
    status = socket.socket(fileno=files[0])
    report, report_inside = os.pipe()
    scratch = None
    try:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)  # the fork server's connection
        os.close(null)
        if settings["has_namespaces"]:
            syscalls.unshare(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC)
            size = f"size={settings['scratch_bytes']},nr_inodes=1024,mode=1777"
            syscalls.mount("scratch", SCRATCH, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, size)
        else:
            scratch = tempfile.mkdtemp(prefix="codescaler-")
            os.chmod(scratch, 0o1777)
        pid = os.fork()
        if pid == 0:
            os.close(report)
            status.close()
            _reap(settings, role, report_inside, files[1:], scratch or SCRATCH)
        for file in (report_inside, *files[1:]):
            os.close(file)
        ended = os.pidfd_open(pid)
        seconds = settings["wall_seconds"] * _get_time_factor(role)
        ready, _, _ = select.select([status.fileno(), ended], [], [], seconds)
        if ended not in ready:  # too late; or the host wants the end, by closing the connection or otherwise
            os.kill(pid, signal.SIGKILL)
        _, code, usage = os.wait4(pid, 0)
        if not settings["has_namespaces"]:
            _kill_others(_choose_user(settings, role), pid)
        said = os.read(report, 4096)
        send(status, [*_report(said, code, usage), not ready])
    except BaseException as error:
        with suppress(ConnectionLost):
            send(status, ["broken", f"{type(error).__name__}: {error}"])
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)
        os._exit(0)


def _get_time_factor(role: str) -> int:
    """How many times the limits on time a role may use: costs are measured again and again."""
    return 4 if role == "replay" else 1


def _report(said: bytes, code: int, usage: resource.struct_rusage) -> list[Any]:
    """What process 1 said of the program, or what is known of itself and all that it reaped, if it was killed."""
    if said:
        report: list[Any] = json.loads(said)
        if report[0] == "broken":
            raise OSError(report[1])
        return report
    return [code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]


def _reap(settings: dict[str, Any], role: str, report: int, files: list[int], scratch: str) -> NoReturn:
    """Process 1 of the namespace: starts the program, and ends and counts all that it leaves behind."""
    if not settings["has_namespaces"]:
        os.setsid()  # what the watcher ends is this group
    pid = os.fork()
    if pid == 0:
        _run(settings, role, report, files, scratch)
    for file in files:
        os.close(file)
    while (ended := os.wait())[0] != pid:
        pass
    if settings["has_namespaces"]:
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        with suppress(ChildProcessError):
            while True:
                os.wait()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    with suppress(OSError):
        os.write(report, json.dumps([ended[1], usage.ru_utime + usage.ru_stime, usage.ru_maxrss]).encode())
    os._exit(0)


def _choose_user(settings: dict[str, Any], role: str) -> int | None:
    """The tests have a user of their own, so that neither side uses up what the other may."""
    return None if settings["user"] is None else settings["user"] + (role == "judge")


def _kill_others(user: int | None, pid: int) -> None:
    """Without namespaces: ends the program's process group and, if it has a user of its own, all of that user's."""
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    if user is None:
        return
    child = os.fork()
    if child == 0:
        os.setresuid(user, user, user)
        with suppress(OSError):
            os.kill(-1, signal.SIGKILL)
        os._exit(0)
    os.waitpid(child, 0)


def _run(settings: dict[str, Any], role: str, report: int, files: list[int], scratch: str) -> NoReturn:
    try:
        if settings["has_namespaces"]:
            os.setsid()
        for number in range(3, 64):
            if number not in (report, *files):
                with suppress(OSError):
                    os.close(number)
        os.dup2(0, 1)
        os.dup2(0, 2)
        for name, value in settings["limits"].items():
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            limit = value * _get_time_factor(role) if name == "RLIMIT_CPU" else value
            limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(kind, (limit, limit))
        user = _choose_user(settings, role)
        if user is not None:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        syscalls.drop_privileges()
        syscalls.refuse_calls()
        os.chdir(scratch)
        os.environ["HOME"] = os.environ["TMPDIR"] = scratch
        work = socket.socket(fileno=files[0])
        links = [socket.socket(fileno=file) for file in files[1:]] if role != "main" else files[1:]
    except BaseException as error:
        os.write(report, json.dumps(["broken", f"{type(error).__name__}: {error}"]).encode())
        os._exit(1)
    os.close(report)
    try:
        _ROLES[role](work, *links)
    except BaseException:
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Builds the box where that has not been done, and keeps it. The argument is JSON: the settings."""
    settings = json.loads(sys.argv[1])
    if settings["root"] is not None:
        enter_new_root(settings["root"])
    keep(settings)
