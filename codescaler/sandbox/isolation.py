"""How far this host can isolate a program, and the command that starts a box which does."""

import functools
import json
import os
import shutil
import site
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from codescaler.errors import InvalidInput
from codescaler.sandbox.inside.rootfs import DEVICES, SCRATCH

Isolation = Literal["bubblewrap", "namespaces", "limits"]
ISOLATIONS: tuple[Isolation, ...] = get_args(Isolation)  # the strongest first

DESCRIPTIONS: dict[Isolation, str] = {
    "bubblewrap": "bubblewrap: own file system, network, processes and IPC; unprivileged; limits",
    "namespaces": "Linux namespaces: own file system, network, processes and IPC; unprivileged; limits",
    "limits": "limits alone: programs see files, processes and the network as the user does",
}

_START = """
import sys, types
sys.path.remove("")
for name in ("codescaler", "codescaler.sandbox"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["codescaler.sandbox"].__path__ = [{folder!r}]
sys.path += {packages!r}
from codescaler.sandbox.inside.fork_server import main
main()
"""
_CODE_INSIDE = "/box"  # where bubblewrap shows this package's folder

# Capabilities that the fork server needs for each job's namespaces and user; a job has none.
_CAPABILITIES = ("CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL")


@dataclass(frozen=True)
class View:
    """What a box shows of the host beside the interpreter: the packages installed beside it, and other paths."""

    has_site_packages: bool = False
    shown: tuple[str, ...] = ()


def make_command(isolation: Isolation, settings: dict[str, Any], view: View) -> list[str]:
    """Returns what starts a box's fork server; its standard input has to be the host's connection."""
    tree = _plan_tree(view)
    packages = _list_site_packages() if view.has_site_packages else []
    folder = str(Path(__file__).parent)
    if isolation == "bubblewrap":
        settings, folder = settings | {"root": None}, _CODE_INSIDE
    else:
        settings = settings | {"root": tree if isolation == "namespaces" else None}
    settings["has_namespaces"] = isolation != "limits"
    start = _START.format(folder=folder, packages=packages)
    python = [str(_locate_interpreter()), "-s", "-S", "-B", "-c", start, json.dumps(settings)]
    return [*_make_bubblewrap_command(tree), *python] if isolation == "bubblewrap" else python


def _make_bubblewrap_command(tree: dict[str, Any]) -> list[str]:
    shown = [*tree["shown"], (str(Path(__file__).parent), _CODE_INSIDE)]
    words = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
        "--new-session",
        "--as-pid-1",
    ]
    if os.geteuid() != 0:
        words.append("--unshare-user")
    for capability in _CAPABILITIES:
        words += ["--cap-add", capability]
    for _, target in shown:  # by itself, bwrap makes folders as private as those above the source
        for folder in reversed(Path(target).parents[:-1]):
            words += ["--dir", str(folder)]
    for source, target in shown:
        words += ["--ro-bind", source, target]
    for path in tree["hidden"]:
        words += ["--tmpfs", path, "--remount-ro", path]
    words += ["--dir", "/dev", "--symlink", SCRATCH, "/dev/shm"]  # shm: for locks of multiprocessing
    for name in DEVICES:
        words += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    words += ["--dir", SCRATCH]
    if not any(target.startswith("/tmp/") for _, target in tree["shown"]):
        words += ["--symlink", SCRATCH, "/tmp"]
    return [*words, "--remount-ro", "/", "--chdir", "/", "--"]


@functools.cache
def _locate_interpreter() -> Path:
    """The interpreter outside any virtual environment."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable)


def _list_site_packages() -> list[str]:
    return [*dict.fromkeys(sysconfig.get_paths()[key] for key in ("purelib", "platlib"))]


@functools.cache
def _plan_tree(view: View) -> dict[str, list[Any]]:
    """What a program sees of the file system: the interpreter, the libraries of the system, and a view."""
    wanted = [str(Path(prefix, "lib")) for prefix in (sys.base_prefix, sys.base_exec_prefix)] + [
        str(_locate_interpreter())
    ]
    wanted += ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache"]
    wanted += [*view.shown, *(_list_site_packages() if view.has_site_packages else [])]
    shown: list[tuple[str, str]] = []
    for path in sorted({path for path in wanted if Path(path).exists()}, key=len):
        if not any(Path(path).is_relative_to(target) for _, target in shown):
            shown.append((str(Path(path).resolve()), path))
    # Packages may hold data sets, and with them the answers that a program is to find by itself.
    folders = {*site.getsitepackages([sys.base_prefix]), "/usr/lib/python3/dist-packages", *_list_installed_beside()}
    kept = _list_site_packages() if view.has_site_packages else []
    hidden = [path for path in sorted(folders) if Path(path).is_dir() and path not in kept]
    return {
        "shown": shown,
        "hidden": [path for path in hidden if any(Path(path).is_relative_to(target) for _, target in shown)],
    }


def _list_installed_beside() -> list[str]:
    return [str(path) for path in Path(sys.base_prefix, "lib").glob("python3*/site-packages")]


def explain_missing(isolation: Isolation) -> str | None:
    """Why an isolation cannot be had here, as far as can be told without starting a box; None if it may be."""
    if isolation != "limits" and not sys.platform.startswith("linux"):
        return "needs Linux"
    if isolation == "bubblewrap" and shutil.which("bwrap") is None:
        return "bwrap is not installed (Debian's and Fedora's package: bubblewrap)"
    return None


def check_isolation(isolation: str) -> Isolation:
    """Returns a name of an isolation after a check."""
    for known in ISOLATIONS:
        if isolation == known:
            return known
    raise InvalidInput(f"isolation {isolation!r} is not known; use one of {', '.join(ISOLATIONS)}")
