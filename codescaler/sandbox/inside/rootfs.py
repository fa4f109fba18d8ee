"""Makes a new root with nothing in it but what Python needs, and no network, for the process that calls."""

import os
from typing import Any

from codescaler.sandbox.inside import syscalls

SCRATCH = "/scratch"
DEVICES = ("null", "zero", "full", "random", "urandom")

_OLD = "/.old"


def enter_new_root(tree: dict[str, Any]) -> None:
    """Returns in a child process, process 1 of a new namespace, under the new root; this one waits, and ends with it.

    `tree` has `shown`, pairs of what to see, read-only, and where; and `hidden`, folders that are to look empty.
    """
    os.umask(0o022)
    if os.geteuid() != 0:
        user, group = os.geteuid(), os.getegid()
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    syscalls.unshare(
        syscalls.CLONE_NEWNS
        | syscalls.CLONE_NEWNET
        | syscalls.CLONE_NEWIPC
        | syscalls.CLONE_NEWUTS
        | syscalls.CLONE_NEWPID
    )
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("root", "/tmp", "tmpfs", syscalls.MS_NOSUID, "mode=0755,size=1m")
    os.mkdir(f"/tmp{_OLD}")
    syscalls.pivot_root("/tmp", f"/tmp{_OLD}")
    os.chdir("/")
    os.mkdir(SCRATCH)
    for source, target in tree["shown"]:
        _show(f"{_OLD}{source}", target)
    for path in tree["hidden"]:
        syscalls.mount("hidden", path, "tmpfs", syscalls.MS_NOSUID, "mode=0755,size=4k")
        syscalls.make_read_only(path)
    for name in DEVICES:
        _bind(f"{_OLD}/dev/{name}", f"/dev/{name}")
    os.symlink(SCRATCH, "/dev/shm")  # for locks of multiprocessing
    if not os.path.lexists("/tmp"):
        os.symlink(SCRATCH, "/tmp")
    syscalls.detach(_OLD)
    os.rmdir(_OLD)
    syscalls.mount(None, "/", None, syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY | syscalls.MS_NOSUID)
    child = os.fork()
    if child:
        os.close(0)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)


def protect_devices() -> None:
    """Keeps the times and the modes of devices, which are the host's. Programs can still write to them."""
    for name in DEVICES:
        syscalls.make_read_only(f"/dev/{name}", has_devices=True)


def _show(source: str, target: str) -> None:
    _bind(source, target)
    syscalls.make_read_only(target)


def _bind(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT))
    syscalls.mount(source, target, None, syscalls.MS_BIND | syscalls.MS_REC)
