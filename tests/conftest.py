"""Fixtures that several test files share."""

import numpy as np
import pytest
import torch

from codescaler.env import is_triton_interpreted
from codescaler.ops import cpu, reference, select_backend
from codescaler.ops.backend import Backend

if is_triton_interpreted():  # `make test-triton`
    # float16 stands in for bfloat16, which the interpreter computes wrongly.
    KERNELS = BACKENDS = {"triton": select_backend("triton", "cpu")}
    DTYPES = {"float32": torch.float32, "float16": torch.float16}
else:
    KERNELS = {f"cpu-{isa}": cpu.make_backend(isa) for isa in cpu.supported_isas()}
    BACKENDS = KERNELS | {"reference": reference.BACKEND}
    DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture(params=KERNELS.values(), ids=KERNELS)
def kernels(request: pytest.FixtureRequest) -> Backend:
    """The C++ backend on every instruction set that this host has; under its interpreter, Triton's."""
    return request.param


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend, and of the C++ one every instruction set that this host has; under its interpreter, Triton's."""
    return request.param


@pytest.fixture(params=DTYPES.values(), ids=DTYPES)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Every dtype of activations."""
    return request.param


@pytest.fixture
def random() -> torch.Generator:
    """A generator with a fixed seed."""
    return torch.Generator().manual_seed(0)


def pytest_configure(config: pytest.Config) -> None:
    """Lets the interpreter's numpy do in silence what a GPU does in silence, and multiply without BLAS.

    BLAS adds up a row of a product in an order that depends on the row's place, which tensor cores do not.
    """
    if is_triton_interpreted():
        from triton.runtime import interpreter

        def multiply(self, a, b, d, *precision):
            product = np.einsum("ij,jk->ik", a.data.astype(np.float32), b.data.astype(np.float32))
            return interpreter.TensorHandle(product + d.data, d.dtype.scalar)

        interpreter.InterpreterBuilder.create_dot = multiply
        config.addinivalue_line("filterwarnings", "ignore::RuntimeWarning:triton")
        config.addinivalue_line("filterwarnings", "ignore:.*(encountered|All-NaN).*:RuntimeWarning")
