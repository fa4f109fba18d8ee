"""The system calls of Linux that the standard library does not offer. Each raises OSError with the call's name."""

import ctypes
import errno
import functools
import os
import platform
import struct
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT = 1, 2, 4, 32
MS_NOSYMFOLLOW, MS_BIND, MS_REC, MS_PRIVATE = 256, 4096, 16384, 1 << 18

_MNT_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR = 442
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 23, 24, 38, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_fork = ctypes.PyDLL(None, use_errno=True).fork  # which keeps the interpreter's lock
for _name in ("unshare", "mount", "prctl", "capset"):
    hasattr(_libc, _name)  # looks it up, once, and not in each process


def _call(name: str, *arguments: Any) -> int:
    result: int = getattr(_libc, name)(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _encode_path(path: str | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


def fork() -> int:
    """Forks a process of one thread that will start others, and runs no program.

    `os.fork` also seeds random numbers and renews the locks of threads, for a fifth of the time of a job.
    """
    pid: int = _fork()
    if pid == -1:
        raise OSError(ctypes.get_errno(), "fork")
    return pid


def unshare(flags: int) -> None:
    """Leaves the namespaces that `flags` name for new ones."""
    _call("unshare", ctypes.c_int(flags))


def mount(source: str | None, target: str, kind: str | None = None, flags: int = 0, options: str | None = None) -> None:
    """Mounts, binds, or changes how a mount propagates."""
    _call(
        "mount",
        _encode_path(source),
        _encode_path(target),
        _encode_path(kind),
        ctypes.c_ulong(flags),
        _encode_path(options),
    )


def detach(target: str) -> None:
    """Takes a mount, and all below it, out of the tree."""
    _call("umount2", _encode_path(target), ctypes.c_int(_MNT_DETACH))


def pivot_root(new_root: str, put_old: str) -> None:
    """Makes a mount the root, and hangs the root there was below it."""
    number = _PIVOT_ROOT.get(platform.machine())
    if number is None:
        raise OSError(f"pivot_root: its number on {platform.machine()} is not known")
    _call("syscall", ctypes.c_long(number), _encode_path(new_root), _encode_path(put_old))


def make_read_only(target: str, *, has_devices: bool = False) -> None:
    """Makes a mount and all below it read-only, and without set-user-id programs. Linux 5.12."""
    wanted = MS_RDONLY | MS_NOSUID | (0 if has_devices else MS_NODEV)  # the MOUNT_ATTR_ bits are the same
    attributes = (ctypes.c_uint64 * 4)(wanted, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    flags = ctypes.c_uint(_AT_RECURSIVE)
    _call("syscall", ctypes.c_long(_MOUNT_SETATTR), _AT_FDCWD, _encode_path(target), flags, attributes, size)


def drop_privileges() -> None:
    """Gives up every capability, and any way to gain one by running a program."""
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _call("capset", header, (ctypes.c_uint32 * 6)())


# What no program needs, and what would outlive it, get past its limits, or open much of the kernel to it: System V
# memory and queues, POSIX queues, keys, ptrace, mounts, namespaces, bpf, userfaultfd, perf, io_uring, files of others.
# By machine: its number in filters, the calls, and the calls that are looked into.
_REFUSED: dict[str, tuple[int, tuple[int, ...], dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        (
            *(*range(29, 32), *range(64, 72), 101, 155, 165, 166, 220, *range(240, 246), 248, 249, 250, 272, 298, 308),
            *(310, 311, 312, 321, 323, *range(425, 434), 435, 438, 440, 442),
        ),
        {"socket": 41, "socketpair": 53, "clone": 56, "sigaction": 13, "prlimit": 302},
    ),
    "aarch64": (
        0xC00000B7,
        (
            *(39, 40, 41, 97, 117, *range(180, 198), 217, 218, 219, 241, 268, 270, 271, 272, 280, 282),
            *(*range(425, 434), 435, 438, 440, 442),
        ),
        {"socket": 198, "socketpair": 199, "clone": 220, "sigaction": 134, "prlimit": 261},
    ),
}
_FAMILIES = (1, 2, 10)  # of sockets that are allowed: UNIX, INET, INET6
_CLONE_NEW = 0x7E020000
_SIGCHLD = 17
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2


def refuse_calls() -> None:
    """Has the kernel refuse some system calls for good, in this process and all that it starts (a seccomp filter)."""
    _call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, make_filter()[0], 0, 0)


@functools.cache
def make_filter() -> tuple[Any, Any]:
    """Returns the filter and its steps, which it points to. The fork server makes it, for all processes."""
    if platform.machine() not in _REFUSED:
        raise OSError(f"seccomp: the system calls of {platform.machine()} are not known here")
    architecture, refused, looked_into = _REFUSED[platform.machine()]
    load, equal, at_least, any_set, give = 0x20, 0x15, 0x35, 0x45, 0x06  # instructions of classic BPF
    number, machine, argument = 0, 4, 16  # where a call's data has its number, the machine, the first argument
    allow, refuse, pretend = ((give, 0, 0, action) for action in (0x7FFF0000, 0x00050000 | errno.ENOSYS, 0x00050000))
    steps = [(load, 0, 0, machine), (equal, 1, 0, architecture), refuse, (load, 0, 0, number)]
    steps += [(at_least, 0, 1, 0x40000000), refuse]  # x86's third set of numbers
    for call in refused:
        steps += [(equal, 0, 1, call), refuse]
    families = [(equal, len(_FAMILIES) - place, 0, family) for place, family in enumerate(_FAMILIES)]
    for name, checks in (
        ("socket", [*families, refuse]),
        ("socketpair", [*families, refuse]),
        ("clone", [(any_set, 0, 1, _CLONE_NEW), refuse]),
        # Of a child whose parent does not care how it ends, nobody would know what time it took.
        ("sigaction", [(equal, 0, 1, _SIGCHLD), pretend]),
        ("prlimit", [(equal, 1, 0, 0), refuse]),  # of another process, which may be the one that counts
    ):
        steps += [(equal, 0, len(checks) + 2, looked_into[name]), (load, 0, 0, argument), *checks, allow]
    steps += [allow]
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in steps))
    filters = struct.pack("<HxxxxxxQ", len(steps), ctypes.addressof(code))
    return ctypes.create_string_buffer(filters), code
