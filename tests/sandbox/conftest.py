"""Every isolation that this host has, with limits that keep a test short, also as a user who is not root."""

import contextlib
import itertools
import os
import pickle
import subprocess
import tempfile
from pathlib import Path

import pytest

import codescaler
from codescaler.errors import SandboxUnavailable
from codescaler.sandbox import ISOLATIONS, Limits, Sandbox
from codescaler.sandbox.languages import COMPILE_LIMITS, find_toolchain

from .wrong_programs import LIMITS

# Of programs in other languages: the start of a runtime alone takes half a second on a busy machine.
LANGUAGE_LIMITS = Limits(cpu_seconds=1, wall_seconds=6.0, memory_bytes=512 << 20)
# As long as a gigabyte of memory takes to get on a slow machine, which is what ends a header without end.
SHORT_COMPILE_LIMITS = Limits(cpu_seconds=6, wall_seconds=30.0, memory_bytes=1 << 30, num_processes=64,
                              output_bytes=16 << 20, scratch_bytes=64 << 20)  # fmt: skip
PYTHON = "/usr/bin/python3"  # the system's, since this one may be out of an ordinary user's reach
NOBODY = 65534


def available(isolation):
    try:
        Sandbox(LIMITS, isolation=isolation, num_workers=1).close()
    except SandboxUnavailable:
        return False
    return True


def find_missing(language):
    """Why programs of a language cannot be judged here; empty if they can."""
    try:
        find_toolchain(language)
    except SandboxUnavailable as error:
        return str(error)
    return ""


STRONG = [isolation for isolation in ISOLATIONS[:-1] if available(isolation)]
# "limits" does not isolate from files and network; what it does promise is tested beside the others.
USABLE = [*STRONG, *(["limits"] if available("limits") else [])]


def mark_slow(params, quick):
    """Leaves to `make test-all` what does on one more isolation or for one more user what others do."""
    return [param if param in quick else pytest.param(param, marks=pytest.mark.slow) for param in params]


@pytest.fixture(scope="session", params=mark_slow(USABLE, [USABLE[0], USABLE[-1]]))
def any_sandbox(request):
    with Sandbox(LIMITS, isolation=request.param, num_workers=1) as sandbox:
        yield sandbox


@pytest.fixture(scope="session", params=mark_slow(STRONG, STRONG[:1]))
def sandbox(request):
    with Sandbox(LIMITS, isolation=request.param, num_workers=1) as sandbox:
        yield sandbox


class NobodysSandbox:
    """A sandbox in a process of an ordinary user. `run` is as in `Sandbox`."""

    def __init__(self, folder, isolation, limits=LIMITS, compile_limits=COMPILE_LIMITS):
        subprocess.run(["cp", "-r", Path(codescaler.__file__).parent, folder], check=True)
        Path(folder).chmod(0o755)
        serve = (
            "import pickle, sys\nfrom codescaler.sandbox import Limits, Sandbox\n"
            f"with Sandbox(Limits(**{vars(limits)}), isolation={isolation!r}, num_workers=1, "
            f"compile_limits=Limits(**{vars(compile_limits)})) as sandbox:\n"
            "    while True:\n        try: job = pickle.load(sys.stdin.buffer)\n        except EOFError: break\n"
            "        pickle.dump(sandbox.run(*job), sys.stdout.buffer)\n        sys.stdout.flush()"
        )
        self._process = subprocess.Popen(
            [PYTHON, "-B", "-c", serve], env=os.environ | {"PYTHONPATH": folder}, cwd="/", user=NOBODY,
            group=NOBODY, extra_groups=[], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def run(self, code, tests):
        pickle.dump((code, tests), self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)


USERS = ["me", "nobody"] if os.geteuid() == 0 and Path(PYTHON).exists() else ["me"]
# Each isolation and each user once is quick.
BOXES = mark_slow(list(itertools.product(STRONG, USERS)), list(zip(STRONG, itertools.cycle(USERS))))


@pytest.fixture(scope="session", params=BOXES, ids="-".join)
def anyones_sandbox(request):
    isolation, user = request.param
    if user == "me":
        with Sandbox(LIMITS, isolation=isolation, num_workers=1) as sandbox:
            yield sandbox
    else:
        with tempfile.TemporaryDirectory() as folder, contextlib.closing(NobodysSandbox(folder, isolation)) as sandbox:
            yield sandbox


@pytest.fixture(scope="session")
def language_sandbox():
    """One for all languages, since each has a trial first. It judges test programs too."""
    with Sandbox(LANGUAGE_LIMITS, num_workers=1, allow_one_process=True) as sandbox:
        yield sandbox


@pytest.fixture(scope="session", params=BOXES, ids="-".join)
def anyones_language_sandbox(request):
    isolation, user = request.param
    limits, compile_limits = LANGUAGE_LIMITS, SHORT_COMPILE_LIMITS
    with contextlib.ExitStack() as stack:
        if user == "me":
            sandbox = Sandbox(limits, isolation=isolation, num_workers=1, compile_limits=compile_limits)
            stack.enter_context(sandbox)
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            sandbox = NobodysSandbox(folder, isolation, limits, compile_limits)
            stack.enter_context(contextlib.closing(sandbox))
        sandbox.user = user
        yield sandbox
