"""Makes a new root with nothing in it but what Python needs, and no network, for the process that calls."""

import os
from typing import Any

from codescaler.sandbox.inside import kernel

SCRATCH = "/scratch"
DEVICES = ("null", "zero", "full", "random", "urandom")

_OLD = "/.old"


def enter(tree: dict[str, Any]) -> None:
    """Returns in a child process, process 1 of a new namespace, under the new root; this one waits, and ends with it.

    `tree` has `shown`, pairs of what to see, read-only, and where; and `hidden`, folders that are to look empty.
    """
    os.umask(0o022)
    if os.geteuid() != 0:
        user, group = os.geteuid(), os.getegid()
        kernel.unshare(kernel.CLONE_NEWUSER)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    kernel.unshare(
        kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWPID
    )
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("root", "/tmp", "tmpfs", kernel.MS_NOSUID, "mode=0755,size=1m")
    os.mkdir(f"/tmp{_OLD}")
    kernel.pivot_root("/tmp", f"/tmp{_OLD}")
    os.chdir("/")
    os.mkdir(SCRATCH)
    for source, target in tree["shown"]:
        _show(f"{_OLD}{source}", target)
    for path in tree["hidden"]:
        kernel.mount("hidden", path, "tmpfs", kernel.MS_NOSUID, "mode=0755,size=4k")
        kernel.make_read_only(path)
    for name in DEVICES:
        _bind(f"{_OLD}/dev/{name}", f"/dev/{name}")
    os.symlink(SCRATCH, "/dev/shm")  # for locks of multiprocessing
    if not os.path.lexists("/tmp"):
        os.symlink(SCRATCH, "/tmp")
    kernel.detach(_OLD)
    os.rmdir(_OLD)
    kernel.mount(None, "/", None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID)
    child = os.fork()
    if child:
        os.close(0)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)


def _show(source: str, target: str) -> None:
    _bind(source, target)
    kernel.make_read_only(target)


def _bind(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT))
    kernel.mount(source, target, None, kernel.MS_BIND | kernel.MS_REC)
