"""Fixtures that several test files share."""

import pytest
import torch

from codescaler.ops import cpu, reference
from codescaler.ops.backend import Backend

KERNELS = {f"cpu-{isa}": cpu.make_backend(isa) for isa in cpu.supported_isas()}
BACKENDS = KERNELS | {"reference": reference.BACKEND}


@pytest.fixture(params=KERNELS.values(), ids=KERNELS)
def kernels(request: pytest.FixtureRequest) -> Backend:
    """The C++ backend on every instruction set that this host has."""
    return request.param


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend, and of the C++ one every instruction set that this host has."""
    return request.param


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Every dtype of activations."""
    return request.param


@pytest.fixture
def random() -> torch.Generator:
    """A generator with a fixed seed."""
    return torch.Generator().manual_seed(0)
