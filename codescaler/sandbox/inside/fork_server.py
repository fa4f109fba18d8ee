"""The fork server of a box: starts one process a job, alone in namespaces of its own, and reports how it ended.

    host -> fork server: a role, with the job's sockets and files.   fork server -> watcher: a fork, one a job
    watcher -> reaper: a fork, process 1 of a new process namespace (see `reaper`)
    watcher -> host: how the program ended, when everything that it started is gone

The fork server never reads a job, so that no job finds an earlier one in memory that it inherits. The watcher keeps the
time from outside. It never kills the reaper before the reaper has said how the program ended.
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
import time
from contextlib import suppress
from typing import Any, NoReturn

from codescaler.sandbox.inside import syscalls
from codescaler.sandbox.inside.reaper import choose_user, get_limits, get_time_factor, reap
from codescaler.sandbox.inside.rootfs import SCRATCH, enter_new_root, protect_devices
from codescaler.sandbox.inside.wire import ConnectionLost, send

builtins.exit, builtins.quit = (_sitebuiltins.Quitter(name, "Ctrl-D") for name in ("exit", "quit"))  # as a script has
for _name in ("bisect", "collections", "copy", "datetime", "fractions", "functools", "heapq", "itertools", "math",
              "random", "re", "statistics", "string", "typing"):  # fmt: skip
    __import__(_name)
if hasattr(sys, "set_int_max_str_digits"):
    sys.set_int_max_str_digits(0)  # limits on time hold for long numbers too

_MAX_FILES = 8
_LOAD = 1
_MAX_STRETCH = 8  # of wall time, on a busy machine
_LOOK_SECONDS = 0.5  # between two looks at how busy it is
_REAP_SECONDS = 10.0  # for a reaper to end a program; it takes less than a millisecond on an idle machine


def keep(settings: dict[str, Any]) -> None:
    """Starts jobs until the host closes the connection, which is its standard input."""
    control = socket.socket(fileno=0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control.send(b"ready")
    while True:
        data, files, _, _ = socket.recv_fds(control, 16, _MAX_FILES)
        if not data:
            os._exit(0)  # with the box's process 1, everything in it ends
        if data == b"share":
            control.send(b"shared" if _share_scratch(settings) else b"refused")
            continue
        if data == b"unshare":
            settings["shares_scratch"] = False
            syscalls.detach(SCRATCH)
            continue
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if syscalls.fork() == 0:
            _watch(settings, data.decode(), files)
        for file in files:
            os.close(file)


def _share_scratch(settings: dict[str, Any]) -> bool:
    """Gives the next processes one scratch folder, where the kernel can refuse to follow links in it."""
    with suppress(OSError):
        if settings["has_namespaces"]:
            # Each side may remove what the other one wrote.
            _mount_scratch(get_limits(settings, "program"), syscalls.MS_NOSYMFOLLOW, "0777")
            settings["shares_scratch"] = True
    return bool(settings.get("shares_scratch"))


def _mount_scratch(limits: dict[str, Any], flags: int, mode: str) -> None:
    flags |= syscalls.MS_NOSUID | syscalls.MS_NODEV
    options = f"size={limits['scratch_bytes']},nr_inodes=1024,mode={mode}"
    syscalls.mount("scratch", SCRATCH, "tmpfs", flags, options)


def _watch(settings: dict[str, Any], role: str, files: list[int]) -> NoReturn:
    status = socket.socket(fileno=files[0])
    report, report_inside = os.pipe()
    stop_inside, stop = os.pipe()  # the reaper ends the program when this side closes, whoever ends the watcher
    scratch, limits = None, get_limits(settings, role)
    try:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)  # the fork server's connection
        os.close(null)
        if settings["has_namespaces"]:
            syscalls.unshare(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC)
            if not settings.get("shares_scratch"):
                _mount_scratch(limits, 0, "1777")
        else:
            scratch = tempfile.mkdtemp(prefix="codescaler-")
            os.chmod(scratch, 0o1777)
        pid = syscalls.fork()
        if pid == 0:
            for file in (report, stop, files[0]):
                os.close(file)
            status.detach()
            reap(settings, role, files[1:], scratch or SCRATCH, report_inside, stop_inside)
        for file in (report_inside, stop_inside, *files[1:]):
            os.close(file)
        ended = os.pidfd_open(pid)
        seconds = limits["wall_seconds"] * get_time_factor(role)
        is_in_time = _await_any([status.fileno(), ended], seconds)
        os.close(stop)  # it is too late, or the host wants the end, or the end has come
        if not select.select([ended], [], [], _REAP_SECONDS)[0]:
            os.kill(pid, signal.SIGKILL)
        _, _, usage = os.wait4(pid, 0)
        if not settings["has_namespaces"]:
            _kill_others(choose_user(settings, role), pid)
        send(status, _report(os.read(report, 4096), usage, is_in_time))
    except BaseException as error:
        with suppress(ConnectionLost):
            send(status, ["broken", f"{type(error).__name__}: {error}"])
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)
        os._exit(0)


def _await_any(files: list[int], seconds: float) -> bool:
    """Waits until there is something to read, but not for longer than these seconds of a machine that is idle."""
    while seconds > 0:
        start = time.monotonic()
        if select.select(files, [], [], min(max(seconds, 0.01), _LOOK_SECONDS))[0]:
            return True
        seconds -= (time.monotonic() - start) * _estimate_share()
    return False


def _estimate_share() -> float:
    """The share of a processor that a process gets now, by how many want one (standard output is /proc/loadavg)."""
    running = os.pread(_LOAD, 100, 0).split()[3].partition(b"/")[0]
    return min(1.0, max((os.cpu_count() or 1) / max(int(running), 1), 1 / _MAX_STRETCH))


def _report(said: bytes, usage: resource.struct_rusage, is_in_time: bool) -> list[Any]:
    """What the reaper said of the program. A program that kept the reaper from it may have taken any time."""
    if not said:
        return [int(signal.SIGKILL), usage.ru_utime + usage.ru_stime, usage.ru_maxrss, "uncounted"]
    status, was_stopped, cpu_seconds, max_kilobytes = json.loads(said.splitlines()[0])
    if status == "broken":
        raise OSError(was_stopped)
    how = "by itself" if not was_stopped else "stopped" if is_in_time else "late"
    return [status, cpu_seconds, max_kilobytes, how]


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


def main() -> None:
    """Builds the box where that has not been done, and keeps it. The argument is JSON: the settings."""
    settings = json.loads(sys.argv[1])
    if settings["root"] is not None:
        enter_new_root(settings["root"])
    if settings["has_namespaces"]:
        protect_devices()
    syscalls.make_filter()
    keep(settings)
