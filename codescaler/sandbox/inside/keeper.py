"""The keeper of a box: starts one process a job, alone in namespaces of its own, and reports how it ended.

    host -> keeper: a role, with the job's sockets and files.   keeper -> watcher: a fork, one a job
    watcher -> program: a fork, process 1 of its process namespace, without any privilege
    watcher -> host: how the program ended, when everything that it started is gone

The keeper never reads a job, so that no job finds an earlier one in memory that it inherits. The kernel kills what is
in a process namespace when its process 1 ends. The watcher is outside, so that the program cannot reach it.
"""

import _sitebuiltins
import array
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

from codescaler.sandbox.inside import kernel
from codescaler.sandbox.inside.codec import ConnectionLost, send
from codescaler.sandbox.inside.judge import judge
from codescaler.sandbox.inside.program import run_main, serve_calls
from codescaler.sandbox.inside.replay import replay
from codescaler.sandbox.inside.root import SCRATCH, enter

builtins.exit, builtins.quit = (_sitebuiltins.Quitter(name, "Ctrl-D") for name in ("exit", "quit"))  # as a script has
for _name in ("bisect", "collections", "copy", "functools", "heapq", "itertools", "math", "random", "re", "string"):
    __import__(_name)

_MAX_FILES = 8

_ROLES: dict[str, Callable[..., None]] = {"program": serve_calls, "judge": judge, "main": run_main, "replay": replay}


def keep(settings: dict[str, Any]) -> None:
    """Starts jobs until the host closes the connection, which is its standard input."""
    control = socket.socket(fileno=0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control.send(b"ready")
    while True:
        data, ancillary, _, _ = control.recvmsg(16, socket.CMSG_SPACE(_MAX_FILES * 4))
        files = array.array("i")
        for _, _, content in ancillary:
            files.frombytes(content[: len(content) // 4 * 4])
        if not data:
            os._exit(0)  # with the box's process 1, everything in it ends
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            _watch(settings, data.decode(), list(files))
        for file in files:
            os.close(file)


def _watch(settings: dict[str, Any], role: str, files: list[int]) -> NoReturn:
    status = socket.socket(fileno=files[0])
    scratch = None
    try:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)  # the keeper's connection
        os.close(null)
        if settings["has_namespaces"]:
            kernel.unshare(kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC)
            size = f"size={settings['scratch_bytes']},nr_inodes=1024,mode=1777"
            kernel.mount("scratch", SCRATCH, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, size)
        else:
            scratch = tempfile.mkdtemp(prefix="codescaler-")
            os.chmod(scratch, 0o1777)
        pid = os.fork()
        if pid == 0:
            _run(settings, role, status, files[1:], scratch or SCRATCH)
        for file in files[1:]:
            os.close(file)
        program = os.pidfd_open(pid)
        ready, _, _ = select.select([status.fileno(), program], [], [], settings["wall_seconds"])
        if program not in ready:  # too late; or the host wants the end, by closing the connection or otherwise
            os.kill(pid, signal.SIGKILL)
        _, ended, usage = os.wait4(pid, 0)
        if not settings["has_namespaces"]:
            _kill_others(settings, pid)
        send(status, [ended, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, not ready])
    except BaseException as error:
        with suppress(ConnectionLost):
            send(status, ["broken", f"{type(error).__name__}: {error}"])
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)
        os._exit(0)


def _kill_others(settings: dict[str, Any], pid: int) -> None:
    """Without namespaces: ends the program's process group and, if it has a user of its own, all of that user's."""
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    if settings["user"] is not None and (child := os.fork()) == 0:
        os.setresuid(settings["user"], settings["user"], settings["user"])
        with suppress(OSError):
            os.kill(-1, signal.SIGKILL)
        os._exit(0)
    elif settings["user"] is not None:
        os.waitpid(child, 0)


def _run(settings: dict[str, Any], role: str, status: socket.socket, files: list[int], scratch: str) -> NoReturn:
    try:
        os.setsid()
        for number in range(3, 64):
            if number not in (status.fileno(), *files):
                with suppress(OSError):
                    os.close(number)
        os.dup2(0, 1)
        os.dup2(0, 2)
        for name, value in settings["limits"].items():
            resource.setrlimit(getattr(resource, name), (value, value))
        if settings["user"] is not None:
            user = settings["user"] + (role == "judge")  # so that neither uses up what the other may
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        kernel.drop_privileges()
        os.chdir(scratch)
        os.environ["HOME"] = os.environ["TMPDIR"] = scratch
        work = socket.socket(fileno=files[0])
        links = [socket.socket(fileno=file) for file in files[1:]] if role != "main" else files[1:]
    except BaseException as error:
        send(status, ["broken", f"{type(error).__name__}: {error}"])
        os._exit(1)
    status.close()
    try:
        _ROLES[role](work, *links)
    except BaseException:
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Builds the box where that has not been done, and keeps it. The argument is JSON: the settings."""
    settings = json.loads(sys.argv[1])
    if settings["root"] is not None:
        enter(settings["root"])
    keep(settings)
