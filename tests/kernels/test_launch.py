"""A launch of ours gives a compiled kernel what Triton would give it. Nothing is launched: a stub is the driver."""

import itertools
from types import SimpleNamespace

import pytest
import torch
import triton
import triton.language as tl
from codescaler.kernels.launch import Kernel, divide_up, round_up_to_power
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.tools.tensor_descriptor import TensorDescriptor

from codescaler.env import is_triton_interpreted

pytestmark = pytest.mark.skipif(is_triton_interpreted(), reason="the interpreter compiles nothing")


class StubDriver:
    """A driver of an H100 that writes down which compiled kernel was launched, on which grid, with which arguments."""

    def __init__(self):
        self.launched = []
        self.loaded = itertools.count()
        self.utils = SimpleNamespace(
            get_device_properties=lambda _: {"multiprocessor_count": 132, "max_shared_mem": 227 * 1024},
            load_binary=lambda *_: (object(), next(self.loaded), 32, 0, 1024),
        )
        self.launcher_cls = lambda source, metadata: self.launch

    def launch(self, x, y, z, stream, function, packed, metadata, enter_hook, exit_hook, *arguments):
        self.launched.append((function, (x, y, z), arguments))

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return self  # kernels are kept by device: none of an earlier stub is found

    def get_current_stream(self, device):
        return 0


@pytest.fixture
def stub():
    """The active driver, while a test runs."""
    before = driver._active
    driver.set_active(StubDriver())
    yield driver.active
    driver._active = before


@Kernel
def scale_kernel(x, y, descriptor, count, factor, BLOCK: tl.constexpr, HAS_DESCRIPTOR: tl.constexpr):
    place = tl.arange(0, BLOCK)
    values = descriptor.load([0, 0]) if HAS_DESCRIPTOR else tl.load(x + place, place < count)[None, :]
    tl.store(y + place[None, :], (values * factor).to(y.dtype.element_ty), (place < count)[None, :])


def list_arguments():
    """Argument lists that differ in all that Triton compiles for, and in what it does not compile for."""
    x, y = torch.zeros(2, 64), torch.zeros(2, 64, dtype=torch.bfloat16)
    counts = (1, 2, 16, 48, 17, 2**31, 2**40)
    for source, target, count in itertools.product((x, x[0, 1:], y), (y, y[0, 1:], x), counts):
        yield source, target, None, count, 0.5
    yield x, y, None, 17, 0.25
    for source, width in ((x, 64), (y, 64), (x, 32)):
        yield source, y, TensorDescriptor.from_tensor(source, [1, width]), 17, 0.5


def launch(kernel, arguments):
    descriptor = arguments[2]
    block = 64 if descriptor is None else descriptor.block_shape[1]
    kernel[(3, 2)](*arguments, BLOCK=block, HAS_DESCRIPTOR=descriptor is not None, enable_fp_fusion=True)


def test_a_launch_finds_the_kernel_that_triton_compiled_for_its_arguments(stub):
    cases = list(list_arguments())
    for arguments in cases * 2:
        launch(scale_kernel, arguments)
    ours = stub.launched[len(cases) :]
    stub.launched.clear()
    for arguments in cases:
        launch(scale_kernel._function, arguments)
    assert [function for function, *_ in ours] == [function for function, *_ in stub.launched]
    assert len({function for function, *_ in ours}) > len(cases) / 2


def test_a_launch_passes_addresses_on_the_same_grid(stub):
    x, y = torch.zeros(64), torch.zeros(64)
    for _ in range(2):
        launch(scale_kernel, (x, y, None, 17, 0.5))
    (by_triton, grid, first), (ours, again, second) = stub.launched
    assert (by_triton, grid) == (ours, again) and grid == (3, 2, 1)
    assert second[:5] == (x.data_ptr(), y.data_ptr(), None, 17, 0.5)
    assert len(first) == len(second)


@pytest.mark.parametrize("count", [1, 2, 3, 63, 64, 65, 2880])
def test_sizes_are_tritons(count):
    assert round_up_to_power(count) == triton.next_power_of_2(count)
    assert divide_up(count, 64) == triton.cdiv(count, 64)
