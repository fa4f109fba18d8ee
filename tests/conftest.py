"""Fixtures that several test files share."""

import contextlib
from collections.abc import Iterator

import pytest
import torch

from codescaler.env import is_triton_interpreted
from codescaler.ops import cpu, reference, select_backend
from codescaler.ops.backend import Backend
from codescaler.testing.interpreter import prepare_interpreter

collect_ignore = ["clients"]  # they run in environments of their own: make test-clients

CUDA = "triton-cuda"
REFERENCE = "reference"

if is_triton_interpreted():  # `make test-triton`
    # float16 stands in for bfloat16, which the interpreter computes wrongly.
    BACKENDS = {"triton": select_backend("triton", "cpu")}
    DETERMINISTIC = {"triton-deterministic": select_backend("triton", "cpu", deterministic=True)}
    DTYPES = {"float32": torch.float32, "float16": torch.float16}
else:
    BACKENDS = {f"cpu-{isa}": cpu.make_backend(isa) for isa in cpu.list_supported_isas()} | {
        REFERENCE: reference.BACKEND
    }
    DETERMINISTIC = {}
    if torch.cuda.is_available():
        BACKENDS[CUDA] = select_backend("triton", "cuda")
        DETERMINISTIC[f"{CUDA}-deterministic"] = select_backend("triton", "cuda", deterministic=True)
    DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# What `make test` runs the last case of, in each test: instruction sets between the best one, which serves, and the
# generic one, which every host has; in the interpreter float16, which is float32 with other loads and stores.
ONE_CASE = {str(torch.float16)}
if not is_triton_interpreted():
    ONE_CASE = {name for isa in cpu.list_supported_isas()[1:-1] for name in (isa, f"cpu-{isa}")}
VARIANTS = ("backend", "kernels", "linear_backend", "isa", "dtype")  # parameters that name them

NAMES = list(BACKENDS)
if not is_triton_interpreted() and CUDA not in BACKENDS:
    NAMES.append(pytest.param(CUDA, marks=pytest.mark.skip(reason="needs a GPU that torch sees: make gpu")))


@pytest.hookimpl(tryfirst=True)  # before -m "not slow" looks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves to `make test-all` all but one case of each test on what `ONE_CASE` names.

    The case that is left shows that the variant is reached, and is right. `make test-asan` holds every C++ kernel of
    every instruction set against plain loops.
    """
    seen = set()
    for item in reversed(items):  # a test's last case is seldom its smallest
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        variant = [str(parameters.get(name)) for name in VARIANTS]
        if ONE_CASE.isdisjoint(variant) or item.get_closest_marker("slow"):
            continue
        case = (item.path, item.originalname, *variant)
        if case in seen:
            item.add_marker(pytest.mark.slow)
        seen.add(case)


@pytest.fixture(params=[name for name in NAMES if name != REFERENCE])
def kernels(request: pytest.FixtureRequest) -> Backend:
    """The backends of our own kernels: C++ on every instruction set that this host has, and Triton on a GPU.

    Under Triton's interpreter, Triton on the CPU alone.
    """
    return BACKENDS[request.param]


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend: those of `kernels`, and the reference."""
    return BACKENDS[request.param]


@pytest.fixture(params=[*NAMES, *DETERMINISTIC])
def linear_backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend, and Triton with deterministic linear layers."""
    return (BACKENDS | DETERMINISTIC)[request.param]


@pytest.fixture(params=DTYPES.values(), ids=DTYPES)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Every dtype of activations."""
    return request.param


@pytest.fixture(autouse=True)
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device of the backend under test, on which every tensor is made that a test makes."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    is_on_gpu = any(str(parameters.get(name)).startswith(CUDA) for name in ("backend", "kernels", "linear_backend"))
    device = torch.device("cuda" if is_on_gpu else "cpu")
    with device if is_on_gpu else contextlib.nullcontext():
        yield device


@pytest.fixture
def random(device: torch.device) -> torch.Generator:
    """A generator with a fixed seed."""
    return torch.Generator(device).manual_seed(0)


def pytest_configure(config: pytest.Config) -> None:
    """Lets the interpreter's numpy do in silence what a GPU does in silence."""
    if is_triton_interpreted():
        prepare_interpreter()
        config.addinivalue_line("filterwarnings", "ignore::RuntimeWarning:triton")
        config.addinivalue_line("filterwarnings", "ignore:.*(encountered|All-NaN).*:RuntimeWarning")
