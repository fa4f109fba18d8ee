"""Every isolation that this host has, with limits that keep a test short."""

import pytest

from codescaler.errors import SandboxUnavailable
from codescaler.sandbox import ISOLATIONS, Limits, Sandbox

LIMITS = Limits(cpu_seconds=1, wall_seconds=4.0, memory_bytes=256 << 20)


def available(isolation):
    try:
        Sandbox(LIMITS, isolation=isolation, num_workers=1).close()
    except SandboxUnavailable:
        return False
    return True


# "limits" does not isolate from files and network; what it does promise is tested beside the others.
STRONG = [isolation for isolation in ISOLATIONS[:-1] if available(isolation)]


@pytest.fixture(scope="session", params=[*STRONG, *(["limits"] if available("limits") else [])])
def any_sandbox(request):
    with Sandbox(LIMITS, isolation=request.param, num_workers=1) as sandbox:
        yield sandbox


@pytest.fixture(scope="session", params=STRONG)
def sandbox(request):
    with Sandbox(LIMITS, isolation=request.param, num_workers=1) as sandbox:
        yield sandbox
